"""Steps of float and integer arithmetic that the formulas share, each exact to the bit.

All of them are compiled by torch.jit, and use ops that round as IEEE 754 says.
"""

import torch
from torch import Tensor


def fma(factor: Tensor, other: Tensor, summand: Tensor) -> Tensor:
    """factor × other + summand of float32 tensors, rounded once: float32.

    The product of two float32 is exact in float64. Its sum with the third is rounded there and then again,
    which is wrong only where the first gave the middle between two float32 and lacks something (`tail`) that
    lies on the other side of it than the one that was taken.
    """
    product = factor.double() * other.double()
    addend = summand.double()
    total = product + addend
    of_product = total - addend
    tail = (product - of_product) + (addend - (total - of_product))  # TwoSum: what `total` lacks
    nearest = total.float()
    rest = total - nearest
    across = total + rest
    is_wrong = (rest * tail > 0) & (across.float() == across)
    return torch.where(is_wrong, across.float(), nearest)


def saturate(integers: Tensor, least: int = 0, most: int = 255) -> Tensor:
    """Integers clipped to [least, most]: float64. NaN stays NaN."""
    return integers.double().clamp(least, most)


def as_float32(number: float) -> float:
    """A double rounded to float32."""
    return torch.tensor(number, dtype=torch.float64).float().double().item()


def run_length(result: Tensor, inputs: list[Tensor]) -> int:
    """How many elements a kernel of ATen does in one run, one after the other; 0 where it uses no vectors.

    Dimensions are taken from the innermost outwards as long as they lie without gaps in all tensors, or one
    input is repeated along all of them. Source: ATen, TensorIterator.cpp, coalesce_dimensions; cpu/Loops.h,
    VectorizedLoop2d.
    """
    length = 1
    is_dense = [True for _ in inputs]
    is_same = [True for _ in inputs]
    for d in memory_order(result):
        if result.size(d) == 1:
            continue
        dense = 0
        repeated = 0
        for i, x in enumerate(inputs):
            stride = 0
            if x.dim() >= result.dim() - d:
                own = d - (result.dim() - x.dim())
                stride = x.stride(own) if x.size(own) > 1 else 0
            is_dense[i] = is_dense[i] and stride == length
            is_same[i] = is_same[i] and stride == 0
            dense += int(is_dense[i])
            repeated += int(is_same[i])
        if result.stride(d) != length or dense + repeated < len(inputs) or repeated > 1:
            return length if length > 1 else 0
        length *= result.size(d)
    return length


def memory_order(x: Tensor) -> list[int]:
    """The dimensions of a tensor without gaps, the innermost first."""
    order: list[int] = []
    for d in range(x.dim() - 1, -1, -1):
        at = len(order)
        while at > 0 and x.stride(order[at - 1]) > x.stride(d):
            at -= 1
        order.insert(at, d)
    return order


def is_in_vector(result: Tensor, inputs: list[Tensor]) -> Tensor:
    """Which elements a kernel of ATen does with vectors: bool.

    Each run is done in pieces of 64 (two vectors of AVX2), and what is left one by one. This is so for one
    thread; several share out what has more than 32,768 elements, and where a share is no multiple of 64, up
    to 63 elements at its end are done one by one too, which torch.jit cannot know. Source: ATen,
    cpu/Loops.h, vectorized_loop.
    """
    total = result.numel()
    length = run_length(result, inputs)
    if length == 0:
        return torch.zeros_like(result, dtype=torch.bool)
    place = torch.arange(total) % length
    whole = place < length // 64 * 64
    return whole.as_strided(result.size(), result.stride())


def is_channels_last(x: Tensor) -> bool:
    """Whether a tensor of four or five dimensions lies in memory with its channels innermost.

    Source: c10, core/MemoryFormat.h, is_channels_last_strides_2d.
    """
    if x.dim() != 4 and x.dim() != 5:
        return False
    order = list(range(x.dim() - 1, 1, -1))
    order.insert(0, 1)
    order.append(0)
    least = 0
    for d in order:
        stride = x.stride(d)
        if x.size(d) == 0 or stride < least or (d == 1 and stride == 0) or (d == 0 and least == x.stride(1)):
            return False
        least = stride * max(x.size(d), 1)
    return True


def empty_as(x: Tensor, size: list[int]) -> Tensor:
    """Memory for the result of a kernel: channels-last where `x` is, else contiguous."""
    if is_channels_last(x):
        if x.dim() == 4:
            return torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last)
        return torch.empty(size, dtype=x.dtype, memory_format=torch.channels_last_3d)
    return torch.empty(size, dtype=x.dtype)


def in_channels_last(x: Tensor) -> Tensor:
    """A copy that has its channels innermost, of four or five dimensions; else one that is contiguous.

    Strides are those of new memory of this format, also where a dimension of one element leaves them open.
    """
    if x.dim() == 4:
        return torch.empty(x.size(), dtype=x.dtype, memory_format=torch.channels_last).copy_(x)
    if x.dim() == 5:
        return torch.empty(x.size(), dtype=x.dtype, memory_format=torch.channels_last_3d).copy_(x)
    return x.contiguous()
