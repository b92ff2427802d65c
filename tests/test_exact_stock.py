"""That the formulas for stock torch's integer ops give the bits of the ops, on random shapes and parameters."""

from collections.abc import Iterator

import pytest
import torch

from jitquant.exact.registry import ENGINES
from tests.exact_draws import Draw, check_same, emulate, triple, weight_of

Q = torch.ops.quantized


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each engine in turn; afterwards that from before."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = request.param
    yield request.param
    torch.backends.quantized.engine = before


def convolution(draw: Draw, dims: int, least: int = 1) -> tuple[list[int], list[int], tuple[list[int], list[int], list[int], int]]:
    """Shapes of input and weight, and stride, padding, dilation and groups.

    Left out is what oneDNN's kernels for AMX compute wrong: padding beyond the kernel, a stride where one column
    results, and groups of more than 16 but not 16·n results.
    `least` is the smallest number of channels in a group.
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
    size = [max(r - 2 * p, 1) + s + draw.between(0, 20 // dims) for r, p, s in zip(reach, padding, stride, strict=True)]
    return (
        [draw.between(1, 3), in_each * groups, *size],
        [out_each * groups, in_each, *kernel],
        (stride, padding, dilation, groups),
    )


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
        check_same(real, emulate(f"quantized::{op}", "x86", triple(a), triple(b), *rounding), (number, op, a.stride(), b.stride(), a.shape, b.shape))


def test_between_floats_and_integers() -> None:
    """Test that quantizing and dequantizing give the same bits and strides, ties and infinities included."""
    for number in range(300):
        draw = Draw(number)
        shape = draw.shape(draw.among(1, 2, 3, 4), 12)
        scale, zero_point = draw.scale(), draw.zero_point()
        x = draw.layout(draw.among(draw.integers(*shape, least=-600, most=600) / 2, draw.reals(*shape) * 99) * scale)
        x = x.float()
        if draw.chance(0.1):
            x[(0,) * x.dim()] = draw.among(float("inf"), -float("inf"), 1e30, -1e30)
        real = torch.quantize_per_tensor(x, scale, zero_point, torch.quint8)
        check_same(real, emulate("aten::quantize_per_tensor", "x86", x, scale, zero_point, torch.quint8), number)
        check_same(real.dequantize(), emulate("aten::dequantize", "x86", triple(real)), number)


UNARY = {
    "aten::relu": lambda draw: (),
    "aten::hardtanh": lambda draw: (draw.among(-1.0, 0.0, -0.5), draw.among(1.0, 6.0, 3.3)),
    "aten::clamp": lambda draw: (draw.among(None, -1.0, 0), draw.among(1.0, 6, 3.3)),
    "aten::hardsigmoid": lambda draw: (),
    "quantized::hardswish": lambda draw: (draw.scale(-7, -3), draw.zero_point()),
    "quantized::leaky_relu": lambda draw: (draw.among(0.01, 0.2, 0.5), False, draw.scale(-7, -3), draw.zero_point()),
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
        check_same(real, emulate("aten::mean.dim", "x86", triple(x), dims, keepdim, None), (number, shape, dims, keepdim, x.stride()))
