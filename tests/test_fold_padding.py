"""Tests of fold_padding: even zero padding becomes padding of the convolution behind it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import CANONICALIZE, FOLD, run_passes
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

PADDING = 4  # the place of a convolution's padding among its arguments


def ints(numbers: list[int]) -> str:
    return f"int[] = prim::Constant[value={numbers}]()"


def padded_conv(
    pad: list[int],
    padding: list[int],
    *,
    dimensions: int = 2,
    value: str = "int = prim::Constant[value=0]()",
    stride: int = 1,
    dilation: int = 1,
    rest: str = "return (%y)",
) -> str:
    """IR of a padding and a convolution behind it."""
    return f"""
graph(%self, %x : Tensor):
  %w = prim::GetAttr[name="weight"](%self)
  %b = prim::GetAttr[name="bias"](%self)
  %one : int = prim::Constant[value=1]()
  %value : {value}
  %stride : {ints([stride] * dimensions)}
  %padding : {ints(padding)}
  %dilation : {ints([dilation] * dimensions)}
  %pad : {ints(pad)}
  %p : Tensor = aten::constant_pad_nd(%x, %pad, %value)
  %y : Tensor = aten::conv{dimensions}d(%p, %w, %b, %stride, %padding, %dilation, %one)
  {rest}"""


def weights(dimensions: int = 2) -> dict[str, Tensor]:
    return {"weight": torch.randn(4, 3, *[3] * dimensions), "bias": torch.randn(4)}


def image(dimensions: int = 2) -> Tensor:
    return torch.randn(2, 3, 9, 8, 7)[(...,) + (0,) * (3 - dimensions)]


def folded(text: str, dimensions: int = 2) -> Run:
    return run_alone("fold_padding", text, weights(dimensions))


def check_left_alone(run: Run, dimensions: int = 2) -> None:
    assert run.count == 0
    assert ops_of(run.after) == ["aten::constant_pad_nd", f"aten::conv{dimensions}d"]
    check_same_numbers(run.before, run.after, image(dimensions))


@pytest.mark.parametrize(
    ("dimensions", "pad", "padding", "expected"),
    [
        (1, [2, 2], [0], [2]),
        (2, [1, 1, 2, 2], [0, 0], [2, 1]),
        (3, [1, 1, 2, 2, 3, 3], [0, 0, 0], [3, 2, 1]),
        (2, [1, 1], [0, 0], [0, 1]),
        (3, [1, 1, 2, 2], [0, 0, 0], [0, 2, 1]),
        (2, [1, 1, 2, 2], [3, 4], [5, 5]),
        (2, [1, 1, 2, 2], [1], [3, 2]),
        (2, [1, 1, 1, 1, 0, 0], [0, 0], [1, 1]),
        (2, [1, 1, 1, 1, 0, 0, 0, 0], [0, 0], [1, 1]),
        (2, [0, 0, 0, 0], [1, 1], [1, 1]),
    ],
)
def test_padding_is_added_up(
    dimensions: int, pad: list[int], padding: list[int], expected: list[int]
) -> None:
    """Test that the sizes go to the right dimensions and add to the padding that is there."""
    before, after, count = folded(padded_conv(pad, padding, dimensions=dimensions), dimensions)
    assert count == 1
    assert ops_of(after) == [f"aten::conv{dimensions}d"]
    (conv,) = nodes_of(after, f"aten::conv{dimensions}d")
    assert argument(conv, PADDING) == expected
    check_same_numbers(before, after, image(dimensions))


def test_text() -> None:
    """Test that the convolution takes the graph's input and keeps its other arguments."""
    before, after, _ = folded(padded_conv([1, 1, 2, 2], [0, 0], stride=2, dilation=2))
    FileCheck().check("prim::Constant[value=[2, 1]]").check("aten::conv2d(%x,").run(graph_text(after))
    FileCheck().check_not("constant_pad_nd").check_not("[1, 1, 2, 2]").run(graph_text(after))
    check_same_numbers(before, after, image())


@pytest.mark.parametrize(
    "zero", ["float = prim::Constant[value=0.0]()", "float = prim::Constant[value=-0.0]()"]
)
def test_zero_may_be_a_float(zero: str) -> None:
    """Test that padding with 0.0 is padding with zero."""
    before, after, count = folded(padded_conv([1, 1], [0, 0], value=zero))
    assert count == 1
    check_same_numbers(before, after, image())


def test_unbatched_input() -> None:
    """Test that the dimensions are counted from the last, so that an input without a batch is as good."""
    before, after, count = folded(padded_conv([1, 1, 2, 2], [0, 0]))
    assert count == 1
    check_same_numbers(before, after, image()[0])


def test_padding_before_two_convolutions() -> None:
    """Test that each convolution behind one padding takes it over, with numbers of its own."""
    rest = """%less : int[] = prim::Constant[value=[1, 1]]()
  %z : Tensor = aten::conv2d(%p, %w, %b, %stride, %less, %dilation, %one)
  %both : Tensor[] = prim::ListConstruct(%y, %z)
  return (%both)"""
    before, after, count = folded(padded_conv([2, 2, 2, 2], [0, 0], rest=rest))
    assert count == 2
    assert ops_of(after) == ["aten::conv2d", "aten::conv2d"]
    assert [argument(conv, PADDING) for conv in nodes_of(after, "aten::conv2d")] == [[2, 2], [3, 3]]
    check_same_numbers(before, after, image())


def test_padding_that_something_else_uses_too() -> None:
    """Test that the padded value stays for its other user, and the convolution does without."""
    before, after, count = folded(
        padded_conv([1, 1, 1, 1], [0, 0], rest="%m : Tensor = aten::mul(%p, %p)\n  return (%m)")
    )
    assert count == 1
    assert "aten::constant_pad_nd" in ops_of(after)
    check_same_numbers(before, after, image())


def test_convolution_in_a_branch() -> None:
    """Test that a padding before a branch goes into the convolution inside it."""
    text = padded_conv([1, 1, 1, 1], [0, 0]).replace("%x : Tensor)", "%x : Tensor, %flag : bool)")
    conv = "aten::conv2d(%p, %w, %b, %stride, %padding, %dilation, %one)"
    branch = f"""prim::If(%flag)
    block0():
      %c : Tensor = {conv}
      -> (%c)
    block1():
      -> (%p)"""
    before, after, count = folded(text.replace(conv, branch))
    assert count == 1
    for flag in (True, False):
        given = image()
        torch.testing.assert_close(after(given, flag), before(given, flag))


class Padded(nn.Module):
    """The padding of networks that came from TensorFlow: even at stride 1, uneven at stride 2."""

    def __init__(self) -> None:
        super().__init__()
        self.even = nn.Sequential(nn.ZeroPad2d(1), nn.Conv2d(3, 3, 3, bias=False), nn.BatchNorm2d(3))
        self.uneven = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 3, 3, stride=2))

    def forward(self, x: Tensor) -> Tensor:
        return self.uneven(F.relu(self.even(x)))


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_network(traced: bool) -> None:
    """Test that in scripted and traced models even padding goes and uneven padding stays."""
    network = Padded().eval()
    given = torch.randn(1, 3, 8, 8)
    after = working_copy(torch.jit.trace(network, given) if traced else torch.jit.script(network))
    run_passes(CANONICALIZE + FOLD, after)
    assert ops_of(after) == ["aten::conv2d", "aten::relu", "aten::constant_pad_nd", "aten::conv2d"]
    assert argument(nodes_of(after, "aten::conv2d")[0], PADDING) == [1, 1]
    check_same_numbers(network, after, given)


# What is left alone


def test_not_folded_when_the_value_is_not_zero() -> None:
    """Test that padding with another value stays."""
    check_left_alone(folded(padded_conv([1, 1], [0, 0], value="float = prim::Constant[value=0.5]()")))


@pytest.mark.parametrize("pad", [[0, 1, 0, 1], [1, 1, 0, 1], [2, 1]])
def test_not_folded_when_the_sides_differ(pad: list[int]) -> None:
    """Test that uneven padding, which no convolution has, stays."""
    check_left_alone(folded(padded_conv(pad, [0, 0])))


def test_not_folded_when_it_crops() -> None:
    """Test that negative padding stays, though the sum would be none at all."""
    check_left_alone(folded(padded_conv([-1, -1, -1, -1], [1, 1])))


def test_not_folded_when_channels_are_padded() -> None:
    """Test that padding of the channels stays."""
    text = padded_conv([1, 1, 1, 1, 1, 1], [0, 0])
    run = run_alone("fold_padding", text, {"weight": torch.randn(4, 5, 3, 3), "bias": torch.randn(4)})
    check_left_alone(run)


def test_not_folded_when_the_batch_is_padded() -> None:
    """Test that padding of the batch stays."""
    check_left_alone(folded(padded_conv([1, 1, 1, 1, 0, 0, 1, 1], [0, 0])))


def test_not_folded_before_a_transposed_convolution() -> None:
    """Test that padding stays before a transposed convolution, whose own padding crops."""
    text = padded_conv([1, 1], [0], dimensions=1).replace(
        "aten::conv1d(%p, %w, %b, %stride, %padding, %dilation, %one)",
        "aten::conv_transpose1d(%p, %w, %b, %stride, %padding, %padding, %one, %dilation)",
    )
    run = run_alone("fold_padding", text, {"weight": torch.randn(3, 4, 3), "bias": torch.randn(4)})
    assert run.count == 0
    assert ops_of(run.after) == ["aten::constant_pad_nd", "aten::conv_transpose1d"]
    check_same_numbers(run.before, run.after, image(1))


def test_not_folded_when_the_own_padding_is_a_word() -> None:
    """Test that a convolution with padding "same" keeps the padding before it."""
    text = padded_conv([1, 1], [0, 0]).replace(
        f"%padding : {ints([0, 0])}", '%padding : str = prim::Constant[value="same"]()'
    )
    check_left_alone(folded(text))


@pytest.mark.parametrize("unknown", ["pad", "padding"])
def test_not_folded_when_sizes_are_not_constant(unknown: str) -> None:
    """Test that sizes known only when the graph runs stay."""
    text = padded_conv([1, 1], [0, 0]).replace("%x : Tensor)", "%x : Tensor, %given : int[])")
    text = text.replace(f"%{unknown})", "%given)").replace(f"%{unknown},", "%given,")
    run = folded(text)
    assert run.count == 0
    assert ops_of(run.after) == ["aten::constant_pad_nd", "aten::conv2d"]
    given = image()
    torch.testing.assert_close(run.after(given, [1, 2]), run.before(given, [1, 2]))


def test_not_folded_when_the_input_is_changed_in_between() -> None:
    """Test that the convolution sees the input as it was when it was padded."""
    text = padded_conv([1, 1], [0, 0]).replace(
        "  %y :", "  %changed : Tensor = aten::add_(%x, %x, %one)\n  %y :"
    )
    run = folded(text)
    check_same_numbers(run.before, run.after, image())


def test_second_run_finds_nothing() -> None:
    """Test that the pass does all in one run."""
    assert run_pass("fold_padding", folded(padded_conv([1, 1], [0, 0])).after) == 0
