"""Means over windows and over dimensions on stock torch's engines."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import empty_as, fma, is_channels_last, saturate
from jitquant.exact.pointwise import dequantize, rounded_once
from jitquant.exact.registry import Quantized, emulates


def adaptive_windows(size: int, results: int) -> Tensor:
    """Which elements each result takes in, as ones and zeros: results × size, float64."""
    place = torch.arange(results)
    start = place * size // results
    end = ((place + 1) * size + results - 1) // results
    column = torch.arange(size)
    return ((column >= start.unsqueeze(1)) & (column < end.unsqueeze(1))).double()


def sliding_windows(size: int, results: int, kernel: int, stride: int, padding: int) -> Tensor:
    """Which elements each result takes in, as ones and zeros: results × size, float64."""
    start = torch.arange(results) * stride - padding
    column = torch.arange(size)
    return ((column >= start.unsqueeze(1)) & (column < (start + kernel).unsqueeze(1))).double()


def summed(x: Tensor, windows: list[Tensor]) -> Tensor:
    """The sums over windows of the last dimensions: float64, exact."""
    for i, window in enumerate(windows):
        d = x.dim() - len(windows) + i
        x = torch.matmul(x.transpose(d, -1), window.t()).transpose(d, -1)
    return x


def counted(windows: list[Tensor]) -> Tensor:
    """How many elements each result takes in: float64, of as many dimensions as there are windows."""
    count = torch.ones([1] * len(windows), dtype=torch.float64)
    for i, window in enumerate(windows):
        shape = [1] * len(windows)
        shape[i] = window.size(0)
        count = count * window.sum(1).reshape(shape)
    return count


def averaged_in_channels(sums: Tensor, divisor: Tensor, zero_point: int, channel: int) -> Tensor:
    """Centred sums divided as the kernels for channels-last do it: float64.

    The scale is the reciprocal of 1 / divisor, both float32, and its reciprocal again the factor. The
    channels that fill vectors of eight are rounded with the zero point added in one step; the others behind
    a rounding. Source: ATen, QuantizedOpKernels.cpp, _qadaptive_avg_pool_kernel, and quantize_vec.
    """
    multiplier = 1 / divisor.float()
    factor = (1 / (1 / multiplier)).expand_as(sums)
    real = sums.float()
    fused = fma(real, factor, torch.full_like(real, float(zero_point)))
    apart = real * factor + zero_point
    shape = [1] * sums.dim()
    shape[channel] = sums.size(channel)
    in_vector = (torch.arange(sums.size(channel)) < sums.size(channel) // 8 * 8).reshape(shape)
    return saturate(torch.round(torch.where(in_vector, fused, apart)).double())


def adaptive_average(self: Quantized, sizes: list[int]) -> Quantized:
    """Means over windows of the last dimensions.

    In channels-last `averaged_in_channels`; else round(sum · (1 / n)), where 1 / n is divided by the sizes
    of the window one after the other. Source: ATen, quantized/cpu/AdaptiveAveragePooling.cpp.
    """
    integers, scale, zero_point = self
    windows: list[Tensor] = []
    for i, size in enumerate(sizes):
        windows.append(adaptive_windows(integers.size(integers.dim() - len(sizes) + i), size))
    is_last = integers.is_contiguous(memory_format=torch.channels_last) if integers.dim() == 4 else False
    if integers.dim() == 5:
        is_last = integers.is_contiguous(memory_format=torch.channels_last_3d)
    if is_last:
        sums = summed(integers - zero_point, windows)
        result = averaged_in_channels(sums, counted(windows), zero_point, sums.dim() - len(sizes) - 1)
        if is_channels_last(integers):
            if result.dim() == 4:
                return result.clone(memory_format=torch.channels_last), scale, zero_point
            return result.clone(memory_format=torch.channels_last_3d), scale, zero_point
        return result.clone(memory_format=torch.contiguous_format), scale, zero_point
    sums = summed(integers, windows)
    factor = torch.ones([1] * len(windows))
    for i, window in enumerate(windows):
        shape = [1] * len(windows)
        shape[i] = window.size(0)
        factor = factor / window.sum(1).float().reshape(shape)
    result = torch.round(sums.float() * factor).double()
    return result.clone(memory_format=torch.contiguous_format), scale, zero_point


@emulates("aten::mean.dim")
def mean(self: Quantized, dim: list[int] | None, keepdim: bool, dtype: int | None) -> Quantized:
    """The mean over some dimensions.

    Over the last ones of what is contiguous round(sum / n) of float32; else the float mean of what is
    dequantized, quantized again. Source: ATen, quantized/cpu/ReduceOps.cpp; QuantizedOpKernels.cpp,
    qmean_inner_dim_kernel.
    """
    integers, scale, zero_point = self
    dims: list[int] = []
    if dim is not None:
        for d in dim:
            dims.append(d % integers.dim())
    if len(dims) == 0:
        dims = list(range(integers.dim()))
    dims.sort()
    is_inner = integers.is_contiguous()
    count = 1
    for i, d in enumerate(dims):
        is_inner = is_inner and d == integers.dim() - len(dims) + i
        count *= integers.size(d)
    if is_inner:
        sums = torch.sum(integers, dims, keepdim)
        result = torch.round(sums.float() / count).double()
        return result, scale, zero_point
    real = torch.mean(dequantize(self), dims, keepdim)
    return rounded_once(real, scale, zero_point)


@emulates("aten::adaptive_avg_pool2d")
def adaptive_avg_pool2d(self: Quantized, output_size: list[int]) -> Quantized:
    """See `adaptive_average`."""
    return adaptive_average(self, output_size)


@emulates("aten::adaptive_avg_pool3d")
def adaptive_avg_pool3d(self: Quantized, output_size: list[int]) -> Quantized:
    """See `adaptive_average`; to a single element it is `mean`.

    Source: ATen, AdaptiveAveragePooling3d.cpp, adaptive_avg_pool3d.
    """
    if output_size == [1, 1, 1]:
        result = mean(self, [-1, -2, -3], True, None)
        if is_channels_last(self[0]):
            return result[0].clone(memory_format=torch.channels_last_3d), result[1], result[2]
        return result
    return adaptive_average(self, output_size)


@emulates("aten::adaptive_avg_pool1d")
def adaptive_avg_pool1d(self: Quantized, output_size: list[int]) -> Quantized:
    """As `adaptive_average` of one row."""
    x = (self[0].unsqueeze(-2), self[1], self[2])
    result = adaptive_average(x, [1, output_size[0]])
    return result[0].squeeze(-2), result[1], result[2]


def average(
    self: Quantized,
    kernel: list[int],
    strides: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Quantized:
    """Means over sliding windows of the last dimensions, as many as the kernel has.

    Channels-last vectors of sixteen channels are round(centred sum · (1 / divisor)) + zero point; else it
    is round(centred sum · f + zero point), where f is the reciprocal of the reciprocal of 1 / divisor, all
    float32. Source: ATen, quantized/cpu/AveragePool2d.cpp; QuantizedOpKernels.cpp, _qavg_pool_nhwc_kernel.
    """
    integers, scale, zero_point = self
    steps = kernel if len(strides) == 0 else strides
    dims = len(kernel)
    # Of a mean of floats with the same arguments only the size is used.
    if dims == 2:
        sizes = torch.nn.functional.avg_pool2d(integers.float(), kernel, steps, padding, ceil_mode).size()
    else:
        sizes = torch.nn.functional.avg_pool3d(integers.float(), kernel, steps, padding, ceil_mode).size()
    windows: list[Tensor] = []
    padded: list[Tensor] = []
    for i in range(dims):
        size, results = integers.size(integers.dim() - dims + i), sizes[len(sizes) - dims + i]
        windows.append(sliding_windows(size, results, kernel[i], steps[i], padding[i]))
        # Padding counts as elements, but not what lies beyond it.
        padded.append(sliding_windows(size + 2 * padding[i], results, kernel[i], steps[i], 0))
    sums = summed(integers - zero_point, windows)
    divisor = counted(padded if count_include_pad else windows)
    if divisor_override is not None:
        divisor = torch.full_like(divisor, float(divisor_override))
    multiplier = 1 / divisor.float()
    behind = saturate(torch.round(sums.float() * (1 / (1 / multiplier)) + zero_point).double())
    if dims == 3 or is_channels_last(integers):
        before = saturate(torch.round(sums.float() * multiplier).double() + zero_point)
        channels = sums.size(-dims - 1)
        in_vector = (torch.arange(channels) < channels // 16 * 16).reshape([-1] + [1] * dims)
        result = torch.where(in_vector, before, behind)
        like = integers if dims == 2 else integers.contiguous(memory_format=torch.channels_last_3d)
        return empty_as(like, list(result.size())).copy_(result), scale, zero_point
    return behind.clone(memory_format=torch.contiguous_format), scale, zero_point


@emulates("aten::avg_pool2d")
def avg_pool2d(
    self: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Quantized:
    """See `average`."""
    return average(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)


@emulates("aten::avg_pool1d")
def avg_pool1d(
    self: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
) -> Quantized:
    """As `average` of one row. Source: ATen, Pooling.cpp, avg_pool1d."""
    x = (self[0].unsqueeze(-2), self[1], self[2])
    steps = [1, stride[0]] if len(stride) > 0 else [1, kernel_size[0]]
    result = average(x, [1, kernel_size[0]], steps, [0, padding[0]], ceil_mode, count_include_pad, None)
    return result[0].squeeze(-2), result[1], result[2]


@emulates("aten::avg_pool3d")
def avg_pool3d(
    self: Quantized,
    kernel_size: list[int],
    stride: list[int],
    padding: list[int],
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: int | None,
) -> Quantized:
    """See `average`; whatever the layout, it is done in channels-last.

    Source: ATen, quantized/cpu/AveragePool3d.cpp.
    """
    return average(self, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override)
