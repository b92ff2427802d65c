"""The API: what it does with its arguments, what it refuses, and that the caller's model stays as it was."""

import copy
import importlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import get_default_qconfig as torch_default_qconfig

import jitquant
from jitquant import QConfig, QuantizationError, default_qconfig, get_default_qconfig
from tests.networks import sqnr

WHOLE = {"": get_default_qconfig()}


class Network(nn.Module):
    """Convolutions, a batch norm, a submodule of its own, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.sub = nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1))
        self.fc = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.sub(self.norm(self.conv(x))).mean([2, 3]))


class NotTorchScript(nn.Module):
    """An observer that uses what TorchScript does not know."""

    def forward(self, x: Tensor) -> Tensor:
        import numpy

        return numpy.abs(x)


@pytest.fixture
def inputs() -> Tensor:
    return torch.randn(8, 3, 12, 12)


@pytest.fixture
def network() -> nn.Module:
    network = Network().eval()
    network.norm.running_mean.normal_()
    network.norm.running_var.uniform_(0.5, 2)
    return network


@pytest.fixture(params=["scripted", "traced"])
def model(request: pytest.FixtureRequest, network: nn.Module, inputs: Tensor) -> torch.jit.ScriptModule:
    return torch.jit.script(network) if request.param == "scripted" else torch.jit.trace(network, inputs)


@pytest.fixture
def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(network)


class Snapshot:
    """What a model was: its graph, its tensors and what it gives."""

    def __init__(self, model: torch.jit.ScriptModule, x: Tensor) -> None:
        self.model, self.x = model, x
        self.output = model(x)  # first, since a prepared model observes it
        self.graph = str(model.inlined_graph)
        self.tensors = copy.deepcopy(model.state_dict())

    def check(self) -> None:
        assert str(self.model.inlined_graph) == self.graph
        tensors = self.model.state_dict()
        assert tensors.keys() == self.tensors.keys()
        assert all(torch.equal(tensors[name], self.tensors[name]) for name in tensors)
        assert torch.equal(self.model(self.x), self.output)


@pytest.fixture
def unchanged(model: torch.jit.ScriptModule, inputs: Tensor) -> Iterator[None]:
    """Checks after the test that the model is bit for bit what it was."""
    snapshot = Snapshot(model, inputs)
    yield
    snapshot.check()


def calibrate(model: torch.jit.ScriptModule, *batches: Tensor) -> None:
    for batch in batches:
        model(batch)


def run_nothing(model: torch.jit.ScriptModule) -> None:
    pass


def kinds(model: torch.jit.ScriptModule) -> list[str]:
    return [node.kind() for node in model.inlined_graph.nodes()]


# What it does


@pytest.mark.parametrize("name", ["quantize_jit", "prepare_jit", "convert_jit", "fuse_conv_bn_jit"])
def test_signatures_are_those_of_torch(name: str) -> None:
    """Test that names, order and defaults are torch.ao's, and that whatever is new is keyword-only."""
    ours = inspect.signature(getattr(jitquant, name)).parameters
    module = importlib.import_module("torch.ao.quantization.quantize_jit")
    theirs = inspect.signature(getattr(module, name)).parameters
    old = [parameter for parameter in ours.values() if parameter.kind is not parameter.KEYWORD_ONLY]
    assert [(p.name, p.default) for p in old] == [(p.name, p.default) for p in theirs.values()]


def test_one_call_is_the_three_steps(model: torch.jit.ScriptModule, inputs: Tensor, unchanged: None) -> None:
    """Test that quantize_jit gives what prepare, calibrate and convert give: float, but for noise."""
    once = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs])
    prepared = jitquant.prepare_jit(model, WHOLE)
    calibrate(prepared, inputs)
    assert torch.equal(once(inputs), jitquant.convert_jit(prepared)(inputs))
    assert "quantized::conv2d_relu" in kinds(once)
    assert sqnr(model(inputs), once(inputs)) > 30


def test_inplace_changes_the_model_itself(model: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that with inplace=True the model that was passed is the one that comes back, quantized."""
    expected = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs])(inputs)
    result = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs], inplace=True)
    assert result is model
    assert torch.equal(model(inputs), expected)


@pytest.mark.parametrize("step", ["prepare", "convert", "fuse"])
def test_steps_leave_their_argument_alone(
    step: str, model: torch.jit.ScriptModule, inputs: Tensor, unchanged: None
) -> None:
    """Test that each step on its own works on a copy."""
    if step == "prepare":
        assert jitquant.prepare_jit(model, WHOLE) is not model
    elif step == "fuse":
        assert jitquant.fuse_conv_bn_jit(model) is not model
    else:
        prepared = jitquant.prepare_jit(model, WHOLE)
        calibrate(prepared, inputs)
        snapshot = Snapshot(prepared, inputs)
        jitquant.convert_jit(prepared)
        snapshot.check()


def test_inplace_leaves_the_model_alone_when_it_fails(
    model: torch.jit.ScriptModule, inputs: Tensor, unchanged: None
) -> None:
    """Test that with inplace=True too a model is changed only if all went well."""
    with pytest.raises(QuantizationError, match="never observed"):
        jitquant.quantize_jit(model, WHOLE, run_nothing, [], inplace=True)


def test_most_specific_qconfig_wins(model: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that '' is the whole model, that a path under it wins, and that None means float."""
    quantized = jitquant.quantize_jit(model, {**WHOLE, "sub": None, "fc": None}, calibrate, [inputs])
    assert kinds(quantized).count("quantized::conv2d") == 1
    assert kinds(quantized).count("aten::conv2d") == 1
    assert kinds(quantized).count("aten::linear") == 1

    quantized = jitquant.quantize_jit(
        model, {**WHOLE, "sub": None, "sub.1": default_qconfig}, calibrate, [inputs]
    )
    assert kinds(quantized).count("quantized::conv2d") == 2

    quantized = jitquant.quantize_jit(model, {"fc": default_qconfig}, calibrate, [inputs], preset="fast")
    assert kinds(quantized).count("aten::conv2d") == 2
    assert kinds(quantized).count("quantized::linear") == 1


def test_qconfig_of_torch_is_taken(model: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that a torch.ao QConfig works when a user passes one."""
    quantized = jitquant.quantize_jit(model, {"": torch_default_qconfig("x86")}, calibrate, [inputs])
    assert "quantized::linear" in kinds(quantized)
    assert sqnr(model(inputs), quantized(inputs)) > 25


def test_debug_keeps_float_arithmetic_and_weights(model: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that debug=True gives dequantize, op, quantize, with the folded weight where the weight was."""
    debug = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs], debug=True)
    assert not [kind for kind in kinds(debug) if kind.startswith("quantized::")]
    assert {"aten::dequantize", "aten::conv2d", "aten::quantize_per_tensor"} <= set(kinds(debug))
    norm = model.norm
    factor = norm.weight / torch.sqrt(norm.running_var + 1e-5)
    torch.testing.assert_close(debug.conv.weight, model.conv.weight * factor[:, None, None, None])
    assert not hasattr(debug, "_observer_0")
    final = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs])
    assert sqnr(final(inputs), debug(inputs)) > 35


def test_graphs_are_printed_and_work_stops(
    scripted: torch.jit.ScriptModule, inputs: Tensor, capsys: pytest.CaptureFixture[str]
) -> None:
    """Test that one switch prints the graph after each pass that changed something, and another stops."""
    stopped = jitquant.quantize_jit(
        scripted, WHOLE, calibrate, [inputs], print_graphs=True, stop_after="insert_quant_dequant"
    )
    printed = capsys.readouterr().out
    assert "--- after fold_conv_bn (1 rewrites) ---\ngraph(" in printed
    assert "--- after fold_padding" not in printed  # which had nothing to do
    assert "fuse_quantized" not in printed
    assert "aten::dequantize" in kinds(stopped)
    assert not [kind for kind in kinds(stopped) if kind.startswith("quantized::")]
    early = jitquant.quantize_jit(scripted, WHOLE, calibrate, [inputs], stop_after="fold_conv_bn")
    assert "aten::batch_norm" not in kinds(early)
    assert not hasattr(early, "_observer_0")


def test_preserved_attributes_stay(inputs: Tensor) -> None:
    """Test that freezing keeps the attributes that are asked for, and the methods besides forward."""

    class Versioned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)
            self.version = 7

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x)

        @torch.jit.export
        def twice(self, x: Tensor) -> Tensor:
            return 2 * x

    model = torch.jit.script(Versioned().eval())
    quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [inputs], preserved_attrs=["version"])
    assert quantized.version == 7
    assert torch.equal(quantized.twice(inputs), 2 * inputs)
    assert "version" not in dir(jitquant.quantize_jit(model, WHOLE, calibrate, [inputs])._c)


def test_a_prepared_model_is_saved_and_calibrated_elsewhere(
    model: torch.jit.ScriptModule, inputs: Tensor, tmp_path: Any
) -> None:
    """Test that a prepared model that was saved and loaded converts to the same."""
    prepared = jitquant.prepare_jit(model, WHOLE)
    torch.jit.save(prepared, tmp_path / "prepared.pt")
    loaded = torch.jit.load(tmp_path / "prepared.pt")
    calibrate(prepared, inputs)
    calibrate(loaded, inputs)
    assert torch.equal(jitquant.convert_jit(prepared)(inputs), jitquant.convert_jit(loaded)(inputs))


def test_a_model_without_such_ops_comes_back_as_it_is() -> None:
    """Test that a model with nothing to quantize gives what it gave, with a warning."""
    model = torch.jit.script(nn.Softmax(dim=1).eval())
    x = torch.randn(2, 5)
    with pytest.warns(UserWarning, match="no op of the model has an integer form"):
        quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [x])
    assert torch.equal(quantized(x), model(x))


# What it refuses


@pytest.mark.parametrize(
    "call",
    [
        lambda model: jitquant.quantize_jit(model, WHOLE, run_nothing, []),
        lambda model: jitquant.prepare_jit(model, WHOLE),
        lambda model: jitquant.convert_jit(model),
        lambda model: jitquant.fuse_conv_bn_jit(model),
    ],
)
def test_an_eager_module_is_refused(call: Callable[[Any], Any], network: nn.Module) -> None:
    """Test that an eager module is refused with the way to make it TorchScript."""
    with pytest.raises(QuantizationError, match=r"eager Network; .*torch.jit.script"):
        call(network)
    with pytest.raises(QuantizationError, match=r"is a str; pass a torch.jit.ScriptModule"):
        call("model.pt")


def test_training_mode_is_refused(model: torch.jit.ScriptModule) -> None:
    """Test that a model, and a part of one, in training mode is refused by name."""
    model.sub.train()
    with pytest.raises(QuantizationError, match=r"submodule 'sub' is in training mode; call model.eval\(\)"):
        jitquant.prepare_jit(model, WHOLE)
    model.train()
    with pytest.raises(QuantizationError, match=r"the model is in training mode"):
        jitquant.fuse_conv_bn_jit(model)


@pytest.mark.parametrize(
    ("qconfig_dict", "message"),
    [
        ({"sub.2": None}, r"names 'sub.2', and the model has no such submodule; did you mean 'sub.1'"),
        ({"zyx": None}, r"names 'zyx', .*use '' for the whole model"),
        ({"": "x86"}, r"qconfig_dict\[''\]: .*a str has no callable activation"),
        ({}, r"qconfig_dict is empty"),
        (None, r"qconfig_dict is a NoneType; pass a dict"),
        (default_qconfig, r"qconfig_dict is a QConfig; pass a dict"),
        ({"": QConfig(NotTorchScript, NotTorchScript)}, r"torch.jit.script cannot compile NotTorchScript"),
    ],
)
def test_a_wrong_qconfig_dict_is_refused(
    qconfig_dict: Any, message: str, model: torch.jit.ScriptModule, unchanged: None
) -> None:
    """Test that each mistake in qconfig_dict is named, with the remedy."""
    with pytest.raises(QuantizationError, match=message):
        jitquant.quantize_jit(model, qconfig_dict, run_nothing, [])


def test_calibration_that_ran_nothing_is_refused(model: torch.jit.ScriptModule, unchanged: None) -> None:
    """Test that conversion without calibration names the first op and the remedy."""
    message = r"aten::conv2d at \w+\.py:\d+ \(conv\) was never observed; run calibration data through"
    with pytest.raises(QuantizationError, match=message):
        jitquant.quantize_jit(model, WHOLE, run_nothing, [])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(
    bad: float, model: torch.jit.ScriptModule, inputs: Tensor, unchanged: None
) -> None:
    """Test that calibration data with NaN or infinity is refused with the op, the path and the value."""
    spoilt = inputs.clone()
    spoilt[0, 0, 0, 0] = bad
    with pytest.raises(QuantizationError, match=r"\(conv\) saw NaN or infinity \(value %\S+\); look for it"):
        jitquant.quantize_jit(model, WHOLE, calibrate, [inputs, spoilt])


def test_wrong_order_of_steps_is_refused(model: torch.jit.ScriptModule, inputs: Tensor) -> None:
    """Test that converting what was never prepared, preparing twice and converting twice are refused."""
    with pytest.raises(QuantizationError, match="was never prepared; call prepare_jit"):
        jitquant.convert_jit(model)
    prepared = jitquant.prepare_jit(model, WHOLE)
    with pytest.raises(QuantizationError, match=r"prepared already; .*go on with convert_jit"):
        jitquant.prepare_jit(prepared, WHOLE)
    calibrate(prepared, inputs)
    converted = jitquant.convert_jit(prepared)
    with pytest.raises(QuantizationError, match="quantized already"):
        jitquant.convert_jit(converted)
    with pytest.raises(QuantizationError, match="quantized already; start again"):
        jitquant.prepare_jit(converted, WHOLE)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"run_fn": 3}, r"run_fn is a int; pass a function"),
        ({"stop_after": "fold_bn"}, r"stop_after='fold_bn' is no pass that runs; those are inline_calls"),
        ({"preserved_attrs": ["versoin"]}, r"names 'versoin', and the model has no such attribute"),
    ],
)
def test_other_wrong_arguments_are_refused(
    arguments: dict[str, Any], message: str, model: torch.jit.ScriptModule, unchanged: None
) -> None:
    """Test that a wrong run_fn, pass name or attribute is named."""
    given = {"run_fn": run_nothing, "run_args": [], **arguments}
    with pytest.raises(QuantizationError, match=message):
        jitquant.quantize_jit(model, WHOLE, **given)


def test_an_error_in_calibration_passes_through(model: torch.jit.ScriptModule, unchanged: None) -> None:
    """Test that what the user's run_fn raises arrives as it is."""

    def fail(prepared: torch.jit.ScriptModule) -> None:
        raise KeyError("no such image")

    with pytest.raises(KeyError, match="no such image"):
        jitquant.quantize_jit(model, WHOLE, fail, [], inplace=True)


def test_another_torch_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that an extension built with another torch is not loaded, and that the message names both."""
    from jitquant import _build_info
    from jitquant._compatibility import check_torch_version

    check_torch_version()
    monkeypatch.setattr(_build_info, "TORCH_VERSION", "2.12.1+cpu")
    with pytest.raises(ImportError, match=r"built with torch 2\.12\.1\+cpu, and this is torch 2\.13"):
        check_torch_version()
