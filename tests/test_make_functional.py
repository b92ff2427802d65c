"""Tests of make_functional: in-place ops become functional where nobody else could see the change."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import FileCheck

from jitquant import default_qconfig, quantize_jit
from jitquant.passes import run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import (
    Run,
    argument,
    check_same_numbers,
    graph_text,
    nodes_of,
    ops_of,
    run_alone,
    working_copy,
)
from tests.networks import sqnr

HEAD = """
graph(%self, %x : Tensor):
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %six : float = prim::Constant[value=6.0]()
  %p : float = prim::Constant[value=0.5]()
  %false : bool = prim::Constant[value=0]()
  %c : Tensor = aten::neg(%x)
"""

# The in-place op on %c, a value of the graph's own, and what takes its place.
IN_PLACE = {
    "relu": "aten::relu_(%c)",
    "sigmoid": "aten::sigmoid_(%c)",
    "hardtanh": "aten::hardtanh_(%c, %zero, %six)",
    "clamp": "aten::clamp_(%c, %zero, %six)",
    "add": "aten::add_(%c, %x, %one)",
    "mul": "aten::mul_(%c, %x)",
    "leaky_relu": "aten::leaky_relu_(%c, %p)",
    "hardswish": "aten::hardswish_(%c)",
}


def made_functional(body: str, attributes: dict[str, Any] | None = None) -> Run:
    return run_alone("make_functional", HEAD + body, attributes)


def canonical(network: nn.Module) -> torch.jit.ScriptModule:
    copy = working_copy(torch.jit.script(network.eval()))
    run_passes(CANONICALIZE, copy)
    return copy


@pytest.mark.parametrize("name", IN_PLACE)
def test_in_place_op_becomes_functional(name: str) -> None:
    """Test that an op on a value of the graph's own becomes functional, with the same arguments."""
    before, after, count = made_functional(f"  %y : Tensor = {IN_PLACE[name]}\n  return (%y)")
    assert count == 1
    assert ops_of(after) == ["aten::neg", f"aten::{name}"]
    for index, value in enumerate(nodes_of(before)[-1].inputs()):
        assert argument(nodes_of(after)[-1], index) == value.toIValue()
    check_same_numbers(before, after, torch.linspace(-8, 8, 12))


def test_text() -> None:
    """Test that the functional op takes what the op in-place took and gives what it gave."""
    _, after, _ = made_functional(
        "  %y : Tensor = aten::relu_(%c)\n  %z : Tensor = aten::tanh(%y)\n  return (%z)"
    )
    (neg,), (relu,) = nodes_of(after, "aten::neg"), nodes_of(after, "aten::relu")
    changed, result = neg.output().debugName(), relu.output().debugName()
    FileCheck().check(f"%{changed} : Tensor = aten::neg(%x)").check(
        f"%{result} : Tensor = aten::relu(%{changed})"
    ).check(f"= aten::tanh(%{result})").run(graph_text(after))


def test_chain() -> None:
    """Test that ops in-place one behind the other all become functional, in order."""
    before, after, count = made_functional(
        "  %r : Tensor = aten::relu_(%c)\n  %s : Tensor = aten::add_(%r, %x, %one)\n"
        "  %h : Tensor = aten::hardtanh_(%s, %zero, %six)\n  return (%h)"
    )
    assert count == 3
    assert ops_of(after) == ["aten::neg", "aten::relu", "aten::add", "aten::hardtanh"]
    check_same_numbers(before, after, torch.randn(5) * 5)


def test_later_uses_of_the_changed_value_see_the_change() -> None:
    """Test that who uses the value after the change gets the new one, and who used it before, the old one."""
    before, after, count = made_functional(
        "  %early : Tensor = aten::tanh(%c)\n  %r : Tensor = aten::relu_(%c)\n"
        "  %late : Tensor = aten::add(%c, %early, %one)\n  return (%late)"
    )
    assert count == 1
    assert ops_of(after) == ["aten::neg", "aten::tanh", "aten::relu", "aten::add"]
    check_same_numbers(before, after, torch.randn(5))


def test_list_that_is_appended_to() -> None:
    """Test that a list filled by append becomes one made at once."""
    before, after, count = made_functional(
        "  %list : Tensor[] = prim::ListConstruct(%c)\n  %same : Tensor[] = aten::append(%list, %x)\n"
        "  %y : Tensor = aten::cat(%list, %zero)\n  return (%y)"
    )
    assert count == 1
    assert ops_of(after) == ["aten::neg", "aten::cat"]
    check_same_numbers(before, after, torch.randn(5))


def test_functional_graph_is_left_as_it_is() -> None:
    """Test that a graph without mutation counts nothing and keeps its text."""
    before, after, count = made_functional("  %y : Tensor = aten::relu(%c)\n  return (%y)")
    assert count == 0
    assert graph_text(after).split("\n", 1)[1] == graph_text(before).split("\n", 1)[1]


class Residual(nn.Module):
    """The in-place ops of common networks, behind a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.act = nn.ReLU(inplace=True)
        self.act6 = nn.Hardtanh(0.0, 6.0, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.conv(x))
        y += x
        return F.relu(self.act6(y), inplace=True)


class SwishInPlace(nn.Module):
    """Saves memory as many networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3)
        self.head = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.mul_(y.sigmoid())
        return self.head(y)


class ChangeThroughView(SwishInPlace):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        flat = y.view(y.size(0), -1)
        flat.relu_()
        return self.head(y)


@pytest.mark.parametrize("kind", [SwishInPlace, ChangeThroughView])
def test_no_change_is_lost_in_quantization(kind: type[nn.Module]) -> None:
    """Test that a change in-place, become functional or not, is still made in the quantized module."""
    network = kind().eval()
    image = torch.randn(2, 3, 8, 8)
    quantized = quantize_jit(
        torch.jit.script(network), {"": default_qconfig}, lambda prepared: prepared(image), []
    )
    with torch.no_grad():
        assert sqnr(network(image), quantized(image)) > 20


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_residual_network(traced: bool) -> None:
    """Test that the in-place ops of modules and functions become functional in scripted and traced models."""
    network = Residual().eval()
    image = torch.randn(2, 3, 4, 4)
    script = torch.jit.trace(network, image) if traced else torch.jit.script(network)
    after = working_copy(script)
    run_passes(CANONICALIZE, after)
    assert ops_of(after) == ["aten::conv2d", "aten::relu", "aten::add", "aten::hardtanh", "aten::relu"]
    check_same_numbers(network, after, image)


# What is left alone


def test_not_functional_when_the_caller_would_see_it() -> None:
    """Test that a change of the graph's input stays, since the caller sees it."""
    before, after, count = made_functional("  %y : Tensor = aten::relu_(%x)\n  return (%y)")
    assert count == 0
    assert "aten::relu_" in ops_of(after)
    check_same_numbers(before, after, torch.randn(5))  # it compares the inputs too


def test_not_functional_when_a_buffer_is_changed() -> None:
    """Test that a change of a buffer stays, and is seen at the next call."""
    before, after, count = made_functional(
        '  %b = prim::GetAttr[name="buffer"](%self)\n  %y : Tensor = aten::add_(%b, %x, %one)\n'
        "  %z : Tensor = aten::neg(%y)\n  return (%z)",
        {"buffer": torch.zeros(5)},
    )
    assert count == 0
    for _ in range(2):
        check_same_numbers(before, after, torch.ones(5))
    torch.testing.assert_close(after.buffer, torch.full((5,), 2.0))


@pytest.mark.parametrize("changed", ["v", "c"])
def test_not_functional_when_a_view_shares_the_memory(changed: str) -> None:
    """Test that a change through a view, or of what has a view, stays."""
    other = {"v": "c", "c": "v"}[changed]
    before, after, count = made_functional(
        f"  %v : Tensor = aten::select(%c, %zero, %one)\n  %r : Tensor = aten::relu_(%{changed})\n"
        f"  %y : Tensor = aten::tanh(%{other})\n  return (%y)"
    )
    assert count == 0
    assert "aten::relu_" in ops_of(after)
    check_same_numbers(before, after, torch.randn(3, 4))


def test_not_functional_in_a_loop() -> None:
    """Test that a change in a loop of a value from outside gives the same as before."""
    before, after, _ = made_functional(
        "  %true : bool = prim::Constant[value=1]()\n  %three : int = prim::Constant[value=3]()\n"
        "  %n : int = prim::Loop(%three, %true, %zero)\n    block0(%i : int, %k : int):\n"
        "      %y : Tensor = aten::add_(%c, %x, %one)\n      -> (%true, %i)\n"
        "  %z : Tensor = aten::tanh(%c)\n  return (%z)"
    )
    assert "aten::add_" in ops_of(after)
    check_same_numbers(before, after, torch.randn(5))


@pytest.mark.parametrize("name", ["dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_"])
def test_dropout_in_place_goes_in_evaluation_mode(name: str) -> None:
    """Test that in-place dropout, even on a view, leaves nothing where it does not train, and else stays."""
    text = "  %v : Tensor = aten::t(%x)\n  %y : Tensor = aten::" + name + "(%v, %p, %train)\n  return (%y)"
    for train in (False, True):
        constant = f"  %train : bool = prim::Constant[value={int(train)}]()\n"
        after = made_functional(constant + text).after
        assert (f"aten::{name}" in ops_of(after)) == train


GROWING = """
  %list : Tensor[] = prim::ListConstruct(%x)
  %first : Tensor = aten::cat(%list, %zero)
  %a : Tensor[] = aten::append(%list, %c)
  %second : Tensor = aten::cat(%list, %zero)
  %b : Tensor[] = aten::append(%list, %first)
  %length : int = aten::len(%list)
  %third : Tensor = aten::cat(%list, %zero)
  %y : (Tensor, Tensor, int) = prim::TupleConstruct(%second, %third, %length)
  return (%y)"""


def test_a_list_that_grows_becomes_a_list_for_each_reader() -> None:
    """Test that each reader gets what the list held when it read, and that nothing appends any more."""
    before, after, count = made_functional(GROWING)
    assert count == 2
    assert "aten::append" not in ops_of(after)
    x = torch.randn(3)
    for one, other in zip(before(x), after(x), strict=True):
        assert torch.equal(torch.as_tensor(one), torch.as_tensor(other))


@pytest.mark.parametrize(
    "change",
    [
        ("  %third", "  %z : Tensor[] = aten::reverse(%list)\n  %third"),
        ("  %a :", "  %kept : (Tensor[], int) = prim::TupleConstruct(%list, %zero)\n  %a :"),
    ],
    ids=["something else changes it", "something keeps it"],
)
def test_not_spelled_out(change: tuple[str, str]) -> None:
    """Test that a list that something else sees grow, or changes, stays what it is."""
    text = GROWING.replace(*change).replace("%z : Tensor[] = aten::reverse", "aten::reverse")
    after = made_functional(text).after
    assert "aten::append" in ops_of(after)


def test_dropout_in_place_goes_in_the_pipeline() -> None:
    """Test that a dropout in-place in evaluation mode leaves nothing."""
    after = canonical(nn.Sequential(nn.Tanh(), nn.Dropout(0.5, inplace=True), nn.ReLU(inplace=True)))
    assert ops_of(after) == ["aten::tanh", "aten::relu"]


def test_second_run_finds_nothing() -> None:
    """Test that the pass does all in one run."""
    _, after, _ = made_functional("  %y : Tensor = aten::relu_(%c)\n  return (%y)")
    assert run_pass("make_functional", after) == 0
