"""Pools and means of the native target, bit for bit: csrc/runtime/pool.cpp. Sums of integers are exact."""

import torch
from torch import Tensor
from torch.nn import functional

from jitquant.exact.arithmetic import as_float32
from jitquant.exact.native_layout import in_layout, is_channels_last, placed
from jitquant.exact.native_pointwise import rounded_within
from jitquant.exact.onednn_eltwise import times_plus
from jitquant.exact.registry import emulates


def for_each_axis(given: list[int], rank: int) -> list[int]:
    """One number for each dimension of space."""
    return given * rank if len(given) == 1 else given


def pooled_size(size: int, window: int, stride: int, padding: int, dilation: int, rounds_up: bool) -> int:
    """How many windows fit; the last one has to begin inside. csrc/runtime/pool.cpp, Pool."""
    room = size + 2 * padding - dilation * (window - 1) - 1
    windows = (room + (stride - 1 if rounds_up else 0)) // stride + 1
    return windows - 1 if rounds_up and (windows - 1) * stride >= size + padding else windows


def framed(
    input: Tensor,
    window: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    rounds_up: bool,
    value: float,
) -> Tensor:
    """The input with a frame that its windows fill exactly, or with less where the last ones end earlier."""
    sides: list[int] = []
    rank = len(window)
    for i in range(rank - 1, -1, -1):
        size = input.size(i + 2)
        windows = pooled_size(size, window[i], stride[i], padding[i], dilation[i], rounds_up)
        sides.append(padding[i])
        sides.append((windows - 1) * stride[i] + dilation[i] * (window[i] - 1) + 1 - size - padding[i])
    return functional.pad(input, sides, value=value)


def with_three_axes(input: Tensor) -> Tensor:
    """An image or a line as a volume."""
    while input.dim() < 5:
        input = input.unsqueeze(2)
    return input


def in_three_axes(given: list[int], value: int) -> list[int]:
    """The same for sizes."""
    return [value] * (3 - len(given)) + given


def window_sums(input: Tensor, window: list[int], stride: list[int]) -> Tensor:
    """The sum of each window."""
    sums = functional.avg_pool3d(
        with_three_axes(input), in_three_axes(window, 1), in_three_axes(stride, 1), divisor_override=1
    )
    return sums.reshape(input.shape[:2] + sums.shape[5 - len(window) :])


def averaged(sums: Tensor, counts: Tensor) -> Tensor:
    """round(float32(sum) × float32(1 / count)).

    oneDNN 3.2, src/cpu/x64/jit_uni_i8i8_pooling.cpp, compute_avg_step.
    """
    return torch.round(sums.float() * (1.0 / counts.double()).float()).clamp(0, 255).double()


@emulates("jitquant::pool", target="native")
def pool(
    input: Tensor,
    kind: str,
    window: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int] | None,
    ceil_mode: bool,
    count_include_pad: bool,
) -> Tensor:
    """The highest of each window, or its average, rounded; csrc/runtime/pool.cpp, Pool."""
    rank = len(window)
    strides = window if len(stride) == 0 else for_each_axis(stride, rank)
    paddings = for_each_axis(padding, rank)
    dilations = [1] * rank if dilation is None else for_each_axis(dilation, rank)
    filled = framed(input, window, strides, paddings, dilations, ceil_mode, 0.0)
    if kind == "max":
        result = functional.max_pool3d(
            with_three_axes(filled),
            in_three_axes(window, 1),
            in_three_axes(strides, 1),
            dilation=in_three_axes(dilations, 1),
        )
        return placed(result.reshape(input.shape[:2] + result.shape[5 - rank :]), True)
    ones = torch.ones_like(filled[:1, :1])
    if not count_include_pad:
        ones = framed(torch.ones_like(input[:1, :1]), window, strides, paddings, dilations, ceil_mode, 0.0)
    sums = window_sums(filled, window, strides)
    return placed(averaged(sums, window_sums(ones, window, strides)), True)


@emulates("jitquant::adaptive_avg_pool", target="native")
def adaptive_avg_pool(input: Tensor, size: list[int]) -> Tensor:
    """The average of each window, rounded. Windows of several sizes are averaged by ATen in float32.

    csrc/runtime/pool.cpp, AdaptiveAvgPool.
    """
    rank = len(size)
    window: list[int] = []
    even = True
    for i in range(rank):
        even = even and input.size(i + 2) % size[i] == 0
        window.append(input.size(i + 2) // size[i])
    if even:
        counts = torch.full([1], 1.0)
        for length in window:
            counts = counts * length
        return placed(averaged(window_sums(input, window, window), counts), True)
    values = in_layout(input, True).float()
    if rank == 1:
        return torch.round(functional.adaptive_avg_pool1d(values, size)).double()
    if rank == 2:
        return torch.round(torch._C._nn.adaptive_avg_pool2d(values, size)).double()
    return torch.round(torch._C._nn.adaptive_avg_pool3d(values, size)).double()


def columns_of(input: Tensor, goes: list[bool], space_comes_first: bool) -> list[int]:
    """In the order of memory [outer, rows, inner], of which the rows are averaged; empty where it is not so.

    csrc/runtime/pool.cpp, Mean::columns_of.
    """
    outer, rows, inner = 1, 1, 1
    if space_comes_first:
        outer, inner = input.size(0), input.size(1)
        rows = input.numel() // (outer * inner)
    elif not input.is_contiguous():
        return []
    else:
        for i in range(input.dim()):
            if goes[i]:
                if inner > 1:
                    return []
                rows *= input.size(i)
            elif rows > 1:
                inner *= input.size(i)
            else:
                outer *= input.size(i)
    return [outer, rows, inner] if inner > 1 and rows <= 65536 else []


@emulates("jitquant::mean", target="native")
def mean(
    input: Tensor,
    dim: list[int],
    keepdim: bool,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
) -> Tensor:
    """A mean over whole dimensions: by oneDNN's pool, our loop, or ATen; Mean of csrc/runtime/pool.cpp."""
    rounds = scale is not None
    factor = input_scale / (1.0 if scale is None else scale)
    shift = (0.0 if scale is None else float(zero_point)) - input_zero_point * factor
    goes = [False] * input.dim()
    for axis in dim:
        goes[axis] = True
    covers_space = input.dim() > 2 and input.dim() < 6
    for i in range(input.dim()):
        covers_space = covers_space and goes[i] == (i > 1)
    input = in_layout(input, is_channels_last([input]))
    last = is_channels_last([input])
    columns = columns_of(input, goes, covers_space and last)
    if covers_space and rounds and factor == 1 and shift == 0 and input.numel() > 0:
        sums = input.sum(dim, keepdim)
        counts = torch.full([1], float(input.numel() // (input.size(0) * input.size(1))))
        if not last and input.size(1) > 1:  # oneDNN has its reference for it: src/cpu/ref_pooling.cpp
            return placed(torch.round(sums.float() / counts).double(), last)
        return placed(averaged(sums, counts), last)
    if len(columns) > 0:
        values = times_plus(input.sum(dim, keepdim).float(), factor / columns[1], as_float32(shift))
        low = 0.0 if rounds else -float("inf")
        high = 255.0 if rounds else float("inf")
        return placed(rounded_within(values, low, high, rounds), False)
    values = input.float().mean(dim, keepdim) * factor + shift
    return torch.round(values.clamp(0, 255)).double() if rounds else values


@emulates("aten::upsample_bilinear2d", target="native")
def upsample_bilinear2d(
    self: Tensor, output_size: list[int], align_corners: bool, scales_h: float | None, scales_w: float | None
) -> Tensor:
    """Integers by the op on bytes, which has weights of 16 bits and rounds; floats as they are.

    Source: ATen, cpu/UpSampleKernel.cpp, upsample_bilinear2d_kernel_impl.
    """
    is_held = self.dtype == torch.float64
    x = self.to(torch.uint8) if is_held else self
    result = torch.ops.aten.upsample_bilinear2d(x, output_size, align_corners, scales_h, scales_w)
    return result.double() if is_held else result


@emulates("aten::upsample_bilinear2d.vec", target="native")
def upsample_bilinear2d_vec(
    input: Tensor, output_size: list[int] | None, align_corners: bool, scale_factors: list[float] | None
) -> Tensor:
    """See `upsample_bilinear2d`."""
    is_held = input.dtype == torch.float64
    x = input.to(torch.uint8) if is_held else input
    result = torch.ops.aten.upsample_bilinear2d(x, output_size, align_corners, scale_factors)
    return result.double() if is_held else result
