"""Linears of the native target whose input is rounded at each call, bit for bit."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import fma
from jitquant.exact.native import added_apart, tail_of
from jitquant.exact.native_layout import placed, placed_like
from jitquant.exact.onednn_eltwise import activated, name_of
from jitquant.exact.registry import emulates
from jitquant.exact.sums import multiply


def quantized_rows(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rows to integers with 255 steps of the range that each has, zero in it: integers, scales, shifts.

    Shifts are minus the zero points times the scales. csrc/runtime/loops_body.h, quantize_rows.
    """
    low = torch.where(x < 0, x, torch.zeros_like(x)).amin(-1, keepdim=True).double()
    high = torch.where(x > 0, x, torch.zeros_like(x)).amax(-1, keepdim=True).double()
    spoilt = (x * 0.0).sum(-1, keepdim=True)
    step = (high - low) / 255.0
    has_range = (step >= 1e-30) & (spoilt == 0)
    scale = torch.where(has_range, step, torch.ones_like(step))
    zero_point = torch.where(has_range, torch.floor(-low / scale + 0.5), torch.zeros_like(step))
    scaled = x * (1.0 / scale).float()
    least, most = (-zero_point).float(), (255 - zero_point).float()
    bounded = torch.where(scaled > least, scaled, least)
    bounded = torch.where(bounded < most, bounded, most)
    integers = torch.round(bounded).double() + zero_point
    return integers, scale.float() + spoilt, (-scale * zero_point).float()


def dynamic_sums(
    input: Tensor,
    other: Tensor | None,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    activation: str,
) -> Tensor:
    """float32(sum) × weight scale × row scale + what the sum begins with, then the elementwise function.

    The beginning is added × factor + (zeros × shift + bias), in fused steps. csrc/runtime/linear_dynamic.cpp.
    """
    factor, shift = tail_of(None, 0, activation)
    factors = weight_scales.double().expand([weight.size(0)]) * factor
    zeros = (weight.double().sum(1) * factors).float()
    given = torch.zeros([weight.size(0)], dtype=torch.float64) if bias is None else bias.double()
    biases = (given * factor + shift).float()
    integers, scales, shifts = quantized_rows(input.contiguous())
    begun = fma(zeros, shifts, biases)
    if other is not None:
        begun = fma(other, torch.tensor(factor, dtype=torch.float32), begun)
    values = multiply(integers, 0, weight.double()).float() * factors.float() * scales + begun
    return values if name_of(activation) == "linear" else activated(values, activation)


@emulates("jitquant::linear_dynamic", target="native")
def linear_dynamic(
    input: Tensor, weight: Tensor, weight_scales: Tensor, bias: Tensor | None, activation: str, sum: str
) -> Tensor:
    """A linear layer of numbers and an integer weight; csrc/runtime/linear_dynamic.cpp."""
    return placed(dynamic_sums(input, None, weight, weight_scales, bias, activation), False)


@emulates("jitquant::linear_dynamic_add", "jitquant::linear_dynamic_add_", target="native")
def linear_dynamic_add(
    input: Tensor,
    other: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    activation: str,
    sum: str,
) -> Tensor:
    """The same and what is added to it, which may be repeated; csrc/runtime/linear_dynamic.cpp."""
    sizes = list(input.shape[:-1])
    sizes.append(weight.size(0))
    fits = other.dtype == torch.float32 and other.dim() <= len(sizes)
    for i in range(min(other.dim(), len(sizes))):
        size = other.size(other.dim() - 1 - i)
        fits = fits and (size == 1 or size == sizes[len(sizes) - 1 - i])
    if not fits:
        product = linear_dynamic(input, weight, weight_scales, bias, "", "")
        return added_apart(product, other, None, 0, activation, None, 0)
    result = dynamic_sums(input, other.expand(sizes), weight, weight_scales, bias, activation)
    if list(other.shape) == sizes and other.is_contiguous() and sum == "in_place":
        return placed_like(result, other)
    return placed(result, False)
