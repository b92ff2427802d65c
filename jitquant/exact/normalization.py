"""Normalizations, softmax and the smooth activations on stock torch's engines."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import as_float32, empty_as, fma, in_channels_last, is_in_vector
from jitquant.exact.pointwise import dequantize, dequantized, quantized, rounded_once
from jitquant.exact.registry import Quantized, emulates


@emulates("quantized::softmax")
def softmax(qx: Quantized, dim: int, output_scale: float, output_zero_point: int) -> Quantized:
    """The float softmax of `dequantize`, then `rounded_once`. Source: ATen, quantized/cpu/qsoftmax.cpp."""
    real = torch.softmax(dequantize(qx), dim)
    return rounded_once(real, output_scale, output_zero_point)


def scaled_by_statistics(sums: Tensor, squares: Tensor, count: int, scale: float, eps: float) -> Tensor:
    """scale / sqrt(variance · scale² + eps) of groups of integers: float32, eps being a double.

    Source: ATen, QuantizedOpKernels.cpp, quantized_normalize_kernel.
    """
    single = as_float32(scale)
    mean = sums.float() / count
    variance = (fma(-mean, mean, squares.float() / count)).clamp_min(0)
    return (single / torch.sqrt((variance * single * single).double() + eps)).float()


@emulates("quantized::layer_norm")
def layer_norm(
    input: Quantized,
    normalized_shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """((q - z) - mean) · (s / deviation) · weight + bias in float32, then `quantized`.

    The last two are one step. Vectors are of 32 elements of a row. Source: ATen, QuantizedOpKernels.cpp,
    quantized_normalize_kernel.
    """
    integers, scale, zero_point = input
    rows = integers.contiguous().flatten(integers.dim() - len(normalized_shape)).unsqueeze(-2)
    count = rows.size(-1)
    sums = rows.sum(-1, keepdim=True)
    deviation = scaled_by_statistics(sums, (rows * rows).sum(-1, keepdim=True), count, scale, eps)
    centre = sums.float() / count - zero_point
    normal = ((rows - zero_point).float() - centre) * deviation
    factor = torch.ones([count]) if weight is None else weight.flatten()
    shift = torch.zeros([count]) if bias is None else bias.flatten()
    real = fma(normal, factor.expand_as(normal), shift.expand_as(normal))
    in_vector = (torch.arange(count) < count // 32 * 32).expand_as(real)
    result = quantized(real, output_scale, output_zero_point, in_vector)
    return result.reshape(integers.size()), output_scale, output_zero_point


def vectors_of(x: Quantized) -> Tensor:
    """Which elements of what has the shape of `x` are done with vectors."""
    return is_in_vector(empty_as(x[0], list(x[0].size())), [x[0]])


@emulates("quantized::sigmoid")
def sigmoid(qx: Quantized, output_scale: float, output_zero_point: int) -> Quantized:
    """1 / (1 + exp(-x)) of (q - z) · s, then `quantized`.

    Outside of vectors the sum and the quotient are double. The kernel's exp is that for AVX2, and ATen's
    may be that for AVX-512: one in 700 drawn ops has an integer that they round apart.

    Source: ATen, QuantizedOpKernels.cpp, qsigmoid_kernel.
    """
    in_vector = vectors_of(qx)
    power = torch.exp(-dequantize(qx))
    real = torch.where(in_vector, 1 / (1 + power), (1 / (1 + power.double())).float())
    return quantized(real, output_scale, output_zero_point, in_vector), output_scale, output_zero_point


@emulates("aten::tanh")
def tanh(self: Quantized) -> Quantized:
    """The float tanh of `dequantized`, then `quantized` with the scale 1/128 and the zero point 128.

    Source: ATen, QuantizedOpKernels.cpp, qtanh_kernel.
    """
    in_vector = vectors_of(self)
    real = torch.tanh(dequantized(self, in_vector))
    return quantized(real, 1.0 / 128, 128, in_vector), 1.0 / 128, 128


@emulates("quantized::elu")
def elu(
    self: Quantized,
    output_scale: float,
    output_zero_point: int,
    alpha: float | int,
    scale: float | int,
    input_scale: float | int,
) -> Quantized:
    """x · scale, or expm1(x · input scale) · alpha · scale below zero, of `dequantized`; then `quantized`.

    Source: ATen, QuantizedOpKernels.cpp, qelu_kernel.
    """
    result = torch.empty(self[0].size(), dtype=torch.float64)
    in_vector = is_in_vector(result, [self[0]])
    x = dequantized(self, in_vector)
    below = torch.expm1(x * as_float32(float(input_scale))) * as_float32(float(alpha))
    real = torch.where(x > 0, x, below) * as_float32(float(scale))
    rounded = quantized(real, output_scale, output_zero_point, in_vector)
    return result.copy_(rounded), output_scale, output_zero_point


@emulates("quantized::celu")
def celu(self: Quantized, output_scale: float, output_zero_point: int, alpha: float | int) -> Quantized:
    """`elu` with the input scale 1 / alpha. Source: ATen, quantized/cpu/qelu.cpp, quantized_celu."""
    return elu(self, output_scale, output_zero_point, alpha, 1.0, 1.0 / float(alpha))


def normalized_by_batch(
    qx: Quantized,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    output_scale: float,
    output_zero_point: int,
    relu: bool,
) -> Quantized:
    """round(fma(alpha, q - z, beta)) + zero point of channels.

    alpha is weight / sqrt(var + eps) · (sx / s), beta (bias - mean · weight / sqrt(var + eps)) / s, in
    float32. Source: ATen, quantized/cpu/Normalization.cpp, compute_fused_params; QuantizedOpKernels.cpp,
    q_batch_norm_kernel.
    """
    integers, scale, zero_point = qx
    size = mean.numel()
    factor = torch.ones([size]) if weight is None else weight
    shift = torch.zeros([size]) if bias is None else bias
    inverse = 1 / torch.sqrt(var + as_float32(eps))
    alpha = inverse * factor * as_float32(as_float32(scale) / as_float32(output_scale))
    beta = (shift - mean * inverse * factor) / as_float32(output_scale)
    shape = [1] * integers.dim()
    shape[1] = size
    centred = (integers - zero_point).float()
    real = fma(alpha.reshape(shape).expand_as(centred), centred, beta.reshape(shape).expand_as(centred))
    least = output_zero_point if relu else 0
    result = (torch.round(real).double() + output_zero_point).clamp(least, 255)
    return in_channels_last(result), output_scale, output_zero_point


@emulates("quantized::batch_norm")
def batch_norm(
    qx: Quantized,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `normalized_by_batch`."""
    return normalized_by_batch(qx, weight, bias, mean, var, eps, output_scale, output_zero_point, False)


@emulates("quantized::batch_norm_relu")
def batch_norm_relu(
    qx: Quantized,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `normalized_by_batch`."""
    return normalized_by_batch(qx, weight, bias, mean, var, eps, output_scale, output_zero_point, True)
