"""Values of a float model and of its quantized twin, compared op by op over many batches."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jitquant.info import read_info
from jitquant.numeric_suite.calls import call, own
from jitquant.numeric_suite.matched import Matched
from jitquant.pair_histogram import PairHistogram, sqnr_of
from jitquant.watch import Watched

HELD_BYTES = 1 << 28  # of float values, until the quantized ones of the same batch are there

_KNOWN_BEFOREHAND = ((2.0**-8, 0), (2.0**-7, 128))  # of sigmoid and softmax, and of tanh

__all__ = ["Comparison", "compare_values"]


@dataclass
class Comparison:
    """What was seen so far.

    Attributes:
        histograms: of the values that both models give, by the number of the op.
        signal, noise: sums of squares, of the float outputs and of what the quantized ones differ by.
        batches: how many.
    """

    histograms: dict[int, PairHistogram] = field(default_factory=dict)
    signal: float = 0.0
    noise: float = 0.0
    batches: int = 0

    @property
    def sqnr(self) -> float | None:
        return sqnr_of(self.signal, self.noise)


def compare_values(
    matched: Matched, quantized: torch.jit.ScriptModule, batches: Iterator[tuple[Any, ...]], caller: str
) -> Comparison:
    """Runs both models on each batch.

    Each is run as often as it takes to hold no more than `HELD_BYTES` of float values at once, or those of
    one op.
    """
    comparison = Comparison()
    models = _Models(matched, quantized, caller)
    parts: list[list[int]] | None = None
    for inputs in batches:
        parts = parts or models.parts(inputs)
        for part in parts:
            expected, got = models.compare(inputs, part, comparison.histograms)
        _add_outputs(comparison, expected, got)
        comparison.batches += 1
    return comparison


@dataclass(frozen=True)
class _Models:
    matched: Matched
    quantized: torch.jit.ScriptModule
    caller: str

    def parts(self, inputs: tuple[Any, ...]) -> list[list[int]]:
        """The ops whose values both models give, in groups that are held together."""
        both = self._twin(()).visible & Watched(self.quantized, outputs=()).visible
        results = sorted(op.index for op in self.matched.ops if op.index in both and op.method == "forward")
        sizes: dict[int, int] = dict.fromkeys(results, 0)

        def measure(index: int, value: Tensor) -> None:
            sizes[index] += value.numel() * value.element_size()

        call(self._twin(results), inputs, self.caller, on_output=measure)
        parts: list[list[int]] = [[]]
        held = 0
        for index in results:
            if parts[-1] and held + sizes[index] > HELD_BYTES:
                parts.append([])
                held = 0
            parts[-1].append(index)
            held += sizes[index]
        return parts

    def compare(
        self, inputs: tuple[Any, ...], part: Collection[int], histograms: dict[int, PairHistogram]
    ) -> tuple[Any, Any]:
        """Compares the values of some ops, in a loop those of each turn; gives what both models return."""
        expected: dict[int, list[Tensor]] = {index: [] for index in part}

        def hold(index: int, value: Tensor) -> None:
            # Smoothing lets a layer norm divide what it gives, and linears multiply their weights instead.
            divisor = self.matched.divisors.get(index)
            expected[index].append(own(value) if divisor is None else value / divisor)

        def compare(index: int, value: Tensor) -> None:
            turns = expected[index]
            if turns and turns[0].shape == value.shape and turns[0].is_floating_point():
                if index not in histograms:
                    histograms[index] = PairHistogram(self._steps(value))
                histograms[index].add(turns.pop(0), value)

        returned = call(self._twin(part), inputs, self.caller, on_output=hold)
        return returned, call(Watched(self.quantized, outputs=part), inputs, self.caller, on_output=compare)

    def _steps(self, value: Tensor) -> int | None:
        """How many integers its range was chosen for; None for all. Ranges known beforehand use 8 bits."""
        if not self.are_reduced or value.dtype != torch.quint8:
            return None
        return None if (value.q_scale(), value.q_zero_point()) in _KNOWN_BEFOREHAND else 1 << 7

    @cached_property
    def are_reduced(self) -> bool:
        """Whether activations keep to 7 bits: the fact is true of weights that do, as well."""
        facts = read_info(self.quantized) or {}
        of_activations = [words.partition(";")[0] for words in facts.get("qconfig", {}).values()]
        return bool(facts.get("reduce_range")) and not any("0 to 255" in words for words in of_activations)

    def _twin(self, outputs: Collection[int]) -> Watched:
        return Watched(self.matched.twin, self.quantized, outputs=outputs)


def _add_outputs(comparison: Comparison, expected: Any, got: Any) -> None:
    for one, other in zip(_tensors_in(expected), _tensors_in(got), strict=False):
        if one.is_floating_point() and one.shape == other.shape:
            one, other = one.double(), _plain(other).double()
            comparison.signal += float(one.square().sum())
            comparison.noise += float((one - other).square().sum())


def _plain(value: Tensor) -> Tensor:
    return value.dequantize() if value.is_quantized else value


def _tensors_in(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors_in(part)
