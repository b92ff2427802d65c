"""Tests of quantize_jit(tolerance=...): the fewest parts stay float that bring a model within it."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import QuantizationError
from jitquant.calls import Call, spread
from tests.graphs import graph_text, saved_and_loaded
from tests.marks import needs_native, needs_photographs
from tests.networks import efficientnet_lite0, photographs
from tests.test_sensitivity import IMAGES, PER_TENSOR, Only, Residual, residual

BOTH = pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def calibrate(prepared: torch.jit.ScriptModule) -> None:
    for images in IMAGES.split(2):
        prepared(images)


def quantized(model: torch.jit.ScriptModule, qconfigs: Any = None, **options: Any) -> torch.jit.ScriptModule:
    return jitquant.quantize_jit(model, qconfigs or PER_TENSOR, calibrate, [], **options)


def error(expected: Tensor, found: Tensor) -> float:
    return float((expected - found).norm() / expected.norm())


def tolerance_of(module: torch.jit.ScriptModule) -> dict[str, Any]:
    found = jitquant.summarize(module).tolerance
    assert found is not None
    return dict(found)


@BOTH
@pytest.mark.parametrize("broken", ["stem.0", "conv"])
@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_only_the_broken_layer_stays_float(broken: str, target: str, preset: str) -> None:
    """Test that the others are integer, and the outputs within the tolerance."""
    model = residual(broken=broken)
    expected = model(IMAGES)
    assert error(expected, quantized(model, target=target, preset=preset)(IMAGES)) > 0.05
    module = quantized(model, target=target, preset=preset, tolerance=0.05)
    found = tolerance_of(module)
    assert found["left float"] == [broken]
    assert found["reached"] == pytest.approx(error(expected, module(IMAGES)), rel=0.05)
    assert found["reached"] <= 0.05 < found["all integer"]
    reasons = {op.reason for op in jitquant.summarize(module).ops if op.module == broken}
    (reason,) = reasons - {""}
    assert reason.startswith("left float for tolerance: rounding it alone leaves ")
    assert reason.endswith(" dB")


@BOTH
@pytest.mark.parametrize("tolerance", [0.5, 0.05, 0.02, 0.008])
def test_the_tolerance_is_reached(tolerance: float, target: str) -> None:
    """Test that on the inputs of calibration, scripted and traced, with less float the more is allowed."""
    for model in (residual(), torch.jit.trace(Residual().eval(), IMAGES[:1])):
        module = quantized(model, target=target, tolerance=tolerance)
        assert error(model(IMAGES), module(IMAGES)) <= tolerance * 1.001


def test_no_part_can_be_integer_too() -> None:
    """Test that of the parts left float each is needed."""
    model = residual(broken="conv")
    module = quantized(model, tolerance=0.012, preset="fast")
    left = tolerance_of(module)["left float"]
    assert len(left) >= 2
    for name in left:
        others = {key.removesuffix(".add") for key in left if key != name}
        again = quantized(model, {**PER_TENSOR, **dict.fromkeys(others)}, preset="fast")
        assert error(model(IMAGES), again(IMAGES)) > 0.012


def test_nothing_is_left_float_where_all_integer_is_near_enough() -> None:
    module = quantized(residual(), tolerance=0.9)
    found = tolerance_of(module)
    assert found["left float"] == []
    assert found["bytes more"] == 0
    assert found["time"] == 1.0
    assert jitquant.summarize(module).weights_share == 1.0


def test_what_is_said_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    """Test summary and info, of a saved file too: what was asked for, reached, left float, and its cost."""
    module = saved_and_loaded(quantized(residual(broken="conv"), tolerance=0.05))
    facts = jitquant.info(module)
    assert facts["tolerance"] == tolerance_of(module)
    assert facts["tolerance"]["bytes more"] > 0
    assert facts["tolerance"]["time"] > 0
    assert "left float: ['conv']" in capsys.readouterr().out
    lines = str(jitquant.summarize(module)).splitlines()
    assert lines[-2].startswith("relative error of the outputs: 0.0")
    assert " of the 0.05 that may be" in lines[-2]
    assert lines[-1].startswith(f"1 of {facts['tolerance']['parts']} parts left float for that, which takes ")
    assert jitquant.summarize(quantized(residual())).tolerance is None


def test_all_that_calibration_showed_is_within_the_tolerance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that where what is looked at first is nearer to float than the rest."""
    monkeypatch.setattr("jitquant.tolerance.JUDGED_ROWS", 1)
    model = residual()
    expected, given = model(IMAGES), quantized(model, preset="fast")(IMAGES)
    nearest = min(range(6), key=lambda row: error(expected[row], given[row]))
    order = [nearest, *(row for row in range(6) if row != nearest)]

    def run(prepared: torch.jit.ScriptModule) -> None:
        for row in order:
            prepared(IMAGES[row : row + 1])

    tolerance = (error(expected[nearest], given[nearest]) + error(expected, given)) / 2
    assert error(expected[nearest], given[nearest]) < 0.9 * tolerance
    module = jitquant.quantize_jit(model, PER_TENSOR, run, [], preset="fast", tolerance=tolerance)
    found = tolerance_of(module)
    assert error(expected, module(IMAGES)) <= tolerance
    assert found["reached"] == pytest.approx(error(expected, module(IMAGES)), rel=1e-3)
    assert found["left float"]
    assert found["rows"] == 6


def test_calls_are_taken_from_all_that_were_recorded() -> None:
    """Test that evenly, and all where there are few."""
    calls = [Call(args=(number,)) for number in range(256)]
    assert [call.args[0] for call in spread(calls, 64)] == list(range(0, 256, 4))
    assert spread(calls[:5], 64) == calls[:5]


def test_a_metric_of_the_users_own() -> None:
    """Test that the model is within the tolerance of what float has of it."""
    model = residual(broken="stem.0")
    expected = model(IMAGES)
    seen: list[torch.jit.ScriptModule] = []

    def nearness(module: torch.jit.ScriptModule) -> float:
        seen.append(module)
        return -float((module(IMAGES) - expected).abs().max())

    module = quantized(model, tolerance=0.05, metric=nearness)
    found = tolerance_of(module)
    assert found["of"] == "metric, below float's"
    assert found["left float"] == ["stem.0"]
    assert nearness(module) >= -0.05
    assert all(isinstance(each, torch.jit.ScriptModule) for each in seen)


def test_a_metric_alone_ranks_where_outputs_are_classes() -> None:
    """Test that of a model that gives no floating point."""

    class Classes(nn.Module):
        def __init__(self, network: nn.Module, middle: Tensor) -> None:
            super().__init__()
            self.network = network
            self.middle = nn.Buffer(middle)

        def forward(self, x: Tensor) -> Tensor:
            return (self.network(x) - self.middle).argmax(1)

    scores = residual(broken="conv")
    images = torch.randn(200, 3, 12, 12)
    images[:, 0] = 0
    model = torch.jit.script(Classes(scores, scores(images).mean(0).detach()).eval())
    labels = model(images)

    def right(module: torch.jit.ScriptModule) -> Tensor:
        return (module(images) == labels).double().mean()

    assert right(quantized(model, preset="fast")) < 0.7
    module = quantized(model, preset="fast", tolerance=0.3, metric=right)
    assert right(module) >= 0.7
    assert "network.conv" in tolerance_of(module)["left float"]
    reasons = {op.reason for op in jitquant.summarize(module).ops}
    assert any("rounding it alone leaves a metric of 0." in reason for reason in reasons)


def test_what_cannot_be_reached_is_said() -> None:
    """Test the warning with the tolerance and what was reached, and that nothing is float for nothing."""
    message = r"tolerance=0\.1 is not reached: the nearest model that was found has 0 of \d parts float"
    with pytest.warns(UserWarning, match=message) as found:
        module = quantized(residual(), tolerance=0.1, metric=Falls())
    assert "metric, below float's is 0.5; it is 0.5 with none" in "\n".join(str(it.message) for it in found)
    assert tolerance_of(module)["left float"] == []
    assert jitquant.summarize(module).weights_share == 1.0


def test_the_nearest_is_given_where_nothing_is_near_enough() -> None:
    """Test that of all that was tried the one of least loss comes out, be it not the last."""
    with pytest.warns(UserWarning, match="nearest model that was found has 1 of "):
        module = quantized(residual(), tolerance=0.1, metric=Falls(0.2, 0.5, 0.3))
    assert len(tolerance_of(module)["left float"]) == 1
    assert tolerance_of(module)["reached"] == 0.5
    assert tolerance_of(module)["all integer"] == 0.8


class Falls:
    """A metric that has 1 for the float model, which is first, and then these; for the rest the last."""

    def __init__(self, *others: float) -> None:
        self.values = [1.0, *(others or (0.5,))]

    def __call__(self, module: torch.jit.ScriptModule) -> float:
        return self.values.pop(0) if len(self.values) > 1 else self.values[0]


class Two(Residual):
    """With a second method."""

    @torch.jit.export
    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(self.stem(x)))


def test_methods_are_compared_too() -> None:
    """Test that calls of all quantized methods are recorded and within the tolerance together."""
    network = Two().eval()
    network.conv.weight.data[0] *= 1000
    model = torch.jit.script(network)

    def run(prepared: torch.jit.ScriptModule) -> None:
        prepared(IMAGES)
        prepared.features(IMAGES)

    module = jitquant.quantize_jit(model, PER_TENSOR, run, [], methods=["forward", "features"], tolerance=0.1)
    expected = torch.cat([model(IMAGES).flatten(), model.features(IMAGES).flatten()])
    given = torch.cat([module(IMAGES).flatten(), module.features(IMAGES).flatten()])
    assert error(expected, given) <= 0.1
    assert "features" in {op.method for op in jitquant.summarize(module).ops}


def test_in_place() -> None:
    """Test that the model itself becomes what is made without."""
    model = residual(broken="conv")
    expected = quantized(model, tolerance=0.1)
    assert quantized(model, tolerance=0.1, inplace=True) is model
    assert torch.equal(model(IMAGES), expected(IMAGES))


@pytest.mark.parametrize(
    "choice",
    [
        jitquant.QConfigMapping().set_global(jitquant.default_qconfig).set_module_name("head", None),
        Only({"head"}, otherwise=True),
    ],
    ids=["mapping", "quantizer"],
)
def test_what_has_no_qconfig_is_no_part(choice: Any) -> None:
    model = residual()
    module = quantized(model, choice, tolerance=0.01)
    reasons = {op.module: op.reason for op in jitquant.summarize(module).ops}
    assert reasons["head"] == "its qconfig is None"
    assert error(model(IMAGES), module(IMAGES)) <= 0.01


def test_strict_is_about_what_no_tolerance_leaves_float() -> None:
    """Test that it refuses what cannot be integer, and not what the tolerance leaves float."""
    model = residual(broken="conv")
    assert tolerance_of(quantized(model, tolerance=0.05, strict=True))["left float"] == ["conv"]
    with pytest.raises(QuantizationError, match="ops would stay float"):
        quantized(model, {**PER_TENSOR, "head": None}, tolerance=0.1, strict=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": -0.1}, r"tolerance is -0\.1; pass a number from 0 up, the relative error"),
        ({"tolerance": math.nan}, "tolerance is nan"),
        ({"tolerance": math.inf}, "tolerance is inf"),
        ({"tolerance": True}, "tolerance is True"),
        ({"tolerance": "little"}, "tolerance is 'little'"),
        ({"tolerance": 0.1, "debug": True}, "which debug=True does not make"),
        ({"tolerance": 0.1, "stop_after": "fold_conv_bn"}, "which stop_after='fold_conv_bn' does not make"),
        ({"metric": len}, "metric is given without a tolerance"),
        ({"tolerance": 0.1, "metric": "top-1"}, "metric is a str"),
        ({"tolerance": 0.1, "metric": lambda module: None}, "metric returned None"),
        (
            {"tolerance": 0.1, "qconfigs": {**PER_TENSOR, "head": jitquant.per_channel_dynamic_qconfig}},
            "the qconfig of head is a dynamic one",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    """Test that a message says so, and the model is as it was."""
    model = residual()
    text = graph_text(model)
    with pytest.raises(QuantizationError, match=message) as refusal:
        quantized(model, **options)
    assert str(refusal.value).startswith("quantize_jit: ")
    assert graph_text(model) == text


def test_without_calibration_there_is_nothing_to_compare() -> None:
    with pytest.raises(QuantizationError, match="run_fn called none of the methods forward"):
        jitquant.quantize_jit(residual(), PER_TENSOR, lambda prepared: None, [], tolerance=0.1)


@pytest.mark.slow
@needs_photographs
@pytest.mark.parametrize(
    ("target", "less"), [("quantized", 0.003), pytest.param("native", 0.005, marks=needs_native)]
)
def test_efficientnet_lite0_on_photographs(target: str, less: float) -> None:
    """Test that with one scale for all of a weight 90 % stays integer, and top-1 near float's.

    One of 468 photographs is 0.2 points. All integer loses 5.
    """
    samples, _ = photographs(classes=range(64))
    images, labels = photographs(classes=range(64, 1000))
    model = torch.jit.trace(efficientnet_lite0(), samples[:1])

    def top1(module: torch.jit.ScriptModule) -> float:
        chosen = torch.cat([module(image).argmax(1) for image in images.split(1)])
        return float((chosen == labels).double().mean())

    def run(prepared: torch.jit.ScriptModule) -> None:
        for image in samples.split(1):
            prepared(image)

    module = jitquant.quantize_jit(model, PER_TENSOR, run, [], target=target, preset="fast", tolerance=0.18)
    with torch.no_grad():
        assert top1(module) >= top1(model) - less
        assert error(model(samples), module(samples)) <= 0.181
    adds = jitquant.summarize(module, images[:1]).multiply_adds
    assert adds is not None
    assert adds.integer_share >= 0.9
