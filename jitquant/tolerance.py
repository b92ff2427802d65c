"""Precision chosen automatically: few parts stay float, and bring a model within a tolerance.

Parts are ranked by the noise of each alone, measured on a graph with switches (jitquant/switchable.py), over
what it takes to have it float: a part counts as one, and as its multiply-adds over their mean. The shortest
head of that ranking is looked for whose parts have to be float, and then each of them is tried as integer
again, beginning with what multiplies most. Each of these sets is converted and measured as it is, which takes
less time than a float copy of the model does, and no calibration: `left_float` takes a calibrated model.
All of that looks at some rows only. What comes out is judged on all calls that calibration made and that were
kept, and more parts become float, in the order of the ranking, until it holds there.
"""

from __future__ import annotations

import io
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from jitquant.calls import Call, recorded, spread
from jitquant.checks import check_prepared
from jitquant.errors import QuantizationError
from jitquant.info import read_info, write_info
from jitquant.scores import ByMetric, ByOutput, Metric, Score, check_metric
from jitquant.statistics import observers_of
from jitquant.summary import check_strict, read_report, write_report
from jitquant.switchable import Part, Switchable, check_static, left_float

RANKED_ROWS = 4  # of the inputs that calibration saw, to rank the parts with
JUDGED_ROWS = 64  # to look for a model with; the one that is found is judged on all
MOST_GIVEN_BACK = 16  # parts that are tried as integer again
TIMED_RUNS = 12  # at most, and at least three, of which the first compile
TIMED_SECONDS = 2.0

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

    @property
    def words(self) -> str:
        """What it is the tolerance of."""
        return "relative error of the outputs" if self.metric is None else "metric, below float's"

    def loss(self, floating: float, score: float) -> float:
        """What is compared with the tolerance."""
        if self.metric is None:
            return relative_error(score)
        return floating - score if floating != score else 0.0  # both may be infinite


def relative_error(sqnr: float) -> float:
    """Norm of the noise over norm of the signal: 20 dB are 0.1."""
    return math.inf if sqnr == -math.inf else 10 ** (-sqnr / 20)


def check_tolerance(
    tolerance: Any, metric: Any, caller: str, *, debug: bool | str, stop_after: str | None
) -> Tolerance | None:
    """What was asked for, or None. Raises QuantizationError for what makes no sense."""
    check_metric(metric, caller)
    if tolerance is None:
        if metric is not None:
            raise QuantizationError(
                f"{caller}: metric is given without a tolerance; pass tolerance=, how much less than "
                "float's it may be"
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
            f"{caller}: with torch.distributed each process would choose by its own inputs; call "
            "quantize_jit with a tolerance in a process of its own"
        )
    return Tolerance(float(tolerance), metric)


@dataclass
class ChosenPrecision:
    """What quantize_jit does between preparing a model and handing over the converted one.

    Attributes:
        tolerance: what was asked for.
        convert_copy: converts a copy of a calibrated model, and refuses nothing for being float.
        caller: the function that the user called.
        methods: those of the model that are quantized.
        strict: of what has to be integer before parts are left float for the tolerance.
    """

    tolerance: Tolerance
    convert_copy: Convert
    caller: str
    methods: Sequence[str]
    strict: bool | Sequence[str] = False
    calls: Sequence[Call] = ()

    def recording(
        self, calibrate: Callable[[torch.jit.ScriptModule], None]
    ) -> Callable[[torch.jit.ScriptModule], None]:
        """Calibration that keeps the inputs which the model is given."""

        def run(prepared: torch.jit.ScriptModule) -> None:
            check_static(prepared, self.caller)
            with recorded(prepared, self.methods) as self.calls:
                calibrate(prepared)

        return run

    def convert(self, prepared: torch.jit.ScriptModule, **_: Any) -> torch.jit.ScriptModule:
        """Makes the calibrated model the converted one; a warning says if it is not within the tolerance."""
        if not self.calls:
            raise QuantizationError(
                f"{self.caller}: tolerance needs inputs to compare outputs on, and run_fn called none of the "
                f"methods {', '.join(self.methods)}; call the prepared model with calibration data"
            )
        facts = check_prepared(prepared, self.caller)
        integer = self.convert_copy(prepared)
        check_strict(read_report(integer), self.strict, facts["target"], self.caller)
        if not observers_of(prepared):  # nothing is integer, of which a warning told
            prepared._reconstruct(integer._c)
            return prepared
        search = _Search(self, prepared, facts, integer)
        found = search.run()
        if found.loss > self.tolerance.most:
            warnings.warn(
                f"{self.caller}: tolerance={self.tolerance.most:g} is not reached: the nearest model that "
                f"was found has {len(found.left)} of {len(search.parts)} parts float, and its "
                f"{self.tolerance.words} is {found.loss:.3g}; it is {search.integer.loss:.3g} with none",
                stacklevel=4,
            )
        _tell(found, search)
        prepared._reconstruct(found.module._c)
        return prepared


@dataclass(frozen=True)
class _Trial:
    """A converted model, the parts that are float in it, and what it loses."""

    module: torch.jit.ScriptModule
    left: tuple[Part, ...]
    loss: float


class _Search:
    """Looks for the fewest parts that have to be float."""

    def __init__(
        self,
        chosen: ChosenPrecision,
        prepared: torch.jit.ScriptModule,
        facts: Mapping[str, Any],
        integer: torch.jit.ScriptModule,
    ) -> None:
        self.tolerance = chosen.tolerance
        self.calls = chosen.calls
        self._prepared, self._facts, self._convert = prepared, facts, chosen.convert_copy
        switchable = Switchable(prepared, facts, integer)
        self.parts = switchable.parts
        metric = chosen.tolerance.metric
        outputs = partial(ByOutput, switchable, caller=chosen.caller)
        self._judge: Score = (
            outputs(calls=spread(chosen.calls, JUDGED_ROWS), samples=JUDGED_ROWS)
            if metric is None
            else ByMetric(switchable, metric, chosen.caller)
        )
        by_output = metric is None or switchable.gives_floats(chosen.calls[0])
        judged = self._judge.calls or chosen.calls
        self.ranking: Score = outputs(calls=judged, samples=RANKED_ROWS) if by_output else self._judge
        self._on_all = False
        self.rows = self._judge.samples  # that losses are of; 0 with a metric, which has its own
        self._multiply_adds = switchable.multiply_adds(chosen.calls[0])
        self.integer = self._nearest = _Trial(integer, (), self._loss_of(integer))

    def run(self) -> _Trial:
        """The model within the tolerance with the fewest parts float that was found, or else the nearest."""
        if not self.parts:
            return self.integer
        best = self.integer if self._holds(self.integer) else self._fewest()
        return best if isinstance(self._judge, ByMetric) else self._for_all_rows(best)

    def _fewest(self) -> _Trial:
        """By the rows that are looked at first."""
        best = self._shortest_head(self._ranked)
        if not self._holds(best):
            return self._nearest
        largest_first = sorted(best.left, key=lambda part: -self._multiply_adds[part])
        for part in largest_first[:MOST_GIVEN_BACK]:
            trial = self._try([other for other in best.left if other is not part])
            best = trial if self._holds(trial) else best
        return best

    def _for_all_rows(self, found: _Trial) -> _Trial:
        """What was found if it holds on all calls that were kept; else with more parts float."""
        rows = sum(call.rows for call in self.calls)
        if rows == self.rows:
            return found
        self.rows, self._on_all = rows, True
        self.integer = self._nearest = self._trial(self.integer.module, ())
        found = self._trial(found.module, found.left) if found.left else self.integer
        count = 1
        while not self._holds(found) and len(found.left) < len(self.parts):
            others = [part for part in self._ranked if part not in found.left]
            found = self._try([*found.left, *others[:count]])
            count *= 2
        return found if self._holds(found) else self._nearest

    @cached_property
    def alone(self) -> dict[Part, float]:
        """What rounding each part alone leaves."""
        return {part: self.ranking.of([part]) for part in self.parts}

    @cached_property
    def _ranked(self) -> list[Part]:
        """Those first whose noise is large for what they cost in float: one part more, and multiply-adds."""
        mean = sum(self._multiply_adds.values()) / len(self.parts) or 1.0

        def worth(part: Part) -> float:
            noise = self.ranking.noise(self.alone[part])
            return noise / (1 + self._multiply_adds[part] / mean)

        return sorted(self.parts, key=worth, reverse=True)

    def _shortest_head(self, ranked: Sequence[Part]) -> _Trial:
        """In steps that double, as mostly few parts are enough, and then by bisection."""
        fewer, more = 0, 1
        best = self._try(ranked[:more])
        while not self._holds(best) and more < len(ranked):
            fewer, more = more, min(2 * more, len(ranked))
            best = self._try(ranked[:more])
        while self._holds(best) and more - fewer > 1:
            middle = (fewer + more) // 2
            trial = self._try(ranked[:middle])
            if self._holds(trial):
                best, more = trial, middle
            else:
                fewer = middle
        return best

    def _try(self, left: Sequence[Part]) -> _Trial:
        return self._trial(self._convert(left_float(self._prepared, self._facts, left)), left)

    def _trial(self, module: torch.jit.ScriptModule, left: Sequence[Part]) -> _Trial:
        trial = _Trial(module, tuple(left), self._loss_of(module))
        self._nearest = min(self._nearest, trial, key=lambda each: (each.loss, len(each.left)))
        return trial

    def _holds(self, trial: _Trial) -> bool:
        return trial.loss <= self.tolerance.most

    def _loss_of(self, module: torch.jit.ScriptModule) -> float:
        judge = self._judge
        if isinstance(judge, ByOutput) and self._on_all:
            return self.tolerance.loss(judge.floating, judge.of_calls(module, self.calls))
        return self.tolerance.loss(judge.floating, judge.of_module(module))


def _tell(found: _Trial, search: _Search) -> None:
    """Writes into the model what was left float, why, and what that costs."""
    records = read_report(found.module)
    for part in found.left:
        for op in part.ops:
            if records[op]["reason"]:
                alone = search.ranking.words(search.alone[part])
                records[op]["reason"] = f"left float for tolerance: rounding it alone leaves {alone}"
    write_report(found.module, records)
    facts = {
        "asked for": search.tolerance.most,
        "of": search.tolerance.words,
        "reached": found.loss,
        "all integer": search.integer.loss,
        "left float": [part.name for part in found.left],
        "rows": search.rows,
        "parts": len(search.parts),
        "bytes more": _file_size(found.module) - _file_size(search.integer.module),
        "time": _time_ratio(found.module, search.integer.module, search.calls[0]) if found.left else 1.0,
    }
    write_info(found.module, {**(read_info(found.module) or {}), "tolerance": facts})


def _file_size(module: torch.jit.ScriptModule) -> int:
    file = io.BytesIO()
    torch.jit.save(module, file)
    return file.tell()


def _time_ratio(one: torch.jit.ScriptModule, other: torch.jit.ScriptModule, call: Call) -> float:
    """Of the shortest runs, in turn."""
    times: dict[torch.jit.ScriptModule, list[float]] = {one: [], other: []}
    end = time.perf_counter() + TIMED_SECONDS
    with torch.no_grad():
        while len(times[other]) < 3 or (len(times[other]) < TIMED_RUNS and time.perf_counter() < end):
            for module, taken in times.items():
                begin = time.perf_counter()
                call.run(module)
                taken.append(time.perf_counter() - begin)
    return min(times[one]) / min(times[other])
