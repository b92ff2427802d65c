"""Tests of fuse_residual_add: convolution and add become one, and nothing in use is overwritten."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant.passes import PassOptions
from tests.graphs import Attributes, Run, argument, nodes_of, ops_of
from tests.networks import sqnr
from tests.quantized_ir import QINT8, attribute, constants, quantize, run_with

ONEDNN = PassOptions(engine="onednn")
FUSED = ("quantized::conv2d_add", "quantized::conv2d_add_relu")


@pytest.fixture(autouse=True)
def onednn() -> Iterator[None]:
    """Packs weights for onednn, whatever the machine's default."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    yield
    torch.backends.quantized.engine = engine


PACKED = "__torch__.torch.classes.quantized.Conv2dPackedParamsBase"


def packing(name: str, *, stride: int = 1, padding: int = 1) -> str:
    """Lines that quantize the attribute `name` and pack it into `%packed_<name>`."""
    return (
        constants(**{f"stride_{name}": [stride] * 2, f"padding_{name}": [padding] * 2})
        + attribute(name)
        + quantize(f"{name}_q", name, 0.01, 0, QINT8)
        + f"  %packed_{name} : {PACKED} = quantized::conv2d_prepack("
        + f"%{name}_q, %none, %stride_{name}, %padding_{name}, %ones, %one)\n"
    )


def conv(name: str, of: str, weight: str) -> str:
    return f"  %{name} : Tensor = quantized::conv2d(%{of}, %packed_{weight}, %scale, %zero_point)\n"


def add(operands: str = "%c, %z", relu: str = "") -> str:
    return f"  %s : Tensor = quantized::add{relu}({operands}, %scale1, %zero_point1)\n"


CONSTANTS = constants(
    scale=0.05, zero_point=120, scale1=0.08, zero_point1=110, none=None, ones=[1, 1], one=1, zero=0
)
INPUT = "graph(%self, %x : Tensor):\n" + CONSTANTS
HEADER = INPUT + quantize("xq", "x", 0.03, 120) + packing("u") + packing("v") + packing("w")
OTHER = conv("z", "xq", "u")  # what the branch begins with, and is added to
BRANCH = conv("k", "z", "v") + conv("c", "k", "w")
RETURN = "  %y : Tensor = aten::dequantize(%s)\n  return (%y)"


def attributes(**channels: int) -> Attributes:
    """Weights of 4 channels to 4 channels, or to as many as is said."""
    return {name: torch.randn(channels.get(name, 4), 4, 3, 3) * 0.15 for name in "uvw"}


def fuse(text: str, options: PassOptions = ONEDNN, given: Attributes | None = None) -> Run:
    return run_with("fuse_residual_add", text, given or attributes(), options)


def check_close_to_unfused(run: Run, x: Tensor | None = None) -> None:
    """The fused op rounds once less than a convolution and an add, so that a step apart is right."""
    x = torch.randn(2, 4, 6, 6) if x is None else x
    with torch.no_grad():
        expected, found = run.before(x), run.after(x)
    assert expected.shape == found.shape
    assert expected.unique().numel() > 20
    assert (expected - found).abs().max() <= 0.08 * 1.001


@pytest.mark.parametrize("relu", ["", "_relu"])
@pytest.mark.parametrize("operands", ["%c, %z", "%z, %c"])
def test_a_convolution_and_an_add_become_one(operands: str, relu: str) -> None:
    """Test that the convolution at the end of a branch takes the add, with a relu or not, in either order."""
    run = fuse(HEADER + OTHER + BRANCH + add(operands, relu) + RETURN)
    assert run.count == 1
    ops = [op for op in ops_of(run.after) if op.startswith("quantized::") and "prepack" not in op]
    assert ops == ["quantized::conv2d", "quantized::conv2d", f"quantized::conv2d_add{relu}"]
    (fused,) = nodes_of(run.after, f"quantized::conv2d_add{relu}")
    other, branch = nodes_of(run.after, "quantized::conv2d")
    assert fused.inputsAt(0).debugName() == branch.output().debugName()
    assert fused.inputsAt(1).debugName() == other.output().debugName()
    assert [argument(fused, 3), argument(fused, 4)] == [0.08, 110]
    check_close_to_unfused(run)


def test_a_branch_with_relus_is_fused() -> None:
    """Test that a relu inside the branch, which is in the convolution already, hinders nothing."""
    branch = BRANCH.replace("%k : Tensor = quantized::conv2d(", "%k : Tensor = quantized::conv2d_relu(")
    run = fuse(HEADER + OTHER + branch + add() + RETURN)
    assert run.count == 1
    check_close_to_unfused(run)


def test_the_sum_is_rounded_once() -> None:
    """Test that what the fused op gives is no more than half a step from the exact sum of its operands.

    An addend that a kernel rounded the other way beforehand makes a few exceptions.
    """
    given = attributes()
    run = fuse(HEADER + OTHER + BRANCH + add() + RETURN, given=given)
    assert run.count == 1

    def convolve(value: Tensor, name: str) -> Tensor:
        rounded = torch.fake_quantize_per_tensor_affine(given[name], 0.01, 0, -128, 127)
        return torch.conv2d(value, rounded, padding=1)

    def steps(value: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(value, 0.05, 120, 0, 255)

    x = torch.randn(2, 4, 6, 6)
    z = steps(convolve(torch.fake_quantize_per_tensor_affine(x, 0.03, 120, 0, 255), "u"))
    exact = convolve(steps(convolve(z, "v")), "w") + z
    within = [((module(x) - exact).abs() <= 0.0401).float().mean() for module in (run.before, run.after)]
    assert within[0] < 0.97 < 0.99 < within[1]


@pytest.mark.parametrize(("scale", "zero_point", "count"), [(1.0, 0, 0), (1.0, 3, 1), (0.5, 0, 1)])
def test_a_summand_of_scale_1_is_not_forgotten(scale: float, zero_point: int, count: int) -> None:
    """Test that a summand is added where the same weight was used before, by a plain convolution alike."""
    of_one = "  %m : Tensor = quantized::conv2d(%k, %packed_w, %scale1, %zero_point1)\n"
    with_one = "  %t : Tensor = quantized::add(%s, %m, %scale1, %zero_point1)\n"
    text = (
        HEADER
        + constants(scale2=scale, zero_point2=zero_point)
        + OTHER.replace("%scale, %zero_point", "%scale2, %zero_point2")
        + conv("k", "z", "v")
        + of_one
        + conv("c", "k", "w")
        + add()
        + with_one
        + RETURN.replace("%s", "%t")
    )
    run = fuse(text)
    assert run.count == count
    check_close_to_unfused(run)


@pytest.mark.parametrize("engine", ["x86", "fbgemm", "qnnpack"])
def test_not_fused_on_other_engines(engine: str) -> None:
    """Test that engines without the fused op keep the two."""
    run = fuse(HEADER + OTHER + BRANCH + add() + RETURN, PassOptions(engine=engine))
    assert run.count == 0
    assert not set(FUSED) & set(ops_of(run.after))


# What must not be overwritten


@pytest.mark.parametrize(
    "later",
    [
        "  %l : Tensor = quantized::add(%s, %z, %scale1, %zero_point1)\n",
        conv("l", "z", "v"),
        "  %l : Tensor = aten::relu(%z)\n",
    ],
    ids=["add", "conv2d", "op on integers"],
)
def test_not_fused_when_the_other_operand_is_used_later(later: str) -> None:
    """Test that an operand which an op behind the add takes is not overwritten."""
    text = HEADER + OTHER + BRANCH + add() + later
    text += "  %both : (Tensor, Tensor) = prim::TupleConstruct(%s, %l)\n  return (%both)"
    run = fuse(text)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    for expected, found in zip(run.before(x), run.after(x), strict=True):
        assert torch.equal(expected.int_repr(), found.int_repr())


def test_not_fused_when_the_other_operand_is_returned() -> None:
    """Test that an operand which the caller gets is not overwritten."""
    text = HEADER + OTHER + BRANCH + add()
    text += "  %both : (Tensor, Tensor) = prim::TupleConstruct(%s, %z)\n  return (%both)"
    assert fuse(text).count == 0


@pytest.mark.parametrize("view", ["aten::relu(%z)", "aten::slice(%z, %one, %zero, %none, %one)"])
def test_not_fused_when_an_earlier_user_may_be_a_view(view: str) -> None:
    """Test that an operand is not overwritten where an op that may give a view of it took it before."""
    text = HEADER + OTHER + f"  %v : Tensor = {view}\n" + BRANCH + add()
    text += "  %t : Tensor = quantized::add(%s, %v, %scale1, %zero_point1)\n" + RETURN.replace("%s", "%t")
    assert fuse(text).count == 0


def test_fused_when_an_earlier_integer_op_took_the_other_operand() -> None:
    """Test that an operand of which an integer op made something before the add may be overwritten."""
    text = HEADER + OTHER + conv("e", "z", "w") + BRANCH + add()
    text += "  %t : Tensor = quantized::add(%s, %e, %scale1, %zero_point1)\n" + RETURN.replace("%s", "%t")
    run = fuse(text)
    assert "quantized::conv2d_add" in ops_of(run.after)
    x = torch.randn(2, 4, 6, 6)
    assert (run.before(x) - run.after(x)).abs().max() <= 0.16001


def test_not_fused_when_the_convolution_itself_takes_the_operand() -> None:
    """Test that a convolution does not write into the tensor that it is reading."""
    run = fuse(HEADER + OTHER + conv("c", "z", "w") + add() + RETURN)
    # Of a small picture oneDNN has read all before it writes.
    check_close_to_unfused(run, torch.randn(4, 4, 80, 80))


@pytest.mark.parametrize(
    "other",
    [
        "  %z : Tensor = aten::alias(%xq)\n",
        "  %z : Tensor = aten::relu(%xq)\n",
        "  %z : Tensor = aten::slice(%xq, %one, %zero, %none, %one)\n",
    ],
    ids=["alias", "op on integers", "view"],
)
def test_not_fused_when_the_other_operand_is_of_no_integer_op(other: str) -> None:
    """Test that an operand whose memory may be another value's is not overwritten."""
    run = fuse(HEADER + other + BRANCH + add() + RETURN)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run.before(x), run.after(x))


def test_not_fused_when_the_other_operand_is_the_callers() -> None:
    """Test that a quantized tensor which the caller passed in is not overwritten."""
    run = fuse(HEADER.replace("%x : Tensor)", "%x : Tensor, %z : Tensor)") + BRANCH + add() + RETURN)
    assert run.count == 0
    z = torch.quantize_per_tensor(torch.randn(2, 4, 6, 6), 0.05, 120, torch.quint8)
    kept = z.clone()
    run.after(torch.randn(2, 4, 6, 6), z)
    assert torch.equal(z.int_repr(), kept.int_repr())


def test_not_fused_when_the_convolution_is_used_elsewhere() -> None:
    """Test that a convolution whose result another op takes too stays one."""
    text = HEADER + OTHER + BRANCH + "  %e : Tensor = quantized::add(%c, %c, %scale1, %zero_point1)\n" + add()
    text += "  %t : Tensor = quantized::add(%s, %e, %scale1, %zero_point1)\n" + RETURN.replace("%s", "%t")
    run = fuse(text)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run.before(x), run.after(x))


def test_a_sum_of_one_convolution_with_itself_is_left_alone() -> None:
    """Test that a convolution added to itself, which would overwrite its own operand, is not fused."""
    assert fuse(HEADER + OTHER + BRANCH + add("%c, %c") + RETURN).count == 0


# Where an add broadcasts, or may: oneDNN would write outside of the smaller tensor, and end the process


@pytest.mark.parametrize("smaller", ["other", "convolution"])
def test_not_fused_when_the_add_broadcasts(smaller: str) -> None:
    """Test that a sum of tensors of two sizes, as behind global pooling, keeps its result and its size."""
    pooled, whole = ("z", "c") if smaller == "other" else ("c", "z")
    text = HEADER + "  %p : Tensor = aten::adaptive_avg_pool2d(%xq, %ones)\n"
    first, second = conv(pooled, "p", "u"), conv("k", "xq", "v") + conv(whole, "k", "w")
    run = fuse(text + (first + second if smaller == "other" else second + first) + add() + RETURN)
    assert run.count == 0
    check_close_to_unfused(run)


def test_not_fused_when_the_channels_broadcast() -> None:
    """Test that a branch that ends in one channel, which is added to all, keeps its result and its size."""
    run = fuse(HEADER + OTHER + BRANCH + add() + RETURN, given=attributes(w=1))
    assert run.count == 0
    check_close_to_unfused(run)


@pytest.mark.parametrize("change", [{"stride": 2}, {"padding": 0}], ids=["stride", "padding"])
def test_not_fused_when_the_branch_changes_the_size(change: dict[str, int]) -> None:
    """Test that a branch which makes the picture smaller, to a single pixel here, is not fused."""
    text = INPUT + quantize("xq", "x", 0.03, 120) + packing("u") + packing("v") + packing("w", **change)
    run = fuse(text + OTHER + BRANCH + add() + RETURN)
    assert run.count == 0
    if "padding" in change:
        check_close_to_unfused(run, torch.randn(20, 4, 3, 3))


# Blocks


def test_not_fused_when_a_loop_needs_the_operand_again() -> None:
    """Test that an operand from before a loop is not overwritten in a round, as the next needs it."""
    text = (
        HEADER
        + OTHER
        + """
  %rounds : int = prim::Constant[value=3]()
  %go : bool = prim::Constant[value=1]()
  %last : Tensor = prim::Loop(%rounds, %go, %xq)
    block0(%i : int, %h : Tensor):
      %k : Tensor = quantized::conv2d(%z, %packed_v, %scale, %zero_point)
      %c : Tensor = quantized::conv2d(%k, %packed_w, %scale, %zero_point)
      %s : Tensor = quantized::add(%c, %z, %scale1, %zero_point1)
      -> (%go, %s)
  %y : Tensor = aten::dequantize(%last)
  return (%y)"""
    )
    run = fuse(text)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run.before(x), run.after(x))


def test_fused_inside_a_loop_when_the_operand_is_of_that_round() -> None:
    """Test that an operand computed in the same round may be overwritten."""
    text = (
        HEADER
        + """
  %rounds : int = prim::Constant[value=2]()
  %go : bool = prim::Constant[value=1]()
  %last : Tensor = prim::Loop(%rounds, %go, %xq)
    block0(%i : int, %h : Tensor):
      %z : Tensor = quantized::conv2d(%h, %packed_u, %scale, %zero_point)
      %k : Tensor = quantized::conv2d(%z, %packed_v, %scale, %zero_point)
      %c : Tensor = quantized::conv2d(%k, %packed_w, %scale, %zero_point)
      %s : Tensor = quantized::add(%c, %z, %scale1, %zero_point1)
      -> (%go, %s)
  %y : Tensor = aten::dequantize(%last)
  return (%y)"""
    )
    run = fuse(text)
    assert run.count == 1
    x = torch.randn(2, 4, 6, 6)
    # A rounding more or less in each of two rounds: not 0, but far from an operand overwritten.
    assert sqnr(run.before(x), run.after(x)) > 25


def test_not_fused_when_a_branch_uses_the_operand_later() -> None:
    """Test that an operand which an `if` behind the add may take is not overwritten."""
    text = (
        HEADER.replace("%x : Tensor)", "%x : Tensor, %choice : bool)")
        + OTHER
        + BRANCH
        + add()
        + """
  %t : Tensor = prim::If(%choice)
    block0():
      %u1 : Tensor = quantized::add(%s, %z, %scale, %zero_point)
      -> (%u1)
    block1():
      -> (%s)
  return (%t)"""
    )
    assert fuse(text).count == 0


# Whole networks


class BasicBlocks(nn.Module):
    """Two residual blocks of two convolutions, the second of which adds what the first gave."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.first = nn.Conv2d(32, 32, 3, padding=1)
        self.second = nn.Conv2d(32, 32, 3, padding=1)
        self.third = nn.Conv2d(32, 32, 3, padding=1)
        self.fourth = nn.Conv2d(32, 32, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        z = torch.relu(self.second(torch.relu(self.first(y))) + y)
        return torch.relu(self.fourth(torch.relu(self.third(z))) + z)


class ShortBlock(nn.Module):
    """A residual block of one convolution, which takes the tensor that is added to what it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.convolution = nn.Conv2d(32, 32, 3, padding=1)
        self.last = nn.Conv2d(32, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.stem(x))
        return self.last(torch.relu(self.convolution(y) + y))


class Gated(nn.Module):
    """A sum of a picture and one number for each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.squeeze = nn.Conv2d(16, 16, 1)
        self.excite = nn.Conv2d(16, 16, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        means = self.squeeze(nn.functional.adaptive_avg_pool2d(y, [1, 1]))
        return self.excite(y) + means


class Loop(nn.Module):
    """A convolution that a loop calls again and again, each time with the same addend."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(3, 8, 3, padding=1)
        self.again = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor, rounds: int = 4) -> Tensor:
        y = self.first(x)
        h = self.second(x)
        for _ in range(rounds):
            h = torch.relu(self.again(h) + y)
        return h


def quantized_for(engine: str, model: nn.Module, x: Tensor) -> torch.jit.ScriptModule:
    torch.backends.quantized.engine = engine
    qconfigs = {"": jitquant.get_default_qconfig("onednn")}
    return jitquant.quantize_jit(torch.jit.script(model), qconfigs, lambda prepared: prepared(x), [])


@pytest.mark.parametrize(("network", "fused"), [(BasicBlocks, 2), (ShortBlock, 0), (Loop, 0), (Gated, 0)])
def test_whole_networks_are_as_exact_as_on_x86(network: type[nn.Module], fused: int) -> None:
    """Test that residual networks lose no more on onednn than on x86, which has no fused op."""
    model = network().eval()
    x = torch.randn(4, 3, 32, 32)
    on_x86 = quantized_for("x86", model, x)(x)
    quantized = quantized_for("onednn", model, x)
    assert sum(op in FUSED for op in ops_of(quantized)) == fused
    with torch.no_grad():
        expected = model(x)
        assert sqnr(expected, quantized(x)) > sqnr(expected, on_x86) - 1
