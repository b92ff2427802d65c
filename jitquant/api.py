"""What a user calls: drop-in for ``torch.ao.quantization.quantize_jit``, with what is new keyword-only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from jitquant.checks import (
    check_attributes,
    check_debug,
    check_evaluation_mode,
    check_pass_name,
    check_run_fn,
    check_script_module,
)
from jitquant.conversion import convert, passes_for
from jitquant.pipeline import (
    BEFORE_OBSERVING,
    FUSE_PASSES,
    OBSERVE,
    PREPARE_PASSES,
    run_passes,
)
from jitquant.preparation import Preparation, QConfigDict, hand_over, quantize, working_copy
from jitquant.presets import choose_methods
from jitquant.tolerance import ChosenPrecision, check_tolerance


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
    work = working_copy(model, inplace)
    run_passes(FUSE_PASSES, work, title="fuse")
    return hand_over(model, work, inplace)


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
    accuracy = choose_methods(
        preset,
        caller,
        correct_bias=correct_bias,
        smooth_inputs=smooth_inputs,
        round_weights=round_weights,
        equalize_layers=equalize_layers,
    )
    preparation = Preparation(
        caller,
        dynamic=False,
        before=BEFORE_OBSERVING + accuracy.before_observing(),
        observing=OBSERVE + accuracy.recording(),
        facts={"accuracy": asdict(accuracy)},
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


def convert_jit(
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
    """Turns a prepared and calibrated model into an integer one.

    With the target ``"quantized"`` it is for the current engine, ``torch.backends.quantized.engine``, and the
    file has to be loaded under the same one.

    Where ``torch.distributed`` is initialised, every process has to call this: what the observers of all of
    them saw is merged first (see ``merge_statistics``), and each process returns the same model.

    Args:
        model: what ``prepare_jit`` returned, after calibration.
        inplace: change ``model`` itself; else a copy is changed and returned.
        debug: True to stop before fusion: float arithmetic between quantize and dequantize, weights
            reachable. ``"exact"`` for a model that computes in floating point what the integer one does, with
            the same bits; see ``EXACT.md``.
        preserved_attrs: attributes that freezing keeps; the methods that are left are all kept.
        target: ``"quantized"`` or ``"native"``; None for what the model was prepared for.
        strict: refuse to leave an op float: True for all that have an integer form on the target, or the
            names of ops (``"conv2d"``) and modules (``"layer1.0"``). See ``summarize``.
        print_graphs, stop_after: as for ``prepare_jit``.

    Raises:
        QuantizationError: for a target that is not available, for a model never prepared, or whose
            observers saw nothing, NaN or infinity; and where ``strict`` is not met.
    """
    return convert(
        "convert_jit",
        model,
        inplace,
        debug,
        preserved_attrs,
        target=target,
        strict=strict,
        print_graphs=print_graphs,
        stop_after=stop_after,
    )


def quantize_jit(
    model: torch.jit.ScriptModule,
    qconfig_dict: QConfigDict,
    run_fn: Callable[..., Any],
    run_args: Sequence[Any],
    inplace: bool = False,
    debug: bool | str = False,
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
    tolerance: float | None = None,
    metric: Callable[[torch.jit.ScriptModule], Any] | None = None,
) -> torch.jit.ScriptModule:
    """Prepares, calibrates and converts a model in one call.

    Args:
        run_fn: calibration: called once as ``run_fn(prepared_model, *run_args)``.
        run_args: its further arguments.
        tolerance: leave few parts of the model float with which the relative error of its outputs (norm of
            the difference over norm of float's: 0.1 is 20 dB) on what calibration gives it, up to 256 calls
            or 128 MB of inputs, is no more than that. A part is what one integer op computes. The search is
            greedy: the shortest head of a ranking by noise alone over cost in float, of which each is then
            tried as integer again; it looks at 64 rows, and what it finds is judged on all. ``summarize``
            says of each part why it is float, and ``info`` what it costs in bytes and time. If it is not
            reached, a warning says so, and the nearest model that was tried comes out.
            ``strict`` is about all other ops then, and ``print_graphs`` about preparing the model.
        metric: ``metric(model) -> float``, higher being better, in the place of that error: the model may
            then be no more than `tolerance` below what the float one has.
        model, qconfig_dict, inplace, debug, target, preset, correct_bias, smooth_inputs, round_weights,
            equalize_layers, methods, strict, preserved_attrs, print_graphs, stop_after: as for
            ``prepare_jit`` and ``convert_jit``. ``target="native"`` makes the fastest.

    Raises:
        QuantizationError: as those two do. With ``inplace=True`` the model is changed only if all went well.
    """
    caller = "quantize_jit"
    check_script_module(model, caller)
    check_run_fn(run_fn, caller)
    check_debug(debug, caller)
    check_pass_name(stop_after, PREPARE_PASSES + passes_for(debug), caller)
    check_attributes(model, preserved_attrs, caller)
    goal = check_tolerance(tolerance, metric, caller, debug=debug, stop_after=stop_after)

    do_convert = partial(
        convert_jit,
        debug=debug,
        strict=False if goal else strict,
        preserved_attrs=preserved_attrs,
        print_graphs=print_graphs and goal is None,
    )
    choosing = goal and ChosenPrecision(goal, do_convert, caller, methods=methods, strict=strict)
    do_calibrate = partial(_calibrate, run_fn, run_args)
    return quantize(
        model,
        inplace,
        stop_after,
        PREPARE_PASSES,
        prepare=partial(
            prepare_jit,
            qconfig_dict=qconfig_dict,
            target=target,
            preset=preset,
            correct_bias=correct_bias,
            smooth_inputs=smooth_inputs,
            round_weights=round_weights,
            equalize_layers=equalize_layers,
            methods=methods,
            preserved_attrs=preserved_attrs,
            print_graphs=print_graphs,
        ),
        calibrate=choosing.recording(do_calibrate) if choosing else do_calibrate,
        convert=choosing.convert if choosing else do_convert,
    )


def _calibrate(run_fn: Callable[..., Any], run_args: Sequence[Any], prepared: torch.jit.ScriptModule) -> None:
    # Each observer is a call that the optimizing executor would inline and specialize first, which takes
    # longer than all of calibration.
    unoptimized = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    with torch.no_grad(), unoptimized, _calibration_progress(prepared):
        run_fn(prepared, *run_args)


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
