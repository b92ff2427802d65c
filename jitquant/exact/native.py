"""Products of the native target: convolutions, linears, matmul and einsum, bit for bit.

The sums of products of integers are exact; oneDNN brings them to float32, multiplies with the scales, adds
the bias, and then takes the steps behind it (a sum, an elementwise function, clipping) one by one in float32.
Every kernel of it that runs here (AMX, VNNI, their 1×1 and depthwise variants) takes the same steps in the
same order: oneDNN 3.2, src/cpu/x64/brgemm/jit_brgemm_kernel.cpp, store_accumulators_apply_post_ops;
jit_avx512_core_amx_conv_kernel.cpp and jit_avx512_core_x8s8s32x_conv_kernel.cpp, store_output.
"""

import torch
from torch import Tensor
from torch.nn import functional

from jitquant.exact.arithmetic import as_float32, fma
from jitquant.exact.native_layout import in_layout, placed, placed_like
from jitquant.exact.native_pointwise import finished_float, is_linear, linear_tail
from jitquant.exact.onednn_eltwise import activated, argument, at_least, at_most, name_of, times_plus
from jitquant.exact.registry import emulates
from jitquant.exact.sums import convolve, multiply


def tail_of(scale: float | None, zero_point: int, words: str) -> tuple[float, float]:
    """Factor and shift that go into the scales and the bias where all that follows is linear or a clip.

    factor = a / scale and shift = b / scale + zero point, with a x + b the linear function in front of
    rounding; 1 and 0 where another function follows. csrc/runtime/onednn.cpp, Tail.
    """
    name = name_of(words)
    if not (name == "" or name == "linear" or (name == "clip" and scale is not None)):
        return 1.0, 0.0
    unit = 1.0 if scale is None else scale
    factor, shift = 1.0, 0.0
    if name == "linear":
        factor, shift = argument(words, 0), argument(words, 1)
    return factor / unit, shift / unit + (0.0 if scale is None else float(zero_point))


def finished(values: Tensor, factor: float, scale: float | None, zero_point: int, words: str) -> Tensor:
    """What follows the bias: the elementwise function, the output's scale, clipping, rounding.

    Rounds halves to even and saturates at 0 and 255: float64; without a scale it stays float32.
    """
    name = name_of(words)
    if name != "linear" and (name != "clip" or scale is None):
        values = activated(values, words)
    if scale is None:
        return values
    if name != "" and name != "linear" and name != "clip":
        values = times_plus(values, 1.0 / scale, float(zero_point))
    if name == "clip":
        low = argument(words, 0) * factor + zero_point
        high = argument(words, 1) * factor + zero_point
        if low > 0.5 or high < 254.5:
            values = at_most(at_least(values, as_float32(max(low, 0.0))), as_float32(min(high, 255.0)))
    return torch.round(values.clamp(0, 255)).double()


def added_to(values: Tensor, other: Tensor | None, other_scale: float | None, factor: float) -> Tensor:
    """other × scale + values by a fused step: the sum behind a primitive."""
    if other is None:
        return values
    scale = 1.0 if other_scale is None else other_scale
    return times_plus_tensor(other.float(), scale * factor, values)


def times_plus_tensor(x: Tensor, factor: float, summand: Tensor) -> Tensor:
    """x × factor + summand rounded once."""
    return fma(x, torch.tensor(factor, dtype=torch.float32), summand)


def sum_shift(other: Tensor | None, other_scale: float | None, zero_point: int, factor: float) -> float:
    """What the zero point of the other operand adds to the result, to be taken from the bias."""
    if other is None:
        return 0.0
    return (1.0 if other_scale is None else other_scale) * factor * zero_point


def channel_scales(scales: Tensor, weight: Tensor, groups: int, transposed: bool) -> Tensor:
    """The scales of the weight as float64, one or one for each channel of the result."""
    if transposed and scales.numel() > 1 and scales.numel() == weight.size(1):
        return scales.repeat([groups]).double()
    return scales.double()


def padded(integers: Tensor, padding: list[int], rank: int, value: float) -> Tensor:
    """The input within a frame; a padding whose sides differ is given as before, then after."""
    sides: list[int] = []
    for i in range(rank - 1, -1, -1):
        sides.append(padding[i])
        sides.append(padding[rank + i] if len(padding) > rank else padding[i])
    return functional.pad(integers, sides, value=value)


def along_channels(values: Tensor, rank: int) -> Tensor:
    """A vector as [channels, 1, …] beside an image."""
    return values.reshape([-1] + [1] * rank)


def depthwise3d(
    integers: Tensor,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
) -> Tensor:
    """Sums times factors plus shifts by fused steps; csrc/runtime/depthwise.cpp and weigh_lines_to.

    The padding holds the zero point, whose share goes into the shifts everywhere.
    """
    factor, shift, low, high = linear_tail(scale, zero_point, activation)
    factors = scales.double().expand(weight.size(0)) * (input_scale * factor)
    shifts = shift - weight.flatten(1).double().sum(1) * factors * float(input_zero_point)
    if bias is not None:
        shifts = shifts + bias.double() * factor
    framed = padded(integers, padding, 3, float(input_zero_point))
    sums = convolve(framed, 0, weight.double(), stride, [0, 0, 0], dilation, False, [0, 0, 0], groups)
    values = fma(sums.float(), along_channels(factors.float(), 3), along_channels(shifts.float(), 3))
    values = at_most(at_least(values, low), high)
    return values if scale is None else torch.round(values).double()


def is_weighed_by_loop(weight: Tensor, rank: int, groups: int, activation: str, transposed: bool) -> bool:
    """Whether a depthwise convolution in three dimensions runs in a loop of ours."""
    depthwise = (
        rank == 3 and not transposed and groups > 1 and weight.size(0) == groups and weight.size(1) == 1
    )
    return depthwise and is_linear(activation) and weight.numel() // weight.size(0) <= 500


def primitive_convolution(
    integers: Tensor,
    other: Tensor | None,
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    other_scale: float | None,
    other_zero_point: int,
    output_padding: list[int] | None,
) -> Tensor:
    """float32(sum) × scales + bias, then what follows; csrc/runtime/conv.cpp, Conv.

    Where the input is padded, the zero point is taken from the integers, else its share from the bias.
    """
    rank = len(stride)
    transposed = output_padding is not None
    extra = [0] * rank if output_padding is None else output_padding
    factor, shift = tail_of(scale, zero_point, activation)
    shift -= sum_shift(other, other_scale, other_zero_point, factor)
    is_padded = transposed or max(padding) > 0
    factors = channel_scales(scales, weight, groups, transposed) * (input_scale * factor)
    channels = weight.size(1) * groups if transposed else weight.size(0)
    shifts = torch.zeros([channels], dtype=torch.float64)
    if bias is not None:
        shifts = bias.double() * factor
    if is_padded:
        integers = integers - input_zero_point
    elif input_zero_point != 0:
        shifts = shifts - weight.flatten(1).double().sum(1) * factors * float(input_zero_point)
    if not transposed:
        integers = padded(integers, padding, rank, 0.0)
        padding = [0] * rank
    sums = convolve(integers, 0, weight.double(), stride, padding, dilation, transposed, extra, groups)
    scaled = sums.float() * along_channels(factors.expand([channels]).float(), rank)
    values = scaled + along_channels((shifts + shift).float(), rank)
    return finished(added_to(values, other, other_scale, factor), factor, scale, zero_point, activation)


def placed_convolution(
    input: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    output_padding: list[int] | None,
) -> Tensor:
    """A convolution or a transposed one by a loop of ours or a primitive, placed channels-last."""
    if is_weighed_by_loop(weight, len(stride), groups, activation, output_padding is not None):
        result = depthwise3d(
            input,
            weight,
            weight_scales,
            bias,
            stride,
            padding,
            dilation,
            groups,
            input_scale,
            input_zero_point,
            scale,
            zero_point,
            activation,
        )
        return placed(result, True)
    result = primitive_convolution(
        input,
        None,
        weight,
        weight_scales,
        bias,
        stride,
        padding,
        dilation,
        groups,
        input_scale,
        input_zero_point,
        scale,
        zero_point,
        activation,
        None,
        0,
        output_padding,
    )
    return placed(result, True)


@emulates(
    "jitquant::conv1d", "jitquant::conv2d", "jitquant::conv3d", "jitquant::conv_transpose", target="native"
)
def convolution(
    input: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    sum: str,
    other_scale: float | None,
    other_zero_point: int,
    output_padding: list[int] | None,
) -> Tensor:
    """A convolution or a transposed one, behind which a function that is not linear stands apart.

    csrc/runtime/conv.cpp, Conv.
    """
    apart = output_padding is not None and not is_linear(activation)
    result = placed_convolution(
        input,
        weight,
        weight_scales,
        bias,
        stride,
        padding,
        dilation,
        groups,
        input_scale,
        input_zero_point,
        None if apart else scale,
        zero_point,
        "" if apart else activation,
        output_padding,
    )
    return finished_float(result, scale, zero_point, activation) if apart else result


@emulates(
    "jitquant::conv1d_add",
    "jitquant::conv2d_add",
    "jitquant::conv3d_add",
    "jitquant::conv1d_add_",
    "jitquant::conv2d_add_",
    "jitquant::conv3d_add_",
    target="native",
)
def convolution_add(
    input: Tensor,
    other: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    sum: str,
    other_scale: float | None,
    other_zero_point: int,
    output_padding: list[int] | None,
) -> Tensor:
    """A convolution and what is added to it, which gives the result its strides; csrc/runtime/conv.cpp.

    What has another size or dtype is added apart, in float32.
    """
    other = in_layout(other, True) if other.dim() == input.dim() else other
    alone = placed_convolution(
        input,
        weight,
        weight_scales,
        bias,
        stride,
        padding,
        dilation,
        groups,
        input_scale,
        input_zero_point,
        None,
        0,
        "",
        output_padding,
    )
    if other.shape != alone.shape or other.dtype != dtype_of(scale):
        return added_apart(alone, other, scale, zero_point, activation, other_scale, other_zero_point)
    result = primitive_convolution(
        input,
        other,
        weight,
        weight_scales,
        bias,
        stride,
        padding,
        dilation,
        groups,
        input_scale,
        input_zero_point,
        scale,
        zero_point,
        activation,
        other_scale,
        other_zero_point,
        output_padding,
    )
    return placed_like(result, other)


def dtype_of(scale: float | None) -> torch.dtype:
    """What stands for the result: float64 for integers, float32 for numbers."""
    return torch.float32 if scale is None else torch.float64


def added_apart(
    product: Tensor,
    other: Tensor,
    scale: float | None,
    zero_point: int,
    activation: str,
    other_scale: float | None,
    other_zero_point: int,
) -> Tensor:
    """The float product plus the numbers of the other operand, then what follows in float32.

    csrc/runtime/residual.cpp, add_apart.
    """
    if other.dtype == torch.float64:
        unit = 1.0 if other_scale is None else other_scale
        other = (other.float() - as_float32(float(other_zero_point))) * as_float32(unit)
    return finished_float((product + other).float(), scale, zero_point, activation)


def linear_numbers(
    weight: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    input_scale: float,
    input_zero_point: int,
    factor: float,
) -> tuple[Tensor, Tensor]:
    """Scales and biases of each channel as float64, with the share of the zero point in the latter."""
    factors = scales.double().expand([weight.size(0)]) * (input_scale * factor)
    zeros = weight.double().sum(1) * factors * float(input_zero_point)
    given = torch.zeros([weight.size(0)], dtype=torch.float64) if bias is None else bias.double()
    return factors, given * factor - zeros


def with_factors(values: Tensor, factors: Tensor, scale: float, zero_point: int) -> Tensor:
    """The values times a factor for each channel, with the output's scale in it, plus the zero point.

    csrc/runtime/linear.cpp, add_factors.
    """
    values = values * (factors.contiguous() / scale)
    if zero_point != 0:
        values = values + float(zero_point)
    return torch.round(values.clamp(0, 255)).double()


def primitive_linear(
    input: Tensor,
    other: Tensor | None,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    other_scale: float | None,
    other_zero_point: int,
    factors: Tensor | None,
) -> Tensor:
    """float32(sum) × scales + bias, then what follows; csrc/runtime/linear.cpp, Linear."""
    tail_scale = scale if factors is None else None
    factor, shift = tail_of(tail_scale, zero_point, activation)
    shift -= sum_shift(other, other_scale, other_zero_point, factor)
    scales, biases = linear_numbers(weight, weight_scales, bias, input_scale, input_zero_point, factor)
    values = multiply(input, 0, weight.double()).float() * scales.float() + (biases + shift).float()
    values = added_to(values, other, other_scale, factor)
    values = finished(values, factor, tail_scale, zero_point, activation)
    if factors is not None and scale is not None:
        return with_factors(values, factors, scale, zero_point)
    return values


@emulates("jitquant::linear", target="native")
def linear(
    input: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    sum: str,
    other_scale: float | None,
    other_zero_point: int,
    factors: Tensor | None = None,
) -> Tensor:
    """A linear layer, placed contiguous; csrc/runtime/linear.cpp."""
    result = primitive_linear(
        input,
        None,
        weight,
        weight_scales,
        bias,
        input_scale,
        input_zero_point,
        scale,
        zero_point,
        activation,
        None,
        0,
        factors,
    )
    return placed(result, False)


@emulates("jitquant::linear_add", "jitquant::linear_add_", target="native")
def linear_add(
    input: Tensor,
    other: Tensor,
    weight: Tensor,
    weight_scales: Tensor,
    bias: Tensor | None,
    input_scale: float,
    input_zero_point: int,
    scale: float | None,
    zero_point: int,
    activation: str,
    sum: str,
    other_scale: float | None,
    other_zero_point: int,
    factors: Tensor | None = None,
) -> Tensor:
    """A linear layer and what is added to it, which gives the result its strides; csrc/runtime/linear.cpp."""
    other = other.contiguous()
    sizes = list(input.shape[:-1])
    sizes.append(weight.size(0))
    if list(other.shape) != sizes or other.dtype != dtype_of(scale):
        product = linear(
            input, weight, weight_scales, bias, input_scale, input_zero_point, None, 0, "", "", None, 0
        )
        return added_apart(product, other, scale, zero_point, activation, other_scale, other_zero_point)
    result = primitive_linear(
        input,
        other,
        weight,
        weight_scales,
        bias,
        input_scale,
        input_zero_point,
        scale,
        zero_point,
        activation,
        other_scale,
        other_zero_point,
        None,
    )
    return placed_like(result, other)


def packed_rows(values: Tensor) -> Tensor:
    """The operand as matmul takes it: rows or columns whose elements stand side by side."""
    return values if values.stride(-1) == 1 or values.stride(-2) == 1 else values.contiguous()


def is_dense(values: Tensor) -> bool:
    """Whether the elements fill their memory without gaps."""
    last = 0
    for i in range(values.dim()):
        last += (values.size(i) - 1) * values.stride(i)
    return last + 1 == values.numel()


def with_rank(values: Tensor, rank: int) -> Tensor:
    """A view with ones in front."""
    while values.dim() < rank:
        values = values.unsqueeze(0)
    return values


@emulates("jitquant::matmul", target="native")
def matmul(
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
    """float32(sum of products without zero points) × scale, plus shift, then what follows.

    Heads of attention that were split from one row each are placed so again; csrc/runtime/matmul.cpp.
    """
    rank = max(input.dim(), other.dim())
    right = packed_rows(other)
    right = with_rank(right if is_dense(right) else right.contiguous(), rank)
    factor, shift = tail_of(scale, zero_point, activation)
    sums = torch.matmul(input - input_zero_point, right - other_zero_point)
    values = sums.float() * as_float32(input_scale * other_scale * factor)
    if shift != 0:
        values = values + as_float32(shift)
    result = finished(values, factor, scale, zero_point, activation)
    heads = (
        right.dim() == 4 and right.stride(3) == 1 and right.size(1) > 1 and right.stride(1) < right.stride(2)
    )
    if heads and result.numel() > 0:
        s = result.shape
        strides = [s[1] * s[2] * s[3], s[3], s[1] * s[3], 1]
        return torch.empty_strided(s, strides, dtype=result.dtype).copy_(result)
    return placed(result, False)


def without(letters: str, first: str, in_first: bool, second: str, in_second: bool) -> str:
    """The letters that are, or are not, in each of two others."""
    chosen = ""
    for i in range(len(letters)):
        letter = letters[i]
        if (first.find(letter) >= 0) == in_first and (second.find(letter) >= 0) == in_second:
            chosen += letter
    return chosen


def parts_of(equation: str) -> tuple[str, str, str]:
    """The letters of both operands and of the result; csrc/runtime/equation.h, parse_equation."""
    plain = equation.replace(" ", "")
    arrow = plain.find("->")
    operands = plain if arrow < 0 else plain[:arrow]
    comma = operands.find(",")
    left, right = operands[:comma], operands[comma + 1 :]
    if arrow >= 0:
        return left, right, plain[arrow + 2 :]
    alone = without(left, right, False, left, True) + without(right, left, False, right, True)
    letters: list[str] = []
    for i in range(len(alone)):
        letters.append(alone[i])
    return left, right, "".join(sorted(letters))


def size_of(letter: str, letters: list[str], operands: list[Tensor]) -> int:
    """The size that a letter stands for; a size of one fits any other."""
    size = 1
    for word, operand in zip(letters, operands):  # noqa: B905
        place = word.find(letter)
        if place >= 0 and operand.size(place) != 1:
            size = operand.size(place)
    return size


def as_matrices(
    operand: Tensor, own: str, groups: list[str], letters: list[str], operands: list[Tensor]
) -> Tensor:
    """An operand as a batch of matrices: each group of letters becomes one dimension."""
    order: list[int] = []
    expanded: list[int] = []
    flat: list[int] = []
    for group in groups:
        together = 1
        for i in range(len(group)):
            size = size_of(group[i], letters, operands)
            order.append(own.find(group[i]))
            expanded.append(size)
            together *= size
        flat.append(together)
    return operand.permute(order).expand(expanded).reshape(flat)


@emulates("jitquant::einsum", target="native")
def einsum(
    tensors: list[Tensor],
    equation: str,
    input_scales: list[float],
    input_zero_points: list[int],
    scale: float | None,
    zero_point: int,
    activation: str,
) -> Tensor:
    """A product along any dimensions, as one batch of products of matrices; csrc/runtime/einsum.cpp."""
    left, right, result = parts_of(equation)
    batch = without(left, right, True, result, True)
    rows = without(left, right, False, result, True)
    columns = without(right, left, False, result, True)
    depth = without(left, right, True, result, False)
    letters = [left, right]
    product = matmul(
        as_matrices(tensors[0], left, [batch, rows, depth], letters, tensors),
        as_matrices(tensors[1], right, [batch, depth, columns], letters, tensors),
        "matmul",
        input_scales[0],
        input_zero_points[0],
        input_scales[1],
        input_zero_points[1],
        scale,
        zero_point,
        activation,
    )
    unfolded = batch + rows + columns
    sizes: list[int] = []
    for i in range(len(unfolded)):
        sizes.append(size_of(unfolded[i], letters, tensors))
    order: list[int] = []
    for i in range(len(result)):
        order.append(unfolded.find(result[i]))
    return product.view(sizes).permute(order)
