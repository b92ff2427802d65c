"""Ops that go element by element on stock torch's engines, and those between floats and integers.

ATen's kernels do most elements with vectors and the few at the end of a run one by one, and dequantize the
two kinds in different ways: see `dequantized`.
"""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import as_float32, empty_as, fma, is_in_vector, saturate
from jitquant.exact.registry import Quantized, emulates


def quantized(real: Tensor, scale: float, zero_point: int, in_vector: Tensor) -> Tensor:
    """The integers that the kernels round to: float64.

    In vectors round(x · (1 / s)) + zero point, elsewhere round(x · (1 / s) + zero point), all in float32,
    ties to even, then saturated. Source: ATen, cpu/vec/vec512/vec512_qint.h, QuantizeAvx512;
    quantized/AffineQuantizerBase.cpp, quantize_val, and FBGEMM, QuantUtils.h, Quantize.
    """
    scaled = real * as_float32(1.0 / as_float32(scale))
    behind = torch.round(scaled).double() + zero_point
    before = torch.round(scaled + zero_point).double()
    return saturate(torch.where(in_vector, behind, before))


def dequantized(x: Quantized, in_vector: Tensor) -> Tensor:
    """The real numbers that the kernels compute with: float32.

    In vectors q · s + round(-z · s), the product not rounded; elsewhere (q - z) · s.
    Source: ATen, cpu/vec/vec512/vec512_qint.h, dequantize; quantized/AffineQuantizerBase.cpp, dequantize_val.
    """
    integers, scale, zero_point = x
    q = integers.float()
    single = as_float32(scale)
    s = torch.full_like(q, single)
    shift = as_float32(-zero_point * single)
    fused = fma(q, s, torch.full_like(q, shift))
    return torch.where(in_vector, fused, (q - zero_point) * s)


def rounded_once(real: Tensor, scale: float, zero_point: int, least: int = 0) -> Quantized:
    """round(x · (1 / s) + zero point) in one step of float32, ties to even, saturated to 8 bits from `least`.

    Source: FBGEMM, src/QuantUtilsAvx2.cc, QuantizeAvx2.
    """
    inverse = torch.full_like(real, as_float32(1.0 / as_float32(scale)))
    scaled = torch.round(fma(real, inverse, torch.full_like(real, float(zero_point)))).double()
    return saturate(scaled, least, least + 255), scale, zero_point


@emulates("aten::quantize_per_tensor")
def quantize_per_tensor(self: Tensor, scale: float, zero_point: int, dtype: int) -> Quantized:
    """See `rounded_once`."""
    is_signed = dtype == 12  # torch.qint8, as torch.jit counts types
    return rounded_once(self.float(), scale, zero_point, -128 if is_signed else 0)


@emulates("aten::dequantize")
def dequantize(self: Quantized) -> Tensor:
    """(q - z) · s in float32, channels-last or contiguous.

    Source: ATen, QuantizedOpKernels.cpp, dequantize_tensor; quantized/Quantizer.cpp, dequantize.
    """
    integers, scale, zero_point = self
    real = (integers - zero_point).float() * as_float32(scale)
    return empty_as(integers, list(integers.size())).float().copy_(real)


@emulates("aten::relu")
def relu(self: Quantized) -> Quantized:
    """The larger of the integer and the zero point. Source: ATen, QuantizedOpKernels.cpp, qrelu_kernel."""
    integers, scale, zero_point = self
    return integers.clamp_min(zero_point), scale, zero_point


def bound(value: float | int, scale: float, zero_point: int) -> float:
    """A number as the integer that it is rounded to."""
    real = torch.tensor(float(value), dtype=torch.float64).float()
    return float(quantized(real, scale, zero_point, torch.zeros_like(real, dtype=torch.bool)).item())


@emulates("aten::hardtanh")
def hardtanh(self: Quantized, min_val: float | int, max_val: float | int) -> Quantized:
    """The integer between the rounded bounds. Source: ATen, QuantizedOpKernels.cpp, qclamp_kernel."""
    integers, scale, zero_point = self
    least, most = bound(min_val, scale, zero_point), bound(max_val, scale, zero_point)
    return integers.clamp_min(least).clamp_max(most), scale, zero_point


@emulates("aten::clamp")
def clamp(self: Quantized, min: float | int | None, max: float | int | None) -> Quantized:
    """The integer between the rounded bounds. Source: ATen, QuantizedOpKernels.cpp, qclamp_kernel."""
    integers, scale, zero_point = self
    if min is not None:
        integers = integers.clamp_min(bound(min, scale, zero_point))
    if max is not None:
        integers = integers.clamp_max(bound(max, scale, zero_point))
    return integers, scale, zero_point


def sum_of(qa: Quantized, qb: Quantized, scale: float, zero_point: int, relu: bool) -> Quantized:
    """`dequantized` + `dequantized` in float32, then `quantized`.

    The result lies in memory as the first summand. Source: ATen, quantized/cpu/BinaryOps.cpp, _add_out;
    QuantizedOpKernels.cpp, qadd_kernel.
    """
    like = empty_result(qa[0], qb[0])
    in_vector = is_in_vector(like, [qa[0], qb[0]])
    real = dequantized((qa[0].expand_as(like), qa[1], qa[2]), in_vector) + dequantized(
        (qb[0].expand_as(like), qb[1], qb[2]), in_vector
    )
    if relu:
        real = real.clamp_min(0)
    return like.copy_(quantized(real, scale, zero_point, in_vector)), scale, zero_point


def empty_result(a: Tensor, b: Tensor) -> Tensor:
    """Memory for what two tensors give, laid out as the first, or as ATen lays a sum where it is repeated."""
    total = a + b
    return empty_as(a, list(a.size())) if list(total.size()) == list(a.size()) else torch.empty_like(total)


@emulates("quantized::add")
def add(qa: Quantized, qb: Quantized, scale: float, zero_point: int) -> Quantized:
    """See `sum_of`."""
    return sum_of(qa, qb, scale, zero_point, False)


@emulates("quantized::add_relu")
def add_relu(qa: Quantized, qb: Quantized, scale: float, zero_point: int) -> Quantized:
    """See `sum_of`."""
    return sum_of(qa, qb, scale, zero_point, True)


def product_of(qa: Quantized, qb: Quantized, scale: float, zero_point: int, relu: bool) -> Quantized:
    """round((a - za) · (b - zb) · (sa · sb · (1 / s))) + zero point in float32, the factors multiplied first.

    Source: ATen, quantized/cpu/qmul.cpp; QuantizedOpKernels.cpp, qmul_kernel.
    """
    inverse = as_float32(1.0 / as_float32(scale))
    factor = as_float32(as_float32(as_float32(qa[1]) * as_float32(qb[1])) * inverse)
    product = (qa[0] - qa[2]) * (qb[0] - qb[2])
    rounded = torch.round(product.float() * factor).double() + zero_point
    result = saturate(rounded, zero_point if relu else 0)
    return empty_as(qa[0], list(result.size())).copy_(result), scale, zero_point


@emulates("quantized::mul")
def mul(qa: Quantized, qb: Quantized, scale: float, zero_point: int) -> Quantized:
    """See `product_of`."""
    return product_of(qa, qb, scale, zero_point, False)


@emulates("quantized::mul_relu")
def mul_relu(qa: Quantized, qb: Quantized, scale: float, zero_point: int) -> Quantized:
    """See `product_of`."""
    return product_of(qa, qb, scale, zero_point, True)


@emulates("quantized::hardswish")
def hardswish(input: Quantized, output_scale: float, output_zero_point: int) -> Quantized:
    """x · min(max(x + 3, 0), 6) / 6 of `dequantized`, then `quantized`.

    Source: ATen, QuantizedOpKernels.cpp, qhardswish_kernel.
    """
    in_vector = is_in_vector(empty_as(input[0], list(input[0].size())), [input[0]])
    x = dequantized(input, in_vector)
    real = x * (x + 3).clamp(0, 6) / 6
    return quantized(real, output_scale, output_zero_point, in_vector), output_scale, output_zero_point


@emulates("aten::hardsigmoid")
def hardsigmoid(self: Quantized) -> Quantized:
    """min(max(x + 3, 0), 6) / 6 of `dequantized`, then `quantized` with the scale 1/256.

    Source: ATen, QuantizedOpKernels.cpp, qhardsigmoid_kernel.
    """
    in_vector = is_in_vector(empty_as(self[0], list(self[0].size())), [self[0]])
    x = dequantized(self, in_vector)
    return quantized((x + 3).clamp(0, 6) / 6, 1.0 / 256, 0, in_vector), 1.0 / 256, 0


@emulates("quantized::leaky_relu")
def leaky_relu(
    qx: Quantized,
    negative_slope: float | int,
    inplace: bool,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """x, or x · slope below zero, of `dequantized`, then `quantized`.

    Source: ATen, QuantizedOpKernels.cpp, leaky_qrelu_out_kernel.
    """
    in_vector = is_in_vector(empty_as(qx[0], list(qx[0].size())), [qx[0]])
    x = dequantized(qx, in_vector)
    real = torch.where(x > 0, x, x * as_float32(float(negative_slope)))
    return quantized(real, output_scale, output_zero_point, in_vector), output_scale, output_zero_point


@emulates("quantized::mul_scalar")
def mul_scalar(qa: Quantized, b: float | int) -> Quantized:
    """The integers with the scale times b; for a negative b their mirror image in 0 … 255.

    Source: ATen, quantized/cpu/qmul.cpp, _mul_scalar_out.
    """
    integers, scale, zero_point = qa
    factor = float(b)
    if factor > 0:
        return integers, factor * scale, zero_point
    if factor == 0:
        return torch.zeros_like(integers), 1.0, 0
    return 255 - integers, -factor * scale, 255 - zero_point


@emulates("quantized::cat")
def cat(qx: list[Quantized], dim: int, scale: float | None, zero_point: int | None) -> Quantized:
    """Each tensor with the scale of the result, in a row.

    Channels of channels-last images are moved where the scale is that of the result, and else rounded as
    `dequantized` and `quantized`, in vectors of eight channels. All else goes by `dequantize` and
    `rounded_once`. Source: ATen, quantized/cpu/TensorShape.cpp, qcat; QuantizedOpKernels.cpp,
    qcat_nhwc_kernel.
    """
    out_scale = qx[0][1] if scale is None else scale
    out_zero = qx[0][2] if zero_point is None else zero_point
    is_last = True
    for x in qx:
        is_last = is_last and x[0].dim() == 4 and x[0].is_contiguous(memory_format=torch.channels_last)
    if is_last and dim == 1:
        moved: list[Tensor] = []
        for x in qx:
            integers = x[0]
            if x[1] != out_scale or x[2] != out_zero:
                channels = integers.size(1)
                in_vector = (torch.arange(channels) < channels // 8 * 8).reshape([-1, 1, 1])
                in_vector = in_vector.expand_as(integers)
                integers = quantized(dequantized(x, in_vector), out_scale, out_zero, in_vector)
            moved.append(integers)
        return torch.cat(moved, 1).clone(memory_format=torch.channels_last), out_scale, out_zero
    reals: list[Tensor] = []
    for x in qx:
        reals.append(dequantize(x))
    return rounded_once(torch.cat(reals, dim), out_scale, out_zero)
