"""Ops that choose among the integers of their input, and give them its scale: no rounding of their own."""

import torch

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
