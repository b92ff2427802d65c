"""Tests of lower_plain_integers: on the native target no quantized tensor is left."""

import torch

from jitquant.passes import PassOptions
from tests.graphs import check_same_numbers, ops_of
from tests.marks import needs_native
from tests.quantized_ir import constants, quantize, run_with

pytestmark = needs_native

NAME = "lower_plain_integers"
TEXT = (
    "graph(%self, %x : Tensor):\n"
    + quantize("q", "x", 0.02, 128)
    + constants(scale=0.02, zero=128)
    + """  %i : Tensor = aten::int_repr(%q)
  %r : Tensor = aten::_make_per_tensor_quantized_tensor(%i, %scale, %zero)
  %n : int[] = aten::size(%r)
  %y : Tensor = aten::dequantize(%r)
  %z : Tensor = aten::reshape(%y, %n)
  return (%z)"""
)


def test_quantize_and_dequantize_become_native_ops() -> None:
    run = run_with(NAME, TEXT, options=PassOptions(target="native"))
    assert run.count == 3
    assert ops_of(run.after) == [
        "jitquant::quantize_prepack",
        "jitquant::quantize",
        "aten::size",
        "jitquant::dequantize_prepack",
        "jitquant::dequantize",
        "aten::reshape",
    ]
    check_same_numbers(run.before, run.after, torch.randn(2, 3, 8, 8))


def test_the_stock_target_is_left_alone() -> None:
    assert run_with(NAME, TEXT).count == 0
