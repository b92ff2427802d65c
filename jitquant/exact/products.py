"""Convolutions and linears on stock torch's engines: exact sums, and how each engine rounds them.

Sums of products are exact (see `convolve` and `multiply`). What the engines differ in is how a sum becomes
an integer again: fbgemm divides the bias by the scales and multiplies once; oneDNN goes to real numbers and
back.
"""

import os

import torch
from torch import Tensor

from jitquant.exact.arithmetic import as_float32, fma, saturate
from jitquant.exact.pointwise import rounded_once
from jitquant.exact.registry import Quantized, Weight, emulates
from jitquant.exact.sums import convolve, multiply


def centred(weight: Weight) -> Tensor:
    """The weight's integers minus their zero points: float64."""
    integers, _, zero_points = weight
    shape = [-1] + [1] * (integers.dim() - 1)
    return integers.double() - zero_points.double().reshape(shape)


def along(values: Tensor, dims: int, axis: int) -> Tensor:
    """Values of channels (or one for all), shaped to go with a tensor of `dims` dimensions: float32."""
    shape = [1] * dims
    if values.numel() > 1:
        shape[axis] = values.numel()
    return values.float().reshape(shape)


def rounded_by_fbgemm(
    sums: Tensor,
    x_scale: float,
    weight: Weight,
    bias: Tensor | None,
    scale: float,
    zero_point: int,
    relu: bool,
    axis: int,
) -> Tensor:
    """round((sum + bias / (sx·sw)) · (sx·sw / s)) + zero point, all in float32; ties to even.

    With one scale of the weight the bias is multiplied by the reciprocal instead and added in one step,
    without rounding between. relu saturates at the zero point. Source: ATen, quantized/cpu/qconv.cpp and
    qlinear.cpp (the factors); FBGEMM, src/QuantUtilsAvx2.cc, requantizeOutputProcessingAvx2.
    """
    w_scale = along(weight[1], sums.dim(), axis)
    product = as_float32(x_scale) * w_scale
    real = sums.float()
    if bias is not None:
        shift = along(bias, sums.dim(), axis)
        if weight[1].numel() > 1:
            real = real + shift / product
        else:
            real = fma(shift.expand_as(real), (1 / product).expand_as(real), real)
    rounded = torch.round(real * (product / as_float32(scale)))
    return saturate(rounded.double() + zero_point, zero_point if relu else 0)


def tiles_are_there() -> bool:
    """On processors with AMX."""
    return True


def tiles_are_missing() -> bool:
    """On processors without AMX."""
    return False


def onednn_may_use_tiles() -> bool:
    """Whether the processor has AMX and nobody told oneDNN to do without (ONEDNN_MAX_CPU_ISA)."""
    limit = os.environ.get("ONEDNN_MAX_CPU_ISA", os.environ.get("DNNL_MAX_CPU_ISA", "ALL")).upper()
    return torch.cpu._is_amx_tile_supported() and ("AMX" in limit or limit in ("", "ALL", "DEFAULT"))


# Models carry this answer with them.
has_tiles = tiles_are_there if onednn_may_use_tiles() else tiles_are_missing


def is_made_of_tiles(
    inputs: list[int],
    weight: list[int],
    results: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> bool:
    """Whether oneDNN convolves with AMX's tiles, which its heuristics decide by the shapes.

    Source: oneDNN, src/cpu/x64/jit_brgemm_conv_utils.cpp, init_jcp (depthwise and small shapes, of which the
    second is judged by half of the 48 KB of level 1 cache) and init_conf (padding beyond the kernel).
    """
    out_channels, in_channels = weight[0] // groups, weight[1]
    is_depthwise = groups > 1 and in_channels == 1 and out_channels == 1
    positions, taps, is_within = 1, 1, True
    is_single = True
    for d in range(len(stride)):
        positions *= results[d + 2]
        taps *= weight[d + 2]
        is_within = is_within and padding[d] <= (weight[d + 2] - 1) * dilation[d]
        is_single = is_single and padding[d] == 0 and stride[d] == 1
    of_one = taps == 1 and is_within
    work = inputs[0] * groups * in_channels * out_channels
    is_small = positions <= 4 and in_channels <= 512 and work <= (24576 if of_one else 49152)
    has_odd = of_one and is_single and in_channels % 4 != 0
    return has_tiles() and is_within and not (is_depthwise or is_small or has_odd)


def multiplies_by_tiles(rows: int, columns: int, depth: int) -> bool:
    """Whether oneDNN multiplies matrices with AMX's tiles.

    Source: oneDNN, src/cpu/x64/matmul/brgemm_matmul_utils.cpp, is_small_shapes.
    """
    is_small = (rows == 1 and depth == 256) or (rows <= 32 and rows * columns <= 256) or depth <= 16
    return has_tiles() and not is_small


def reciprocal_twice(scale: float) -> float:
    """A scale as ATen hands it to oneDNN: its reciprocal as float32, of which again the reciprocal."""
    return as_float32(1.0 / as_float32(1.0 / scale))


def reals_of_onednn(
    sums: Tensor, x_scale: float, w_scale: Tensor, bias: Tensor | None, tiles: bool, axis: int
) -> Tensor:
    """sum · sx · sw + bias in float32, none of it fused: float32.

    AMX's kernels multiply the scales with each other first, the others the sum with one after the other.
    Source: oneDNN, src/cpu/x64/brgemm/jit_brgemm_amx_uker.cpp and jit_brgemm_kernel.cpp.
    """
    single = sums.float()
    real = single * (x_scale * w_scale) if tiles else (single * x_scale) * w_scale
    return real if bias is None else real + along(bias, sums.dim(), axis)


def rounded_by_onednn(real: Tensor, scale: float, zero_point: int) -> Tensor:
    """round(real · (1 / scale) + zero point) in float32, ties to even, saturated: float64."""
    inverse = as_float32(1.0 / as_float32(scale))
    return saturate(torch.round(real * inverse + zero_point).double())


def lay_channels_last(result: Tensor) -> Tensor:
    """The result of a convolution as the engines lay it into memory, with strides of ones too."""
    if result.dim() == 4:
        return result.clone(memory_format=torch.channels_last)
    if result.dim() == 5:
        return result.clone(memory_format=torch.channels_last_3d)
    # One dimension is done as two, of which the first has one row.
    return result.unsqueeze(2).clone(memory_format=torch.channels_last).squeeze(2)


def convolved_by_fbgemm(
    x: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: float,
    zero_point: int,
    relu: bool,
) -> Quantized:
    """`convolve`, then `rounded_by_fbgemm`."""
    integers, x_scale, x_zero_point = x
    nothing = [0 for _ in stride]
    sums = convolve(
        integers, x_zero_point, centred(weight), stride, padding, dilation, False, nothing, groups
    )
    result = rounded_by_fbgemm(sums, x_scale, weight, bias, scale, zero_point, relu, 1)
    return lay_channels_last(result), scale, zero_point


def reals_of_convolution(
    x: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    w_scales: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """`convolve`, then `reals_of_onednn`."""
    nothing = [0 for _ in stride]
    sums = convolve(x, x_zero_point, weight, stride, padding, dilation, False, nothing, groups)
    tiles = is_made_of_tiles(
        list(x.size()), list(weight.size()), list(sums.size()), stride, padding, dilation, groups
    )
    return reals_of_onednn(sums, x_scale, along(w_scales, sums.dim(), 1), bias, tiles, 1)


def convolved_by_onednn(
    x: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: float,
    zero_point: int,
    relu: bool,
) -> Quantized:
    """`reals_of_convolution`, then `rounded_by_onednn`.

    ATen hands over reciprocals of the scales of input and output. Source: ATen, quantized/cpu/qconv.cpp,
    PackedConvWeightsOnednn::apply_impl.
    """
    integers, x_scale, x_zero_point = x
    real = reals_of_convolution(
        integers,
        reciprocal_twice(x_scale),
        x_zero_point,
        weight[0].double(),
        weight[1],
        bias,
        stride,
        padding,
        dilation,
        groups,
    )
    if relu:
        real = real.clamp_min(0)
    result = rounded_by_onednn(real, reciprocal_twice(scale), zero_point)
    return lay_channels_last(result), scale, zero_point


def x86_takes_onednn(weight: Weight, groups: int) -> bool:
    """Whether the engine x86 packs a convolution for oneDNN; else for fbgemm.

    Source: ATen, quantized/cpu/OnednnUtils.h, should_use_onednn_quant; that the processor has VNNI is taken
    for granted.
    """
    return groups <= 100 and bool((weight[2] == 0).all().item())


@emulates("quantized::conv1d", "quantized::conv2d", "quantized::conv3d", engines=("fbgemm",))
def conv_fbgemm(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_by_fbgemm`."""
    return convolved_by_fbgemm(
        qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, False
    )


@emulates("quantized::conv1d_relu", "quantized::conv2d_relu", "quantized::conv3d_relu", engines=("fbgemm",))
def conv_relu_fbgemm(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_by_fbgemm`."""
    return convolved_by_fbgemm(
        qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, True
    )


@emulates("quantized::conv1d", "quantized::conv2d", "quantized::conv3d", engines=("onednn",))
def conv_onednn(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_by_onednn`."""
    return convolved_by_onednn(
        qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, False
    )


@emulates("quantized::conv1d_relu", "quantized::conv2d_relu", "quantized::conv3d_relu", engines=("onednn",))
def conv_relu_onednn(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_by_onednn`."""
    return convolved_by_onednn(
        qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, True
    )


@emulates("quantized::conv1d", "quantized::conv2d", "quantized::conv3d", engines=("x86",))
def conv_x86(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """oneDNN's or fbgemm's, as `x86_takes_onednn` says."""
    if x86_takes_onednn(weight, groups):
        return conv_onednn(
            qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point
        )
    return conv_fbgemm(qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point)


@emulates("quantized::conv1d_relu", "quantized::conv2d_relu", "quantized::conv3d_relu", engines=("x86",))
def conv_relu_x86(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """oneDNN's or fbgemm's, as `x86_takes_onednn` says."""
    if x86_takes_onednn(weight, groups):
        return conv_relu_onednn(
            qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point
        )
    return conv_relu_fbgemm(
        qx, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point
    )


def activated(real: Tensor, activation: str, algorithm: str | None) -> Tensor:
    """What oneDNN does to a real number before it rounds it: float32.

    hardswish is x · min(max(x · (1/6) + 1/2, 0), 1), nothing fused. ATen's gelu is oneDNN's, where the
    tensor is contiguous. Source: oneDNN, src/cpu/x64/injectors/jit_uni_eltwise_injector.cpp.
    """
    if activation == "relu":
        return real.clamp_min(0)
    if activation == "hardswish":
        sixth = as_float32(1.0 / 6.0)
        return real * (real * sixth + 0.5).clamp(0, 1)
    if activation == "gelu":
        approximate = "none" if algorithm is None else algorithm
        return torch.nn.functional.gelu(real.contiguous(), approximate=approximate)
    assert activation == "none", "this activation of oneDNN has no formula"
    return real


def pointwise_result(real: Tensor, scale: float, zero_point: int, dtype: int | None) -> Tensor:
    """Float as it is; else integers by `rounded_by_onednn`: float64."""
    if dtype is not None and dtype == 6:  # torch.float32, as torch.jit counts types
        return real
    return rounded_by_onednn(real, scale, zero_point)


@emulates("onednn::qconv_pointwise")
def qconv_pointwise(
    qx: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    packed_scales: Tensor,
    packed_x_scale: float,
    packed_x_zero_point: int,
    packed_stride: list[int],
    packed_padding: list[int],
    packed_dilation: list[int],
    packed_groups: int,
    x_shape: list[int] | None,
    w_scale: Tensor,
    w_zero_point: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
    output_dtype: int | None,
    attr: str,
    scalars: list[int | None],
    algorithm: str | None,
) -> Tensor:
    """`reals_of_convolution`, `activated`, and rounded where the result is not float.

    Here ATen hands the scales over as they are. Source: ATen, quantized/cpu/qconv.cpp,
    _quantized_convolution_onednn.
    """
    real = reals_of_convolution(
        qx,
        as_float32(x_scale),
        x_zero_point,
        weight.double(),
        w_scale,
        bias,
        stride,
        padding,
        dilation,
        groups,
    )
    result = pointwise_result(activated(real, attr, algorithm), output_scale, output_zero_point, output_dtype)
    return lay_channels_last(result)


def linear_by_fbgemm(
    x: Quantized, weight: Weight, bias: Tensor | None, scale: float, zero_point: int, relu: bool
) -> Quantized:
    """`multiply`, then `rounded_by_fbgemm`."""
    integers, x_scale, x_zero_point = x
    sums = multiply(integers, x_zero_point, centred(weight))
    axis = sums.dim() - 1
    return rounded_by_fbgemm(sums, x_scale, weight, bias, scale, zero_point, relu, axis), scale, zero_point


def reals_of_linear(
    x: Tensor, x_scale: float, x_zero_point: int, weight: Tensor, w_scales: Tensor, bias: Tensor | None
) -> Tensor:
    """`multiply`, then `reals_of_onednn`."""
    sums = multiply(x, x_zero_point, weight)
    axis = sums.dim() - 1
    rows = sums.numel() // max(weight.size(0), 1)
    tiles = multiplies_by_tiles(rows, weight.size(0), weight.size(1))
    return reals_of_onednn(sums, x_scale, along(w_scales, sums.dim(), axis), bias, tiles, axis)


def linear_by_onednn(
    x: Quantized, weight: Weight, bias: Tensor | None, scale: float, zero_point: int, relu: bool
) -> Quantized:
    """`reals_of_linear`, then `rounded_by_onednn`.

    ATen hands over reciprocals of all scales. Source: ATen, quantized/cpu/qlinear.cpp,
    PackedLinearWeightsOnednn::apply_impl.
    """
    integers, x_scale, x_zero_point = x
    w_scales = reciprocals_twice(weight[1])
    real = reals_of_linear(
        integers, reciprocal_twice(x_scale), x_zero_point, weight[0].double(), w_scales, bias
    )
    if relu:
        real = real.clamp_min(0)
    return rounded_by_onednn(real, reciprocal_twice(scale), zero_point), scale, zero_point


def reciprocals_twice(scales: Tensor) -> Tensor:
    """A weight's scales as ATen hands them to oneDNN's matmul: one as a double, several as float32."""
    if scales.numel() == 1:
        return 1 / (1 / scales).float()
    return 1 / (1 / scales.float())


@emulates("quantized::linear", engines=("fbgemm", "x86"))
def linear_fbgemm(
    X: Quantized, weight: Weight, bias: Tensor | None, Y_scale_i: float, Y_zero_point_i: int
) -> Quantized:
    """See `linear_by_fbgemm`; x86 packs every linear for fbgemm."""
    return linear_by_fbgemm(X, weight, bias, Y_scale_i, Y_zero_point_i, False)


@emulates("quantized::linear_relu", engines=("fbgemm", "x86"))
def linear_relu_fbgemm(
    X: Quantized, weight: Weight, bias: Tensor | None, Y_scale_i: float, Y_zero_point_i: int
) -> Quantized:
    """See `linear_by_fbgemm`; x86 packs every linear for fbgemm."""
    return linear_by_fbgemm(X, weight, bias, Y_scale_i, Y_zero_point_i, True)


@emulates("quantized::linear", engines=("onednn",))
def linear_onednn(
    X: Quantized, weight: Weight, bias: Tensor | None, Y_scale_i: float, Y_zero_point_i: int
) -> Quantized:
    """See `linear_by_onednn`."""
    return linear_by_onednn(X, weight, bias, Y_scale_i, Y_zero_point_i, False)


@emulates("quantized::linear_relu", engines=("onednn",))
def linear_relu_onednn(
    X: Quantized, weight: Weight, bias: Tensor | None, Y_scale_i: float, Y_zero_point_i: int
) -> Quantized:
    """See `linear_by_onednn`."""
    return linear_by_onednn(X, weight, bias, Y_scale_i, Y_zero_point_i, True)


@emulates("onednn::qlinear_pointwise")
def qlinear_pointwise(
    qx: Tensor,
    x_scale: float,
    x_zero_point: int,
    weight: Tensor,
    x_shape: list[int] | None,
    w_scale: Tensor,
    w_zero_point: Tensor,
    bias: Tensor | None,
    output_scale: float,
    output_zero_point: int,
    output_dtype: int | None,
    post_op_name: str,
    post_op_args: list[int | None],
    post_op_algorithm: str,
) -> Tensor:
    """`reals_of_linear`, `activated`, and rounded where the result is not float.

    Here ATen hands the scales over as they are. Source: ATen, quantized/cpu/qlinear.cpp,
    linear_int8_with_onednn_weight.
    """
    real = reals_of_linear(qx, as_float32(x_scale), x_zero_point, weight.double(), w_scale, bias)
    return pointwise_result(
        activated(real, post_op_name, post_op_algorithm), output_scale, output_zero_point, output_dtype
    )


def quantized_dynamically(real: Tensor, reduce_range: bool) -> Quantized:
    """The input of a dynamic linear, rounded with a scale of its own.

    The scale is what ATen chooses for the tensor; rounding is that of `rounded_once`. Source: ATen,
    quantized/cpu/qlinear_dynamic.cpp, apply_dynamic_impl; FBGEMM, src/PackAWithQuantRowOffset.cc.
    """
    scale, zero_point = torch._choose_qparams_per_tensor(real, reduce_range)
    return rounded_once(real.contiguous(), scale, zero_point)


def dynamic_by_fbgemm(
    X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool, relu: bool
) -> Tensor:
    """sum · (sx · sw) + bias in float32, the last two in one step.

    Source: FBGEMM, src/QuantUtilsAvx2.cc, requantizeForFloatAvx2.
    """
    integers, scale, zero_point = quantized_dynamically(X, reduce_range)
    sums = multiply(integers, zero_point, centred(weight)).float()
    axis = sums.dim() - 1
    factor = (as_float32(scale) * along(weight[1], sums.dim(), axis)).expand_as(sums)
    real = sums * factor
    if bias is not None:
        real = fma(sums, factor, along(bias, sums.dim(), axis).expand_as(sums))
    return real.clamp_min(0) if relu else real


@emulates("quantized::linear_dynamic", engines=("fbgemm", "x86"))
def linear_dynamic_fbgemm(X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool) -> Tensor:
    """See `dynamic_by_fbgemm`."""
    return dynamic_by_fbgemm(X, weight, bias, reduce_range, False)


@emulates("quantized::linear_relu_dynamic", engines=("fbgemm", "x86"))
def linear_relu_dynamic_fbgemm(X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool) -> Tensor:
    """See `dynamic_by_fbgemm`."""
    return dynamic_by_fbgemm(X, weight, bias, reduce_range, True)


def dynamic_by_onednn(
    X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool, relu: bool
) -> Tensor:
    """`reals_of_linear` of round(x · (1 / s) + zero point), of which float32 rounds the product and the sum.

    The scale is what ATen chooses for the tensor, handed over as a reciprocal.
    Source: ATen, quantized/cpu/qlinear_dynamic.cpp, PackedLinearWeightsOnednn::apply_dynamic_impl.
    """
    scale, zero_point = torch._choose_qparams_per_tensor(X, reduce_range)
    x_scale = reciprocal_twice(scale)
    integers = saturate(torch.round(X.contiguous() * as_float32(1.0 / x_scale) + zero_point).double())
    w_scales = reciprocals_twice(weight[1])
    real = reals_of_linear(integers, x_scale, zero_point, weight[0].double(), w_scales, bias)
    return real.clamp_min(0) if relu else real


@emulates("quantized::linear_dynamic", engines=("onednn",))
def linear_dynamic_onednn(X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool) -> Tensor:
    """See `dynamic_by_onednn`."""
    return dynamic_by_onednn(X, weight, bias, reduce_range, False)


@emulates("quantized::linear_relu_dynamic", engines=("onednn",))
def linear_relu_dynamic_onednn(X: Tensor, weight: Weight, bias: Tensor | None, reduce_range: bool) -> Tensor:
    """See `dynamic_by_onednn`."""
    return dynamic_by_onednn(X, weight, bias, reduce_range, True)


def convolved_and_added(
    x: Quantized,
    accum: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    scale: float,
    zero_point: int,
    relu: bool,
) -> Quantized:
    """`reals_of_convolution` + (q - z) · s of the summand in one step, then `rounded_by_onednn`.

    Not matched: some ties on AMX (1 % of drawn layers whose scales are multiples of each other have a few
    such elements), and depthwise convolutions with a dilation.

    Source: ATen, quantized/cpu/qconv.cpp, PackedConvWeightsOnednn::apply_impl; oneDNN,
    src/cpu/x64/injectors/jit_uni_postops_injector.cpp.
    """
    real = reals_of_convolution(
        x[0],
        reciprocal_twice(x[1]),
        x[2],
        weight[0].double(),
        weight[1],
        bias,
        stride,
        padding,
        dilation,
        groups,
    )
    other = (accum[0] - accum[2]).float()
    real = fma(other, torch.full_like(other, as_float32(accum[1])), real)
    if relu:
        real = real.clamp_min(0)
    result = rounded_by_onednn(real, reciprocal_twice(scale), zero_point)
    return lay_channels_last(result), scale, zero_point


@emulates("quantized::conv2d_add", engines=("x86", "onednn"))
def conv2d_add(
    qx: Quantized,
    qaccum: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_and_added`."""
    return convolved_and_added(
        qx, qaccum, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, False
    )


@emulates("quantized::conv2d_add_relu", engines=("x86", "onednn"))
def conv2d_add_relu(
    qx: Quantized,
    qaccum: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """See `convolved_and_added`."""
    return convolved_and_added(
        qx, qaccum, weight, bias, stride, padding, dilation, groups, output_scale, output_zero_point, True
    )


@emulates(
    "quantized::conv_transpose1d",
    "quantized::conv_transpose2d",
    "quantized::conv_transpose3d",
    engines=("fbgemm",),
)
def conv_transpose_fbgemm(
    qx: Quantized,
    weight: Weight,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    output_scale: float,
    output_zero_point: int,
) -> Quantized:
    """`convolve` transposed, then `rounded_by_fbgemm`."""
    integers, x_scale, x_zero_point = qx
    sums = convolve(
        integers, x_zero_point, centred(weight), stride, padding, dilation, True, output_padding, groups
    )
    result = rounded_by_fbgemm(sums, x_scale, weight, bias, output_scale, output_zero_point, False, 1)
    return lay_channels_last(result), output_scale, output_zero_point
