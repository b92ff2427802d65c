"""Tests of remove_fences: the marks that kept ops float go, and nothing else does."""

import torch
from torch.testing import FileCheck

from jitquant.passes import PassOptions
from tests.graphs import check_same_numbers, graph_of, ops_of
from tests.quantized_ir import constants, pair, run_with


def test_a_fence_goes() -> None:
    """Test that what stood behind a fence takes the value before it."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::erf(%x)
  %f : Tensor = aten::alias(%y)
  %z : Tensor = aten::sin(%f)
  %w : Tensor = aten::mul(%z, %f)
  return (%w)"""
    run = run_with("remove_fences", text)
    assert run.count == 1
    assert ops_of(run.after) == ["aten::erf", "aten::sin", "aten::mul"]
    check_same_numbers(run.before, run.after, torch.randn(20))


def test_a_fence_before_the_output_goes() -> None:
    """Test that a graph which returns a fenced value returns the value."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::erf(%x)
  %f : Tensor = aten::alias(%y)
  return (%f)"""
    run = run_with("remove_fences", text)
    assert run.count == 1
    FileCheck().check("aten::erf").check_next("return").run(graph_of(run.after))


def test_fences_one_behind_the_other_and_in_blocks_go() -> None:
    """Test that fences behind fences, and those inside branches, go too."""
    text = """
graph(%self, %x : Tensor, %choice : bool):
  %f : Tensor = aten::alias(%x)
  %g : Tensor = aten::alias(%f)
  %y : Tensor = prim::If(%choice)
    block0():
      %h : Tensor = aten::alias(%g)
      %s : Tensor = aten::sin(%h)
      -> (%s)
    block1():
      -> (%g)
  return (%y)"""
    run = run_with("remove_fences", text)
    assert run.count == 3
    assert ops_of(run.after) == ["prim::If", "aten::sin"]
    x = torch.randn(20)
    assert torch.equal(run.after(x, True), x.sin())
    assert torch.equal(run.after(x, False), x)


def test_other_ops_are_left_alone() -> None:
    """Test that nothing is done to a graph without fences."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::detach(%x)
  return (%y)"""
    run = run_with("remove_fences", text)
    assert run.count == 0
    assert ops_of(run.after) == ["aten::detach"]


def test_a_fence_keeps_an_op_float_until_fusion_is_done() -> None:
    """Test that an op with a fence behind it is not fused, and one without is."""
    text = f"""
graph(%self, %x : Tensor):
{constants(one=1)}
{pair("xd", "x", 0.03, 120)}
  %y : Tensor = aten::hardswish(%xd)
  %f : Tensor = aten::alias(%y)
{pair("yd", "f", 0.03, 20)}
  %z : Tensor = aten::hardswish(%yd)
{pair("zd", "z", 0.03, 20)}
  return (%zd)"""
    passes = ("fuse_quantized", "cancel_quant_pairs", "remove_fences")
    run = run_with(passes, text, options=PassOptions())
    assert [op for op in ops_of(run.after) if "hardswish" in op] == [
        "aten::hardswish",
        "quantized::hardswish",
    ]
    assert "aten::alias" not in ops_of(run.after)
