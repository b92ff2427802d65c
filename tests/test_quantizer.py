"""Tests of quantizers: what they are told of each op, how they are composed, and what they may not return."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

import jitquant
from jitquant import (
    ComposedQuantizer,
    OpNode,
    QConfig,
    QConfigMapping,
    QuantizationError,
    Quantizer,
    get_default_qconfig,
    summarize,
)
from jitquant.observers import MinMaxObserver, WeightMinMaxObserver
from jitquant.passes import PassOptions, parse_ir, run_pass
from jitquant.pipeline import BEFORE_OBSERVING, run_passes
from jitquant.quantizer import choose_qconfigs, compile_observers, list_ops
from tests.graphs import saved_and_loaded, working_copy
from tests.quantized_ir import constants

QCONFIG = get_default_qconfig()
SIX_BITS = QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=63), WeightMinMaxObserver.with_args())


class EveryOtherLinear:
    """Quantizes the first linear, the third, and so on; says nothing of anything else."""

    def __init__(self, qconfig: QConfig) -> None:
        self.qconfig = qconfig

    def annotate(self, graph: Sequence[OpNode]) -> dict[OpNode, QConfig | None]:
        linears = [node for node in graph if node.op == "linear"]
        return dict.fromkeys(linears[::2], self.qconfig)


class Says:
    """Says of each node what it is told to, a function of the node; or the same of all."""

    def __init__(self, say: Any) -> None:
        self.say = say

    def annotate(self, graph: Sequence[OpNode]) -> Any:
        return {node: self.say(node) if callable(self.say) else self.say for node in graph}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(*[nn.Linear(4, 4) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


X = torch.randn(3, 4)


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(Layers().eval())


def traced() -> torch.jit.ScriptModule:
    return torch.jit.trace(Layers().eval(), X)


MODELS = {
    "scripted": scripted,
    "traced": traced,
    "loaded": lambda: saved_and_loaded(scripted()),
    "frozen": lambda: torch.jit.freeze(scripted()),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def canonical(model: torch.jit.ScriptModule, *methods: str) -> torch.jit.ScriptModule:
    module = working_copy(model)
    run_passes(BEFORE_OBSERVING, module, methods=methods or ("forward",))
    return module


# Whole models


@every_model
def test_every_other_linear(make: Any) -> None:
    """Test that a quantizer's choice is what becomes of each op, and the rest stays float."""
    model = jitquant.quantize_jit(make(), EveryOtherLinear(QCONFIG), lambda m: m(X), [])
    assert [op.is_integer for op in summarize(model).ops] == [True, False, True, False]
    assert {op.reason for op in summarize(model).ops if not op.is_integer} == {"its qconfig is None"}
    assert jitquant.info(model)["qconfig"].popitem()[1] == "float"


def test_a_mapping_is_a_quantizer() -> None:
    """Test that a mapping, and the same said by code, make the same module."""
    mapping = QConfigMapping().set_global(QCONFIG).set_module_name("layers.1", None)
    assert isinstance(mapping, Quantizer)
    by_code = Says(lambda node: None if node.module == "layers.1" else QCONFIG)
    model = scripted()
    by_data, as_said = jitquant.prepare_jit(model, mapping), jitquant.prepare_jit(model, by_code)
    assert summarize(by_data) == summarize(as_said)
    assert {op.module: op.is_integer for op in summarize(by_data).ops} == {
        "layers.0": True,
        "layers.1": False,
        "layers.2": True,
        "layers.3": True,
    }


def test_a_file_says_what_a_quantizer_chose() -> None:
    """Test that each op and its qconfig in words are in the module, by method where there are several."""
    facts = jitquant.info(jitquant.prepare_jit(scripted(), EveryOtherLinear(SIX_BITS)))
    assert facts["qconfig"] == {
        "linear 0 of layers.0": SIX_BITS.describe(),
        "linear 0 of layers.1": "float",
        "linear 0 of layers.2": SIX_BITS.describe(),
        "linear 0 of layers.3": "float",
    }


def test_qconfigs_of_torch_may_be_returned() -> None:
    """Test that a quantizer can choose a qconfig of torch.ao."""
    prepared = jitquant.prepare_jit(scripted(), Says(ao.get_default_qconfig("x86")))
    assert all(op.is_integer for op in summarize(prepared).ops)


@pytest.mark.parametrize("stop_after", ["inline_calls", "fold_conv_bn"])
def test_a_quantizer_is_not_asked_before_its_place(stop_after: str) -> None:
    """Test that stopping before observers are inserted asks nothing."""

    def refuse(node: OpNode) -> None:
        raise AssertionError(node)

    jitquant.prepare_jit(scripted(), Says(refuse), stop_after=stop_after)


# What a node says


def test_a_node_says_where_it_is_and_what() -> None:
    """Test the op, module, class, line, place, weight and producers of each node of a small model."""

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x))
            z = torch.relu(y) + torch.erf(y)
            return torch.relu(torch.cat([z, y], 1))

    graph = list_ops(canonical(torch.jit.script(Small().eval())))
    conv, relu, add, cat, last = graph
    assert [node.op for node in graph] == ["conv2d", "relu", "add", "cat", "relu"]
    assert [node.index for node in graph] == [0, 1, 2, 3, 4]
    assert (conv.module, conv.module_type) == ("conv", "torch.nn.modules.conv.Conv2d")
    assert (add.module, add.module_type) == ("", f"{__name__}.Small")
    assert conv.weight_shape == (4, 3, 1, 1)
    assert add.weight_shape is None
    assert conv.source.startswith("test_quantizer.py:")
    assert str(conv) == f"conv2d at {conv.source} (conv)"
    assert (relu.order, last.order) == (0, 1)
    assert [node.producers for node in graph] == [(), (conv,), (relu,), (conv, add), (cat,)]
    assert conv != OpNode("forward", 0, "conv2d", "conv")
    assert "producers" not in repr(last)
    with pytest.raises(AttributeError):
        conv.op = "linear"  # type: ignore[misc]


def test_producers_are_found_through_branches_loops_and_lists() -> None:
    """Test that what an `if` may give, what enters a loop and what a list holds is followed to its ops."""
    text = f"""
graph(%self, %x : Tensor, %choice : bool, %rounds : int):
{constants(n=2, one=1)}
  %go : bool = prim::Constant[value=1]()
  %a : Tensor = aten::hardswish(%x)
  %b : Tensor = prim::If(%choice)
    block0():
      %c : Tensor = aten::tanh(%a)
      -> (%c)
    block1():
      -> (%a)
  %d : Tensor = aten::relu(%b)
  %e : Tensor = prim::Loop(%rounds, %go, %d)
    block0(%i : int, %f : Tensor):
      %g : Tensor = aten::sigmoid(%f)
      -> (%go, %g)
  %list : Tensor[] = aten::chunk(%e, %n, %one)
  %h : Tensor, %j : Tensor = prim::ListUnpack(%list)
  %y : Tensor = aten::mul(%h, %j)
  return (%y)"""
    graph = list_ops(parse_ir(text))
    producers = {node.op: [each.op for each in node.producers] for node in graph}
    assert producers == {
        "hardswish": [],
        "tanh": ["hardswish"],
        "relu": ["hardswish", "tanh"],
        "sigmoid": ["relu"],
        "chunk": ["relu", "sigmoid"],
        "mul": ["chunk"],
    }


def test_nodes_of_all_methods_are_given() -> None:
    """Test that a quantizer sees method after method, each counted from 0."""

    class TwoWays(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x) + x

        @torch.jit.export
        def other(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    model = torch.jit.script(TwoWays().eval())
    methods = ("forward", "other")
    graph = list_ops(canonical(model, *methods), methods)
    assert [(node.method, node.index, node.op, node.order) for node in graph] == [
        ("forward", 0, "relu", 0),
        ("forward", 1, "add", 0),
        ("other", 0, "relu", 0),
    ]
    only_other = Says(lambda node: QCONFIG if node.method == "other" else None)
    with pytest.warns(UserWarning, match="no op of the model has an integer form"):
        prepared = jitquant.prepare_jit(model, only_other, methods=methods)
    assert {op.method for op in summarize(prepared).ops if op.reason == "its qconfig is None"} == {"forward"}
    assert set(jitquant.info(prepared)["qconfig"]) == {
        "forward: relu 0 of the model itself",
        "forward: add 0 of the model itself",
        "other: relu 0 of the model itself",
    }


def test_a_long_chain_is_listed_and_chosen_from() -> None:
    """Test that thousands of nodes are no problem, whatever hangs on producers."""
    lines = "\n".join(f"  %{i + 1} : Tensor = aten::relu(%{i})" for i in range(5000))
    graph = list_ops(parse_ir(f"graph(%self, %0 : Tensor):\n{lines}\n  return (%5000)"))
    assert len(QConfigMapping().set_global(QCONFIG).annotate(graph)) == 5000
    assert len(repr(graph[-1])) < 500


# Observers


def test_observers_are_compiled_once_for_each_qconfig() -> None:
    """Test that nodes of one qconfig share the prototypes, and equal qconfigs are one."""
    chosen = choose_qconfigs(Says(lambda node: get_default_qconfig()), canonical(scripted()))
    pairs = compile_observers(chosen)["forward"]
    assert len(pairs) == 4
    assert len({id(pair) for pair in pairs}) == 1
    two = compile_observers(dict(zip(chosen, (QCONFIG, SIX_BITS, None, QCONFIG), strict=True)))["forward"]
    assert two[0] is two[3]
    assert two[1] is not two[0]
    assert two[2] is None


def test_observers_for_another_graph_are_refused() -> None:
    """Test that the pass refuses an assignment whose length is not that of the graph."""
    model = canonical(scripted())
    observers = compile_observers(choose_qconfigs(Says(QCONFIG), model))
    options = PassOptions(observers={"forward": observers["forward"][:3]})
    with pytest.raises(
        QuantizationError, match=r"insert_observers: forward has 4 ops .* chosen for 3; run no"
    ):
        run_pass("insert_observers", model, options)


# Composition


def test_the_later_of_two_quantizers_decides() -> None:
    """Test that a later one overrides where it names a node, with None too, and nowhere else."""
    whole = QConfigMapping().set_global(QCONFIG)
    composed = ComposedQuantizer([whole, EveryOtherLinear(SIX_BITS), Only("layers.2", None)])
    assert isinstance(composed, Quantizer)
    model = canonical(scripted())
    assert list(choose_qconfigs(composed, model).values()) == [SIX_BITS, QCONFIG, None, QCONFIG]
    reversed_order = ComposedQuantizer(list(composed.quantizers)[::-1])
    assert set(choose_qconfigs(reversed_order, model).values()) == {QCONFIG}
    nested = ComposedQuantizer([ComposedQuantizer([whole]), Only("layers.0", None)])
    assert list(choose_qconfigs(nested, model).values()) == [None, QCONFIG, QCONFIG, QCONFIG]


class Only:
    """Says something of one module only."""

    def __init__(self, module: str, qconfig: QConfig | None) -> None:
        self.module, self.qconfig = module, qconfig

    def annotate(self, graph: Sequence[OpNode]) -> Mapping[OpNode, QConfig | None]:
        return {node: self.qconfig for node in graph if node.module == self.module}


def test_mappings_inside_a_composition_are_checked() -> None:
    """Test that a wrong path is refused wherever the mapping stands."""
    composed = ComposedQuantizer([Only("layers.0", None), QConfigMapping().set_module_name("layer.0", None)])
    with pytest.raises(QuantizationError, match=r"names 'layer.0', .*did you mean 'layers.0'"):
        jitquant.prepare_jit(scripted(), composed)


# Refused


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "there is nothing to compose; pass a list of quantizers"),
        ([{"": QCONFIG}], "dict is no quantizer; pass objects with annotate"),
        ([QConfigMapping], "QConfigMapping is no quantizer; pass objects with annotate"),
    ],
)
def test_what_cannot_be_composed_is_refused(parts: Any, message: str) -> None:
    """Test that a composition is checked when it is made."""
    with pytest.raises(TypeError, match=message):
        ComposedQuantizer(parts)


class Returns:
    def __init__(self, value: Any) -> None:
        self.value = value

    def annotate(self, graph: Sequence[OpNode]) -> Any:
        return self.value


class Unscriptable(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + len(globals())


@pytest.mark.parametrize(
    ("quantizer", "message"),
    [
        (Returns([]), r"Returns.annotate returned a list; return a dict from nodes of the graph"),
        (Returns({"linear": QCONFIG}), r"Returns.annotate names 'linear', which is no node of the graph"),
        (
            Returns({OpNode("forward", 0, "linear"): QCONFIG}),
            r"names OpNode\(.*, which is no node of the graph; take nodes from the graph",
        ),
        (Says(8), r"Says.annotate, of linear at \S+ \(layers.0\): qconfig: a int has no callable activation"),
        (
            Says(QConfig(Unscriptable, Unscriptable)),
            r"the qconfig of linear at \S+ \(layers.0\): .* cannot compile Unscriptable",
        ),
        (ComposedQuantizer([Returns(None)]), r"Returns.annotate returned a NoneType"),
        (QConfigMapping, r"qconfig_dict is a type; pass a dict"),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_wrong_annotations_are_refused(quantizer: Any, message: str, inplace: bool) -> None:
    """Test that what a quantizer may not return is named, with the remedy, and the model stays as it was."""
    model = scripted()
    before, expected = str(model.graph), model(X)
    with pytest.raises(QuantizationError, match=message):
        jitquant.prepare_jit(model, quantizer, inplace)
    assert str(model.graph) == before
    assert torch.equal(model(X), expected)
