"""Tests of remove_inner_quant: no rounding inside what the target computes in one op."""

import pytest
import torch

from jitquant.passes import PassOptions
from tests.graphs import ops_of
from tests.quantized_ir import constants, pair, run_with, weight_pair

NATIVE = PassOptions(target="native")
WEIGHT_TEXT, WEIGHT = weight_pair(torch.randn(4, 4))
HEAD = "graph(%self, %x : Tensor):\n" + WEIGHT_TEXT + constants(none=None, one=1) + pair("a", "x", 0.02, 128)
LINEAR = "  %c : Tensor = aten::linear(%a, %weight_d, %none)\n" + pair("d", "c", 0.05, 120)


def quantizes(text: str, options: PassOptions = NATIVE) -> int:
    """How many of the activations are quantized after the pass."""
    return ops_of(run_with("remove_inner_quant", text, WEIGHT, options).after).count(
        "aten::quantize_per_tensor"
    )


def test_nothing_is_rounded_before_an_activation_that_the_kernel_takes_along() -> None:
    text = HEAD + LINEAR + "  %h : Tensor = aten::hardswish(%d)\n" + pair("y", "h", 0.03, 10)
    assert quantizes(text + "  %r : Tensor = aten::relu(%y)\n  return (%r)") == 2


def test_nothing_is_rounded_before_the_add_of_a_residual_and_its_relu() -> None:
    text = HEAD + LINEAR + "  %s : Tensor = aten::add(%d, %a, %one)\n" + pair("y", "s", 0.07, 100)
    assert quantizes(text + "  %r : Tensor = aten::relu(%y)\n  return (%r)") == 1


def test_a_value_that_only_float_ops_take_stays_float() -> None:
    text = HEAD + LINEAR + "  %e : Tensor = aten::erf(%d)\n  return (%e)"
    assert quantizes(text) == 1


def test_a_residual_that_was_float_is_added_as_float() -> None:
    """Test that a layer norm's result is quantized for the linear only, and added as it is."""
    text = (
        HEAD
        + constants(shape=[4], eps=1e-5, yes=True)
        + "  %n = aten::layer_norm(%a, %shape, %none, %none, %eps, %yes)\n"
    )
    text += (
        pair("b", "n", 0.02, 100) + "  %c = aten::linear(%b, %weight_d, %none)\n" + pair("d", "c", 0.05, 120)
    )
    text += (
        "  %s = aten::add(%d, %b, %one)\n" + pair("y", "s", 0.07, 100) + "  %r = aten::erf(%y)\n  return (%r)"
    )
    after = run_with("remove_inner_quant", text, WEIGHT, NATIVE).after
    assert ops_of(after).count("aten::quantize_per_tensor") == 2
    add = next(node for node in after.graph.nodes() if node.kind() == "aten::add")
    assert [value.node().kind() for value in add.inputs()][:2] == ["aten::linear", "aten::layer_norm"]


def test_what_a_list_is_joined_from_stays_integer_where_the_join_is() -> None:
    text = (
        HEAD + LINEAR + "  %l : Tensor[] = prim::ListConstruct(%d, %a)\n  %j : Tensor = aten::cat(%l, %one)\n"
    )
    assert quantizes(text + pair("y", "j", 0.07, 100) + "  return (%y)") == 3


def test_left_alone_where_an_integer_op_takes_the_value_as_well() -> None:
    text = HEAD + LINEAR
    text += "  %e : Tensor = aten::erf(%d)\n  %r : Tensor = aten::relu(%d)\n"
    text += "  %t : Tensor = aten::add(%e, %r, %one)\n"
    assert quantizes(text + "  return (%t)") == 2


@pytest.mark.parametrize("engine", ["x86", "onednn"])
def test_left_alone_on_the_stock_target(engine: str) -> None:
    text = HEAD + LINEAR + "  %h : Tensor = aten::hardswish(%d)\n" + pair("y", "h", 0.03, 10)
    assert quantizes(text + "  return (%y)", PassOptions(engine=engine)) == 3
