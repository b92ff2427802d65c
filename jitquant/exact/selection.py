"""Ops that choose among the integers of their input, and give them its scale: no rounding of their own."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import empty_as, in_channels_last
from jitquant.exact.registry import Quantized, emulates


@emulates("aten::max_pool1d")
def max_pool1d(
    x: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> Quantized:
    """The largest integer of each window; padding is below all. Source: ATen, quantized/cpu/Pooling.cpp."""
    result = torch.max_pool1d(x[0], kernel_size, stride, padding, dilation, ceil_mode)
    return result, x[1], x[2]


@emulates("aten::max_pool2d")
def max_pool2d(
    x: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> Quantized:
    """The largest integer of each window; padding is below all. Source: ATen, quantized/cpu/Pooling.cpp."""
    result = torch.max_pool2d(x[0], kernel_size, stride, padding, dilation, ceil_mode)
    return result, x[1], x[2]


@emulates("aten::max_pool3d")
def max_pool3d(
    x: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    ceil_mode: bool,
) -> Quantized:
    """The largest integer of each window; padding is below all. Source: ATen, quantized/cpu/Pooling.cpp."""
    result = torch.max_pool3d(x[0], kernel_size, stride, padding, dilation, ceil_mode)
    return result, x[1], x[2]


def nearest(x: Quantized, sizes: list[int], factors: list[float | None]) -> Quantized:
    """The element at min(floor(i · s), n - 1) for result i, where s is 1 / factor, or n / size: float32.

    Source: ATen, quantized/cpu/UpSampleNearest2d.cpp and UpSampleNearest3d.cpp; native/UpSample.h,
    compute_scales_value and nearest_neighbor_compute_source_index.
    """
    result = x[0]
    for i, size in enumerate(sizes):
        d = x[0].dim() - len(sizes) + i
        count = x[0].size(d)
        factor = factors[i]
        step = torch.full([1], float(count)) / size
        if factor is not None and factor > 0:
            step = torch.full([1], 1.0 / factor)
        places = torch.floor(torch.arange(size).float() * step).long().clamp_max(count - 1)
        result = result.index_select(d, places)
    if x[0].size() == result.size():
        result = x[0]  # whatever the factors are
    return empty_as(x[0], list(result.size())).copy_(result), x[1], x[2]


def sizes_and_factors(
    x: Tensor, sizes: list[int] | None, factors: list[float] | None, dims: int
) -> tuple[list[int], list[float | None]]:
    """Of the last dimensions, where one or the other is told.

    Source: ATen, UpSample.cpp, compute_output_size.
    """
    known: list[float | None] = []
    wanted: list[int] = []
    for i in range(dims):
        if factors is not None:
            known.append(factors[i])
            wanted.append(int(float(x.size(x.dim() - dims + i)) * factors[i]))
        else:
            known.append(None)
    return (wanted if sizes is None else sizes), known


@emulates("aten::upsample_nearest2d")
def upsample_nearest2d(
    self: Quantized, output_size: list[int], scales_h: float | None, scales_w: float | None
) -> Quantized:
    """See `nearest`."""
    return nearest(self, output_size, [scales_h, scales_w])


@emulates("aten::upsample_nearest3d")
def upsample_nearest3d(
    self: Quantized,
    output_size: list[int],
    scales_d: float | None,
    scales_h: float | None,
    scales_w: float | None,
) -> Quantized:
    """See `nearest`."""
    return nearest(self, output_size, [scales_d, scales_h, scales_w])


@emulates("aten::upsample_nearest2d.vec")
def upsample_nearest2d_vec(
    input: Quantized, output_size: list[int] | None, scale_factors: list[float] | None
) -> Quantized:
    """See `nearest`."""
    sizes, factors = sizes_and_factors(input[0], output_size, scale_factors, 2)
    return nearest(input, sizes, factors)


@emulates("aten::upsample_nearest3d.vec")
def upsample_nearest3d_vec(
    input: Quantized, output_size: list[int] | None, scale_factors: list[float] | None
) -> Quantized:
    """See `nearest`."""
    sizes, factors = sizes_and_factors(input[0], output_size, scale_factors, 3)
    return nearest(input, sizes, factors)


@emulates("aten::clone")
def clone(self: Quantized, memory_format: int | None) -> Quantized:
    """The same, contiguous unless another format is told.

    Source: ATen, quantized/QTensor.cpp, quantized_clone.
    """
    x = self[0]
    told = 0 if memory_format is None else memory_format
    if told == 1:  # as it is; as torch.jit counts formats
        return empty_as(x, list(x.size())).copy_(x), self[1], self[2]
    if told == 2 or told == 3:
        return in_channels_last(x), self[1], self[2]
    return x.clone(memory_format=torch.contiguous_format), self[1], self[2]


@emulates("aten::pixel_shuffle")
def pixel_shuffle(self: Quantized, upscale_factor: int) -> Quantized:
    """The same elements, contiguous. Source: ATen, PixelShuffle.cpp, math_pixel_shuffle."""
    result = torch.pixel_shuffle(self[0], upscale_factor)
    return result.clone(memory_format=torch.contiguous_format), self[1], self[2]


@emulates("aten::pixel_unshuffle")
def pixel_unshuffle(self: Quantized, downscale_factor: int) -> Quantized:
    """The same elements, contiguous. Source: ATen, PixelShuffle.cpp, math_pixel_unshuffle."""
    result = torch.pixel_unshuffle(self[0], downscale_factor)
    return result.clone(memory_format=torch.contiguous_format), self[1], self[2]


@emulates("aten::reflection_pad2d")
def reflection_pad2d(self: Quantized, padding: list[int]) -> Quantized:
    """The same elements and their reflections, contiguous. Source: ATen, ReflectionPad.cpp."""
    result = torch.nn.functional.pad(self[0], padding, "reflect")
    return result.clone(memory_format=torch.contiguous_format), self[1], self[2]
