"""Tests of propagate_constants: what depends on constants alone is computed, decided branches are taken."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import run_passes
from tests.graphs import argument, check_same_numbers, graph_text, nodes_of, ops_of, run_alone, working_copy

DECIDED = """
graph(%self, %x : Tensor):
  %flag : bool = prim::Constant[value={flag}]()
  %y : Tensor = prim::If(%flag)
    block0():
      %a : Tensor = aten::relu(%x)
      -> (%a)
    block1():
      %b : Tensor = aten::tanh(%x)
      -> (%b)
  %z : Tensor = aten::neg(%y)
  return (%z)"""

UNDECIDED = """
graph(%self, %x : Tensor, %flag : bool):
  %two : int = prim::Constant[value=2]()
  %y : Tensor = prim::If(%flag)
    block0():
      %four : int = aten::mul(%two, %two)
      %a : Tensor = aten::mul(%x, %four)
      -> (%a)
    block1():
      -> (%x)
  return (%y)"""

ARITHMETIC = """
graph(%self, %x : Tensor):
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %three : int = prim::Constant[value=3]()
  %six : int = aten::mul(%two, %three)
  %seven : int = aten::add(%six, %one)
  %y : Tensor = aten::mul(%x, %seven)
  return (%y)"""

UNUSED = """
graph(%self, %x : Tensor):
  %unused : Tensor = aten::relu(%x)
  %y : Tensor = aten::neg(%x)
  return (%y)"""

TRANSPOSED_ATTRIBUTE = """
graph(%self, %x : Tensor):
  %w = prim::GetAttr[name="weight"](%self)
  %t : Tensor = aten::t(%w)
  %y : Tensor = aten::matmul(%x, %t)
  return (%y)"""

RANDOM = """
graph(%self, %x : Tensor):
  %size : int[] = prim::Constant[value=[3]]()
  %none : NoneType = prim::Constant()
  %r : Tensor = aten::rand(%size, %none, %none, %none, %none)
  %y : Tensor = aten::mul(%x, %r)
  return (%y)"""

CHANGED = """
graph(%self, %x : Tensor):
  %one : int = prim::Constant[value=1]()
  %size : int[] = prim::Constant[value=[3]]()
  %none : NoneType = prim::Constant()
  %r : Tensor = aten::zeros(%size, %none, %none, %none, %none)
  %y : Tensor = aten::add_(%r, %x, %one)
  return (%y)"""


@pytest.mark.parametrize(("flag", "kept"), [(1, "aten::relu"), (0, "aten::tanh")])
def test_decided_branch_is_taken(flag: int, kept: str) -> None:
    """Test that the branch that a constant decides stands in the place of the prim::If, and counts."""
    before, after, count = run_alone("propagate_constants", DECIDED.format(flag=flag))
    assert ops_of(after) == [kept, "aten::neg"]
    assert count == 2  # the prim::If and the op in the other branch
    check_same_numbers(before, after, torch.randn(3))


def test_arithmetic_is_done() -> None:
    """Test that what is computed from constants becomes one."""
    before, after, count = run_alone("propagate_constants", ARITHMETIC)
    assert count == 2
    (product,) = nodes_of(after, "aten::mul")
    assert argument(product, 1) == 7
    assert ops_of(after) == ["aten::mul"]
    check_same_numbers(before, after, torch.randn(3))


def test_dead_code_goes() -> None:
    """Test that what nothing uses is dropped and counts."""
    before, after, count = run_alone("propagate_constants", UNUSED)
    assert count == 1
    assert ops_of(after) == ["aten::neg"]
    check_same_numbers(before, after, torch.randn(3))


def test_second_run_finds_nothing() -> None:
    """Test that a graph in which all is done is left as it is."""
    _, after, _ = run_alone("propagate_constants", DECIDED.format(flag=1))
    text = graph_text(after)
    assert run_pass("propagate_constants", after) == 0
    assert graph_text(after) == text


def test_undecided_branch_stays() -> None:
    """Test that a branch on an input stays, with the constants inside it computed."""
    _, after, count = run_alone("propagate_constants", UNDECIDED)
    assert count == 1
    assert ops_of(after) == ["prim::If", "aten::mul"]
    torch.testing.assert_close(after(torch.ones(2), True), torch.full((2,), 4.0))
    torch.testing.assert_close(after(torch.ones(2), False), torch.ones(2))


def test_attributes_stay() -> None:
    """Test that a weight is no constant to this pass: its transpose stays and it is reachable by name."""
    weight = torch.randn(4, 3)
    before, after, count = run_alone("propagate_constants", TRANSPOSED_ATTRIBUTE, {"weight": weight})
    assert count == 0
    assert ops_of(after) == ["aten::t", "aten::matmul"]
    check_same_numbers(before, after, torch.randn(2, 3))


def test_random_numbers_stay_random() -> None:
    """Test that what is random is not computed once for all."""
    _, after, count = run_alone("propagate_constants", RANDOM)
    assert count == 0
    assert not torch.equal(after(torch.ones(3)), after(torch.ones(3)))


def test_what_is_changed_in_place_is_made_anew() -> None:
    """Test that a constant tensor that an op changes is not shared between calls."""
    _, after, _ = run_alone("propagate_constants", CHANGED)
    for _ in range(2):
        torch.testing.assert_close(after(torch.ones(3)), torch.ones(3))


class Matmul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))

    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight.t())


def test_transpose_of_a_constant_weight_is_done() -> None:
    """Test that in a frozen module the transpose of a weight is computed now."""
    network = Matmul().eval()
    frozen = torch.jit.freeze(torch.jit.script(network), optimize_numerics=False)
    copy = working_copy(frozen)
    run_pass("propagate_constants", copy)
    assert ops_of(copy) == ["aten::matmul"]
    check_same_numbers(network, copy, torch.randn(2, 3))


class Checks(nn.Module):
    """Raises when a constant is not what it should be."""

    def __init__(self) -> None:
        super().__init__()
        self.groups = 2

    def forward(self, x: Tensor) -> Tensor:
        if self.groups < 1:
            raise ValueError(f"groups is {self.groups}")
        return x * self.groups


def test_checks_that_hold_go() -> None:
    """Test that an exception that is never raised goes, with the message made for it."""
    copy = working_copy(torch.jit.script(Checks().eval()))
    run_passes(["inline_calls", "fold_attributes"], copy)
    assert "prim::RaiseException" in ops_of(copy)
    run_pass("propagate_constants", copy)
    assert ops_of(copy) == ["aten::mul"]
    FileCheck().check_not("prim::If").check_not("aten::format").run(graph_text(copy))


def test_training_branches_go() -> None:
    """Test that nothing but its op is left of a dropout in evaluation mode."""
    network = nn.Sequential(nn.Dropout(0.5), nn.Hardtanh()).eval()
    copy = working_copy(torch.jit.script(network))
    run_passes(["inline_calls", "fold_attributes", "propagate_constants"], copy)
    assert ops_of(copy) == ["aten::dropout", "aten::hardtanh"]
    check_same_numbers(network, copy, torch.randn(3))
