"""That the formulas for stock torch's integer ops give the bits of the ops, on random shapes."""

import math
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import pytest
import torch
from torch import Tensor

from jitquant.exact import arithmetic
from jitquant.exact.registry import ENGINES, Weight
from tests.exact_draws import Draw, check_same, emulate, triple, weight_of

Q = torch.ops.quantized


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each engine in turn; afterwards that from before."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = request.param
    yield request.param
    torch.backends.quantized.engine = before


def convolution(
    draw: Draw, dims: int, least: int = 1
) -> tuple[list[int], list[int], tuple[list[int], list[int], list[int], int]]:
    """Shapes of input and weight, and stride, padding, dilation and groups.

    Left out is what oneDNN's kernels for AMX compute wrong: padding beyond the kernel, a stride where one
    column results, and groups of more than 16 but not 16·n results. For what is smaller than
    1,000 elements oneDNN changes kernels by rules not known here. `least` is the smallest number of
    channels in a group.
    """
    groups = draw.among(1, 1, 1, 2, 4, draw.between(1, 60))
    if least == 1 and (groups > 4 or draw.chance(0.1)):
        in_each, out_each = 1, draw.among(1, 1, 2)
    else:
        in_each, out_each = draw.between(least, 40), draw.between(1, 40 if groups == 1 else 16)
    square = draw.among(1, 3, 5)
    kernel = [square if draw.chance(0.8) else draw.between(1, 5) for _ in range(dims)]
    stride = [draw.among(1, 1, 2)] * dims
    dilation = [draw.among(1, 1, 1, 2)] * dims
    padding = [draw.among(0, k // 2) for k in kernel]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    size = [
        max(r - 2 * p, 1) + s + draw.between(0, 20 // dims)
        for r, p, s in zip(reach, padding, stride, strict=True)
    ]
    shape, weight_shape = [draw.between(1, 3), in_each * groups, *size], [out_each * groups, in_each, *kernel]
    if math.prod(shape) + math.prod(weight_shape) < 1000:
        return convolution(draw, dims, least)
    return shape, weight_shape, (stride, padding, dilation, groups)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_convolutions(engine: str, dims: int) -> None:
    """Test that convolutions, with and without relu, give the same bits and strides."""
    for number in range({1: 150, 2: 400, 3: 60}[dims]):
        draw = Draw(number)
        shape, weight_shape, geometry = convolution(draw, dims, 2 if engine == "fbgemm" else 1)
        x, w = draw.activation(*shape, most=127), draw.weight(*weight_shape)
        step = x.q_scale() * float(weight_of(w)[1][0])
        bias = draw.bias(weight_shape[0], step)
        rounding = (draw.output_scale(step), draw.zero_point())
        op = f"conv{dims}d" + ("_relu" if draw.chance(0.4) else "")
        packed = getattr(Q, f"conv{dims}d_prepack")(w, bias, *geometry)
        real = getattr(Q, op)(x, packed, *rounding)
        emulated = emulate(f"quantized::{op}", engine, triple(x), weight_of(w), bias, *geometry, *rounding)
        check_same(real, emulated, (number, op, shape, weight_shape, geometry))


def test_linears(engine: str) -> None:
    """Test that linears, with and without relu, give the same bits and strides."""
    for number in range(400):
        draw = Draw(number)
        columns, depth = draw.between(1, 100), draw.among(draw.between(1, 130), 256, 384)
        rows = draw.shape(draw.among(1, 1, 2, 3), 20 if draw.chance(0.7) else 6)
        x, w = draw.activation(*rows, depth, most=127), draw.weight(columns, depth)
        step = x.q_scale() * float(weight_of(w)[1][0])
        bias = draw.bias(columns, step)
        rounding = (draw.output_scale(step), draw.zero_point())
        op = "linear" + ("_relu" if draw.chance(0.4) else "")
        real = getattr(Q, op)(x, Q.linear_prepack(w, bias), *rounding)
        emulated = emulate(f"quantized::{op}", engine, triple(x), weight_of(w), bias, *rounding)
        check_same(real, emulated, (number, op, x.shape, w.shape))


def pair_of_shapes(draw: Draw) -> tuple[list[int], list[int]]:
    """Mostly twice the same; else one that is repeated along some dimensions."""
    shape = draw.shape(draw.among(1, 2, 3, 4, 4), 12)
    if draw.chance(0.7):
        return shape, shape
    other = [size if draw.chance(0.5) else 1 for size in shape]
    return (shape, other) if draw.chance(0.5) else (other, shape)


@pytest.mark.parametrize("op", ["add", "add_relu", "mul", "mul_relu"])
def test_sums_and_products(op: str) -> None:
    """Test that sums and products of two tensors give the same bits and strides."""
    for number in range(400):
        draw = Draw(number)
        shape, other = pair_of_shapes(draw)
        a, b = draw.activation(*shape, low=-6), draw.activation(*other, low=-6)
        if draw.chance(0.3):
            b = torch._make_per_tensor_quantized_tensor(b.int_repr(), a.q_scale(), b.q_zero_point())
        step = a.q_scale() * (b.q_scale() if "mul" in op else 1)
        rounding = (step * draw.among(2, 4, 8, 1.7, 300), draw.zero_point())
        real = getattr(Q, op)(a, b, *rounding)
        check_same(
            real,
            emulate(f"quantized::{op}", "x86", triple(a), triple(b), *rounding),
            (number, op, a.stride(), b.stride(), a.shape, b.shape),
        )


def test_between_floats_and_integers() -> None:
    """Test that quantizing and dequantizing give the same bits and strides, ties and infinities included."""
    for number in range(300):
        draw = Draw(number)
        shape = draw.shape(draw.among(1, 2, 3, 4), 12)
        scale, zero_point = draw.scale(), draw.zero_point()
        x = draw.layout(
            draw.among(draw.integers(*shape, least=-600, most=600) / 2, draw.reals(*shape) * 99) * scale
        )
        x = x.float()
        if draw.chance(0.1):
            x[(0,) * x.dim()] = draw.among(float("inf"), -float("inf"), 1e30, -1e30)
        real = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
        check_same(
            real, emulate("aten::quantize_per_tensor", "x86", x, scale, zero_point, torch.quint8), number
        )
        check_same(real.dequantize(), emulate("aten::dequantize", "x86", triple(real)), number)


UNARY = {
    "aten::relu": lambda draw: (),
    "aten::hardtanh": lambda draw: (draw.among(-1.0, 0.0, -0.5), draw.among(1.0, 6.0, 3.3)),
    "aten::clamp": lambda draw: (draw.among(None, -1.0, 0), draw.among(1.0, 6, 3.3)),
    "aten::hardsigmoid": lambda draw: (),
    "aten::tanh": lambda draw: (),
    "quantized::sigmoid": lambda draw: (draw.scale(-8, -6), draw.zero_point()),
    "quantized::elu": lambda draw: (draw.scale(-7, -3), draw.zero_point(), draw.among(1.0, 0.7), 1.0, 1),
    "quantized::celu": lambda draw: (draw.scale(-7, -3), draw.zero_point(), draw.among(1, 0.7)),
    "quantized::softmax": lambda draw: (-1, 1 / 256, 0),
    "quantized::hardswish": lambda draw: (draw.scale(-7, -3), draw.zero_point()),
    "quantized::leaky_relu": lambda draw: (
        draw.among(0.01, 0.2, 0.5),
        False,
        draw.scale(-7, -3),
        draw.zero_point(),
    ),
    "quantized::mul_scalar": lambda draw: (draw.among(-1, -1, 2.5, -0.3, 0),),
}


@pytest.mark.parametrize("op", UNARY)
def test_functions_of_one_tensor(op: str) -> None:
    """Test that functions of one tensor give the same bits and strides."""
    space, name = op.split("::")
    for number in range(150):
        draw = Draw(number)
        x = draw.activation(*draw.shape(draw.among(1, 2, 3, 4), 12), low=-7, high=-3)
        arguments = UNARY[op](draw)
        real = getattr(getattr(torch.ops, space), name)(x, *arguments)
        check_same(real, emulate(op, "x86", triple(x), *arguments), (number, op, x.shape, arguments))


def test_dynamic_linears(engine: str) -> None:
    """Test that dynamic linears give the same floats."""
    for number in range(250):
        draw = Draw(number)
        columns, depth = draw.between(1, 100), draw.among(draw.between(1, 130), 256, 384)
        rows = draw.shape(draw.among(1, 1, 2, 3), 20 if draw.chance(0.7) else 6)
        x, w = draw.reals(*rows, depth) * draw.scale(), draw.weight(columns, depth)
        bias = draw.bias(columns, float(x.abs().max()) / 255 * float(weight_of(w)[1][0]))
        reduce_range = draw.chance(0.5) or engine == "fbgemm"
        op = draw.among("linear_dynamic", "linear_relu_dynamic")
        real = getattr(Q, op)(x, Q.linear_prepack(w, bias), reduce_range)
        emulated = emulate(f"quantized::{op}", engine, x, weight_of(w), bias, reduce_range)
        check_same(real, emulated, (number, op, x.shape, w.shape, w.qscheme(), bias is None))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_adaptive_means(dims: int) -> None:
    """Test that adaptive average pooling gives the same bits and strides."""
    for number in range(120):
        draw = Draw(number)
        shape = [draw.between(1, 3), draw.between(1, 40), *draw.shape(dims, 9)]
        x = draw.activation(*shape)
        sizes = [draw.among(1, 1, size, draw.between(1, size)) for size in shape[2:]]
        real = getattr(torch.nn.functional, f"adaptive_avg_pool{dims}d")(x, sizes)
        emulated = emulate(f"aten::adaptive_avg_pool{dims}d", "x86", triple(x), sizes)
        check_same(real, emulated, (number, shape, sizes, x.stride()))


def test_means() -> None:
    """Test that means over dimensions give the same bits and strides."""
    for number in range(300):
        draw = Draw(number)
        shape = draw.shape(draw.among(2, 3, 4, 4), 12)
        x = draw.activation(*shape)
        count = draw.between(1, len(shape))
        start = draw.among(len(shape) - count, draw.between(0, len(shape) - count))
        dims, keepdim = list(range(start, start + count)), draw.chance(0.5) or not x.is_contiguous()
        real = x.mean(dims, keepdim)
        check_same(
            real,
            emulate("aten::mean.dim", "x86", triple(x), dims, keepdim, None),
            (number, shape, dims, keepdim, x.stride()),
        )


@pytest.mark.parametrize("op", ["conv2d_add", "conv2d_add_relu"])
def test_convolutions_with_a_summand(op: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that oneDNN's convolutions that add something give the same bits and strides."""
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    for number in range(250):
        draw = Draw(number)
        shape, weight_shape, geometry = convolution(draw, 2)
        if weight_shape[1] == 1 and geometry[2] != [1, 1]:
            continue  # oneDNN's kernel for depthwise ones with a dilation adds in an order not known here
        x, w = draw.activation(*shape, most=127), draw.weight(*weight_shape)
        step = x.q_scale() * float(weight_of(w)[1][0])
        bias = draw.bias(weight_shape[0], step, sure=True)
        rounding = (draw.output_scale(step), draw.zero_point())
        packed = Q.conv2d_prepack(w, bias, *geometry)
        like = Q.conv2d(x, packed, *rounding)
        integers = torch.empty_like(like.int_repr()).copy_(draw.integers(*like.shape))
        scale = rounding[0] * draw.random.uniform(0.3, 3)
        other = torch._make_per_tensor_quantized_tensor(integers, scale, draw.zero_point())
        before = triple(other)  # the op overwrites what it adds
        real = getattr(Q, op)(x, other, packed, *rounding)
        emulated = emulate(
            f"quantized::{op}", "onednn", triple(x), before, weight_of(w), bias, *geometry, *rounding
        )
        check_same(real, emulated, (number, shape, weight_shape, geometry))


def test_transposed_convolutions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that fbgemm's transposed convolutions give the same bits and strides."""
    monkeypatch.setattr(torch.backends.quantized, "engine", "fbgemm")
    for number in range(200):
        draw = Draw(number)
        dims, groups = draw.among(1, 2, 2, 3), draw.among(1, 1, 2)
        kernel, stride = draw.between(1, 4), draw.between(1, 2)
        geometry = (
            [stride] * dims,
            [draw.between(0, min(1, kernel - 1))] * dims,
            [draw.between(0, stride - 1)] * dims,
            [draw.between(1, 2)] * dims,
            groups,
        )
        channels, results = draw.between(1, 20) * groups, draw.between(1, 20)
        size = [draw.between(2, 11 - 2 * dims) for _ in range(dims)]
        x = draw.activation(draw.between(1, 2), channels, *size, most=127)
        w = draw.weight(channels, results, *[kernel] * dims, per_channel=False)
        step = x.q_scale() * w.q_scale()
        bias = draw.bias(results * groups, step)
        rounding = (draw.output_scale(step), draw.zero_point())
        op = f"conv_transpose{dims}d"
        real = getattr(Q, op)(x, getattr(Q, f"{op}_prepack")(w, bias, *geometry), *rounding)
        emulated = emulate(f"quantized::{op}", "fbgemm", triple(x), weight_of(w), bias, *geometry, *rounding)
        check_same(real, emulated, (number, op, x.shape, w.shape, geometry))


def plain_arguments(draw: Draw, op: str) -> tuple[Tensor, Tensor, list[Any]]:
    """Plain integers, a weight's, and what else prepacking a convolution or a linear takes."""
    channels, results = draw.between(1, 64), draw.between(1, 64)
    if op == "linear":
        rows = draw.shape(draw.among(1, 2), 20)
        x, w = (
            draw.integers(*rows, channels, most=127),
            draw.integers(results, channels, least=-127, most=127),
        )
        return x.to(torch.uint8), w.to(torch.int8), []
    kernel, stride = draw.among(1, 3, 5), draw.among(1, 2)
    groups = draw.among(1, 1, channels)
    results = channels if groups > 1 else results
    size = [draw.between(kernel + stride, 16) for _ in range(2)]
    x = draw.integers(1, channels, *size, most=127).to(torch.uint8)
    w = draw.integers(results, channels // groups, kernel, kernel, least=-127, most=127).to(torch.int8)
    geometry = [[stride] * 2, [kernel // 2] * 2, [1, 1], groups]
    return x.contiguous(memory_format=torch.channels_last), w, geometry


@pytest.mark.parametrize(
    ("op", "activation"),
    [
        ("linear", "none"),
        ("linear", "relu"),
        ("linear", "gelu"),
        ("linear", "hardswish"),
        ("conv", "none"),
        ("conv", "relu"),
        ("conv", "hardswish"),
    ],
)
def test_plain_integers(op: str, activation: str) -> None:
    """Test that oneDNN's ops on plain integers give the same, as integers and as floats."""
    for number in range(150):
        draw = Draw(number)
        x, w, geometry = plain_arguments(draw, op)
        per_channel = draw.chance(0.5)
        scales = torch.tensor([draw.scale(-8, -4) for _ in range(w.shape[0] if per_channel else 1)])
        zero_points = torch.zeros(scales.numel(), dtype=torch.int64)
        largest = float(w.abs().double().flatten(1).sum(1).max()) * 127
        scale = draw.scale(-8, 2) if activation in ("none", "relu") else 8 / largest / float(scales[0])
        x_pair = (scale, draw.among(0, draw.between(1, 127)))
        step = scale * float(scales[0])
        bias = draw.bias(w.shape[0], step)
        gives_float = draw.chance(0.3)
        if gives_float:
            rounding = (1.0, 0, torch.float32)
        else:
            out = draw.output_scale(step) if activation in ("none", "relu") else draw.scale(-7, -5)
            rounding = (out, draw.zero_point(), torch.uint8)
        behind = (scales, zero_points, bias, *geometry, *rounding, activation, [], "none")
        if op == "conv":
            packing: list[Any] = [w, scales, *x_pair, *geometry, None]
            packed = torch.ops.onednn.qconv_prepack(*packing)
            real = torch.ops.onednn.qconv_pointwise(x, *x_pair, packed, *behind)
        else:
            packing = [w, None]
            packed = torch.ops.onednn.qlinear_prepack(*packing)
            real = torch.ops.onednn.qlinear_pointwise(x, *x_pair, packed, *behind)
        counted = [TYPES.get(a, a) if isinstance(a, torch.dtype) else a for a in behind]
        emulated = emulate(f"onednn::q{op}_pointwise", "x86", x.double(), *x_pair, *packing, *counted)
        check_same(real, emulated, (number, x.shape, w.shape, geometry, rounding))


TYPES = {torch.float32: 6, torch.uint8: 0}  # as torch.jit counts them


def test_layer_norms() -> None:
    """Test that layer norms give the same bits and strides."""
    for number in range(200):
        draw = Draw(number)
        size = draw.among(draw.between(2, 70), 64, 384)
        x = draw.activation(*draw.shape(draw.among(1, 2), 9), size, low=-6, high=-3)
        arguments = ([size], draw.reals(size), draw.reals(size), 1e-5, draw.scale(-7, -5), draw.zero_point())
        real = Q.layer_norm(x, *arguments)
        check_same(real, emulate("quantized::layer_norm", "x86", triple(x), *arguments), (number, x.shape))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_means_over_windows(dims: int) -> None:
    """Test that average pooling gives the same bits and strides."""
    for number in range(200):
        draw = Draw(number)
        size = draw.shape(dims, {1: 30, 2: 9, 3: 6}[dims])
        x = draw.activation(draw.between(1, 3), draw.between(1, 70), *size, low=-7, high=-3)
        kernel = [draw.between(1, min(3, s)) for s in size]
        padding = [draw.between(0, k // 2) for k in kernel]
        stride = draw.among([], [1] * dims, [2] * dims)
        divisor = [] if dims == 1 else [draw.among(None, None, 3)]
        arguments = (kernel, stride, padding, draw.chance(0.3), draw.chance(0.5), *divisor)
        real = getattr(torch.ops.aten, f"avg_pool{dims}d")(x, *arguments)
        emulated = emulate(f"aten::avg_pool{dims}d", "x86", triple(x), *arguments)
        check_same(real, emulated, (number, x.shape, x.stride(), arguments))


@pytest.mark.parametrize("dims", [2, 3])
def test_nearest_neighbours(dims: int) -> None:
    """Test that resampling by the nearest neighbour gives the same bits and strides, by sizes and factors."""
    op = f"upsample_nearest{dims}d"
    for number in range(150):
        draw = Draw(number)
        size = draw.shape(dims, 9)
        x = draw.activation(draw.between(1, 3), draw.between(1, 20), *size)
        factors = [draw.among(None, 2.0, draw.random.uniform(0.6, 4)) for _ in range(dims)]
        wanted = [
            draw.between(1, 30) if f is None else max(int(s * f), 1)
            for s, f in zip(size, factors, strict=True)
        ]
        real = getattr(torch.ops.aten, op)(x, wanted, *factors)
        emulated = emulate(f"aten::{op}", "x86", triple(x), wanted, *factors)
        check_same(real, emulated, (number, x.shape, x.stride(), wanted, factors))
        real = getattr(torch.ops.aten, op)(x, wanted, None)
        check_same(real, emulate(f"aten::{op}.vec", "x86", triple(x), wanted, None), (number, x.shape))


@pytest.mark.parametrize("op", ["clone", "pixel_shuffle", "pixel_unshuffle"])
def test_moves_that_lay_out_anew(op: str) -> None:
    """Test that what moves elements gives them the bits and strides that quantized tensors have."""
    for number in range(60):
        draw = Draw(number)
        x = draw.activation(draw.between(1, 3), 4 * draw.between(1, 5), *[2 * n for n in draw.shape(2, 5)])
        own = {"memory_format": draw.among(None, torch.preserve_format, torch.channels_last)}
        real = x.clone(**own) if op == "clone" else getattr(torch, op)(x, 2)
        arguments = [FORMATS[own["memory_format"]]] if op == "clone" else [2]
        check_same(real, emulate(f"aten::{op}", "x86", triple(x), *arguments), (number, x.shape, own))


FORMATS = {None: None, torch.preserve_format: 1, torch.channels_last: 2}  # as torch.jit counts them


def test_concatenations() -> None:
    """Test that concatenating gives the same bits and strides."""
    for number in range(200):
        draw = Draw(number)
        shape = draw.shape(draw.among(2, 3, 4, 4), 9)
        dim = draw.among(1, 1, len(shape) - 1)
        rounding = (draw.scale(-8, -4), draw.zero_point())
        is_last = draw.chance(0.5) and len(shape) == 4
        tensors = []
        for _ in range(draw.between(1, 3)):
            shape[dim] = draw.between(1, 40)
            x = draw.integers(*shape).to(torch.uint8)
            x = x.contiguous(memory_format=torch.channels_last) if is_last else x
            own = rounding if draw.chance(0.4) else (draw.scale(-8, -4), draw.zero_point())
            tensors.append(torch._make_per_tensor_quantized_tensor(x, *own))
        real = Q.cat(tensors, dim, *rounding)
        emulated = emulate("quantized::cat", "x86", [triple(x) for x in tensors], dim, *rounding)
        check_same(real, emulated, (number, [x.shape for x in tensors], dim))


def rows_to_look_up(draw: Draw, dtype: torch.dtype) -> tuple[Tensor, Weight]:
    """A quantized weight with a float zero point for each row, and what a formula takes for it."""
    words, features = draw.between(1, 40), draw.between(1, 70)
    scales = torch.tensor([draw.scale(-8, -4) for _ in range(words)])
    zero_points = draw.among(draw.integers(words, most=15).float(), draw.reals(words) * 20)
    weight = torch.quantize_per_channel(draw.reals(words, features), scales, zero_points, 0, dtype)
    return weight, (weight.int_repr(), scales.double(), zero_points)


@pytest.mark.parametrize("op", ["embedding_bag_byte", "embedding_bag_4bit_rowwise_offsets"])
def test_bags_of_rows(op: str) -> None:
    """Test that sums of rows give the same bits, for every way to say which rows are in a bag."""
    for number in range(200):
        draw = Draw(number)
        is_byte = op == "embedding_bag_byte"
        weight, held = rows_to_look_up(draw, torch.quint8 if is_byte else torch.quint4x2)
        packed = Q.embedding_bag_prepack(weight) if is_byte else torch.ops.jitquant.pack_rows_4bit(weight)
        words = weight.size(0)
        count, offsets, last = draw.between(1, 30), None, False
        if draw.chance(0.3):
            indices = draw.integers(draw.between(1, 8), draw.between(1, 8), most=words - 1)
        else:
            indices = draw.integers(count, most=words - 1)
            starts = sorted(draw.between(0, count) for _ in range(draw.between(0, 6)))
            last = draw.chance(0.5)
            offsets = torch.tensor([0, *starts, count] if last else [0, *starts])
        if draw.chance(0.3):
            indices, offsets = indices.int(), None if offsets is None else offsets.int()
        factors = draw.reals(*indices.shape) if offsets is not None and draw.chance(0.5) else None
        behind = (offsets, False, draw.among(0, 1), False, factors, None, last)
        real = getattr(Q, op)(packed, indices, *behind)
        check_same(real, emulate(f"quantized::{op}", "x86", held, indices, *behind), (number, weight.shape))


def test_rows() -> None:
    """Test that rows that are looked up give the same bits."""
    for number in range(200):
        draw = Draw(number)
        weight, held = rows_to_look_up(draw, torch.quint8)
        indices = draw.integers(draw.between(0, 30), most=weight.size(0) - 1)
        real = Q.embedding_byte(Q.embedding_bag_prepack(weight), indices, False)
        check_same(real, emulate("quantized::embedding_byte", "x86", held, indices, False), number)


def test_arithmetic_with_numbers_rounds_once() -> None:
    """Test that fma rounds once, where rounding to double first would give something else."""
    factor = torch.tensor([1 + 2.0**-23, 1 + 2.0**-12, 1 - 2.0**-24])
    other = torch.tensor([1 + 2.0**-23, 1 + 2.0**-12, 1 - 2.0**-24])
    summand = torch.tensor([2.0**-80, 2.0**-60, -(2.0**-70)])
    exact = [
        Fraction(a) * Fraction(b) + Fraction(c)
        for a, b, c in zip(factor.tolist(), other.tolist(), summand.tolist(), strict=True)
    ]
    once = torch.jit.script(arithmetic.fma)(factor, other, summand)
    for value, true in zip(once, exact, strict=True):
        below, above = (torch.nextafter(value, torch.tensor(sign * torch.inf)) for sign in (-1, 1))
        distance = abs(Fraction(value.item()) - true)
        assert distance <= abs(Fraction(below.item()) - true)
        assert distance <= abs(Fraction(above.item()) - true)
    # 1 + 2^-24 + 2^-80 lies above the middle of two float32, but only by what a double does not hold.
    tie = torch.jit.script(arithmetic.fma)(
        torch.tensor([2.0**-12]), torch.tensor([2.0**-12]), torch.tensor([1.0])
    )
    assert tie.item() == 1.0
    nudged = torch.jit.script(arithmetic.fma)(
        torch.tensor([2.0**-12 + 2.0**-30]), torch.tensor([2.0**-12]), torch.tensor([1.0])
    )
    assert nudged.item() == 1 + 2.0**-23


def test_saturation_and_ties() -> None:
    """Test that ties go to even and that integers saturate at 0 and 255."""
    x = torch.tensor([0.5, 1.5, 2.5, -9.0, 300.0, 1e30, -1e30])
    assert emulate("aten::quantize_per_tensor", "x86", x, 1.0, 0, 13)[0].tolist() == [0, 2, 2, 0, 255, 255, 0]
