"""Tests of insert_observers: what is observed, where, by which observer, and what is kept float."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.observers import (
    MinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    WeightMinMaxObserver,
)
from jitquant.passes import PassOptions, parse_ir, run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from jitquant.qconfig import (
    QConfig,
    default_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
    make_observers,
)
from jitquant.qconfig_mapping import QConfigMapping
from jitquant.quantizer import choose_qconfigs, compile_observers
from tests.graphs import (
    Attributes,
    check_same_numbers,
    graph_of,
    insert_observers,
    nodes_of,
    ops_of,
    working_copy,
)
from tests.quantized_ir import attribute, constants, lstm

OBSERVE = "insert_observers"
QCONFIG = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
# Three that can be told apart by their ranges.
SEVEN_BITS = QConfig(MinMaxObserver.with_args(reduce_range=True), WeightMinMaxObserver.with_args())
SIX_BITS = QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=63), WeightMinMaxObserver.with_args())


def observed(
    text: str, attributes: Attributes | None = None, qconfig: QConfig | None = QCONFIG
) -> torch.jit.ScriptModule:
    """What the pass makes of IR text; its count is checked against what it inserted."""
    module = parse_ir(text, attributes)
    count = insert_observers(module, {"": qconfig})
    assert count == len(calls(module))
    return module


def calls(module: torch.jit.ScriptModule) -> list[torch.Node]:
    return nodes_of(module, "prim::CallMethod")


def observer_of(module: torch.jit.ScriptModule, call: torch.Node) -> Any:
    return module._c.getattr(call.inputsAt(0).node().s("name"))


def observed_kinds(module: torch.jit.ScriptModule) -> list[str]:
    """What gave each observed value: the kind of its node, in program order."""
    return [call.inputsAt(1).node().kind() for call in calls(module)]


CONV_LINES = f"""
{constants(ones=[1, 1], zeros=[0, 0], one=1, none=None)}
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %result : Tensor = aten::conv2d(%x, %weight, %none, %ones, %zeros, %ones, %one)
"""
LINEAR_LINES = f"""
{constants(none=None)}
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %result : Tensor = aten::linear(%x, %weight, %none)
"""
ADD_LINES = constants(one=1) + "  %result : Tensor = aten::add(%x, %x, %one)\n"
MUL_LINES = "  %result : Tensor = aten::mul(%x, %x)\n"
OPS = {"conv2d": CONV_LINES, "linear": LINEAR_LINES, "add": ADD_LINES, "mul": MUL_LINES}
CLAMPS = {
    "relu": "aten::relu(%result)",
    "hardtanh": "aten::hardtanh(%result, %low, %high)",
    "clamp": "aten::clamp(%result, %low, %high)",
    "clamp from above": "aten::clamp(%result, %nothing, %high)",
}


def attributes_for(op: str) -> tuple[Attributes, Tensor]:
    """The weight that the op reads, if it does, and an input."""
    if op == "conv2d":
        return {"weight": torch.randn(4, 3, 1, 1)}, torch.randn(2, 3, 5, 5)
    return ({"weight": torch.randn(4, 3)} if op == "linear" else {}), torch.randn(5, 3)


# Where a value is observed


@pytest.mark.parametrize("op", OPS)
def test_inputs_outputs_and_weights_are_observed(op: str) -> None:
    """Test that an op's input, weight and output go through observers, and the numbers stay the same."""
    attributes, x = attributes_for(op)
    text = f"graph(%self, %x : Tensor):\n{OPS[op]}  return (%result)"
    module = observed(text, attributes)
    weight = ["prim::GetAttr"] if attributes else []
    assert observed_kinds(module) == ["prim::Param", *weight, f"aten::{op}"]
    FileCheck().check('prim::GetAttr[name="_observer_').check('prim::CallMethod[name="forward"]').check(
        f"aten::{op}("
    ).check_next('prim::GetAttr[name="_observer_').check_next("prim::CallMethod").check_next("return").run(
        graph_of(module)
    )
    check_same_numbers(parse_ir(text, attributes), module, x, atol=0, rtol=0)


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("op", OPS)
def test_the_output_is_observed_behind_the_clamp_and_not_before(op: str, clamp: str) -> None:
    """Test that of an op and the clamp that its integer form absorbs only the clamp is observed."""
    attributes, x = attributes_for(op)
    text = f"""
graph(%self, %x : Tensor):
{constants(low=0.0, high=6.0, nothing=None)}
{OPS[op]}
  %y : Tensor = {CLAMPS[clamp]}
  return (%y)"""
    module = observed(text, attributes)
    kind = CLAMPS[clamp].split("(")[0]
    assert observed_kinds(module)[-1] == kind
    assert f"aten::{op}" not in observed_kinds(module)
    check_same_numbers(parse_ir(text, attributes), module, x, atol=0, rtol=0)


@pytest.mark.parametrize("op", OPS)
def test_a_clamp_is_not_absorbed_when_the_output_is_used_twice(op: str) -> None:
    """Test that an op whose output is used beside the relu is observed before the relu, and only there."""
    attributes, _ = attributes_for(op)
    text = f"""
graph(%self, %x : Tensor):
{OPS[op]}
  %r : Tensor = aten::relu(%result)
  %s : Tensor = aten::sin(%result)
  %y : Tensor = aten::mul(%r, %s)
  return (%y)"""
    module = observed(text, attributes)
    kinds = observed_kinds(module)
    assert f"aten::{op}" in kinds
    assert "aten::relu" not in kinds
    # Both users take what the observer gave.
    for node in [*nodes_of(module, "aten::relu"), *nodes_of(module, "aten::sin")]:
        assert node.inputsAt(0).node().kind() == "prim::CallMethod"


def test_a_clamp_with_unknown_bounds_is_not_absorbed() -> None:
    """Test that a clamp whose bounds the caller gives is an op of its own."""
    text = f"""
graph(%self, %x : Tensor, %low : float, %high : float):
{ADD_LINES}
  %y : Tensor = aten::hardtanh(%result, %low, %high)
  return (%y)"""
    assert observed_kinds(observed(text)) == ["prim::Param", "aten::add"]


def test_a_clamp_in_another_block_is_not_absorbed() -> None:
    """Test that a sum is observed where it stands if its relu is in one branch only."""
    text = f"""
graph(%self, %x : Tensor, %choice : bool):
{ADD_LINES}
  %y : Tensor = prim::If(%choice)
    block0():
      %r : Tensor = aten::relu(%result)
      -> (%r)
    block1():
      -> (%x)
  return (%y)"""
    assert observed_kinds(observed(text)) == ["prim::Param", "aten::add"]


@pytest.mark.parametrize("op", ["hardswish", "cat"])
def test_ops_that_absorb_no_clamp_are_observed_before_it(op: str) -> None:
    """Test that an op whose integer form takes no clamp is observed where it ends."""
    lines = {
        "hardswish": "  %result : Tensor = aten::hardswish(%x)\n",
        "cat": constants(dim=0)
        + "  %list : Tensor[] = prim::ListConstruct(%x, %x)\n"
        + "  %result : Tensor = aten::cat(%list, %dim)\n",
    }[op]
    text = f"graph(%self, %x : Tensor):\n{lines}  %y : Tensor = aten::relu(%result)\n  return (%y)"
    assert observed_kinds(observed(text)) == ["prim::Param", f"aten::{op}"]


def test_no_value_is_observed_twice() -> None:
    """Test that what one op gives and two take has one observer, and so has an input that two ops take."""
    text = f"""
graph(%self, %x : Tensor):
{constants(one=1)}
  %a : Tensor = aten::hardswish(%x)
  %b : Tensor = aten::add(%a, %x, %one)
  %c : Tensor = aten::mul(%a, %b)
  return (%c)"""
    module = observed(text)
    assert observed_kinds(module) == ["prim::Param", "aten::hardswish", "aten::add", "aten::mul"]
    names = [call.inputsAt(0).node().s("name") for call in calls(module)]
    assert len(set(names)) == len(names)


def test_an_op_without_an_integer_form_is_not_observed() -> None:
    """Test that nothing is inserted for ops that no target has, and their neighbours are observed as ever."""
    text = """
graph(%self, %x : Tensor):
  %a : Tensor = aten::erf(%x)
  %b : Tensor = aten::hardswish(%a)
  %c : Tensor = aten::sin(%b)
  return (%c)"""
    assert observed_kinds(observed(text)) == ["aten::erf", "aten::hardswish"]


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_the_weight_of_a_transposed_convolution_is_observed_along_its_outputs(dimensions: int) -> None:
    """Test that the observer of a transposed weight has a range for each output channel, which is axis 1."""
    text = f"""
graph(%self, %x : Tensor):
{constants(ones=[1] * dimensions, zeros=[0] * dimensions, one=1, none=None)}
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %y : Tensor = aten::conv_transpose{dimensions}d(%x, %weight, %none, %ones, %zeros, %zeros, %one, %ones)
  return (%y)"""
    weight = torch.randn(3, 4, *[2] * dimensions)
    module = observed(text, {"weight": weight})
    of_weight, of_input, of_output = (observer_of(module, call) for call in calls(module))
    if observed_kinds(module)[0] != "prim::GetAttr":
        of_weight, of_input = of_input, of_weight
    assert sorted(observed_kinds(module)) == [
        f"aten::conv_transpose{dimensions}d",
        "prim::GetAttr",
        "prim::Param",
    ]
    assert of_weight.getattr("ch_axis") == 1
    assert not of_input.hasattr("ch_axis")
    assert not of_output.hasattr("ch_axis")
    module(torch.randn(2, 3, *[5] * dimensions))
    assert of_weight.getattr("max_val").shape == (4,)


@pytest.mark.parametrize("op", ["sigmoid", "hardsigmoid", "tanh"])
def test_an_output_of_known_range_is_not_observed(op: str) -> None:
    """Test that of an op with fixed parameters the input is observed, and the output is not."""
    text = f"""
graph(%self, %x : Tensor):
  %a : Tensor = aten::{op}(%x)
  %b : Tensor = aten::hardswish(%a)
  return (%b)"""
    assert observed_kinds(observed(text)) == ["prim::Param", "aten::hardswish"]


# Ops that move values

MOVING = """
graph(%self, %x : Tensor):
  %two : int[] = prim::Constant[value=[2, 2]]()
  %zeros : int[] = prim::Constant[value=[0, 0]]()
  %ones : int[] = prim::Constant[value=[1, 1]]()
  %no : bool = prim::Constant[value=0]()
  %one : int = prim::Constant[value=1]()
  %last : int = prim::Constant[value=-1]()
"""


def test_ops_that_move_values_pass_on_what_their_input_has() -> None:
    """Test that behind pooling and flattening of an observed value nothing is observed again."""
    text = (
        MOVING
        + """
  %a : Tensor = aten::hardswish(%x)
  %b : Tensor = aten::max_pool2d(%a, %two, %two, %zeros, %ones, %no)
  %c : Tensor = aten::flatten(%b, %one, %last)
  %d : Tensor = aten::hardswish(%c)
  return (%d)"""
    )
    assert observed_kinds(observed(text)) == ["prim::Param", "aten::hardswish", "aten::hardswish"]


def test_ops_that_move_float_values_are_observed_behind() -> None:
    """Test that pooling of a float value stays float, and its output is observed for the op that takes it."""
    text = (
        MOVING
        + """
  %a : Tensor = aten::erf(%x)
  %b : Tensor = aten::max_pool2d(%a, %two, %two, %zeros, %ones, %no)
  %c : Tensor = aten::hardswish(%b)
  return (%c)"""
    )
    assert observed_kinds(observed(text)) == ["aten::max_pool2d", "aten::hardswish"]


def test_an_input_that_is_observed_further_down_is_integer_for_all_that_take_it() -> None:
    """Test that an op that moves values is told so, though what has its input observed comes behind it."""
    text = f"""
graph(%self, %x : Tensor):
{constants(dim=[1])}
  %turned : Tensor = aten::flip(%x, %dim)
  %gate : Tensor = aten::sigmoid(%turned)
  %y : Tensor = aten::mul(%x, %gate)
  return (%y)"""
    module = observed(text)
    assert observed_kinds(module) == ["prim::Param", "aten::mul"]
    assert nodes_of(module, "aten::flip")[0].inputsAt(0).node().kind() == "prim::CallMethod"


@pytest.mark.parametrize("fence", [True, False])
def test_an_input_that_nothing_needs_as_integers_is_not_observed(fence: bool) -> None:
    """Test that ops which only move values have none observed, nor do those whose qconfig is None."""
    text = f"""
graph(%self, %x : Tensor):
{constants(dim=[1])}
  %turned : Tensor = aten::flip(%x, %dim)
  %y : Tensor = aten::{"sigmoid" if fence else "relu"}(%x)
  return (%turned, %y)"""
    assert not calls(observed(text, qconfig=None if fence else QCONFIG))


def test_a_relu_by_itself_passes_on_what_its_input_has() -> None:
    """Test that a relu behind pooling keeps the parameters that the pooling had."""
    text = (
        MOVING
        + """
  %a : Tensor = aten::hardswish(%x)
  %b : Tensor = aten::max_pool2d(%a, %two, %two, %zeros, %ones, %no)
  %c : Tensor = aten::relu(%b)
  %d : Tensor = aten::hardswish(%c)
  return (%d)"""
    )
    assert observed_kinds(observed(text)) == ["prim::Param", "aten::hardswish", "aten::hardswish"]


@pytest.mark.parametrize(
    ("call", "parts"),
    [
        ("aten::chunk(%a, %n, %one)", 2),
        ("aten::split(%a, %n, %one)", 3),
        ("aten::split_with_sizes(%a, %sizes, %one)", 2),
    ],
)
def test_lists_that_are_taken_apart_pass_on_what_their_input_has(call: str, parts: int) -> None:
    """Test that the parts of a chunk or split of an observed value are not observed again."""
    names = ", ".join(f"%p{i} : Tensor" for i in range(parts))
    text = f"""
graph(%self, %x : Tensor):
{constants(n=2, one=1, sizes=[2, 4])}
  %a : Tensor = aten::hardswish(%x)
  %list : Tensor[] = {call}
  {names} = prim::ListUnpack(%list)
  %b : Tensor = aten::hardswish(%p0)
  %c : Tensor = aten::hardswish(%p1)
  %y : Tensor = aten::mul(%b, %c)
  return (%y)"""
    kinds = ["prim::Param", *["aten::hardswish"] * 3, "aten::mul"]
    assert observed_kinds(observed(text)) == kinds


def test_parts_of_a_list_that_goes_elsewhere_are_observed() -> None:
    """Test that an element taken from a chunk by its index has an observer of its own."""
    text = f"""
graph(%self, %x : Tensor):
{constants(n=2, one=1)}
  %a : Tensor = aten::hardswish(%x)
  %list : Tensor[] = aten::chunk(%a, %n, %one)
  %p : Tensor = aten::__getitem__(%list, %one)
  %y : Tensor = aten::hardswish(%p)
  return (%y)"""
    kinds = ["prim::Param", "aten::hardswish", "aten::__getitem__", "aten::hardswish"]
    assert observed_kinds(observed(text)) == kinds


def test_a_cat_observes_each_element_of_its_list_once() -> None:
    """Test that the elements of a cat's list are observed, and one that is in it twice only once."""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{constants(dim=0)}
  %a : Tensor = aten::hardswish(%x)
  %list : Tensor[] = prim::ListConstruct(%a, %z, %z)
  %y : Tensor = aten::cat(%list, %dim)
  return (%y)"""
    module = observed(text)
    assert sorted(observed_kinds(module)) == ["aten::cat", "aten::hardswish", "prim::Param", "prim::Param"]
    (construct,) = nodes_of(module, "prim::ListConstruct")
    assert [value.node().kind() for value in construct.inputs()] == ["prim::CallMethod"] * 3


def test_a_cat_of_a_list_from_elsewhere_is_left_alone() -> None:
    """Test that a cat of a list which the caller gives is not observed."""
    text = f"""
graph(%self, %list : Tensor[]):
{constants(dim=0)}
  %y : Tensor = aten::cat(%list, %dim)
  return (%y)"""
    assert calls(observed(text)) == []


# Weights


def test_weights_get_the_weight_observer() -> None:
    """Test that weights and activations are watched by the two observers of the qconfig."""
    module = observed(
        f"graph(%self, %x : Tensor):\n{CONV_LINES}  return (%result)", {"weight": torch.randn(4, 3, 1, 1)}
    )
    for call in calls(module):
        is_weight = call.inputsAt(1).node().kind() == "prim::GetAttr"
        assert observer_of(module, call).hasattr("ch_axis") == is_weight
    module(torch.randn(2, 3, 5, 5))
    (weight_call,) = [call for call in calls(module) if call.inputsAt(1).node().kind() == "prim::GetAttr"]
    assert observer_of(module, weight_call).getattr("max_val").shape == (4,)


def test_a_bias_is_not_observed() -> None:
    """Test that a bias is added in float, and has no observer."""
    text = """
graph(%self, %x : Tensor):
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %bias : Tensor = prim::GetAttr[name="bias"](%self)
  %y : Tensor = aten::linear(%x, %weight, %bias)
  return (%y)"""
    module = observed(text, {"weight": torch.randn(4, 3), "bias": torch.randn(4)})
    assert observed_kinds(module) == ["prim::Param", "prim::GetAttr", "aten::linear"]
    (linear,) = nodes_of(module, "aten::linear")
    assert linear.inputsAt(2).node().kind() == "prim::GetAttr"


def test_a_shared_weight_is_observed_for_each_op() -> None:
    """Test that a weight which two ops use has an observer for each, as their qconfigs may differ."""
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None)}
  %weight : Tensor = prim::GetAttr[name="weight"](%self)
  %a : Tensor = aten::linear(%x, %weight, %none)
  %b : Tensor = aten::linear(%a, %weight, %none)
  return (%b)"""
    module = observed(text, {"weight": torch.randn(3, 3)})
    kinds = ["prim::Param", "prim::GetAttr", "aten::linear", "prim::GetAttr", "aten::linear"]
    assert sorted(observed_kinds(module)) == sorted(kinds)


def test_a_weight_that_is_computed_is_left_alone() -> None:
    """Test that a convolution whose weight comes from the caller or an op is not observed at all."""
    text = f"""
graph(%self, %x : Tensor, %weight : Tensor):
{constants(none=None)}
  %y : Tensor = aten::linear(%x, %weight, %none)
  return (%y)"""
    assert calls(observed(text)) == []


def test_a_weight_in_integers_is_left_alone() -> None:
    """Test that a linear whose weight is no float tensor is not observed."""
    text = f"graph(%self, %x : Tensor):\n{LINEAR_LINES}  return (%result)"
    assert calls(observed(text, {"weight": torch.ones(3, 3, dtype=torch.int64)})) == []


# Blocks


def test_ops_inside_an_if_are_observed() -> None:
    """Test that what a branch computes is observed in it, and an outer value where it is defined."""
    text = """
graph(%self, %x : Tensor, %choice : bool):
  %e : Tensor = aten::erf(%x)
  %y : Tensor = prim::If(%choice)
    block0():
      %h : Tensor = aten::hardswish(%e)
      -> (%h)
    block1():
      -> (%e)
  return (%y)"""
    module = observed(text)
    assert observed_kinds(module) == ["aten::erf", "aten::hardswish"]
    FileCheck().check("aten::erf").check("prim::CallMethod").check("prim::If").check("block0").check(
        "aten::hardswish"
    ).check("prim::CallMethod").check("->").check("block1").check_not("prim::CallMethod").run(
        graph_of(module)
    )
    x = torch.randn(20)
    assert torch.equal(module(x, True), nn.functional.hardswish(x.erf()))
    inner = observer_of(module, calls(module)[1])
    assert inner.getattr("max_val").numel() == 1


def test_what_an_if_gives_is_observed_behind_it() -> None:
    """Test that the op behind an `if` has its input observed there, whichever branch it came from."""
    text = """
graph(%self, %x : Tensor, %choice : bool):
  %y : Tensor = prim::If(%choice)
    block0():
      %s : Tensor = aten::sin(%x)
      -> (%s)
    block1():
      -> (%x)
  %h : Tensor = aten::hardswish(%y)
  return (%h)"""
    assert observed_kinds(observed(text)) == ["prim::If", "aten::hardswish"]


def test_ops_inside_a_loop_are_observed() -> None:
    """Test that a value that goes round in a loop is observed at the loop's start, over all rounds."""
    text = """
graph(%self, %x : Tensor, %rounds : int):
  %go : bool = prim::Constant[value=1]()
  %y : Tensor = prim::Loop(%rounds, %go, %x)
    block0(%i : int, %h : Tensor):
      %k : Tensor = aten::add(%h, %h, %i)
      -> (%go, %k)
  return (%y)"""
    module = observed(text)
    assert observed_kinds(module) == ["prim::Param", "aten::add"]
    assert torch.equal(module(torch.ones(3), 4), torch.full((3,), 24.0))
    going_in, coming_out = (observer_of(module, call).getattr("max_val") for call in calls(module))
    assert (going_in, coming_out) == (6, 24)


# Which qconfig


class Block(nn.Module):
    """A convolution, a relu and a linear, each at a path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.convolution(x))


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = Block()
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.block(x))


def prepared(qconfigs: dict[str, QConfig | None], model: nn.Module | None = None) -> torch.jit.ScriptModule:
    module = working_copy(torch.jit.script((model or Model()).eval()))
    run_passes(CANONICALIZE, module)
    insert_observers(module, qconfigs)
    return module


def quant_max(module: torch.jit.ScriptModule, kind: str) -> int:
    """The largest integer of the observer of what an op of that kind gave."""
    (call,) = [call for call in calls(module) if call.inputsAt(1).node().kind() == kind]
    return observer_of(module, call).getattr("quant_max")


@pytest.mark.parametrize(
    ("qconfigs", "relu", "linear"),
    [
        ({"": QCONFIG}, 255, 255),
        ({"": QCONFIG, "block": SEVEN_BITS}, 127, 255),
        ({"": QCONFIG, "block": SIX_BITS, "block.convolution": SEVEN_BITS}, 127, 255),
        ({"": QCONFIG, "block.convolution": SEVEN_BITS, "head": SIX_BITS}, 127, 63),
        ({"": SIX_BITS, "head": QCONFIG, "block": SEVEN_BITS}, 127, 255),
        ({"": QCONFIG, "block.relu": SEVEN_BITS}, 255, 255),
    ],
)
def test_the_most_specific_module_path_wins(qconfigs: dict[str, QConfig], relu: int, linear: int) -> None:
    """Test that the longest path that leads to an op's module decides, whatever the order in the dict."""
    for given in (qconfigs, dict(reversed(qconfigs.items()))):
        module = prepared(given)
        assert (quant_max(module, "aten::relu"), quant_max(module, "aten::linear")) == (relu, linear)


def test_a_path_is_not_a_prefix_of_letters() -> None:
    """Test that a qconfig for `block` says nothing about `block2`."""

    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Linear(3, 3)
            self.block2 = nn.Linear(3, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.block2(torch.sin(self.block(x)))

    module = prepared({"": QCONFIG, "block": SEVEN_BITS}, Alike())
    outputs = [call for call in calls(module) if call.inputsAt(1).node().kind() == "aten::linear"]
    assert [observer_of(module, call).getattr("quant_max") for call in outputs] == [127, 255]


def test_without_a_qconfig_for_the_whole_only_what_is_named_is_observed() -> None:
    """Test that a model with a qconfig for one submodule is float everywhere else."""
    module = prepared({"head": QCONFIG})
    assert observed_kinds(module).count("aten::linear") == 1
    assert "aten::conv2d" not in observed_kinds(module)
    (linear_input, *_) = calls(module)
    assert linear_input.inputsAt(1).node().kind() == "aten::alias"


def test_a_module_whose_qconfig_is_none_gets_a_fence() -> None:
    """Test that an op which could be integer but is to stay float has a fence behind it, and no observer."""
    module = prepared({"": QCONFIG, "head": None})
    (linear,) = nodes_of(module, "aten::linear")
    assert [use.user.kind() for use in linear.output().uses()] == ["aten::alias"]
    assert linear.inputsAt(1).node().kind() == "prim::GetAttr"
    # What the linear takes is an integer op's output all the same.
    assert "aten::linear" not in observed_kinds(module)
    assert "aten::relu" in observed_kinds(module)


def test_a_fenced_module_inside_an_observed_one() -> None:
    """Test that a part of an integer model can stay float, and a part of a float model be integer."""
    inner_float = prepared({"": QCONFIG, "block": None})
    (conv,) = nodes_of(inner_float, "aten::conv2d")
    assert [use.user.kind() for use in conv.output().uses()] == ["aten::alias"]
    assert quant_max(inner_float, "aten::linear") == 255
    inner_integer = prepared({"": None, "block.convolution": QCONFIG})
    assert "aten::linear" not in observed_kinds(inner_integer)
    assert "aten::conv2d" in observed_kinds(inner_integer)


def test_a_clamp_whose_qconfig_is_none_is_not_absorbed() -> None:
    """Test that a convolution is observed before a relu that is to stay float."""
    module = prepared({"": QCONFIG, "block.relu": None})
    assert "aten::conv2d" in observed_kinds(module)
    (relu,) = nodes_of(module, "aten::relu")
    assert [use.user.kind() for use in relu.output().uses()] == ["aten::alias"]


def test_all_outputs_of_a_list_get_a_fence() -> None:
    """Test that a chunk whose module is to stay float has a fence behind each of its parts."""
    text = f"""
graph(%self, %x : Tensor):
{constants(n=2, one=1)}
  %list : Tensor[] = aten::chunk(%x, %n, %one)
  %a : Tensor, %b : Tensor = prim::ListUnpack(%list)
  %y : Tensor = aten::atan2(%a, %b)
  return (%y)"""
    module = observed(text, qconfig=None)
    assert ops_of(module) == ["aten::chunk", "prim::ListUnpack", "aten::alias", "aten::alias", "aten::atan2"]
    check_same_numbers(parse_ir(text), module, torch.randn(4, 6))


def test_a_fence_survives_saving() -> None:
    """Test that a prepared model that is saved and loaded still says which ops are to stay float."""
    module = prepared({"": QCONFIG, "head": None})
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    loaded = torch.jit.load(file)
    assert len(nodes_of(loaded, "aten::alias")) == 1
    assert len(calls(loaded)) == len(calls(module))


# What stays as it was


def test_each_value_has_a_copy_of_the_observer() -> None:
    """Test that the observers passed in are prototypes: what calibration records is in copies of them."""
    module = parse_ir(f"graph(%self, %x : Tensor):\n{ADD_LINES}  return (%result)")
    prototype = make_observers(QCONFIG)
    run_pass(OBSERVE, module, PassOptions(observers={"forward": [prototype]}))
    module(torch.randn(5))
    recorded = [observer_of(module, call).getattr("max_val") for call in calls(module)]
    assert len(recorded) == 2
    assert not torch.equal(*recorded)
    assert prototype[0]._c.getattr("max_val").numel() == 0


def test_names_that_are_taken_are_not_used_again() -> None:
    """Test that an attribute of the model that is called like an observer stays what it is."""
    text = f"""
graph(%self, %x : Tensor):
  %_observer_0 : Tensor = prim::GetAttr[name="_observer_0"](%self)
  %s : Tensor = aten::sin(%_observer_0)
{ADD_LINES}
  %y : Tensor = aten::atan2(%result, %s)
  return (%y)"""
    attributes = {"_observer_0": torch.tensor([2.0])}
    module = observed(text, attributes)
    assert [call.inputsAt(0).node().s("name") for call in calls(module)] == ["_observer_1", "_observer_2"]
    check_same_numbers(parse_ir(text, attributes), module, torch.randn(4))


def test_several_methods_are_observed() -> None:
    """Test that observers of all methods that are named are numbered through."""

    class TwoWays(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.hardswish(x)

        @torch.jit.export
        def other(self, x: Tensor) -> Tensor:
            return nn.functional.leaky_relu(x)

    module = working_copy(torch.jit.script(TwoWays().eval()))
    methods = ["forward", "other"]
    run_passes(CANONICALIZE, module, methods=methods)
    assert insert_observers(module, {"": QCONFIG}, methods) == 4
    FileCheck().check("_observer_0").check("_observer_1").run(graph_of(module, "forward"))
    FileCheck().check("_observer_2").check("_observer_3").run(graph_of(module, "other"))


def test_source_lines_and_paths_go_with_the_observers() -> None:
    """Test that an observer's call says where in the model its op stands."""
    module = prepared({"": QCONFIG})
    (behind_linear,) = [call for call in calls(module) if call.inputsAt(1).node().kind() == "aten::linear"]
    assert behind_linear.scopeName() == "head"


# Recurrent layers

DYNAMIC = QConfig(
    PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True), WeightMinMaxObserver.with_args()
)
WEIGHTS = ["w0", "w1", "w2", "w3"]
CELL = f"""
graph(%self, %x : Tensor, %h : Tensor):
{attribute("w")}
{attribute("u")}
{constants(none=None)}
  %a : Tensor = aten::gru_cell(%x, %h, %w, %u, %none, %none)
  %b : Tensor = aten::gru_cell(%x, %a, %w, %u, %none, %none)
  return (%b)"""


def test_the_input_and_each_matrix_of_a_layer_are_observed() -> None:
    """Test that hidden states, biases and results are not, and that the numbers stay."""
    layer = lstm("x", WEIGHTS)
    module = observed(*layer, qconfig=DYNAMIC)
    assert sorted(observed_kinds(module)) == ["prim::GetAttr"] * 4 + ["prim::Param"]
    (node,) = nodes_of(module, "aten::lstm")
    called = [value.node().kind() == "prim::CallMethod" for value in node.inputsAt(2).node().inputs()]
    assert called == [True, True, False, False] * 2
    assert node.inputsAt(0).node().kind() == "prim::CallMethod"
    check_same_numbers(parse_ir(*layer), module, torch.randn(6, 3, 5), torch.zeros(2, 3, 4))


def test_a_cell_that_is_called_twice_has_each_weight_observed_once() -> None:
    attributes = {"w": torch.randn(12, 5), "u": torch.randn(12, 4)}
    module = observed(CELL, attributes, DYNAMIC)
    assert sorted(observed_kinds(module)) == ["prim::GetAttr"] * 2 + ["prim::Param"] * 2
    first, second = nodes_of(module, "aten::gru_cell")
    for index in (2, 3):
        assert first.inputsAt(index) == second.inputsAt(index)
    check_same_numbers(parse_ir(CELL, attributes), module, torch.randn(3, 5), torch.zeros(3, 4))


def test_weights_in_two_branches_are_observed_in_each() -> None:
    """Test that an observer in one branch is not used in the other, where it did not run."""
    text = f"""
graph(%self, %x : Tensor, %h : Tensor):
{attribute("w")}
{attribute("u")}
{constants(none=None, one=1, five=5)}
  %size : int = aten::size(%x, %one)
  %some : bool = aten::eq(%size, %five)
  %y : Tensor = prim::If(%some)
    block0():
      %a : Tensor = aten::gru_cell(%x, %h, %w, %u, %none, %none)
      -> (%a)
    block1():
      %b : Tensor = aten::gru_cell(%h, %h, %u, %u, %none, %none)
      -> (%b)
  return (%y)"""
    module = observed(text, {"w": torch.randn(12, 5), "u": torch.randn(12, 4)}, DYNAMIC)
    assert sorted(observed_kinds(module)) == ["prim::GetAttr"] * 3 + ["prim::Param"] * 2
    assert module(torch.randn(3, 5), torch.zeros(3, 4)).shape == (3, 4)


@pytest.mark.parametrize("case", ["train", "static", "other list", "too many"])
def test_layers_that_have_no_integer_op_are_not_observed(case: str) -> None:
    """Test training, observers that record, a list that is used elsewhere, and one of projections."""
    layer = lstm("x", WEIGHTS, train=case == "train")
    text = layer.text
    if case == "other list":
        text = text.replace("  %all :", "  %count : int = aten::len(%weights)\n  %all :")
    elif case == "too many":
        text = text.replace("%b0, %b1,", "%b0, %b1, %w0,").replace("%b2, %b3)", "%b2, %b3, %w0)")
    qconfig = QCONFIG if case == "static" else DYNAMIC
    assert calls(observed(text, layer.attributes, qconfig)) == []


# Weights alone


@pytest.mark.parametrize("bits", [8, 4])
def test_rows_that_are_looked_up_have_their_weight_observed(bits: int) -> None:
    """Test that a qconfig of rows observes nothing else, a linear's weight neither."""
    text = f"""
graph(%self, %words : Tensor, %x : Tensor):
{constants(last=-1, no=False, none=None)}
{attribute("weight")}
  %rows : Tensor = aten::embedding(%weight, %words, %last, %no, %no)
  %y : Tensor = aten::linear(%x, %weight, %none)
  return (%rows, %y)"""
    qconfig = float_qparams_weight_only_qconfig if bits == 8 else float_qparams_weight_only_qconfig_4bit
    module = observed(text, {"weight": torch.randn(5, 4)}, qconfig)
    (call,) = calls(module)
    assert observed_kinds(module) == ["prim::GetAttr"]
    assert [use.user.kind() for use in call.output().uses()] == ["aten::embedding"]
    assert observer_of(module, call).getattr("quant_max") == 2**bits - 1
    assert "aten::alias" not in ops_of(module)


def test_a_dynamic_qconfig_leaves_rows_and_unnamed_convolutions_alone() -> None:
    """Test that only a convolution that is named has its input and its weight observed."""
    text = f"""
graph(%self, %x : Tensor, %words : Tensor):
{constants(last=-1, no=False)}
{attribute("table")}
  %rows : Tensor = aten::embedding(%table, %words, %last, %no, %no)
{CONV_LINES}
  return (%result, %rows)"""
    attributes = {"weight": torch.randn(4, 3, 3, 3), "table": torch.randn(5, 4)}
    assert not calls(observed(text, attributes, default_dynamic_qconfig))
    module = parse_ir(text, attributes)
    chosen = choose_qconfigs(QConfigMapping().set_object_type("conv2d", default_dynamic_qconfig), module)
    run_pass(OBSERVE, module, PassOptions(observers=compile_observers(chosen)))
    assert len(calls(module)) == 2
    assert {use.user.kind() for call in calls(module) for use in call.output().uses()} == {"aten::conv2d"}
