"""Tests of fold_conv_bn: batch norm goes into the weight and bias before it, and only there."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.testing import FileCheck

from jitquant import QuantizationError, fuse_conv_bn_jit
from jitquant.passes import run_pass
from jitquant.pipeline import FUSE_PASSES, run_passes
from tests.graphs import (
    Run,
    check_same_numbers,
    graph_text,
    nodes_of,
    ops_of,
    run_alone,
    saved_and_loaded,
    working_copy,
)

EPS = 1e-5
CHANNELS = 6

# On IR text

HEAD = """
graph(%self, %x : Tensor):
  %conv = prim::GetAttr[name="conv"](%self)
  %bn = prim::GetAttr[name="bn"](%self)
  %w = prim::GetAttr[name="weight"](%conv)
  %gamma = prim::GetAttr[name="weight"](%bn)
  %beta = prim::GetAttr[name="bias"](%bn)
  %mean = prim::GetAttr[name="running_mean"](%bn)
  %var = prim::GetAttr[name="running_var"](%bn)
  %none : NoneType = prim::Constant()
  %false : bool = prim::Constant[value=0]()
  %true : bool = prim::Constant[value=1]()
  %one : int = prim::Constant[value=1]()
  %two : int = prim::Constant[value=2]()
  %eps : float = prim::Constant[value=1e-05]()
  %momentum : float = prim::Constant[value=0.1]()
"""
BIAS = '  %b = prim::GetAttr[name="bias"](%conv)\n'
NORM = "aten::batch_norm(%c, %gamma, %beta, %mean, %var, %false, %momentum, %eps, %true)"
LINEAR = "aten::linear(%x, %w, %b)"
TAIL = f"  %y : Tensor = {NORM}\n  return (%y)"


def norm_attributes(path: str = "bn", channels: int = CHANNELS) -> dict[str, Tensor]:
    """Statistics and affine as uneven as training leaves them."""
    return {
        f"{path}.weight": torch.rand(channels) + 0.5,
        f"{path}.bias": torch.randn(channels),
        f"{path}.running_mean": torch.randn(channels),
        f"{path}.running_var": torch.rand(channels) + 0.5,
    }


def linear_attributes() -> dict[str, Tensor]:
    return {
        "conv.weight": torch.randn(CHANNELS, 4),
        "conv.bias": torch.randn(CHANNELS),
        **norm_attributes(),
    }


def linear(body: str = f"  %c : Tensor = {LINEAR}\n{TAIL}", **attributes: Any) -> Run:
    """A linear with batch norm behind it, or what `body` makes of it."""
    return run_alone("fold_conv_bn", HEAD + BIAS + body, {**linear_attributes(), **attributes})


def rows(features: int = 4) -> Tensor:
    return torch.randn(3, features)


def image(dimensions: int, channels: int = 4) -> Tensor:
    return torch.randn(2, channels, 5, 6, 7)[(...,) + (0,) * (3 - dimensions)]


def convolution(dimensions: int, transposed: bool, groups: int) -> str:
    """A convolution with stride 2 and padding 1 that gives %c."""
    numbers = (
        f"  %stride : int[] = prim::Constant[value={[2] * dimensions}]()\n"
        f"  %padding : int[] = prim::Constant[value={[1] * dimensions}]()\n"
        f"  %none_more : int[] = prim::Constant[value={[0] * dimensions}]()\n"
        f"  %dilation : int[] = prim::Constant[value={[1] * dimensions}]()\n"
        f"  %groups : int = prim::Constant[value={groups}]()\n"
    )
    if transposed:
        call = f"conv_transpose{dimensions}d(%x, %w, %b, %stride, %padding, %none_more, %groups, %dilation)"
    else:
        call = f"conv{dimensions}d(%x, %w, %b, %stride, %padding, %dilation, %groups)"
    return f"{numbers}  %c : Tensor = aten::{call}\n"


def scale_and_shift(attributes: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scale = attributes["bn.weight"] / torch.sqrt(attributes["bn.running_var"] + EPS)
    return scale, attributes["bn.bias"] - attributes["bn.running_mean"] * scale


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("transposed", [False, True], ids=["forward", "transposed"])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolution(dimensions: int, transposed: bool, groups: int, has_bias: bool) -> None:
    """Test that a batch norm goes into a convolution of any kind, with and without bias."""
    kernel = [3] * dimensions
    shape = [4, CHANNELS // groups, *kernel] if transposed else [CHANNELS, 4 // groups, *kernel]
    attributes = {"conv.weight": torch.randn(shape), **norm_attributes()}
    if has_bias:
        attributes["conv.bias"] = torch.randn(CHANNELS)
    bias = BIAS if has_bias else "  %b : NoneType = prim::Constant()\n"
    text = HEAD + bias + convolution(dimensions, transposed, groups) + TAIL
    before, after, count = run_alone("fold_conv_bn", text, attributes)
    assert count == 1
    assert ops_of(after) == [f"aten::conv{'_transpose' if transposed else ''}{dimensions}d"]
    assert after.conv.weight.shape == before.conv.weight.shape
    check_same_numbers(before, after, image(dimensions))


@pytest.mark.parametrize("has_bias", [True, False], ids=["bias", "no bias"])
def test_linear(has_bias: bool) -> None:
    """Test that a batch norm goes into a linear, and the weights have the values that theory says."""
    attributes = linear_attributes()
    old_bias = attributes["conv.bias"] if has_bias else torch.zeros(CHANNELS)
    if not has_bias:
        del attributes["conv.bias"]
    bias = BIAS if has_bias else "  %b : NoneType = prim::Constant()\n"
    before, after, count = run_alone(
        "fold_conv_bn", f"{HEAD}{bias}  %c : Tensor = {LINEAR}\n{TAIL}", attributes
    )
    assert count == 1
    assert ops_of(after) == ["aten::linear"]
    scale, shift = scale_and_shift(attributes)
    torch.testing.assert_close(after.conv.weight, attributes["conv.weight"] * scale[:, None])
    torch.testing.assert_close(after.conv.bias, old_bias * scale + shift)
    check_same_numbers(before, after, rows())


def test_text() -> None:
    """Test that weight and bias are read by the names they had, and nothing reads the batch norm any more."""
    _, after, _ = linear()
    FileCheck().check('prim::GetAttr[name="weight"]').check('prim::GetAttr[name="bias"]').check(
        "aten::linear(%x"
    ).check_not("prim::GetAttr").run(graph_text(after))
    FileCheck().check_not("running_mean").check_not("batch_norm").run(graph_text(after))


def test_second_run_finds_nothing() -> None:
    """Test that the pass does all in one run."""
    _, after, _ = linear()
    weight = after.conv.weight.clone()
    assert run_pass("fold_conv_bn", after) == 0
    torch.testing.assert_close(after.conv.weight, weight, atol=0, rtol=0)


def test_numbers_are_computed_in_double() -> None:
    """Test that folding costs no more than the last rounding."""
    attributes = linear_attributes()
    _, after, _ = run_alone("fold_conv_bn", f"{HEAD}{BIAS}  %c : Tensor = {LINEAR}\n{TAIL}", attributes)
    scale, _ = scale_and_shift({name: value.double() for name, value in attributes.items()})
    expected = (attributes["conv.weight"].double() * scale[:, None]).float()
    torch.testing.assert_close(after.conv.weight, expected, atol=0, rtol=0)


def test_weights_of_half_precision_keep_their_dtype() -> None:
    """Test that the folded weight and bias have the dtype of the weight, whatever the statistics have."""
    given = {name: value.half() for name, value in linear_attributes().items() if "running" not in name}
    _, after, count = linear(**given)
    assert count == 1
    assert (after.conv.weight.dtype, after.conv.bias.dtype) == (torch.float16, torch.float16)


def test_chain() -> None:
    """Test that of two batch norms behind one linear both go into it."""
    body = f"""  %c : Tensor = {LINEAR}
  %d : Tensor = {NORM}
  %y : Tensor = {NORM.replace("%c", "%d")}
  return (%y)"""
    before, after, count = linear(body)
    assert count == 2
    assert ops_of(after) == ["aten::linear"]
    check_same_numbers(before, after, rows())


def test_inside_a_branch() -> None:
    """Test that both ops inside one branch are folded."""
    text = f"""{HEAD.replace("%x : Tensor)", "%x : Tensor, %flag : bool)")}{BIAS}
  %y : Tensor = prim::If(%flag)
    block0():
      %c : Tensor = {LINEAR}
      %n : Tensor = {NORM}
      -> (%n)
    block1():
      -> (%x)
  return (%y)"""
    before, after, count = run_alone("fold_conv_bn", text, linear_attributes())
    assert count == 1
    assert ops_of(after) == ["prim::If", "aten::linear"]
    given = rows()
    for flag in (True, False):
        torch.testing.assert_close(after(given, flag), before(given, flag), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("left_out", ["%gamma", "%beta", "both"])
def test_without_affine(left_out: str) -> None:
    """Test that a batch norm without weight or bias or either is folded."""
    norm = NORM
    for name in ["%gamma", "%beta"] if left_out == "both" else [left_out]:
        norm = norm.replace(name, "%none")
    before, after, count = linear(f"  %c : Tensor = {LINEAR}\n  %y : Tensor = {norm}\n  return (%y)")
    assert count == 1
    assert ops_of(after) == ["aten::linear"]
    check_same_numbers(before, after, rows())


# Weights that are used more than once

TWICE = f"""
  %gamma.2 = prim::GetAttr[name="weight"](%bn.2)
  %mean.2 = prim::GetAttr[name="running_mean"](%bn.2)
  %c : Tensor = {LINEAR}
  %n : Tensor = {NORM}
  %c.2 : Tensor = aten::linear(%n, %w, %b)
"""


def square_attributes() -> dict[str, Tensor]:
    return {**linear_attributes(), "conv.weight": torch.randn(CHANNELS, CHANNELS), **norm_attributes("bn2")}


def two_sites(last: str) -> Run:
    """Two linears with one weight, the first of which has a batch norm behind it; then %y, made by `last`."""
    text = (
        HEAD
        + BIAS
        + '  %bn.2 = prim::GetAttr[name="bn2"](%self)\n'
        + f"{TWICE}  %y : Tensor = {last}\n  return (%y)"
    )
    return run_alone("fold_conv_bn", text, square_attributes())


def test_weight_with_two_batch_norms() -> None:
    """Test that each call site gets weights of its own, and the weight they shared stays as it was."""
    last = NORM.replace("%c,", "%c.2,").replace("%gamma", "%gamma.2").replace("%mean", "%mean.2")
    before, after, count = two_sites(last)
    assert count == 2
    assert ops_of(after) == ["aten::linear", "aten::linear"]
    torch.testing.assert_close(after.conv.weight, before.conv.weight, atol=0, rtol=0)
    FileCheck().check('name="weight_0"').check('name="bias_0"').check('name="weight_1"').check(
        'name="bias_1"'
    ).run(graph_text(after))
    check_same_numbers(before, after, rows(CHANNELS))


def test_weight_with_one_batch_norm_of_two() -> None:
    """Test that a call site without batch norm keeps the weight it had."""
    before, after, count = two_sites("aten::tanh(%c.2)")
    assert count == 1
    torch.testing.assert_close(after.conv.weight, before.conv.weight, atol=0, rtol=0)
    check_same_numbers(before, after, rows(CHANNELS))


def test_two_weights_of_one_module() -> None:
    """Test that two ops whose weights one module owns, and which have no bias, get a bias each."""
    body = f"""
  %w.2 = prim::GetAttr[name="weight_of_second"](%conv)
  %c : Tensor = aten::linear(%x, %w, %none)
  %n : Tensor = {NORM}
  %c.2 : Tensor = aten::linear(%n, %w.2, %none)
  %y : Tensor = {NORM.replace("%c,", "%c.2,").replace("%beta", "%none")}
  return (%y)"""
    text, attributes = HEAD + body, linear_attributes()
    del attributes["conv.bias"]
    attributes["conv.weight_of_second"] = torch.randn(CHANNELS, CHANNELS)
    before, after, count = run_alone("fold_conv_bn", text, attributes)
    assert count == 2
    check_same_numbers(before, after, rows())


def test_attribute_named_bias_that_something_else_reads() -> None:
    """Test that an op without bias does not take over an attribute of that name."""
    body = f"""  %c : Tensor = aten::linear(%x, %w, %none)
  %n : Tensor = {NORM}
  %y : Tensor = aten::add(%n, %b, %one)
  return (%y)"""
    before, after, count = linear(body)
    assert count == 1
    check_same_numbers(before, after, rows())


@pytest.mark.parametrize("value", [False, 3, "bias", [1, 2]], ids=repr)
def test_attribute_named_bias_that_is_no_tensor(value: Any) -> None:
    """Test that an op without bias is folded where its module has something else of that name."""
    body = f"  %c : Tensor = aten::linear(%x, %w, %none)\n{TAIL}"
    before, after, count = run_alone("fold_conv_bn", HEAD + body, {**linear_attributes(), "conv.bias": value})
    assert count == 1
    check_same_numbers(before, after, rows())


def test_bias_that_is_the_weight_of_another_module() -> None:
    """Test that a bias read from elsewhere does not overwrite the weight of the same name."""
    body = f"""  %elsewhere = prim::GetAttr[name="elsewhere"](%self)
  %e = prim::GetAttr[name="weight"](%elsewhere)
  %c : Tensor = aten::linear(%x, %w, %e)
{TAIL}"""
    before, after, count = linear(body, **{"elsewhere.weight": torch.randn(CHANNELS)})
    assert count == 1
    check_same_numbers(before, after, rows())


# What is left alone


def check_left_alone(run: Run, *inputs: Tensor) -> None:
    assert run.count == 0
    assert "aten::batch_norm" in ops_of(run.after)
    check_same_numbers(run.before, run.after, *(inputs or (rows(),)))


def test_not_folded_when_it_trains() -> None:
    """Test that a batch norm that normalizes with the statistics of its input stays."""
    training = NORM.replace("%false", "%true")
    check_left_alone(linear(f"  %c : Tensor = {LINEAR}\n  %y : Tensor = {training}\n  return (%y)"))


def test_not_folded_when_it_may_train() -> None:
    """Test that a batch norm stays that trains or not as an input says."""
    text = f"{HEAD}{BIAS}  %c : Tensor = {LINEAR}\n{TAIL}".replace("%false,", "%flag,")
    text = text.replace("%x : Tensor)", "%x : Tensor, %flag : bool)")
    before, after, count = run_alone("fold_conv_bn", text, linear_attributes())
    assert count == 0
    given = rows()
    for flag in (False, True):
        torch.testing.assert_close(after(given, flag), before(given, flag))


def test_not_folded_without_running_statistics() -> None:
    """Test that a batch norm that keeps no statistics stays."""
    norm = NORM.replace("%mean", "%none").replace("%var", "%none").replace("%false", "%true")
    check_left_alone(linear(f"  %c : Tensor = {LINEAR}\n  %y : Tensor = {norm}\n  return (%y)"))


@pytest.mark.parametrize("user", ["aten::tanh(%c)", "aten::mul(%c, %n)"])
def test_not_folded_when_its_input_is_used_elsewhere(user: str) -> None:
    """Test that an op whose output something else uses too stays as it is."""
    body = f"""  %c : Tensor = {LINEAR}
  %n : Tensor = {NORM}
  %t : Tensor = {user}
  %y : Tensor = aten::add(%n, %t, %one)
  return (%y)"""
    check_left_alone(linear(body))


def test_not_folded_when_its_input_is_returned_too() -> None:
    """Test that an op whose output the graph returns too stays as it is."""
    body = f"  %c : Tensor = {LINEAR}\n  %n : Tensor = {NORM}\n"
    body += "  %y : Tensor[] = prim::ListConstruct(%n, %c)\n  return (%y)"
    check_left_alone(linear(body))


def test_not_folded_behind_another_op() -> None:
    """Test that a batch norm behind an activation, or first in the graph, stays."""
    body = f"  %l : Tensor = {LINEAR}\n  %c : Tensor = aten::relu(%l)\n{TAIL}"
    check_left_alone(linear(body))
    check_left_alone(linear(TAIL.replace("%c,", "%x,")), rows(CHANNELS))


def test_not_folded_when_only_one_of_them_is_in_a_branch() -> None:
    """Test that a batch norm that runs only sometimes stays."""
    body = f"""
  %c : Tensor = {LINEAR}
  %y : Tensor = prim::If(%flag)
    block0():
      %n : Tensor = {NORM}
      -> (%n)
    block1():
      -> (%x)
  return (%y)"""
    text = HEAD.replace("%x : Tensor)", "%x : Tensor, %flag : bool)") + BIAS + body
    before, after, count = run_alone("fold_conv_bn", text, linear_attributes())
    assert count == 0
    given = rows()
    torch.testing.assert_close(after(given, True), before(given, True))


@pytest.mark.parametrize("dynamic", ["%w", "%b", "%gamma", "%beta", "%mean", "%var"])
def test_not_folded_when_a_part_is_computed(dynamic: str) -> None:
    """Test that nothing is folded where weight, bias, affine or statistics are not known."""
    body = re.sub(rf"{dynamic}\b", "%computed", f"  %c : Tensor = {LINEAR}\n{TAIL}")
    check_left_alone(linear(f"  %computed : Tensor = aten::abs({dynamic})\n{body}"))


WRITES = {
    "itself": "  %changed : Tensor = aten::mul_(%w, %two)\n",
    "a view": "  %row : Tensor = aten::select(%w, %one, %one)\n  %new : Tensor = aten::mul_(%row, %two)\n",
    "another name": "  %same : Tensor = aten::detach(%w)\n  %changed : Tensor = aten::mul_(%same, %two)\n",
}


@pytest.mark.parametrize("name", WRITES)
def test_not_folded_when_the_weight_is_changed(name: str) -> None:
    """Test that a weight that forward changes, directly or through a view, is not folded into."""
    run = linear(f"{WRITES[name]}  %c : Tensor = {LINEAR}\n{TAIL}")
    assert run.count == 0
    for _ in range(2):
        check_same_numbers(run.before, run.after, rows())


# On whole modules


def uneven(network: nn.Module) -> nn.Module:
    """The network in evaluation mode, with batch norms whose mistaken folding shows."""
    for module in network.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return network.eval()


def scripted(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(network)


def traced(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.trace(network, example)


def loaded(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    return saved_and_loaded(torch.jit.script(network))


def frozen(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.script(network), optimize_numerics=False)


def frozen_trace(network: nn.Module, *example: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.freeze(torch.jit.trace(network, example), optimize_numerics=False)


Form = Callable[..., torch.jit.ScriptModule]
every_form = pytest.mark.parametrize("form", [scripted, traced, loaded, frozen, frozen_trace])


def check_fused(form: Form, network: nn.Module, *example: Tensor, left: int = 0) -> torch.jit.ScriptModule:
    """All but `left` batch norms go, and the module gives the same, also after it was saved and loaded."""
    fused = fuse_conv_bn_jit(form(uneven(network), *example))
    assert ops_of(fused).count("aten::batch_norm") == left
    check_same_numbers(network, fused, *example)
    check_same_numbers(network, saved_and_loaded(fused), *example)
    return fused


NETWORKS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module]]] = {
    "conv1d": (lambda: nn.Conv1d(4, 6, 3), lambda: nn.BatchNorm1d(6)),
    "conv2d": (lambda: nn.Conv2d(4, 6, 3, groups=2), lambda: nn.BatchNorm2d(6)),
    "conv3d": (lambda: nn.Conv3d(4, 6, 3, bias=False), lambda: nn.BatchNorm3d(6)),
    "conv_transpose1d": (lambda: nn.ConvTranspose1d(4, 6, 3, bias=False), lambda: nn.BatchNorm1d(6)),
    "conv_transpose2d": (lambda: nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2), lambda: nn.BatchNorm2d(6)),
    "conv_transpose3d": (lambda: nn.ConvTranspose3d(4, 6, 3, groups=2), lambda: nn.BatchNorm3d(6)),
    "no affine": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6, affine=False)),
    "no momentum": (lambda: nn.Conv2d(4, 6, 3), lambda: nn.BatchNorm2d(6, momentum=None)),
    "same padding": (lambda: nn.Conv2d(4, 6, (2, 3), padding="same"), lambda: nn.BatchNorm2d(6)),
}


@every_form
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, form: Form) -> None:
    """Test that batch norms go from modules of each kind, in every form of TorchScript."""
    conv, norm = (make() for make in NETWORKS[name])
    check_fused(form, nn.Sequential(conv, norm), image(conv.weight.dim() - 2))


@every_form
def test_linear_network(form: Form) -> None:
    """Test that the batch norm behind a linear goes, in every form of TorchScript."""
    check_fused(form, nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6)), rows())


class SharedClass(nn.Module):
    """Convolutions of one class, of which each second has a batch norm; first and second have no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 4, 1, bias=False)
        self.third = nn.Conv2d(4, 4, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn3(self.third(torch.relu(self.second(self.bn1(self.first(x))))))


@every_form
def test_modules_that_share_a_class(form: Form) -> None:
    """Test that a network in which some convolutions get a bias and others of their class do not is right."""
    check_fused(form, SharedClass(), image(2))


def test_bias_given_to_one_module_of_a_class() -> None:
    """Test that a bias given to one convolution does not become one of others of its class."""
    network = SharedClass()
    fused = check_fused(scripted, network, image(2))
    assert fused.first.bias is not None
    assert fused.second.bias is None
    torch.testing.assert_close(fused.second.weight, network.second.weight, atol=0, rtol=0)


class Padded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3)
        self.bn = nn.BatchNorm2d(6)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.bn(self.conv(F.pad(x, [0, 1, 0, 1], value=0.5))))


class Reshaped(Padded):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 1, 3, 2).reshape(x.size(0), x.size(1), -1, 5).contiguous()
        return self.bn(self.conv(x)).flatten(1)


@every_form
@pytest.mark.parametrize("kind", [Padded, Reshaped])
def test_behind_other_ops(kind: type[nn.Module], form: Form) -> None:
    """Test that padding and ops on shapes before the convolution do not hinder."""
    check_fused(form, kind(), image(2))


class CalledTwice(nn.Module):
    """A convolution with two batch norms, and once without."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.bn2(self.conv(torch.relu(self.bn1(self.conv(x))))))


class ForEachNorm(CalledTwice):
    """The same convolution before each batch norm of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, x: Tensor) -> Tensor:
        for norm in self.norms:
            x = torch.relu(norm(self.conv(x)))
        return x


@every_form
@pytest.mark.parametrize("kind", [CalledTwice, ForEachNorm])
def test_module_called_twice(kind: type[nn.Module], form: Form) -> None:
    """Test that the weight is not folded twice, and call sites without batch norm stay right."""
    check_fused(form, kind(), image(2))


class UnderTwoNames(CalledTwice):
    def __init__(self) -> None:
        super().__init__()
        self.other = self.conv

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.other(torch.relu(self.bn1(self.conv(x)))))


@every_form
def test_module_that_has_two_names(form: Form) -> None:
    """Test that a convolution which the network calls by two names is folded right under both."""
    check_fused(form, UnderTwoNames(), image(2))


class Functional(nn.Module):
    """Weights of its own, and no bias."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.second = nn.Parameter(torch.randn(4, 4, 1, 1))
        self.bn1 = nn.BatchNorm2d(4)
        self.bn2 = nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(F.conv2d(torch.relu(self.bn1(F.conv2d(x, self.first))), self.second))


@every_form
def test_functional_network(form: Form) -> None:
    """Test that two weights of one module are folded each with a bias of its own."""
    check_fused(form, Functional(), image(2))


class UsedTwice(Padded):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + torch.sigmoid(y)


class Unstatistical(Padded):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(6, track_running_stats=False)


@every_form
@pytest.mark.parametrize("kind", [UsedTwice, Unstatistical])
def test_network_left_alone(kind: type[nn.Module], form: Form) -> None:
    """Test that a batch norm stays whose input is used elsewhere or that keeps no statistics."""
    check_fused(form, kind(), image(2), left=1)


class ReadByAnother(Padded):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return self.conv(x)


class WrittenByAnother(Padded):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        self.conv.weight.mul_(2)
        return x


class WrittenThroughView(Padded):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        self.conv.weight[0].mul_(2)
        return x


def double_it(weight: Tensor) -> None:
    weight.mul_(2)


class WrittenByFunction(Padded):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        double_it(self.conv.weight)
        return x


@pytest.mark.parametrize("kind", [ReadByAnother, WrittenByAnother, WrittenThroughView, WrittenByFunction])
def test_other_methods_stay_right(kind: type[nn.Module]) -> None:
    """Test that methods which forward does not call use the weight as before, and may change it."""
    script = torch.jit.script(uneven(kind()).requires_grad_(False))
    fused = fuse_conv_bn_jit(script)
    given = image(2)
    torch.testing.assert_close(fused.other(given), script.other(given))
    check_same_numbers(script, fused, given)


def test_weights_are_reachable_by_name() -> None:
    """Test that the folded values stand in the attributes that were there, and among the parameters."""
    network = uneven(Padded())
    fused = fuse_conv_bn_jit(torch.jit.script(network))
    scale = network.bn.weight / torch.sqrt(network.bn.running_var + EPS)
    bias = (network.conv.bias - network.bn.running_mean) * scale + network.bn.bias
    torch.testing.assert_close(fused.conv.weight, network.conv.weight * scale[:, None, None, None])
    torch.testing.assert_close(fused.conv.bias, bias)
    assert {"conv.weight", "conv.bias"} <= {name for name, _ in fused.named_parameters()}
    (conv,) = nodes_of(fused, "aten::conv2d")
    assert [conv.inputsAt(index).node().kind() for index in (1, 2)] == ["prim::GetAttr", "prim::GetAttr"]


def test_callers_module_is_unchanged() -> None:
    """Test that with inplace=False graph and weights are bit for bit what they were."""
    script = torch.jit.script(uneven(SharedClass()))
    graph, state = graph_text(script), {name: value.clone() for name, value in script.state_dict().items()}
    fused = fuse_conv_bn_jit(script)
    assert fused is not script
    assert graph_text(script) == graph
    assert script.first.bias is None
    assert list(script.state_dict()) == list(state)
    for name, value in script.state_dict().items():
        torch.testing.assert_close(value, state[name], atol=0, rtol=0)
    check_same_numbers(script, fused, image(2))


def test_copy_is_no_part_of_the_callers_gradients() -> None:
    """Test that training the copy leaves the gradients of the caller's module alone."""
    script = torch.jit.script(uneven(Padded()))
    fused = fuse_conv_bn_jit(script)
    assert all(parameter.is_leaf for parameter in fused.parameters())
    output = fused(image(2).requires_grad_())
    output.sum().backward()
    assert all(parameter.grad is None for parameter in script.parameters())


def test_callers_module_is_changed_in_place() -> None:
    """Test that with inplace=True the caller's module itself is folded and returned, the eager one not."""
    network = uneven(SharedClass())
    weight = network.first.weight.clone()
    script = torch.jit.script(network)
    fused = fuse_conv_bn_jit(script, inplace=True)
    assert fused is script
    assert "aten::batch_norm" not in ops_of(script)
    torch.testing.assert_close(network.first.weight, weight, atol=0, rtol=0)
    check_same_numbers(network, script, image(2))
    check_same_numbers(network, saved_and_loaded(script), image(2))


def test_other_module_of_the_same_class_is_unchanged() -> None:
    """Test that a second module scripted from the same class runs as before, also after inplace=True."""
    first, second = uneven(SharedClass()), uneven(SharedClass())
    script, other = torch.jit.script(first), torch.jit.script(second)
    fuse_conv_bn_jit(script, inplace=True)
    assert "prim::CallMethod" in ops_of(other)
    check_same_numbers(second, other, image(2))


def test_training_mode_is_refused() -> None:
    """Test that a module in training mode is refused, and stays as it was."""
    script = torch.jit.script(Padded().train())
    graph = graph_text(script)
    with pytest.raises(QuantizationError, match=r"fuse_conv_bn_jit: the model is in training mode; call"):
        fuse_conv_bn_jit(script)
    assert graph_text(script) == graph


def test_scope_is_that_of_the_convolution() -> None:
    """Test that the op keeps its module path, and what reads its weights has it too."""
    copy = working_copy(torch.jit.script(uneven(nn.Sequential(Padded()))))
    run_passes(FUSE_PASSES, copy)
    (conv,) = nodes_of(copy, "aten::conv2d")
    assert conv.scopeName() == "0.conv"
    assert {conv.inputsAt(index).node().scopeName() for index in (1, 2)} == {"0.conv"}


def test_not_folded_behind_a_linear_whose_output_has_space() -> None:
    """Test that BatchNorm2d behind a linear, which is about another dimension than the features, stays."""

    class LinearNorm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(6, 4), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.linear(x))

    model = torch.jit.script(uneven(LinearNorm()))
    folded = fuse_conv_bn_jit(model)
    assert "aten::batch_norm" in ops_of(folded)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(folded(x), model(x))
