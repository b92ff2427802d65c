"""The kernels of the op library against exact arithmetic: numbers, layouts, and what they refuse."""

import os
import subprocess
import sys

import pytest
import torch
from torch import Tensor, nn

from jitquant import native
from tests.marks import needs_native
from tests.networks import sqnr

pytestmark = needs_native
OPS = torch.ops.jitquant
NO_SUM = ("", None, 0)


def uint8(*sizes: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    integers = torch.randint(0, 256, sizes, dtype=torch.uint8, generator=generator)
    return integers.to(memory_format=torch.channels_last) if len(sizes) == 4 else integers


def conv_kernel(
    weight: Tensor, *, groups: int = 1, zero_point: int = 0, activation: str = "", scale: float | None = 0.5
):
    scales = torch.linspace(0.004, 0.006, len(weight))
    bias = torch.linspace(-1, 1, len(weight))
    kernel = OPS.conv_prepack(
        weight,
        scales,
        bias,
        [1, 1],
        [1, 1],
        [1, 1],
        groups,
        0.02,
        zero_point,
        scale,
        3,
        activation,
        *NO_SUM,
        None,
    )

    def reference(integers: Tensor) -> Tensor:
        real = (integers.double() - zero_point) * 0.02
        return nn.functional.conv2d(
            real, weight.double() * scales[:, None, None, None], bias.double(), 1, 1, 1, groups
        )

    return kernel, reference


@pytest.mark.parametrize("zero_point", [0, 100])
@pytest.mark.parametrize("groups", [1, 8])
@pytest.mark.parametrize(
    ("activation", "function"),
    [("", nn.Identity()), ("clip,0,6", nn.ReLU6()), ("hardswish", nn.Hardswish()), ("swish", nn.SiLU())],
)
def test_conv2d_agrees_with_float(zero_point: int, groups: int, activation: str, function: nn.Module) -> None:
    """Test that the integers are within one of those that exact arithmetic gives, and mostly the same."""
    weight = torch.randint(-127, 128, (16, 8 // groups, 3, 3), dtype=torch.int8)
    kernel, reference = conv_kernel(weight, groups=groups, zero_point=zero_point, activation=activation)
    inputs = uint8(2, 8, 9, 7)
    expected = ((function(reference(inputs)) / 0.5).round() + 3).clamp(0, 255)
    error = (OPS.conv2d(inputs, kernel).double() - expected).abs()
    assert error.max() <= 1
    assert error.mean() < 0.02
    assert expected.unique().numel() > 8


@pytest.mark.parametrize("scale", [0.5, None])
@pytest.mark.parametrize("activation", ["", "clip,0,2", "hardswish"])
@pytest.mark.parametrize(
    ("channels", "window", "stride", "padding", "dilation"),
    [
        (8, (3, 3, 3), (1, 1, 1), (1, 1, 1), (1, 1, 1)),
        (96, (3, 3, 3), (1, 2, 2), (1, 1, 1), (1, 1, 1)),
        (20, (1, 3, 2), (2, 1, 3), (0, 2, 1), (1, 2, 1)),
        (3, (2, 1, 1), (1, 1, 1), (0, 0, 0), (1, 1, 1)),
        (4, (8, 8, 8), (1, 1, 1), (4, 4, 4), (1, 1, 1)),
    ],
)
def test_depthwise_conv3d(
    channels: int,
    window: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    activation: str,
    scale: float | None,
) -> None:
    """Test every geometry against exact arithmetic, and padding, which stands for the zero point."""
    weight = torch.randint(-127, 128, (channels, 1, *window), dtype=torch.int8)
    scales, bias = torch.linspace(0.004, 0.006, channels), torch.linspace(-1, 1, channels)
    geometry = (list(stride), list(padding), list(dilation))
    output = (scale, 3 if scale else 0, activation)
    kernel = OPS.conv_prepack(weight, scales, bias, *geometry, channels, 0.02, 100, *output, *NO_SUM, None)
    for sizes in ((2, channels, 6, 7, 9), (1, channels, 4, 5, 5)):
        integers = uint8(*sizes)
        real = nn.functional.conv3d(
            (integers.double() - 100) * 0.02,
            weight.double() * scales[:, None, None, None, None],
            bias.double(),
            *geometry,
            channels,
        )
        function = {"": nn.Identity(), "clip,0,2": nn.Hardtanh(0, 2), "hardswish": nn.Hardswish()}[activation]
        expected, found = function(real), OPS.conv3d(integers, kernel)
        if scale:
            assert (found.double() - rounded(expected, scale, 3)).abs().max() <= 1
        else:
            assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)
        assert kernel.multiply_adds() == expected.numel() * weight[0].numel()


def test_float_output_is_not_rounded() -> None:
    kernel, reference = conv_kernel(torch.randint(-127, 128, (16, 8, 3, 3), dtype=torch.int8), scale=None)
    found = OPS.conv2d(uint8(1, 8, 9, 7), kernel)
    assert sqnr(reference(uint8(1, 8, 9, 7)).float(), found) > 100


def test_new_sizes_layouts_batches_and_threads_are_right() -> None:
    """Test more shapes than a kernel remembers, channels-first and sliced inputs, other thread counts."""
    kernel, reference = conv_kernel(torch.randint(-127, 128, (16, 8, 3, 3), dtype=torch.int8), zero_point=9)
    threads = torch.get_num_threads()
    try:
        for size in [*range(3, 15), 3]:
            torch.set_num_threads(1 + size % 2)
            integers = uint8(2, 16, size, size + 1, seed=size)[:, 3:11]
            expected = ((reference(integers) / 0.5).round() + 3).clamp(0, 255)
            for given in (integers, integers.contiguous()):
                assert (OPS.conv2d(given, kernel).double() - expected).abs().max() <= 1
    finally:
        torch.set_num_threads(threads)
    assert OPS.conv2d(uint8(0, 8, 5, 5), kernel).shape == (0, 16, 5, 5)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (uint8(1, 9, 5, 5), "9 channels and the weight takes 8"),
        (torch.randn(1, 8, 5, 5), "has to be uint8"),
        (uint8(8, 5, 5), "unsqueeze"),
    ],
)
def test_wrong_input_is_refused_in_words(inputs: Tensor, words: str) -> None:
    kernel, _ = conv_kernel(torch.randint(-127, 128, (16, 8, 3, 3), dtype=torch.int8))
    with pytest.raises(RuntimeError, match=words):
        OPS.conv2d(inputs, kernel)


@pytest.mark.parametrize("channels", [16, 32, 48, 96, 160, 224])
@pytest.mark.parametrize(
    ("window", "stride", "padding"), [(2, 2, 0), (4, 4, 0), (4, 4, 1), (4, 2, 1), (6, 6, 0)]
)
def test_windows_that_lie_side_by_side_are_right(
    channels: int, window: int, stride: int, padding: int
) -> None:
    """Test that no kernel is taken that forgets channels: one of oneDNN's does for some of these."""
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (64, channels, window, window), dtype=torch.int8)
    scales = torch.full((64,), 0.001)
    geometry = ([stride] * 2, [padding] * 2, [1, 1], 1)
    kernel = OPS.conv_prepack(weight, scales, None, *geometry, 0.02, 0, None, 0, "", *NO_SUM, None)
    integers = uint8(1, channels, 24, 24)
    real = nn.functional.conv2d(
        integers.double() * 0.02, weight.double() * 0.001, stride=stride, padding=padding
    )
    assert sqnr(real, OPS.conv2d(integers, kernel)) > 80


@pytest.mark.parametrize(("window", "padding", "dilation"), [(7, 16, 3), (7, 10, 2), (5, 10, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_dilated_conv_pads_with_the_zero_point(
    groups: int, window: int, padding: int, dilation: int
) -> None:
    """Test that no kernel is taken that adds the padding's share of the zero point wrongly: one does."""
    weight = torch.randint(-127, 128, (64, 48, window, 3), dtype=torch.int8)
    geometry = ([1, 2], [padding, 0], [dilation, 1], groups)
    numbers = (0.02, 128, None, 0, "")
    kernel = OPS.conv_prepack(weight, torch.tensor([0.01]), None, *geometry, *numbers, *NO_SUM, None)
    integers = uint8(2, 48 * groups, 21, 23)
    real = (integers.double() - 128) * 0.02
    expected = nn.functional.conv2d(real, weight.double() * 0.01, None, *geometry)
    assert sqnr(expected, OPS.conv2d(integers, kernel)) > 100


@pytest.mark.parametrize(
    ("channels", "window", "stride", "extra"),
    [
        ((42, 49), (1, 1), (3, 1), (1, 0)),
        ((18, 60), (1, 1), (3, 3), (0, 1)),
        ((24, 18), (1, 2), (3, 1), (0, 0)),
    ],
)
def test_transposed_conv_is_right_where_no_input_reaches(
    channels: tuple[int, int], window: tuple[int, int], stride: tuple[int, int], extra: tuple[int, int]
) -> None:
    """Test that no kernel is taken that forgets the zero point there: several of oneDNN's do."""
    torch.manual_seed(0)
    weight = torch.randint(-127, 128, (*channels, *window), dtype=torch.int8)
    geometry = (list(stride), [0, 0], [1, 1], 1)
    numbers = (0.02, 100, None, 0, "")
    kernel = OPS.conv_prepack(weight, torch.tensor([0.01]), None, *geometry, *numbers, *NO_SUM, list(extra))
    integers = uint8(1, channels[0], 2, 10)
    real = (integers.double() - 100) * 0.02
    expected = nn.functional.conv_transpose2d(real, weight.double() * 0.01, None, stride, 0, extra)
    assert sqnr(expected, OPS.conv_transpose(integers, kernel)) > 100


@pytest.mark.parametrize("kind", ["add", "mul"])
@pytest.mark.parametrize("zero_points", [(0, 0), (10, 0), (0, 10), (10, 20)])
@pytest.mark.parametrize("sizes", [(2, 24, 5, 7), (2, 24, 1, 1), (1, 1, 5, 7), (7,)])
def test_add_and_mul_broadcast_on_either_side(
    kind: str, zero_points: tuple[int, int], sizes: tuple[int, ...]
) -> None:
    left, right = uint8(2, 24, 5, 7), uint8(*sizes, seed=1)
    for a, b in ((left, right), (right, left)):
        kernel = OPS.binary_prepack(kind, 0.02, zero_points[0], 0.004, zero_points[1], 0.03, 20, "")
        found = getattr(OPS, kind)(a, b, kernel)
        real = ((a.double() - zero_points[0]) * 0.02, (b.double() - zero_points[1]) * 0.004)
        combined = real[0] + real[1] if kind == "add" else real[0] * real[1]
        expected = ((combined / 0.03).round() + 20).clamp(0, 255)
        assert found.shape == expected.shape
        assert (found.double() - expected).abs().max() <= 1


def rounded(real: Tensor, scale: float, zero_point: int) -> Tensor:
    return ((real.double() / scale).round() + zero_point).clamp(0, 255)


def assert_off_by_one_at_most(found: Tensor, expected: Tensor) -> None:
    assert found.dtype == torch.uint8
    assert found.shape == expected.shape
    assert expected.unique().numel() > 8
    error = (found.double() - expected).abs()
    assert error.max() <= 1
    assert error.mean() < 0.05


def heads(integers: Tensor) -> Tensor:
    """[batch, tokens, 4 heads x 8] as attention splits it: [batch, heads, tokens, 8]."""
    return integers.view(integers.size(0), -1, 4, 8).transpose(1, 2)


@pytest.mark.parametrize("zero_points", [(0, 128), (0, 0), (7, 200)])
@pytest.mark.parametrize("scale", [0.9, None])
@pytest.mark.parametrize(
    ("left", "right"),
    [
        (heads(uint8(2, 16, 32)), heads(uint8(2, 20, 32, seed=1)).transpose(-1, -2)),
        (uint8(2, 4, 6, 16), heads(uint8(2, 16, 32, seed=1))),
        (uint8(5, 16), uint8(16, 9, seed=1)),
        (uint8(3, 5, 16), uint8(16, 9, seed=1)),
        (uint8(16, 5).t(), uint8(3, 16, 9, seed=1)),
        (uint8(2, 5, 33)[:, :, ::2], uint8(2, 40, 9, seed=1)[:, 3:20]),
    ],
)
def test_matmul(left: Tensor, right: Tensor, zero_points: tuple[int, int], scale: float | None) -> None:
    """Test that products of integers with zero points are those of the numbers they stand for."""
    kernel = OPS.binary_prepack(
        "matmul", 0.02, zero_points[0], 0.03, zero_points[1], scale, 99 if scale else 0, "linear,0.25,0"
    )
    found = OPS.matmul(left, right, kernel)
    real = ((left.double() - zero_points[0]) * 0.02) @ ((right.double() - zero_points[1]) * 0.03) * 0.25
    if scale:
        assert_off_by_one_at_most(found, rounded(real, scale, 99))
    else:
        assert torch.allclose(found.double(), real, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("which", [0, 1])
def test_matmul_of_interleaved_heads_has_a_fast_kernel(which: int) -> None:
    """Test that operands whose heads lie innermost are copied: oneDNN has but its slow reference for them."""
    operands = [uint8(1, 2, 16, 32), uint8(1, 2, 32, 24, seed=1)]
    operands[which] = operands[which].contiguous(memory_format=torch.channels_last)
    kernel = OPS.binary_prepack("matmul", 0.02, 3, 0.03, 128, None, 0, "")
    found = OPS.matmul(*operands, kernel)
    assert not kernel.implementation().startswith("ref")
    real = ((operands[0].double() - 3) * 0.02) @ ((operands[1].double() - 128) * 0.03)
    assert torch.allclose(found.double(), real, rtol=1e-5, atol=1e-5)


def test_heads_are_put_together_without_a_copy() -> None:
    """Test that attention's result lies as the values did, so that the reshape behind it gives a view."""
    kernel = OPS.binary_prepack("matmul", 1 / 256, 0, 0.03, 128, 0.1, 128, "")
    found = OPS.matmul(uint8(2, 4, 16, 16), heads(uint8(2, 16, 32)), kernel).transpose(1, 2)
    assert found.is_contiguous()


@pytest.mark.parametrize(
    ("left", "right", "words"),
    [
        (uint8(3, 4), uint8(5, 4), "cannot be multiplied"),
        (uint8(4), uint8(4, 4), "unsqueeze"),
        (torch.randn(3, 4), uint8(4, 4), "has to be uint8"),
        (uint8(3, 0), uint8(0, 4), "have nothing to multiply"),
    ],
)
def test_matmul_refuses(left: Tensor, right: Tensor, words: str) -> None:
    """Test that operands that do not fit are refused in words."""
    kernel = OPS.binary_prepack("matmul", 0.02, 0, 0.03, 0, None, 0, "")
    with pytest.raises(RuntimeError, match=words):
        OPS.matmul(left, right, kernel)


EINSUMS = {
    "video attention": ("bythwc,hkc->bythwk", (2, 3, 2, 4, 5, 16), (4, 7, 16)),
    "columns of the right in front": ("bythwc,wkc->bythwk", (2, 3, 2, 4, 5, 16), (5, 7, 16)),
    "matrices": ("ik,kj->ij", (5, 16), (16, 9)),
    "transposed result": ("ik,kj->ji", (5, 16), (16, 9)),
    "batches in another order": ("abik,bakj->jbia", (2, 3, 5, 16), (3, 2, 16, 9)),
    "two letters to sum over": ("bijk,bjkl->bil", (2, 5, 4, 6), (2, 4, 6, 9)),
    "summed over in another order": ("bikj,bljk->bil", (2, 5, 4, 6), (2, 9, 6, 4)),
    "operands the other way": ("kc,bc->bk", (9, 16), (5, 16)),
    "vectors": ("i,i->", (640,), (640,)),
    "matrix and vector": ("ij,j->i", (40, 16), (16,)),
    "vectors of a batch": ("bi,bi->b", (40, 16), (40, 16)),
    "no arrow": ("ij,kj", (5, 16), (9, 16)),
    "no arrow, capitals first": ("bCa,aB", (3, 5, 16), (16, 9)),
    "spaces": (" i j , j k -> i k ", (5, 16), (16, 9)),
    "a batch of one": ("bik,bkj->bij", (3, 5, 16), (1, 16, 9)),
    "one of two batches is one": ("abik,abkj->abij", (1, 3, 5, 16), (2, 1, 16, 9)),
    "one to sum over on the left": ("ik,kj->ij", (50, 1), (16, 9)),
    "one to sum over on the right": ("bijk,bjkl->bil", (2, 5, 4, 6), (2, 4, 1, 9)),
    "one column": ("ik,kj->ij", (40, 16), (16, 1)),
}


@pytest.mark.parametrize("strided", [False, True])
@pytest.mark.parametrize("scale", [1.7, None])
@pytest.mark.parametrize("name", EINSUMS)
def test_einsum(name: str, scale: float | None, strided: bool) -> None:
    """Test that sums of products are those of the numbers, whatever the order of the dimensions."""
    equation, *sizes = EINSUMS[name]
    operands = [uint8(*each, seed=seed).contiguous() for seed, each in enumerate(sizes)]
    if strided:  # every other row of what lies the other way round
        operands = [
            each.repeat_interleave(2, 0).permute(*reversed(range(each.dim()))).contiguous()
            for each in operands
        ]
        operands = [each.permute(*reversed(range(each.dim())))[::2] for each in operands]
    zero_points = [99 if scale else 0, 128]
    kernel = OPS.einsum_prepack(equation, [0.02, 0.03], [7, 128], scale, 99 if scale else 0, "linear,0.25,0")
    real = [(operands[0].double() - 7) * 0.02, (operands[1].double() - zero_points[1]) * 0.03]
    expected = torch.einsum(equation, real) * 0.25
    found = OPS.einsum(operands, kernel)
    assert found.shape == expected.shape
    assert kernel.multiply_adds() >= expected.numel()
    if scale:
        assert (found.double() - rounded(expected, scale, zero_points[0])).abs().max() <= 1
    else:
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)


def test_einsum_of_several_sizes() -> None:
    """Test that a kernel is right for one batch behind another, empty ones and empty sums too."""
    kernel = OPS.einsum_prepack("bic,kc->bki", [0.02, 0.03], [7, 128], None, 0, "clip,-1,2")
    for batch, depth in ((1, 16), (3, 16), (0, 16), (2, 0), (3, 16)):
        operands = uint8(batch, 5, depth), uint8(4, depth, seed=1)
        real = (operands[0].double() - 7) * 0.02, (operands[1].double() - 128) * 0.03
        expected = torch.einsum("bic,kc->bki", real).clamp(-1, 2)
        found = OPS.einsum(operands, kernel)
        assert found.shape == expected.shape
        assert torch.allclose(found.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    "equation", ["ij,jk,kl->il", "ij->ji", "...ij,jk->...ik", "ii,ij->j", "ij,jk->i", "i,j->ij", "ij,jk->ikl"]
)
def test_einsum_refuses_equations(equation: str) -> None:
    """Test that what is no sum over products of two operands makes no kernel."""
    with pytest.raises(RuntimeError, match=r"leave it to torch\.einsum"):
        OPS.einsum_prepack(equation, [0.02, 0.03], [7, 128], None, 0, "")


@pytest.mark.parametrize(
    ("operands", "words"),
    [
        ([uint8(3, 4)], "multiplies two"),
        ([uint8(3, 4), uint8(4)], "has 1 dimensions and is 'jk'"),
        ([uint8(3, 4), uint8(5, 2)], "'j' is 4 in one operand and 5 in the other"),
        ([torch.randn(3, 4), uint8(4, 2)], "has to be uint8"),
    ],
)
def test_einsum_refuses(operands: list[Tensor], words: str) -> None:
    """Test that operands that do not fit the equation are refused in words."""
    kernel = OPS.einsum_prepack("ij,jk->ik", [0.02, 0.03], [7, 128], None, 0, "")
    with pytest.raises(RuntimeError, match=words):
        OPS.einsum(operands, kernel)


@pytest.mark.parametrize("sizes", [(2, 3, 128), (5, 7), (4, 33), (1, 1000)])
@pytest.mark.parametrize("dim", [-1, 0])
def test_softmax(sizes: tuple[int, ...], dim: int) -> None:
    """Test that softmax along any dimension, of floats or integers, is off by one integer at most."""
    torch.manual_seed(0)
    logits = torch.randn(sizes) * 4
    found = OPS.softmax(logits, OPS.softmax_prepack(dim, None, 0, 1 / 256, 0))
    expected = rounded(torch.softmax(logits.double(), dim), 1 / 256, 0)
    assert (found.double() - expected).abs().max() <= 1
    integers = uint8(*sizes[:2])
    found = OPS.softmax(integers, OPS.softmax_prepack(dim, 0.05, 17, 1 / 256, 0))
    expected = rounded(torch.softmax((integers.double() - 17) * 0.05, dim), 1 / 256, 0)
    assert (found.double() - expected).abs().max() <= 1


@pytest.mark.parametrize("columns", [512, 1500])
def test_softmax_keeps_the_sum_of_small_numbers(columns: int) -> None:
    """Test that of numbers which are all less than half a step as many are one as their sum asks for."""
    logits = torch.randn(6, columns) * 0.5
    found = OPS.softmax(logits, OPS.softmax_prepack(-1, None, 0, 1 / 256, 0))
    steps = torch.softmax(logits.double(), -1) * 256
    assert found.max() <= steps.max() + 1
    for part in range(16):  # each lane of a loop passes on what is its own
        assert (found[:, part::16].double() - steps[:, part::16]).sum(1).abs().max() <= 0.51


def test_softmax_of_masked_rows() -> None:
    """Test that what is masked with minus infinity, or with the lowest number, has no weight."""
    logits = torch.randn(4, 40)
    logits[:, 20:30] = -torch.inf
    logits[:, 30:] = torch.finfo(torch.float32).min
    found = OPS.softmax(logits, OPS.softmax_prepack(-1, None, 0, 1 / 256, 0))
    assert not found[:, 20:].any()
    assert (found.double() - rounded(torch.softmax(logits, -1), 1 / 256, 0)).abs().max() <= 1


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("shape", [[48], [6, 8]])
@pytest.mark.parametrize("from_integers", [True, False])
def test_layer_norm(affine: bool, shape: list[int], from_integers: bool) -> None:
    """Test that layer norm of floats or integers, with weights or none, is that of the numbers."""
    torch.manual_seed(0)
    parameters = (torch.rand(shape) + 0.5, torch.randn(shape)) if affine else (None, None)
    given = uint8(2, 5, 6, 8) if from_integers else torch.randn(2, 5, 6, 8) * 3
    given = given.reshape(2, 5, *shape)
    real = (given.float() - 77) * 0.02 if from_integers else given
    expected = nn.functional.layer_norm(real, shape, *parameters, 1e-3)
    qparams = (0.02, 77) if from_integers else (None, 0)
    kernel = OPS.layer_norm_prepack(shape, *parameters, 1e-3, *qparams, 0.03, 120)
    assert_off_by_one_at_most(OPS.layer_norm(given, kernel), rounded(expected, 0.03, 120))
    kernel = OPS.layer_norm_prepack(shape, *parameters, 1e-3, *qparams, None, 0)
    assert torch.allclose(OPS.layer_norm(given, kernel), expected, atol=1e-4)
    with pytest.raises(RuntimeError, match="has to end in"):
        OPS.layer_norm(uint8(2, 5), kernel)


@pytest.mark.parametrize("dim", [0, 1, -1])
@pytest.mark.parametrize("channels_last", [True, False])
def test_cat(dim: int, channels_last: bool) -> None:
    """Test that tensors with parameters of their own are brought to those of the result."""
    parts = [uint8(2, 6, 5, 5, seed=seed) for seed in range(3)]
    if not channels_last:
        parts = [part.contiguous() for part in parts]
    scales, zero_points = [0.02, 0.05, 0.03], [0, 100, 7]
    kernel = OPS.cat_prepack(dim, scales, zero_points, 0.05, 100)
    real = [(p.double() - z) * s for p, s, z in zip(parts, scales, zero_points, strict=True)]
    assert_off_by_one_at_most(OPS.cat(parts, kernel), rounded(torch.cat(real, dim), 0.05, 100))
    with pytest.raises(RuntimeError, match="2 tensors are given and the kernel joins 3"):
        OPS.cat(parts[:2], kernel)
    with pytest.raises(RuntimeError, match="cannot join"):
        OPS.cat([*parts[:2], uint8(3, 7, 5, 6)], kernel)


POOLS = {
    "max": ([3], [2], [1], None, False, False),
    "max, dilated": ([2], [1], [0], [2], False, False),
    "max, sizes rounded up": ([3], [2], [0], [1], True, False),
    "avg": ([3], [], [0], None, False, True),
    "avg, padding not counted": ([3], [2], [1], None, False, False),
}


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_pool(name: str, dimensions: int) -> None:
    """Test that pooling in one, two and three dimensions is torch's, and each mean is rounded once."""
    kind = name[:3]
    window, stride, padding, dilation, rounds_up, counts_padding = POOLS[name]
    integers = uint8(2, 5, *[8] * dimensions)
    kernel = OPS.pool_prepack(kind, window * dimensions, stride, padding, dilation, rounds_up, counts_padding)
    function = getattr(nn.functional, f"{kind}_pool{dimensions}d")
    last = {"dilation": dilation or 1} if kind == "max" else {"count_include_pad": counts_padding}
    expected = function(integers.double(), window, stride, padding, ceil_mode=rounds_up, **last)
    found = OPS.pool(integers, kernel)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= (0 if kind == "max" else 0.5)


@pytest.mark.parametrize("groups", [2, 3])
def test_channel_shuffle(groups: int) -> None:
    """Test that channels change places as torch's do."""
    integers = uint8(2, 42, 5, 3)
    found = OPS.channel_shuffle(integers, OPS.channel_shuffle_prepack(groups))
    assert torch.equal(found, torch.channel_shuffle(integers.contiguous(), groups))
    with pytest.raises(RuntimeError, match="has no channels that 2 divides"):
        OPS.channel_shuffle(uint8(1, 5, 2, 2), OPS.channel_shuffle_prepack(2))


@pytest.mark.parametrize("keepdim", [True, False])
@pytest.mark.parametrize("dim", [[2, 3], [-1, -2], [1], [0, 3], [0, 1]])
@pytest.mark.parametrize("channels_last", [True, False])
def test_mean(dim: list[int], keepdim: bool, channels_last: bool) -> None:
    """Test that a mean over any dimensions is rounded once."""
    integers = uint8(4, 24, 7, 5) if channels_last else uint8(4, 24, 7, 5).contiguous()
    found = OPS.mean(integers, OPS.mean_prepack(dim, keepdim, 0.02, 7, 0.02, 7))
    assert_off_by_one_at_most(found, integers.double().mean(dim, keepdim).round())
    found = OPS.mean(integers, OPS.mean_prepack(dim, keepdim, 0.02, 7, None, 0))
    assert torch.allclose(found.double(), ((integers.double() - 7) * 0.02).mean(dim, keepdim), atol=1e-5)
    for scale, zero_point in ((0.005, 40), (0.05, 0)):  # also where 8 bits do not hold all means
        found = OPS.mean(integers, OPS.mean_prepack(dim, keepdim, 0.02, 7, scale, zero_point))
        expected = ((integers.double() - 7) * 0.02).mean(dim, keepdim) / scale + zero_point
        assert (found - expected.clamp(0, 255)).abs().max() < 0.501
    with pytest.raises(RuntimeError, match="there is no dimension"):
        OPS.mean(uint8(4), OPS.mean_prepack([2], keepdim, 0.02, 7, None, 0))


ACTIVATIONS = {
    "clip,0,6": nn.ReLU6(),
    "hardswish": nn.Hardswish(),
    "hardsigmoid": nn.Hardsigmoid(),
    "swish": nn.SiLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "leaky_relu,0.1": nn.LeakyReLU(0.1),
    "elu,1.5": nn.ELU(1.5),
}


@pytest.mark.parametrize("words", ACTIVATIONS)
@pytest.mark.parametrize("scale", [0.02, None])
def test_activation(words: str, scale: float | None) -> None:
    """Test that an activation is right at each of the 256 integers."""
    integers = uint8(3, 100)
    kernel = OPS.activation_prepack(0.04, 120, scale, 60 if scale else 0, words)
    expected = ACTIVATIONS[words]((integers.double() - 120) * 0.04)
    found = OPS.activation(integers, kernel)
    if scale:
        assert_off_by_one_at_most(found, rounded(expected, scale, 60))
    else:
        assert torch.allclose(found.double(), expected, atol=1e-5)


@pytest.mark.parametrize(
    "sizes", [(2, 3, 17, 31), (1, 3, 224, 224), (2, 20, 9, 9), (2, 1, 5, 5), (70,), (3, 50, 7)]
)
@pytest.mark.parametrize("channels_last", [True, False])
def test_quantize_is_exactly_torchs(sizes: tuple[int, ...], channels_last: bool) -> None:
    torch.manual_seed(0)
    floats = torch.randn(sizes) * 3
    floats.view(-1)[:3] = torch.tensor([torch.inf, -torch.inf, 1e30])
    if channels_last and len(sizes) == 4:
        floats = floats.contiguous(memory_format=torch.channels_last)
    found = OPS.quantize(floats, OPS.quantize_prepack(0.0213, 114))
    expected = torch.quantize_per_tensor(floats, 0.0213, 114, torch.quint8)
    finite = floats.isfinite() & (floats.abs() < 1e9)
    assert torch.equal(found[finite], expected.int_repr()[finite])
    assert found[~finite].tolist() == [255, 0, 255]
    restored = OPS.dequantize(found, OPS.dequantize_prepack(0.0213, 114))
    assert torch.allclose(restored[finite], expected.dequantize()[finite], atol=1e-6)


@pytest.mark.parametrize("sizes", [(2, 3, 17, 31), (1, 20, 9, 9), (2, 1, 5, 5), (1, 3, 0, 4), (1, 3, 1, 1)])
@pytest.mark.parametrize("channels_last", [True, False])
def test_quantize_puts_a_frame_around_images(sizes: tuple[int, ...], channels_last: bool) -> None:
    """Test that the frame is of the integer that stands for zero, as wide on each side as it was told."""
    floats = torch.randn(sizes)
    if channels_last:
        floats = floats.contiguous(memory_format=torch.channels_last)
    found = OPS.quantize(floats, OPS.quantize_prepack(0.02, 114, [2, 0, 1, 3]))
    inner = OPS.quantize(floats, OPS.quantize_prepack(0.02, 114))
    assert torch.equal(found, nn.functional.pad(inner, (0, 3, 2, 1), value=114))
    with pytest.raises(RuntimeError, match="4 are needed"):
        OPS.quantize(floats[0], OPS.quantize_prepack(0.02, 114, [2, 0, 1, 3]))
    with pytest.raises(RuntimeError, match="has to be four numbers"):
        OPS.quantize_prepack(0.02, 114, [2, 0])


@pytest.mark.parametrize("sizes", [(7,), (5, 50), (2, 3, 384), (0, 8)])
def test_quantize_multiplies_channels(sizes: tuple[int, ...]) -> None:
    """Test that each channel has its factor before it is rounded."""
    torch.manual_seed(0)
    floats, factors = torch.randn(sizes) * 3, torch.rand(sizes[-1]) + 0.5
    found = OPS.quantize(floats, OPS.quantize_prepack(0.0213, 114, None, factors))
    expected = torch.quantize_per_tensor(floats * factors, 0.0213, 114, torch.quint8).int_repr()
    difference = (found.int() - expected.int()).abs()
    assert difference.max() <= 1 if difference.numel() else found.shape == expected.shape
    assert difference.float().mean() < 0.01 or not difference.numel()


def test_factors_have_to_fit() -> None:
    kernel = OPS.quantize_prepack(0.02, 114, None, torch.ones(7))
    with pytest.raises(RuntimeError, match="has to end in 7"):
        OPS.quantize(torch.randn(3, 8), kernel)
    with pytest.raises(RuntimeError, match="padded without factors"):
        OPS.quantize_prepack(0.02, 114, [1, 1, 1, 1], torch.ones(7))
    weight, no_sum = torch.zeros(12, 16, dtype=torch.int8), ("", "", None, 0)
    with pytest.raises(RuntimeError, match="to be 12 of them"):
        OPS.linear_prepack(weight, torch.ones(12), None, 0.01, 3, 0.02, 80, *no_sum, torch.ones(7))


@pytest.mark.parametrize("activation", ["", "gelu", "hardswish", "clip,0,inf", "linear,2,1"])
@pytest.mark.parametrize("bias", [torch.linspace(-1, 1, 12), None])
@pytest.mark.parametrize("zero_point", [0, 80])
def test_linear_multiplies_channels(activation: str, bias: Tensor | None, zero_point: int) -> None:
    """Test that the factors come behind the elementwise function, and before the result is rounded."""
    weight = torch.randint(-127, 128, (12, 16), dtype=torch.int8)
    factors = torch.linspace(0.2, 3, 12)
    kernel = OPS.linear_prepack(
        weight, torch.full((12,), 0.01), bias, 0.01, 3, 0.05, zero_point, activation, "", None, 0, factors
    )
    integers = uint8(5, 16)
    real = (integers.double() - 3) * 0.01 @ (weight.double() * 0.01).t()
    real = real if bias is None else real + bias
    function = {
        "": nn.Identity(),
        "gelu": nn.GELU(),
        "hardswish": nn.Hardswish(),
        "clip,0,inf": nn.ReLU(),
        "linear,2,1": lambda x: 2 * x + 1,
    }[activation]
    found = OPS.linear(integers, kernel)
    assert (found.double() - rounded(function(real) * factors, 0.05, zero_point)).abs().max() <= 1


def test_loops_are_split_between_threads() -> None:
    """Test that the library was compiled with OpenMP, without which at::parallel_for is a plain loop."""
    assert b"GOMP_parallel" in native.LIBRARY.read_bytes()


@pytest.mark.parametrize("activation", ["", "clip,0,inf", "hardswish"])
@pytest.mark.parametrize("scale", [0.05, None])
@pytest.mark.parametrize(
    "other", [uint8(3, 12, seed=1), uint8(12, seed=1), torch.randn(3, 12), torch.randn(1, 12)]
)
def test_linear_adds_whatever_broadcasts(activation: str, scale: float | None, other: Tensor) -> None:
    weight = torch.randint(-127, 128, (12, 16), dtype=torch.int8)
    is_float = other.dtype == torch.float32
    qparams = (None, 0) if is_float else (0.02, 100)
    output = (scale, 80 if scale else 0)
    kernel = OPS.linear_prepack(
        weight, torch.full((12,), 0.01), torch.ones(12), 0.01, 3, *output, activation, "copy", *qparams
    )
    integers = uint8(3, 16)
    real = (integers.double() - 3) * 0.01 @ (weight.double() * 0.01).t() + 1
    real = real + (other if is_float else (other.double() - 100) * 0.02)
    function = {"": nn.Identity(), "clip,0,inf": nn.ReLU(), "hardswish": nn.Hardswish()}[activation]
    kept = other.clone()
    found = OPS.linear_add(integers, other, kernel)
    assert torch.equal(kept, other)
    if scale:
        assert (found.double() - rounded(function(real), scale, 80)).abs().max() <= 1
    else:
        assert torch.allclose(found.double(), function(real), atol=1e-4)


def test_conv_adds_one_value_for_each_channel() -> None:
    weight = torch.randint(-127, 128, (16, 8, 3, 3), dtype=torch.int8)
    scales, ones = torch.full((16,), 0.005), [1, 1]
    kernel = OPS.conv_prepack(
        weight, scales, None, ones, ones, ones, 1, 0.02, 0, 0.3, 100, "", "copy", 0.1, 7, None
    )
    integers, other = uint8(1, 8, 6, 6), uint8(1, 16, 1, 1)
    found = OPS.conv2d_add(integers, other, kernel)
    one_by_one = OPS.conv2d_add(integers, other.expand(1, 16, 6, 6).contiguous(), kernel)
    assert (found.int() - one_by_one.int()).abs().max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX512_CORE_VNNI"])
def test_loops_of_other_processors(instructions: str) -> None:
    """Test the loops of each instruction set: the environment takes the newer ones away."""
    loops = (
        "softmax or cat or channel_shuffle or test_activation or quantize or broadcast_on_either or bfloat16"
    )
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", loops],
        capture_output=True, text=True, check=False, env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:]


def dynamic_kernel(bias: bool = True, activation: str = "", sum_: str = ""):
    """The kernel of a linear of 40 to 24, and the weight and the bias that it stands for."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randint(-127, 128, (24, 40), dtype=torch.int8, generator=generator)
    scales = torch.rand(24, generator=generator) * 0.01 + 0.001
    shift = torch.randn(24, generator=generator) if bias else None
    kernel = OPS.linear_dynamic_prepack(weight, scales, shift, activation, sum_)
    return kernel, weight * scales[:, None], shift


@pytest.mark.parametrize("shape", [(3, 40), (2, 5, 40), (0, 40), (40,), (1, 40), (17, 40)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear_dynamic(shape: tuple[int, ...], bias: bool) -> None:
    """Test that each row is rounded with its own range at each call, whatever the call before had."""
    kernel, weight, shift = dynamic_kernel(bias)
    for size in (1e-3, 1.0, 300.0):
        x = torch.randn(shape) * size
        expected = nn.functional.linear(x, weight, shift)
        found = OPS.linear_dynamic(x, kernel)
        assert found.shape == expected.shape
        if x.numel() > 0:
            steps = (x.amax(-1).clamp(min=0) - x.amin(-1).clamp(max=0)) / 255
            allowed = 0.51 * steps * weight.abs().sum(1).max() + 1e-5
            assert ((found - expected).abs().amax(-1) <= allowed).all()


def test_linear_dynamic_rounds_no_row_by_another() -> None:
    """Test that a row gives the same numbers bit for bit, whatever large numbers the other rows have."""
    kernel, _, _ = dynamic_kernel(activation="gelu")
    x = torch.randn(8, 40)
    alone = torch.stack([OPS.linear_dynamic(row, kernel) for row in x])
    assert torch.equal(OPS.linear_dynamic(x, kernel), alone)
    x[3] *= 1000
    changed = OPS.linear_dynamic(x, kernel)
    assert torch.equal(changed[[0, 1, 2, 4, 5, 6, 7]], alone[[0, 1, 2, 4, 5, 6, 7]])


def test_linear_dynamic_of_rows_of_zeros_and_of_what_is_no_number() -> None:
    """Test that zeros give the bias, and that NaN and infinity stay in their row."""
    kernel, weight, shift = dynamic_kernel()
    x = torch.randn(6, 40)
    x[1], x[2, 39], x[3, 0], x[4, 17] = 0, torch.nan, torch.inf, -torch.inf
    found = OPS.linear_dynamic(x, kernel)
    assert torch.equal(found[1], shift)
    assert found[2:5].isnan().all()
    torch.testing.assert_close(
        found[[0, 5]], nn.functional.linear(x[[0, 5]], weight, shift), rtol=0, atol=0.1
    )
    tiny = torch.full((2, 40), 1e-37)
    torch.testing.assert_close(OPS.linear_dynamic(tiny, kernel), shift.expand(2, 24))


@pytest.mark.parametrize("kind", ["dynamic", "bfloat16"])
@pytest.mark.parametrize("activation", ["", "gelu", "linear,0.5,3", "clip,-1,1"])
def test_a_linear_adds_in_place_and_apart(kind: str, activation: str) -> None:
    """Test the same numbers with the sum in the operand's memory, beside it, larger, and of another type."""
    weight, shift = torch.randn(24, 40) * 0.2, torch.randn(24)
    if kind == "bfloat16":
        kernels = {
            how: OPS.linear_bfloat16_prepack(weight.bfloat16(), shift, activation, how)
            for how in ("", "copy", "in_place")
        }
        run, add = OPS.linear_bfloat16, OPS.linear_bfloat16_add
    else:
        kernels = {how: dynamic_kernel(True, activation, how)[0] for how in ("", "copy", "in_place")}
        run, add = OPS.linear_dynamic, OPS.linear_dynamic_add
    plain = dynamic_kernel()[0] if kind == "dynamic" else None
    if plain is None:
        plain = OPS.linear_bfloat16_prepack(weight.bfloat16(), shift, "", "")
    functions = {
        "": lambda y: y,
        "gelu": nn.functional.gelu,
        "linear,0.5,3": lambda y: y * 0.5 + 3,
        "clip,-1,1": lambda y: y.clamp(-1, 1),
    }
    x, other = torch.randn(2, 5, 40), torch.randn(2, 5, 24)
    for added in (other, other[:1, 2:3], other.transpose(0, 1).contiguous().transpose(0, 1)):
        kept = added.clone()
        expected = functions[activation](run(x, plain) + added)
        torch.testing.assert_close(add(x, added, kernels["copy"]), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(added, kept)
    for added in (torch.randn(3, 2, 5, 24), other.double()):
        expected = functions[activation](run(x, plain) + added).float()
        torch.testing.assert_close(add(x, added, kernels["copy"]), expected, rtol=1e-4, atol=1e-4)
    expected = functions[activation](run(x, plain) + other)
    in_place = OPS.linear_dynamic_add_ if kind == "dynamic" else OPS.linear_bfloat16_add_
    found = in_place(x, other, kernels["in_place"])
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert found.data_ptr() == other.data_ptr()


@pytest.mark.parametrize("shape", [(3, 40), (2, 5, 40), (0, 40), (40,), (1, 40), (17, 40)])
def test_linear_bfloat16(shape: tuple[int, ...]) -> None:
    """Test that input and weight are rounded to bfloat16, and nothing else is."""
    weight, shift, x = torch.randn(24, 40).bfloat16(), torch.randn(24), torch.randn(shape)
    kernel = OPS.linear_bfloat16_prepack(weight, shift, "", "")
    expected = nn.functional.linear(x.bfloat16().double(), weight.double(), shift.double()).float()
    torch.testing.assert_close(OPS.linear_bfloat16(x, kernel), expected, rtol=1e-5, atol=1e-5)


def test_linear_bfloat16_refuses_other_types() -> None:
    with pytest.raises(RuntimeError, match="the weight has to be bfloat16, and this one is Float"):
        OPS.linear_bfloat16_prepack(torch.randn(24, 40), None, "", "")
    kernel = OPS.linear_bfloat16_prepack(torch.randn(24, 40).bfloat16(), None, "", "")
    with pytest.raises(RuntimeError, match="the input is Double and has to be float32"):
        OPS.linear_bfloat16(torch.randn(2, 40).double(), kernel)
    with pytest.raises(RuntimeError, match="the input has 4 features and the weight takes 40"):
        OPS.linear_bfloat16(torch.randn(2, 4), kernel)
