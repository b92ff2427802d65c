"""How far one tensor is from another, in decibels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from jitquant.errors import QuantizationError


def compute_error(x: Tensor | Sequence[Any], y: Tensor | Sequence[Any]) -> Tensor:
    """The signal-to-quantization-noise ratio of ``y``, which stands for ``x``: 20 log10(|x| / |x - y|).

    Args:
        x: the reference: a tensor, or several, in lists or tuples of any depth, as loggers keep them.
        y: the same with errors, of the same sizes. Quantized tensors are dequantized, on either side.

    Returns:
        A tensor of one number, in dB, over all elements together; infinite where there is no error, and NaN
        where both are zero everywhere.

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
    signal = torch.stack([_norm(each) for each in signals])
    noise = torch.stack([_norm(one - other) for one, other in zip(signals, others, strict=True)])
    return 20 * torch.log10(_norm(signal) / _norm(noise))


def _flat(given: Any) -> list[Tensor]:
    if isinstance(given, Tensor):
        return [given.dequantize().detach() if given.is_quantized else given.detach().float()]
    if isinstance(given, list | tuple):
        return [each for part in given for each in _flat(part)]
    kind = type(given).__name__
    raise QuantizationError(f"compute_error: {kind} is no tensor; pass two tensors, or two lists of tensors")


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.vector_norm(x)


def _sizes(tensors: list[Tensor]) -> str:
    return ", ".join("×".join(map(str, each.shape)) or "one number" for each in tensors) or "nothing"
