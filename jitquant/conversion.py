"""What static and dynamic calls have in common once a model is prepared: the way to the integer one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from jitquant import cpu, exact, native
from jitquant.check import most_depthwise_groups
from jitquant.checks import (
    check_attributes,
    check_debug,
    check_pass_name,
    check_prepared,
    check_script_module,
    check_target,
)
from jitquant.errors import QuantizationError
from jitquant.info import write_info
from jitquant.pipeline import CONVERT_PASSES, EXACT_PASSES, QUANTIZE, PassOptions, Record, run_passes
from jitquant.preparation import hand_over, working_copy
from jitquant.statistics import merge_ranks, observers_of
from jitquant.summary import check_strict, read_report, write_report
from jitquant.watch import take_places, write_places


def convert(
    caller: str,
    model: torch.jit.ScriptModule,
    inplace: bool,
    debug: bool | str,
    preserved_attrs: Sequence[str] | None,
    *,
    target: str | None,
    strict: bool | Sequence[str],
    print_graphs: bool,
    stop_after: str | None,
) -> torch.jit.ScriptModule:
    """The converted model, or what the pass `stop_after` left; `caller` is the function that the user called.

    Refuses bad input before it changes it.
    """
    check_script_module(model, caller)
    facts = check_prepared(model, caller)
    target = facts["target"] if target is None else target
    check_target(target, caller)
    check_debug(debug, caller)
    passes = passes_for(debug)
    check_pass_name(stop_after, passes, caller)
    kept = tuple(preserved_attrs or ())
    check_attributes(model, kept, caller)

    work = working_copy(model, inplace)
    engine = torch.backends.quantized.engine
    formulas = _formulas(engine, target, caller) if debug == "exact" else {}
    methods = tuple(facts.get("methods", ("forward",)))
    records: list[Record] = []
    if observers_of(work):
        merge_ranks(work, caller)
        run_passes(
            passes,
            work,
            PassOptions(engine=engine, target=target, preserved_attrs=kept, formulas=formulas),
            methods=methods,
            records=records,
            title="convert",
            print_graphs=print_graphs,
            stop_after=stop_after,
        )
    places = take_places(work, methods)  # off the graphs in any case
    stage = "debug" if debug else "quantized"
    if not debug and stop_after is None:
        records = records or read_report(work)  # without observers there was nothing to decide anew
        check_strict(records, strict, target, caller, dynamic=facts.get("dynamic", False))
        write_report(work, records)
        write_places(work, places)
    needs = {"debug": debug, "engine": engine} if debug else _needs(target, engine, facts)
    made = {"stage": stage, "target": target, "cpu": cpu.describe(), **needs}
    if stage == "quantized" and target == "quantized":
        made["depthwise"] = most_depthwise_groups(work, methods)
    write_info(work, {**facts, **made})
    return hand_over(model, work, inplace)


def passes_for(debug: bool | str) -> tuple[str, ...]:
    """The passes that convert, as `debug` says."""
    if debug == "exact":
        return EXACT_PASSES
    return QUANTIZE if debug else CONVERT_PASSES


def _formulas(engine: str, target: str, caller: str) -> Mapping[str, Any]:
    found = exact.emulations(engine, target)
    if not found:
        raise QuantizationError(
            f'{caller}: debug="exact" has no formulas for the engine {engine}; set '
            f"torch.backends.quantized.engine to one of {', '.join(exact.ENGINES)}, or choose another target"
        )
    return found


def _needs(target: str, engine: str, prepared: Mapping[str, Any]) -> dict[str, Any]:
    """What the file needs where it is loaded, and in one line how to get a faster one."""
    if target == "native":
        return {"needs": f"{native.LIBRARY.name} (import jitquant, or torch.ops.load_library)"}
    facts = {"engine": engine}
    if native.is_available():
        call = "quantize_dynamic_jit" if prepared.get("dynamic") else "quantize_jit"
        facts["hint"] = f'{call}(..., target="native") makes a faster one'
    return facts
