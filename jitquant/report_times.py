"""How long a call takes, float against quantized, and which op takes how much of it."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch

from jitquant import _C

MOST_RUNS = 20
SECONDS = 0.5  # about, for all runs of one kind
WARM_UPS = 3  # TorchScript specializes a graph in its first runs

__all__ = ["Times", "compare_times", "profile_places", "runs_within"]


@dataclass(frozen=True)
class Times:
    """Of the nodes of one graph, in µs.

    Attributes:
        ops: the kinds of all nodes that make tensors.
        by_place: by the place of a node among those that make tensors, as ``Watched`` names them.
        others: of what makes none, kinds with how often they ran and how long.
        between: beside all of them.
    """

    ops: list[str]
    by_place: dict[int, float]
    others: list[tuple[str, int, float]]
    between: float


def runs_within(module: torch.jit.ScriptModule, inputs: tuple[Any, ...]) -> int:
    """How many runs to take medians of, so that it does not take long."""
    module = _without_loggers(module)
    with torch.no_grad():
        module(*inputs)
        begin = time.perf_counter()
        module(*inputs)
    return max(3, min(MOST_RUNS, int(SECONDS / (time.perf_counter() - begin))))


def compare_times(
    one: torch.jit.ScriptModule, other: torch.jit.ScriptModule, inputs: tuple[Any, ...], runs: int
) -> tuple[float, float]:
    """Milliseconds of a call of each, medians. They take turns, so that a slow moment slows both."""
    samples: tuple[list[float], list[float]] = ([], [])
    models = _without_loggers(one), _without_loggers(other)
    with torch.no_grad():
        for _ in range(WARM_UPS + runs):
            for model, times in zip(models, samples, strict=True):
                begin = time.perf_counter()
                model(*inputs)
                times.append(1e3 * (time.perf_counter() - begin))
    first, second = (statistics.median(times[WARM_UPS:]) for times in samples)
    return first, second


def _without_loggers(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The same model: loggers of the numeric suite, which are at its Python object, would be timed."""
    return torch.jit._recursive.wrap_cpp_module(module._c)


def profile_places(module: torch.jit.ScriptModule, inputs: tuple[Any, ...], runs: int) -> Times:
    """What the profile's clocks see of each node of forward, which has to be inlined."""
    work = _C.clone(module._c, share_tensors=False)
    measured = _C.profile(work, inputs, runs)
    ops = [node["op"] for node in _C.tensor_nodes(module._c, "forward")]
    rows = measured["ops"]
    # An op that makes tensors has clocks wherever it stands, or nowhere: both lists have these in one order.
    timed = {row["op"] for row in rows}
    places = iter([place for place, op in enumerate(ops) if op in timed])
    by_place: dict[int, float] = {}
    others: dict[str, tuple[int, float]] = {}
    for row in rows:
        if row["op"] in ops:
            by_place[next(places)] = row["time_us"]
        elif row["calls"]:
            calls, us = others.get(row["op"], (0, 0.0))
            others[row["op"]] = (calls + row["calls"], us + row["time_us"])
    return Times(ops, by_place, [(op, *sums) for op, sums in others.items()], measured["between_us"])
