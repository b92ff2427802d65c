"""Tests of remember_weights: ops keep the weights and biases that they have before rounding."""

import torch

from tests.quantized_ir import LINEAR, linear, run_with


def test_an_op_keeps_its_weight_and_its_bias() -> None:
    """Test that both stand at the op as they are before anything is rounded or corrected."""
    text, attributes = linear()
    run = run_with("remember_weights", text, attributes)
    (node,) = [node for node in run.after.graph.nodes() if node.kind() == "aten::linear"]
    assert run.count == 1
    assert torch.equal(node.t("float_weight"), attributes["weight"])
    assert torch.equal(node.t("float_bias"), attributes["bias"])


def test_without_a_bias_none_is_kept() -> None:
    text, attributes = linear(bias=False)
    run = run_with("remember_weights", text, attributes)
    (node,) = [node for node in run.after.graph.nodes() if node.kind() == "aten::linear"]
    assert node.hasAttribute("float_weight")
    assert not node.hasAttribute("float_bias")


def test_an_op_whose_weight_is_not_rounded_is_left_alone() -> None:
    assert run_with("remember_weights", LINEAR, {"weight": torch.randn(4, 4)}).count == 0
