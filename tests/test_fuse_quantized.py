"""Tests of fuse_quantized: which op becomes which integer op, with the same numbers, and what stays float."""

import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import FileCheck

from jitquant.passes import PassOptions
from tests.graphs import Attributes, argument, graph_of, nodes_of, ops_of
from tests.marks import needs_native
from tests.quantized_ir import (
    INPUT_PARAMS,
    QINT8,
    RELU,
    attribute,
    check_within_a_step,
    constants,
    convolution,
    linear,
    pair,
    quantize,
    run_with,
    weight_pair,
)

FUSE = "fuse_quantized"
NATIVE = PassOptions(target="native")


def both(one: str, other: str, kinds: str = "(Tensor, Tensor)") -> str:
    """Lines that return two values."""
    return f"  %both : {kinds} = prim::TupleConstruct(%{one}, %{other})\n  return (%both)"


# Convolutions and linear


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
@pytest.mark.parametrize("relu", ["", "_relu"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_convolution_is_fused(dimensions: int, relu: str, per_channel: bool) -> None:
    """Test that a convolution, with a relu behind it or not, becomes one integer op with a packed weight."""
    weight = torch.randn(6, 4, *[3] * dimensions) * 0.2
    text, attributes = convolution(weight, per_channel=per_channel, after=RELU if relu else "")
    run = run_with(FUSE, text, attributes)
    assert run.count == 1
    FileCheck().check(f"quantized::conv{dimensions}d_prepack(").check(
        f"quantized::conv{dimensions}d{relu}("
    ).check_next("aten::dequantize").check_next("return").run(graph_of(run.after))
    FileCheck().check_not(f"aten::conv{dimensions}d").check_not("aten::relu").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(2, 4, *[7] * dimensions), step=0.03)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("relu", ["", "_relu"])
def test_a_linear_is_fused(relu: str, bias: bool) -> None:
    """Test that a linear, with a relu or not and with a bias or not, becomes one integer op."""
    run = run_with(FUSE, *linear(after=RELU if relu else "", bias=bias), PassOptions(engine="onednn"))
    assert run.count == 1
    FileCheck().check("quantized::linear_prepack(").check(f"quantized::linear{relu}(").check_next(
        "aten::dequantize"
    ).run(graph_of(run.after))
    FileCheck().check_not("aten::linear").check_not("aten::relu").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(9, 16), step=0.05)


def test_scale_and_zero_point_are_those_of_the_quantize() -> None:
    """Test that the integer op takes the parameters that its output was quantized with, not its input's."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3), out=(0.125, 77))
    (fused,) = nodes_of(run_with(FUSE, text, attributes).after, "quantized::conv2d")
    assert [argument(fused, 2), argument(fused, 3)] == [0.125, 77]


def test_parameters_may_be_attributes() -> None:
    """Test that scales read from the module are handed on to the integer op."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("_scale_0", "float")}{attribute("_zero_point_0", "int")}{constants(dtype=13)}
{attribute("_scale_1", "float")}{attribute("_zero_point_1", "int")}
  %q : Tensor = aten::quantize_per_tensor(%x, %_scale_0, %_zero_point_0, %dtype)
  %d : Tensor = aten::dequantize(%q)
  %h : Tensor = aten::hardswish(%d)
  %r : Tensor = aten::quantize_per_tensor(%h, %_scale_1, %_zero_point_1, %dtype)
  %y : Tensor = aten::dequantize(%r)
  return (%y)"""
    run = run_with(
        FUSE, text, {"_scale_0": 0.04, "_zero_point_0": 110, "_scale_1": 0.02, "_zero_point_1": 20}
    )
    assert run.count == 1
    FileCheck().check("quantized::hardswish(").check_next("aten::dequantize").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(100), step=0.02)


# Ops on activations


@pytest.mark.parametrize("relu", ["", "_relu"])
@pytest.mark.parametrize("shape", [(2, 3, 5, 5), (1, 3, 1, 1)], ids=["same shape", "broadcast"])
@pytest.mark.parametrize("op", ["add", "mul"])
def test_arithmetic_is_fused(op: str, shape: tuple[int, ...], relu: str) -> None:
    """Test that add and mul of two integer tensors become one integer op, broadcast ones too."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
{pair("zd", "z", 0.02, 140)}
  %result : Tensor = aten::{op}(%xd, %zd{", %one" if op == "add" else ""})
{RELU if relu else ""}
{pair("y", "after" if relu else "result", 0.04, 100)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 1
    assert ops_of(run.after) == [
        *["aten::quantize_per_tensor"] * 2,
        f"quantized::{op}{relu}",
        "aten::dequantize",
    ]
    check_within_a_step(run.before, run.after, torch.randn(2, 3, 5, 5), torch.randn(shape), step=0.04)


def test_cat_is_fused() -> None:
    """Test that cat takes the integers of its list, each with parameters of its own."""
    text = f"""
graph(%self, %a : Tensor, %b : Tensor, %c : Tensor):
{constants(dim=1)}
{pair("ad", "a", 0.03, 120)}
{pair("bd", "b", 0.01, 128)}
{pair("cd", "c", 0.05, 90)}
  %list : Tensor[] = prim::ListConstruct(%ad, %bd, %cd)
  %result : Tensor = aten::cat(%list, %dim)
{pair("y", "result", 0.04, 110)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 1
    assert ops_of(run.after) == [*["aten::quantize_per_tensor"] * 3, "quantized::cat", "aten::dequantize"]
    check_within_a_step(run.before, run.after, *torch.randn(3, 2, 4, 5).unbind(), step=0.04)


def einsum(equation: str, *, operands: str = "%ad, %bd", after: str = "") -> str:
    """An einsum of two activations between dequantize and quantize."""
    return f"""
graph(%self, %a : Tensor, %b : Tensor):
{constants(equation=equation, none=None)}
{pair("ad", "a", 0.03, 120)}
{pair("bd", "b", 0.02, 128)}
  %list : Tensor[] = prim::ListConstruct({operands})
  %result : Tensor = aten::einsum(%equation, %list, %none)
{after}
{pair("y", "after" if after else "result", 0.2, 110)}
  return (%y)"""


@needs_native
@pytest.mark.parametrize("after", ["", RELU])
@pytest.mark.parametrize("equation", ["bic,kc->bik", "b i c, k c -> k i b", "bic,kc"])
def test_einsum_is_fused(equation: str, after: str) -> None:
    """Test that a product of two activations is one op of the native target, with what follows it."""
    run = run_with(FUSE, einsum(equation, after=after), options=NATIVE)
    assert run.count == 1
    FileCheck().check("prim::ListConstruct").check("jitquant::einsum_prepack(").check_next(
        "jitquant::einsum("
    ).check_next("aten::_make_per_tensor_quantized_tensor").check_next("aten::dequantize").run(
        graph_of(run.after)
    )
    FileCheck().check_not("aten::einsum").check_not("aten::relu").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(3, 5, 16), torch.randn(4, 16), step=0.2)


@pytest.mark.parametrize(
    ("equation", "operands"),
    [
        ("...c,kc->...k", "%ad, %bd"),
        ("bic,kc->bk", "%ad, %bd"),
        ("bic,kd->bickd", "%ad, %bd"),
        ("bic,cc->bi", "%ad, %bd"),
        ("bic,kc,kc->bik", "%ad, %bd, %bd"),
        ("bic->bci", "%ad"),
    ],
)
def test_an_einsum_that_is_no_product_of_matrices_stays_float(equation: str, operands: str) -> None:
    """Test that other equations are left alone, and right."""
    run = run_with(FUSE, einsum(equation, operands=operands), options=NATIVE)
    assert run.count == 0
    FileCheck().check("aten::einsum").run(graph_of(run.after))
    inputs = torch.randn(3, 5, 4), torch.randn(4, 4)
    assert torch.equal(run.after(*inputs), run.before(*inputs))


def test_einsum_stays_float_on_the_stock_target() -> None:
    """Test that stock torch has no integer op for it."""
    run = run_with(FUSE, einsum("bic,kc->bik"))
    assert run.count == 0
    FileCheck().check("aten::einsum").run(graph_of(run.after))


def test_a_list_with_another_user_stays_float() -> None:
    """Test that cat is left alone where its list, whose elements would have to change, is used elsewhere."""
    text = f"""
graph(%self, %a : Tensor, %b : Tensor):
{constants(dim=1)}
{pair("ad", "a", 0.03, 120)}
{pair("bd", "b", 0.01, 128)}
  %list : Tensor[] = prim::ListConstruct(%ad, %bd)
  %result : Tensor = aten::cat(%list, %dim)
{pair("y", "result", 0.04, 110)}
{both("y", "list", "(Tensor, Tensor[])")}"""
    run = run_with(FUSE, text)
    assert run.count == 0
    FileCheck().check("aten::cat").run(graph_of(run.after))


UNARY = {
    "hardswish": ("aten::hardswish(%xd)", (0.03, 20), "quantized::hardswish"),
    "leaky_relu": ("aten::leaky_relu(%xd, %slope)", (0.03, 20), "quantized::leaky_relu"),
    "elu": ("aten::elu(%xd, %alpha, %scale, %input_scale)", (0.03, 60), "quantized::elu"),
    "celu": ("aten::celu(%xd, %alpha)", (0.03, 60), "quantized::celu"),
    "softmax": ("aten::softmax(%xd, %last, %none)", (1 / 300, 0), "quantized::softmax"),
    "sigmoid": ("aten::sigmoid(%xd)", (1 / 256, 0), "quantized::sigmoid"),
    "hardsigmoid": ("aten::hardsigmoid(%xd)", (1 / 256, 0), "aten::hardsigmoid"),
    "tanh": ("aten::tanh(%xd)", (2 / 256, 128), "aten::tanh"),
}


def one_op(call: str, out: tuple[float, int], *, values: str = "", before: str = "") -> str:
    """A graph with one op between dequantize and quantize; the op's activation is %xd."""
    return f"""
graph(%self, %x : Tensor):
{values}
{pair("xd", "x", *INPUT_PARAMS)}
{before}
  %result : Tensor = {call}
{pair("y", "result", *out)}
  return (%y)"""


@pytest.mark.parametrize("name", UNARY)
def test_an_activation_function_is_fused(name: str) -> None:
    """Test that activation functions become integer ops, with all their arguments."""
    call, out, integer = UNARY[name]
    values = constants(slope=0.2, alpha=0.7, scale=1.3, input_scale=0.8, last=-1, none=None)
    run = run_with(FUSE, one_op(call, out, values=values))
    assert run.count == 1
    assert ops_of(run.after) == ["aten::quantize_per_tensor", integer, "aten::dequantize"]
    check_within_a_step(run.before, run.after, torch.randn(100, 5), step=out[0])


MOVED: dict[str, tuple[str, dict[str, Any]]] = {
    "relu": ("aten::relu(%xd)", {}),
    "hardtanh": ("aten::hardtanh(%xd, %low, %high)", {"low": -0.5, "high": 1.0}),
    "clamp": ("aten::clamp(%xd, %low, %high)", {"low": -0.5, "high": 1.0}),
    "clamp from below": ("aten::clamp(%xd, %low, %high)", {"low": -0.5, "high": None}),
    "clamp from above": ("aten::clamp(%xd, %low, %high)", {"low": None, "high": 0.5}),
    "max_pool2d": (
        "aten::max_pool2d(%xd, %two, %two, %zeros, %ones, %no)",
        {"two": [2, 2], "zeros": [0, 0], "ones": [1, 1], "no": False},
    ),
    "avg_pool2d": (
        "aten::avg_pool2d(%xd, %two, %two, %zeros, %no, %no, %none)",
        {"two": [2, 2], "zeros": [0, 0], "no": False, "none": None},
    ),
    "adaptive_avg_pool2d": ("aten::adaptive_avg_pool2d(%xd, %two)", {"two": [2, 2]}),
    "mean": ("aten::mean(%xd, %dims, %keep, %none)", {"dims": [2, 3], "keep": True, "none": None}),
    "flatten": ("aten::flatten(%xd, %one, %last)", {"one": 1, "last": -1}),
    "permute": ("aten::permute(%xd, %order)", {"order": [0, 2, 3, 1]}),
    "slice": ("aten::slice(%xd, %one, %one, %none, %one)", {"one": 1, "none": None}),
    "select": ("aten::select(%xd, %one, %one)", {"one": 1}),
    "flip": ("aten::flip(%xd, %dims)", {"dims": [1, 3]}),
    "repeat": ("aten::repeat(%xd, %times)", {"times": [1, 2, 1, 1]}),
    "max": ("aten::max(%xd)", {}),
    "reflection_pad2d": ("aten::reflection_pad2d(%xd, %pad)", {"pad": [1, 2, 0, 3]}),
}


@pytest.mark.parametrize("name", MOVED)
def test_an_op_that_keeps_parameters_moves_to_the_integers(name: str) -> None:
    """Test that ops which move or select values run on the integers as they are."""
    call, values = MOVED[name]
    run = run_with(FUSE, one_op(call, INPUT_PARAMS, values=constants(**values)))
    assert run.count == 1
    op = call.split("(")[0]
    assert ops_of(run.after) == ["aten::quantize_per_tensor", op, "aten::dequantize"]
    check_within_a_step(run.before, run.after, torch.randn(4, 8, 6, 6), step=INPUT_PARAMS[0])


# ATen runs them on plain integers only.
PLAIN_MOVES: dict[str, tuple[str, dict[str, Any]]] = {
    "roll": ("aten::roll(%xd, %shifts, %dims)", {"shifts": [1, -2], "dims": [1, 3]}),
    "amax": ("aten::amax(%xd, %dims, %no)", {"dims": [1], "no": False}),
    "amin": ("aten::amin(%xd, %dims, %yes)", {"dims": [2, 3], "yes": True}),
}


@pytest.mark.parametrize("name", PLAIN_MOVES)
def test_what_quantized_tensors_lack_is_done_on_plain_integers(name: str) -> None:
    """Test that such ops take the integers out and give them their parameters again."""
    call, values = PLAIN_MOVES[name]
    run = run_with(FUSE, one_op(call, INPUT_PARAMS, values=constants(**values)))
    assert run.count == 1
    assert ops_of(run.after) == [
        "aten::quantize_per_tensor",
        "aten::int_repr",
        f"aten::{name}",
        "aten::_make_per_tensor_quantized_tensor",
        "aten::dequantize",
    ]
    check_within_a_step(run.before, run.after, torch.randn(4, 8, 6, 6), step=INPUT_PARAMS[0])


@pytest.mark.parametrize("op", ["max", "min"])
def test_values_move_to_the_integers_and_places_stay(op: str) -> None:
    """Test that of an op which gives values and their places, only the values are integers of a scale."""
    text = f"""
graph(%self, %x : Tensor):
{constants(one=1, no=False)}
{pair("xd", "x", *INPUT_PARAMS)}
  %result : Tensor, %places : Tensor = aten::{op}(%xd, %one, %no)
{pair("y", "result", *INPUT_PARAMS)}
{both("y", "places")}"""
    run = run_with(FUSE, text)
    assert run.count == 1
    assert ops_of(run.after)[1:3] == [f"aten::{op}", "aten::dequantize"]
    x = torch.randn(5, 30)
    torch.testing.assert_close(run.after(x)[0], run.before(x)[0])
    assert torch.equal(run.after(x)[1], run.before(x)[1])


def test_a_list_of_outputs_moves_to_the_integers() -> None:
    """Test that an op whose list is taken apart runs on the integers, and no part is quantized again."""
    text = f"""
graph(%self, %x : Tensor):
{constants(two=2, one=1)}
{pair("xd", "x", 0.03, 120)}
  %list : Tensor[] = aten::chunk(%xd, %two, %one)
  %a : Tensor, %b : Tensor = prim::ListUnpack(%list)
{pair("ad", "a", 0.03, 120)}
{pair("bd", "b", 0.03, 120)}
{both("ad", "bd")}"""
    run = run_with(FUSE, text)
    assert run.count == 1
    assert ops_of(run.after) == [
        "aten::quantize_per_tensor",
        "aten::chunk",
        "prim::ListUnpack",
        "aten::dequantize",
        "aten::dequantize",
        "prim::TupleConstruct",
    ]
    x = torch.randn(2, 4, 5)
    torch.testing.assert_close(run.after(x), run.before(x))


def test_a_part_that_nobody_uses_hinders_nothing() -> None:
    """Test that a list of outputs moves to the integers where one of its parts is not used."""
    text = f"""
graph(%self, %x : Tensor):
{constants(two=2, one=1)}
{pair("xd", "x", 0.03, 120)}
  %list : Tensor[] = aten::chunk(%xd, %two, %one)
  %a : Tensor, %b : Tensor = prim::ListUnpack(%list)
{pair("bd", "b", 0.03, 120)}
  return (%bd)"""
    run = run_with(FUSE, text)
    expected = ["aten::quantize_per_tensor", "aten::chunk", "prim::ListUnpack", "aten::dequantize"]
    assert ops_of(run.after) == expected
    check_within_a_step(run.before, run.after, torch.randn(2, 4, 5), step=0.03)


def test_a_list_that_goes_elsewhere_stays_float() -> None:
    """Test that an op whose list is not taken apart is left alone: its elements are used as floats."""
    text = f"""
graph(%self, %x : Tensor):
{constants(two=2, one=1)}
{pair("xd", "x", 0.03, 120)}
  %list : Tensor[] = aten::chunk(%xd, %two, %one)
  %y : Tensor = aten::__getitem__(%list, %one)
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(2, 4, 5), step=0.03)


PRODUCERS = {
    "linear": "quantized::linear",
    "conv2d": "quantized::conv2d",
    "depthwise conv2d": "onednn::qconv_pointwise",
    "add": "quantized::add",
    "mul": "quantized::mul",
    "cat": "quantized::cat",
    **{name: integer for name, (_, _, integer) in UNARY.items()},
}


@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("name", PRODUCERS)
def test_the_parameters_of_every_integer_op_are_known(name: str, relu: bool) -> None:
    """Test that behind each integer op, with a relu or not, one that keeps parameters moves to integers."""
    values = constants(slope=0.2, alpha=0.7, scale=1.3, input_scale=0.8, zero=0, one=1, last=-1, none=None)
    values += constants(ones=[1, 1], groups=104)
    shape = {"linear": (6, 8), "conv2d": (8, 8, 3, 3), "depthwise conv2d": (104, 1, 3, 3)}.get(name, (1, 1))
    weight_text, attributes = weight_pair(torch.randn(shape))
    call = {
        "linear": "aten::linear(%xd, %weight_d, %none)",
        "conv2d": "aten::conv2d(%xd, %weight_d, %none, %ones, %ones, %ones, %one)",
        "depthwise conv2d": "aten::conv2d(%xd, %weight_d, %none, %ones, %ones, %ones, %groups)",
        "add": "aten::add(%xd, %xd, %one)",
        "mul": "aten::mul(%xd, %xd)",
        "cat": "aten::cat(%list, %one)",
        **{unary: text for unary, (text, _, _) in UNARY.items()},
    }[name]
    params = UNARY[name][1] if name in UNARY else (0.05, 100)
    text = f"""
graph(%self, %x : Tensor):
{values}
{weight_text}
{pair("xd", "x", *INPUT_PARAMS)}
  %list : Tensor[] = prim::ListConstruct(%xd, %xd)
  %result : Tensor = {call}
{RELU if relu else ""}
{pair("r", "after" if relu else "result", *params)}
  %f : Tensor = aten::flatten(%r, %zero, %last)
{pair("y", "f", *params)}
  return (%y)"""
    if relu and (name in UNARY or name == "cat"):  # these take no relu in
        text = text.replace(RELU, pair("rd", "result", *params) + RELU.replace("%result", "%rd"))
    run = run_with(FUSE, text, attributes)
    assert ops_of(run.after)[-2:] == ["aten::flatten", "aten::dequantize"]
    x = torch.randn({"linear": (50, 8), "depthwise conv2d": (1, 104, 6, 6)}.get(name, (4, 8, 6, 6)))
    check_within_a_step(run.before, run.after, x, step=params[0])


def test_other_parameters_behind_a_moving_op_stay() -> None:
    """Test that a max_pool2d whose output is quantized with parameters other than its input's stays float."""
    call, values = MOVED["max_pool2d"]
    run = run_with(FUSE, one_op(call, (0.05, 120), values=constants(**values)))
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(2, 4, 6, 6), step=0.05)


def test_ops_inside_a_block_are_fused() -> None:
    """Test that the pass reaches into the branches of an `if`."""
    text = f"""
graph(%self, %x : Tensor, %choice : bool):
  %y : Tensor = prim::If(%choice)
    block0():
{textwrap.indent(pair("xd", "x", 0.03, 120), "    ")}
      %h : Tensor = aten::hardswish(%xd)
{textwrap.indent(pair("hd", "h", 0.02, 20), "    ")}
      -> (%hd)
    block1():
      -> (%x)
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 1
    FileCheck().check("prim::If").check("block0").check("quantized::hardswish").check("block1").run(
        graph_of(run.after)
    )
    before, after, x = run.before, run.after, torch.randn(200)
    assert (before(x, True) - after(x, True)).abs().max() <= 0.02001
    assert torch.equal(after(x, False), x)


# Clamps


def hardtanh(low: float, high: float) -> str:
    return constants(low=low, high=high) + "  %after : Tensor = aten::hardtanh(%result, %low, %high)\n"


@pytest.mark.parametrize("kind", ["conv2d", "add"])
def test_a_clamp_that_saturation_does_is_dropped(kind: str) -> None:
    """Test that nothing is left of a relu6 where the integers end at 0 and 6 themselves."""
    run = clamped(kind, hardtanh(0.0, 6.0), (6 / 255, 0))
    assert run.count == 1
    FileCheck().check_not("hardtanh").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, *clamp_inputs(kind), step=6 / 255)


CLAMPS_TO_KEEP = {
    "7 bits reach twice as far": (hardtanh(0.0, 6.0), (6 / 127, 0), "aten::hardtanh"),
    "a lower bound above zero": (hardtanh(1.0, 3.0), (3 / 255, 0), "aten::hardtanh"),
    "an upper bound within the range": (hardtanh(-1.0, 1.0), (0.03, 120), "aten::hardtanh"),
    "a clamp without upper bound": (
        constants(low=0.5, high=None) + "  %after : Tensor = aten::clamp(%result, %low, %high)\n",
        (0.03, 0),
        "aten::clamp",
    ),
    "a clamp without lower bound": (
        constants(low=None, high=0.5) + "  %after : Tensor = aten::clamp(%result, %low, %high)\n",
        (0.03, 120),
        "aten::clamp",
    ),
}


@pytest.mark.parametrize("kind", ["conv2d", "add"])
@pytest.mark.parametrize("case", CLAMPS_TO_KEEP)
def test_a_clamp_that_saturation_does_not_do_is_kept(case: str, kind: str) -> None:
    """Test that a clamp within the range of the integers is done on the integers behind the op."""
    after, out, op = CLAMPS_TO_KEEP[case]
    run = clamped(kind, after, out)
    assert run.count == 1
    FileCheck().check(f"quantized::{kind}(").check(f"{op}(").check("aten::dequantize").check_not(op).run(
        graph_of(run.after)
    )
    check_within_a_step(run.before, run.after, *clamp_inputs(kind), step=out[0])


def clamped(kind: str, after: str, out: tuple[float, int]) -> Any:
    if kind == "conv2d":
        torch.manual_seed(1)
        return run_with(FUSE, *convolution(torch.randn(6, 4, 3, 3), after=after, out=out))
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
{pair("zd", "z", 0.05, 120)}
  %result : Tensor = aten::add(%xd, %zd, %one)
{after}
{pair("y", "after", *out)}
  return (%y)"""
    return run_with(FUSE, text)


def clamp_inputs(kind: str) -> list[Tensor]:
    return [torch.randn(2, 4, 7, 7)] if kind == "conv2d" else [torch.randn(300), torch.randn(300) * 3]


def test_a_clamp_behind_an_op_that_absorbs_none_moves_by_itself() -> None:
    """Test that behind a hardswish a clamp is an op of its own, which keeps the float value between them."""
    text = one_op("aten::relu(%h)", (0.03, 0), before="  %h : Tensor = aten::hardswish(%xd)\n")
    run = run_with(FUSE, text)
    assert run.count == 0
    FileCheck().check("aten::hardswish").check("aten::relu").run(graph_of(run.after))


# Arithmetic with a number

WITH_NUMBER = {
    "add": ("aten::add(%xd, %number, %one)", (0.03, 110), ["quantized::add"]),
    "sub": ("aten::sub(%xd, %number, %one)", (0.03, 130), ["quantized::add"]),
    "rsub": ("aten::rsub(%xd, %number, %one)", (0.03, 120), ["quantized::mul_scalar", "quantized::add"]),
    "mul": ("aten::mul(%xd, %number)", (0.06, 120), ["quantized::mul"]),
    "div": ("aten::div(%xd, %number)", (0.06, 120), ["quantized::mul"]),
}


@pytest.mark.parametrize("number", [0.7, -1.3, 2])
@pytest.mark.parametrize("name", WITH_NUMBER)
def test_arithmetic_with_a_number_is_fused(name: str, number: float) -> None:
    """Test that the number becomes a quantized tensor that holds it exactly."""
    call, out, integer = WITH_NUMBER[name]
    run = run_with(FUSE, one_op(call, out, values=constants(number=number, one=1)))
    assert run.count == 1
    assert ops_of(run.after) == ["aten::quantize_per_tensor", *integer, "aten::dequantize"]
    check_within_a_step(run.before, run.after, torch.randn(500), step=out[0])


@pytest.mark.parametrize("name", ["add", "sub", "rsub"])
def test_adding_zero_adds_nothing(name: str) -> None:
    """Test that a sum or difference with 0.0 is right."""
    call, out, _ = WITH_NUMBER[name]
    run = run_with(FUSE, one_op(call, out, values=constants(number=0.0, one=1)))
    check_within_a_step(run.before, run.after, torch.randn(500), step=out[0])


@pytest.mark.parametrize("name", ["add", "sub", "rsub"])
def test_a_number_with_an_alpha_stays_float(name: str) -> None:
    """Test that a sum or difference with a multiple, which no integer op has, is left alone."""
    call, out, _ = WITH_NUMBER[name]
    run = run_with(FUSE, one_op(call.replace("%one", "%two"), out, values=constants(number=0.7, two=2)))
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(500), step=out[0])


def test_a_number_that_is_not_known_stays_float() -> None:
    """Test that a product with a number that is another one at each call is left alone."""
    values = constants(zero=0) + "  %number : int = aten::size(%x, %zero)\n"
    run = run_with(FUSE, one_op("aten::mul(%xd, %number)", (0.1, 120), values=values))
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(5, 80), step=0.1)


@pytest.mark.parametrize("relu", ["", "_relu"])
def test_a_difference_is_fused(relu: str) -> None:
    """Test that a difference becomes a sum with minus the other operand."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
{pair("zd", "z", 0.02, 140)}
  %result : Tensor = aten::sub(%xd, %zd, %one)
{RELU if relu else ""}
{pair("y", "after" if relu else "result", 0.037, 100)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 1
    assert ops_of(run.after)[2:] == ["quantized::mul_scalar", f"quantized::add{relu}", "aten::dequantize"]
    check_within_a_step(run.before, run.after, *torch.randn(2, 300).unbind(), step=0.037)


# Norms

CHANNELS = {
    "weight": torch.linspace(0.5, 1.5, 8),
    "bias": torch.linspace(-0.3, 0.4, 8),
    "mean": torch.linspace(-0.2, 0.3, 8),
    "var": torch.linspace(0.5, 1.5, 8),
}
NORMS = {
    "layer_norm": "aten::layer_norm(%xd, %shape, %weight, %bias, %eps, %yes)",
    "batch_norm": "aten::batch_norm(%xd, %weight, %bias, %mean, %var, %no, %part, %eps, %no)",
    "group_norm": "aten::group_norm(%xd, %two, %weight, %bias, %eps, %yes)",
    "instance_norm": "aten::instance_norm(%xd, %weight, %bias, %none, %none, %yes, %part, %eps, %no)",
}


def norm(call: str, *, before: str = "") -> str:
    """A norm of eight channels between dequantize and quantize."""
    values = constants(shape=[8], eps=1e-5, part=0.1, two=2, one=1, no=False, yes=True, none=None)
    return one_op(call, (0.04, 110), values=values + "".join(map(attribute, CHANNELS)), before=before)


@pytest.mark.parametrize("name", NORMS)
def test_a_norm_is_fused(name: str) -> None:
    """Test that a norm becomes one integer op, with its weights and statistics."""
    run = run_with(FUSE, norm(NORMS[name]), CHANNELS)
    assert run.count == 1
    assert ops_of(run.after) == ["aten::quantize_per_tensor", f"quantized::{name}", "aten::dequantize"]
    x = torch.randn(40, 8) if name == "layer_norm" else torch.randn(3, 8, 6, 6)
    check_within_a_step(run.before, run.after, x, step=0.04)


def test_a_batch_norm_takes_a_relu_along() -> None:
    """Test that a batch norm and the relu behind it are one integer op."""
    text = norm(NORMS["batch_norm"]).replace(
        pair("y", "result", 0.04, 110), RELU + pair("y", "after", 0.02, 0)
    )
    run = run_with(FUSE, text, CHANNELS)
    assert run.count == 1
    integer = ["aten::quantize_per_tensor", "quantized::batch_norm_relu", "aten::dequantize"]
    assert ops_of(run.after) == integer
    check_within_a_step(run.before, run.after, torch.randn(3, 8, 6, 6), step=0.02)


def test_a_layer_norm_behind_a_sum_stays_float() -> None:
    """Test that the sums of a transformer, whose outliers 8 bits do not hold, are normalized as floats."""
    before = "  %sum : Tensor = aten::add(%xd, %xd, %one)\n" + pair("s", "sum", 0.06, 120)
    run = run_with(FUSE, norm(NORMS["layer_norm"].replace("%xd", "%s"), before=before), CHANNELS)
    assert run.count == 1
    FileCheck().check("quantized::add").check("aten::layer_norm").check_not("quantized::layer_norm").run(
        graph_of(run.after)
    )
    check_within_a_step(run.before, run.after, torch.randn(40, 8), step=0.04)


@pytest.mark.parametrize(
    "call",
    [
        NORMS["batch_norm"].replace("%var, %no", "%var, %yes"),
        NORMS["batch_norm"].replace("%mean, %var", "%none, %none"),
        NORMS["instance_norm"].replace("%none, %none, %yes", "%mean, %var, %no"),
    ],
    ids=["batch norm in training mode", "batch norm without statistics", "instance norm with statistics"],
)
def test_a_norm_with_other_statistics_stays_float(call: str) -> None:
    """Test that a batch norm that uses its input's statistics is left alone, and the opposite for others."""
    run = run_with(FUSE, norm(call.replace("%none, %none, %no,", "%none, %none, %yes,")), CHANNELS)
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(3, 8, 6, 6), step=0.04)


# Transposed convolutions


def transposed(*, per_channel: bool, output_padding: int = 0) -> tuple[str, Attributes]:
    weight_text, attributes = weight_pair(torch.randn(6, 4, 3, 3) * 0.2, per_channel=per_channel)
    values = constants(twos=[2, 2], ones=[1, 1], out=[output_padding] * 2, one=1)
    text = f"""
graph(%self, %x : Tensor):
{values}{attribute("bias")}
{weight_text}
{pair("xd", "x", *INPUT_PARAMS)}
  %result : Tensor = aten::conv_transpose2d(%xd, %weight_d, %bias, %twos, %ones, %out, %one, %ones)
{pair("y", "result", 0.04, 120)}
  return (%y)"""
    return text, {**attributes, "bias": torch.randn(4) * 0.2}


@pytest.mark.parametrize("engine", ["fbgemm", "qnnpack"])
@pytest.mark.parametrize("output_padding", [0, 1])
def test_a_transposed_convolution_is_fused(output_padding: int, engine: str) -> None:
    """Test that a transposed convolution whose weight has one scale becomes one integer op."""
    text, attributes = transposed(per_channel=False, output_padding=output_padding)
    torch.backends.quantized.engine, default = engine, torch.backends.quantized.engine
    try:
        run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
        assert run.count == 1
        FileCheck().check("quantized::conv_transpose2d_prepack(").check("quantized::conv_transpose2d(").run(
            graph_of(run.after)
        )
        check_within_a_step(run.before, run.after, torch.randn(2, 6, 7, 7), step=0.04)
    finally:
        torch.backends.quantized.engine = default


@pytest.mark.parametrize(("kernel", "fused"), [(1, 0), (3, 1)])
@pytest.mark.parametrize("engine", ["x86", "onednn"])
def test_a_transposed_convolution_with_gaps_stays_float(
    engine: str, kernel: int, fused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that strides beyond the kernel, where oneDNN forgets the zero point, are not given to it."""
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    weight_text, attributes = weight_pair(torch.randn(48, 48, kernel, 4) * 0.2, per_channel=False)
    text = f"""
graph(%self, %x : Tensor):
{constants(threes=[3, 2], zeros=[0, 0], ones=[1, 1], one=1, none=None)}
{weight_text}
{pair("xd", "x", *INPUT_PARAMS)}
  %result : Tensor = aten::conv_transpose2d(%xd, %weight_d, %none, %threes, %zeros, %zeros, %one, %ones)
{pair("y", "result", 0.08, 120)}
  return (%y)"""
    run = run_with(FUSE, text, attributes, PassOptions(engine=engine))
    assert run.count == fused
    check_within_a_step(run.before, run.after, torch.randn(1, 48, 2, 8), step=0.08)


def test_a_transposed_convolution_with_a_scale_for_each_channel_stays_float() -> None:
    """Test that what ATen cannot pack is left alone."""
    run = run_with(FUSE, *transposed(per_channel=True))
    assert run.count == 0
    FileCheck().check("aten::conv_transpose2d").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(2, 6, 7, 7), step=0.04)


# What stays float


def test_not_fused_when_the_float_value_is_also_returned() -> None:
    """Test that a convolution whose float result is used as well as its integers is left alone."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3))
    run = run_with(FUSE, text.replace("  return (%y)", both("y", "result")), attributes)
    assert run.count == 0
    FileCheck().check("aten::conv2d").check_not("quantized::conv2d").run(graph_of(run.after))
    x = torch.randn(2, 4, 7, 7)
    torch.testing.assert_close(run.after(x), run.before(x), rtol=0, atol=0)


def test_not_fused_when_the_value_before_the_relu_is_also_returned() -> None:
    """Test that a convolution and its relu stay float where what stands between them is used elsewhere."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3), after=RELU)
    run = run_with(FUSE, text.replace("  return (%y)", both("y", "result")), attributes)
    assert run.count == 0
    FileCheck().check("aten::conv2d").check("aten::relu").run(graph_of(run.after))


def test_not_fused_when_the_value_behind_the_relu_is_also_returned() -> None:
    """Test that a convolution is left alone where the float value behind its relu is used elsewhere."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3), after=RELU)
    run = run_with(FUSE, text.replace("  return (%y)", both("y", "after")), attributes)
    assert run.count == 0
    FileCheck().check("aten::conv2d").check("aten::relu").run(graph_of(run.after))


def test_not_fused_without_a_quantize_behind_it() -> None:
    """Test that a convolution whose output stays float stays float."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3))
    run = run_with(FUSE, text.replace("return (%y)", "return (%result)"), attributes)
    assert run.count == 0
    FileCheck().check("aten::conv2d").run(graph_of(run.after))


def test_not_fused_with_a_float_weight() -> None:
    """Test that a convolution with integer input but a weight that was not quantized stays float."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3))
    run = run_with(FUSE, text.replace("%xd, %weight_d", "%xd, %weight"), attributes)
    assert run.count == 0
    FileCheck().check("aten::conv2d").run(graph_of(run.after))


@pytest.mark.parametrize("operands", ["%xd, %z", "%z, %xd"])
def test_one_float_operand_keeps_an_op_float(operands: str) -> None:
    """Test that a sum of an integer tensor and a float one stays float."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
  %result : Tensor = aten::add({operands}, %one)
{pair("y", "result", 0.04, 100)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 0
    check_within_a_step(run.before, run.after, *torch.randn(2, 100).unbind(), step=0.04)


def test_one_float_element_keeps_a_cat_float() -> None:
    """Test that a cat with one float tensor in its list stays float, and its list as it was."""
    text = f"""
graph(%self, %a : Tensor, %b : Tensor):
{constants(dim=0)}
{pair("ad", "a", 0.03, 120)}
  %list : Tensor[] = prim::ListConstruct(%ad, %b)
  %result : Tensor = aten::cat(%list, %dim)
{pair("y", "result", 0.04, 110)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 0
    check_within_a_step(run.before, run.after, *torch.randn(2, 100).unbind(), step=0.04)


def test_an_argument_that_the_integer_op_lacks_keeps_an_op_float() -> None:
    """Test that add with alpha=2, which no integer op has, stays float, and not an add with alpha=1."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(two=2)}
{pair("xd", "x", 0.03, 120)}
{pair("zd", "z", 0.02, 140)}
  %result : Tensor = aten::add(%xd, %zd, %two)
{pair("y", "result", 0.04, 100)}
  return (%y)"""
    run = run_with(FUSE, text)
    assert run.count == 0
    FileCheck().check("aten::add").check_not("quantized::add").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, *torch.randn(2, 100).unbind(), step=0.04)


def test_a_mean_takes_its_dimensions_away_afterwards() -> None:
    """Test that a mean keeps its dimensions until a squeeze, since ATen's raises on a single pixel."""
    values = constants(dims=[2, 3], no=False, none=None)
    run = run_with(FUSE, one_op("aten::mean(%xd, %dims, %no, %none)", INPUT_PARAMS, values=values))
    assert ops_of(run.after)[1:-1] == ["aten::mean", "aten::squeeze"]
    check_within_a_step(run.before, run.after, torch.randn(4, 8, 6, 6), step=INPUT_PARAMS[0])
    pixels = torch.randn(4, 8, 1, 1).contiguous(memory_format=torch.channels_last)
    check_within_a_step(run.before, run.after, pixels, step=INPUT_PARAMS[0])


def test_a_mean_with_a_dtype_stays_float() -> None:
    """Test that mean with a dtype, which quantized tensors do not take, is left alone."""
    values = constants(dims=[1], no=False, float32=6)
    run = run_with(FUSE, one_op("aten::mean(%xd, %dims, %no, %float32)", INPUT_PARAMS, values=values))
    assert run.count == 0
    check_within_a_step(run.before, run.after, torch.randn(80, 30), step=INPUT_PARAMS[0])


def test_an_op_that_the_table_lacks_stays_float() -> None:
    """Test that an op without an integer form is left alone between its dequantize and its quantize."""
    run = run_with(FUSE, one_op("aten::erf(%xd)", (0.01, 120)))
    assert run.count == 0
    FileCheck().check("aten::dequantize").check("aten::erf").check("aten::quantize_per_tensor").run(
        graph_of(run.after)
    )


# Padding


def test_padding_is_with_the_zero_point() -> None:
    """Test that what pads a tensor is the integer that means zero."""
    values = constants(pad=[1, 2, 0, 1], zero=0)
    run = run_with(FUSE, one_op("aten::constant_pad_nd(%xd, %pad, %zero)", INPUT_PARAMS, values=values))
    assert run.count == 1
    (padding,) = nodes_of(run.after, "aten::constant_pad_nd")
    assert argument(padding, 2) == INPUT_PARAMS[1]
    x = torch.randn(2, 3, 4, 4)
    padded = run.after(x)
    assert torch.equal(padded, run.before(x))
    assert torch.equal(padded[..., 0], torch.zeros(2, 3, 5))


def test_padding_with_another_number_stays_float() -> None:
    """Test that padding with 1 is left alone."""
    values = constants(pad=[1, 2, 0, 1], value=1.0)
    run = run_with(FUSE, one_op("aten::constant_pad_nd(%xd, %pad, %value)", INPUT_PARAMS, values=values))
    assert run.count == 0
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(run.after(x), run.before(x))


def test_padding_of_a_tensor_of_unknown_parameters_stays_right() -> None:
    """Test that padding what the caller quantized, whose zero point no graph shows, is right."""
    text = f"""
graph(%self, %xq : Tensor):
{constants(pad=[1, 1], zero=0)}
  %xd : Tensor = aten::dequantize(%xq)
  %result : Tensor = aten::constant_pad_nd(%xd, %pad, %zero)
{pair("y", "result", 0.03, 120)}
  return (%y)"""
    run = run_with(FUSE, text)
    xq = torch.quantize_per_tensor(torch.randn(4, 50), 0.02, 100, torch.quint8)
    check_within_a_step(run.before, run.after, xq, step=0.03)


# Ops behind those whose output has fixed parameters

FIXED = {
    "sigmoid": ("aten::sigmoid(%xd)", (1 / 256, 0)),
    "hardsigmoid": ("aten::hardsigmoid(%xd)", (1 / 256, 0)),
    "tanh": ("aten::tanh(%xd)", (2 / 256, 128)),
}


def behind_fixed(name: str, rest: str, **values: Any) -> str:
    """A graph in which `rest` makes %y of the dequantized %f that an op with fixed parameters gave."""
    call, params = FIXED[name]
    return f"""
graph(%self, %x : Tensor):
{constants(**values)}
{pair("xd", "x", *INPUT_PARAMS)}
  %g : Tensor = {call}
{pair("f", "g", *params)}
{rest}
  return (%y)"""


@pytest.mark.parametrize("name", FIXED)
def test_an_op_that_keeps_fixed_parameters_moves_to_the_integers(name: str) -> None:
    """Test that the parameters behind a tanh are known to be its own, and not those of what it was given."""
    rest = "  %p : Tensor = aten::relu(%f)\n" + pair("y", "p", *FIXED[name][1])
    run = run_with(FUSE, behind_fixed(name, rest))
    assert run.count == 2
    assert [op for op in ops_of(run.after) if op == "aten::dequantize"] == ["aten::dequantize"]
    check_within_a_step(run.before, run.after, torch.randn(500), step=FIXED[name][1][0])


@pytest.mark.parametrize("name", FIXED)
def test_padding_behind_fixed_parameters_is_right(name: str) -> None:
    """Test that padding behind a tanh uses the tanh's scale and zero point."""
    rest = "  %p : Tensor = aten::constant_pad_nd(%f, %pad, %zero)\n" + pair("y", "p", *FIXED[name][1])
    run = run_with(FUSE, behind_fixed(name, rest, pad=[1, 1], zero=0))
    check_within_a_step(run.before, run.after, torch.randn(5, 50), step=FIXED[name][1][0])


@pytest.mark.parametrize("name", FIXED)
def test_a_depthwise_convolution_behind_fixed_parameters_is_right(name: str) -> None:
    """Test that an op which is told its input's parameters as numbers is told those of the tanh before it."""
    weight_text, attributes = weight_pair(torch.randn(104, 1, 3, 3))
    rest = (
        weight_text
        + "  %c : Tensor = aten::conv2d(%f, %weight_d, %none, %ones, %ones, %ones, %groups)\n"
        + pair("y", "c", 0.05, 100)
    )
    run = run_with(FUSE, behind_fixed(name, rest, none=None, ones=[1, 1], groups=104), attributes)
    FileCheck().check("onednn::qconv_pointwise").run(graph_of(run.after))
    check_within_a_step(run.before, run.after, torch.randn(1, 104, 6, 6), step=0.05)


# Integers with a sign


@pytest.mark.parametrize("op", ["add", "mul"])
def test_signed_activations(op: str) -> None:
    """Test that arithmetic on qint8 activations keeps its dtype and numbers."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 2, QINT8)}
{pair("zd", "z", 0.02, -5, QINT8)}
  %result : Tensor = aten::{op}(%xd, %zd{", %one" if op == "add" else ""})
{pair("y", "result", 0.04, 10, QINT8)}
  return (%y)"""
    run = run_with(FUSE, text)
    check_within_a_step(run.before, run.after, *torch.randn(2, 300).unbind(), step=0.04)


def test_signed_activations_of_a_convolution_stay_float() -> None:
    """Test that a convolution on qint8 activations, which no engine here computes, runs."""
    text, attributes = convolution(torch.randn(6, 4, 3, 3))
    signed = quantize("xd_q", "x", 0.03, 0, QINT8)
    text = text.replace(quantize("xd_q", "x", *INPUT_PARAMS), signed)
    run = run_with(FUSE, text, attributes)
    check_within_a_step(run.before, run.after, torch.randn(2, 4, 7, 7), step=0.03)


def test_two_dtypes_in_one_op_stay_float() -> None:
    """Test that a sum of a quint8 and a qint8 tensor, which no integer op takes, runs."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
{pair("zd", "z", 0.02, -5, QINT8)}
  %result : Tensor = aten::add(%xd, %zd, %one)
{pair("y", "result", 0.04, 100)}
  return (%y)"""
    run = run_with(FUSE, text)
    check_within_a_step(run.before, run.after, *torch.randn(2, 300).unbind(), step=0.04)
