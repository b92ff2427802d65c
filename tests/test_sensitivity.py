"""Tests of sensitivity: what each part costs, against models that were really converted."""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import QuantizationError
from jitquant.calls import Call, in_pieces
from jitquant.info import read_info
from jitquant.scores import ByOutput
from jitquant.switchable import Switchable, left_float
from tests.graphs import graph_text
from tests.marks import needs_native, needs_photographs
from tests.networks import efficientnet_lite0, photographs, resnet18, sqnr

PER_TENSOR = {"": jitquant.default_qconfig}


class Residual(nn.Module):
    """Two convolutions with a residual around the second, a pool and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = torch.relu(self.conv(y) + y)
        return self.head(y.mean([2, 3]))


IMAGES = torch.randn(6, 3, 12, 12, generator=torch.Generator().manual_seed(0))
IMAGES[:, 0] = 0


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def residual(*, broken: str = "") -> torch.jit.ScriptModule:
    """The network; of a layer named as `broken` the weights of one input are 1,000 times the others.

    That input is always zero, so that what the network gives is as large as ever.
    """
    network = Residual().eval()
    if broken:
        layer = network.get_submodule(broken)
        assert isinstance(layer, nn.Conv2d)
        layer.weight.data[:, 0] *= 1000
        norm = network.stem[1]
        assert isinstance(norm, nn.BatchNorm2d)
        norm.bias.data[0] = -100  # the relu gives zeros
    return torch.jit.script(network)


def calibrated(model: torch.jit.ScriptModule, qconfigs: Any = None, **options: Any) -> torch.jit.ScriptModule:
    choice = {"": jitquant.get_default_qconfig()} if qconfigs is None else qconfigs
    prepared = jitquant.prepare_jit(model, choice, **options)
    with torch.no_grad():
        prepared(IMAGES)
    return prepared


def switchable(prepared: torch.jit.ScriptModule) -> Switchable:
    facts = read_info(prepared)
    assert facts is not None
    return Switchable(prepared, facts, jitquant.convert_jit(prepared))


class Only:
    """Chooses a qconfig for the ops of some modules, or of all but these."""

    def __init__(self, modules: set[str], *, otherwise: bool = False) -> None:
        self.modules, self.otherwise = modules, otherwise

    def annotate(self, graph: Any) -> Any:
        chosen = [node for node in graph if (node.module in self.modules) != self.otherwise]
        return dict.fromkeys(chosen, jitquant.get_default_qconfig())


@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("preset", ["fast", "balanced", "accurate"])
def test_with_all_on_it_is_the_debug_model_and_with_none_the_float_one(preset: str, target: str) -> None:
    """Test that bit for bit, and float but for what folding the batch norm rounds."""
    model = residual()
    prepared = calibrated(model, preset=preset, target=target)
    switches = switchable(prepared)
    debug = jitquant.convert_jit(prepared, debug=True)
    with torch.no_grad():
        with switches.running(switches.parts) as module:
            assert torch.equal(module(IMAGES), debug(IMAGES))
        with switches.running(()) as module:
            assert sqnr(model(IMAGES), module(IMAGES)) > 100
            folded = jitquant.fuse_conv_bn_jit(model)
            torch.testing.assert_close(module(IMAGES), folded(IMAGES), rtol=1e-5, atol=1e-6)


def test_with_none_on_it_has_the_bits_of_float() -> None:
    """Test that where no batch norm is folded."""
    model = torch.jit.script(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4)).eval())
    switches = switchable(calibrated(model, preset="accurate"))
    with torch.no_grad(), switches.running(()) as module:
        assert torch.equal(module(IMAGES), model(IMAGES))


@pytest.mark.parametrize("traced", [False, True])
def test_alone_and_together_are_those_of_converted_models(traced: bool) -> None:
    """Test against models that were prepared with only a part's qconfig, and with all but that."""
    model: Any = torch.jit.trace(Residual().eval(), IMAGES[:1]) if traced else residual()
    found = jitquant.sensitivity(model, [IMAGES], preset="fast", samples=6)
    assert {row.name for row in found.rows} >= {"stem.0", "conv", "head"}
    expected = model(IMAGES)

    def converted(quantizer: Only) -> float:
        options: dict[str, Any] = {"preset": "fast"}
        module = jitquant.quantize_jit(model, quantizer, lambda prepared: prepared(IMAGES), [], **options)
        return sqnr(expected, module(IMAGES))

    for name, modules in (("stem.0", {"stem.0", "stem.2"}), ("conv", {"conv"})):
        assert found[name].alone == pytest.approx(converted(Only(modules)), abs=0.7)
        together = converted(Only(modules, otherwise=True)) - converted(Only(set(), otherwise=True))
        assert found[name].together == pytest.approx(together, abs=1.0)


@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
def test_all_parts_cost_what_converted_models_lose(target: str) -> None:
    """Test each part alone and left float against what is made of the same calibration."""
    model = residual()
    prepared = calibrated(model, preset="fast", target=target)
    found = jitquant.sensitivity(prepared, [IMAGES], samples=6)
    switches, facts, expected = switchable(prepared), read_info(prepared), model(IMAGES)
    assert facts is not None
    for part in switches.parts:
        for left in ([part], [other for other in switches.parts if other is not part]):
            module = jitquant.convert_jit(left_float(prepared, facts, left))
            loss = sqnr(expected, module(IMAGES))
            row = found[part.name]
            assert row.together is not None
            assert (found.integer + row.together if left == [part] else row.alone) == pytest.approx(
                loss, abs=1.5
            )


@pytest.mark.parametrize("broken", ["stem.0", "conv"])
def test_a_broken_layer_is_first(broken: str) -> None:
    """Test that one channel of 1,000 times the others is found, where all have one scale."""
    found = jitquant.sensitivity(residual(broken=broken), [IMAGES], PER_TENSOR)
    assert found.rows[0].name == broken
    assert found.rows[0].alone < found.rows[1].alone - 6
    assert found.rows[0].together == max(row.together for row in found.rows if row.together is not None)


class Chain(nn.Module):
    """Three convolutions with relu between, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.third = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.second(torch.relu(self.first(x))))
        return self.head(torch.relu(self.third(x)).mean([2, 3]))


@pytest.mark.parametrize("names", [("first", "second"), ("second", "third")])
@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_a_channel_of_1000_times_the_others_and_what_takes_it_are_first(
    names: tuple[str, str], preset: str
) -> None:
    """Test that where the next layer divides by 1,000 again, so that the function is the same."""
    network = Chain().eval()
    layer, following = (network.get_submodule(name) for name in names)
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(following, nn.Conv2d)
    assert layer.bias is not None
    before = network(IMAGES)
    layer.weight.data[0] *= 1000
    layer.bias.data[0] *= 1000
    following.weight.data[:, 0] /= 1000
    torch.testing.assert_close(network(IMAGES), before, rtol=1e-4, atol=1e-5)
    found = jitquant.sensitivity(torch.jit.script(network), [IMAGES], PER_TENSOR, preset=preset)
    assert {row.name for row in found.rows[:2]} == set(names)
    assert found.rows[2].alone > found.rows[1].alone + 6


@pytest.mark.parametrize("broken", ["stem.0", "conv"])
@pytest.mark.parametrize("preset", ["fast", "balanced"])
def test_a_channel_that_drowns_the_others_is_found(broken: str, preset: str) -> None:
    """Test that the layer is first, though the outputs, which that channel makes up, hide what is lost."""
    network = Residual().eval()
    layer = network.get_submodule(broken)
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data[0] *= 1000
    found = jitquant.sensitivity(torch.jit.script(network), [IMAGES], PER_TENSOR, preset=preset)
    assert found.rows[0].name == broken
    assert found.rows[0].alone > min(row.alone for row in found.rows) + 6
    own = [row.own for row in found.rows]
    assert own[0] is not None
    assert own[0] < 3
    assert all(value is not None and value > 3 for value in own[1:])
    assert "own dB" in found.table()


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["layer2.1.conv1", "layer3.0.conv1"])
def test_a_channel_that_drowns_the_others_in_resnet18(broken: str) -> None:
    """Test that the layer is first."""
    network = resnet18().eval()
    layer = network.get_submodule(broken)
    assert isinstance(layer, nn.Conv2d)
    layer.weight.data[0] *= 1000
    images = torch.randn(2, 3, 224, 224)
    model = torch.jit.trace(network, images[:1])
    found = jitquant.sensitivity(model, [images], PER_TENSOR, preset="fast", together=False, samples=1)
    assert found.rows[0].name == broken


def test_rows_say_what_a_part_is() -> None:
    """Test names, weights and multiply-adds, the costliest first, in the table and in JSON."""
    found = jitquant.sensitivity(residual(), IMAGES, samples=2)
    assert [row.alone for row in found.rows] == sorted(row.alone for row in found.rows)
    stem = found["stem.0"]
    assert (stem.op, stem.method, stem.module) == ("aten::conv2d", "forward", "stem.0")
    assert stem.weights == 8 * 3 * 9
    assert stem.multiply_adds == 6 * 12 * 12 * 8 * 3 * 9
    assert found["head"].multiply_adds == 6 * 8 * 5
    assert all(row.own is not None and row.own > 20 for row in found.rows)
    assert found.samples == 2
    assert found.floating == math.inf
    assert "stem.0" in str(found)
    assert f"all parts integer: {found.integer:.1f} dB" in found.table(1)
    assert "head" not in found.table(1) or found.rows[0].name == "head"
    read = json.loads(found.to_json())
    assert read["floating"] is None
    assert [row["name"] for row in read["rows"]] == [row["name"] for row in found.to_records()]
    with pytest.raises(KeyError):
        found["stem"]


def test_a_metric_takes_the_place_of_the_outputs() -> None:
    """Test that it is called with a module that behaves as the model, and that higher is better."""
    model = residual(broken="conv")
    expected = model(IMAGES)

    def nearness(module: torch.jit.ScriptModule) -> Tensor:
        return -(module(IMAGES) - expected).abs().max()

    found = jitquant.sensitivity(model, [IMAGES], PER_TENSOR, metric=nearness)
    assert found.unit == "metric"
    assert {row.own for row in found.rows} == {None}
    assert "own" not in str(found)
    assert found.floating == pytest.approx(0, abs=1e-5)
    assert found.rows[0].name == "conv"
    assert found.rows[0].alone < found.floating
    assert found.rows[0].together is not None
    assert found.rows[0].together > 0
    assert "all parts integer: -" in str(found)


def test_a_calibrated_model_is_measured_as_it_is() -> None:
    """Test that it gives what the float one does, and is not changed."""
    prepared = calibrated(residual(), preset="fast")
    text = graph_text(prepared)
    again = jitquant.sensitivity(prepared, [IMAGES], together=False)
    assert again.rows == jitquant.sensitivity(residual_again(), [IMAGES], preset="fast", together=False).rows
    assert all(row.together is None for row in again.rows)
    assert graph_text(prepared) == text


def residual_again() -> torch.jit.ScriptModule:
    torch.manual_seed(0)
    return residual()


def test_an_op_whose_qconfig_is_none_has_no_row() -> None:
    for choice in (
        {"": jitquant.get_default_qconfig(), "conv": None},
        jitquant.QConfigMapping().set_global(jitquant.get_default_qconfig()).set_module_name("conv", None),
        Only({"conv"}, otherwise=True),
    ):
        found = jitquant.sensitivity(residual(), [IMAGES], choice, together=False)
        assert "conv" not in {row.name for row in found.rows}
        assert "stem.0" in {row.name for row in found.rows}


class Loops(nn.Module):
    """A layer in a loop and one in a branch, between values of no op."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(12, 12)
        self.outer = nn.Linear(12, 12)

    def forward(self, x: Tensor, times: int) -> Tensor:
        for _ in range(times):
            x = torch.relu(self.inner(x))
        return self.outer(x) if times > 1 else x


def test_loops_and_branches() -> None:
    """Test float and debug values, of a batch whose inputs are a tensor and a number."""
    model = torch.jit.script(Loops().eval())
    prepared = jitquant.prepare_jit(model, {"": jitquant.get_default_qconfig()}, preset="fast")
    with torch.no_grad():
        prepared(IMAGES, 3)
    switches = switchable(prepared)
    with torch.no_grad():
        with switches.running(()) as module:
            assert torch.equal(module(IMAGES, 3), model(IMAGES, 3))
        with switches.running(switches.parts) as module:
            assert torch.equal(module(IMAGES, 3), jitquant.convert_jit(prepared, debug=True)(IMAGES, 3))
    found = jitquant.sensitivity(model, [(IMAGES, 3)])
    assert {row.name for row in found.rows} >= {"inner", "outer"}
    assert found["inner"].multiply_adds == 3 * IMAGES.numel() * 12


def test_a_batch_whose_rows_belong_together_is_not_taken_apart() -> None:
    """Test that all rows are measured on where a row's result depends on others."""

    class Centred(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x - x.mean(0)).mean([2, 3]))

    found = jitquant.sensitivity(torch.jit.script(Centred().eval()), [IMAGES, IMAGES], samples=2)
    assert found.samples == 6


def test_no_batch_runs_whole_for_rows_that_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that once there are rows enough, no further call is tried whole."""
    calls = [Call(args=(images,)) for images in IMAGES.split(2)]
    sizes: list[int] = []
    run = Call.run

    def counted(call: Call, module: torch.jit.ScriptModule) -> list[Tensor]:
        sizes.append(call.rows)
        return run(call, module)

    monkeypatch.setattr(Call, "run", counted)
    assert [call.rows for call in in_pieces(residual(), calls, 2)] == [1, 1]
    assert sizes == [2, 1]


class Masked(Residual):
    """With one score that is minus infinity, and one of no number."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(self.stem(x)))
        scores = self.head(y.mean([2, 3]))
        never = torch.arange(5) == 2
        return scores.masked_fill(never, float("-inf")).masked_fill(torch.arange(5) == 3, float("nan"))


def test_what_is_infinite_in_both_counts_as_nothing() -> None:
    """Test the same figures as without the scores that are masked."""

    class Without(Residual):
        def forward(self, x: Tensor) -> Tensor:
            y = torch.relu(self.conv(self.stem(x)))
            return self.head(y.mean([2, 3]))[:, [0, 1, 4]]

    found = []
    for kind in (Masked, Without):
        torch.manual_seed(0)
        model = torch.jit.script(kind().eval())
        found.append(jitquant.sensitivity(model, [IMAGES], PER_TENSOR, samples=6, preset="fast"))
    masked, without = found
    assert math.isfinite(masked.integer)
    assert masked.samples == 6
    for row in without.rows:
        if row.name in {"stem.0", "conv", "head"}:
            assert masked[row.name].alone == pytest.approx(row.alone, abs=0.5)


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_infinite_in_one_only_is_an_infinite_error(value: float) -> None:
    """Test that of a value that is no number too."""
    layer = nn.Linear(12, 4)
    switches = switchable(calibrated(torch.jit.script(nn.Sequential(layer).eval())))
    score = ByOutput(switches, [Call(args=(IMAGES,))], 6, "test")
    assert score.of_module(torch.jit.script(layer)) > 100
    layer.bias.data[1] = value
    assert score.of_module(torch.jit.script(layer)) == -math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": []}, "data is empty"),
        ({"data": ["words"]}, "data holds a str"),
        ({"metric": 3}, "metric is a int"),
        ({"metric": lambda module: None}, "metric returned None"),
        ({"metric": lambda module: math.nan}, "metric returned nan"),
        ({"samples": 0}, "samples is 0"),
        ({"qconfig_dict": {"": None}}, "no part of the model is integer"),
        (
            {"qconfig_dict": {**PER_TENSOR, "head": jitquant.per_channel_dynamic_qconfig}},
            "the qconfig of head is a dynamic one",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:prepare_jit. no op of the model")
def test_what_makes_no_sense_is_refused(options: dict[str, Any], message: str) -> None:
    """Test that a message says so, and the model is as it was."""
    model = residual()
    text = graph_text(model)
    data = options.pop("data", [IMAGES])
    with pytest.raises(QuantizationError, match=message) as refusal:
        jitquant.sensitivity(model, data, **options)
    assert str(refusal.value).startswith("sensitivity: ")
    assert graph_text(model) == text


def test_a_prepared_model_has_its_qconfigs() -> None:
    with pytest.raises(QuantizationError, match="is prepared already; leave qconfig_dict out"):
        jitquant.sensitivity(calibrated(residual()), [IMAGES], PER_TENSOR)


def test_outputs_without_floating_point_want_a_metric() -> None:
    """Test that of classes alone only a metric can say something."""

    class Classes(Residual):
        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.stem(x).mean([2, 3])).argmax(1)

    model = torch.jit.script(Classes().eval())
    with pytest.raises(QuantizationError, match="no tensor of floating point to compare; pass metric="):
        jitquant.sensitivity(model, [IMAGES])
    found = jitquant.sensitivity(model, [IMAGES], metric=lambda module: module(IMAGES).double().mean())
    assert len(found.rows) >= 2


@pytest.mark.slow
@needs_photographs
@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
def test_efficientnet_lite0(target: str) -> None:
    """Test that depthwise convolutions come first where weights have one scale, as is known of them."""
    images, _ = photographs(classes=range(16))
    model = torch.jit.trace(efficientnet_lite0(), images[:1])
    found = jitquant.sensitivity(model, [*images.split(1)], PER_TENSOR, target=target, preset="fast")
    assert len(found.rows) >= 49
    assert found.rows[0].name == "_blocks.0._depthwise_conv"
    noise = sum(10 ** (-row.alone / 10) for row in found.rows)
    assert -10 * math.log10(noise) == pytest.approx(found.integer, abs=2)
