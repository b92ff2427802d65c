"""Dynamic quantization: weights become integer at conversion, and inputs at each call. Nothing is calibrated.

Drop-in for the dynamic functions of ``torch.ao.quantization.quantize_jit``, with what is new keyword-only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from jitquant.checks import check_debug, check_pass_name, check_prepared, check_script_module
from jitquant.conversion import convert, passes_for
from jitquant.errors import QuantizationError
from jitquant.pipeline import BEFORE_OBSERVING, OBSERVE
from jitquant.preparation import Preparation, QConfigDict, quantize

PASSES = BEFORE_OBSERVING + OBSERVE


def prepare_dynamic_jit(
    model: torch.jit.ScriptModule,
    qconfig_dict: QConfigDict,
    inplace: bool = False,
    *,
    target: str = "quantized",
    methods: Sequence[str] = ("forward",),
    preserved_attrs: Sequence[str] = (),
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Makes the model canonical and marks what becomes dynamic; convert what it returns, without calibration.

    Args:
        qconfig_dict: as for ``prepare_jit``, with dynamic qconfigs: ``default_dynamic_qconfig``,
            ``per_channel_dynamic_qconfig``, ``bfloat16_dynamic_qconfig``, ``float16_dynamic_qconfig``,
            ``weight_only_int8_qconfig``, for embeddings ``float_qparams_weight_only_qconfig`` and
            ``float_qparams_weight_only_qconfig_4bit``, or torch.ao's of these names.
        model, inplace, target, methods, preserved_attrs, print_graphs, stop_after: as for ``prepare_jit``.

    Raises:
        QuantizationError: as ``prepare_jit`` does, and for a qconfig that is not dynamic.
    """
    preparation = Preparation(
        "prepare_dynamic_jit",
        dynamic=True,
        before=BEFORE_OBSERVING,
        observing=OBSERVE,
        facts={"dynamic": True},
    )
    return preparation.run(
        model,
        qconfig_dict,
        inplace,
        target=target,
        methods=methods,
        preserved_attrs=preserved_attrs,
        print_graphs=print_graphs,
        stop_after=stop_after,
    )


def convert_dynamic_jit(
    model: torch.jit.ScriptModule,
    inplace: bool = False,
    debug: bool | str = False,
    preserved_attrs: Sequence[str] | None = None,
    *,
    target: str | None = None,
    strict: bool | Sequence[str] = False,
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Turns what ``prepare_dynamic_jit`` returned into a model with dynamic integer ops.

    Args:
        model: what ``prepare_dynamic_jit`` returned.
        inplace, debug, preserved_attrs, target, strict, print_graphs, stop_after: as for ``convert_jit``.

    Raises:
        QuantizationError: as ``convert_jit`` does, and for a model that was prepared for calibration.
    """
    caller = "convert_dynamic_jit"
    check_script_module(model, caller)
    if not check_prepared(model, caller).get("dynamic"):
        raise QuantizationError(
            f"{caller}: the model was prepared by prepare_jit; convert it with convert_jit, or start again "
            "from the float model with prepare_dynamic_jit"
        )
    return convert(
        caller,
        model,
        inplace,
        debug,
        preserved_attrs,
        target=target,
        strict=strict,
        print_graphs=print_graphs,
        stop_after=stop_after,
    )


def quantize_dynamic_jit(
    model: torch.jit.ScriptModule,
    qconfig_dict: QConfigDict,
    inplace: bool = False,
    debug: bool | str = False,
    *,
    target: str = "quantized",
    methods: Sequence[str] = ("forward",),
    strict: bool | Sequence[str] = False,
    preserved_attrs: Sequence[str] = (),
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Quantizes without calibration: float tensors in and out, and within what each op's qconfig says.

    With the int8 qconfigs and in half precision linears, recurrent layers and cells; with the others linears
    alone; embeddings with qconfigs of their own; convolutions with int8 qconfigs that name them. Linears take
    any leading dimensions (on the default target, and in half precision, at least one); LSTMs and GRUs take
    batches, single sequences and packed ones.

    With ``debug=True`` a recurrent layer is the float op on quantized weights and a quantized input. The
    integer op also rounds the hidden state of each step and what goes from layer to layer: its numbers are
    near, but not equal.

    Args:
        model, qconfig_dict, inplace, debug, target, methods, strict, preserved_attrs, print_graphs,
            stop_after: as for ``prepare_dynamic_jit`` and ``convert_dynamic_jit``.

    Raises:
        QuantizationError: as those two do. With ``inplace=True`` the model is changed only if all went well.
    """
    caller = "quantize_dynamic_jit"
    check_script_module(model, caller)
    check_debug(debug, caller)
    check_pass_name(stop_after, PASSES + passes_for(debug), caller)
    return quantize(
        model,
        inplace,
        stop_after,
        PASSES,
        prepare=partial(
            prepare_dynamic_jit,
            qconfig_dict=qconfig_dict,
            target=target,
            methods=methods,
            preserved_attrs=preserved_attrs,
            print_graphs=print_graphs,
        ),
        calibrate=lambda prepared: None,
        convert=partial(
            convert_dynamic_jit,
            debug=debug,
            strict=strict,
            preserved_attrs=preserved_attrs,
            print_graphs=print_graphs,
        ),
    )
