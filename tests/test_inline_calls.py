"""Tests of inline_calls: bodies stand where calls stood, and each node knows the module it came from."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.testing import FileCheck

from jitquant.passes import PassOptions, describe_nodes, run_pass
from tests.graphs import (
    check_same_numbers,
    graph_text,
    nodes_of,
    ops_of,
    run_alone,
    saved_and_loaded,
    scopes_of,
    working_copy,
)

CALLS = ("prim::CallMethod", "prim::CallFunction")
IMAGE = torch.linspace(-1, 1, 2 * 3 * 4 * 4).reshape(2, 3, 4, 4)


def conv() -> nn.Conv2d:
    return nn.Conv2d(3, 3, 1)


def double(x: Tensor) -> Tensor:
    return torch.mul(x, 2)


def double_of_sigmoid(x: Tensor) -> Tensor:
    return double(torch.sigmoid(x))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = conv()
        self.conv2 = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(torch.relu(self.conv1(x))) + x


class Layered(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = conv()
        self.layer1 = nn.Sequential(Block(), Block())

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.layer1(self.stem(x)))


LAYERED_SCOPES = ["stem", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "layer1.1.conv2"]


class Containers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([conv(), nn.Sequential(nn.Sequential(conv()))])
        self.heads = nn.ModuleDict({"left": conv(), "right": conv()})

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        for head in self.heads.values():
            x = head(x)
        return self.blocks[0](x)


class Reaching(nn.Module):
    """Calls what lies deeper, and uses a weight of it."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, x: Tensor) -> Tensor:
        return torch.mul(self.block.conv1(x), self.block.conv2.weight.mean())


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(torch.relu(self.conv(x)))


class InBlocks(nn.Module):
    """Calls in a branch and in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.act = nn.Hardtanh()

    def forward(self, x: Tensor) -> Tensor:
        if x.size(0) > 1:
            x = self.conv(x)
        for _ in range(x.size(1)):
            x = self.act(x)
        return x


class Functions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = CallsFunction()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(double(x))


class CallsFunction(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return double_of_sigmoid(x)


class Methods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()

    def forward(self, x: Tensor) -> Tensor:
        return self.encoder.encode(x)


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return torch.tanh(self.conv(self.scaled(x)))

    def scaled(self, x: Tensor) -> Tensor:
        return torch.mul(x, 3)


def inlined(module: nn.Module, preserved_attrs: tuple[str, ...] = ()) -> torch.jit.ScriptModule:
    """A copy of the module, scripted if it is not TorchScript yet, after inline_calls."""
    script = module if isinstance(module, torch.jit.ScriptModule) else torch.jit.script(module.eval())
    copy = working_copy(script)
    run_pass("inline_calls", copy, PassOptions(preserved_attrs=preserved_attrs))
    return copy


def is_call(kind: str) -> bool:
    return kind in CALLS


@pytest.mark.parametrize("kind", [Layered, Containers, Reaching, Shared, InBlocks, Functions, Methods])
def test_no_call_is_left(kind: type[nn.Module]) -> None:
    """Test that every call is inlined, and that the module gives the same."""
    network = kind().eval()
    after = inlined(network)
    assert not [op for op in ops_of(after) if is_call(op)]
    check_same_numbers(network, after, IMAGE)


def test_count_is_that_of_the_calls() -> None:
    """Test that each call counts once, at every depth, and that a second run finds none."""
    copy = working_copy(torch.jit.script(Reaching().eval()))
    assert run_pass("inline_calls", copy) == 2  # Conv2d.forward and Conv2d._conv_forward
    assert run_pass("inline_calls", copy) == 0


def test_scope_is_printed_as_a_dotted_path() -> None:
    """Test that the printed graph names the module of each node as the user would."""
    text = graph_text(inlined(Layered()))
    FileCheck().check("aten::conv2d").check_same("scope: stem").check("aten::conv2d").check_same(
        "scope: layer1.0.conv1"
    ).run(text)
    FileCheck().check_not("__module").check_not("/").run(text)


@pytest.mark.parametrize("load", [False, True], ids=["scripted", "loaded"])
def test_scripted_scopes(load: bool) -> None:
    """Test that nodes of nested modules carry their paths, in a model from disk too."""
    script = torch.jit.script(Layered().eval())
    after = inlined(saved_and_loaded(script) if load else script)
    assert scopes_of(after, "aten::conv2d") == LAYERED_SCOPES
    assert scopes_of(after, "aten::relu") == ["layer1.0", "layer1.1"]
    assert scopes_of(after, "aten::tanh") == [""]


@pytest.mark.parametrize("load", [False, True], ids=["traced", "loaded"])
def test_traced_scopes(load: bool) -> None:
    """Test that a traced model gets the same paths as a scripted one."""
    network = Layered().eval()
    traced = torch.jit.trace(network, IMAGE)
    after = inlined(saved_and_loaded(traced) if load else traced)
    assert not [op for op in ops_of(after) if is_call(op)]
    assert scopes_of(after, "aten::_convolution") == LAYERED_SCOPES
    assert scopes_of(after, "aten::relu") == ["layer1.0", "layer1.1"]
    assert scopes_of(after, "aten::tanh") == [""]
    check_same_numbers(network, after, IMAGE)


def test_containers() -> None:
    """Test that loops over ModuleList and ModuleDict, and indexing, give the paths of their elements."""
    after = inlined(Containers())
    expected = ["blocks.0", "blocks.1.0.0", "heads.left", "heads.right", "blocks.0"]
    assert scopes_of(after, "aten::conv2d") == expected


def test_attribute_of_attribute() -> None:
    """Test that the path is that of the module called, however it was reached."""
    after = inlined(Reaching())
    assert scopes_of(after, "aten::conv2d") == ["block.conv1"]
    assert scopes_of(after, "aten::mean") == [""]


def test_shared_module_is_two_call_sites() -> None:
    """Test that a module called twice gives two ops with one path."""
    assert scopes_of(inlined(Shared()), "aten::conv2d") == ["conv", "conv"]


def test_blocks_inside() -> None:
    """Test that calls in branches and loops are inlined, and blocks of a callee get its path."""
    after = inlined(InBlocks())
    assert scopes_of(after, "aten::conv2d") == ["conv"]
    assert set(scopes_of(after, "aten::hardtanh_") + scopes_of(after, "aten::hardtanh")) == {"act"}
    assert scopes_of(after, "prim::Loop") == [""]
    shapes = IMAGE, IMAGE[:1]
    for given in shapes:
        check_same_numbers(working_copy(after), after, given)


def test_functions_belong_to_the_module_that_calls_them() -> None:
    """Test that a function's nodes get the path of the module that called it, however deep."""
    after = inlined(Functions())
    assert scopes_of(after, "aten::mul") == ["", "inner"]
    assert scopes_of(after, "aten::sigmoid") == ["inner"]


def test_methods_belong_to_their_module() -> None:
    """Test that a method other than forward, and one it calls itself, give nodes of their module."""
    after = inlined(Methods())
    assert scopes_of(after, "aten::tanh") == ["encoder"]
    assert scopes_of(after, "aten::mul") == ["encoder"]
    assert scopes_of(after, "aten::conv2d") == ["encoder.conv"]


def test_source_line_is_the_users() -> None:
    """Test that a node is named by op, the user's line and module path."""
    line = Block.forward.__code__.co_firstlineno + 1
    assert f"aten::conv2d at test_inline_calls.py:{line} (layer1.1.conv1)" in describe_nodes(
        inlined(Layered())
    )


def test_submodules_keep_their_methods() -> None:
    """Test that a submodule can still be called by itself, and that its graph is not the inlined one."""
    network = Layered().eval()
    after = inlined(network)
    check_same_numbers(network.layer1, after.layer1, IMAGE)
    FileCheck().check("prim::CallMethod").run(graph_text(after.layer1))


def test_frozen_model_has_nothing_to_inline() -> None:
    """Test that a frozen model is left as it is."""
    frozen = working_copy(torch.jit.freeze(torch.jit.script(Layered().eval()), optimize_numerics=False))
    before = graph_text(frozen)
    assert run_pass("inline_calls", frozen) == 0
    assert graph_text(frozen) == before


# Methods of the top module


class Helpers(nn.Module):
    """forward calls first, and first calls second."""

    def forward(self, x: Tensor) -> Tensor:
        return self.first(x)

    def first(self, x: Tensor) -> Tensor:
        return self.second(x) + 1

    def second(self, x: Tensor) -> Tensor:
        return x * 2


class HelpersAndExported(Helpers):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return x - 1


class HelpersSharedWithExported(Helpers):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return self.second(x) - 1


class ExportedReachesHelperThroughHelper(Helpers):
    @torch.jit.export
    def other(self, x: Tensor) -> Tensor:
        return self.first(x) - 1


class Forks(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        future = torch.jit.fork(self.helper, x)
        return self.helper(x) + torch.jit.wait(future)

    def helper(self, x: Tensor) -> Tensor:
        return x * 2


def has_method(module: torch.jit.ScriptModule, name: str) -> bool:
    return module._c._has_method(name)


def test_helpers_of_the_top_module_go() -> None:
    """Test that methods which only inlined ones called are dropped, and exported ones stay."""
    after = inlined(HelpersAndExported())
    assert [has_method(after, name) for name in ("forward", "first", "second", "other")] == [
        True,
        False,
        False,
        True,
    ]
    torch.testing.assert_close(after(torch.ones(2)), torch.full((2,), 3.0))
    torch.testing.assert_close(after.other(torch.ones(2)), torch.zeros(2))


def test_preserved_helper_stays() -> None:
    """Test that a helper named in preserved_attrs stays callable."""
    after = inlined(Helpers(), ("second",))
    assert not has_method(after, "first")
    torch.testing.assert_close(after.second(torch.ones(2)), torch.full((2,), 2.0))


def test_helper_that_an_exported_method_calls_stays() -> None:
    """Test that an exported method still finds the helper it calls."""
    after = inlined(HelpersSharedWithExported())
    assert not has_method(after, "first")
    torch.testing.assert_close(after.other(torch.ones(2)), torch.ones(2))


def test_helper_of_a_helper_that_an_exported_method_calls_stays() -> None:
    """Test that an exported method still finds what its helpers call in turn."""
    after = inlined(ExportedReachesHelperThroughHelper())
    torch.testing.assert_close(after.other(torch.ones(2)), torch.full((2,), 2.0))


def test_helper_of_a_preserved_helper_stays() -> None:
    """Test that a preserved helper can be called, though it calls another helper."""
    after = inlined(Helpers(), ("first",))
    torch.testing.assert_close(after.first(torch.ones(2)), torch.full((2,), 3.0))


def test_helper_that_is_also_forked_stays() -> None:
    """Test that a helper called inside torch.jit.fork is not taken away."""
    network = Forks().eval()
    check_same_numbers(network, inlined(network), torch.ones(2))


# What is left alone


def test_observer_calls_stay() -> None:
    """Test that the call of an observer is not inlined."""
    text = """
graph(%self, %x : Tensor):
  %observer = prim::GetAttr[name="_observer_0"](%self)
  %y : Tensor = prim::CallMethod[name="forward"](%observer, %x)
  %act = prim::GetAttr[name="act"](%self)
  %z : Tensor = prim::CallMethod[name="forward"](%act, %y)
  return (%z)"""
    act = torch.jit.script(nn.Tanh())
    before, after, count = run_alone("inline_calls", text, {"_observer_0": act, "act": act})
    assert count == 1
    assert ops_of(after) == ["prim::CallMethod", "aten::tanh"]
    check_same_numbers(before, after, IMAGE)


@torch.jit.interface
class Activation(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class Tanh(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x)


class ThroughInterface(nn.Module):
    act: Activation

    def __init__(self) -> None:
        super().__init__()
        self.act = Tanh()
        self.conv = conv()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


def test_interface_calls_stay() -> None:
    """Test that a call through a module interface, whose body may be exchanged, is not inlined."""
    network = ThroughInterface().eval()
    copy = working_copy(torch.jit.script(network))
    run_pass("inline_calls", copy)
    assert ops_of(copy) == ["aten::conv2d", "prim::CallMethod"]
    check_same_numbers(network, copy, IMAGE)


@torch.jit.ignore
def in_python(x: Tensor) -> Tensor:
    return x + 1


class CallsPython(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return in_python(double(x))


def test_python_functions_stay() -> None:
    """Test that a function that is not TorchScript is still called."""
    copy = working_copy(torch.jit.script(CallsPython().eval()))
    assert run_pass("inline_calls", copy) == 1
    assert ops_of(copy) == ["aten::mul", "prim::PythonOp"]
    torch.testing.assert_close(copy(torch.ones(2)), torch.full((2,), 3.0))


def add_one(self: nn.Module, given: tuple[Tensor], output: Tensor) -> Tensor:
    return output + 1


class Hooked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.act = nn.Tanh()
        self.act.register_forward_hook(add_one)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.act(x))


def test_hooks_are_inlined() -> None:
    """Test that a forward hook of a submodule runs after its body."""
    network = Hooked().eval()
    after = inlined(network)
    assert [node.kind() for node in nodes_of(after) if node.kind() in ("aten::tanh", "aten::add")] == [
        "aten::tanh",
        "aten::add",
    ]
    check_same_numbers(network, after, IMAGE)
