"""How far one tensor is from another, in decibels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jitquant.errors import QuantizationError


def compute_error(x: Tensor | Sequence[Any], y: Tensor | Sequence[Any]) -> Tensor:
    """The signal-to-quantization-noise ratio of ``y``, which stands for ``x``: 20 log10(|x| / |x - y|).

    Values that are equal on both sides are no error, infinities and NaN among them, as behind a mask; such
    count for no signal. An infinity or NaN against any other value is an infinite error.

    Args:
        x: the reference: a tensor, or several, in lists or tuples of any depth, as loggers keep them.
        y: the same with errors, of the same sizes. Quantized tensors are dequantized, on either side.

    Returns:
        A float64 tensor of one number, in dB, over all elements together; infinite where there is no error,
        and NaN where both are zero everywhere. All is computed in float64.

    Raises:
        QuantizationError: where the sizes differ.
    """
    signals, others = _flat(x), _flat(y)
    if [each.shape for each in signals] != [each.shape for each in others]:
        raise QuantizationError(
            f"compute_error: the sizes differ, {_sizes(signals)} and {_sizes(others)}; "
            "compare what both models gave for the same data"
        )
    if not signals:
        raise QuantizationError("compute_error: there is nothing to compare; the lists are empty")
    energies = [energies_of(one, other) for one, other in zip(signals, others, strict=True)]
    signal, noise = (math.fsum(each) for each in zip(*energies, strict=True))
    return torch.tensor(decibels_of(signal, noise), dtype=torch.float64)


def energies_of(expected: Tensor, got: Tensor) -> tuple[float, float]:
    """Sums of squares of two tensors of one shape: of the signal, and of the error in it (see
    ``compute_error``)."""
    signal = as_double(expected)
    signal = torch.where(signal.isfinite(), signal, 0.0)
    return float(signal.square().sum()), float(error_of(expected, got).square().sum())


def error_of(expected: Tensor, got: Tensor) -> Tensor:
    """`got` minus `expected` in float64: 0 where they are equal, and infinite where an infinity or NaN
    stands against another value."""
    one, other = as_double(expected), as_double(got)
    error = other - one
    error = torch.where(error.isfinite(), error, math.inf)
    return torch.where((one == other) | (one.isnan() & other.isnan()), 0.0, error)


def decibels_of(signal: float, noise: float) -> float:
    """10 log10 of the ratio of two sums of squares: infinite where one is 0, NaN where both are."""
    if noise == 0:
        return math.inf if signal else math.nan
    ratio = signal / noise
    return 10 * math.log10(ratio) if ratio else -math.inf


def as_double(x: Tensor) -> Tensor:
    """A value of either model as float64, without its gradient."""
    return (x.dequantize() if x.is_quantized else x).detach().double()


def _flat(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given]
    if isinstance(given, list | tuple):
        return [each for part in given for each in _flat(part)]
    kind = type(given).__name__
    raise QuantizationError(f"compute_error: {kind} is no tensor; pass two tensors, or two lists of tensors")


def _sizes(tensors: list[Tensor]) -> str:
    return ", ".join("×".join(map(str, each.shape)) or "one number" for each in tensors) or "nothing"
