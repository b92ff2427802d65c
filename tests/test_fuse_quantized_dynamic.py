"""Tests of fuse_quantized: ops whose input gets its range at each call, and rows that are looked up."""

import pytest
import torch

from jitquant.passes import PassOptions
from tests.graphs import Attributes, argument, nodes_of, ops_of
from tests.marks import needs_native
from tests.quantized_ir import (
    QINT8,
    QUINT8,
    attribute,
    constants,
    lstm,
    run_with,
    weight_pair,
)

FUSE = "fuse_quantized"
NATIVE = PassOptions(target="native")


def both(one: str, other: str, kinds: str = "(Tensor, Tensor)") -> str:
    """Lines that return two values."""
    return f"  %both : {kinds} = prim::TupleConstruct(%{one}, %{other})\n  return (%both)"


# Inputs that get their range at each call


def dynamic_linear(after: str = "", result: str = "y") -> tuple[str, Attributes]:
    """A linear behind the quantize and dequantize of each call."""
    weight_text, attributes = weight_pair(torch.randn(5, 6))
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None, reduce=False, dtype=QUINT8)}
{weight_text}
  %scale : float, %zero : int = aten::_choose_qparams_per_tensor(%x, %reduce)
  %xq : Tensor = aten::quantize_per_tensor(%x, %scale, %zero, %dtype)
  %xd : Tensor = aten::dequantize(%xq)
  %y : Tensor = aten::linear(%xd, %weight_d, %none)
{after}
  return (%{result})"""
    return text, attributes


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("options", [PassOptions(), pytest.param(NATIVE, marks=needs_native)], ids=str)
def test_a_linear_behind_a_range_of_each_call_is_fused(options: PassOptions, relu: bool) -> None:
    """Test that it becomes the dynamic op, with the relu behind it, and nothing of the pair is left."""
    after = "  %r : Tensor = aten::relu(%y)" if relu else ""
    run = run_with(FUSE, *dynamic_linear(after, "r" if relu else "y"), options)
    assert run.count == 1
    ops = ops_of(run.after)
    stock = "quantized::linear_relu_dynamic" if relu else "quantized::linear_dynamic"
    assert ("jitquant::linear_dynamic" if options is NATIVE else stock) in ops
    assert not {"aten::relu", "aten::linear", "aten::_choose_qparams_per_tensor"} & set(ops)
    for factor in (0.1, 100.0):
        x = torch.randn(7, 6) * factor
        assert (run.before(x) - run.after(x)).abs().max() < 0.05 * factor


def dynamic_lstm(half: bool = False) -> tuple[str, Attributes]:
    """An LSTM of two directions whose input has the range of each call."""
    before = constants(reduce=False, w_dtype=QINT8, w_zero=0, w_scale=0.01, x_dtype=QUINT8)
    for i in range(4):
        if half:
            before += f"  %w{i}_d : Tensor = aten::_saturate_weight_to_fp16(%w{i})\n"
        else:
            before += f"  %w{i}_q : Tensor = aten::quantize_per_tensor(%w{i}, %w_scale, %w_zero, %w_dtype)\n"
            before += f"  %w{i}_d : Tensor = aten::dequantize(%w{i}_q)\n"
    before += (
        "  %scale : float, %zero_point : int = aten::_choose_qparams_per_tensor(%x, %reduce)\n"
        "  %xq : Tensor = aten::quantize_per_tensor(%x, %scale, %zero_point, %x_dtype)\n"
        "  %xd : Tensor = aten::dequantize(%xq)\n"
    )
    layer = lstm("x" if half else "xd", [f"w{i}_d" for i in range(4)], before=before)
    return layer.text, layer.attributes


@pytest.mark.parametrize("half", [False, True], ids=["8 bits", "16 bits"])
def test_a_layer_becomes_one_op_of_packed_cells(half: bool) -> None:
    """Test that all three results come from the integer op, which takes a cell for each direction."""
    run = run_with(FUSE, *dynamic_lstm(half))
    assert run.count == 1
    ops = ops_of(run.after)
    suffix = "_fp16" if half else ""
    assert ops.count(f"quantized::linear_prepack{suffix}") == 4
    assert ops.count(f"quantized::make_quantized_cell_params{suffix or '_dynamic'}") == 2
    assert not {"aten::lstm", "aten::_choose_qparams_per_tensor", "aten::dequantize"} & set(ops)
    (layer,) = nodes_of(run.after, "aten::quantized_lstm")
    assert [len(output.uses()) for output in layer.outputs()] == [1, 1, 1]
    assert [argument(layer, index) for index in (3, 9, 10)] == [True, 5 if half else QINT8, True]
    x, h = torch.randn(6, 3, 5), torch.zeros(2, 3, 4)
    for one, other in zip(run.after(x, h), run.before(x, h), strict=True):
        assert (one - other).abs().max() < (1e-3 if half else 0.03)


@pytest.mark.parametrize("op", ["gru_cell", "rnn_tanh_cell", "rnn_relu_cell"])
def test_a_cell_without_biases_gets_zeros(op: str) -> None:
    """Test that the stock op, which asks for biases, adds nothing."""
    rows = 12 if op == "gru_cell" else 4
    weight, attributes = weight_pair(torch.randn(rows, 4) * 0.3)
    text = f"""
graph(%self, %x : Tensor, %h : Tensor):
{weight}
{constants(reduce=True, x_dtype=QUINT8, none=None)}
  %scale : float, %zero_point : int = aten::_choose_qparams_per_tensor(%x, %reduce)
  %xq : Tensor = aten::quantize_per_tensor(%x, %scale, %zero_point, %x_dtype)
  %xd : Tensor = aten::dequantize(%xq)
  %y : Tensor = aten::{op}(%xd, %h, %weight_d, %weight_d, %none, %none)
  return (%y)"""
    run = run_with(FUSE, text, attributes)
    assert run.count == 1
    assert f"quantized::quantized_{op}_dynamic" in ops_of(run.after)
    x, h = torch.randn(3, 4), torch.zeros(3, 4)
    assert (run.after(x, h) - run.before(x, h)).abs().max() < 0.03


def test_a_layer_of_which_one_matrix_is_float_stays_as_it_is() -> None:
    text, attributes = dynamic_lstm()
    run = run_with(FUSE, text.replace("(%w0_d, %w1_d,", "(%w0_d, %w1,"), attributes)
    assert run.count == 0
    assert "aten::lstm" in ops_of(run.after)


def bfloat16_linear(rounded_input: bool) -> tuple[str, Attributes]:
    """A linear of which the weight, and the input where asked for, go to bfloat16 and back."""
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None, no=False, bfloat16=15, float=6)}
{attribute("weight")}
  %weight_r : Tensor = aten::to(%weight, %bfloat16, %no, %no, %none)
  %weight_d : Tensor = aten::to(%weight_r, %float, %no, %no, %none)
  %xr : Tensor = aten::to(%x, %bfloat16, %no, %no, %none)
  %xd : Tensor = aten::to(%xr, %float, %no, %no, %none)
  %y : Tensor = aten::linear(%{"xd" if rounded_input else "x"}, %weight_d, %none)
  return (%y)"""
    return text, {"weight": torch.randn(5, 6)}


@pytest.mark.parametrize("options", [PassOptions(), pytest.param(NATIVE, marks=needs_native)], ids=str)
def test_a_linear_of_numbers_rounded_to_bfloat16_is_fused(options: PassOptions) -> None:
    """Test that it becomes an op on bfloat16: of ATen's, whose result is rounded too, or of our own."""
    run = run_with(FUSE, *bfloat16_linear(rounded_input=True), options)
    assert run.count == 1
    ops = ops_of(run.after)
    assert ("jitquant::linear_bfloat16" if options is NATIVE else "aten::linear") in ops
    x = torch.randn(7, 6)
    tolerance = 1e-5 if options is NATIVE else 2**-8
    torch.testing.assert_close(run.after(x), run.before(x), rtol=tolerance, atol=tolerance)


def test_a_linear_of_a_float_input_and_a_rounded_weight_stays_float() -> None:
    run = run_with(FUSE, *bfloat16_linear(rounded_input=False))
    assert run.count == 0
    x = torch.randn(7, 6)
    assert torch.equal(run.before(x), run.after(x))


@pytest.mark.parametrize("relu", [True, False])
@pytest.mark.parametrize("options", [PassOptions(), pytest.param(NATIVE, marks=needs_native)], ids=str)
def test_a_convolution_behind_a_range_of_each_call_is_fused(options: PassOptions, relu: bool) -> None:
    """Test that it becomes oneDNN's op that gives float, with the relu behind it."""
    weight_text, attributes = weight_pair(torch.randn(5, 3, 3, 3))
    after = "  %r : Tensor = aten::relu(%y)" if relu else ""
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None, reduce=False, dtype=QUINT8, ones=[1, 1], one=1)}
{weight_text}
  %scale : float, %zero : int = aten::_choose_qparams_per_tensor(%x, %reduce)
  %xq : Tensor = aten::quantize_per_tensor(%x, %scale, %zero, %dtype)
  %xd : Tensor = aten::dequantize(%xq)
  %y : Tensor = aten::conv2d(%xd, %weight_d, %none, %ones, %ones, %ones, %one)
{after}
  return (%{"r" if relu else "y"})"""
    run = run_with(FUSE, text, attributes, options)
    assert run.count == 1
    ops = ops_of(run.after)
    assert "onednn::qconv_pointwise" in ops
    assert not {"aten::relu", "aten::conv2d", "aten::dequantize"} & set(ops)
    for factor in (0.1, 100.0):
        x = torch.randn(2, 3, 6, 6) * factor + factor
        torch.testing.assert_close(run.after(x), run.before(x), rtol=1e-4, atol=1e-4 * factor)


# Rows that are looked up


def rows(dtype: torch.dtype, lookup: str) -> tuple[str, Attributes]:
    """A look-up in a weight of float zero points; `lookup` takes %weight_d and gives %y."""
    weight = torch.randn(6, 7)
    low, high = weight.amin(1), weight.amax(1)
    scale = (high - low) / (255 if dtype == torch.quint8 else 15)
    text = f"""
graph(%self, %words : Tensor, %offsets : Tensor):
{attribute("weight")}{attribute("scale")}{attribute("zero")}
{constants(none=None, no=False, last=-1, axis=0, add_up=0, average=1, highest=2)}
{constants(dtype=13 if dtype == torch.quint8 else 16)}
  %q : Tensor = aten::quantize_per_channel(%weight, %scale, %zero, %axis, %dtype)
  %weight_d : Tensor = aten::dequantize(%q)
  {lookup}
  return (%y)"""
    return text, {"weight": weight, "scale": scale, "zero": -low / scale}


def bag(mode: str) -> str:
    outputs = "%y : Tensor, %a : Tensor, %b : Tensor, %c : Tensor"
    return f"{outputs} = aten::embedding_bag(%weight_d, %words, %offsets, %no, %{mode}, %no, %none, %no)"


LOOKUPS = {
    "embedding": "%y : Tensor = aten::embedding(%weight_d, %words, %last, %no, %no)",
    "embedding_bag sum": bag("add_up"),
    "embedding_bag mean": bag("average"),
}


@pytest.mark.parametrize("name", LOOKUPS)
@pytest.mark.parametrize("dtype", [torch.quint8, torch.quint4x2])
@pytest.mark.parametrize("options", [PassOptions(), pytest.param(NATIVE, marks=needs_native)], ids=str)
def test_rows_of_float_zero_points_are_packed(options: PassOptions, dtype: torch.dtype, name: str) -> None:
    """Test the op and its numbers; scales of 4-bit rows are of half precision, and 7 is an odd number."""
    run = run_with(FUSE, *rows(dtype, LOOKUPS[name]), options)
    nibbles = "quantized::embedding_bag_4bit_rowwise_offsets"
    op = f"quantized::{name.split()[0]}_byte" if dtype == torch.quint8 else nibbles
    assert run.count == 1
    assert op in ops_of(run.after)
    assert "aten::dequantize" not in ops_of(run.after)
    words, offsets = torch.tensor([5, 0, 3, 3]), torch.tensor([0, 1, 1])
    near = 1e-5 if dtype == torch.quint8 else 1e-2
    torch.testing.assert_close(run.after(words, offsets), run.before(words, offsets), rtol=near, atol=near)


def test_the_highest_of_several_rows_stays_float() -> None:
    run = run_with(FUSE, *rows(torch.quint8, bag("highest")))
    assert run.count == 0
    assert "aten::embedding_bag" in ops_of(run.after)
