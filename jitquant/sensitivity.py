"""What each quantized part of a model costs, alone and together with all others."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from jitquant.api import convert_jit, prepare_jit
from jitquant.calls import Call, calls_of, unspecialized
from jitquant.checks import check_prepared, check_script_module
from jitquant.errors import QuantizationError
from jitquant.info import read_info
from jitquant.preparation import QConfigDict
from jitquant.qconfig import get_default_qconfig
from jitquant.scores import ByMetric, ByOutput, Metric, Score, check_metric, own_sqnr
from jitquant.statistics import observers_of
from jitquant.switchable import Part, Switchable, check_static
from jitquant.text_table import aligned, decibels, millions

__all__ = ["PartSensitivity", "Sensitivity", "sensitivity"]

LOST = 10 * math.log10(2)  # dB: noise of half the power of the signal


@dataclass(frozen=True)
class PartSensitivity:
    """One row: what the quantized model computes in one integer op, and what rounding there costs.

    Attributes:
        name: what tells it from all others: the path of its module, with the op's name behind it where the
            module has several parts, and ``_1`` and so on where these have one name.
        method: the method of the top module that it is in.
        module: the dotted path of its module; empty for the model itself.
        source: file and line of the user's code; empty where none is known.
        op: the canonical name of its first op, such as ``aten::conv2d``.
        becomes: the integer op that it is.
        weights: how many values its weights have.
        multiply_adds: of one call, with the first item of the data.
        alone: SQNR of the output in dB where only this part is integer, or then the metric. Infinite where
            it changes nothing.
        own: SQNR of the part's own result in dB where only this part is integer, the median of its channels'.
            About 0 where one channel's weights are so much larger than the rest that their scale rounds these
            to zero. None with a metric.
        together: what is gained, in dB or of the metric, if this part stays float while all others are
            integer. None where that was not asked for.
    """

    name: str
    method: str
    module: str
    source: str
    op: str
    becomes: str
    weights: int
    multiply_adds: int
    alone: float
    own: float | None
    together: float | None


@dataclass(frozen=True)
class Sensitivity:
    """What `sensitivity` found; ``print`` it for a table, or read the rows.

    Attributes:
        rows: one for each part. With SQNR those come first whose own result is lost: in half or more of its
            channels, noise has more than half the power of the signal (`own` below 3 dB). So it is where one
            channel of a weight is 1,000 times the others and all have one scale, even if that channel alone
            makes up the outputs. Both kinds are sorted by `alone`, the costliest first.
        unit: ``"dB"``, or ``"metric"`` where a metric was given.
        floating: the metric of the float model; infinite in dB.
        integer: that of the model with all parts integer.
        samples: how many rows of the inputs it was measured on; 0 with a metric, which has its own.
    """

    rows: tuple[PartSensitivity, ...]
    unit: str
    floating: float
    integer: float
    samples: int

    def __getitem__(self, name: str) -> PartSensitivity:
        """The row of a part by its name. Raises KeyError where there is none."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    def table(self, costliest: int | None = None) -> str:
        """The rows as text, the costliest first; or only so many of them."""
        unit = "dB" if self.unit == "dB" else ""
        head = (
            f"alone {unit}".strip(),
            f"gain {unit}".strip(),
            *(["own dB"] if unit else []),
            "part",
            "op",
            "weights",
            "M mul-adds",
            "source",
        )
        cells = [head, *(self._cells(row) for row in self.rows[:costliest])]
        return "\n".join([*aligned(cells, left=("part", "op", "source")), *self._remarks()])

    def to_records(self) -> list[dict[str, Any]]:
        """The rows, for other programs."""
        return [asdict(row) for row in self.rows]

    def to_json(self) -> str:
        """Everything, for other programs; what is infinite is null."""
        return json.dumps(_finite(asdict(self)))

    def __str__(self) -> str:
        return self.table()

    def _cells(self, row: PartSensitivity) -> tuple[str, ...]:
        return (
            self._number(row.alone),
            "" if row.together is None else self._number(row.together),
            *([] if self.unit != "dB" else ["" if row.own is None else decibels(row.own)]),
            row.name,
            row.op,
            str(row.weights or ""),
            millions(row.multiply_adds),
            row.source,
        )

    def _number(self, value: float) -> str:
        return decibels(value) if self.unit == "dB" else f"{value:.4g}"

    def _remarks(self) -> list[str]:
        if self.unit != "dB":
            return [f"float: {self.floating:.4g}; all parts integer: {self.integer:.4g}"]
        whole = f"all parts integer: {decibels(self.integer)} dB"
        return [f"{whole}; SQNR of the outputs for {self.samples} rows of input"]


def sensitivity(
    model: torch.jit.ScriptModule,
    data: Any,
    qconfig_dict: QConfigDict | None = None,
    *,
    metric: Metric | None = None,
    together: bool = True,
    samples: int = 4,
    target: str = "quantized",
    preset: str = "balanced",
    correct_bias: bool | None = None,
    smooth_inputs: bool | None = None,
    round_weights: bool | None = None,
    equalize_layers: bool | None = None,
    methods: Sequence[str] = ("forward",),
) -> Sensitivity:
    """Measures what each quantized part of a model costs, without converting the model for each of them.

    A part is what the quantized model computes in one integer op. The model is calibrated and converted once;
    a float copy of it then rounds what the parts that are switched on would round (as ``debug=True`` does),
    once with each part alone, and once with all but that.

    Args:
        model: a float ScriptModule in evaluation mode; or what ``prepare_jit`` returned, after calibration,
            and then `qconfig_dict` and all that prepares a model was said there. It is not changed.
        data: inputs of forward: a list whose items are tuples of what it takes, or its only tensor. All of
            them calibrate a float model.
        qconfig_dict: as for ``prepare_jit``; ``{"": get_default_qconfig()}`` if None.
        metric: ``metric(model) -> float``, higher being better, takes the place of the SQNR of the outputs.
            It is called once for each setting, with a module that behaves as the quantized one would.
        together: measure that too; without, it takes about two thirds of the time.
        samples: how many rows of `data` to measure the SQNR on: calls of larger batches are taken apart where
            rows have nothing to do with each other.
        target, preset, correct_bias, smooth_inputs, round_weights, equalize_layers, methods: as for
            ``prepare_jit``.

    Raises:
        QuantizationError: as ``prepare_jit`` and ``convert_jit`` do; for data that is no input, for dynamic
            qconfigs, where no part is integer, for a metric that gives no number, and without one where
            forward returns no tensor of floating point.
    """
    caller = "sensitivity"
    check_script_module(model, caller)
    check_metric(metric, caller)
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
        raise QuantizationError(f"{caller}: samples is {samples!r}; pass a whole number from 1 up")
    calls = calls_of(data, caller)
    facts = read_info(model)
    if facts is None:
        choice = {"": get_default_qconfig()} if qconfig_dict is None else qconfig_dict
        model = prepare_jit(
            model,
            choice,
            target=target,
            preset=preset,
            correct_bias=correct_bias,
            smooth_inputs=smooth_inputs,
            round_weights=round_weights,
            equalize_layers=equalize_layers,
            methods=methods,
        )
        calibrate(model, calls)
    elif qconfig_dict is not None:
        raise QuantizationError(
            f"{caller}: the model is {facts['stage']} already; leave qconfig_dict out, or give the float "
            "model"
        )
    facts = check_prepared(model, caller)
    check_static(model, caller)
    if not observers_of(model):
        raise QuantizationError(f"{caller}: no part of the model is integer under this qconfig_dict")
    switchable = Switchable(model, facts, convert_jit(model))
    score: Score = (
        ByOutput(switchable, calls, samples, caller)
        if metric is None
        else ByMetric(switchable, metric, caller)
    )
    own = own_sqnr(switchable, score.calls[0]) if metric is None else {}
    return _measured(switchable.parts, score, switchable.multiply_adds(calls[0]), own, together)


def calibrate(prepared: torch.jit.ScriptModule, calls: Sequence[Call]) -> None:
    """Shows the inputs of these calls to the observers."""
    with unspecialized():
        for call in calls:
            call.run(prepared)


def _measured(
    parts: Sequence[Part],
    score: Score,
    multiply_adds: Mapping[Part, int],
    own: Mapping[Part, float],
    together: bool,
) -> Sensitivity:
    integer = score.of(parts)
    rows = []
    for part in parts:
        others = [other for other in parts if other is not part]
        rows.append(
            PartSensitivity(
                **{key: value for key, value in asdict(part).items() if key != "ops"},
                multiply_adds=multiply_adds.get(part, 0),
                alone=score.of([part]),
                own=own.get(part),
                together=score.gain(score.of(others), integer) if together else None,
            )
        )
    rows.sort(key=lambda row: (not _is_lost(row), row.alone, -(row.together or 0)))
    return Sensitivity(tuple(rows), score.unit, score.floating, integer, score.samples)


def _is_lost(row: PartSensitivity) -> bool:
    return row.own is not None and row.own < LOST


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
