"""How the results of the native target lie in memory, as its kernels place them.

csrc/runtime/onednn.cpp: strides_of, in_layout, layout_of.
"""

import torch
from torch import Tensor


def strides_of(sizes: list[int], channels_last: bool) -> list[int]:
    """Strides of a dense tensor, with the second dimension innermost where there are more than two."""
    strides = [1] * len(sizes)
    step = 1
    last = channels_last and len(sizes) > 2
    if last:
        step = max(sizes[1], 1)
    for i in range(len(sizes) - 1, 1 if last else -1, -1):
        strides[i] = step
        step *= max(sizes[i], 1)
    if last:
        strides[0] = step
    return strides


def placed(values: Tensor, channels_last: bool) -> Tensor:
    """The values in new memory with these strides."""
    strides = strides_of(values.shape, channels_last)
    return torch.empty_strided(values.shape, strides, dtype=values.dtype).copy_(values)


def placed_like(values: Tensor, pattern: Tensor) -> Tensor:
    """The values in new memory with the strides of another tensor, which is dense."""
    return torch.empty_strided(values.shape, pattern.stride(), dtype=values.dtype).copy_(values)


def is_channels_last(tensors: list[Tensor]) -> bool:
    """Whether one of some tensors does not lie contiguous, so that a kernel works in channels-last."""
    found = False
    for tensor in tensors:
        found = found or (tensor.dim() > 2 and not tensor.is_contiguous())
    return found


def in_layout(values: Tensor, channels_last: bool) -> Tensor:
    """The tensor itself, or a copy in that layout; what has one channel lies in both."""
    if not channels_last or values.dim() < 3:
        return values.contiguous()
    if values.dim() == 3:
        return values.transpose(1, 2).contiguous().transpose(1, 2)
    if values.dim() == 4:
        return values.contiguous(memory_format=torch.channels_last)
    return values.contiguous(memory_format=torch.channels_last_3d)


def layout_behind(tensors: list[Tensor]) -> bool:
    """Whether operands lie channels-last once they are brought to one layout."""
    wanted = is_channels_last(tensors)
    return is_channels_last([in_layout(tensor, wanted) for tensor in tensors])
