"""Precision chosen automatically: the fewest parts stay float that bring a model within a tolerance of float's.

Parts are ranked by what each costs alone. On a graph with switches (jitquant/switchable.py) the shortest head of
that ranking is looked for whose parts have to be float, by bisection; then each of them is tried as integer
again, beginning with what costs least. What was found is converted and measured, and where that does not hold,
as the graph rounds as ``debug=True`` does and not as the engine, looked for again with a smaller tolerance.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from jitquant.calls import Call
from jitquant.checks import check_prepared
from jitquant.errors import QuantizationError
from jitquant.info import read_info, write_info
from jitquant.scores import ByMetric, ByOutput, Metric, Score, check_metric
from jitquant.summary import read_report, write_report
from jitquant.switchable import Part, Switchable, check_static, left_float, numbered
from jitquant.text_table import decibels

RANKED_ROWS = 4  # of the inputs that calibration saw, to rank the parts with
SEARCHED_ROWS = 16  # to look for the set with
JUDGED_ROWS = 128  # to judge converted models with
MOST_ROUNDS = 8  # of looking for a set and converting it
TIMED_RUNS = 10

Convert = Callable[[torch.jit.ScriptModule], torch.jit.ScriptModule]


@dataclass(frozen=True)
class Tolerance:
    """How far from float a model may be.

    Attributes:
        most: the relative error of the outputs, or how much less than float's the metric may be.
        metric: the user's own, or None.
    """

    most: float
    metric: Metric | None

    def loss(self, floating: float, score: float) -> float:
        """What is compared with the tolerance."""
        return floating - score if self.metric is not None else relative_error(score)


def relative_error(sqnr: float) -> float:
    """Norm of the noise over norm of the signal: 20 dB are 0.1."""
    return math.inf if sqnr == -math.inf else 10 ** (-sqnr / 20)


def check_tolerance(
    tolerance: Any, metric: Any, debug: bool, stop_after: str | None, caller: str
) -> Tolerance | None:
    """What was asked for, or None. Raises QuantizationError for what makes no sense."""
    check_metric(metric, caller)
    if tolerance is None:
        if metric is not None:
            raise QuantizationError(
                f"{caller}: metric is given without a tolerance; pass tolerance=, how much less than float's it may be"
            )
        return None
    is_number = isinstance(tolerance, int | float) and not isinstance(tolerance, bool)
    if not is_number or not 0 <= tolerance < math.inf:
        what = "how much less than float's the metric" if metric else "the relative error of the outputs"
        raise QuantizationError(
            f"{caller}: tolerance is {tolerance!r}; pass a number from 0 up, {what} may be"
        )
    for name, given in (("debug", debug), ("stop_after", stop_after)):
        if given:
            raise QuantizationError(
                f"{caller}: tolerance is about the quantized model, which {name}={given!r} does not make; "
                "leave out one of the two"
            )
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        raise QuantizationError(
            f"{caller}: with torch.distributed each process would choose by its own inputs; prepare and calibrate "
            "in all processes, save_statistics in one, and choose there without torch.distributed"
        )
    return Tolerance(float(tolerance), metric)


def convert_within(
    prepared: torch.jit.ScriptModule,
    tolerance: Tolerance,
    calls: Sequence[Call],
    convert: Convert,
    convert_all: Convert,
    caller: str,
) -> torch.jit.ScriptModule:
    """The converted model with the fewest parts float; a warning says so if it is not within the tolerance.

    `convert_all` converts what is to have all parts integer, and `convert` what has some float. Both convert a
    copy.
    """
    if not calls:
        raise QuantizationError(
            f"{caller}: tolerance needs inputs to compare outputs on, and run_fn did not call the prepared "
            "model; call it with calibration data"
        )
    facts = check_prepared(prepared, caller)
    integer = convert_all(prepared)
    switchable = Switchable(prepared, facts, read_report(integer))
    ranking = ByOutput(switchable, calls, RANKED_ROWS, caller, needed=tolerance.metric is None)
    search = _Search(tolerance, switchable, calls, caller)
    made, reached = integer, search.loss_of(integer)
    left: tuple[Part, ...] = ()
    whole = reached
    if reached > tolerance.most:
        search.rank(ranking)
        goal = tolerance.most
        for _ in range(MOST_ROUNDS):
            left = search.fewest(goal, at_least=len(left) + 1)
            made = convert(left_float(prepared, facts, left))
            reached = search.loss_of(made)
            if reached <= tolerance.most or len(left) == len(switchable.parts):
                break
            goal *= min(0.95, tolerance.most / reached) if tolerance.metric is None else 0.5
    if reached > tolerance.most:
        warnings.warn(
            f"{caller}: tolerance={tolerance.most:g} is not reached: with {len(left)} of {len(switchable.parts)} "
            f"parts float the loss is {reached:.3g}",
            stacklevel=3,
        )
    _tell(made, integer, tolerance, search, left, (whole, reached), calls[0])
    return made


class _Search:
    """Looks for the fewest parts, on the graph with switches."""

    def __init__(
        self, tolerance: Tolerance, switchable: Switchable, calls: Sequence[Call], caller: str
    ) -> None:
        self.tolerance = tolerance
        self.parts = switchable.parts
        self.alone: dict[Part, float] = {}
        self._order: list[Part] = []
        self._score: Score
        if tolerance.metric is None:
            self._score = ByOutput(switchable, calls, SEARCHED_ROWS, caller)
            self._judge: Score = ByOutput(switchable, calls, JUDGED_ROWS, caller)
        else:
            self._score = self._judge = ByMetric(switchable, tolerance.metric, caller)

    def rank(self, score: Score) -> None:
        """Orders the parts by what each costs alone, the costliest first."""
        self.alone = {part: score.of([part]) for part in self.parts}
        self._order = sorted(self.parts, key=lambda part: self.alone[part])

    def loss_of(self, module: torch.jit.ScriptModule) -> float:
        """Of a converted model."""
        return self.tolerance.loss(self._judge.floating, self._judge.of_module(module))

    def fewest(self, goal: float, at_least: int) -> tuple[Part, ...]:
        """The parts that have to be float for a loss of no more than `goal`, and no fewer than so many."""
        low, high = at_least, len(self._order)
        while low < high:
            middle = (low + high) // 2
            if self._loss(self._order[:middle]) <= goal:
                high = middle
            else:
                low = middle + 1
        left = self._order[:high]
        for part in reversed(self._order[:high]):
            if len(left) <= at_least:
                break
            others = [other for other in left if other is not part]
            if self._loss(others) <= goal:
                left = others
        return tuple(left)

    def _loss(self, left: Collection[Part]) -> float:
        on = [part for part in self.parts if part not in left]
        return self.tolerance.loss(self._score.floating, self._score.of(on))


def _tell(
    made: torch.jit.ScriptModule,
    integer: torch.jit.ScriptModule,
    tolerance: Tolerance,
    search: _Search,
    left: Sequence[Part],
    losses: tuple[float, float],
    call: Call,
) -> None:
    """Writes into the model what was left float, why, and what that costs."""
    records = read_report(made)
    ops = numbered(records)  # the same dicts
    for part in left:
        for op in part.ops:
            if ops[op]["reason"]:
                alone = decibels(search.alone[part])
                ops[op]["reason"] = f"left float for tolerance: rounded alone it leaves {alone} dB"
    write_report(made, records)
    whole, reached = losses
    words = {
        "asked for": f"{tolerance.most:g}",
        "measured by": "the metric, below float's" if tolerance.metric else "relative error of the outputs",
        "reached": f"{reached:.4g}",
        "all integer": f"{whole:.4g}",
        "left float": f"{len(left)} of {len(search.parts)} parts"
        + (": " + ", ".join(part.name for part in left) if left else ""),
    }
    if left:
        more = _file_size(made) - _file_size(integer)
        words["costs"] = f"{more / 1e6:.2f} MB of the file, {_time_ratio(made, integer, call):.2f} times the time"
    write_info(made, {**(read_info(made) or {}), "tolerance": words})


def _file_size(module: torch.jit.ScriptModule) -> int:
    file = io.BytesIO()
    torch.jit.save(module, file)
    return file.tell()


def _time_ratio(one: torch.jit.ScriptModule, other: torch.jit.ScriptModule, call: Call) -> float:
    """Of the shortest runs, in turn."""
    times: dict[torch.jit.ScriptModule, list[float]] = {one: [], other: []}
    with torch.no_grad():
        for run in range(3 + TIMED_RUNS):
            for module, taken in times.items():
                begin = time.perf_counter()
                call.run(module)
                if run >= 3:  # the first ones are compiled
                    taken.append(time.perf_counter() - begin)
    return min(times[one]) / min(times[other])
