"""Tests of parse_ir: IR text with attributes becomes a module that runs."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant import QuantizationError
from jitquant.passes import parse_ir, run_pass
from tests.graphs import graph_of, graph_text, nodes_of, ops_of, saved_and_loaded

LINEAR = """
graph(%self, %x : Tensor):
  %layers = prim::GetAttr[name="layers"](%self)
  %first = prim::GetAttr[name="first"](%layers)
  %w = prim::GetAttr[name="weight"](%first)
  %b = prim::GetAttr[name="bias"](%first)
  %y : Tensor = aten::linear(%x, %w, %b)
  return (%y)"""

IDENTITY = """
graph(%self, %x : Tensor):
  return (%x)"""

RETURN_VALUE = """
graph(%self):
  %value = prim::GetAttr[name="value"](%self)
  return (%value)"""

CALL = """
graph(%self, %x : Tensor):
  %act = prim::GetAttr[name="act"](%self)
  %y : Tensor = prim::CallMethod[name="forward"](%act, %x)
  return (%y)"""

BRANCH = """
graph(%self, %x : Tensor, %flag : bool):
  %y : Tensor = prim::If(%flag)
    block0():
      %layers = prim::GetAttr[name="layers"](%self)
      %w = prim::GetAttr[name="weight"](%layers)
      %a : Tensor = aten::mul(%x, %w)
      -> (%a)
    block1():
      -> (%x)
  return (%y)"""


def linear_attributes() -> dict[str, Tensor]:
    return {"layers.first.weight": torch.randn(3, 4), "layers.first.bias": torch.randn(3)}


def test_graph_runs() -> None:
    """Test that the graph becomes forward and computes with the attributes."""
    attributes = linear_attributes()
    module = parse_ir(LINEAR, attributes)
    assert isinstance(module, torch.jit.ScriptModule)
    given = torch.randn(2, 4)
    expected = nn.functional.linear(given, *attributes.values())
    torch.testing.assert_close(module(given), expected)


def test_graph_is_the_text() -> None:
    """Test that the graph has the nodes of the text in their order, and self the type of the module."""
    module = parse_ir(LINEAR, linear_attributes())
    assert ops_of(module) == ["aten::linear"]
    names = [node.s("name") for node in nodes_of(module, "prim::GetAttr")]
    assert names == ["layers", "first", "weight", "bias"]
    assert next(graph_of(module).inputs()).type() == module._c._type()
    FileCheck().check("graph(%self : __torch__.Parsed").check("%x : Tensor").run(graph_text(module))


def test_types_of_attributes_come_from_the_attributes() -> None:
    """Test that what prim::GetAttr reads has the type of the attribute, whatever the text says."""
    module = parse_ir(RETURN_VALUE, {"value": [1, 2]})
    (read,) = nodes_of(module, "prim::GetAttr")
    assert str(read.output().type()) == "List[int]"


def test_dotted_paths_make_modules() -> None:
    """Test that submodules and their attributes can be reached by name, from Python too."""
    attributes = linear_attributes()
    module = parse_ir(LINEAR, attributes)
    torch.testing.assert_close(module.layers.first.weight, attributes["layers.first.weight"])
    assert [path for path, _ in module.named_modules()] == ["", "layers", "layers.first"]


def test_attributes_are_shared_with_the_caller() -> None:
    """Test that a tensor that is given is not copied."""
    value = torch.zeros(2)
    module = parse_ir(RETURN_VALUE, {"value": value})
    value.add_(1)
    torch.testing.assert_close(module(), torch.ones(2))


@pytest.mark.parametrize(
    "value", [True, 3, 0.5, "words", [1, 2], [0.5], (1, "a"), {"a": 1}, torch.device("cpu"), None], ids=repr
)
def test_values_of_many_types(value: Any) -> None:
    """Test that an attribute may be anything whose type TorchScript can tell."""
    assert parse_ir(RETURN_VALUE, {"value": value})() == value


def test_tensor_list() -> None:
    """Test that an attribute may be a list of tensors."""
    tensors = [torch.ones(2), torch.zeros(1)]
    torch.testing.assert_close(parse_ir(RETURN_VALUE, {"value": tensors})(), tensors)


def test_parameter() -> None:
    """Test that an attribute may be a parameter."""
    parameter = nn.Parameter(torch.ones(2))
    torch.testing.assert_close(parse_ir(RETURN_VALUE, {"value": parameter})(), torch.ones(2))


def test_script_module_as_attribute() -> None:
    """Test that a script module can be given, and the graph call it."""
    module = parse_ir(CALL, {"act": torch.jit.script(nn.Tanh())})
    torch.testing.assert_close(module(torch.ones(2)), torch.tanh(torch.ones(2)))


def test_script_module_below_a_path() -> None:
    """Test that a script module can be given under a dotted path."""
    text = CALL.replace(
        '%act = prim::GetAttr[name="act"](%self)',
        '%part = prim::GetAttr[name="part"](%self)\n  %act = prim::GetAttr[name="act"](%part)',
    )
    module = parse_ir(text, {"part.act": torch.jit.script(nn.Tanh())})
    torch.testing.assert_close(module(torch.ones(2)), torch.tanh(torch.ones(2)))


def test_attributes_read_in_blocks() -> None:
    """Test that a block may read attributes."""
    module = parse_ir(BRANCH, {"layers.weight": torch.full((2,), 3.0)})
    assert module(torch.ones(2), True).tolist() == [3, 3]
    assert module(torch.ones(2), False).tolist() == [1, 1]


def test_modules_are_independent() -> None:
    """Test that a pass on one module leaves another made from the same text alone."""
    text = """
graph(%self, %x : Tensor):
  %p : float = prim::Constant[value=0.5]()
  %train : bool = prim::Constant[value=0]()
  %y : Tensor = aten::dropout(%x, %p, %train)
  return (%y)"""
    first, second = parse_ir(text), parse_ir(text)
    assert run_pass("remove_no_ops", first) == 1
    assert ops_of(first) == []
    assert ops_of(second) == ["aten::dropout"]


def test_without_attributes() -> None:
    """Test that a graph may need no attributes, and may do nothing."""
    torch.testing.assert_close(parse_ir(IDENTITY)(torch.ones(2)), torch.ones(2))


def test_attributes_that_the_graph_does_not_read() -> None:
    """Test that what the graph does not read is there all the same."""
    module = parse_ir(IDENTITY, {"part.value": 3})
    assert module.part.value == 3


def test_it_can_be_saved() -> None:
    """Test that a parsed module is saved and loaded as any other."""
    module = parse_ir(LINEAR, linear_attributes())
    given = torch.randn(2, 4)
    torch.testing.assert_close(saved_and_loaded(module)(given), module(given))


# What is refused


def test_missing_attribute_is_refused() -> None:
    """Test that an attribute that is read and not given is refused by its name, with the remedy."""
    message = "parse: the graph reads 'bias', which no attribute has; pass it among the attributes"
    with pytest.raises(QuantizationError) as refusal:
        parse_ir(LINEAR, {"layers.first.weight": torch.randn(3, 4)})
    assert str(refusal.value) == message


def test_missing_module_is_refused() -> None:
    """Test that a submodule that is read and not given is refused by its name."""
    with pytest.raises(QuantizationError, match=r"reads 'layers', which no attribute has"):
        parse_ir(LINEAR)


def test_graph_without_inputs_is_refused() -> None:
    """Test that a graph without self is refused with the remedy."""
    text = """
graph():
  %one : int = prim::Constant[value=1]()
  return (%one)"""
    with pytest.raises(
        QuantizationError, match=r"parse: the graph has no inputs; write graph\(%self, \.\.\.\)"
    ):
        parse_ir(text)


@pytest.mark.parametrize(
    "text",
    ["", "graph(%self", "graph(%self, %x : Tensor):\n  %y : Tensor = aten::relu(%unknown)\n  return (%y)"],
)
def test_text_that_does_not_parse_is_refused(text: str) -> None:
    """Test that text that is no IR raises RuntimeError."""
    with pytest.raises(RuntimeError):
        parse_ir(text)


def test_path_below_a_value_is_refused() -> None:
    """Test that a path that goes through a tensor is refused, and does not end Python."""
    with pytest.raises(RuntimeError):
        parse_ir(IDENTITY, {"value": torch.ones(1), "value.part": 3})


def test_value_without_a_type_is_refused() -> None:
    """Test that an object TorchScript has no type for is refused."""
    with pytest.raises((RuntimeError, TypeError, ValueError)):
        parse_ir(RETURN_VALUE, {"value": object()})
