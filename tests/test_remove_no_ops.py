"""Tests of remove_no_ops: ops that give back what they were given go away."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import Run, check_same_numbers, graph_text, ops_of, run_alone, working_copy

HEAD = """
graph(%self, %x : Tensor, %flag : bool):
  %false : bool = prim::Constant[value=0]()
  %true : bool = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %p : float = prim::Constant[value=0.5]()
  %nothing : int[] = prim::Constant[value=[0, 0, 0, 0]]()
  %listed : int[] = prim::ListConstruct(%zero, %zero)
  %empty : int[] = prim::ListConstruct()
  %something : int[] = prim::Constant[value=[0, 1]]()
  %cropped : int[] = prim::Constant[value=[-1, 1]]()
  %a : Tensor = aten::neg(%x)
"""

NO_OPS = {
    "dropout": "aten::dropout(%a, %p, %false)",
    "feature_dropout": "aten::feature_dropout(%a, %p, %false)",
    "alpha_dropout": "aten::alpha_dropout(%a, %p, %false)",
    "feature_alpha_dropout": "aten::feature_alpha_dropout(%a, %p, %false)",
    "detach": "aten::detach(%a)",
    "padding by nothing": "aten::constant_pad_nd(%a, %nothing, %one)",
    "padding by a list of zeros": "aten::constant_pad_nd(%a, %listed, %one)",
    "padding by an empty list": "aten::constant_pad_nd(%a, %empty, %one)",
}

MEANT = {
    "dropout that trains": "aten::dropout(%a, %p, %true)",
    "dropout that may train": "aten::dropout(%a, %p, %flag)",
    "feature_dropout that trains": "aten::feature_dropout(%a, %p, %true)",
    "alpha_dropout that trains": "aten::alpha_dropout(%a, %p, %true)",
    "padding": "aten::constant_pad_nd(%a, %something, %zero)",
    "padding that crops": "aten::constant_pad_nd(%a, %cropped, %zero)",
    "clone": "aten::clone(%a, %none)",
}


def cleaned(body: str) -> Run:
    none = "  %none : NoneType = prim::Constant()\n"
    return run_alone("remove_no_ops", HEAD + none + body)


@pytest.mark.parametrize("name", NO_OPS)
def test_no_op_goes(name: str) -> None:
    """Test that the op goes and what used it takes its input."""
    before, after, count = cleaned(
        f"  %y : Tensor = {NO_OPS[name]}\n  %z : Tensor = aten::tanh(%y)\n  return (%z)"
    )
    assert count == 1
    assert ops_of(after) == ["aten::neg", "aten::tanh"]
    image = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(after(image, False), before(image, False))


@pytest.mark.parametrize("name", MEANT)
def test_not_removed_when_it_does_something(name: str) -> None:
    """Test that an op that trains, pads or may do so stays."""
    _, after, count = cleaned(f"  %y : Tensor = {MEANT[name]}\n  %z : Tensor = aten::tanh(%y)\n  return (%z)")
    assert count == 0
    kind = MEANT[name].split("(")[0]
    assert ops_of(after) == ["aten::neg", kind, "aten::tanh"]


def test_unknown_padding_stays() -> None:
    """Test that padding by sizes known only when the graph runs stays."""
    text = """
graph(%self, %x : Tensor, %pad : int[]):
  %zero : int = prim::Constant[value=0]()
  %y : Tensor = aten::constant_pad_nd(%x, %pad, %zero)
  return (%y)"""
    _, after, count = run_alone("remove_no_ops", text)
    assert count == 0
    assert ops_of(after) == ["aten::constant_pad_nd"]
    assert after(torch.ones(2), [1, 0]).tolist() == [0, 1, 1]


def test_one_behind_the_other() -> None:
    """Test that several in a row all go, and an output of the graph is the input that is left."""
    before, after, count = cleaned(
        "  %y : Tensor = aten::dropout(%a, %p, %false)\n  %z : Tensor = aten::detach(%y)\n"
        "  %w : Tensor = aten::dropout(%z, %p, %false)\n  return (%w)"
    )
    assert count == 3
    assert ops_of(after) == ["aten::neg"]
    torch.testing.assert_close(after(torch.ones(3), False), before(torch.ones(3), False))


def test_inside_a_block() -> None:
    """Test that a no-op inside a branch goes, and the branch gives its input."""
    before, after, count = cleaned(
        "  %y : Tensor = prim::If(%flag)\n    block0():\n"
        "      %b : Tensor = aten::dropout(%a, %p, %false)\n      -> (%b)\n"
        "    block1():\n      -> (%x)\n  return (%y)"
    )
    assert count == 1
    assert ops_of(after) == ["aten::neg", "prim::If"]
    for flag in (True, False):
        torch.testing.assert_close(after(torch.ones(3), flag), before(torch.ones(3), flag))


def test_text() -> None:
    """Test that the arguments of a no-op go with it."""
    _, after, _ = cleaned("  %y : Tensor = aten::dropout(%a, %p, %false)\n  return (%y)")
    FileCheck().check_not("0.5").check_not("dropout").check_not("bool =").run(graph_text(after))


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_network(traced: bool) -> None:
    """Test that dropout modules and functions go from scripted and traced models."""

    network = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.Dropout2d(0.5), nn.Tanh(), nn.AlphaDropout(), Head()
    ).eval()
    image = torch.randn(2, 3, 4, 4)
    after = working_copy(torch.jit.trace(network, image) if traced else torch.jit.script(network))
    run_passes(CANONICALIZE, after)
    assert ops_of(after) == ["aten::conv2d", "aten::tanh", "aten::relu"]
    check_same_numbers(network, after, image)


class Head(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(F.pad(F.dropout(x, training=self.training), [0, 0]))


class ChangesItsPadded(nn.Module):
    """F.pad makes a new tensor even where it pads by nothing."""

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x, [0, 0])
        for _ in range(3):
            padded.add_(1)
        return padded


def test_padding_stays_when_its_result_is_changed() -> None:
    """Test that a change of the padded tensor does not become one of the caller's."""
    network = ChangesItsPadded()
    after = working_copy(torch.jit.script(network))
    run_passes(CANONICALIZE, after)
    check_same_numbers(network, after, torch.randn(4))  # it compares the inputs too


def test_second_run_finds_nothing() -> None:
    """Test that the pass does all in one run."""
    _, after, _ = cleaned("  %y : Tensor = aten::dropout(%a, %p, %false)\n  return (%y)")
    assert run_pass("remove_no_ops", after) == 0
