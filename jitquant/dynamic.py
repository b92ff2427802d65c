"""Dynamic quantization: weights become integer at conversion, and inputs at each call. Nothing is calibrated.

Drop-in for the dynamic functions of ``torch.ao.quantization.quantize_jit``, with what is new keyword-only.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jitquant.api import QConfigDict, _hand_over, _working_copy, convert_jit
from jitquant.checks import (
    check_attributes,
    check_evaluation_mode,
    check_methods,
    check_not_prepared,
    check_pass_name,
    check_prepared,
    check_qconfig_dict,
    check_script_module,
    check_target,
)
from jitquant.errors import QuantizationError
from jitquant.info import write_info
from jitquant.pipeline import (
    BEFORE_OBSERVING,
    CONVERT_PASSES,
    OBSERVE,
    QUANTIZE,
    PassOptions,
    Record,
    run_passes,
)
from jitquant.qconfig import check_kinds
from jitquant.qconfig_mapping import QConfigMapping
from jitquant.quantizer import OpNode, choose_qconfigs, compile_observers, describe_choice
from jitquant.statistics import observers_of
from jitquant.summary import write_report
from jitquant.version import __version__

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
            ``weight_only_int8_qconfig``, or torch.ao's of these names.
        model, inplace, target, methods, preserved_attrs, print_graphs, stop_after: as for ``prepare_jit``.

    Raises:
        QuantizationError: as ``prepare_jit`` does, and for a qconfig that is not dynamic.
    """
    caller = "prepare_dynamic_jit"
    check_script_module(model, caller)
    check_target(target, caller)
    check_not_prepared(model, caller)
    check_evaluation_mode(model, caller)
    check_pass_name(stop_after, PASSES, caller)
    check_attributes(model, preserved_attrs, caller)
    check_methods(model, methods, caller)
    quantizer = check_qconfig_dict(qconfig_dict, model, caller)

    work = _working_copy(model, inplace)
    records: list[Record] = []
    run: dict[str, Any] = {
        "methods": methods,
        "records": records,
        "title": "prepare",
        "print_graphs": print_graphs,
        "stop_after": stop_after,
    }
    options = PassOptions(target=target, preserved_attrs=preserved_attrs)
    chosen: dict[OpNode, Any] = {}
    if not run_passes(BEFORE_OBSERVING, work, options, **run):
        chosen = choose_qconfigs(quantizer, work, methods)
        check_kinds(chosen, True, caller)
        observers = compile_observers(chosen)
        observing = PassOptions(target=target, preserved_attrs=preserved_attrs, observers=observers)
        run_passes(OBSERVE, work, observing, **run)
    if stop_after is None and not observers_of(work):
        warnings.warn(
            f"{caller}: no op of the model has a dynamic form under this qconfig_dict", stacklevel=2
        )
    words = quantizer.describe() if isinstance(quantizer, QConfigMapping) else describe_choice(chosen)
    write_info(
        work,
        {
            "jitquant": __version__,
            "torch": torch.__version__,
            "stage": "prepared",
            "target": target,
            "dynamic": True,
            "methods": list(methods),
            "qconfig": words,
            "reduce_range": _are_reduced(work),
        },
    )
    write_report(work, records)
    return _hand_over(model, work, inplace)


def convert_dynamic_jit(
    model: torch.jit.ScriptModule,
    inplace: bool = False,
    debug: bool = False,
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
    return convert_jit(
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
    debug: bool = False,
    *,
    target: str = "quantized",
    methods: Sequence[str] = ("forward",),
    strict: bool | Sequence[str] = False,
    preserved_attrs: Sequence[str] = (),
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Quantizes linears dynamically: float tensors in and out, of any leading dimensions, 8 bits within.

    Args:
        model, qconfig_dict, inplace, debug, target, methods, strict, preserved_attrs, print_graphs,
            stop_after: as for ``prepare_dynamic_jit`` and ``convert_dynamic_jit``.

    Raises:
        QuantizationError: as those two do. With ``inplace=True`` the model is changed only if all went well.
    """
    caller = "quantize_dynamic_jit"
    check_script_module(model, caller)
    check_pass_name(stop_after, PASSES + (QUANTIZE if debug else CONVERT_PASSES), caller)
    stop_early = stop_after if stop_after in PASSES else None
    work = prepare_dynamic_jit(
        model,
        qconfig_dict,
        target=target,
        methods=methods,
        preserved_attrs=preserved_attrs,
        print_graphs=print_graphs,
        stop_after=stop_early,
    )
    if stop_early is None:
        convert_dynamic_jit(
            work,
            inplace=True,
            debug=debug,
            strict=strict,
            preserved_attrs=preserved_attrs,
            print_graphs=print_graphs,
            stop_after=stop_after,
        )
    return _hand_over(model, work, inplace)


def _are_reduced(work: torch.jit.ScriptModule) -> bool:
    """Whether no product of 8-bit integers needs more than 15 bits; half precision has none."""
    observers: Mapping[str, Any] = observers_of(work)
    ends = [
        observer.getattr("quant_max")
        for observer in observers.values()
        if observer.hasattr("is_dynamic") and observer.getattr("is_dynamic") and observer.hasattr("quant_max")
    ]
    return all(end is None or end <= 127 for end in ends)
