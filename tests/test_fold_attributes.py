"""Tests of fold_attributes: attributes that are no tensors become constants, unless something writes them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import run_passes
from tests.graphs import (
    check_same_numbers,
    graph_of,
    graph_text,
    nodes_of,
    ops_of,
    run_alone,
    saved_and_loaded,
    working_copy,
)

READ = """
graph(%self, %x : Tensor):
  %part = prim::GetAttr[name="part"](%self)
  %value = prim::GetAttr[name="value"](%part)
  return (%value)"""

CONSTANTS = [
    True,
    3,
    0.5,
    "words",
    [1, 2],
    [0.5],
    ["a", "b"],
    (1, 0.5, "x"),
    (1, (2, 3)),
    torch.device("cpu"),
    {"a": 1, "b": 2},
]
NOT_CONSTANTS = [torch.ones(2), [torch.ones(2)], (1, torch.ones(2)), {"a": torch.ones(2)}]


@pytest.mark.parametrize(
    ("asked", "known"), [("prim::dtype", 6), ("aten::dim", 2), ("aten::is_floating_point", True)]
)
def test_what_sort_of_tensor_a_weight_is_is_known(asked: str, known: Any) -> None:
    """Test that a question for a weight's dtype or rank becomes its answer, and one for an input's stays."""
    kind = "bool" if known is True else "int"
    text = f"""
graph(%self, %x : Tensor):
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %known : {kind} = {asked}(%weight)
  %unknown : {kind} = {asked}(%x)
  %both : ({kind}, {kind}) = prim::TupleConstruct(%known, %unknown)
  return (%both)"""
    run = run_alone("fold_attributes", text, {"weight": torch.ones(2, 3)})
    assert run.count == 1
    assert ops_of(run.after).count(asked) == 1
    assert run.after(torch.ones(2, 3)) == (known, known)


def attribute_reads(module: torch.jit.ScriptModule) -> list[str]:
    """The names of the attributes that forward reads."""
    return [node.s("name") for node in nodes_of(module, "prim::GetAttr")]


def folded(network: nn.Module) -> torch.jit.ScriptModule:
    copy = working_copy(torch.jit.script(network.eval()))
    run_passes(["inline_calls", "fold_attributes"], copy)
    return copy


@pytest.mark.parametrize("value", CONSTANTS, ids=repr)
def test_a_value_becomes_a_constant(value: Any) -> None:
    """Test that an attribute that is no tensor is read no more, and its value stands in the graph."""
    before, after, count = run_alone("fold_attributes", READ, {"part.value": value})
    assert count == 1
    assert attribute_reads(after) == ["part"]
    (output,) = graph_of(after).outputs()
    assert output.node().kind() == "prim::Constant"
    assert output.toIValue() == value
    assert after(torch.ones(2)) == before(torch.ones(2)) == value


@pytest.mark.parametrize(
    "value", NOT_CONSTANTS, ids=["tensor", "tensors", "tuple with a tensor", "dict of tensors"]
)
def test_not_folded_when_it_holds_a_tensor(value: Any) -> None:
    """Test that tensors, also those in lists, tuples and dicts, stay attributes."""
    _, after, count = run_alone("fold_attributes", READ, {"part.value": value})
    assert count == 0
    assert attribute_reads(after) == ["part", "value"]


def test_none_becomes_a_constant() -> None:
    """Test that an attribute that is None, as the bias of a convolution without one, becomes a constant."""
    after = folded(nn.Conv2d(3, 3, 1, bias=False))
    assert attribute_reads(after) == ["weight"]
    (conv,) = nodes_of(after, "aten::conv2d")
    assert conv.inputsAt(2).type().kind() == "NoneType"
    assert conv.inputsAt(2).node().kind() == "prim::Constant"


def test_constant_text() -> None:
    """Test that the constant stands where the attribute was read, with its scope."""
    copy = working_copy(torch.jit.script(nn.Sequential(nn.Dropout(0.25)).eval()))
    run_passes(["inline_calls"], copy)
    assert attribute_reads(copy) == ["0", "training"]
    assert run_pass("fold_attributes", copy) == 1
    FileCheck().check("bool = prim::Constant[value=0](), scope: 0").check("aten::dropout").run(
        graph_text(copy)
    )
    assert attribute_reads(copy) == ["0"]
    assert run_pass("fold_attributes", copy) == 0


class Scale(nn.Module):
    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


def test_modules_of_one_class_keep_their_own_values() -> None:
    """Test that two modules that share a class each get the value of their own."""
    network = nn.Sequential(Scale(2.0), Scale(0.25))
    after = folded(network)
    assert "factor" not in attribute_reads(after)
    check_same_numbers(network, after, torch.randn(3))


class Counter(nn.Module):
    """forward assigns calls, but never step."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.step = 2

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + self.step
        return x * self.calls


class SetByOther(nn.Module):
    """An exported method assigns, forward only reads."""

    def __init__(self) -> None:
        super().__init__()
        self.level = 1

    def forward(self, x: Tensor) -> Tensor:
        return x * self.level

    @torch.jit.export
    def set_level(self, level: int) -> None:
        self.level = level


class SetFromOutside(nn.Module):
    """The top module assigns what its submodule reads."""

    def __init__(self) -> None:
        super().__init__()
        self.part = SetByOther()

    def forward(self, x: Tensor) -> Tensor:
        self.part.level = self.part.level + 1
        return self.part(x)


class Appends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.seen = [1]

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(2)
        return x * len(self.seen)


def append_two(numbers: list[int]) -> None:
    numbers.append(2)


class AppendsElsewhere(nn.Module):
    """An exported method has a function append, forward only reads."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = [1]

    def forward(self, x: Tensor) -> Tensor:
        return x * len(self.seen)

    @torch.jit.export
    def add(self) -> None:
        append_two(self.seen)


def test_not_folded_when_forward_assigns_it() -> None:
    """Test that an attribute that forward writes stays, and the one beside it does not."""
    after = folded(Counter())
    assert attribute_reads(after).count("calls") >= 1
    assert "step" not in attribute_reads(after)
    assert [after(torch.ones(1)).item() for _ in range(3)] == [2, 4, 6]


def test_not_folded_when_another_method_assigns_it() -> None:
    """Test that forward sees what an exported method wrote."""
    after = folded(SetByOther())
    assert "level" in attribute_reads(after)
    after.set_level(5)
    assert after(torch.ones(1)).item() == 5


def test_not_folded_when_another_module_assigns_it() -> None:
    """Test that an attribute of a submodule stays when the module above writes it."""
    after = folded(SetFromOutside())
    assert [after(torch.ones(1)).item() for _ in range(2)] == [2, 3]


def test_not_folded_when_a_list_is_appended_to() -> None:
    """Test that a list that forward changes in place stays."""
    after = folded(Appends())
    assert [after(torch.ones(1)).item() for _ in range(2)] == [2, 3]


def test_not_folded_when_a_function_changes_it_for_another_method() -> None:
    """Test that a list stays that an exported method has a function change, when saved too."""
    after = saved_and_loaded(folded(AppendsElsewhere()))
    after.add()
    assert after(torch.ones(1)).item() == 2


def test_weights_stay_reachable() -> None:
    """Test that weights are still read by name, and the module gives the same."""
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
    after = folded(network)
    assert set(attribute_reads(after)) >= {"weight", "bias", "running_mean", "running_var"}
    assert "training" not in attribute_reads(after)
    check_same_numbers(network, after, torch.randn(2, 3, 4, 4))


def test_evaluation_mode_loses_its_training_branch() -> None:
    """Test that with propagate_constants behind it nothing of a batch norm's training is left."""
    after = folded(nn.BatchNorm1d(3))
    assert "aten::add_" in ops_of(after)
    run_pass("propagate_constants", after)
    assert "aten::add_" not in ops_of(after)
    assert "num_batches_tracked" not in str(graph_of(after))
