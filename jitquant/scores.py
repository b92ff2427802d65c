"""What a model is worth beside float: the SQNR of its outputs, or a metric of the user's own."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from jitquant.calls import Call, in_pieces, unspecialized
from jitquant.errors import QuantizationError
from jitquant.switchable import Part, Switchable
from jitquant.text_table import decibels

Metric = Callable[[torch.jit.ScriptModule], Any]


class Score:
    """What a setting of the switches is worth, higher being better."""

    unit: str
    calls: Sequence[Call] = ()
    samples = 0
    floating: float

    def __init__(self, switchable: Switchable) -> None:
        self._switchable = switchable

    def of(self, on: Collection[Part]) -> float:
        """Of the model with these parts integer and all others float."""
        with self._switchable.running(on) as module:
            return self.of_module(module)

    def of_module(self, module: torch.jit.ScriptModule) -> float:
        """The same of any module."""
        raise NotImplementedError

    def words(self, value: float) -> str:
        """The value with its unit."""
        return f"{decibels(value)} dB" if self.unit == "dB" else f"a metric of {value:.4g}"

    def noise(self, value: float) -> float:
        """What of several parts adds up: the power of the noise over that of the signal, or the loss."""
        if value == -math.inf:
            return math.inf
        return 10 ** (-value / 10) if self.unit == "dB" else self.floating - value

    def gain(self, more: float, less: float) -> float:
        """By how much one is more than the other."""
        return more - less if more != less else 0.0


class ByOutput(Score):
    """SQNR of the outputs in dB, over all outputs of all calls together."""

    unit = "dB"
    floating = math.inf

    def __init__(self, switchable: Switchable, calls: Sequence[Call], samples: int, caller: str) -> None:
        super().__init__(switchable)
        with switchable.running(()) as module, unspecialized():
            self.calls = in_pieces(module, calls, samples)
            self._float = [call.run(module) for call in self.calls]
        self.samples = sum(call.rows for call in self.calls)
        if not any(self._float):
            raise QuantizationError(
                f"{caller}: the outputs hold no tensor of floating point to compare; pass metric=, a "
                "function that gives a number for a model"
            )

    def of_module(self, module: torch.jit.ScriptModule) -> float:
        """The same of any module."""
        with unspecialized():
            given = (call.run(module) for call in self.calls)
            return _sqnr(zip(self._float, given, strict=True))

    def of_calls(self, module: torch.jit.ScriptModule, calls: Sequence[Call]) -> float:
        """The same on other calls. No output is kept: the float model runs beside the module, by calls."""
        with self._switchable.running(()) as floating, unspecialized():
            return _sqnr((call.run(floating), call.run(module)) for call in calls)


def _sqnr(pairs: Iterable[tuple[Sequence[Tensor], Sequence[Tensor]]]) -> float:
    """In dB, of all outputs together: pairs of float's and those to judge."""
    signal = noise = 0.0
    for expected, given in pairs:
        if [tensor.shape for tensor in given] != [tensor.shape for tensor in expected]:
            return -math.inf  # what is found is something else
        for theirs, ours in zip(expected, given, strict=True):
            more_signal, more_noise = _powers(theirs.double(), ours.double())
            signal, noise = signal + more_signal, noise + more_noise
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal and math.isfinite(noise) else -math.inf


def _powers(theirs: Tensor, ours: Tensor) -> tuple[float, float]:
    """Of signal and noise. What is infinite in both, as where scores are masked, counts as neither."""
    finite = theirs.isfinite()
    same = finite & ours.isfinite() | (theirs == ours) | (theirs.isnan() & ours.isnan())
    if not bool(same.all()):
        return 0.0, math.inf
    signal = theirs[finite]
    return float(signal.square().sum()), float((ours[finite] - signal).square().sum())


class ByMetric(Score):
    """The user's own metric."""

    unit = "metric"

    def __init__(self, switchable: Switchable, metric: Metric, caller: str) -> None:
        super().__init__(switchable)
        self._metric = metric
        self._caller = caller
        self.floating = self.of(())

    def of_module(self, module: torch.jit.ScriptModule) -> float:
        """The same of any module."""
        with unspecialized():
            value = self._metric(module)
        try:
            number = float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if math.isnan(number):
            raise QuantizationError(
                f"{self._caller}: metric returned {value!r:.60}; let it return a number, higher being better"
            )
        return number


def own_sqnr(switchable: Switchable, call: Call) -> dict[Part, float]:
    """Of each part the median SQNR of the channels of its own result in dB, where it alone is integer.

    Channels are alike here. In the SQNR of the outputs one that is 1,000 times the others hides that the
    scale it asks for leaves nothing of them. Channels that are zero in float do not count, nor do parts whose
    result has a shape of its own each time.
    """
    expected = switchable.values((), {part.ops[0] for part in switchable.parts}, call)
    found = {}
    for part in switchable.parts:
        op = part.ops[0]
        given = switchable.values([part], {op}, call).get(op)
        if given is not None and given.dim() and op in expected and given.shape == expected[op].shape:
            found[part] = _median_sqnr(expected[op], given, _channel_of(part.op, given.dim()))
    return found


def _channel_of(op: str, dims: int) -> int:
    """The dimension of a result's channels: of convolutions by kind, else that of images or the last."""
    if kind := re.fullmatch(r"aten::conv(?:_transpose)?([123])d", op):
        return dims - 1 - int(kind[1])
    return 1 if dims in (4, 5) else dims - 1


def _median_sqnr(theirs: Tensor, ours: Tensor, channel: int) -> float:
    rows = [
        tensor.double().movedim(channel, 0).unsqueeze(-1).flatten(1) for tensor in (theirs, ours - theirs)
    ]
    signal, noise = (row.square().sum(1) for row in rows)
    counted = signal.isfinite() & (signal > 0)
    if not bool(counted.any()):
        return math.inf
    return float((10 * torch.log10(signal[counted] / noise[counted])).nan_to_num(-math.inf).median())


def check_metric(metric: Any, caller: str) -> None:
    """Raises QuantizationError unless the metric is None or can be called."""
    if metric is not None and not callable(metric):
        raise QuantizationError(
            f"{caller}: metric is a {type(metric).__name__}; pass a function that takes a model and gives a "
            "number, higher being better"
        )
