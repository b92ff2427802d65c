"""Tests of fuse_padding: a native convolution pads its input itself, or the quantize before it does."""

import pytest
import torch
from torch import Tensor

from jitquant.passes import PassOptions
from tests.graphs import Run, argument, nodes_of, ops_of
from tests.marks import needs_native
from tests.quantized_ir import constants, run_with

pytestmark = needs_native

NAME = "fuse_padding"
PAD, QUANTIZE = "aten::constant_pad_nd", "jitquant::quantize"
STEP = 0.05  # of the result
KERNEL = "__torch__.torch.classes.jitquant.Kernel"


def convolution(
    *,
    zero_point: int = 0,
    input_sides: list[int] | None = None,
    integer_sides: list[int] | None = None,
    padding: list[int] | None = None,
    input_value: float = 0.0,
    integer_value: int | None = None,
    returned: str = "%y",
    dimensions: int = 2,
) -> str:
    """IR of a quantize and a convolution, with padding of the floats before and of the integers between."""
    text = f"""
graph(%self, %x : Tensor):
{constants(scale=0.02, zero_point=zero_point, none=None, ones=[1] * dimensions, one=1)}
{constants(out_scale=STEP, out_zero=100, words="", padding=padding or [0] * dimensions)}
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %scales : Tensor = prim::GetAttr[name="scales"](%self)
"""
    value = "%x"
    if input_sides:
        text += constants(input_sides=input_sides, zero=input_value)
        text += f"  %p : Tensor = {PAD}({value}, %input_sides, %zero)\n"
        value = "%p"
    text += f"  %m : {KERNEL} = jitquant::quantize_prepack(%scale, %zero_point, %none, %none)\n"
    text += f"  %q : Tensor = {QUANTIZE}({value}, %m)\n"
    value = "%q"
    if integer_sides:
        fill = zero_point if integer_value is None else integer_value
        text += constants(sides=integer_sides, fill=fill)
        text += f"  %qp : Tensor = {PAD}(%q, %sides, %fill)\n"
        value = "%qp"
    return f"""{text}
  %k : {KERNEL} = jitquant::conv_prepack(%weight, %scales, %none, %ones, %padding, %ones, %one, %scale,
      %zero_point, %out_scale, %out_zero, %words, %words, %none, %one, %none)
  %y : Tensor = jitquant::conv{dimensions}d({value}, %k)
  return ({returned})""".replace(",\n      ", ", ")


def fused(text: str, dimensions: int = 2) -> Run:
    weight = torch.randint(-127, 128, (4, 3, *[3] * dimensions), dtype=torch.int8)
    attributes = {"weight": weight, "scales": torch.linspace(0.004, 0.006, 4)}
    return run_with(NAME, text, attributes, PassOptions(target="native"))


def check_same(run: Run, dimensions: int = 2) -> None:
    inputs = torch.randn(2, 3, 9, 8, 7)[(...,) + (0,) * (3 - dimensions)]
    for given in (
        inputs,
        inputs.contiguous(memory_format=torch.channels_last) if dimensions == 2 else inputs,
    ):
        expected, found = run.before(given), run.after(given)
        pairs = [(expected, found)] if isinstance(expected, Tensor) else zip(expected, found, strict=True)
        for one, other in pairs:
            assert one.unique().numel() > 20
            assert torch.equal(one, other)


def sides_of(run: Run) -> tuple[list[int] | None, list[int]]:
    """What the quantize and the convolution pad by."""
    (quantize,) = nodes_of(run.after, "jitquant::quantize_prepack")
    (conv,) = nodes_of(run.after, "jitquant::conv_prepack")
    return argument(quantize, 2), argument(conv, 4)


@pytest.mark.parametrize(
    ("dimensions", "sides", "padding", "expected"),
    [
        (1, [0, 1], [1], [1, 2]),
        (2, [0, 1, 0, 1], [0, 0], [0, 0, 1, 1]),
        (2, [1, 2, 3, 4], [1, 0], [4, 1, 5, 2]),
        (2, [0, 1], [0, 0], [0, 0, 0, 1]),
        (2, [2, 2, 2, 2, 0, 0, 0, 0], [0, 0], [2, 2]),
        (3, [0, 1, 0, 2, 1, 0], [0, 0, 0], [1, 0, 0, 0, 2, 1]),
    ],
)
def test_padding_of_integers_goes_into_the_convolution(
    dimensions: int, sides: list[int], padding: list[int], expected: list[int]
) -> None:
    """Test that each side is widened by what was padded there, in one, two and three dimensions."""
    run = fused(convolution(integer_sides=sides, padding=padding, dimensions=dimensions), dimensions)
    assert run.count == 1
    assert PAD not in ops_of(run.after)
    assert sides_of(run) == (None, expected)
    check_same(run, dimensions)


def test_padding_of_floats_goes_into_the_convolution_where_zero_is_0() -> None:
    """Test that the quantize takes the image itself, and the convolution pads."""
    run = fused(convolution(input_sides=[0, 1, 0, 1], padding=[1, 1]))
    assert run.count == 1
    assert PAD not in ops_of(run.after)
    assert sides_of(run) == (None, [1, 1, 2, 2])
    check_same(run)


@pytest.mark.parametrize(
    ("places", "expected"),
    [
        ({"padding": [1, 2]}, [1, 2, 1, 2]),
        ({"input_sides": [0, 1, 0, 2]}, [0, 0, 2, 1]),
        ({"integer_sides": [3, 0]}, [0, 3, 0, 0]),
        ({"input_sides": [0, 1], "integer_sides": [1, 1, 1, 1], "padding": [1, 1]}, [2, 2, 2, 3]),
    ],
)
def test_padding_goes_into_the_quantize_where_zero_is_another_integer(
    places: dict[str, list[int]], expected: list[int]
) -> None:
    """Test that all padding between the image and the convolution is added up in front."""
    run = fused(convolution(zero_point=77, **places))
    assert run.count == 1
    assert PAD not in ops_of(run.after)
    assert sides_of(run) == (expected, [0, 0])
    check_same(run)


def test_nothing_changes_without_padding() -> None:
    assert fused(convolution(zero_point=77)).count == 0


def test_even_padding_by_0_stays_where_it_is() -> None:
    """Test that a convolution whose zero is the integer 0 pads by itself, which costs nothing."""
    run = fused(convolution(padding=[1, 1]))
    assert run.count == 0
    assert sides_of(run) == (None, [1, 1])


@pytest.mark.parametrize(
    "padding",
    [
        {"integer_sides": [1, 1, 1, 1], "integer_value": 3},
        {"integer_sides": [-1, 1, 0, 0]},
        {"input_sides": [1, 1, 1, 1], "input_value": 1.0},
        {"input_sides": [1, -1]},
    ],
    ids=["another integer", "less than nothing", "another number", "floats by less than nothing"],
)
def test_other_padding_is_left_alone(padding: dict) -> None:
    run = fused(convolution(**padding))
    assert run.count == 0
    assert PAD in ops_of(run.after)
    check_same(run)


def test_padding_of_channels_is_left_alone() -> None:
    """Test that a frame of more channels, which no convolution puts on, stays."""
    text = convolution(integer_sides=[0, 0, 0, 0, 0, 1])
    weight = {
        "weight": torch.randint(-127, 128, (4, 4, 3, 3), dtype=torch.int8),
        "scales": torch.ones(4) / 200,
    }
    run = run_with(NAME, text, weight, PassOptions(target="native"))
    assert run.count == 0
    check_same(run)


def test_a_quantize_with_another_user_pads_nothing() -> None:
    """Test that what else takes the integers gets them without a frame."""
    text = convolution(zero_point=77, padding=[1, 1], returned="%both")
    text = text.replace("  return", "  %both : (Tensor, Tensor) = prim::TupleConstruct(%y, %q)\n  return")
    run = fused(text)
    assert run.count == 0
    check_same(run)


def test_an_image_that_is_changed_in_place_is_padded_before_the_change() -> None:
    """Test that padding stays where it copies a tensor that is written to later."""
    text = convolution(input_sides=[1, 1, 1, 1])
    change = "  %changed : Tensor = aten::mul_(%c, %scale)\n"
    copied = text.replace(
        f"  %p : Tensor = {PAD}(%x", f"  %c : Tensor = aten::relu(%x)\n  %p : Tensor = {PAD}(%c"
    )
    run = fused(copied.replace("  %m :", change + "  %m :"))
    assert run.count == 0
    check_same(run)
