"""Tests of insert_switches: what a graph with switches gives with some of them on."""

import torch
from torch import Tensor
from torch.testing import FileCheck

from tests.graphs import graph_of, ops_of
from tests.quantized_ir import constants, linear, pair, quantize, run_with, weight_pair

SWITCHES = ["remember_weights", "insert_switches"]


def switched(module: torch.jit.ScriptModule, on: list[bool], *inputs: Tensor) -> Tensor:
    """What the module gives with these switches."""
    module._c.setattr("_switches", on)
    return module(*inputs)


def test_rounding_is_behind_a_switch() -> None:
    """Test that a value that an op takes is rounded where that op is on, and its weight as well."""
    text, attributes = linear(bias=False)
    text = text.replace("return (%y)", "%z : Tensor = aten::dequantize(%y_q)\n  return (%z)")
    run = run_with(SWITCHES, text, attributes)
    FileCheck().check('prim::GetAttr[name="_switches"]').check("aten::__getitem__").check("prim::If").check(
        "aten::quantize_per_tensor"
    ).check("aten::linear").run(graph_of(run.after))
    assert run.after._c.getattr("_parts") == [0]
    assert run.after._c.getattr("_switches") == [True, True]


def test_with_all_on_it_is_what_it_was_and_with_none_it_is_float() -> None:
    """Test both to the last bit, of a linear with a bias between rounded values."""
    text, attributes = linear()
    before, after, _ = run_with(SWITCHES, text, attributes)
    x = torch.randn(5, 16)
    assert torch.equal(switched(after, [True, True], x), before(x))
    plain = torch.nn.functional.linear(x, attributes["weight"], attributes["bias"])
    assert torch.equal(switched(after, [False, False], x), plain)


WEIGHT_TEXT, WEIGHT = weight_pair(torch.randn(4, 4))
TWO = (
    "graph(%self, %x : Tensor):\n"
    + WEIGHT_TEXT
    + constants(none=None, one=1)
    + pair("a", "x", 0.02, 128)
    + "  %c : Tensor = aten::linear(%a, %weight_d, %none)\n"
    + pair("d", "c", 0.05, 120)
    + "  %h : Tensor = aten::hardswish(%d)\n"
    + pair("y", "h", 0.03, 10)
    + "  return (%y)"
)


def rounded(value: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.quantize_per_tensor(value, scale, zero_point, torch.quint8).dequantize()


def test_a_value_between_two_ops_is_rounded_if_one_of_them_is_on() -> None:
    """Test all settings of a linear and the activation function behind it against the same in Python."""
    after = run_with(SWITCHES, TWO, WEIGHT).after
    assert after._c.getattr("_parts") == [0, 1]
    x = torch.randn(50, 4)
    scale = WEIGHT["weight_scale"]
    integers = torch.quantize_per_channel(WEIGHT["weight"], scale, WEIGHT["weight_zero"], 0, torch.qint8)
    for first in (False, True):
        for second in (False, True):
            weight = integers.dequantize() if first else WEIGHT["weight"]
            value = torch.nn.functional.linear(rounded(x, 0.02, 128) if first else x, weight)
            value = rounded(value, 0.05, 120) if first or second else value
            value = torch.nn.functional.hardswish(value)
            value = rounded(value, 0.03, 10) if second else value
            assert torch.equal(switched(after, [first, second, first or second], x), value)


def test_ops_that_one_integer_op_computes_are_one_part() -> None:
    """Test that a relu that the convolution's op takes along belongs to its part."""
    text, attributes = linear(after="  %after : Tensor = aten::relu(%result)\n")
    assert run_with(SWITCHES, text, attributes).after._c.getattr("_parts") == [0, 0]


def test_what_moves_values_goes_along_with_what_gave_them() -> None:
    text = TWO.replace("aten::hardswish(%d)", "aten::relu(%d)").replace("0.03, 10", "0.05, 120")
    assert run_with(SWITCHES, text, WEIGHT).after._c.getattr("_parts") == [0, 0]


def test_a_quantize_of_the_models_own_stays() -> None:
    """Test that a quantize with a fence behind it is not behind a switch."""
    text = (
        "graph(%self, %x : Tensor):\n"
        + quantize("q", "x", 0.1, 3)
        + "  %f : Tensor = aten::alias(%q)\n  %d : Tensor = aten::dequantize(%f)\n"
        + "  %y : Tensor = aten::erf(%d)\n  return (%y)"
    )
    run = run_with(SWITCHES, text)
    assert run.count == 0
    assert ops_of(run.after) == ops_of(run.before)
