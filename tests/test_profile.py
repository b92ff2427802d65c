"""The profile: a row for each op, sums that add up, the caller's module as it was. No time is asserted."""

import copy
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import Profile, QuantizationError, profile
from jitquant.passes import parse_ir
from tests.graphs import saved_and_loaded
from tests.marks import needs_native


class Network(nn.Module):
    """Two convolutions, one in a submodule, a pooling that asks for no shape, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.block = nn.Sequential(nn.ReLU(), nn.Conv2d(16, 32, 1))
        self.fc = nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.block(self.conv(x)).mean([2, 3]))


class Branches(nn.Module):
    """A loop with a branch in it, and a branch that is not taken."""

    def forward(self, x: Tensor, times: int, swap: bool = False) -> Tensor:
        for i in range(times):
            x = x.sin() if i % 2 == 0 else x.cos()
        if swap:
            x = x.t()
        return x.exp()


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(2, 3, 12, 12)


@pytest.fixture
def network() -> torch.jit.ScriptModule:
    return torch.jit.script(Network().eval())


def quantize(model: torch.jit.ScriptModule, inputs: Tensor, target: str) -> torch.jit.ScriptModule:
    qconfigs = {"": jitquant.get_default_qconfig()}
    return jitquant.quantize_jit(model, qconfigs, lambda prepared: prepared(inputs), [], target=target)


def ops(result: Profile) -> list[str]:
    return [row.op for row in result.ops]


def check_sums(result: Profile) -> None:
    assert result.between_us >= 0
    assert result.unprofiled_us > 0
    assert result.ops_us == sum(row.time_us for row in result.ops)
    assert result.total_us == result.ops_us + result.between_us
    assert sum(row.share for row in result.ops) + result.between_share == pytest.approx(1)
    for row in result.ops:
        assert row.time_us >= 0
        assert row.share == pytest.approx(row.time_us / result.total_us)


@pytest.mark.parametrize("scripted", [True, False], ids=["scripted", "traced"])
def test_rows_name_ops_and_modules_in_order(scripted: bool, inputs: Tensor) -> None:
    """Test that a float module's ops come in program order, each with the module it came from."""
    network = Network().eval()
    model = torch.jit.script(network) if scripted else torch.jit.trace(network, inputs)
    result = profile(model, inputs, runs=3)
    named = [
        (row.op.rstrip("_").replace("aten::_convolution", "aten::conv2d"), row.module) for row in result.ops
    ]
    assert named == [
        ("aten::conv2d", "conv"),
        ("aten::relu", "block.0"),
        ("aten::conv2d", "block.1"),
        ("aten::mean", ""),
        ("aten::linear", "fc"),
    ]
    assert all(row.calls == 1 and row.time_us > 0 for row in result.ops)
    assert all(row.kernel == "" and row.multiply_adds is None for row in result.ops)
    assert result.ops[3].source.startswith("test_profile.py:")
    assert (result.runs, result.threads) == (3, torch.get_num_threads())
    check_sums(result)


@needs_native
def test_native_kernels_say_what_ran(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that native ops say kernel, multiply-adds and share of the peak, after loading too."""
    quantized = quantize(network, inputs, "native")
    for model in (quantized, saved_and_loaded(quantized)):
        result = profile(model, inputs, runs=3)
        native = [row for row in result.ops if row.op.startswith("jitquant::")]
        assert all(row.kernel for row in native)
        convs = [row for row in native if row.op.startswith("jitquant::conv2d")]
        assert [row.multiply_adds for row in convs] == [2 * 100 * 16 * 27, 2 * 100 * 32 * 16]
        assert all(row.peak_share is not None and row.peak_share > 0 for row in convs)
        assert result.multiply_adds == sum(row.multiply_adds or 0 for row in result.ops)
        assert result.peak is not None
        assert result.peak_share == pytest.approx(
            result.multiply_adds / (result.total_us * 1e-6) / result.peak
        )
        check_sums(result)
    assert next(row for row in profile(quantized, inputs, runs=1).ops if row.multiply_adds).module == "conv"


def test_quantized_and_prepared_modules(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that quantized ops of torch are rows, and so are the observers of a prepared module."""
    quantized = profile(quantize(network, inputs, "quantized"), inputs, runs=2)
    assert "quantized::linear" in ops(quantized)
    assert any("conv" in op for op in ops(quantized))
    check_sums(quantized)
    prepared = profile(jitquant.prepare_jit(network, {"": jitquant.get_default_qconfig()}), inputs, runs=2)
    observers = [row.module for row in prepared.ops if row.op == "prim::CallMethod forward"]
    assert observers
    assert all(module.startswith("_observer_") for module in observers)


def test_branches_and_loops() -> None:
    """Test that ops in a loop are counted as often as they run, and others are left out."""
    result = profile(torch.jit.script(Branches()), (torch.randn(4, 4), 5), runs=3)
    assert [(row.op, row.calls) for row in result.ops] == [
        ("aten::sin", 3),
        ("aten::cos", 2),
        ("aten::exp", 1),
    ]
    assert "calls" in str(result).splitlines()[0]
    swapped = profile(torch.jit.script(Branches()), (torch.randn(4, 4), 0, True), runs=3)
    assert ops(swapped) == ["aten::t", "aten::exp"]


def test_the_same_op_twice_has_two_rows() -> None:
    """Test that clocks of equal ops are kept apart."""
    text = """
graph(%self, %x : Tensor):
  %a : Tensor = aten::sin(%x)
  %b : Tensor = aten::sin(%a)
  return (%b)"""
    assert [(row.op, row.calls) for row in profile(parse_ir(text), torch.ones(3), runs=2).ops] == [
        ("aten::sin", 1),
        ("aten::sin", 1),
    ]


def test_shapes_and_lists_count_as_time_between() -> None:
    """Test that only what makes tensors has a row."""
    text = """
graph(%self, %x : Tensor):
  %sizes : int[] = aten::size(%x)
  %list : Tensor[] = prim::ListConstruct(%x, %x)
  %zero : int = prim::Constant[value=0]()
  %y : Tensor = aten::cat(%list, %zero)
  %z : Tensor = aten::expand(%x, %sizes, %implicit)
  %w : Tensor = aten::add_(%z, %z, %one)
  return (%y)""".replace(
        "  %z :",
        "  %implicit : bool = prim::Constant[value=0]()\n  %one : int = prim::Constant[value=1]()\n  %z :",
    )
    assert ops(profile(parse_ir(text), torch.ones(3), runs=2)) == ["aten::cat", "aten::expand", "aten::add_"]


def test_a_module_without_ops_has_a_profile() -> None:
    """Test that sums and table stand where nothing is computed."""
    text = """
graph(%self, %x : Tensor):
  return (%x)"""
    result = profile(parse_ir(text), torch.ones(3), runs=1)
    assert result.ops == ()
    assert "between ops" in str(result)


def test_forked_work_is_waited_for() -> None:
    """Test that a graph which forks and waits is profiled."""

    class Forks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            future = torch.jit.fork(torch.sin, x)
            return x.cos() + torch.jit.wait(future)

    assert ops(profile(torch.jit.script(Forks()), torch.ones(3), runs=5)) == [
        "prim::fork",
        "aten::cos",
        "aten::wait",
        "aten::add",
    ]


def test_profiles_in_two_threads(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that one profile waits for the other, and neither sees the other's ops."""
    models: list[tuple[torch.jit.ScriptModule, Any]] = [
        (network, inputs),
        (torch.jit.script(Branches()), (torch.randn(4, 4), 5)),
    ] * 2
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda given: profile(*given, runs=5), models))
    assert [[row.calls for row in result.ops] for result in results] == [[1] * 5, [3, 2, 1]] * 2


def test_a_forward_that_writes_changes_nothing_of_the_callers(inputs: Tensor) -> None:
    """Test that attributes, statistics, inputs and the random numbers to come stay bit for bit."""

    class Writes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.norm = nn.BatchNorm2d(4)
            self.seen = 0

        def forward(self, x: Tensor) -> Tensor:
            self.seen += 1
            return nn.functional.dropout(self.norm(self.conv(x.add_(1))))

    model = torch.jit.script(Writes().train())
    graph, tensors, given = str(model.graph), copy.deepcopy(model.state_dict()), inputs.clone()
    random = torch.get_rng_state()
    profile(model, given, runs=2)
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.equal(given, inputs)
    assert str(model.graph) == graph
    assert model.seen == 0
    assert all(torch.equal(value, tensors[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_profile_is_no_calibration(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that the observers of a prepared module have seen nothing of it."""
    prepared = jitquant.prepare_jit(network, {"": jitquant.get_default_qconfig()})
    prepared(inputs)
    before = jitquant.convert_jit(prepared)
    profile(prepared, 100 * inputs, runs=2)
    assert torch.equal(jitquant.convert_jit(prepared)(inputs), before(inputs))


def test_the_table_and_json(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that the table has a line for each op and the sums, and that JSON has the same figures."""
    result = profile(network, (inputs,), runs=2)
    lines = str(result).splitlines()
    assert len(lines) == 1 + len(result.ops) + 3 + 2
    assert lines[0].split() == ["time", "µs", "share", "op", "module"]
    for line, row in zip(lines[1:], result.ops, strict=False):
        assert row.op in line
        assert (row.module or row.source) in line
    assert [line.split("%")[1].strip() for line in lines[6:9]] == ["in ops", "between ops", "whole"]
    short = result.table(slowest=2).splitlines()
    assert max(result.ops, key=lambda row: row.time_us).op in short[1]
    assert "3 other ops" in short[3]
    data = json.loads(result.to_json())
    assert [row["op"] for row in data["ops"]] == ops(result)
    assert data["total_us"] == result.total_us
    assert data["between_share"] == result.between_share


def test_without_the_op_library_the_peak_is_not_known(
    network: torch.jit.ScriptModule, inputs: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that a build without oneDNN profiles all the same."""
    monkeypatch.setattr(jitquant.native, "is_available", lambda: False)
    result = profile(network, inputs, runs=1)
    assert result.peak is None
    assert result.peak_share is None
    assert "integer peak: not known" in str(result)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda model, x: (nn.ReLU(), x), "profile: the model is an eager ReLU; make it TorchScript first"),
        (lambda model, x: (3, x), "profile: the model is a int; pass a torch.jit.ScriptModule"),
        (lambda model, x: (model, [x]), "profile: inputs is a list; pass a tuple of what forward takes"),
        (lambda model, x: (model, (3,)), "do not fit: forward.* Expected a value of type 'Tensor'.*tuple"),
        (lambda model, x: (model, (x, x)), "do not fit: forward.*expected at most 2 argument.*received 3"),
        (
            lambda model, x: (model, ()),
            "do not fit: forward.*is missing value for argument 'x'; pass",
        ),
    ],
)
def test_bad_input_is_refused(
    arguments: Callable[[Any, Tensor], tuple[Any, Any]],
    message: str,
    network: torch.jit.ScriptModule,
    inputs: Tensor,
) -> None:
    """Test that a wrong model and wrong inputs are refused in words."""
    with pytest.raises(QuantizationError, match=message):
        profile(*arguments(network, inputs))


@pytest.mark.parametrize("runs", [0, -1, 1.5, True])
def test_a_wrong_number_of_runs_is_refused(
    runs: Any, network: torch.jit.ScriptModule, inputs: Tensor
) -> None:
    """Test that runs has to be a whole number from 1 up."""
    with pytest.raises(QuantizationError, match=f"profile: runs is {runs}; pass a whole number"):
        profile(network, inputs, runs=runs)


def test_a_module_without_forward_is_refused() -> None:
    """Test that the message says what is missing."""
    with pytest.raises(QuantizationError, match="profile: the model has no forward"):
        profile(torch.jit.script(nn.Module()), torch.ones(1))


def test_what_forward_raises_comes_through(network: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that an error of the model is the model's own, and that the next profile works."""
    with pytest.raises(RuntimeError, match="expected input"):
        profile(network, torch.randn(1, 5, 12, 12))
    assert len(profile(network, inputs, runs=1).ops) == 5
