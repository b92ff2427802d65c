"""Tests of the stock target's choices: which kernel computes a convolution or a linear, on which engine."""

import pytest
import torch
from torch import Tensor
from torch.testing import FileCheck

from jitquant.passes import PassOptions, parse_ir, run_pass
from tests.graphs import Attributes, argument, graph_of, nodes_of, ops_of
from tests.quantized_ir import (
    RELU,
    check_within_a_step,
    constants,
    convolution,
    linear,
    pair,
    run_with,
    weight_pair,
)

FUSE = "fuse_quantized"

# Depthwise convolutions

PLAIN = "onednn::qconv_pointwise"
QUANTIZED = "quantized::conv2d"


@pytest.mark.parametrize(
    ("engine", "groups", "expected"),
    [
        ("x86", 100, QUANTIZED),
        ("x86", 101, PLAIN),
        ("fbgemm", 8, PLAIN),
        ("fbgemm", 104, PLAIN),
        ("onednn", 8, QUANTIZED),
        ("onednn", 104, QUANTIZED),
        ("qnnpack", 104, QUANTIZED),
    ],
)
def test_a_depthwise_convolution_avoids_kernels_that_are_wrong(
    engine: str, groups: int, expected: str
) -> None:
    """Test that the engines whose depthwise kernel is fbgemm's get oneDNN's in its place, and only those."""
    text, attributes = convolution(
        torch.randn(groups, 1, 3, 3), groups=groups, per_channel=engine != "qnnpack"
    )
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    assert run.count == 1
    assert [op for op in ops_of(run.after) if op in (PLAIN, QUANTIZED)] == [expected]


@pytest.mark.parametrize(
    ("engine", "expected"), [("x86", PLAIN), ("fbgemm", QUANTIZED), ("onednn", QUANTIZED)]
)
def test_many_groups_of_several_channels(engine: str, expected: str) -> None:
    """Test that x86 counts groups, whatever is in them, and fbgemm's kernel is wrong for depthwise only."""
    text, attributes = convolution(torch.randn(208, 2, 3, 3), groups=104)
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    assert [op for op in ops_of(run.after) if op in (PLAIN, QUANTIZED)] == [expected]


def test_an_ordinary_convolution_stays_with_fbgemm() -> None:
    """Test that on fbgemm a convolution with one group is quantized::conv2d."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3))
    run = run_with(FUSE, text, attributes, PassOptions(engine="fbgemm"))
    assert [op for op in ops_of(run.after) if op in (PLAIN, QUANTIZED)] == [QUANTIZED]


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("dimensions", [1, 2])
def test_a_convolution_on_plain_integers_has_the_same_numbers(
    dimensions: int, relu: bool, per_channel: bool
) -> None:
    """Test that the convolution that goes to oneDNN, with a relu or not, computes what the float one does."""
    weight = torch.randn(104, 1, *[3] * dimensions)
    text, attributes = convolution(weight, groups=104, per_channel=per_channel, after=RELU if relu else "")
    run = run_with(FUSE, text, attributes)
    assert run.count == 1
    plain = "aten::int_repr", "aten::int_repr", "onednn::qconv_prepack", PLAIN
    assert [op for op in ops_of(run.after) if op in plain] == list(plain)
    FileCheck().check(PLAIN).check_next("aten::_make_per_tensor_quantized_tensor").check(
        "aten::dequantize"
    ).run(graph_of(run.after))
    # oneDNN has no relu behind a conv3d, which then stands by itself.
    assert ("aten::relu" in ops_of(run.after)) == (relu and dimensions == 3)
    check_within_a_step(run.before, run.after, torch.randn(1, 104, *[5] * dimensions), step=0.03)


@pytest.mark.parametrize("engine", ["x86", "fbgemm"])
def test_a_dilated_depthwise_conv3d_stays_float(engine: str) -> None:
    """Test that a conv3d whose packed weight oneDNN cannot give back for saving is left alone."""
    text, attributes = convolution(torch.randn(104, 1, 3, 3, 3), groups=104, after=RELU)
    text = text.replace("%padding, %ones, %groups", "%padding, %padding, %groups")
    text = text.replace(constants(padding=[1] * 3), constants(padding=[2] * 3))
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 5, 5, 5), step=0.03)


@pytest.mark.parametrize("groups", [1, 104])
@pytest.mark.parametrize("engine", ["x86", "fbgemm", "onednn", "qnnpack"])
def test_weights_with_a_zero_point_are_not_computed_without_it(
    engine: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that a convolution is right where the weight's zero point is not 0, which oneDNN does not take."""
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    weight = torch.rand(104, 104 // groups, 3, 3)
    text, attributes = convolution(weight, groups=groups, per_channel=False, out=(0.5, 120))
    attributes |= {"weight_scale": 1 / 255, "weight_zero": -128}
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 6, 6), step=0.5)


@pytest.mark.parametrize("engine", ["x86", "fbgemm"])
def test_depthwise_on_ones_is_right(engine: str) -> None:
    """Test that a depthwise convolution does not saturate on all ones, as fbgemm's kernel does by 44 %."""
    weight_text, attributes = weight_pair(torch.ones(104, 1, 3, 3))
    text = f"""
graph(%self, %x : Tensor):
{constants(ones=[1, 1], groups=104, none=None)}
{weight_text}
{pair("xd", "x", 1 / 255, 0)}
  %result : Tensor = aten::conv2d(%xd, %weight_d, %none, %ones, %ones, %ones, %groups)
{pair("y", "result", 9 / 255, 0)}
  return (%y)"""
    module = parse_ir(text, attributes)
    run_pass(FUSE, module, PassOptions(engine=engine))
    with_engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    try:
        result = module(torch.ones(1, 104, 8, 8))
    finally:
        torch.backends.quantized.engine = with_engine
    torch.testing.assert_close(result[:, :, 1:-1, 1:-1], torch.full((1, 104, 6, 6), 9.0), atol=0.02, rtol=0)
    torch.testing.assert_close(result[:, :, 0, 0], torch.full((1, 104), 4.0), atol=0.02, rtol=0)


def two_convolutions(
    first: tuple[Tensor, int],
    second: tuple[Tensor, int],
    between: str = "",
    params: tuple[float, int] = (0.03, 110),
) -> tuple[str, Attributes]:
    """A graph with two convolutions in a row, given as weight and groups, and its attributes.

    `between` is a clamp of %c into %k, and `params` are those of what is between them.
    """
    first_text, attributes = weight_pair(first[0], name="first")
    second_text, more = weight_pair(second[0], name="second")
    text = f"""
graph(%self, %x : Tensor):
{constants(ones=[1, 1], zeros=[0, 0], none=None, groups1=first[1], groups2=second[1])}
{first_text}
{second_text}
{pair("xd", "x", 0.03, 120)}
  %c : Tensor = aten::conv2d(%xd, %first_d, %none, %ones, %zeros, %ones, %groups1)
{between}
{pair("cd", "k" if between else "c", *params)}
  %d : Tensor = aten::conv2d(%cd, %second_d, %none, %ones, %zeros, %ones, %groups2)
{pair("y", "d", 0.05, 120)}
  return (%y)"""
    return text, attributes | more


POINTWISE = (torch.linspace(-1, 1, 104 * 104).reshape(104, 104, 1, 1).sin() * 0.2, 1)
DEPTHWISE = (torch.linspace(-1, 1, 104 * 9).reshape(104, 1, 3, 3).sin(), 104)
BETWEEN = {
    "nothing": ("", (0.03, 110)),
    "relu": ("  %k : Tensor = aten::relu(%c)\n", (0.03, 0)),
    "relu6": (
        constants(low=0.0, high=6.0) + "  %k : Tensor = aten::hardtanh(%c, %low, %high)\n",
        (6 / 255, 0),
    ),
}


def between_convolutions(module: torch.jit.ScriptModule) -> list[str]:
    """What stands between the two convolutions on plain integers, beside their weights."""
    weights = ("aten::quantize_per_channel", "onednn::qconv_prepack")
    ops = [
        node.kind()
        for node in nodes_of(module)
        if node.kind().startswith(("aten::", "onednn::"))
        and node.kind() not in weights
        and not (node.kind() == "aten::int_repr" and node.inputsAt(0).node().kind() in weights)
    ]
    first, second = (i for i, op in enumerate(ops) if op == PLAIN)
    return ops[first + 1 : second]


@pytest.mark.parametrize("between", BETWEEN)
def test_the_convolution_before_a_depthwise_one_gives_plain_integers(between: str) -> None:
    """Test that a convolution whose output goes to oneDNN's kernel is computed there too, without copies."""
    run = run_with((FUSE, "cancel_quant_pairs"), *two_convolutions(POINTWISE, DEPTHWISE, *BETWEEN[between]))
    assert between_convolutions(run.after) == []
    # The second rounds what the first rounded, so that a step there may be two here.
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 6, 6), step=0.05, steps=2)


@pytest.mark.parametrize("between", BETWEEN)
def test_a_convolution_behind_a_depthwise_one_is_right(between: str) -> None:
    """Test that a convolution takes what oneDNN's kernel gave."""
    run = run_with((FUSE, "cancel_quant_pairs"), *two_convolutions(DEPTHWISE, POINTWISE, *BETWEEN[between]))
    assert "aten::conv2d" not in ops_of(run.after)
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 6, 6), step=0.05, steps=2)


def test_the_convolutions_beside_padding_use_plain_integers_too() -> None:
    """Test that between a convolution, uneven padding and a depthwise convolution nothing is copied."""
    text, attributes = two_convolutions(POINTWISE, DEPTHWISE, "  %k : Tensor = aten::relu(%c)\n", (0.03, 0))
    padding = (
        constants(pad=[0, 1, 0, 1], no=0)
        + "  %p : Tensor = aten::constant_pad_nd(%cd, %pad, %no)\n"
        + pair("pd", "p", 0.03, 0)
    )
    text = text.replace("  %d : Tensor = aten::conv2d(%cd,", padding + "  %d : Tensor = aten::conv2d(%pd,")
    run = run_with((FUSE, "cancel_quant_pairs"), text, attributes)
    assert between_convolutions(run.after) == ["aten::constant_pad_nd"]
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 6, 6), step=0.05, steps=2)


def test_convolutions_far_from_a_depthwise_one_stay_quantized() -> None:
    """Test that two convolutions without a depthwise one beside them are quantized::conv2d on x86."""
    run = run_with(FUSE, *two_convolutions(POINTWISE, POINTWISE))
    found = [op for op in ops_of(run.after) if op in (PLAIN, QUANTIZED)]
    assert found == [QUANTIZED, QUANTIZED]


def test_a_depthwise_convolution_of_unknown_input_stays_right() -> None:
    """Test that a depthwise convolution of what a caller quantized, whose scale no graph shows, is right."""
    weight_text, attributes = weight_pair(torch.randn(104, 1, 3, 3))
    text = f"""
graph(%self, %xq : Tensor):
{constants(ones=[1, 1], none=None, groups=104)}
{weight_text}
  %xd : Tensor = aten::dequantize(%xq)
  %c : Tensor = aten::conv2d(%xd, %weight_d, %none, %ones, %ones, %ones, %groups)
{pair("y", "c", 0.05, 120)}
  return (%y)"""
    run = run_with(FUSE, text, attributes)
    xq = torch.quantize_per_tensor(torch.randn(1, 104, 6, 6), 0.05, 128, torch.quint8).clone()
    check_within_a_step(run.before, run.after, xq, step=0.05)


# Convolutions that oneDNN computes wrong


def with_input_zero_at(zero_point: int, text: str) -> str:
    """The graph of `convolution` with another zero point of the input."""
    assert constants(xd_q_zero=120) in text
    return text.replace(constants(xd_q_zero=120), constants(xd_q_zero=zero_point))


def convolving(module: torch.jit.ScriptModule) -> list[str]:
    """What is left of a convolution."""
    kinds = [op for op in ops_of(module) if "conv" in op and "prepack" not in op]
    return [op.removesuffix("1d").removesuffix("2d") for op in kinds]


GROUPED = {
    "2d": (torch.Size([80, 3, 3, 3]), (2, 6, 12, 12), 1),
    "2d, no padding": (torch.Size([76, 23, 3, 3]), (1, 46, 12, 12), 0),
    "1d": (torch.Size([160, 5, 4]), (1, 10, 40), 0),
    "more groups than x86 gives oneDNN": (torch.Size([4040, 1, 3, 3]), (1, 101, 8, 8), 1),
}


@pytest.mark.parametrize("case", GROUPED)
@pytest.mark.parametrize("engine", ["x86", "onednn", "fbgemm"])
def test_onednn_does_not_misplace_the_zero_point_of_groups(
    engine: str, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that groups of more than 16 results stay float where oneDNN would subtract zero points wrongly."""
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    shape, given, padding = GROUPED[case]
    text, attributes = convolution(torch.randn(shape) * 0.2, groups=given[1] // shape[1], padding=padding)
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    is_given_to_fbgemm = engine == "fbgemm" and shape[1] > 1
    assert convolving(run.after) == ["quantized::conv" if is_given_to_fbgemm else "aten::conv"]
    check_within_a_step(run.before, run.after, torch.randn(given), step=0.03)


@pytest.mark.parametrize("engine", ["x86", "onednn"])
@pytest.mark.parametrize(
    ("weight", "zero_point"), [((80, 3, 3, 3), 0), ((32, 3, 3, 3), 120), ((80, 3, 1, 1), 120)]
)
def test_groups_that_onednn_computes_right_are_integer(
    weight: tuple[int, ...], zero_point: int, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that an input from 0 on, groups of 16 results, and kernels of one position are left to oneDNN."""
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    text, attributes = convolution(torch.randn(weight) * 0.2, groups=2, padding=weight[2] // 2)
    run = run_with(FUSE, with_input_zero_at(zero_point, text), attributes, PassOptions(engine=engine))
    assert convolving(run.after) == ["quantized::conv"]
    check_within_a_step(run.before, run.after, torch.randn(1, 6, 12, 12), step=0.03)


@pytest.mark.parametrize("engine", ["x86", "onednn", "fbgemm"])
@pytest.mark.parametrize(
    ("weight", "padding", "is_right"),
    [((8, 4, 3, 3), 3, False), ((8, 4, 1, 1), 1, False), ((8, 4, 3), 3, False), ((8, 4, 3, 3), 2, True)],
)
def test_padding_beyond_the_kernel_is_not_given_to_onednn(
    weight: tuple[int, ...], padding: int, is_right: bool, engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that where oneDNN may end the process, at results of padding alone, fbgemm's or float is taken."""
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    text, attributes = convolution(torch.randn(weight) * 0.2, padding=padding)
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    is_integer = is_right or engine == "fbgemm"
    assert convolving(run.after) == ["quantized::conv" if is_integer else "aten::conv"]
    check_within_a_step(run.before, run.after, torch.randn(1, 4, *[6] * (len(weight) - 2)), step=0.03)


# Products of matrices on plain integers

PLAIN_LINEAR = "onednn::qlinear_pointwise"


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("relu", ["none", "relu"])
def test_a_linear_on_x86_goes_to_onednn(relu: str, bias: bool, per_channel: bool) -> None:
    """Test that a linear becomes oneDNN's op on plain integers, for inputs of any number of dimensions."""
    text, attributes = linear(after=RELU if relu == "relu" else "", bias=bias, per_channel=per_channel)
    run = run_with(FUSE, text, attributes)
    FileCheck().check("onednn::qlinear_prepack(").check(f"{PLAIN_LINEAR}(").check_next(
        "aten::_make_per_tensor_quantized_tensor"
    ).run(graph_of(run.after))
    FileCheck().check_not("aten::linear").check_not("aten::relu").run(graph_of(run.after))
    assert argument(nodes_of(run.after, PLAIN_LINEAR)[0], 10) == relu
    x = torch.randn(24, 16)
    turned = torch.randn(16, 5, 9).permute(1, 2, 0)
    for given in (x, x.reshape(2, 12, 16), x.reshape(2, 3, 4, 16), turned):
        check_within_a_step(run.before, run.after, given, step=0.05)
    for one in (x[:1], x[0]):
        assert run.after(one).shape == run.before(one).shape
        assert (run.after(one) - run.before(one)).abs().max() <= 0.05001


@pytest.mark.parametrize("engine", ["fbgemm", "onednn", "qnnpack"])
def test_a_linear_on_other_engines_is_theirs(engine: str) -> None:
    """Test that an engine which was chosen, or has oneDNN's kernel anyway, computes the linear itself."""
    run = run_with(FUSE, *linear(), PassOptions(engine=engine))
    assert "quantized::linear" in ops_of(run.after)


ROWS = {
    "flatten": ("  %f : Tensor = aten::flatten(%x, %one, %last)\n", (4, 2, 8)),
    "select": ("  %f : Tensor = aten::select(%x, %one, %zero)\n", (4, 2, 16)),
    "flatten, then a tanh": (
        "  %e : Tensor = aten::flatten(%x, %one, %last)\n  %f : Tensor = aten::tanh(%e)\n",
        (4, 2, 8),
    ),
}


@pytest.mark.parametrize("case", ROWS)
def test_a_linear_of_one_row_for_each_sample_stays_fbgemms(case: str) -> None:
    """Test that behind what leaves one row for each sample x86 has quantized::linear."""
    before, sizes = ROWS[case]
    run = run_with(FUSE, *linear(before=before))
    assert "quantized::linear" in ops_of(run.after)
    check_within_a_step(run.before, run.after, torch.randn(sizes), step=0.05)


@pytest.mark.parametrize(
    "before",
    [
        "  %f : Tensor = aten::flatten(%x, %zero, %one)\n",
        "  %e : Tensor = aten::select(%x, %one, %zero)\n  %f : Tensor = aten::add(%x, %e, %one)\n",
    ],
    ids=["flatten of the first dimensions", "a sum with one row"],
)
def test_a_linear_of_many_rows_goes_to_onednn(before: str) -> None:
    """Test that what leaves many rows for each sample is not taken for one that leaves one."""
    run = run_with(FUSE, *linear(before=before))
    assert PLAIN_LINEAR in ops_of(run.after)
    check_within_a_step(run.before, run.after, torch.randn(3, 3, 16), step=0.05)
