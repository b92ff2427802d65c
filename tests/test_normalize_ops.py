"""Tests of normalize_ops: one spelling for each op, and what is not the same op after all."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import FileCheck

from jitquant.passes import run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import (
    Run,
    argument,
    check_same_numbers,
    graph_text,
    nodes_of,
    ops_of,
    run_alone,
    scopes_of,
    working_copy,
)

CONSTANTS = """
  %w = prim::GetAttr[name="weight"](%self)
  %b = prim::GetAttr[name="bias"](%self)
  %none : NoneType = prim::Constant()
  %false : bool = prim::Constant[value=0]()
  %true : bool = prim::Constant[value=1]()
  %zero : int = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %half : float = prim::Constant[value=0.5]()
"""


def normalized(
    body: str, attributes: dict[str, Any] | None = None, inputs: str = "%x : Tensor", count: int | None = None
) -> Run:
    """Runs the pass on a body that gives %y; `count` is the number of rewrites it has to make."""
    given = {"weight": torch.ones(1), "bias": torch.ones(1), **(attributes or {})}
    text = f"graph(%self, {inputs}):{CONSTANTS}{body}\n  return (%y)"
    run = run_alone("normalize_ops", text, given)
    if count is not None:
        assert run.count == count
    return run


def canonical(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    """The network after CANONICALIZE: traced where there is an example, else scripted."""
    network.eval()
    after = working_copy(torch.jit.trace(network, example) if example else torch.jit.script(network))
    run_passes(CANONICALIZE, after)
    return after


def image(dimensions: int = 2, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 7, 8, 9)[(...,) + (0,) * (3 - dimensions)]


# Convolutions

SPELLINGS = {
    "_convolution": ("aten::_convolution", ", %false, %false, %true, %true"),
    "_convolution of old": ("aten::_convolution", ", %false, %false, %true"),
    "convolution": ("aten::convolution", ""),
}


def convolution(spelling: str, dimensions: int, transposed: bool, *, groups: str = "%two") -> str:
    """A convolution of any kind with stride 2, padding 1, dilation 1 and two groups."""
    op, tail = SPELLINGS[spelling]
    return f"""
  %stride : int[] = prim::Constant[value={[2] * dimensions}]()
  %padding : int[] = prim::Constant[value={[1] * dimensions}]()
  %dilation : int[] = prim::ListConstruct({", ".join(["%one"] * dimensions)})
  %output : int[] = prim::Constant[value={[int(transposed)] * dimensions}]()
  %y : Tensor = {op}(%x, %w, %b, %stride, %padding, %dilation, {
        "%true" if transposed else "%false"
    }, %output, {groups}{tail})"""


@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_convolution_of_any_kind(spelling: str, dimensions: int, transposed: bool) -> None:
    """Test that each spelling becomes the convolution of its dimensions, with all its arguments."""
    attributes = {"weight": torch.randn(4, 2, *[3] * dimensions), "bias": torch.randn(8 if transposed else 4)}
    if transposed:
        attributes["weight"] = torch.randn(4, 4, *[3] * dimensions)
    before, after, _ = normalized(convolution(spelling, dimensions, transposed), attributes, count=1)
    assert ops_of(after) == [f"aten::conv{'_transpose' if transposed else ''}{dimensions}d"]
    check_same_numbers(before, after, image(dimensions))


def test_convolution_text() -> None:
    """Test that a _convolution becomes a conv2d without what only told how to compute it."""
    _, after, _ = normalized(convolution("_convolution", 2, False), {"weight": torch.randn(4, 2, 3, 3)})
    (conv,) = nodes_of(after, "aten::conv2d")
    assert [argument(conv, index) for index in range(3, 7)] == [[2, 2], [1, 1], [1, 1], 2]
    FileCheck().check_not("_convolution").run(graph_text(after))


def test_convolution_keeps_its_module_path() -> None:
    """Test that the new node has the path of the old one."""
    copy = working_copy(torch.jit.trace(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), torch.randn(1, 3, 5, 5)))
    run_passes(["inline_calls", "normalize_ops"], copy)
    assert scopes_of(copy, "aten::conv2d") == ["0"]


def test_convolution_not_normalized_when_transposed_is_unknown() -> None:
    """Test that a convolution stays that is transposed or not as an input says."""
    body = convolution("convolution", 2, False).replace("%false, %output", "%flag, %output")
    run = normalized(body, {"weight": torch.randn(4, 2, 3, 3)}, inputs="%x : Tensor, %flag : bool", count=0)
    assert ops_of(run.after) == ["aten::convolution"]


def test_convolution_with_one_number_for_all_dimensions() -> None:
    """Test that the dimensions are those of the weight, and not the numbers in stride."""
    body = """
  %ones : int[] = prim::ListConstruct(%one)
  %zeros : int[] = prim::ListConstruct(%zero)
  %y : Tensor = aten::convolution(%x, %w, %none, %ones, %zeros, %ones, %false, %zeros, %one)"""
    before, after, _ = normalized(body, {"weight": torch.randn(4, 4, 3, 3)})
    check_same_numbers(before, after, image())


CONVOLUTIONS = [
    (nn.Conv1d(4, 6, 3), 1, "aten::conv1d"),
    (nn.Conv2d(4, 6, 3, stride=2, groups=2, bias=False), 2, "aten::conv2d"),
    (nn.Conv3d(4, 6, 3, dilation=2), 3, "aten::conv3d"),
    (nn.ConvTranspose1d(4, 6, 3), 1, "aten::conv_transpose1d"),
    (
        nn.ConvTranspose2d(4, 6, 3, stride=(2, 3), output_padding=(1, 2), groups=2),
        2,
        "aten::conv_transpose2d",
    ),
    (nn.ConvTranspose3d(4, 6, 3, dilation=2), 3, "aten::conv_transpose3d"),
]


@pytest.mark.parametrize(
    ("network", "dimensions", "op"), CONVOLUTIONS, ids=[case[2] for case in CONVOLUTIONS]
)
def test_traced_convolution(network: nn.Module, dimensions: int, op: str) -> None:
    """Test that a traced module gives the op that a scripted one gives."""
    network = nn.Sequential(network)  # alone, a transposed one takes its output's size as well
    given = image(dimensions)
    traced = canonical(network, given)
    assert ops_of(traced) == ops_of(canonical(network)) == [op]
    check_same_numbers(network, traced, given, atol=1e-4)


# Padding of convolutions in words


def worded(mode: str, kernel: list[int], dilation: list[int], stride: int = 1) -> Run:
    """conv with padding "same" or "valid"."""
    dimensions = len(kernel)
    body = f"""
  %mode : str = prim::Constant[value="{mode}"]()
  %stride : int[] = prim::Constant[value={[stride] * dimensions}]()
  %dilation : int[] = prim::Constant[value={dilation}]()
  %y : Tensor = aten::conv{dimensions}d(%x, %w, %b, %stride, %mode, %dilation, %one)"""
    return normalized(body, {"weight": torch.randn(5, 4, *kernel), "bias": torch.randn(5)}, count=1)


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding"),
    [
        ([3], [1], [1]),
        ([3, 5], [1, 1], [1, 2]),
        ([3, 5], [2, 1], [2, 2]),
        ([2, 3], [2, 1], [1, 1]),
        ([1, 3, 5], [1, 1, 1], [0, 1, 2]),
        ([3, 3], [3], [3, 3]),
    ],
)
def test_same_padding(kernel: list[int], dilation: list[int], padding: list[int]) -> None:
    """Test that "same" becomes numbers where both sides are alike."""
    before, after, _ = worded("same", kernel, dilation)
    assert ops_of(after) == [f"aten::conv{len(kernel)}d"]
    assert argument(nodes_of(after)[-1], 4) == padding
    check_same_numbers(before, after, image(len(kernel)))


@pytest.mark.parametrize(
    ("kernel", "dilation", "padding", "pad"),
    [
        ([4], [1], [1], [0, 1]),
        ([2, 3], [1, 1], [0, 1], [0, 0, 0, 1]),
        ([3, 4], [1, 1], [1, 1], [0, 1, 0, 0]),
        ([4, 2], [1, 3], [1, 1], [0, 1, 0, 1]),
        ([2, 3, 4], [1, 1, 1], [0, 1, 1], [0, 1, 0, 0, 0, 1]),
    ],
)
def test_uneven_same_padding(
    kernel: list[int], dilation: list[int], padding: list[int], pad: list[int]
) -> None:
    """Test that what "same" pads more at the end goes before the convolution."""
    before, after, _ = worded("same", kernel, dilation)
    assert ops_of(after) == ["aten::constant_pad_nd", f"aten::conv{len(kernel)}d"]
    (padded,) = nodes_of(after, "aten::constant_pad_nd")
    assert argument(padded, 1) == pad
    assert argument(nodes_of(after)[-1], 4) == padding
    check_same_numbers(before, after, image(len(kernel)))


@pytest.mark.parametrize("kernel", [[4], [3, 2], [2, 2, 2]])
def test_valid_padding(kernel: list[int]) -> None:
    """Test that "valid" becomes no padding, at any stride and dilation."""
    before, after, _ = worded("valid", kernel, [2] * len(kernel), stride=2)
    assert ops_of(after) == [f"aten::conv{len(kernel)}d"]
    assert argument(nodes_of(after)[-1], 4) == [0] * len(kernel)
    check_same_numbers(before, after, image(len(kernel)))


def test_same_padding_without_a_batch() -> None:
    """Test that an uneven "same" is right for an input without a batch dimension."""
    before, after, _ = worded("same", [2, 4], [1, 1])
    check_same_numbers(before, after, image()[0])


def test_padding_in_words_stays_when_the_weight_is_an_input() -> None:
    """Test that "same" stays where the size of the kernel is not known."""
    body = """
  %mode : str = prim::Constant[value="same"]()
  %ones : int[] = prim::Constant[value=[1, 1]]()
  %y : Tensor = aten::conv2d(%x, %v, %none, %ones, %mode, %ones, %one)"""
    before, after, _ = normalized(body, inputs="%x : Tensor, %v : Tensor", count=0)
    assert argument(nodes_of(after)[-1], 4) == "same"
    check_same_numbers(before, after, image(), torch.randn(3, 4, 2, 2))


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_network_with_padding_in_words(traced: bool, padding: str) -> None:
    """Test that padding in words becomes numbers in scripted and traced models."""
    network = nn.Conv2d(4, 5, (3, 5), padding=padding)
    given = image()
    after = canonical(network, given) if traced else canonical(network)
    assert ops_of(after) == ["aten::conv2d"]
    assert argument(nodes_of(after, "aten::conv2d")[0], 4) == ([1, 2] if padding == "same" else [0, 0])
    check_same_numbers(network, after, given)


# Linear

MATRIX = {"weight": torch.linspace(-1, 1, 12).reshape(3, 4), "bias": torch.linspace(-1, 1, 3)}
TRANSPOSED = {"weight": torch.linspace(-1, 1, 12).reshape(4, 3), "bias": torch.linspace(-1, 1, 3)}
ROWS = torch.linspace(-2, 2, 8).reshape(2, 4)

LINEAR = {
    "addmm of t": (
        "  %t : Tensor = aten::t(%w)\n  %y : Tensor = aten::addmm(%b, %x, %t, %one, %one)",
        MATRIX,
        ["aten::linear"],
    ),
    "addmm": ("  %y : Tensor = aten::addmm(%b, %x, %w, %one, %one)", TRANSPOSED, ["aten::t", "aten::linear"]),
    "matmul of t plus bias": (
        "  %t : Tensor = aten::t(%w)\n  %m : Tensor = aten::matmul(%x, %t)\n"
        "  %y : Tensor = aten::add(%m, %b, %one)",
        MATRIX,
        ["aten::linear"],
    ),
    "matmul plus bias": (
        "  %m : Tensor = aten::matmul(%x, %w)\n  %y : Tensor = aten::add(%m, %b, %one)",
        TRANSPOSED,
        ["aten::t", "aten::linear"],
    ),
    "matmul of t": (
        "  %t : Tensor = aten::t(%w)\n  %y : Tensor = aten::matmul(%x, %t)",
        MATRIX,
        ["aten::linear"],
    ),
    "matmul": ("  %y : Tensor = aten::matmul(%x, %w)", TRANSPOSED, ["aten::t", "aten::linear"]),
}


@pytest.mark.parametrize("name", LINEAR)
def test_linear(name: str) -> None:
    """Test that each product with a weight becomes one linear."""
    body, attributes, expected = LINEAR[name]
    before, after, _ = normalized(body, attributes, count=1)
    assert ops_of(after) == expected
    check_same_numbers(before, after, ROWS)


@pytest.mark.parametrize("name", [name for name in LINEAR if "matmul" in name])
@pytest.mark.parametrize("shape", [(4,), (2, 3, 4), (2, 1, 3, 4)], ids=str)
def test_linear_on_other_dimensions(name: str, shape: tuple[int, ...]) -> None:
    """Test that a matmul of a vector, or of more than two dimensions, is the same linear."""
    body, attributes, _ = LINEAR[name]
    before, after, _ = normalized(body, attributes, count=1)
    check_same_numbers(before, after, torch.randn(shape))


def test_linear_text() -> None:
    """Test that weight and bias stand as they stood before the transpose."""
    _, after, _ = normalized(*LINEAR["addmm of t"][:2])
    weight, bias = (node.output().debugName() for node in nodes_of(after, "prim::GetAttr"))
    FileCheck().check(f"aten::linear(%x, %{weight}, %{bias})").check_not("aten::t(").run(graph_text(after))


def test_weights_may_be_constants() -> None:
    """Test that a frozen weight is a weight too, and its transpose is computed with propagate_constants."""

    network = Matmul().eval()
    after = working_copy(torch.jit.freeze(torch.jit.script(network), optimize_numerics=False))
    run_passes(CANONICALIZE, after)
    assert ops_of(after) == ["aten::linear"]
    check_same_numbers(network, after, ROWS)


class Matmul(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3))
        self.bias = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class WritesItsWeight(Matmul):
    def forward(self, x: Tensor) -> Tensor:
        self.weight.copy_(self.weight * 2)
        return x @ self.weight


NOT_LINEAR = {
    "addmm with alpha": ("  %y : Tensor = aten::addmm(%b, %x, %w, %one, %two)", TRANSPOSED),
    "addmm with beta": ("  %y : Tensor = aten::addmm(%b, %x, %w, %half, %one)", TRANSPOSED),
    "addmm of t with alpha": (
        "  %t : Tensor = aten::t(%w)\n  %y : Tensor = aten::addmm(%b, %x, %t, %one, %two)",
        MATRIX,
    ),
    "addmm with a row for each row": (
        "  %y : Tensor = aten::addmm(%b, %x, %w, %one, %one)",
        {**TRANSPOSED, "bias": torch.randn(2, 3)},
    ),
    "addmm of t with a row for each row": (
        "  %t : Tensor = aten::t(%w)\n  %y : Tensor = aten::addmm(%b, %x, %t, %one, %one)",
        {**MATRIX, "bias": torch.randn(2, 3)},
    ),
    "addmm with one number": (
        "  %y : Tensor = aten::addmm(%b, %x, %w, %one, %one)",
        {**TRANSPOSED, "bias": torch.randn(1)},
    ),
    "addmm of t with one number": (
        "  %t : Tensor = aten::t(%w)\n  %y : Tensor = aten::addmm(%b, %x, %t, %one, %one)",
        {**MATRIX, "bias": torch.randn(1)},
    ),
    "matmul of whole batches": (
        "  %y : Tensor = aten::matmul(%x, %w)",
        {"weight": torch.randn(2, 4, 3)},
    ),
    "matmul with a vector": ("  %y : Tensor = aten::matmul(%x, %w)", {"weight": torch.randn(4)}),
    "weight on the left": ("  %y : Tensor = aten::matmul(%w, %x)", {"weight": torch.randn(3, 2)}),
}


@pytest.mark.parametrize("name", NOT_LINEAR)
def test_not_linear(name: str) -> None:
    """Test that products and sums that are no linear stay."""
    body, attributes = NOT_LINEAR[name]
    before, after, _ = normalized(body, attributes, count=0)
    assert "aten::linear" not in ops_of(after)
    check_same_numbers(before, after, ROWS)


ADDENDS = {
    "twice the bias": ("%b, %two", torch.randn(3)),
    "one for each row": ("%b, %one", torch.randn(2, 1)),
    "a number": ("%two, %one", torch.randn(3)),
    "one number": ("%b, %one", torch.randn(1)),
}


@pytest.mark.parametrize("transposed", [False, True], ids=["matmul", "matmul of t"])
@pytest.mark.parametrize("name", ADDENDS)
def test_sum_stays_when_the_addend_is_no_bias(name: str, transposed: bool) -> None:
    """Test that only the product becomes a linear when what is added is not one bias for each feature."""
    addend, bias = ADDENDS[name]
    matrix = "%t" if transposed else "%w"
    body = f"""
  %t : Tensor = aten::t(%w)
  %m : Tensor = aten::matmul(%x, {matrix})
  %y : Tensor = aten::add(%m, {addend})"""
    body = body if transposed else body.replace("  %t : Tensor = aten::t(%w)\n", "")
    weight = (MATRIX if transposed else TRANSPOSED)["weight"]
    before, after, _ = normalized(body, {"weight": weight, "bias": bias}, count=1)
    assert ops_of(after)[-2:] == ["aten::linear", "aten::add"]
    check_same_numbers(before, after, ROWS)


@pytest.mark.parametrize("transposed", [False, True], ids=["matmul", "matmul of t"])
def test_a_scalar_tensor_is_added_as_a_number(transposed: bool) -> None:
    """Test that of a product and a tensor without dimensions the sum stays, as one with a number."""
    matrix = "  %m : Tensor = aten::matmul(%x, %w)"
    if transposed:
        matrix = "  %t : Tensor = aten::t(%w)\n  %m : Tensor = aten::matmul(%x, %t)"
    body = f"\n{matrix}\n  %y : Tensor = aten::add(%m, %b, %one)"
    weight = (MATRIX if transposed else TRANSPOSED)["weight"]
    before, after, _ = normalized(body, {"weight": weight, "bias": torch.tensor(0.5)}, count=2)
    assert ops_of(after)[-2:] == ["aten::linear", "aten::add"]
    (add,) = nodes_of(after, "aten::add")
    assert argument(add, 1) == 0.5
    check_same_numbers(before, after, ROWS)


def test_sum_stays_when_the_addend_widens_the_result() -> None:
    """Test that a vector added to a single feature, which gives many, is no bias."""
    body = LINEAR["matmul plus bias"][0]
    before, after, _ = normalized(body, {"weight": torch.randn(4, 1), "bias": torch.randn(5)})
    check_same_numbers(before, after, ROWS)


def test_sum_stays_when_the_product_is_used_elsewhere() -> None:
    """Test that the product without its bias is still there for who else uses it."""
    body = """
  %m : Tensor = aten::matmul(%x, %w)
  %s : Tensor = aten::add(%m, %b, %one)
  %y : Tensor = aten::mul(%s, %m)"""
    before, after, _ = normalized(body, TRANSPOSED)
    assert ops_of(after).count("aten::linear") == 1
    assert "aten::add" in ops_of(after)
    check_same_numbers(before, after, ROWS)


def test_product_of_two_activations_stays() -> None:
    """Test that a product in which no operand is a weight stays, also with one of them transposed."""
    body = """
  %t : Tensor = aten::t(%v)
  %m : Tensor = aten::matmul(%x, %t)
  %y : Tensor = aten::addmm(%m, %x, %t, %one, %one)"""
    before, after, _ = normalized(body, inputs="%x : Tensor, %v : Tensor", count=0)
    assert ops_of(after) == ["aten::t", "aten::matmul", "aten::addmm"]
    check_same_numbers(before, after, ROWS, torch.randn(3, 4))


def test_product_of_integers_stays() -> None:
    """Test that a matrix of integers is no weight of a linear."""
    attributes = {"weight": torch.arange(12).reshape(4, 3)}
    before, after, _ = normalized(LINEAR["matmul"][0], attributes, count=0)
    check_same_numbers(before, after, torch.arange(8).reshape(2, 4))


def test_product_stays_when_the_weight_is_written() -> None:
    """Test that a matrix that forward changes is not taken for a weight."""
    with torch.no_grad():
        after = canonical(WritesItsWeight())
    assert "aten::linear" not in ops_of(after)


def test_product_sees_its_input_before_it_is_changed() -> None:
    """Test that a change of the input between product and sum does not get into the product."""
    body = """
  %m : Tensor = aten::matmul(%x, %w)
  %c : Tensor = aten::add_(%x, %one, %one)
  %y : Tensor = aten::add(%m, %b, %one)"""
    before, after, _ = normalized(body, TRANSPOSED)
    check_same_numbers(before, after, ROWS)


# Clamps

BOUNDS = """
  %low : float = prim::Constant[value=-0.5]()
  %high : int = prim::Constant[value=1]()
  %nought : float = prim::Constant[value=0.0]()
"""

CLAMPS = {
    "relu6": ("aten::relu6(%x)", "aten::hardtanh", [0, 6]),
    "clamp_min at 0": ("aten::clamp_min(%x, %zero)", "aten::relu", []),
    "clamp_min at 0.0": ("aten::clamp_min(%x, %nought)", "aten::relu", []),
    "clamp from 0": ("aten::clamp(%x, %zero, %none)", "aten::relu", []),
    "clamp from 0.0": ("aten::clamp(%x, %nought, %none)", "aten::relu", []),
}

NOT_CLAMPS = {
    "clamp_min elsewhere": "aten::clamp_min(%x, %half)",
    "clamp_min at an input": "aten::clamp_min(%x, %v)",
    "clamp with two bounds": "aten::clamp(%x, %low, %high)",  # which is not hardtanh for integers
    "clamp with an upper bound": "aten::clamp(%x, %none, %high)",
    "clamp with another lower bound": "aten::clamp(%x, %half, %none)",
    "clamp with an unknown bound": "aten::clamp(%x, %low, %v)",
    "clamp_max": "aten::clamp_max(%x, %zero)",
    "hardtanh": "aten::hardtanh(%x, %low, %high)",
    "relu": "aten::relu(%x)",
}


@pytest.mark.parametrize("name", CLAMPS)
def test_clamp(name: str) -> None:
    """Test that each clamp becomes relu or hardtanh, with the same bounds."""
    given, expected, bounds = CLAMPS[name]
    before, after, _ = normalized(f"{BOUNDS}  %y : Tensor = {given}", count=1)
    assert ops_of(after) == [expected]
    (node,) = nodes_of(after, expected)
    assert [argument(node, index + 1) for index in range(len(bounds))] == bounds
    check_same_numbers(before, after, torch.linspace(-8, 8, 33))


@pytest.mark.parametrize("name", NOT_CLAMPS)
def test_clamp_stays(name: str) -> None:
    """Test that a clamp that is neither relu nor relu6 stays."""
    op = NOT_CLAMPS[name].split("(")[0]
    before, after, _ = normalized(
        f"{BOUNDS}  %y : Tensor = {NOT_CLAMPS[name]}", inputs="%x : Tensor, %v : float", count=0
    )
    assert ops_of(after) == [op]
    values = torch.linspace(-8, 8, 33)
    torch.testing.assert_close(after(values, 0.75), before(values, 0.75))


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8])
@pytest.mark.parametrize("bounds", [(0.5, 2.5), (-1, 2), (1, 3)], ids=str)
def test_clamp_of_integers(bounds: tuple[float, float], dtype: torch.dtype) -> None:
    """Test that a clamp of integers, of indices say, still gives what it gave."""
    low, high = (f"{type(bound).__name__} = prim::Constant[value={bound}]()" for bound in bounds)
    body = f"  %low : {low}\n  %high : {high}\n  %y : Tensor = aten::clamp(%x, %low, %high)"
    before, after, _ = normalized(body)
    check_same_numbers(before, after, torch.arange(5).to(dtype))


def test_not_a_number_stays_one() -> None:
    """Test that NaN goes through the new spelling as it did through the old."""
    for given, _, _ in CLAMPS.values():
        before, after, _ = normalized(f"{BOUNDS}  %y : Tensor = {given}")
        values = torch.tensor([float("nan"), float("inf"), -float("inf")])
        torch.testing.assert_close(after(values), before(values), equal_nan=True)


class Activations(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(x.clamp(min=0) - x.clamp(-1, 1) + x.clamp_min(0.0))


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_network_with_clamps(traced: bool) -> None:
    """Test that the clamps of scripted and traced models become relu and hardtanh."""
    network = Activations()
    after = canonical(network, torch.randn(5)) if traced else canonical(network)
    clamps = [op for op in ops_of(after) if op not in ("aten::add", "aten::sub")]
    assert sorted(clamps) == ["aten::clamp", "aten::hardtanh", "aten::relu", "aten::relu"]
    check_same_numbers(network, after, torch.linspace(-8, 8, 33))


# Padding

PAD = """
  %constant : str = prim::Constant[value="constant"]()
  %reflect : str = prim::Constant[value="reflect"]()
  %pad : int[] = prim::Constant[value=[1, 2]]()
"""


@pytest.mark.parametrize(("value", "expected"), [("%none", 0), ("%half", 0.5)])
def test_pad(value: str, expected: float) -> None:
    """Test that constant padding becomes constant_pad_nd, with zero where no value is given."""
    before, after, _ = normalized(f"{PAD}  %y : Tensor = aten::pad(%x, %pad, %constant, {value})", count=1)
    assert ops_of(after) == ["aten::constant_pad_nd"]
    (node,) = nodes_of(after, "aten::constant_pad_nd")
    assert (argument(node, 1), argument(node, 2)) == ([1, 2], expected)
    check_same_numbers(before, after, torch.randn(2, 3, 4))


def test_padding_by_reflection_says_its_dimensions() -> None:
    """Test that padding by reflection becomes the op for one dimension, since two sides are given."""
    before, after, _ = normalized(f"{PAD}  %y : Tensor = aten::pad(%x, %pad, %reflect, %none)")
    assert ops_of(after) == ["aten::reflection_pad1d"]
    check_same_numbers(before, after, torch.randn(2, 3, 4))


def test_pad_stays_in_other_modes() -> None:
    """Test that padding by repetition stays."""
    text = f"{PAD}  %y : Tensor = aten::pad(%x, %pad, %reflect, %none)".replace('"reflect"', '"replicate"')
    before, after, _ = normalized(text, count=0)
    assert ops_of(after) == ["aten::pad"]
    check_same_numbers(before, after, torch.randn(2, 3, 4))


class PadsByInput(nn.Module):
    def forward(self, x: Tensor, value: float | None) -> Tensor:
        return F.pad(x, [1, 1], "constant", value)


@pytest.mark.parametrize("value", [None, 2.0])
def test_pad_with_a_value_that_may_be_none(value: float | None) -> None:
    """Test that padding by what a caller gives or does not give still works."""
    network = PadsByInput()
    after = canonical(network)
    torch.testing.assert_close(after(torch.ones(2), value), network(torch.ones(2), value))


def test_second_run_finds_nothing() -> None:
    """Test that what the rules make is not matched by them again."""
    for body, attributes, _ in LINEAR.values():
        assert run_pass("normalize_ops", normalized(body, attributes).after) == 0
    for given, _, _ in CLAMPS.values():
        assert run_pass("normalize_ops", normalized(f"{BOUNDS}  %y : Tensor = {given}").after) == 0


# Channel shuffles

SIZES = """
  %three : int = prim::Constant[value=3]()
  %size : int[] = aten::size(%x)
  %n : int, %all : int, %h : int, %w2 : int = prim::ListUnpack(%size)
  %c : int = aten::floordiv(%all, %two)"""


def shuffle(*, grouped: str = "%n, %two, %c, %h, %w2", axes: str = "%one, %two", copy: bool = False) -> str:
    """A channel shuffle of two groups as networks spell it."""
    return f"""{SIZES}
  %grouped_size : int[] = prim::ListConstruct({grouped})
  %grouped : Tensor = aten::reshape(%x, %grouped_size)
  %moved : Tensor = aten::transpose(%grouped, {axes})
  {"%copy : Tensor = aten::contiguous(%moved, %zero)" if copy else ""}
  %flat_size : int[] = prim::ListConstruct(%n, %all, %h, %w2)
  %y : Tensor = aten::reshape({"%copy" if copy else "%moved"}, %flat_size)"""


@pytest.mark.parametrize("copy", [True, False], ids=["with a copy", "without"])
def test_a_channel_shuffle_is_one_op(copy: bool) -> None:
    """Test that reshape, transpose and reshape that move nothing but channels are one op."""
    run = normalized(shuffle(copy=copy), count=1)
    (found,) = nodes_of(run.after, "aten::channel_shuffle")
    assert argument(found, 1) == 2
    FileCheck().check_not("aten::transpose").run(graph_text(run.after))
    check_same_numbers(run.before, run.after, torch.randn(2, 6, 3, 4))


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": "%two, %three"},
        {"grouped": "%n, %c, %two, %h, %w2"},
        {"grouped": "%n, %two, %c, %w2, %h"},
    ],
    ids=["other axes", "groups that are computed", "height and width exchanged"],
)
def test_what_moves_more_than_channels_is_no_shuffle(changes: dict[str, Any]) -> None:
    """Test that a transpose of other axes, or between other reshapes, stays."""
    run = normalized(shuffle(**changes), count=0)
    check_same_numbers(run.before, run.after, torch.randn(2, 4, 4, 4))


def test_a_shuffle_that_is_looked_into_stays() -> None:
    """Test that a value in the middle that something else takes is still there."""
    body = shuffle().replace("%y :", "%s :") + "\n  %y : Tensor[] = prim::ListConstruct(%s, %moved)"
    normalized(body, count=0)


class Shuffle(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, channels, height, width = x.size()
        x = x.view(n, 3, channels // 3, height, width).transpose(1, 2).contiguous()
        return x.view(n, channels, height, width)


@pytest.mark.parametrize("example", [(), (torch.randn(2, 6, 3, 4),)], ids=["scripted", "traced"])
def test_a_networks_own_shuffle_is_one_op(example: tuple[Tensor, ...]) -> None:
    """Test that the shuffle of a network is found, scripted and traced, and takes pictures of any size."""
    after = canonical(Shuffle(), *example)
    assert [op for op in ops_of(after) if op in ("aten::reshape", "aten::transpose")] == []
    assert ops_of(after).count("aten::channel_shuffle") == 1
    check_same_numbers(Shuffle(), after, torch.randn(1, 9, 5, 2))


# Arithmetic with a number

NUMBERS = {
    "add": ("aten::add(%x, %b, %two)", "aten::add.Scalar", [0.5, 2]),
    "add to a number": ("aten::add(%b, %x, %one)", "aten::add.Scalar", [0.5, 1]),
    "sub": ("aten::sub(%x, %b, %two)", "aten::sub.Scalar", [0.5, 2]),
    "sub from a number": ("aten::sub(%b, %x, %one)", "aten::rsub.Scalar", [0.5, 1]),
    "mul": ("aten::mul(%x, %b)", "aten::mul.Scalar", [0.5]),
    "mul of a number": ("aten::mul(%b, %x)", "aten::mul.Scalar", [0.5]),
    "div": ("aten::div(%x, %b)", "aten::div.Scalar", [0.5]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_tensor_that_holds_one_number_becomes_that_number(name: str) -> None:
    """Test that arithmetic with a constant tensor without dimensions, on either side, is with a number."""
    call, op, arguments = NUMBERS[name]
    body = f"\n  %y : Tensor = {call}"
    before, after, _ = normalized(body, {"bias": torch.tensor(0.5)}, count=1)
    (node,) = nodes_of(after, op.split(".")[0])
    assert node.schema().startswith(f"{op}(")
    assert [argument(node, index + 1) for index in range(len(arguments))] == arguments
    check_same_numbers(before, after, ROWS)


def test_a_whole_number_stays_whole() -> None:
    """Test that a tensor that holds an integer becomes an int."""
    before, after, _ = normalized("\n  %y : Tensor = aten::mul(%x, %b)", {"bias": torch.tensor(3)}, count=1)
    (node,) = nodes_of(after, "aten::mul")
    assert isinstance(argument(node, 1), int)
    check_same_numbers(before, after, ROWS)


NO_NUMBERS = {
    "one element": ("aten::mul(%x, %b)", torch.tensor([0.5])),
    "a vector": ("aten::add(%x, %b, %one)", torch.randn(4)),
    "a bool": ("aten::mul(%x, %b)", torch.tensor(True)),
    "a double": ("aten::mul(%x, %b)", torch.tensor(0.5, dtype=torch.float64)),
    "alpha on the left": ("aten::add(%b, %x, %two)", torch.tensor(0.5)),
    "alpha on the left of a difference": ("aten::sub(%b, %x, %two)", torch.tensor(0.5)),
    "divided by a tensor": ("aten::div(%b, %x)", torch.tensor(0.5)),
}


@pytest.mark.parametrize("name", NO_NUMBERS)
def test_tensors_that_are_no_numbers_stay(name: str) -> None:
    """Test that what has dimensions, another dtype or an alpha on its other side is left alone."""
    call, value = NO_NUMBERS[name]
    before, after, _ = normalized(f"\n  %y : Tensor = {call}", {"bias": value}, count=0)
    check_same_numbers(before, after, ROWS)


def test_a_number_that_is_computed_stays() -> None:
    """Test that a tensor without dimensions that is another one at each call is left alone."""
    body = "\n  %m : Tensor = aten::mean(%x, %none)\n  %y : Tensor = aten::mul(%x, %m)"
    before, after, _ = normalized(body, count=0)
    check_same_numbers(before, after, ROWS)


# Other names


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_stack_is_cat_of_what_has_one_dimension_more(dim: int) -> None:
    """Test that stack becomes unsqueeze of each part and cat, at any place."""
    body = f"""
  %dim : int = prim::Constant[value={dim}]()
  %list : Tensor[] = prim::ListConstruct(%x, %z, %x)
  %y : Tensor = aten::stack(%list, %dim)"""
    before, after, _ = normalized(body, inputs="%x : Tensor, %z : Tensor", count=1)
    assert ops_of(after) == ["aten::unsqueeze"] * 3 + ["aten::cat"]
    check_same_numbers(before, after, ROWS, torch.randn(ROWS.shape))


def test_a_stack_of_a_list_from_elsewhere_stays() -> None:
    """Test that the parts of a list that is not written out are left together."""
    body = """
  %list : Tensor[] = aten::unbind(%x, %zero)
  %y : Tensor = aten::stack(%list, %one)"""
    before, after, _ = normalized(body, count=0)
    assert ops_of(after) == ["aten::unbind", "aten::stack"]
    check_same_numbers(before, after, ROWS)


def test_a_product_of_batches_is_a_matmul() -> None:
    """Test that bmm becomes matmul."""
    before, after, _ = normalized(
        "\n  %y : Tensor = aten::bmm(%x, %z)", inputs="%x : Tensor, %z : Tensor", count=1
    )
    assert ops_of(after) == ["aten::matmul"]
    check_same_numbers(before, after, torch.randn(3, 4, 5), torch.randn(3, 5, 2))


@pytest.mark.parametrize("op", ["swapaxes", "swapdims"])
def test_other_names_of_transpose(op: str) -> None:
    """Test that swapaxes and swapdims become transpose."""
    before, after, _ = normalized(f"\n  %y : Tensor = aten::{op}(%x, %zero, %two)", count=1)
    assert ops_of(after) == ["aten::transpose"]
    check_same_numbers(before, after, torch.randn(2, 3, 4))


@pytest.mark.parametrize(("op", "first"), [("multiply", "mul"), ("divide", "div"), ("true_divide", "div")])
def test_second_names_of_arithmetic(op: str, first: str) -> None:
    """Test that no name is left that a later pass takes for its own mark, as it does aten::multiply."""
    before, after, _ = normalized(f"\n  %y : Tensor = aten::{op}(%x, %x)", count=1)
    assert ops_of(after) == [f"aten::{first}"]
    check_same_numbers(before, after, ROWS + 5)
