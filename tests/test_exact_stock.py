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


def convolution(draw: Draw, dims: int) -> tuple[list[int], list[int], tuple[list[int], list[int], list[int], int]]:
    """Shapes of input and weight, and stride, padding, dilation and groups.

    Left out is what oneDNN computes wrong: padding beyond the kernel, and a stride where one column results.
    """
    groups = draw.among(1, 1, 1, 2, 4, draw.between(1, 60))
    if groups > 4 or draw.chance(0.1):
        in_each, out_each = 1, draw.among(1, 1, 2)
    else:
        in_each, out_each = draw.between(1, 40), draw.between(1, 40)
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
        shape, weight_shape, geometry = convolution(draw, dims)
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
