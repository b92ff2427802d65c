"""Tests of keep_float: what is only dequantized is not rounded before, and integers in use stay."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

import jitquant
from tests.graphs import Run, argument, graph_text, nodes_of, ops_of
from tests.networks import sqnr
from tests.quantized_ir import attribute, constants, pair, quantize, run_with, weight_pair

LINEAR = "onednn::qlinear_pointwise"
MAKE = "aten::_make_per_tensor_quantized_tensor"
FLOAT, BYTE = 6, 0
WEIGHT, ATTRIBUTES = weight_pair(torch.randn(12, 16) * 0.3)
ATTRIBUTES = ATTRIBUTES | {"bias": torch.randn(12)}
HEADER = (
    "graph(%self, %x : Tensor, %f : Tensor):\n"
    + constants(one=1, last=-1, size=[-1, 6], none=None)
    + attribute("bias")
    + WEIGHT
    + pair("xd", "x", 0.03, 120)
    + "  %r : Tensor = aten::linear(%xd, %weight_d, %bias)\n"
    + quantize("rq", "r", 0.05, 120)
)
PASSES = ("fuse_quantized", "cancel_quant_pairs")
STEP = 0.05


def kept(body: str, count: int) -> Run:
    """The graph before and after the pass. `body` stands behind a linear whose integers are %rq."""
    text = HEADER + body
    before, after = run_with(PASSES, text, ATTRIBUTES).after, run_with(PASSES, text, ATTRIBUTES).after
    found = jitquant.passes.run_pass("keep_float", after)
    assert found == count
    return Run(before, after, found)


def check_near(run: Run, steps: float = 0.5) -> None:
    """Nothing differs by more than the rounding that went."""
    x, f = torch.randn(8, 16), torch.randn(8, 12)
    expected, found = run.before(x, f), run.after(x, f)
    assert expected.dtype == found.dtype == torch.float32
    assert (expected - found).abs().max() <= steps * STEP * 1.01
    assert not torch.equal(expected, found)


def test_a_linear_that_is_only_dequantized_gives_float() -> None:
    """Test that the op gives its result as float, and nothing is made of it and dequantized."""
    run = kept("  %y : Tensor = aten::dequantize(%rq)\n  return (%y)", 1)
    assert ops_of(run.after)[-1] == LINEAR
    (op,) = nodes_of(run.after, LINEAR)
    assert argument(op, 9) == FLOAT
    assert [argument(op, 7), argument(op, 8)] == [1.0, 0]
    check_near(run)


def test_ops_that_move_values_are_passed_over() -> None:
    """Test that reshape and transpose between the op and the dequantize move float values then."""
    body = """
  %m : Tensor = aten::reshape(%rq, %size)
  %t : Tensor = aten::transpose(%m, %one, %last)
  %y : Tensor = aten::dequantize(%t)
  return (%y)"""
    run = kept(body, 1)
    FileCheck().check(LINEAR).check_not("aten::dequantize").check("aten::reshape").check(
        "aten::transpose"
    ).check_next("return").run(graph_text(run.after))
    check_near(run)


def test_several_dequantizes_and_questions_for_the_shape() -> None:
    """Test that each dequantize goes, and what asks for the shape asks the float value."""
    body = """
  %a : Tensor = aten::dequantize(%rq)
  %t : Tensor = aten::t(%rq)
  %b : Tensor = aten::dequantize(%t)
  %n : int = aten::size(%rq, %one)
  %c : Tensor = aten::mul(%a, %n)
  %d : Tensor = aten::t(%b)
  %y : Tensor = aten::add(%c, %d, %one)
  return (%y)"""
    run = kept(body, 1)
    assert "aten::dequantize" not in ops_of(run.after)
    check_near(run, steps=6.5)


ADD = quantize("fq", "f", 0.04, 110) + constants(s_scale=0.08, s_zero=100)


@pytest.mark.parametrize("relu", ["", "_relu"])
@pytest.mark.parametrize("operands", ["%fq, %rq", "%rq, %fq"])
def test_a_sum_of_float_values_is_float(operands: str, relu: str) -> None:
    """Test that a sum of a float value and of what an op can give as float is not computed in integers."""
    body = f"""{ADD}
  %s : Tensor = quantized::add{relu}({operands}, %s_scale, %s_zero)
  %y : Tensor = aten::dequantize(%s)
  return (%y)"""
    run = kept(body, 2)
    expected = [LINEAR, "aten::add"] + (["aten::relu"] if relu else [])
    assert ops_of(run.after)[-len(expected) :] == expected
    check_near(run, steps=0.5 + 0.4 + 0.8)


@pytest.mark.parametrize(
    "body",
    [
        "  %t : Tensor = quantized::add(%rq, %rq, %rq_scale, %rq_zero)\n"
        "  %a : Tensor = aten::dequantize(%rq)\n  %b : Tensor = aten::dequantize(%t)\n"
        "  %y : Tensor = aten::add(%a, %b, %one)\n  return (%y)",
        "  return (%rq)",
        "  %m : Tensor = aten::reshape(%rq, %size)\n  %y : Tensor = aten::dequantize(%m)\n"
        "  %both : (Tensor, Tensor) = prim::TupleConstruct(%y, %m)\n  return (%both)",
    ],
    ids=["an integer op", "the caller", "the caller, of a view"],
)
def test_integers_that_something_uses_stay(body: str) -> None:
    """Test that an op whose integers are used by more than dequantizes gives integers."""
    run = kept(body, 0)
    assert argument(nodes_of(run.after, LINEAR)[0], 9) == BYTE
    assert MAKE in ops_of(run.after)


def test_a_sum_of_which_one_operand_is_of_integers_stays() -> None:
    """Test that where one operand would have to be dequantized, the sum is one of integers."""
    body = f"""{ADD}
  %k : Tensor = aten::relu(%fq)
  %s : Tensor = quantized::add(%k, %rq, %s_scale, %s_zero)
  %y : Tensor = aten::dequantize(%s)
  return (%y)"""
    run = kept(body, 0)
    assert "quantized::add" in ops_of(run.after)


class Residual(nn.Module):
    """What a transformer has at its end: a linear, a sum and a norm, which is float."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.first(x))
        return self.norm(x + self.second(x))


def test_a_network_loses_less() -> None:
    """Test that a network with float ops in it is nearer to its float self than its debug model is."""
    torch.manual_seed(0)
    network = torch.jit.script(Residual().eval())
    x = torch.randn(4, 32, 16)
    qconfig = {"": jitquant.get_default_qconfig("x86")}
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86"
    try:
        quantized = jitquant.quantize_jit(network, qconfig, lambda prepared: prepared(x), [])
        debug = jitquant.quantize_jit(network, qconfig, lambda prepared: prepared(x), [], debug=True)
        assert ops_of(quantized).count(LINEAR) == 2
        assert sqnr(network(x), quantized(x)) > max(35, sqnr(network(x), debug(x)))
    finally:
        torch.backends.quantized.engine = engine


@pytest.mark.parametrize("clamp", [nn.ReLU6(), nn.Hardtanh(-0.5, 0.5)])
def test_a_sum_of_floats_keeps_the_clamp_that_saturation_does(clamp: nn.Module) -> None:
    """Test that a sum behind which a clamp was left to saturation stays integer."""

    class Clamped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.clamp = clamp

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.conv(x), self.clamp(x + x)

    network, x = Clamped().eval(), torch.randn(2, 3, 8, 8)
    qconfig = {"": jitquant.QConfig(jitquant.MinMaxObserver, jitquant.PerChannelMinMaxObserver)}
    quantized = jitquant.quantize_jit(torch.jit.trace(network, x), qconfig, lambda model: model(x), [])
    with torch.no_grad():
        assert (quantized(x)[1] - network(x)[1]).abs().max() < 0.1
