"""What a model is worth beside float: the SQNR of its outputs, or a metric of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch

from jitquant.calls import Call, in_pieces, unspecialized
from jitquant.errors import QuantizationError
from jitquant.switchable import Part, Switchable
from jitquant.text_table import decibels

Metric = Callable[[torch.jit.ScriptModule], Any]


class Score:
    """What a setting of the switches is worth, higher being better."""

    unit: str
    calls: list[Call]
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
        noise = signal = 0.0
        for call, expected in zip(self.calls, self._float, strict=True):
            with unspecialized():
                given = call.run(module)
            if [tensor.shape for tensor in given] != [tensor.shape for tensor in expected]:
                return -math.inf  # what is found is something else
            for ours, theirs in zip(given, expected, strict=True):
                signal += float(theirs.double().square().sum())
                noise += float((ours.double() - theirs.double()).square().sum())
        if math.isnan(noise):
            return -math.inf
        return math.inf if noise == 0 else 10 * math.log10(signal / noise) if signal else -math.inf


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


def check_metric(metric: Any, caller: str) -> None:
    """Raises QuantizationError unless the metric is None or can be called."""
    if metric is not None and not callable(metric):
        raise QuantizationError(
            f"{caller}: metric is a {type(metric).__name__}; pass a function that takes a model and gives a "
            "number, higher being better"
        )
