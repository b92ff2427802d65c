"""Tests of cancel_quant_pairs: quantize and dequantize that do nothing go, and what rounds stays."""

import textwrap
from typing import Any

import pytest
import torch
from torch.testing import FileCheck

from tests.graphs import check_same_numbers, graph_of, nodes_of, ops_of
from tests.quantized_ir import QINT8, QUINT8, attribute, constants, pair, quantize, run_with, weight_pair

CANCEL = "cancel_quant_pairs"


def test_a_pair_around_a_float_op_goes() -> None:
    """Test that an op which stayed float takes and gives float values, and is rounded no more."""
    text = f"""
graph(%self, %x : Tensor):
{pair("xd", "x", 0.5, 120)}
  %y : Tensor = aten::erf(%xd)
{pair("yd", "y", 0.5, 120)}
  return (%yd)"""
    run = run_with(CANCEL, text)
    assert run.count == 2
    assert ops_of(run.after) == ["aten::erf"]
    x = torch.randn(100)
    assert torch.equal(run.after(x), x.erf())


def test_integers_that_are_used_stay() -> None:
    """Test that a value which an integer op and a float op take is quantized for the one only."""
    text = f"""
graph(%self, %x : Tensor):
{constants(scale=0.04, zero_point=100)}
{pair("xd", "x", 0.03, 120)}
  %h : Tensor = quantized::hardswish(%xd_q, %scale, %zero_point)
  %hd : Tensor = aten::dequantize(%h)
  %e : Tensor = aten::erf(%xd)
  %y : Tensor = aten::mul(%hd, %e)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after) == [
        "aten::quantize_per_tensor",
        "quantized::hardswish",
        "aten::dequantize",
        "aten::erf",
        "aten::mul",
    ]
    (erf,) = nodes_of(run.after, "aten::erf")
    assert erf.inputsAt(0).node().kind() == "prim::Param"


@pytest.mark.parametrize("gives", ["quantized op", "op with fixed parameters", "op that keeps parameters"])
def test_integers_are_not_quantized_again_with_their_own_parameters(gives: str) -> None:
    """Test that dequantize and quantize with the same parameters behind an integer op go."""
    integer_op = {
        "quantized op": "quantized::hardswish(%xq, %scale, %zero_point)",
        "op with fixed parameters": "quantized::sigmoid(%xq, %scale, %zero_point)",
        "op that keeps parameters": "aten::relu(%kept)",
    }[gives]
    text = f"""
graph(%self, %x : Tensor):
{constants(scale=0.02, zero_point=20)}
{quantize("xq", "x", 0.03, 120)}
{quantize("kept", "x", 0.02, 20)}
  %h : Tensor = {integer_op}
  %hd : Tensor = aten::dequantize(%h)
{pair("y", "hd", 0.02, 20)}
  return (%y)"""
    run = run_with(CANCEL, text)
    assert ops_of(run.after)[-2:] == [integer_op.split("(")[0], "aten::dequantize"]
    assert ops_of(run.after).count("aten::quantize_per_tensor") == 1
    check_same_numbers(run.before, run.after, torch.randn(200))


@pytest.mark.parametrize(
    ("op", "params"),
    [("tanh", (2 / 256, 128)), ("hardsigmoid", (1 / 256, 0))],
)
def test_parameters_built_into_an_integer_op_are_known(op: str, params: tuple[float, int]) -> None:
    """Test that the integers of a tanh, which no argument tells its parameters, are taken for what they are.

    Quantized with the tanh's own parameters they are not quantized again; with those of its input they are.
    """
    for again, kept in [(params, 0), ((0.03, 120), 1)]:
        text = f"""
graph(%self, %x : Tensor):
{quantize("xq", "x", 0.03, 120)}
  %h : Tensor = aten::{op}(%xq)
  %hd : Tensor = aten::dequantize(%h)
{quantize("y", "hd", *again)}
  return (%y)"""
        run = run_with(CANCEL, text)
        x = torch.randn(200)
        assert torch.equal(run.after(x).dequantize(), run.before(x).dequantize())
        assert ops_of(run.after).count("aten::quantize_per_tensor") == 1 + kept


@pytest.mark.parametrize(
    ("scale", "zero_point", "dtype"),
    [(0.05, 20, QUINT8), (0.02, 21, QUINT8), (0.02, 20, QINT8)],
    ids=["scale", "zero point", "dtype"],
)
def test_a_quantize_with_other_parameters_stays(scale: float, zero_point: int, dtype: int) -> None:
    """Test that a second quantize whose scale, zero point or dtype differs, which does round, stays."""
    text = f"""
graph(%self, %x : Tensor):
{constants(scale=0.02, zero_point=20)}
{quantize("xq", "x", 0.03, 120)}
  %h : Tensor = quantized::hardswish(%xq, %scale, %zero_point)
  %hd : Tensor = aten::dequantize(%h)
{quantize("r", "hd", scale, zero_point, dtype)}
  return (%r)"""
    run = run_with(CANCEL, text)
    assert run.count == 0
    x = torch.randn(200) * 3
    before, after = run.before(x), run.after(x)
    assert before.dtype == after.dtype
    assert torch.equal(before.dequantize(), after.dequantize())


@pytest.mark.parametrize("same", [True, False], ids=["same", "other"])
def test_parameters_in_attributes_are_compared(same: bool) -> None:
    """Test that the values of attributes count, and not their names."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("_scale_0", "float")}{attribute("_zero_point_0", "int")}
{attribute("_scale_1", "float")}{attribute("_zero_point_1", "int")}
{constants(dtype=QUINT8)}
{quantize("xq", "x", 0.03, 120)}
  %h : Tensor = quantized::hardswish(%xq, %_scale_0, %_zero_point_0)
  %hd : Tensor = aten::dequantize(%h)
  %r : Tensor = aten::quantize_per_tensor(%hd, %_scale_1, %_zero_point_1, %dtype)
  return (%r)"""
    values: dict[str, Any] = {"_scale_0": 0.02, "_zero_point_0": 20, "_scale_1": 0.02, "_zero_point_1": 20}
    run = run_with(CANCEL, text, values if same else values | {"_scale_1": 0.1})
    assert ops_of(run.after).count("aten::quantize_per_tensor") == (1 if same else 2)
    x = torch.randn(200)
    assert torch.equal(run.after(x).dequantize(), run.before(x).dequantize())


def test_plain_integers_are_not_wrapped_to_be_unwrapped() -> None:
    """Test that int_repr of a tensor just made of plain integers gives those integers."""
    text = f"""
graph(%self, %i : Tensor):
{constants(scale=0.02, zero_point=20)}
  %p : Tensor = aten::_make_per_tensor_quantized_tensor(%i, %scale, %zero_point)
  %j : Tensor = aten::int_repr(%p)
  return (%j)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after) == []
    integers = torch.randint(0, 256, (50,), dtype=torch.uint8)
    assert torch.equal(run.after(integers), integers)


def test_wrapped_integers_that_something_else_takes_stay() -> None:
    """Test that plain integers which a quantized op takes too are wrapped for it."""
    text = f"""
graph(%self, %i : Tensor):
{constants(scale=0.02, zero_point=20)}
  %p : Tensor = aten::_make_per_tensor_quantized_tensor(%i, %scale, %zero_point)
  %j : Tensor = aten::int_repr(%p)
  %r : Tensor = aten::relu(%p)
  %k : Tensor = aten::int_repr(%r)
  %y : Tensor = aten::add(%j, %k, %zero_point)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after) == [
        "aten::_make_per_tensor_quantized_tensor",
        "aten::relu",
        "aten::int_repr",
        "aten::add",
    ]
    integers = torch.randint(0, 256, (50,), dtype=torch.uint8)
    assert torch.equal(run.after(integers), run.before(integers))


@pytest.mark.parametrize(
    ("call", "kind"),
    [
        ("aten::size(%d)", "int[]"),
        ("aten::size(%d, %one)", "int"),
        ("aten::dim(%d)", "int"),
        ("aten::numel(%d)", "int"),
        ("aten::len(%d)", "int"),
    ],
)
def test_integers_are_asked_for_their_shape(call: str, kind: str) -> None:
    """Test that no tensor is dequantized only to be asked for its shape."""
    text = f"""
graph(%self, %q : Tensor):
{constants(one=1)}
  %d : Tensor = aten::dequantize(%q)
  %n : {kind} = {call}
  return (%n)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after) == [call.split("(")[0]]
    q = torch.quantize_per_tensor(torch.randn(2, 3, 5), 0.1, 128, torch.quint8)
    assert run.after(q) == run.before(q)


def test_a_dequantize_that_is_used_otherwise_stays() -> None:
    """Test that a value whose shape is asked, and which is used as a float, is still dequantized."""
    text = f"""
graph(%self, %q : Tensor):
{constants(one=1)}
  %d : Tensor = aten::dequantize(%q)
  %n : int[] = aten::size(%d)
  %m : int[] = prim::ListConstruct(%one)
  %e : Tensor = aten::erf(%d)
  %y : Tensor = aten::view(%e, %n)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert ops_of(run.after) == ["aten::dequantize", "aten::size", "aten::erf", "aten::view"]


def test_two_dequantizes_become_one() -> None:
    """Test that a value which two float ops take is dequantized once."""
    text = """
graph(%self, %q : Tensor):
  %d : Tensor = aten::dequantize(%q)
  %e : Tensor = aten::erf(%d)
  %d2 : Tensor = aten::dequantize(%q)
  %s : Tensor = aten::sin(%d2)
  %y : Tensor = aten::mul(%e, %s)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after) == ["aten::dequantize", "aten::erf", "aten::sin", "aten::mul"]
    q = torch.quantize_per_tensor(torch.randn(50), 0.03, 120, torch.quint8)
    assert torch.equal(run.after(q), run.before(q))


def test_a_dequantize_before_a_branch_serves_it() -> None:
    """Test that inside an `if` a value dequantized before it is not dequantized again."""
    text = """
graph(%self, %q : Tensor, %choice : bool):
  %d : Tensor = aten::dequantize(%q)
  %e : Tensor = aten::erf(%d)
  %y : Tensor = prim::If(%choice)
    block0():
      %d2 : Tensor = aten::dequantize(%q)
      %s : Tensor = aten::sin(%d2)
      -> (%s)
    block1():
      -> (%e)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    assert ops_of(run.after).count("aten::dequantize") == 1


def test_branches_do_not_share_a_dequantize() -> None:
    """Test that a value dequantized in one branch is dequantized again in the other and behind them."""
    text = """
graph(%self, %q : Tensor, %choice : bool):
  %y : Tensor = prim::If(%choice)
    block0():
      %d : Tensor = aten::dequantize(%q)
      %s : Tensor = aten::sin(%d)
      -> (%s)
    block1():
      %d1 : Tensor = aten::dequantize(%q)
      %c : Tensor = aten::cos(%d1)
      -> (%c)
  %d2 : Tensor = aten::dequantize(%q)
  %z : Tensor = aten::mul(%y, %d2)
  return (%z)"""
    run = run_with(CANCEL, text)
    assert run.count == 0
    q = torch.quantize_per_tensor(torch.randn(50), 0.03, 120, torch.quint8)
    for choice in (True, False):
        assert torch.equal(run.after(q, choice), run.before(q, choice))


def test_pairs_inside_a_block_go() -> None:
    """Test that the pass reaches into the branches of an `if`."""
    text = f"""
graph(%self, %x : Tensor, %choice : bool):
  %y : Tensor = prim::If(%choice)
    block0():
{textwrap.indent(pair("xd", "x", 0.5, 120), "    ")}
      %s : Tensor = aten::sin(%xd)
      -> (%s)
    block1():
      -> (%x)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert run.count == 1
    FileCheck().check("prim::If").check_not("quantize").run(graph_of(run.after))


@pytest.mark.parametrize("per_channel", [True, False], ids=["per channel", "per tensor"])
def test_an_op_left_float_has_its_float_weight(per_channel: bool) -> None:
    """Test that the weight of a convolution which stayed float is not rounded to 8 bits."""
    weight_text, attributes = weight_pair(torch.randn(4, 3, 3, 3), per_channel=per_channel)
    text = f"""
graph(%self, %x : Tensor):
{constants(ones=[1, 1], one=1, none=None)}
{weight_text}
  %y : Tensor = aten::conv2d(%x, %weight_d, %none, %ones, %ones, %ones, %one)
  return (%y)"""
    run = run_with(CANCEL, text, attributes)
    assert ops_of(run.after) == ["aten::conv2d"]
    x = torch.randn(1, 3, 5, 5)
    assert torch.equal(run.after(x), torch.conv2d(x, attributes["weight"], padding=1))


def test_plain_integers_are_taken_out_once() -> None:
    """Test that two int_reprs of one value become one, and those of two values stay two."""
    text = f"""
graph(%self, %x : Tensor):
{constants(one=1)}
{quantize("a", "x", 0.03, 120)}
{quantize("b", "x", 0.02, 20)}
  %i : Tensor = aten::int_repr(%a)
  %j : Tensor = aten::int_repr(%a)
  %k : Tensor = aten::int_repr(%b)
  %l : Tensor = aten::sub(%i, %k, %one)
  %y : Tensor = aten::add(%l, %j, %one)
  return (%y)"""
    run = run_with(CANCEL, text)
    assert ops_of(run.after).count("aten::int_repr") == 2
    x = torch.randn(200)
    assert torch.equal(run.after(x), run.before(x))
