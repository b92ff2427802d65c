"""Tests of insert_quant_dequant: which values are quantized, with which parameters, and what is refused."""

import textwrap
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization as ao
from torch.testing import FileCheck

from jitquant import QuantizationError, get_default_qconfig, quantize_jit
from jitquant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    WeightMinMaxObserver,
)
from jitquant.passes import parse_ir, run_pass
from jitquant.pipeline import CANONICALIZE, run_passes
from jitquant.qconfig import QConfig
from tests.graphs import Attributes, graph_of, insert_observers, nodes_of, ops_of, working_copy
from tests.quantized_ir import QINT8, QUINT8, attribute, constants, lstm

INSERT = "insert_quant_dequant"
QUANTIZES = ("aten::quantize_per_tensor", "aten::quantize_per_channel")


def observer(low: float | None = -1.0, high: float = 1.0, **arguments: Any) -> torch.jit.ScriptModule:
    """A compiled observer that saw this range; nothing where `low` is None."""
    made = torch.jit.script(MinMaxObserver(**arguments))
    if low is not None:
        made(torch.tensor([low, high]))
    return made


def observe(name: str, value: str, number: int) -> str:
    """Lines in which the observer of that number looks at `%value` and gives `%name`."""
    return (
        f'  %o{number} = prim::GetAttr[name="_observer_{number}"](%self)\n'
        f'  %{name} : Tensor = prim::CallMethod[name="forward"](%o{number}, %{value})\n'
    )


def inserted(text: str, attributes: Attributes) -> torch.jit.ScriptModule:
    """What the pass makes of IR text; its count is checked against what it inserted."""
    module = parse_ir(text, attributes)
    count = run_pass(INSERT, module)
    assert count >= len(quantizes(module))
    return module


def quantizes(module: torch.jit.ScriptModule) -> list[torch.Node]:
    return [node for node in nodes_of(module) if node.kind() in QUANTIZES]


def parameters(module: torch.jit.ScriptModule, node: torch.Node) -> tuple[Any, Any, Any]:
    """Scale, zero point and dtype of a quantize: from constants or attributes."""

    def value(index: int) -> Any:
        given = node.inputsAt(index)
        if given.node().kind() == "prim::GetAttr":
            return module._c.getattr(given.node().s("name"))
        return given.toIValue()

    return value(1), value(2), value(node.inputsSize() - 1)


HARDSWISH = f"""
graph(%self, %x : Tensor):
{observe("x1", "x", 0)}
  %h : Tensor = aten::hardswish(%x1)
{observe("h1", "h", 1)}
  return (%h1)"""


# What is inserted


def test_observers_become_quantize_and_dequantize() -> None:
    """Test that where an observer stood the value is quantized with named parameters, and dequantized."""
    module = inserted(HARDSWISH, {"_observer_0": observer(-3.0, 3.0), "_observer_1": observer(-0.5, 2.0)})
    FileCheck().check('float = prim::GetAttr[name="_scale_0"]').check(
        'int = prim::GetAttr[name="_zero_point_0"]'
    ).check("aten::quantize_per_tensor").check_next("aten::dequantize").check("aten::hardswish").check(
        '[name="_scale_1"]'
    ).check('[name="_zero_point_1"]').check("aten::quantize_per_tensor").check_next(
        "aten::dequantize"
    ).check_next("return").run(graph_of(module))
    assert all(module._c.hasattr(f"_{kind}_{i}") for kind in ("scale", "zero_point") for i in range(2))


def test_the_parameters_are_those_that_the_observer_chose() -> None:
    """Test that scale and zero point are what calculate_qparams gives, the dtype the observer's."""
    observers = [observer(-3.0, 3.0), observer(-0.5, 2.0)]
    module = inserted(HARDSWISH, {f"_observer_{i}": each for i, each in enumerate(observers)})
    for node, each in zip(quantizes(module), observers, strict=True):
        scale, zero_point = each.calculate_qparams()
        assert parameters(module, node) == (float(scale), int(zero_point), QUINT8)


def test_the_numbers_are_those_of_rounding_by_hand() -> None:
    """Test that the graph computes in float between values rounded to their integers."""
    observers = [observer(-3.0, 3.0), observer(-0.5, 2.0)]
    module = inserted(HARDSWISH, {f"_observer_{i}": each for i, each in enumerate(observers)})
    x = torch.randn(200)

    def rounded(value: Tensor, by: torch.jit.ScriptModule) -> Tensor:
        scale, zero_point = by.calculate_qparams()
        return torch.fake_quantize_per_tensor_affine(value, float(scale), int(zero_point), 0, 255)

    expected = rounded(nn.functional.hardswish(rounded(x, observers[0])), observers[1])
    torch.testing.assert_close(module(x), expected, atol=1e-6, rtol=0)


def test_observers_are_gone() -> None:
    """Test that neither the graph nor the module has an observer left."""
    module = inserted(HARDSWISH, {"_observer_0": observer(), "_observer_1": observer()})
    FileCheck().check_not("_observer_").check_not("prim::CallMethod").run(graph_of(module))
    assert not any(name.startswith("_observer_") for name, _ in torch._C.ModuleDict(module._c).items())


def test_names_that_are_taken_are_not_used_again() -> None:
    """Test that an attribute of the model that is called like a scale keeps its value."""
    use = attribute("_scale_0") + "  %y : Tensor = aten::atan2(%h1, %_scale_0)\n  return (%y)"
    text = HARDSWISH.replace("  return (%h1)", use)
    own = torch.tensor([3.5])
    module = inserted(text, {"_observer_0": observer(), "_observer_1": observer(), "_scale_0": own})
    assert torch.equal(module._c.getattr("_scale_0"), own)
    assert module._c.getattr("_scale_1") == pytest.approx(2 / 255)
    assert module._c.getattr("_scale_2") == pytest.approx(2 / 255)


WEIGHTED = f"""
graph(%self, %x : Tensor):
{constants(none=None)}
{attribute("weight")}
{observe("x1", "x", 0)}
{observe("w1", "weight", 1)}
  %l : Tensor = aten::linear(%x1, %w1, %none)
{observe("y", "l", 2)}
  return (%y)"""


@pytest.mark.parametrize("ran", [True, False], ids=["observed", "not observed"])
def test_a_weight_is_quantized_per_channel(ran: bool) -> None:
    """Test that a weight gets a scale for each channel, whether calibration reached its observer or not."""
    weight = torch.randn(6, 4)
    weight_observer = torch.jit.script(PerChannelMinMaxObserver())
    if ran:
        weight_observer(weight)
    module = inserted(
        WEIGHTED,
        {
            "weight": weight,
            "_observer_0": observer(),
            "_observer_1": weight_observer,
            "_observer_2": observer(),
        },
    )
    (node,) = nodes_of(module, "aten::quantize_per_channel")
    scale, zero_point, dtype = parameters(module, node)
    torch.testing.assert_close(scale, weight.abs().amax(1) / 127)
    assert scale.dtype == torch.float32
    assert torch.equal(zero_point, torch.zeros(6, dtype=torch.int64))
    assert (node.inputsAt(3).toIValue(), dtype) == (0, QINT8)
    x = torch.randn(5, 4).clamp(-1, 1)
    error = module(x) - nn.functional.linear(x, weight).clamp(-1, 1)
    assert error.abs().max() < 0.05


def test_a_weight_is_quantized_per_tensor() -> None:
    """Test that an observer of a whole weight gives numbers, as for an activation, and qint8."""
    weight = torch.randn(6, 4)
    weight_observer = torch.jit.script(WeightMinMaxObserver())
    module = inserted(
        WEIGHTED,
        {
            "weight": weight,
            "_observer_0": observer(),
            "_observer_1": weight_observer,
            "_observer_2": observer(),
        },
    )
    weight_quantize = quantizes(module)[1]
    scale, zero_point, dtype = parameters(module, weight_quantize)
    assert scale == pytest.approx(float(weight.abs().max() / 127))
    assert (zero_point, dtype) == (0, QINT8)


def test_weights_stay_reachable_by_name() -> None:
    """Test that the float weight is where it was, for debug=True."""
    weight = torch.randn(6, 4)
    module = inserted(
        WEIGHTED,
        {
            "weight": weight,
            "_observer_0": observer(),
            "_observer_1": torch.jit.script(WeightMinMaxObserver()),
            "_observer_2": observer(),
        },
    )
    assert torch.equal(module._c.getattr("weight"), weight)
    FileCheck().check('prim::GetAttr[name="weight"]').run(graph_of(module))


@pytest.mark.parametrize(
    "make",
    [
        MovingAverageMinMaxObserver,
        HistogramObserver,
        lambda: FixedQParamsObserver(scale=0.02, zero_point=100),
        ao.MinMaxObserver,
        ao.MovingAverageMinMaxObserver,
        ao.HistogramObserver,
    ],
    ids=["moving average", "histogram", "fixed", "ao min max", "ao moving average", "ao histogram"],
)
def test_every_observer_will_do(make: Callable[[], nn.Module]) -> None:
    """Test that all observers of jitquant work, and those of torch.ao too."""
    made = [torch.jit.script(make()) for _ in range(2)]
    x = torch.randn(300)
    made[1](nn.functional.hardswish(made[0](x)))
    chosen = [each.calculate_qparams() for each in made]
    module = inserted(HARDSWISH, {"_observer_0": made[0], "_observer_1": made[1]})
    for node, (scale, zero_point) in zip(quantizes(module), chosen, strict=True):
        assert parameters(module, node) == (float(scale), int(zero_point), QUINT8)


def test_observers_of_weights_from_torch_ao() -> None:
    """Test that a weight may be observed per channel by torch.ao's observer, which has not run yet."""
    weight = torch.randn(6, 4)
    weight_observer = ao.PerChannelMinMaxObserver(dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    module = inserted(
        WEIGHTED,
        {
            "weight": weight,
            "_observer_0": observer(),
            "_observer_1": torch.jit.script(weight_observer),
            "_observer_2": observer(),
        },
    )
    (node,) = nodes_of(module, "aten::quantize_per_channel")
    torch.testing.assert_close(parameters(module, node)[0], weight.abs().amax(1) / 127.5, rtol=1e-3, atol=0)


# Ops that need no observer


@pytest.mark.parametrize(
    "call",
    [
        "aten::relu(%x1)",
        "aten::clamp(%x1, %low, %high)",
        "aten::flatten(%x1, %zero, %last)",
        "aten::transpose(%x1, %zero, %last)",
        "aten::constant_pad_nd(%x1, %pad, %zero)",
    ],
)
def test_ops_that_move_values_take_over_the_parameters(call: str) -> None:
    """Test that an op that keeps its input's range is quantized with the very parameters of its input."""
    text = f"""
graph(%self, %x : Tensor):
{constants(low=-0.5, high=0.5, zero=0, last=-1, pad=[1, 1])}
{observe("x1", "x", 0)}
  %y : Tensor = {call}
  return (%y)"""
    module = inserted(text, {"_observer_0": observer()})
    first, second = quantizes(module)
    assert [second.inputsAt(i).debugName() for i in (1, 2, 3)] == [
        first.inputsAt(i).debugName() for i in (1, 2, 3)
    ]
    assert second.inputsAt(0).node().kind() == call.split("(")[0]
    FileCheck().check("aten::dequantize").check(call.split("(")[0]).check_next(
        "aten::quantize_per_tensor"
    ).check_next("aten::dequantize").check_next("return").run(graph_of(module))


def test_parameters_are_handed_down_a_chain() -> None:
    """Test that an op behind an op that moves values has the parameters too."""
    text = f"""
graph(%self, %x : Tensor):
{constants(zero=0, last=-1)}
{observe("x1", "x", 0)}
  %a : Tensor = aten::transpose(%x1, %zero, %last)
  %b : Tensor = aten::relu(%a)
  %c : Tensor = aten::flatten(%b, %zero, %last)
  return (%c)"""
    module = inserted(text, {"_observer_0": observer()})
    assert len(quantizes(module)) == 4
    assert len({node.inputsAt(1).debugName() for node in quantizes(module)}) == 1


def test_each_part_of_a_list_is_quantized() -> None:
    """Test that the parts of a chunk of a quantized value have its parameters."""
    text = f"""
graph(%self, %x : Tensor):
{constants(n=2, one=1)}
{observe("x1", "x", 0)}
  %list : Tensor[] = aten::chunk(%x1, %n, %one)
  %a : Tensor, %b : Tensor = prim::ListUnpack(%list)
  %y : Tensor = aten::atan2(%a, %b)
  return (%y)"""
    module = inserted(text, {"_observer_0": observer()})
    assert len(quantizes(module)) == 3
    (atan2,) = nodes_of(module, "aten::atan2")
    assert [value.node().kind() for value in atan2.inputs()] == ["aten::dequantize"] * 2


KNOWN_RANGE = {"sigmoid": torch.sigmoid, "hardsigmoid": nn.functional.hardsigmoid, "tanh": torch.tanh}


@pytest.mark.parametrize(
    ("op", "expected"),
    [("sigmoid", (1 / 256, 0)), ("hardsigmoid", (1 / 256, 0)), ("tanh", (2 / 256, 128))],
)
def test_a_known_range_gives_fixed_parameters(op: str, expected: tuple[float, int]) -> None:
    """Test that what a sigmoid or tanh gives is quantized with the parameters of its range."""
    text = f"""
graph(%self, %x : Tensor):
{observe("x1", "x", 0)}
  %y : Tensor = aten::{op}(%x1)
  return (%y)"""
    module = inserted(text, {"_observer_0": observer(-6.0, 6.0)})
    assert parameters(module, quantizes(module)[1]) == (*expected, QUINT8)
    x = torch.linspace(-6, 6, 100)
    assert (module(x) - KNOWN_RANGE[op](x)).abs().max() < 0.03


@pytest.mark.parametrize("op", KNOWN_RANGE)
def test_fixed_parameters_fit_signed_integers(op: str) -> None:
    """Test that of a sigmoid in qint8 not half the range is cut off."""
    text = f"""
graph(%self, %x : Tensor):
{observe("x1", "x", 0)}
  %y : Tensor = aten::{op}(%x1)
  return (%y)"""
    module = inserted(text, {"_observer_0": observer(-6.0, 6.0, dtype=torch.qint8)})
    x = torch.linspace(-6, 6, 100)
    assert (module(x) - KNOWN_RANGE[op](x)).abs().max() < 0.03


def test_ops_on_float_values_stay_float() -> None:
    """Test that an op that moves values, or has a fixed range, is not quantized where its input is not."""
    text = f"""
graph(%self, %x : Tensor):
  %a : Tensor = aten::relu(%x)
  %b : Tensor = aten::sigmoid(%a)
{observe("b1", "b", 0)}
  %y : Tensor = aten::hardswish(%b1)
{observe("y1", "y", 1)}
  return (%y1)"""
    module = inserted(text, {"_observer_0": observer(), "_observer_1": observer()})
    assert ops_of(module)[:3] == ["aten::relu", "aten::sigmoid", "aten::quantize_per_tensor"]


def test_an_absorbed_clamp_is_not_quantized_before() -> None:
    """Test that between an op and the clamp that it absorbs nothing is rounded."""
    text = f"""
graph(%self, %x : Tensor):
{constants(one=1)}
{observe("x1", "x", 0)}
  %a : Tensor = aten::add(%x1, %x1, %one)
  %r : Tensor = aten::relu(%a)
{observe("r1", "r", 1)}
  return (%r1)"""
    module = inserted(text, {"_observer_0": observer(), "_observer_1": observer(0.0, 2.0)})
    FileCheck().check("aten::add").check_next("aten::relu").check("aten::quantize_per_tensor").run(
        graph_of(module)
    )
    assert len(quantizes(module)) == 2


@pytest.mark.parametrize("op", ["relu", "sigmoid"])
def test_a_fenced_op_stays_float(op: str) -> None:
    """Test that an op with a fence behind it is not quantized, though its input is."""
    text = f"""
graph(%self, %x : Tensor):
{observe("x1", "x", 0)}
  %y : Tensor = aten::{op}(%x1)
  %f : Tensor = aten::alias(%y)
  return (%f)"""
    module = inserted(text, {"_observer_0": observer()})
    assert len(quantizes(module)) == 1
    FileCheck().check(f"aten::{op}").check_next("aten::alias").check_next("return").run(graph_of(module))


def test_a_result_that_is_no_float_tensor_stays_as_it_is() -> None:
    """Test that a mean in float64, which cannot be quantized, still runs."""
    text = f"""
graph(%self, %x : Tensor):
{constants(dims=[1], no=False, float64=7)}
{observe("x1", "x", 0)}
  %y : Tensor = aten::mean(%x1, %dims, %no, %float64)
  return (%y)"""
    module = inserted(text, {"_observer_0": observer()})
    x = torch.rand(3, 5)
    torch.testing.assert_close(module(x), x.mean(1, dtype=torch.float64), atol=0.01, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_model_of_another_precision_runs(dtype: torch.dtype) -> None:
    """Test that floats of more or less than 32 bits, which cannot be quantized, do not stop the model."""
    observers = [torch.jit.script(MinMaxObserver()) for _ in range(2)]
    x = torch.randn(50).to(dtype)
    observers[1](nn.functional.hardswish(observers[0](x)))
    module = parse_ir(HARDSWISH, {"_observer_0": observers[0], "_observer_1": observers[1]})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            run_pass(INSERT, module)
    except QuantizationError:
        return  # refusing it here, with a reason, is as good
    torch.testing.assert_close(module(x), nn.functional.hardswish(x), atol=0.05, rtol=0)


# What is refused


def test_a_module_without_observers_is_refused() -> None:
    """Test that a graph in which nothing was observed is refused, with the remedy."""
    module = parse_ir("graph(%self, %x : Tensor):\n  %y : Tensor = aten::hardswish(%x)\n  return (%y)")
    with pytest.raises(
        QuantizationError, match=r"^insert_quant_dequant: the module has no observers; call prepare_jit"
    ):
        run_pass(INSERT, module)


class Small(nn.Module):
    """A model whose second op is at a path of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.hardswish(self.layer(x))


def prepared(model: nn.Module | None = None) -> torch.jit.ScriptModule:
    module = working_copy(torch.jit.script((model or Small()).eval()))
    qconfig = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
    run_passes(CANONICALIZE, module)
    insert_observers(module, {"": qconfig})
    return module


def test_a_model_that_was_never_calibrated_is_refused() -> None:
    """Test that the error names the first op, its source line and path, the cause and the remedy."""
    with pytest.raises(
        QuantizationError,
        match=r"^insert_quant_dequant: aten::linear at test_insert_quant_dequant\.py:\d+ \(layer\) "
        r"was never observed; run calibration data through the prepared model first$",
    ):
        run_pass(INSERT, prepared())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_were_not_finite_are_refused(bad: float) -> None:
    """Test that the error says which op saw NaN or infinity, in which value, and where to look."""
    module = prepared()
    x = torch.randn(3, 4)
    x[1, 2] = bad
    module(x)
    with pytest.raises(
        QuantizationError,
        match=r"^insert_quant_dequant: aten::linear at test_insert_quant_dequant\.py:\d+ \(layer\) "
        r"saw NaN or infinity \(value %x\S*\); "
        r"look for it in the calibration data and in the float model's weights$",
    ):
        run_pass(INSERT, module)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_weight_that_is_not_finite_is_refused(per_channel: bool) -> None:
    """Test that NaN in one channel of a weight is found, with the weight as the value."""
    weight = torch.randn(6, 4)
    weight[3, 1] = float("nan")
    made = torch.jit.script((PerChannelMinMaxObserver if per_channel else WeightMinMaxObserver)())
    module = parse_ir(
        WEIGHTED,
        {"weight": weight, "_observer_0": observer(), "_observer_1": made, "_observer_2": observer()},
    )
    with pytest.raises(QuantizationError, match=r"aten::linear.* saw NaN or infinity \(value %"):
        run_pass(INSERT, module)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_observers_of_torch_ao_that_saw_nan_are_refused(bad: float) -> None:
    """Test that what torch.ao's observers recorded is looked at too."""
    made = torch.jit.script(ao.MinMaxObserver())
    made(torch.tensor([-1.0, bad]))
    module = parse_ir(HARDSWISH, {"_observer_0": made, "_observer_1": observer()})
    with pytest.raises(QuantizationError, match=r"aten::hardswish.* saw NaN or infinity"):
        run_pass(INSERT, module)


@pytest.mark.parametrize("ran", [False, True], ids=["never ran", "NaN"])
def test_a_refusal_changes_nothing(ran: bool) -> None:
    """Test that a module that was refused is what it was: it can be calibrated and converted after all."""
    bad = observer(None)
    if ran:
        bad(torch.tensor([-1.0, float("nan")]))
    module = parse_ir(HARDSWISH, {"_observer_0": observer(-1.0 if ran else None), "_observer_1": bad})
    before = str(graph_of(module))
    with pytest.raises(QuantizationError, match=r"never observed|NaN"):
        run_pass(INSERT, module)
    assert str(graph_of(module)) == before
    for name in ("_observer_0", "_observer_1"):
        module._c.setattr(name, observer()._c)
    assert run_pass(INSERT, module) == 2


# What stays float


BRANCH = f"""
graph(%self, %x : Tensor, %choice : bool):
{constants(one=1)}
{observe("x1", "x", 0)}
  %y : Tensor = prim::If(%choice)
    block0():
      %a : Tensor = aten::hardswish(%x1)
{textwrap.indent(observe("a1", "a", 1), "    ")}
      -> (%a1)
    block1():
      %b : Tensor = aten::elu(%x1, %one, %one, %one)
{textwrap.indent(observe("b1", "b", 2), "    ")}
      -> (%b1)
  return (%y)"""


def test_a_branch_that_was_never_taken_stays_float() -> None:
    """Test that what calibration did not reach stays float, with a warning that names the op."""
    module = parse_ir(
        BRANCH, {"_observer_0": observer(), "_observer_1": observer(), "_observer_2": observer(None)}
    )
    with pytest.warns(
        UserWarning, match=r"^insert_quant_dequant: aten::elu.* stays float: calibration never reached"
    ):
        count = run_pass(INSERT, module)
    assert count == 2
    FileCheck().check("prim::If").check("block0").check("aten::quantize_per_tensor").check(
        "block1"
    ).check_not("aten::quantize_per_tensor").run(graph_of(module))
    x = torch.rand(20) - 0.5
    torch.testing.assert_close(module(x, False), nn.functional.elu(x), atol=0.005, rtol=0)
    torch.testing.assert_close(module(x, True), nn.functional.hardswish(x), atol=0.01, rtol=0)


def test_a_warning_says_where_in_the_model() -> None:
    """Test that the warning has the source line and the path of the op."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: Tensor, choice: bool = False) -> Tensor:
            x = nn.functional.hardswish(x)
            if choice:
                x = self.inner(x)
            return x

    module = prepared(Branching())
    x = torch.randn(3, 4)
    module(x)
    with pytest.warns(
        UserWarning, match=r"aten::linear at test_insert_quant_dequant\.py:\d+ \(inner\) stays float"
    ):
        run_pass(INSERT, working_copy(module))


def test_integer_values_stay_as_they_are() -> None:
    """Test that a sum of integers, of which an observer records nothing, stays one, with a warning."""
    text = f"""
graph(%self, %x : Tensor, %n : Tensor):
{constants(one=1)}
{observe("x1", "x", 0)}
  %h : Tensor = aten::hardswish(%x1)
{observe("h1", "h", 1)}
{observe("n1", "n", 2)}
  %m : Tensor = aten::add(%n1, %n1, %one)
{observe("m1", "m", 3)}
  %both : (Tensor, Tensor) = prim::TupleConstruct(%h1, %m1)
  return (%both)"""
    observers = {f"_observer_{i}": observer(None) for i in range(4)}
    module = parse_ir(text, observers)
    x, n = torch.randn(20), torch.arange(5)
    module(x, n)
    module = working_copy(module)
    with pytest.warns(UserWarning, match="stays float: .* or its value is not a float tensor"):
        count = run_pass(INSERT, module)
    assert count == 2
    h, m = module(x, n)
    assert torch.equal(m, n + n)
    torch.testing.assert_close(h, nn.functional.hardswish(x), atol=0.05, rtol=0)


def test_two_methods_are_converted() -> None:
    """Test that the observers of every method that is named are replaced."""

    class TwoWays(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.hardswish(x)

        @torch.jit.export
        def other(self, x: Tensor) -> Tensor:
            return nn.functional.elu(x)

    module = working_copy(torch.jit.script(TwoWays().eval()))
    methods = ["forward", "other"]
    qconfig = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
    run_passes(CANONICALIZE, module, methods=methods)
    insert_observers(module, {"": qconfig}, methods)
    wrapped = torch.jit._recursive.wrap_cpp_module(module._c)
    x = torch.randn(50)
    wrapped(x)
    wrapped.other(x)
    assert run_pass(INSERT, module, methods=methods) == 4
    for method in methods:
        FileCheck().check("aten::quantize_per_tensor").check_not("_observer_").run(graph_of(module, method))


@pytest.mark.parametrize("change", ["aten::relu_(%turned)", "aten::add_(%view, %xo, %one)"])
def test_a_value_that_is_changed_in_place_is_not_quantized(change: str) -> None:
    """Test that what moves values gives float where an op changes it, or a view of it, later on."""
    text = f"""
graph(%self, %x : Tensor):
{constants(dim=[1], start=0, end=-1, one=1)}
{observe("xo", "x", 0)}
  %turned : Tensor = aten::flip(%xo, %dim)
  %view : Tensor = aten::transpose(%turned, %start, %one)
  %changed : Tensor = {change}
  %y : Tensor = aten::flatten(%turned, %start, %end)
  return (%y)"""
    module = inserted(text, {"_observer_0": observer(-3.0, 3.0)})
    assert [node.inputsAt(0).debugName() for node in quantizes(module)] == ["x"]
    x = torch.tensor([[1.0, -2.0], [3.0, -1.0]])
    expected = x.flip(1)
    expected = expected.relu() if "relu" in change else expected + x.t()
    torch.testing.assert_close(module(x), expected.flatten(), atol=0.03, rtol=0)


class ChangedPool(nn.Module):
    """A pooled value that is changed in place between those who take it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.second = nn.Conv2d(4, 4, 1)
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        pooled = torch.nn.functional.adaptive_avg_pool2d(self.first(x), 1)
        before = torch.cat([pooled, pooled], 1)
        changed = torch.nn.functional.relu(pooled, inplace=True)
        return before, self.second(changed), self.linear(pooled.flatten(1))


@pytest.mark.parametrize("debug", [True, False])
def test_a_model_that_changes_a_pooled_value_is_right(target: str, debug: bool) -> None:
    """Test that all who take the value see the change or do not, as in float."""
    network = ChangedPool().eval()
    x = torch.randn(4, 3, 8, 8) * 2
    with torch.no_grad():
        expected = network(x.clone())
    module = quantize_jit(
        torch.jit.script(network),
        {"": get_default_qconfig()},
        lambda prepared: prepared(x),
        [],
        debug=debug,
        target=target,
    )
    for one, other in zip(module(x.clone()), expected, strict=True):
        assert (one - other).abs().max() < 0.03


def test_a_placeholder_becomes_a_range_of_each_call() -> None:
    """Test that a dynamic input gets its scale when it is there, and needs no calibration."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{constants(none=None)}
{observe("xo", "x", 0)}
{observe("wo", "weight", 1)}
  %y : Tensor = aten::linear(%xo, %wo, %none)
  return (%y)"""
    placeholder = torch.jit.script(PlaceholderObserver(dtype=torch.quint8, is_dynamic=True))
    weight = torch.randn(4, 6)
    observers = {"_observer_0": placeholder, "_observer_1": torch.jit.script(WeightMinMaxObserver())}
    module = inserted(text, {"weight": weight, **observers})
    FileCheck().check("aten::_choose_qparams_per_tensor(%x").check("aten::quantize_per_tensor(%x").check(
        "aten::dequantize"
    ).check("aten::linear").check_not("aten::quantize_per_tensor").run(graph_of(module))
    for factor in (0.1, 100.0):
        x = torch.randn(5, 6) * factor
        assert (module(x) - x @ weight.t()).abs().max() < 0.1 * factor


@pytest.mark.parametrize("half", [False, True], ids=["8 bits", "16 bits"])
def test_each_matrix_of_a_layer_is_rounded(half: bool) -> None:
    """Test that a layer's input is quantized at each call, and each matrix as its observer says."""
    names = [f"w{i}o" for i in range(4)]
    before = observe("xo", "x", 4) + "".join(observe(name, f"w{i}", i) for i, name in enumerate(names))
    layer = lstm("xo", names, before=before)
    kinds: dict[bool, Any] = {
        True: PlaceholderObserver(dtype=torch.float16),
        False: PlaceholderObserver(dtype=torch.quint8, is_dynamic=True),
    }
    weight_observer = PlaceholderObserver(dtype=torch.float16) if half else PerChannelMinMaxObserver()
    observers = {f"_observer_{i}": torch.jit.script(weight_observer) for i in range(4)}
    observers["_observer_4"] = torch.jit.script(kinds[half])
    module = inserted(layer.text, {**layer.attributes, **observers})
    ops = ops_of(module)
    assert ops.count("aten::quantize_per_channel") == (0 if half else 4)
    assert ops.count("aten::_saturate_weight_to_fp16") == (4 if half else 0)
    assert ops.count("aten::_choose_qparams_per_tensor") == (0 if half else 1)
    expected = parse_ir(*lstm("x", ["w0", "w1", "w2", "w3"])._replace(attributes=layer.attributes))
    x, h = torch.randn(6, 3, 5), torch.zeros(2, 3, 4)
    for one, other in zip(module(x, h), expected(x, h), strict=True):
        assert (one - other).abs().max() < (1e-6 if half else 0.05)


def test_a_matrix_with_nan_is_named_by_its_layer() -> None:
    layer = lstm("x", ["w0", "w1", "w2o", "w3"], before=observe("w2o", "w2", 0))
    layer.attributes["w2"][0, 0] = float("nan")
    observers = {"_observer_0": torch.jit.script(WeightMinMaxObserver())}
    with pytest.raises(QuantizationError, match=r"aten::lstm .*saw NaN or infinity"):
        inserted(layer.text, {**layer.attributes, **observers})


@pytest.mark.parametrize("dtype", [torch.quint8, torch.quint4x2])
def test_rows_keep_their_float_zero_points(dtype: torch.dtype) -> None:
    """Test that an observer of rows becomes one quantize, whose zero points are not rounded."""
    text = f"""
graph(%self, %words : Tensor):
{attribute("weight")}
{constants(last=-1, no=False)}
{observe("wo", "weight", 0)}
  %y : Tensor = aten::embedding(%wo, %words, %last, %no, %no)
  return (%y)"""
    scheme = torch.per_channel_affine_float_qparams
    observer = torch.jit.script(PerChannelMinMaxObserver(dtype=dtype, qscheme=scheme))
    weight = torch.randn(6, 8)
    module = inserted(text, {"weight": weight, "_observer_0": observer})
    assert ops_of(module) == ["aten::quantize_per_channel", "aten::dequantize", "aten::embedding"]
    words = torch.tensor([5, 0, 3])
    scale, zero_point = observer.calculate_qparams()
    assert bool((zero_point != zero_point.round()).any())
    rounded = torch.quantize_per_channel(weight, scale, zero_point, 0, dtype).dequantize()
    assert torch.equal(module(words), rounded[words])
