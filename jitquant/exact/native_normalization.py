"""Softmax and layer norm of the native target, bit for bit, with the order of their sums on AVX-512."""

import torch
from torch import Tensor

from jitquant.exact.arithmetic import as_float32, fma
from jitquant.exact.native_layout import in_layout, is_channels_last, placed
from jitquant.exact.onednn_eltwise import at_least, at_most
from jitquant.exact.registry import emulates


def halved(lanes: Tensor) -> Tensor:
    """The sum of sixteen lanes, by halves: [..., 16] to [..., 1]."""
    width = 8
    while width > 0:
        lanes = lanes[..., :width] + lanes[..., width:]
        width = width // 2
    return lanes


def taylor_exponential(x: Tensor) -> Tensor:
    """2ⁿ × p(x - n ln 2) with n the nearest whole number to x log₂e, from -87 to 0.

    csrc/runtime/loops_body.h, exponential.
    """
    bounded = at_most(at_least(x, -87.0), 0.0)
    power = torch.round(bounded * 1.44269504)
    rest = fma(power, torch.tensor(-0.693147181, dtype=torch.float32), bounded)
    result = torch.full_like(rest, 1.0 / 120.0)
    for coefficient in [1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0]:
        result = fma(result, rest, torch.tensor(coefficient, dtype=torch.float32))
    return result * torch.exp2(power.double()).float()


def softmax_of_rows(x: Tensor, factor: float, shift: float) -> Tensor:
    """Rows to integers: exp(x - max) / sum × factor + shift, and what rounding leaves sixteen columns on.

    csrc/runtime/loops_body.h, softmax_row.
    """
    columns = x.size(-1)
    whole = columns // 16 * 16
    powers = taylor_exponential(x + (-x.amax(-1, keepdim=True)))
    sums = torch.zeros_like(powers[..., :1]).expand(powers.shape[:-1] + [16])
    for start in range(0, whole, 16):
        sums = powers[..., start : start + 16] + sums
    total = halved(sums)
    for column in range(whole, columns):
        total = total + powers[..., column : column + 1]
    scale = torch.full_like(total, factor) / total
    parts: list[Tensor] = []
    left_over = torch.zeros_like(sums)
    offset = torch.full([1], shift, dtype=torch.float32)
    for start in range(0, columns, 16):
        stop = min(start + 16, columns)
        wanted = fma(powers[..., start:stop], scale, offset) + left_over[..., : stop - start]
        integers = torch.round(at_most(at_least(wanted, 0.0), 255.0))
        parts.append(integers)
        left_over = at_most(at_least(wanted - integers, -0.5), 0.5)
    return torch.cat(parts, -1).double()


@emulates("jitquant::softmax", target="native")
def softmax(
    input: Tensor,
    dim: int,
    input_scale: float | None,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
) -> Tensor:
    """A softmax along one dimension, whose rows are put side by side; csrc/runtime/normalization.cpp."""
    assert scale is not None
    if input.dtype != torch.float32:
        unit = 1.0 if input_scale is None else input_scale
        input = (input.float() - float(input_zero_point)) * as_float32(unit)
    along_rows = dim == -1 or dim == input.dim() - 1
    input = input.contiguous() if along_rows else in_layout(input, is_channels_last([input]))
    last = is_channels_last([input])
    lies_so = input.size(dim) == 1 or input.stride(dim) == 1
    rows = softmax_of_rows(input.transpose(dim, -1), as_float32(1.0 / scale), float(zero_point))
    result = rows.transpose(dim, -1)
    return placed(result, last) if lies_so else in_layout(placed(rows, False).transpose(dim, -1), last)


def summed_lanes(terms: Tensor, starts: list[Tensor], squares: bool) -> Tensor:
    """Blocks of sixteen columns, [rows, blocks, 16], added up as a kernel does: [rows, 16].

    Four sums side by side while there are four blocks, which are then added up by halves; then what is left.
    oneDNN 3.2, src/cpu/x64/jit_uni_layer_normalization.cpp, compute.
    """
    blocks = terms.size(1)
    unroll = 4 if blocks >= 4 else 1
    sums = torch.zeros_like(terms[:, 0]) if blocks > 0 else starts[0]
    whole = blocks // unroll * unroll
    if blocks > 0:
        side = torch.zeros_like(terms[:, :unroll])
        for start in range(0, whole, unroll):
            side = added(side, terms[:, start : start + unroll], squares)
        if unroll == 4:
            pairs = side[:, :2] + side[:, 2:]
            sums = pairs[:, 0] + pairs[:, 1]
        else:
            sums = side[:, 0]
        for block in range(whole, blocks):
            sums = added(sums, terms[:, block], squares)
    return sums


def added(sums: Tensor, terms: Tensor, squares: bool) -> Tensor:
    """Sums plus terms, or plus their squares by fused steps."""
    return fma(terms, terms, sums) if squares else sums + terms


def mean_of_columns(x: Tensor, squares: bool) -> Tensor:
    """The mean of each row of [rows, columns], or of its squares, with the order of the sums: [rows, 1]."""
    rows, columns = x.size(0), x.size(1)
    whole = columns // 16 * 16
    blocks = x[:, :whole].reshape([rows, whole // 16, 16])
    sums = summed_lanes(blocks, [torch.zeros([rows, 16])], squares)
    if whole < columns:
        rest = torch.nn.functional.pad(x[:, whole:], [0, 16 - (columns - whole)])
        sums = added(sums, rest, squares)
    return halved(sums) / float(columns)


@emulates("jitquant::layer_norm", target="native")
def layer_norm(
    input: Tensor,
    shape: list[int],
    weight: Tensor | None,
    bias: Tensor | None,
    epsilon: float,
    input_scale: float | None,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
) -> Tensor:
    """((x - mean) × (1 / √(variance + ε))) × weight + bias, the last two fused, then rounding.

    Integers are normalized as they are, with ε in their units. csrc/runtime/normalization.cpp, LayerNorm;
    oneDNN 3.2, src/cpu/x64/jit_uni_layer_normalization.cpp, calculate_dst.
    """
    unit = 1.0
    if input.dtype != torch.float32 and input_scale is not None:
        unit = input_scale
    columns = 1
    for size in shape:
        columns *= size
    factor = 1.0 if scale is None else 1.0 / scale
    shift = 0.0 if scale is None else float(zero_point)
    factors = torch.ones([columns], dtype=torch.float64) if weight is None else weight.double().flatten()
    shifts = torch.zeros([columns], dtype=torch.float64) if bias is None else bias.double().flatten()
    x = input.float().reshape([-1, columns])
    difference = x - mean_of_columns(x, False)
    variance = mean_of_columns(difference, True) + as_float32(epsilon / (unit * unit))
    deviation = torch.sqrt(variance.double()).float()  # of float32, ATen's is not always the nearest
    normal = difference * (1.0 / deviation)
    values = fma(normal, (factors * factor).float(), (shifts * factor + shift).float())
    if scale is not None:
        values = torch.round(values.clamp(0, 255)).double()
    return placed(values.reshape(input.shape), False)
