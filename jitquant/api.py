"""What a user calls: drop-in for ``torch.ao.quantization.quantize_jit``, with what is new keyword-only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from jitquant import _C, cpu, native
from jitquant.check import most_depthwise_groups
from jitquant.checks import (
    check_attributes,
    check_evaluation_mode,
    check_methods,
    check_not_prepared,
    check_pass_name,
    check_prepared,
    check_qconfig_dict,
    check_run_fn,
    check_script_module,
    check_target,
)
from jitquant.info import write_info
from jitquant.pipeline import (
    BEFORE_OBSERVING,
    CONVERT_PASSES,
    FUSE_PASSES,
    OBSERVE,
    PREPARE_PASSES,
    QUANTIZE,
    PassOptions,
    Record,
    run_passes,
)
from jitquant.presets import choose_methods
from jitquant.qconfig import QConfig, check_kinds
from jitquant.qconfig_mapping import QConfigMapping
from jitquant.quantizer import OpNode, Quantizer, choose_qconfigs, compile_observers, describe_choice
from jitquant.statistics import merge_ranks, observers_of
from jitquant.summary import check_strict, read_report, write_report
from jitquant.version import __version__

QConfigDict = Mapping[str, Any] | QConfigMapping | Quantizer


def fuse_conv_bn_jit(model: torch.jit.ScriptModule, inplace: bool = False) -> torch.jit.ScriptModule:
    """Folds batch norm into the convolution, transposed convolution or linear before it.

    Args:
        model: a scripted, traced or frozen module in evaluation mode.
        inplace: change ``model`` itself; else a copy is changed and returned.

    Raises:
        QuantizationError: for an eager module, and for one in training mode.
    """
    check_script_module(model, "fuse_conv_bn_jit")
    check_evaluation_mode(model, "fuse_conv_bn_jit")
    work = _working_copy(model, inplace)
    run_passes(FUSE_PASSES, work, title="fuse")
    return _hand_over(model, work, inplace)


def prepare_jit(
    model: torch.jit.ScriptModule,
    qconfig_dict: QConfigDict,
    inplace: bool = False,
    *,
    target: str = "quantized",
    preset: str = "balanced",
    correct_bias: bool | None = None,
    smooth_inputs: bool | None = None,
    round_weights: bool | None = None,
    equalize_layers: bool | None = None,
    methods: Sequence[str] = ("forward",),
    preserved_attrs: Sequence[str] = (),
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Makes the model canonical and inserts observers; run calibration data through what it returns.

    Args:
        model: a scripted, traced or frozen module in evaluation mode.
        qconfig_dict: a qconfig, or None, for each submodule path; ``''`` is the whole model, and the most
            specific path wins. Or a ``QConfigMapping``, which can name ops and classes too, or a
            ``Quantizer``, which sees each op. A QConfig or QConfigMapping of torch.ao will do too.
        inplace: change ``model`` itself; else a copy is changed and returned.
        target: what the model is going to be converted to: ``"quantized"``, whose files stock torch loads,
            or ``"native"``, which is faster and whose files need jitquant's op library where they are loaded.
        preset: what is done to win back accuracy: ``"fast"``, ``"balanced"`` or ``"accurate"``. See
            ``jitquant.presets``.
        correct_bias, smooth_inputs, round_weights, equalize_layers: switch one of these methods on or off,
            whatever the preset does.
        methods: which methods of the model are to be quantized; the others stay as they are.
        preserved_attrs: methods that ``forward`` calls and that are to stay; other methods stay anyway.
        print_graphs: print the graph after each pass that changed something, with its number of rewrites.
        stop_after: the name of a pass; the module is returned as that pass leaves it.

    Raises:
        QuantizationError: for an eager module, one in training mode or prepared before; for what
            qconfig_dict names and the model does not have; for a wrong qconfig, and an observer that
            TorchScript cannot compile.
    """
    caller = "prepare_jit"
    check_script_module(model, caller)
    check_target(target, caller)
    check_not_prepared(model, caller)
    check_evaluation_mode(model, caller)
    accuracy = choose_methods(
        preset,
        caller,
        correct_bias=correct_bias,
        smooth_inputs=smooth_inputs,
        round_weights=round_weights,
        equalize_layers=equalize_layers,
    )
    before, recording = BEFORE_OBSERVING + accuracy.before_observing(), accuracy.recording()
    passes = before + OBSERVE + recording
    check_pass_name(stop_after, passes, caller)
    check_attributes(model, preserved_attrs, caller)
    check_methods(model, methods, caller)
    quantizer = check_qconfig_dict(qconfig_dict, model, caller)

    work = _working_copy(model, inplace)
    records: list[Record] = []
    options = PassOptions(target=target, preserved_attrs=preserved_attrs)
    run = partial(
        run_passes,
        module=work,
        methods=methods,
        records=records,
        title="prepare",
        print_graphs=print_graphs,
        stop_after=stop_after,
    )
    chosen: dict[OpNode, QConfig | None] = {}
    if not run(before, options=options):
        chosen = choose_qconfigs(quantizer, work, methods)
        check_kinds(chosen, False, caller)
        observing = replace(options, observers=compile_observers(chosen))
        run(OBSERVE + recording, options=observing)
    words = quantizer.describe() if isinstance(quantizer, QConfigMapping) else describe_choice(chosen)
    if stop_after is None and not observers_of(work):
        warnings.warn(
            f"{caller}: no op of the model has an integer form under this qconfig_dict", stacklevel=2
        )
    write_info(
        work,
        {
            "jitquant": __version__,
            "torch": torch.__version__,
            "stage": "prepared",
            "target": target,
            "accuracy": asdict(accuracy),
            "methods": list(methods),
            "qconfig": words,
            "reduce_range": _are_reduced([*observers_of(work).values()]),
        },
    )
    write_report(work, records)
    return _hand_over(model, work, inplace)


def convert_jit(
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
    """Turns a prepared and calibrated model into an integer one.

    With the target ``"quantized"`` it is for the current engine, ``torch.backends.quantized.engine``, and the
    file has to be loaded under the same one.

    Where ``torch.distributed`` is initialised, every process has to call this: what the observers of all of
    them saw is merged first (see ``merge_statistics``), and each process returns the same model.

    Args:
        model: what ``prepare_jit`` returned, after calibration.
        inplace: change ``model`` itself; else a copy is changed and returned.
        debug: stop before fusion: float arithmetic between quantize and dequantize, weights reachable.
        preserved_attrs: attributes that freezing keeps; the methods that are left are all kept.
        target: ``"quantized"`` or ``"native"``; None for what the model was prepared for.
        strict: refuse to leave an op float: True for all that have an integer form on the target, or the
            names of ops (``"conv2d"``) and modules (``"layer1.0"``). See ``summarize``.
        print_graphs, stop_after: as for ``prepare_jit``.

    Raises:
        QuantizationError: for a target that is not available, for a model never prepared, or whose
            observers saw nothing, NaN or infinity; and where ``strict`` is not met.
    """
    caller = "convert_jit"
    check_script_module(model, caller)
    facts = check_prepared(model, caller)
    target = facts["target"] if target is None else target
    check_target(target, caller)
    passes = QUANTIZE if debug else CONVERT_PASSES
    check_pass_name(stop_after, passes, caller)
    kept = tuple(preserved_attrs or ())
    check_attributes(model, kept, caller)

    work = _working_copy(model, inplace)
    engine = torch.backends.quantized.engine
    methods = tuple(facts.get("methods", ("forward",)))
    records: list[Record] = []
    if observers_of(work):
        merge_ranks(work, caller)
        run_passes(
            passes,
            work,
            PassOptions(engine=engine, target=target, preserved_attrs=kept),
            methods=methods,
            records=records,
            title="convert",
            print_graphs=print_graphs,
            stop_after=stop_after,
        )
    stage = "debug" if debug else "quantized"
    if not debug and stop_after is None:
        records = records or read_report(work)  # without observers there was nothing to decide anew
        check_strict(records, strict, target, caller, dynamic=facts.get("dynamic", False))
        write_report(work, records)
    made = {"stage": stage, "target": target, "cpu": cpu.describe(), **_needs(target, engine)}
    if stage == "quantized" and target == "quantized":
        made["depthwise"] = most_depthwise_groups(work, methods)
    write_info(work, {**facts, **made})
    return _hand_over(model, work, inplace)


def quantize_jit(
    model: torch.jit.ScriptModule,
    qconfig_dict: QConfigDict,
    run_fn: Callable[..., Any],
    run_args: Sequence[Any],
    inplace: bool = False,
    debug: bool = False,
    *,
    target: str = "quantized",
    preset: str = "balanced",
    correct_bias: bool | None = None,
    smooth_inputs: bool | None = None,
    round_weights: bool | None = None,
    equalize_layers: bool | None = None,
    methods: Sequence[str] = ("forward",),
    strict: bool | Sequence[str] = False,
    preserved_attrs: Sequence[str] = (),
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> torch.jit.ScriptModule:
    """Prepares, calibrates and converts a model in one call.

    Args:
        run_fn: calibration: called once as ``run_fn(prepared_model, *run_args)``.
        run_args: its further arguments.
        model, qconfig_dict, inplace, debug, target, preset, correct_bias, smooth_inputs, round_weights,
            equalize_layers, methods, strict, preserved_attrs, print_graphs, stop_after: as for
            ``prepare_jit`` and ``convert_jit``. ``target="native"`` makes the fastest.

    Raises:
        QuantizationError: as those two do. With ``inplace=True`` the model is changed only if all went well.
    """
    caller = "quantize_jit"
    check_script_module(model, caller)
    check_run_fn(run_fn, caller)
    convert_passes = QUANTIZE if debug else CONVERT_PASSES
    check_pass_name(stop_after, PREPARE_PASSES + convert_passes, caller)
    check_attributes(model, preserved_attrs, caller)

    stop_early = stop_after if stop_after in PREPARE_PASSES else None
    work = prepare_jit(
        model,
        qconfig_dict,
        target=target,
        preset=preset,
        correct_bias=correct_bias,
        smooth_inputs=smooth_inputs,
        round_weights=round_weights,
        equalize_layers=equalize_layers,
        methods=methods,
        preserved_attrs=preserved_attrs,
        print_graphs=print_graphs,
        stop_after=stop_early,
    )
    if stop_early is None:
        # Each observer is a call that the optimizing executor would inline and specialize first, which takes
        # longer than all of calibration.
        unoptimized = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.no_grad(), unoptimized, _calibration_progress(work):
            run_fn(work, *run_args)
        convert_jit(
            work,
            inplace=True,
            debug=debug,
            strict=strict,
            preserved_attrs=preserved_attrs,
            print_graphs=print_graphs,
            stop_after=stop_after,
        )
    return _hand_over(model, work, inplace)


def _needs(target: str, engine: str) -> dict[str, Any]:
    """What the file needs where it is loaded, and in one line how to get a faster one."""
    if target == "native":
        return {"needs": f"{native.LIBRARY.name} (import jitquant, or torch.ops.load_library)"}
    facts = {"engine": engine}
    if native.is_available():
        facts["hint"] = 'quantize_jit(..., target="native") makes a faster one'
    return facts


def _working_copy(model: torch.jit.ScriptModule, inplace: bool) -> torch.jit.ScriptModule:
    """A module with graphs of its own to work on; a model that is to be changed takes it over at the end.

    Its submodules are not wrapped: passes do not ask for them, and it takes as long as several passes.
    """
    copy = _C.clone(model._c, share_tensors=inplace)
    return torch.jit._script.RecursiveScriptModule._construct(copy, lambda module: None)


def _hand_over(
    model: torch.jit.ScriptModule, work: torch.jit.ScriptModule, inplace: bool
) -> torch.jit.ScriptModule:
    if not inplace:
        return torch.jit._recursive.wrap_cpp_module(work._c)
    model._reconstruct(work._c)
    return model


def _are_reduced(observers: Sequence[Any]) -> bool:
    """Whether all activations use 7 of their 8 bits, or all weights do; products need no more than one."""
    ends = [
        (observer.getattr("quant_min"), observer.getattr("quant_max"))
        if observer.hasattr("quant_min") and observer.hasattr("quant_max")
        else (0, 255)
        for observer in observers
    ]
    activations = [high for low, high in ends if low == 0]
    weights = [high for low, high in ends if low < 0]
    return bool(ends) and (max(activations, default=0) <= 127 or max(weights, default=0) <= 63)


@contextmanager
def _calibration_progress(prepared: torch.jit.ScriptModule) -> Iterator[None]:
    """Counts the calls of the prepared model, on a terminal only."""
    with tqdm(desc="calibrate", unit=" calls", disable=None, leave=False) as bar:

        def count(module: torch.nn.Module, inputs: Any, output: Any) -> None:
            if module is prepared:
                bar.update()

        hook = torch.nn.modules.module.register_module_forward_hook(count)
        try:
            yield
        finally:
            hook.remove()
