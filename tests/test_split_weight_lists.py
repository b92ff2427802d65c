"""Tests of split_weight_lists: the parameters of a recurrent layer become a list made of single ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import (
    check_same_numbers,
    graph_of,
    graph_text,
    nodes_of,
    run_alone,
    saved_and_loaded,
    working_copy,
)
from tests.quantized_ir import constants

LAYER = f"""
graph(%self, %x : Tensor, %h : Tensor):
  %rnn = prim::GetAttr[name="rnn"](%self)
  %weights : Tensor[] = prim::GetAttr[name="_flat_weights"](%rnn)
{constants(yes=True, no=False, one=1, zero=0.0)}
  %y : Tensor, %n : Tensor = aten::gru(%x, %h, %weights, %yes, %one, %zero, %no, %no, %no)
  return (%y)"""
NAMES = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")


def parameters() -> list[Tensor]:
    return [torch.randn(size) * 0.3 for size in ((12, 5), (12, 4), (12,), (12,))]


def inputs() -> tuple[Tensor, Tensor]:
    return torch.randn(6, 2, 5), torch.zeros(1, 2, 4)


def test_a_list_of_attributes_is_read_one_by_one() -> None:
    """Test that each tensor is read from the attribute that is the same, and the list no more."""
    weights = parameters()
    attributes: dict[str, Any] = {"rnn._flat_weights": weights}
    attributes.update({f"rnn.{name}": weight for name, weight in zip(NAMES, weights, strict=True)})
    before, after, count = run_alone("split_weight_lists", LAYER, attributes)
    assert count == 1
    check = FileCheck()
    for name in NAMES:
        check.check(f'prim::GetAttr[name="{name}"]')
    check.check("prim::ListConstruct").check("aten::gru").run(graph_of(after))
    assert "_flat_weights" not in graph_text(after)
    check_same_numbers(before, after, *inputs())


def test_a_list_of_what_has_no_other_name_becomes_constants() -> None:
    """Test that a tensor without a name of its own becomes a constant, also beside one of other numbers."""
    attributes: dict[str, Any] = {"rnn._flat_weights": parameters(), "rnn.weight_ih_l0": torch.ones(12, 5)}
    before, after, count = run_alone("split_weight_lists", LAYER, attributes)
    assert count == 1
    (layer,) = nodes_of(after, "aten::gru")
    elements = list(layer.inputsAt(2).node().inputs())
    assert [element.node().kind() for element in elements] == ["prim::Constant"] * 4
    check_same_numbers(before, after, *inputs())


def test_a_list_that_is_changed_is_left_alone() -> None:
    text = LAYER.replace("  %y :", "  %same : Tensor[] = aten::append(%weights, %x)\n  %y :")
    run = run_alone("split_weight_lists", text, {"rnn._flat_weights": parameters()})
    assert run.count == 0


def test_a_list_made_of_single_weights_is_left_alone() -> None:
    run = run_alone("split_weight_lists", LAYER, {"rnn._flat_weights": parameters()})
    assert run_pass("split_weight_lists", run.after) == 0


def test_other_lists_of_tensors_are_left_alone() -> None:
    text = """
graph(%self, %x : Tensor):
  %tensors : Tensor[] = prim::GetAttr[name="tensors"](%self)
  %zero : int = prim::Constant[value=0]()
  %y : Tensor = aten::cat(%tensors, %zero)
  %z : Tensor = aten::add(%x, %y)
  return (%z)"""
    assert run_alone("split_weight_lists", text, {"tensors": [torch.ones(2), torch.ones(2)]}).count == 0


class Twice(nn.Module):
    """A layer that is called twice."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(5, 5, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(self.rnn(x)[0])[0]


@pytest.mark.parametrize("spelling", ["scripted", "traced", "frozen", "loaded", "traced and frozen"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_each_spelling_ends_as_single_weights(kind: type[nn.RNNBase], spelling: str) -> None:
    """Test that behind the canonicalizing passes each layer has a list of its own, of static tensors."""
    torch.manual_seed(0)
    model, x = Twice(kind, num_layers=2, bias=False).eval(), torch.randn(6, 2, 5)
    script = torch.jit.trace(model, x) if "traced" in spelling else torch.jit.script(model)
    if "frozen" in spelling:
        script = torch.jit.freeze(script)
    if spelling == "loaded":
        script = saved_and_loaded(script)
    after = working_copy(script)
    run_passes(CANONICALIZE, after)
    layers = [
        node for node in nodes_of(after) if node.kind() in ("aten::lstm", "aten::gru", "aten::rnn_tanh")
    ]
    assert len(layers) == 2
    single = "prim::Constant" if "frozen" in spelling else "prim::GetAttr"
    for layer in layers:
        weights = layer.inputsAt(2)
        assert weights.node().kind() == "prim::ListConstruct"
        assert len(weights.uses()) == 1
        assert [element.node().kind() for element in weights.node().inputs()] == [single] * 4
    check_same_numbers(script, after, x)
