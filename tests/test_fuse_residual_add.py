"""Tests of fuse_residual_add: convolution and add become one, and nothing in use is overwritten."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant.passes import PassOptions
from tests.graphs import Attributes, Run, argument, nodes_of, ops_of
from tests.networks import sqnr
from tests.quantized_ir import constants, quantize, run_with

ONEDNN = PassOptions(engine="onednn")
FUSED = ("quantized::conv2d_add", "quantized::conv2d_add_relu")


@pytest.fixture(autouse=True)
def onednn() -> Iterator[None]:
    """Packs weights for onednn, whatever the machine's default."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "onednn"
    yield
    torch.backends.quantized.engine = engine


def packed_conv(*, channels: int = 4, kernel: int = 3) -> torch.ScriptObject:
    """A weight packed for onednn."""
    weight = torch.randn(channels, 4, kernel, kernel) * 0.15
    quantized = torch.quantize_per_tensor(weight, float(weight.abs().max() / 127), 0, torch.qint8)
    padding = [kernel // 2] * 2
    return torch.ops.quantized.conv2d_prepack(quantized, None, [1, 1], padding, [1, 1], 1)


HEADER = f"""
graph(%self, %x : Tensor):
  %packed : __torch__.torch.classes.quantized.Conv2dPackedParamsBase = prim::GetAttr[name="packed"](%self)
  %packed1 : __torch__.torch.classes.quantized.Conv2dPackedParamsBase = prim::GetAttr[name="packed1"](%self)
{constants(scale=0.05, zero_point=120, scale1=0.08, zero_point1=110)}
{quantize("xq", "x", 0.03, 120)}
"""
CONV = "  %c : Tensor = quantized::conv2d(%xq, %packed, %scale, %zero_point)\n"
OTHER = "  %z : Tensor = quantized::conv2d(%xq, %packed1, %scale, %zero_point)\n"
RETURN = "  %y : Tensor = aten::dequantize(%s)\n  return (%y)"


def add(operands: str = "%c, %z", relu: str = "") -> str:
    return f"  %s : Tensor = quantized::add{relu}({operands}, %scale1, %zero_point1)\n"


def attributes() -> Attributes:
    return {"packed": packed_conv(), "packed1": packed_conv()}


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
    """Test that the last convolution takes the add, with a relu or not, in either order of its operands."""
    run = fuse(HEADER + OTHER + CONV + add(operands, relu) + RETURN)
    assert run.count == 1
    assert ops_of(run.after) == [
        "aten::quantize_per_tensor",
        "quantized::conv2d",
        f"quantized::conv2d_add{relu}",
        "aten::dequantize",
    ]
    (fused,) = nodes_of(run.after, f"quantized::conv2d_add{relu}")
    (first,) = nodes_of(run.after, "quantized::conv2d")
    assert fused.inputsAt(1).debugName() == first.output().debugName()
    assert [argument(fused, 3), argument(fused, 4)] == [0.08, 110]
    check_close_to_unfused(run)


def test_the_output_has_the_parameters_of_the_add() -> None:
    """Test that the fused op is nearer to the exact sum than its step."""
    run = fuse(HEADER + OTHER + CONV + add() + RETURN)
    x = torch.randn(2, 4, 6, 6)
    xq = torch.quantize_per_tensor(x, 0.03, 120, torch.quint8).dequantize()
    weights = [run.after.packed.unpack()[0], run.after.packed1.unpack()[0]]
    conv, other = (torch.conv2d(xq, weight.dequantize(), padding=1) for weight in weights)
    conv = conv.clamp(-0.05 * 120, 0.05 * 135)
    other = other.clamp(-0.05 * 120, 0.05 * 135)
    exact = (conv + other).clamp(-0.08 * 110, 0.08 * 145)
    assert (run.after(x) - exact).abs().max() <= 0.04 + 0.025 + 1e-3


@pytest.mark.parametrize("engine", ["x86", "fbgemm", "qnnpack"])
def test_not_fused_on_other_engines(engine: str) -> None:
    """Test that engines without the fused op keep the two."""
    run = fuse(HEADER + OTHER + CONV + add() + RETURN, PassOptions(engine=engine))
    assert run.count == 0
    assert not set(FUSED) & set(ops_of(run.after))


@pytest.mark.parametrize(
    "later",
    [
        "  %l : Tensor = quantized::add(%s, %z, %scale1, %zero_point1)\n",
        "  %l : Tensor = quantized::conv2d(%z, %packed, %scale, %zero_point)\n",
        "  %l : Tensor = aten::relu(%z)\n",
    ],
    ids=["add", "conv2d", "op on integers"],
)
def test_not_fused_when_the_other_operand_is_used_later(later: str) -> None:
    """Test that an operand which an op behind the add takes is not overwritten."""
    text = HEADER + OTHER + CONV + add() + later
    text += "  %both : (Tensor, Tensor) = prim::TupleConstruct(%s, %l)\n  return (%both)"
    run = fuse(text)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    for expected, found in zip(run.before(x), run.after(x), strict=True):
        assert torch.equal(expected.int_repr(), found.int_repr())


def test_not_fused_when_the_other_operand_is_returned() -> None:
    """Test that an operand which the caller gets is not overwritten."""
    text = HEADER + OTHER + CONV + add()
    text += "  %both : (Tensor, Tensor) = prim::TupleConstruct(%s, %z)\n  return (%both)"
    run = fuse(text)
    assert run.count == 0


@pytest.mark.parametrize("view", ["aten::relu(%z)", "aten::slice(%z, %one, %zero, %none, %one)"])
def test_not_fused_when_an_earlier_user_may_be_a_view(view: str) -> None:
    """Test that an operand is not overwritten where an op that may give a view of it took it before."""
    text = HEADER + constants(one=1, zero=0, none=None) + OTHER
    text += f"  %v : Tensor = {view}\n" + CONV + add()
    text += "  %t : Tensor = quantized::add(%s, %v, %scale1, %zero_point1)\n" + RETURN.replace("%s", "%t")
    assert fuse(text).count == 0


def test_fused_when_an_earlier_integer_op_took_the_other_operand() -> None:
    """Test that an operand with which a residual branch began may be overwritten at its end."""
    text = HEADER + OTHER + "  %k : Tensor = quantized::conv2d(%z, %packed1, %scale, %zero_point)\n"
    text += CONV.replace("%xq", "%k") + add() + RETURN
    run = fuse(text)
    assert run.count == 1
    check_close_to_unfused(run)


def test_not_fused_when_the_convolution_itself_takes_the_operand() -> None:
    """Test that a convolution does not write into the tensor that it is reading."""
    run = fuse(HEADER + OTHER + CONV.replace("%xq", "%z") + add() + RETURN)
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
    run = fuse(HEADER + constants(one=1, zero=0, none=None) + other + CONV + add() + RETURN)
    assert run.count == 0
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(run.before(x), run.after(x))


def test_not_fused_when_the_other_operand_is_the_callers() -> None:
    """Test that a quantized tensor which the caller passed in is not overwritten."""
    text = HEADER.replace("%x : Tensor)", "%x : Tensor, %z : Tensor)") + CONV + add() + RETURN
    run = fuse(text)
    assert run.count == 0
    z = torch.quantize_per_tensor(torch.randn(2, 4, 6, 6), 0.05, 120, torch.quint8)
    kept = z.clone()
    run.after(torch.randn(2, 4, 6, 6), z)
    assert torch.equal(z.int_repr(), kept.int_repr())


def test_not_fused_when_the_convolution_is_used_elsewhere() -> None:
    """Test that a convolution whose result another op takes too stays one."""
    text = (
        HEADER
        + OTHER
        + CONV
        + "  %k : Tensor = quantized::add(%c, %c, %scale1, %zero_point1)\n"
        + add("%c, %z")
    )
    text += "  %t : Tensor = quantized::add(%s, %k, %scale1, %zero_point1)\n" + RETURN.replace("%s", "%t")
    run = fuse(text)
    # The add may go into the earlier convolution only if nothing needs that first.
    x = torch.randn(2, 4, 6, 6)
    assert (run.before(x) - run.after(x)).abs().max() <= 0.16001
    assert "quantized::conv2d" in ops_of(run.after)


def test_a_sum_of_one_convolution_with_itself_is_left_alone() -> None:
    """Test that a convolution added to itself, which would overwrite its own operand, is not fused."""
    run = fuse(HEADER + CONV + add("%c, %c") + RETURN)
    assert run.count == 0


@pytest.mark.parametrize("smaller", ["other", "convolution"])
def test_not_fused_when_the_add_broadcasts(smaller: str) -> None:
    """Test that a sum of tensors of two sizes, as behind global pooling, keeps its result and its size."""
    pool = (
        "  %p : Tensor = aten::adaptive_avg_pool2d(%xq, %ones)\n"
        "  %z : Tensor = quantized::conv2d(%p, %packed1, %scale, %zero_point)\n"
    )
    text = HEADER + constants(ones=[1, 1])
    if smaller == "other":
        text += pool + CONV + add() + RETURN
    else:
        text += "  %z : Tensor = quantized::conv2d(%xq, %packed, %scale, %zero_point)\n"
        text += pool.replace("%z ", "%c ") + add() + RETURN
    run = fuse(text)
    assert run.count == 0  # oneDNN would write outside of the smaller tensor, and end the process
    check_close_to_unfused(run)


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
      %c : Tensor = quantized::conv2d(%h, %packed, %scale, %zero_point)
      %s : Tensor = quantized::add(%c, %z, %scale1, %zero_point1)
      -> (%go, %s)
  %y : Tensor = aten::dequantize(%last)
  return (%y)"""
    )
    run = fuse(text)
    x = torch.randn(2, 4, 6, 6)
    # A rounding more or less in each of three rounds: not 0, but far from an operand overwritten.
    error, signal = (run.before(x) - run.after(x)).square().mean(), run.before(x).square().mean()
    assert error < 0.002 * signal


def test_fused_inside_a_loop_when_the_operand_is_of_that_round() -> None:
    """Test that an operand computed in the same round may be overwritten."""
    text = (
        HEADER
        + """
  %rounds : int = prim::Constant[value=2]()
  %go : bool = prim::Constant[value=1]()
  %last : Tensor = prim::Loop(%rounds, %go, %xq)
    block0(%i : int, %h : Tensor):
      %z : Tensor = quantized::conv2d(%h, %packed1, %scale, %zero_point)
      %c : Tensor = quantized::conv2d(%z, %packed, %scale, %zero_point)
      %s : Tensor = quantized::add(%c, %z, %scale1, %zero_point1)
      -> (%go, %s)
  %y : Tensor = aten::dequantize(%last)
  return (%y)"""
    )
    assert fuse(text).count == 1


def test_not_fused_when_a_branch_uses_the_operand_later() -> None:
    """Test that an operand which a branch behind the add takes is not overwritten."""
    text = (
        HEADER.replace("%x : Tensor)", "%x : Tensor, %choice : bool)")
        + OTHER
        + CONV
        + add()
        + """
  %t : Tensor = prim::If(%choice)
    block0():
      %u : Tensor = quantized::add(%s, %z, %scale, %zero_point)
      -> (%u)
    block1():
      -> (%s)
  return (%t)"""
    )
    assert fuse(text).count == 0


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
