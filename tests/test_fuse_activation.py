"""Tests of fuse_activation: an onednn op does the hardswish or gelu behind it."""

import pytest
import torch
from torch import Tensor
from torch.testing import FileCheck

from jitquant.passes import run_pass
from tests.graphs import Attributes, Run, argument, graph_text, nodes_of, ops_of
from tests.quantized_ir import (
    attribute,
    check_within_a_step,
    constants,
    pair,
    quantize,
    run_with,
    weight_pair,
)

CONV, LINEAR = "onednn::qconv_pointwise", "onednn::qlinear_pointwise"
MAKE = "aten::_make_per_tensor_quantized_tensor"
STEP = 0.04
INTEGERS = ("fuse_quantized", "cancel_quant_pairs", "keep_float")


def depthwise() -> tuple[str, Attributes]:
    """A depthwise convolution, which x86 has as a convolution of plain integers."""
    weight_text, attributes = weight_pair(torch.randn(104, 1, 3, 3) * 0.2)
    return (
        constants(ones=[1, 1], groups=104)
        + attribute("bias")
        + weight_text
        + pair("xd", "x", 0.03, 120)
        + "  %r : Tensor = aten::conv2d(%xd, %weight_d, %bias, %ones, %ones, %ones, %groups)\n"
    ), attributes | {"bias": torch.randn(104)}


def linear() -> tuple[str, Attributes]:
    weight_text, attributes = weight_pair(torch.randn(12, 16) * 0.3)
    return (
        attribute("bias")
        + weight_text
        + pair("xd", "x", 0.03, 120)
        + "  %r : Tensor = aten::linear(%xd, %weight_d, %bias)\n"
    ), attributes | {"bias": torch.randn(12)}


OPS = {CONV: depthwise, LINEAR: linear}
INPUTS = {CONV: torch.randn(1, 104, 6, 6), LINEAR: torch.randn(9, 16)}
HARDSWISH = pair("rd", "r", 0.05, 120) + "  %h : Tensor = aten::hardswish(%rd)\n"
RESULT = (
    quantize("q", "h", STEP, 30)
    + "  %k : Tensor = aten::relu(%q)\n  %y : Tensor = aten::dequantize(%k)\n  return (%y)"
)


def gelu(approximate: str) -> str:
    return constants(approximate=approximate) + "  %h : Tensor = aten::gelu(%r, %approximate)\n"


def fused(op: str, body: str, count: int) -> Run:
    """The graph before and after the pass. `body` stands behind the op, whose float value is %r."""
    text, attributes = OPS[op]()
    text = "graph(%self, %x : Tensor):\n" + text + body
    before, after = (run_with(INTEGERS, text, attributes).after for _ in range(2))
    assert run_pass("fuse_activation", after) == count
    return Run(before, after, count)


def check_post_op(run: Run, op: str, name: str, algorithm: str) -> None:
    """The op does the activation function and rounds to the parameters behind it."""
    (node,) = nodes_of(run.after, op)
    names = [argument.name for argument in torch._C._jit_get_schemas_for_operator(op)[0].arguments]
    post = ("attr", "algorithm") if op == CONV else ("post_op_name", "post_op_algorithm")
    given = [
        argument(node, names.index(each)) for each in ("output_scale", "output_zero_point", "output_dtype")
    ]
    assert given == [STEP, 30, 0]
    assert [argument(node, names.index(each)) for each in post] == [name, algorithm]


@pytest.mark.parametrize("op", OPS)
def test_a_hardswish_is_part_of_the_op_before(op: str) -> None:
    """Test that a hardswish behind an op of plain integers is done by that, and rounded once."""
    run = fused(op, HARDSWISH + RESULT, 1)
    FileCheck().check(op).check_next(MAKE).check_next("aten::relu").run(graph_text(run.after))
    FileCheck().check_not("quantized::hardswish").run(graph_text(run.after))
    check_post_op(run, op, "hardswish", "none")
    # Before, the value was rounded in front of the hardswish as well, which is up to 1.5 times as steep.
    error = (run.before(INPUTS[op]) - run.after(INPUTS[op])).abs()
    assert error.max() <= 1.5 * 0.05 / 2 + STEP
    assert 0 < error.mean() <= STEP / 2


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_a_gelu_is_part_of_the_linear_before(approximate: str) -> None:
    """Test that a linear that gives float to a gelu does that itself and gives integers."""
    run = fused(LINEAR, pair("rd", "r", 0.05, 120) + gelu(approximate).replace("%r,", "%rd,") + RESULT, 1)
    FileCheck().check(LINEAR).check_next(MAKE).check_next("aten::relu").run(graph_text(run.after))
    FileCheck().check_not("aten::gelu").run(graph_text(run.after))
    check_post_op(run, LINEAR, "gelu", approximate)
    check_within_a_step(run.before, run.after, INPUTS[LINEAR], step=STEP)


def test_what_follows_takes_the_integers_as_they_are() -> None:
    """Test that behind the pass two ops of plain integers stand next to each other."""
    text, attributes = depthwise()
    body = (
        HARDSWISH
        + pair("hd", "h", STEP, 30)
        + "  %s : Tensor = aten::conv2d(%hd, %weight_d, %bias, %ones, %ones, %ones, %groups)\n"
        + pair("y", "s", 0.1, 120)
        + "  return (%y)"
    )
    run = run_with(
        (*INTEGERS, "fuse_activation", "cancel_quant_pairs"),
        "graph(%self, %x : Tensor):\n" + text + body,
        attributes,
    )
    ops = ops_of(run.after)
    between = ops[ops.index(CONV) + 1 : len(ops) - 1 - ops[::-1].index(CONV)]
    assert not {MAKE, "quantized::hardswish", "aten::hardswish"} & set(between)


# What is left alone


def test_a_result_that_something_else_takes_stays() -> None:
    """Test that a convolution whose result is used beside the hardswish gives that result."""
    both = "  %both : (Tensor, Tensor) = prim::TupleConstruct(%y, %rd_q)\n  return (%both)"
    run = fused(CONV, HARDSWISH + RESULT.replace("  return (%y)", both), 0)
    assert "quantized::hardswish" in ops_of(run.after)


def test_an_op_that_does_a_relu_already_stays() -> None:
    """Test that a convolution has one function behind it only."""
    body = "  %q : Tensor = aten::relu(%r)\n" + HARDSWISH.replace("%r,", "%q,") + RESULT
    run = fused(CONV, body, 0)
    assert "quantized::hardswish" in ops_of(run.after)


def test_other_ops_keep_their_hardswish() -> None:
    """Test that a hardswish behind an op of quantized tensors stays."""
    body = (
        constants(one=1)
        + quantize("rq", "r", 0.05, 120)
        + "  %d : Tensor = aten::dequantize(%rq)\n  %sum : Tensor = aten::add(%d, %d, %one)\n"
        + HARDSWISH.replace("%r,", "%sum,")
        + RESULT
    )
    run = fused(LINEAR, body, 0)
    assert "quantized::hardswish" in ops_of(run.after)


def test_a_gelu_whose_result_stays_float_is_left_alone() -> None:
    """Test that a gelu that nothing quantizes is computed by itself."""
    run = fused(LINEAR, pair("rd", "r", 0.05, 120) + gelu("none").replace("%r,", "%rd,") + "  return (%h)", 0)
    x: Tensor = INPUTS[LINEAR]
    assert ops_of(run.after)[-1] == "aten::gelu"
    assert torch.equal(run.before(x), run.after(x))
