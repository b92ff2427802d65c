"""Tests of leave_float: chosen ops of a calibrated model stay float."""

from typing import Any

import torch
from torch import nn
from torch.testing import FileCheck

from jitquant import default_qconfig
from jitquant.passes import parse_ir, run_pass
from tests.graphs import graph_of, graph_text, insert_observers, ops_of
from tests.quantized_ir import attribute, constants

TEXT = (
    "graph(%self, %x : Tensor):\n"
    + attribute("weight")
    + attribute("other")
    + constants(none=None)
    + "  %c : Tensor = aten::linear(%x, %weight, %none)\n"
    + "  %h : Tensor = aten::relu(%c)\n"
    + "  %y : Tensor = aten::linear(%h, %other, %none)\n"
    + "  return (%y)"
)


def left(numbers: list[int], text: str = TEXT) -> tuple[torch.jit.ScriptModule, int]:
    """The module with observers, after the pass left ops of these numbers float, and the pass's count."""
    attributes: dict[str, Any] = {"weight": torch.randn(4, 4), "other": torch.randn(4, 4)}
    module = parse_ir(text, attributes)
    insert_observers(module, {"": default_qconfig})
    module._c._register_attribute("_left_float", torch._C.ListType.ofInts(), numbers)
    return module, run_pass("leave_float", module)


def test_an_op_gets_a_fence_and_its_weight_no_observer() -> None:
    """Test that the first linear and its relu are fenced, and the observers of values stay."""
    module, count = left([0, 1])
    assert count == 2
    assert ops_of(module).count("aten::alias") == 2
    FileCheck().check("aten::linear").check_next("aten::alias").check_next("aten::relu").check_next(
        "aten::alias"
    ).check('prim::CallMethod[name="forward"]').check("aten::linear").run(graph_text(module))
    observers = [name for name, _ in torch._C.ModuleDict(module._c).items()]
    assert len(observers) == 4  # of %x, of what the relu gives, of the other weight and of the result
    assert not module._c.hasattr("_left_float")


def test_what_moves_values_to_an_integer_op_gets_no_fence() -> None:
    """Test that of a pool behind a float op integers come out, if an integer op takes them."""
    text = TEXT.replace("  %h :", constants(shape=[-1, 4]) + "  %h :").replace(
        "relu(%c)", "reshape(%c, %shape)"
    )
    module, count = left([0, 1], text)
    assert count == 1
    FileCheck().check("aten::alias").check("aten::reshape").check_not("aten::alias").run(graph_of(module))


def test_without_a_choice_nothing_changes() -> None:
    module = parse_ir(TEXT, {"weight": nn.Linear(4, 4).weight.detach(), "other": torch.randn(4, 4)})
    text = str(graph_of(module))
    assert run_pass("leave_float", module) == 0
    assert str(graph_of(module)) == text
