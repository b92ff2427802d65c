"""Tests of erase_shapes: what tracing saw on one input is forgotten."""

import torch
from torch import nn
from torch.testing import FileCheck

from jitquant.passes import parse_ir, run_pass
from jitquant.pipeline import run_passes
from tests.graphs import check_same_numbers, graph_of, graph_text, nodes_of, run_alone, working_copy

SHAPED = """
graph(%self, %x : Float(2, 3, strides=[3, 1], requires_grad=0, device=cpu)):
  %y : Float(2, 3, strides=[3, 1], requires_grad=0, device=cpu) = aten::relu(%x)
  %z : Tensor = aten::neg(%y)
  return (%z)"""

BRANCHING = """
graph(%self, %x : Tensor, %flag : bool):
  %y : Float(2, 3, strides=[3, 1], requires_grad=0, device=cpu) = prim::If(%flag)
    block0():
      %a : Float(2, 3, strides=[3, 1], requires_grad=0, device=cpu) = aten::relu(%x)
      -> (%a)
    block1():
      -> (%x)
  return (%y)"""

LISTED = """
graph(%self, %x : Float(2, 3, strides=[3, 1], requires_grad=0, device=cpu)):
  %list : Tensor[] = prim::ListConstruct(%x, %x)
  %dim : int = prim::Constant[value=0]()
  %y : Double(4, 3, strides=[3, 1], requires_grad=0, device=cpu) = aten::cat(%list, %dim)
  return (%y)"""


def test_shapes_go() -> None:
    """Test that inputs and outputs of nodes become plain tensors, and each one counts."""
    before, after, count = run_alone("erase_shapes", SHAPED)
    assert count == 2
    FileCheck().check("%x : Tensor)").check("Tensor = aten::relu(%x)").check("Tensor = aten::neg").run(
        graph_text(after)
    )
    FileCheck().check_not("Float").run(graph_text(after))
    check_same_numbers(before, after, torch.randn(2, 3))


def test_shapes_in_blocks_go() -> None:
    """Test that values inside a block, and what the block gives, are forgotten too."""
    _, after, count = run_alone("erase_shapes", BRANCHING)
    assert count == 2
    FileCheck().check_not("Float").run(graph_text(after))


def test_dtypes_go_and_lists_stay() -> None:
    """Test that a dtype is forgotten, while types that are no tensors stay as they are."""
    _, after, count = run_alone("erase_shapes", LISTED)
    assert count == 2
    FileCheck().check("Tensor[] = prim::ListConstruct").check("int = prim::Constant").check(
        "Tensor = aten::cat"
    ).run(graph_text(after))
    FileCheck().check_not("Double").check_not("Float").run(graph_text(after))


def test_nothing_to_erase() -> None:
    """Test that a graph without shapes is left as it is, and that a second run finds nothing."""
    shaped = parse_ir(SHAPED)
    run_pass("erase_shapes", shaped)
    text = graph_text(shaped)
    assert run_pass("erase_shapes", shaped) == 0
    assert graph_text(shaped) == text


def test_traced_module() -> None:
    """Test that a traced and inlined module has no shape left, and takes inputs of another size and dtype."""
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)).eval()
    copy = working_copy(torch.jit.trace(network, torch.randn(1, 3, 8, 8)))
    run_passes(["inline_calls"], copy)
    assert run_pass("erase_shapes", copy) >= 4
    values = [*graph_of(copy).inputs(), *(value for node in nodes_of(copy) for value in node.outputs())]
    tensors = [value.type() for value in values if value.type().kind() == "TensorType"]
    assert tensors
    assert all(type_ == torch._C.TensorType.get() for type_ in tensors)
    check_same_numbers(network, copy, torch.randn(2, 3, 12, 10))
    check_same_numbers(network.double(), working_copy(copy).double(), torch.randn(1, 3, 6, 6).double())


def test_scripted_module_has_none() -> None:
    """Test that a scripted module, which knows no shapes, counts nothing."""
    copy = working_copy(torch.jit.script(nn.ReLU().eval()))
    run_passes(["inline_calls"], copy)
    assert run_pass("erase_shapes", copy) == 0
