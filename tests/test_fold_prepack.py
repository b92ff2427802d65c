"""Tests of fold_prepack: weights are packed at conversion, and packed again where the file is loaded."""

import copy
import io
import os
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

import jitquant
from jitquant.passes import PassOptions, run_pass
from tests.graphs import Attributes, Run, graph_of, nodes_of, ops_of
from tests.quantized_ir import (
    QINT8,
    attribute,
    check_within_a_step,
    constants,
    pair,
    run_with,
    weight_pair,
)

FOLD = ("fuse_quantized", "fold_prepack", "freeze")
PREFIX = "_jit_pass_packed_weight_"
HOLDER = "__torch__.jitquant.Packed"
LINEAR_PACKED = "__torch__.torch.classes.quantized.LinearPackedParamsBase"


@pytest.fixture(autouse=True)
def x86() -> Iterator[None]:
    """Packs weights for x86, whatever the machine's default."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86"
    yield
    torch.backends.quantized.engine = engine


def convolution(
    dimensions: int,
    *,
    groups: int,
    channels: int = 104,
    per_channel: bool = True,
    bias: bool = True,
    dilation: int = 1,
) -> tuple[str, Attributes]:
    """A graph with a dequantize, a convolution and a quantize, and its attributes."""
    weight = torch.randn(channels, channels // groups, *[3] * dimensions) * 0.3
    weight_text, attributes = weight_pair(weight, per_channel=per_channel)
    if bias:
        attributes["bias"] = torch.randn(channels)
    values = constants(
        stride=[2] * dimensions, padding=[1] * dimensions, dilation=[dilation] * dimensions, groups=groups
    )
    text = f"""
graph(%self, %x : Tensor):
{values}
{attribute("bias") if bias else constants(bias=None)}
{weight_text}
{pair("xd", "x", 0.03, 120)}
  %c : Tensor = aten::conv{dimensions}d(%xd, %weight_d, %bias, %stride, %padding, %dilation, %groups)
{pair("y", "c", 0.05, 120)}
  return (%y)"""
    return text, attributes


def linear(
    *, flat: bool = False, bias: bool = True, per_channel: bool = True, features: int = 12
) -> tuple[str, Attributes]:
    """A linear; where what comes before makes it `flat`, x86 gives it one row for each sample."""
    weight_text, attributes = weight_pair(torch.randn(features, 16) * 0.3, per_channel=per_channel)
    if bias:
        attributes["bias"] = torch.randn(features)
    flatten = constants(start_dim=1, end_dim=-1) + "  %f : Tensor = aten::flatten(%x, %start_dim, %end_dim)\n"
    text = f"""
graph(%self, %x : Tensor):
{attribute("bias") if bias else constants(bias=None)}
{weight_text}
{flatten if flat else ""}
{pair("xd", "f" if flat else "x", 0.03, 120)}
  %c : Tensor = aten::linear(%xd, %weight_d, %bias)
{pair("y", "c", 0.05, 120)}
  return (%y)"""
    return text, attributes


CASES = {
    "conv1d": lambda: convolution(1, groups=1, channels=8),
    "conv2d": lambda: convolution(2, groups=1, channels=8),
    "conv2d in groups": lambda: convolution(2, groups=2, channels=8),
    "conv2d per tensor": lambda: convolution(2, groups=1, channels=8, per_channel=False),
    "conv2d without bias": lambda: convolution(2, groups=1, channels=8, bias=False),
    "conv3d": lambda: convolution(3, groups=1, channels=8),
    "linear": lambda: linear(flat=True),
    "plain linear": linear,
    "plain linear, per tensor": lambda: linear(per_channel=False),
    "plain linear, without bias": lambda: linear(bias=False),
    "plain linear of many features": lambda: linear(features=200),
    "plain conv1d, depthwise": lambda: convolution(1, groups=104),
    "plain conv2d, depthwise": lambda: convolution(2, groups=104),
    "plain conv2d, groups of two": lambda: convolution(2, groups=104, channels=208),
    "plain conv2d, per tensor": lambda: convolution(2, groups=104, per_channel=False),
    "plain conv2d, dilated": lambda: convolution(2, groups=104, dilation=2),
    "plain conv2d, without bias": lambda: convolution(2, groups=104, bias=False),
}


def input_for(case: str) -> Tensor:
    if "linear" in case:
        return torch.randn(7, 16)
    channels = 208 if "groups of two" in case else 104 if "plain" in case else 8
    dimensions = int(case[case.index("conv") + 4])
    return torch.randn(2, channels, *[7] * dimensions)


def folded(case: str) -> Run:
    return run_with(FOLD, *CASES[case]())


def reloaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def packed_names(module: torch.jit.ScriptModule) -> list[str]:
    return [node.s("name") for node in nodes_of(module, "prim::GetAttr") if node.s("name").startswith(PREFIX)]


@pytest.mark.parametrize("case", CASES)
def test_weights_are_packed_at_conversion(case: str) -> None:
    """Test that the graph reads the packed weight, that no packing is left, and the numbers are right."""
    run = folded(case)
    assert packed_names(run.after) == [PREFIX + "0"]
    FileCheck().check_not("prepack").check_not("aten::conv").check_not("aten::linear").run(
        graph_of(run.after)
    )
    assert (HOLDER in str(graph_of(run.after))) == case.startswith("plain")
    check_within_a_step(run.before, run.after, input_for(case), step=0.05)


@pytest.mark.parametrize("case", CASES)
def test_the_saved_file_gives_the_same(case: str) -> None:
    """Test that what is loaded gives exactly what was saved, and so it does saved and loaded once more."""
    module = folded(case).after
    x = input_for(case)
    expected = module(x)
    once = reloaded(module)
    assert torch.equal(once(x), expected)
    twice = reloaded(once)
    assert torch.equal(twice(x), expected)
    assert torch.equal(once(x), expected)  # saving changed nothing


@pytest.mark.parametrize("case", CASES)
def test_a_copy_gives_the_same(case: str) -> None:
    """Test that copy.deepcopy of such a module works, of a loaded one too, and can be saved."""
    module = folded(case).after
    x = input_for(case)
    expected = module(x)
    for original in (module, reloaded(module)):
        duplicate = copy.deepcopy(original)
        assert torch.equal(duplicate(x), expected)
        assert torch.equal(reloaded(duplicate)(x), expected)


def test_a_dilated_depthwise_conv3d_is_saved() -> None:
    """Test that such a weight, which oneDNN packs in a way that it cannot undo, is saved without harm."""
    run = run_with(FOLD, *convolution(3, groups=104, dilation=2))
    x = torch.randn(1, 104, 7, 7, 7)
    check_within_a_step(run.before, run.after, x, step=0.05)

    def save_and_load() -> None:
        for _ in range(3):
            assert torch.equal(reloaded(run.after)(x), run.after(x))

    assert exit_status(save_and_load) == 0


def exit_status(function: Callable[[], None]) -> int:
    """How a process of its own ended in which the function ran: 0 if all is well."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("case", ["conv2d", "plain conv2d, depthwise"])
def test_a_file_holds_no_float_weights(case: str) -> None:
    """Test that neither the graph nor the file has a copy of the weight beside the packed one."""
    text, attributes = CASES[case]()
    run = run_with(FOLD, text, attributes)
    weight = attributes["weight"]
    constants_left = [node.output().toIValue() for node in nodes_of(run.after, "prim::Constant")]
    assert not any(isinstance(value, Tensor) and value.shape == weight.shape for value in constants_left)
    assert list(run.after.parameters()) == []
    assert not run.after._c.hasattr("weight")
    file = io.BytesIO()
    torch.jit.save(run.after, file)
    # Each channel has a bias, a scale and a zero point; code, records and alignment take less than 16 kB.
    assert len(file.getvalue()) < weight.numel() + 24 * len(weight) + 16_384


def test_each_weight_has_an_attribute_of_its_own() -> None:
    """Test that attributes are numbered in the order of the graph, past one that is there already."""
    first, attributes = weight_pair(torch.randn(8, 8) * 0.3, name="first")
    second, more = weight_pair(torch.randn(4, 8) * 0.3, name="second")
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None)}
{attribute(PREFIX + "1")}
{first}
{second}
{pair("xd", "x", 0.03, 120)}
  %c : Tensor = aten::linear(%xd, %first_d, %none)
{pair("cd", "c", 0.05, 120)}
  %d : Tensor = aten::linear(%cd, %second_d, %none)
{pair("dd", "d", 0.05, 120)}
  %y : Tensor = aten::add(%dd, %{PREFIX}1, %first_axis)
  return (%y)"""
    own = {PREFIX + "1": torch.ones(1)}
    options = PassOptions(preserved_attrs=[PREFIX + "1"])
    run = run_with(FOLD, text, attributes | more | own, options)
    packed = [name for name in packed_names(run.after) if name != PREFIX + "1"]
    assert packed == [PREFIX + "0", PREFIX + "2"]
    assert torch.equal(run.after._c.getattr(PREFIX + "1"), torch.ones(1))


def test_packing_of_what_is_no_constant_stays() -> None:
    """Test that a weight which the caller passes in is packed at each call."""
    text = f"""
graph(%self, %x : Tensor, %weight_q : Tensor):
{constants(none=None, scale=0.05, zero=120)}
{pair("xd", "x", 0.03, 120)}
  %packed : {LINEAR_PACKED} = quantized::linear_prepack(%weight_q, %none)
  %c : Tensor = quantized::linear(%xd_q, %packed, %scale, %zero)
  %y : Tensor = aten::dequantize(%c)
  return (%y)"""
    run = run_with("fold_prepack", text)
    assert run.count == 0
    assert "quantized::linear_prepack" in ops_of(run.after)


@pytest.mark.parametrize(
    "computed", ["aten::rand(%size, %none, %none, %none, %none)", "aten::mul_(%bias, %scale)"]
)
def test_a_bias_that_is_another_in_each_call_is_packed_at_each_call(computed: str) -> None:
    """Test that what the next call would compute otherwise is not computed now, and nothing is changed."""
    weight_text, attributes = weight_pair(torch.randn(4, 16))
    attributes["bias"] = torch.ones(4)
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None, size=[4], scale=0.05, zero=120)}
{weight_text}
{attribute("bias")}
{pair("xd", "x", 0.03, 120)}
  %fresh : Tensor = {computed}
  %packed : {LINEAR_PACKED} = quantized::linear_prepack(%weight_q, %fresh)
  %c : Tensor = quantized::linear(%xd_q, %packed, %scale, %zero)
  %y : Tensor = aten::dequantize(%c)
  return (%y)"""
    run = run_with("fold_prepack", text, attributes)
    assert run.count == 0
    assert torch.equal(run.after._c.getattr("bias"), torch.ones(4))


def test_a_graph_without_packing_is_left_alone() -> None:
    """Test that nothing is done where there is nothing to pack."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::erf(%x)
  return (%y)"""
    assert run_with("fold_prepack", text).count == 0


def test_packing_inside_a_block_is_done_too() -> None:
    """Test that a weight which only one branch uses is packed at conversion."""
    weight = torch.quantize_per_tensor(torch.randn(5, 8), 0.02, 0, torch.qint8)
    text = f"""
graph(%self, %x : Tensor, %choice : bool):
  %weight_q : Tensor = prim::GetAttr[name="weight_q"](%self)
{constants(none=None, scale=0.05, zero=120)}
{pair("xd", "x", 0.03, 120)}
  %y : Tensor = prim::If(%choice)
    block0():
      %packed : {LINEAR_PACKED} = quantized::linear_prepack(%weight_q, %none)
      %c : Tensor = quantized::linear(%xd_q, %packed, %scale, %zero)
      %d : Tensor = aten::dequantize(%c)
      -> (%d)
    block1():
      -> (%xd)
  return (%y)"""
    run = run_with(("fold_prepack", "freeze"), text, {"weight_q": weight})
    FileCheck().check_not("prepack").run(graph_of(run.after))
    x = torch.randn(3, 8)
    assert torch.equal(run.after(x, True), run.before(x, True))
    assert torch.equal(reloaded(run.after)(x, True), run.before(x, True))


class Separable(nn.Module):
    """Convolutions of both kinds, in a model with an `if` that freezing cannot decide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 104, 1)
        self.depthwise = nn.Conv2d(104, 104, 3, groups=104, padding=1)
        self.pointwise = nn.Conv2d(104, 8, 1)
        self.last = nn.Conv2d(8, 8, 3)

    def forward(self, x: Tensor, twice: bool = False) -> Tensor:
        x = self.pointwise(torch.relu(self.depthwise(torch.relu(self.stem(x)))))
        x = self.last(x)
        if twice:
            x = x + x
        return x


def test_a_whole_model_is_saved_copied_and_loaded() -> None:
    """Test that a model with both kinds of packed weights survives files and copies."""
    model = Separable().eval()
    x = torch.randn(2, 3, 9, 9)
    module = jitquant.quantize_jit(
        torch.jit.script(model), {"": jitquant.get_default_qconfig("x86")}, lambda prepared: prepared(x), []
    )
    assert sorted(set(packed_names(module))) == [f"{PREFIX}{i}" for i in range(4)]
    expected = module(x)
    for other in (
        reloaded(module),
        copy.deepcopy(module),
        reloaded(reloaded(module)),
        copy.deepcopy(reloaded(module)),
    ):
        assert torch.equal(other(x), expected)
        assert torch.equal(other(x, True), module(x, True))


class Upsampled(nn.Module):
    """A convolution and the many lines of F.interpolate behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.interpolate(self.convolution(x), scale_factor=2.0)


def test_a_weight_that_freezing_packed_is_saved() -> None:
    """Test that a weight that freezing folded into a constant by itself is saved and loaded as well."""
    x = torch.randn(2, 3, 5, 5)
    module = jitquant.quantize_jit(
        torch.jit.script(Upsampled().eval()),
        {"": jitquant.get_default_qconfig("x86")},
        lambda prepared: prepared(x),
        [],
    )
    assert torch.equal(reloaded(module)(x), module(x))


def test_a_model_packed_twice_in_one_process() -> None:
    """Test that two modules with packed convolutions, which share a class name, go into one file."""
    texts = [CASES["plain conv2d, depthwise"](), CASES["plain conv2d, per tensor"]()]
    parts = [run_with(FOLD, *text).after for text in texts]

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = reloaded(parts[0])
            self.second = reloaded(parts[1])

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.first(x), self.second(x)

    x = input_for("plain conv2d, depthwise")
    expected = [part(x) for part in parts]
    found = reloaded(torch.jit.script(Both()))(x)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))


def test_the_pass_counts_what_it_packed() -> None:
    """Test that the count is the number of weights."""
    text, attributes = CASES["conv2d"]()
    run = run_with("fuse_quantized", text, attributes)
    assert run_pass("fold_prepack", run.after) == 1
    assert run_pass("fold_prepack", run.after) == 0


def test_what_is_packed_alike_is_packed_once() -> None:
    """Test that two linears of one weight read one attribute, and one with another bias has its own."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("w")}
{attribute("b")}
{constants(none=None, scale=0.02, zero=0, dtype=QINT8, reduce=False)}
  %q : Tensor = aten::quantize_per_tensor(%w, %scale, %zero, %dtype)
  %p = quantized::linear_prepack(%q, %b)
  %y : Tensor = quantized::linear_dynamic(%x, %p, %reduce)
{attribute("b").replace("%b", "%b2")}
  %q2 : Tensor = aten::quantize_per_tensor(%w, %scale, %zero, %dtype)
  %p2 = quantized::linear_prepack(%q2, %b2)
  %z : Tensor = quantized::linear_dynamic(%y, %p2, %reduce)
  %p3 = quantized::linear_prepack(%q2, %none)
  %r : Tensor = quantized::linear_dynamic(%z, %p3, %reduce)
  return (%r)"""
    run = run_with("fold_prepack", text, {"w": torch.randn(4, 4) * 0.3, "b": torch.randn(4)})
    assert run.count == 3
    reads = [node.s("name") for node in nodes_of(run.after, "prim::GetAttr")]
    assert sorted(reads) == [f"{PREFIX}0", f"{PREFIX}0", f"{PREFIX}1"]
    x = torch.randn(3, 4)
    assert torch.equal(run.after(x), run.before(x))
