"""Sums of products of integers, exactly, on whatever float type is fast and holds them."""

import torch
from torch import Tensor


def largest_sum(weight: Tensor, axis: int) -> float:
    """The largest sum of a channel's absolute weights; its product with the largest input bounds every sum.

    For a transposed convolution (axis 1), whose taps overlap, the bound is that of all its taps at once.
    """
    if axis == 0:
        return float(weight.abs().flatten(1).sum(1).max().item())
    dims = list(range(1, weight.dim()))
    dims[0] = 0
    return float(weight.abs().sum(dims).max().item())


def convolve(
    x: Tensor,
    zero_point: int,
    weight: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
) -> Tensor:
    """The convolution of (x - zero_point) with integer weights, exactly: float64.

    Where no sum can reach 2^24 it is done in float32, else on the upper and the lower four bits apart, else
    in float64, for which ATen has slow code only. Padding is zero, so it has to be done behind the
    subtraction.
    """
    input = x - zero_point
    bound = largest_sum(weight, 1 if transposed else 0)
    if bound * max(zero_point, 255 - zero_point) < 2**24:
        sums = torch.convolution(
            input.float(), weight.float(), None, stride, padding, dilation, transposed, output_padding, groups
        )
        return sums.double()
    if bound * 16 < 2**24:
        upper = torch.floor(input / 16)
        lower = input - upper * 16
        w = weight.float()
        sums = torch.convolution(
            upper.float(), w, None, stride, padding, dilation, transposed, output_padding, groups
        )
        rest = torch.convolution(
            lower.float(), w, None, stride, padding, dilation, transposed, output_padding, groups
        )
        return sums.double() * 16 + rest.double()
    return torch.convolution(
        input, weight, None, stride, padding, dilation, transposed, output_padding, groups
    )


def multiply(x: Tensor, zero_point: int, weight: Tensor) -> Tensor:
    """The product of (x - zero_point) with the transposed weight, exactly: float64.

    Where no sum can reach 2^24 it is done in float32.
    """
    input = x - zero_point
    if largest_sum(weight, 0) * max(zero_point, 255 - zero_point) < 2**24:
        return torch.nn.functional.linear(input.float(), weight.float()).double()
    return torch.nn.functional.linear(input, weight)
