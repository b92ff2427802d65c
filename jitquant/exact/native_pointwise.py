"""Elementwise kernels of the native target and what moves integers, bit for bit.

Our loops (csrc/runtime/loops_body.h) compute in float32 with fused multiply-adds, as processors with FMA do;
what depends on one byte alone is a table that is computed in double (csrc/runtime/activation.cpp).
"""

import math

import torch
from torch import Tensor

from jitquant.exact.arithmetic import as_float32, fma
from jitquant.exact.native_layout import in_layout, is_channels_last, layout_behind, placed
from jitquant.exact.onednn_eltwise import activated, argument, at_least, at_most, name_of, times_plus
from jitquant.exact.registry import emulates


def rounded_within(values: Tensor, low: float, high: float, rounds: bool) -> Tensor:
    """Brought to the bounds and, where integers are wanted, rounded, halves to even: float64."""
    values = at_most(at_least(values, low), high)
    return torch.round(values).double() if rounds else values


def linear_tail(scale: float | None, zero_point: int, words: str) -> tuple[float, float, float, float]:
    """Factor, shift and bounds of a loop behind which all is linear or a clip.

    csrc/runtime/onednn.cpp, linear_tail.
    """
    name = name_of(words)
    unit = 1.0 if scale is None else scale
    factor, shift = 1.0, 0.0
    if name == "linear":
        factor, shift = argument(words, 0), argument(words, 1)
    factor = factor / unit
    shift = shift / unit + (0.0 if scale is None else float(zero_point))
    low = -float("inf") if scale is None else 0.0
    high = float("inf") if scale is None else 255.0
    if name == "clip":
        low = max(low, argument(words, 0) * factor + shift)
        high = min(high, argument(words, 1) * factor + shift)
        low = min(low, high)
        if scale is not None:
            low, high = min(max(low, 0.0), 255.0), min(max(high, 0.0), 255.0)
    return factor, shift, as_float32(low), as_float32(high)


def is_linear(words: str) -> bool:
    """Whether an elementwise function goes into factors, shifts and bounds."""
    name = name_of(words)
    return name == "" or name == "linear" or name == "clip"


def quantized_values(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(x × (1 / scale)), from -zero point to 255 - zero point, plus the zero point; NaN gives 0.

    csrc/runtime/loops_body.h, quantize.
    """
    inverse = as_float32(1.0 / as_float32(scale))
    bounded = at_most(at_least(values * inverse, float(-zero_point)), float(255 - zero_point))
    return torch.round(bounded).double() + zero_point


@emulates("jitquant::quantize", target="native")
def quantize(
    input: Tensor,
    scale: float,
    zero_point: int,
    padding: list[int] | None = None,
    factors: Tensor | None = None,
) -> Tensor:
    """Numbers to integers, images channels-last and within a frame where one is asked for.

    With factors: round(x × (factor × (1 / scale))) of each column. csrc/runtime/reorder.cpp, Quantize.
    """
    if factors is not None:
        inverse = as_float32(1.0 / as_float32(scale))
        values = input * (factors.contiguous() * inverse)
        return placed(quantized_values(values, 1.0, zero_point), False)
    last = input.dim() > 3 or layout_behind([input])
    result = quantized_values(input, scale, zero_point)
    if padding is not None:
        top, left, bottom, right = padding[0], padding[1], padding[2], padding[3]
        result = torch.constant_pad_nd(result, [left, right, top, bottom], float(zero_point))
    return placed(result, last)


@emulates("jitquant::dequantize", target="native")
def dequantize(input: Tensor, scale: float, zero_point: int) -> Tensor:
    """(integer - zero point) × scale in float32; csrc/runtime/reorder.cpp, Dequantize: a reorder of oneDNN."""
    return placed((input - zero_point).float() * as_float32(scale), layout_behind([input]))


def applied_to_float(values: Tensor, words: str) -> Tensor:
    """An elementwise function of float32 numbers by oneDNN's reference code.

    With a linear one or none, a × x + b; csrc/runtime/activation.cpp, add_primitive.
    """
    name = name_of(words)
    if name == "":
        return values
    if name == "linear":
        return times_plus(values, argument(words, 0), argument(words, 1))
    return activated(values, words)


def finished_float(values: Tensor, scale: float | None, zero_point: int, words: str) -> Tensor:
    """An elementwise function of float32 numbers, then quantize; csrc/runtime/activation.cpp."""
    result = placed(applied_to_float(values, words), layout_behind([values]))
    return result if scale is None else quantize(result, scale, zero_point)


def in_double(x: float, words: str) -> float:
    """One value of an elementwise function in double; csrc/runtime/onednn.cpp, activated."""
    name = name_of(words)
    if name == "linear":
        return argument(words, 0) * x + argument(words, 1)
    if name == "clip":
        return min(max(x, argument(words, 0)), argument(words, 1))
    if name == "hardswish":
        return x * min(max(x / 6.0 + 0.5, 0.0), 1.0)
    if name == "hardsigmoid":
        return min(max(x / 6.0 + 0.5, 0.0), 1.0)
    if name == "swish":
        return x / (1.0 + math.exp(-x))
    if name == "sigmoid":
        return 1.0 / (1.0 + math.exp(-x))
    if name == "tanh":
        return math.tanh(x)
    if name == "gelu":
        return x / 2.0 * (1.0 + math.erf(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return x / 2.0 * (1.0 + math.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))
    if name == "leaky_relu":
        return x if x > 0 else x * argument(words, 0)
    if name == "elu":
        return x if x > 0 else argument(words, 0) * math.expm1(x)
    return x


def rounded_to(values: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(x / scale + zero point) from 0 to 255, in double; csrc/runtime/onednn.cpp, rounded_to."""
    return torch.round(values / scale + float(zero_point)).clamp(0, 255)


@emulates("jitquant::activation", target="native")
def activation(
    input: Tensor,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
) -> Tensor:
    """Of integers a table of 256 values, computed in double; csrc/runtime/activation.cpp."""
    if input.dtype == torch.float32:
        return finished_float(input, scale, zero_point, activation)
    table = torch.zeros([256], dtype=torch.float64)
    for byte in range(256):
        # An assignment would round to float32 on the way.
        table[byte].fill_(in_double((byte - float(input_zero_point)) * input_scale, activation))
    table = table.float() if scale is None else rounded_to(table, scale, zero_point)
    return placed(table[input.long()], layout_behind([input]))


@emulates("jitquant::prelu", target="native")
def prelu(
    input: Tensor, slopes: Tensor, input_scale: float, input_zero_point: int, scale: float, zero_point: int
) -> Tensor:
    """Slope × x below zero, x above, in double; csrc/runtime/prelu.cpp."""
    x = (input - float(input_zero_point)) * input_scale
    slope = slopes.double().reshape([-1] + [1] * (input.dim() - 2))
    return placed(rounded_to(torch.where(x < 0, slope * x, x), scale, zero_point), True)


@emulates("jitquant::cat", target="native")
def cat(
    tensors: list[Tensor],
    dim: int,
    input_scales: list[float],
    input_zero_points: list[int],
    scale: float | None,
    zero_point: int,
) -> Tensor:
    """Each tensor brought to the scale of the result in double, one behind another; csrc/runtime/channels.cpp."""
    assert scale is not None
    moved: list[Tensor] = []
    for tensor, given, zero in zip(tensors, input_scales, input_zero_points):
        moved.append(rounded_to((tensor - float(zero)) * given, scale, zero_point))
    return placed(torch.cat(moved, dim), layout_behind(tensors))


@emulates("jitquant::channel_shuffle", target="native")
def channel_shuffle(input: Tensor, groups: int) -> Tensor:
    """Channels in another order; csrc/runtime/channels.cpp."""
    sizes = input.shape
    split = input.reshape([sizes[0], groups, sizes[1] // groups] + sizes[2:])
    return placed(split.transpose(1, 2).reshape(sizes), True)


@emulates("jitquant::batch_norm", target="native")
def batch_norm(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    variance: Tensor,
    epsilon: float,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
) -> Tensor:
    """integer × factor + shift of each channel by a fused step.

    csrc/runtime/library.cpp, batch_norm_prepack; batch_norm.cpp; loops_body.h, affine_to.
    """
    linear = is_linear(activation)
    factor, shift, low, high = linear_tail(
        scale if linear else None, zero_point, activation if linear else ""
    )
    given = (variance.double() + epsilon).rsqrt()
    given = given if weight is None else given * weight
    start = torch.zeros_like(given) if bias is None else bias.double()
    factors = given * (input_scale * factor)
    shifts = (start - mean * given) * factor + shift - factors * float(input_zero_point)
    sides = [-1] + [1] * (input.dim() - 2)
    values = fma(input.float(), factors.float().reshape(sides), shifts.float().reshape(sides))
    result = rounded_within(values, low, high, linear and scale is not None)
    result = placed(result, True)
    return result if linear else finished_float(result, scale, zero_point, activation)


def is_repeated(large: list[int], small: list[int], channels_last: bool) -> bool:
    """Whether the smaller operand is repeated along one stretch of dimensions, in the order of memory.

    csrc/runtime/binary.cpp, repetition.
    """
    part = 0
    repeats = False
    rank = len(large)
    for i in range(rank):
        axis = i
        if channels_last and i > 0:
            axis = 1 if i + 1 == rank else i + 1
        if large[axis] == 1:
            continue
        if small[axis] == 1:
            if part == 2:
                return False
            part = 1
            repeats = True
        elif part > 0:
            part = 2
    return repeats


def bilinear(a: Tensor, b: Tensor, k: list[float], repeated: bool) -> Tensor:
    """a × (k₀ b + k₁) + (k₂ b + k₃): three fused steps, or one where b is repeated and its part is at hand.

    csrc/runtime/loops_body.h, bilinear_to and affine_to; binary.cpp, compute.
    """
    k0, k1, k2, k3 = as_float32(k[0]), as_float32(k[1]), as_float32(k[2]), as_float32(k[3])
    if repeated:
        return fma(a, b * k0 + k1, b * k2 + k3)
    return fma(a, times_plus(b, k0, k1), times_plus(b, k2, k3))


def bilinear_numbers(
    kind: str,
    large_scale: float,
    large_zero_point: int,
    small_scale: float,
    small_zero_point: int,
    factor: float,
    shift: float,
) -> list[float]:
    """The numbers of `bilinear` for a sum or a product; csrc/runtime/binary.cpp, Add and Mul."""
    if kind == "mul":
        product = large_scale * small_scale * factor
        return [
            product,
            -product * small_zero_point,
            -product * large_zero_point,
            shift + product * large_zero_point * small_zero_point,
        ]
    zeros = large_scale * large_zero_point + small_scale * small_zero_point
    return [0.0, large_scale * factor, small_scale * factor, shift - factor * zeros]


@emulates("jitquant::add", "jitquant::mul", target="native")
def binary(
    input: Tensor,
    other: Tensor,
    kind: str,
    input_scale: float,
    input_zero_point: int,
    other_scale: float,
    other_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
) -> Tensor:
    """A sum, a difference or a product with broadcasting; csrc/runtime/binary.cpp."""
    linear = is_linear(activation)
    factor, shift, low, high = linear_tail(
        scale if linear else None, zero_point, activation if linear else ""
    )
    sizes = torch.broadcast_tensors([input, other])[0].shape
    if input.shape != sizes and other.shape != sizes:
        input = input.expand(sizes).contiguous()
    while input.dim() < len(sizes):
        input = input.unsqueeze(0)
    while other.dim() < len(sizes):
        other = other.unsqueeze(0)
    last = is_channels_last([input, other])
    input, other = in_layout(input, last), in_layout(other, last)
    last = is_channels_last([input, other])
    second = -other_scale if kind == "sub" else other_scale
    if input.shape == sizes:
        k = bilinear_numbers(kind, input_scale, input_zero_point, second, other_zero_point, factor, shift)
        repeated = is_repeated(sizes, other.shape, last)
        values = bilinear(input.float(), other.float(), k, repeated)
    else:
        k = bilinear_numbers(kind, second, other_zero_point, input_scale, input_zero_point, factor, shift)
        repeated = is_repeated(sizes, input.shape, last)
        values = bilinear(other.float(), input.float(), k, repeated)
    result = placed(rounded_within(values, low, high, linear and scale is not None), last)
    return result if linear else finished_float(result, scale, zero_point, activation)
