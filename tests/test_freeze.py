"""Tests of freeze: attributes become constants, what nobody reads goes, and what the user asked for stays."""

import io

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.passes import PassOptions, run_pass
from tests.graphs import check_same_numbers, graph_of, nodes_of, ops_of, working_copy
from tests.quantized_ir import QINT8, constants, run_with

WEIGHTED = f"""
graph(%self, %x : Tensor):
  %conv = prim::GetAttr[name="conv"](%self)
  %weight : Tensor = prim::GetAttr[name="weight"](%conv)
  %scale : float = prim::GetAttr[name="_scale_0"](%self)
{constants(none=None)}
  %l : Tensor = aten::linear(%x, %weight, %none)
  %y : Tensor = aten::mul(%l, %scale)
  return (%y)"""


class Model(nn.Module):
    """A model with what people keep beside the forward pass."""

    calls: int
    names: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)
        self.names = ["cat", "dog", "bird"]
        self.version = 7
        self.register_buffer("mean", torch.tensor([0.1, 0.2, 0.3, 0.4]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.linear(x - self.mean))

    @torch.jit.export
    def features(self, x: Tensor) -> Tensor:
        return self.linear(x - self.mean)

    @torch.jit.export
    def name_of(self, index: int) -> str:
        return self.names[index]


class Cluttered(nn.Module):
    """A model that reads one of its parts only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.unused = nn.Linear(4, 3)
        self.version = 7
        self.register_buffer("mean", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x)


class Counting(nn.Module):
    """A model that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.linear(x)


def inlined(model: nn.Module) -> torch.jit.ScriptModule:
    """A scripted copy in evaluation mode with one graph for each method, as freezing gets it."""
    module = working_copy(torch.jit.script(model.eval()))
    run_pass("inline_calls", module)
    return module


def test_attributes_become_constants() -> None:
    """Test that tensors and numbers, of submodules too, are constants, and the results are the same."""
    run = run_with("freeze", WEIGHTED, {"conv.weight": torch.randn(5, 4), "_scale_0": 0.25})
    assert run.count == 3
    assert nodes_of(run.after, "prim::GetAttr") == []
    FileCheck().check("prim::Constant").check("aten::linear").run(graph_of(run.after))
    check_same_numbers(run.before, run.after, torch.randn(2, 4))


def test_what_depends_on_constants_is_computed() -> None:
    """Test that a weight is quantized once, while freezing."""
    text = f"""
graph(%self, %x : Tensor):
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
{constants(none=None, scale=0.02, zero=0, dtype=QINT8)}
  %q : Tensor = aten::quantize_per_tensor(%weight, %scale, %zero, %dtype)
  %d : Tensor = aten::dequantize(%q)
  %y : Tensor = aten::linear(%x, %d, %none)
  return (%y)"""
    run = run_with("freeze", text, {"weight": torch.randn(5, 4)})
    assert ops_of(run.after) == ["aten::dequantize", "aten::linear"]
    check_same_numbers(run.before, run.after, torch.randn(2, 4))


def test_what_nobody_reads_goes() -> None:
    """Test that no parameter, buffer or submodule is left that forward does not need."""
    module = inlined(Cluttered())
    run_pass("freeze", module)
    frozen = torch.jit._recursive.wrap_cpp_module(module._c)
    assert dict(frozen.named_modules()).keys() == {""}
    assert [*frozen.parameters(), *frozen.buffers()] == []
    assert not any(frozen._c.hasattr(name) for name in ("linear", "unused", "version", "mean"))


@pytest.mark.parametrize(("name", "value"), [("version", 7), ("names", ["cat", "dog", "bird"])])
def test_a_preserved_attribute_stays(name: str, value: object) -> None:
    """Test that an attribute which the user named can be read afterwards, saved and loaded too."""
    module = inlined(Model())
    run_pass("freeze", module, PassOptions(preserved_attrs=[name]))
    assert module._c.getattr(name) == value
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    assert getattr(torch.jit.load(file), name) == value


def test_a_preserved_tensor_stays_and_counts() -> None:
    """Test that a preserved buffer is read at each call, so that changing it changes the result."""
    model = Model()
    module = inlined(model)
    run_pass("freeze", module, PassOptions(preserved_attrs=["mean"]))
    x = torch.randn(2, 4)
    torch.testing.assert_close(module(x), model(x))
    module._c.getattr("mean").zero_()
    torch.testing.assert_close(module(x), torch.relu(model.linear(x)))


def test_a_preserved_submodule_stays() -> None:
    """Test that a submodule which the user named keeps its parameters."""
    model = Model()
    module = inlined(model)
    run_pass("freeze", module, PassOptions(preserved_attrs=["unused"]))
    assert torch.equal(module._c.getattr("unused").getattr("weight"), model.unused.weight)


def test_methods_stay() -> None:
    """Test that every method is still there, whether it was named or not, and works on what it reads."""
    model = Model()
    module = inlined(model)
    run_pass("freeze", module)
    wrapped = torch.jit._recursive.wrap_cpp_module(module._c)
    x = torch.randn(2, 4)
    torch.testing.assert_close(wrapped.features(x), model.features(x))
    assert wrapped.name_of(1) == "dog"
    torch.testing.assert_close(wrapped(x), model(x))


def test_an_attribute_that_forward_writes_stays() -> None:
    """Test that a counter goes on counting."""
    module = inlined(Counting())
    run_pass("freeze", module)
    for _ in range(3):
        module(torch.randn(2, 4))
    assert module._c.getattr("calls") == 3


def test_nothing_to_freeze() -> None:
    """Test that a graph without attributes is left as it is, with a count of 0."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::erf(%x)
  return (%y)"""
    run = run_with("freeze", text)
    assert run.count == 0
    assert ops_of(run.after) == ["aten::erf"]
