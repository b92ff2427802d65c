"""Numeric Suite: what PyTorch's tutorial of it shows, on TorchScript modules, and what it refuses.

Weights of every kind are in test_compare_weights.py.
"""

import copy
import functools
import gc
import math
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import jitquant
import jitquant.numeric_suite as ns
from jitquant import QuantizationError
from jitquant.numeric_suite.blocks import Block, Borders, Entry
from tests.graphs import saved_and_loaded
from tests.marks import needs_native
from tests.networks import REPOSITORY, make_batch_norms_uneven, resnet18, torchvision_models

TARGETS = ["quantized", pytest.param("native", marks=needs_native)]
FORMS = ["scripted", "traced", "loaded"]


def in_form(network: nn.Module, form: str, *inputs: Any) -> torch.jit.ScriptModule:
    if form == "traced":
        return torch.jit.trace(network.eval(), inputs)
    scripted = torch.jit.script(network.eval())
    return saved_and_loaded(scripted) if form == "loaded" else scripted


def decibels(x: Any, y: Any) -> float:
    return float(ns.compute_error(x, y))


# ------------------------------------------------------------------------------------------------------
# The static half of the tutorial
# ------------------------------------------------------------------------------------------------------
class Static:
    """resnet18 quantized with the default qconfig, and two small batches."""

    def __init__(self, target: str, form: str) -> None:
        torch.manual_seed(0)
        self.images = [torch.rand(2, 3, 10, 10) for _ in range(2)]
        self.network = resnet18()
        self.float = in_form(self.network, form, self.images[0])
        self.quantized = jitquant.quantize_jit(
            self.float,
            {"": jitquant.default_qconfig},
            lambda model, images: [model(image) for image in images],
            [self.images],
            target=target,
        )
        if form == "loaded":
            self.quantized = saved_and_loaded(self.quantized)


@pytest.fixture(scope="module", params=TARGETS)
def static_target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=FORMS)
def static(request: pytest.FixtureRequest, static_target: str) -> Static:
    return Static(static_target, request.param)


def test_weights_of_a_static_model(static: Static) -> None:
    """Test the first listings: keys, shapes, the error of each weight."""
    weights = ns.compare_weights(static.float, static.quantized)
    assert len(weights) == 21
    assert weights["conv1.weight"].keys() == {"float", "quantized"}
    assert weights["conv1.weight"]["float"].shape == (64, 3, 7, 7)
    assert weights["conv1.weight"]["quantized"].shape == (64, 3, 7, 7)
    for pair in weights.values():
        assert pair["quantized"].dtype == torch.qint8
        assert 30 < decibels(pair["float"], pair["quantized"].dequantize()) < 60


def test_histograms_of_weights(static: Static) -> None:
    """Test the two histograms: the integer weights lie on few values, and at the same places."""
    pair = ns.compare_weights(static.float, static.quantized)["conv1.weight"]
    of_float = pair["float"].flatten()
    quantized = pair["quantized"].flatten().dequantize()
    low, high = float(of_float.min()), float(of_float.max())
    one, other = (torch.histc(each, 20, low - 0.01, high + 0.01) for each in (of_float, quantized))
    assert one.sum() == other.sum() == of_float.numel()
    assert float((one - other).abs().sum() / one.sum()) < 0.1
    assert quantized.unique().numel() <= 256 < of_float.unique().numel()


def test_outputs_of_a_static_model(static: Static) -> None:
    """Test what both models give at matching places for one batch, and that they are the real values."""
    image = static.images[0]
    outputs = ns.compare_model_outputs(static.float, static.quantized, image)
    assert outputs["conv1.stats"].keys() == {"float", "quantized"}
    assert outputs["conv1.stats"]["float"][0].shape == (2, 64, 5, 5)
    assert outputs["conv1.stats"]["quantized"][0].shape == (2, 64, 5, 5)
    for key, pair in outputs.items():
        assert decibels(pair["float"][0], pair["quantized"][0].dequantize()) > 10, key
    with torch.no_grad():
        network = static.network
        expected = network.relu(network.bn1(network.conv1(image)))
        torch.testing.assert_close(outputs["conv1.stats"]["float"][0], expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(outputs["fc.stats"]["float"][0], network(image), rtol=1e-3, atol=1e-4)
        assert torch.equal(outputs["fc.stats"]["quantized"][0].dequantize(), static.quantized(image))


def test_outputs_of_several_batches(static: Static) -> None:
    """Test prepare_model_outputs: a logger has an entry for each batch, the one that a single call gives."""
    ns.prepare_model_outputs(static.float, static.quantized)
    results = [(static.float(image), static.quantized(image)) for image in static.images]
    outputs = ns.get_matching_activations(static.float, static.quantized)
    for i, image in enumerate(static.images):
        alone = ns.compare_model_outputs(static.float, static.quantized, image)
        assert alone.keys() == outputs.keys()
        for key in alone:
            for side in ("float", "quantized"):
                assert len(outputs[key][side]) == 2
                assert torch.equal(plain(alone[key][side][0]), plain(outputs[key][side][i]))
        assert torch.equal(plain(outputs["fc.stats"]["quantized"][i]), results[i][1])


def plain(x: Tensor) -> Tensor:
    return x.dequantize() if x.is_quantized else x


class MyOutputLogger(ns.Logger):
    """A logger of the user's own, as in the tutorial; it keeps the largest value."""

    def forward(self, x: Tensor) -> Tensor:
        self.stats["largest"] = max(float(plain(x).max()), self.stats.get("largest", -math.inf))
        return x


def test_output_logger_of_the_users_own(static: Static) -> None:
    """Test that a subclass of Logger is used, in one call and for several batches."""
    alone = ns.compare_model_outputs(
        static.float, static.quantized, static.images[0], logger_cls=MyOutputLogger
    )
    assert alone["conv1.stats"]["float"]["largest"] > 0
    ns.prepare_model_outputs(static.float, static.quantized, MyOutputLogger)
    for image in static.images:
        static.float(image)
        static.quantized(image)
    both = ns.get_matching_activations(static.float, static.quantized)
    kept = ns.compare_model_outputs(static.float, static.quantized, static.images[1])
    for side in ("float", "quantized"):
        largest = max(alone["conv1.stats"][side]["largest"], float(plain(kept["conv1.stats"][side][0]).max()))
        assert both["conv1.stats"][side]["largest"] == largest


def basic_block() -> type[nn.Module]:
    return torchvision_models().resnet.BasicBlock


def test_stubs_of_a_static_model(static: Static) -> None:
    """Test that a shadow is the float code of a whole block on what enters the quantized one."""
    image = static.images[0]
    stubs = ns.compare_model_stub(static.float, static.quantized, [basic_block()], image)
    assert list(stubs) == [f"layer{i}.{k}.stats" for i in range(1, 5) for k in range(2)]
    assert stubs["layer1.0.stats"].keys() == {"float", "quantized"}
    assert stubs["layer1.0.stats"]["float"][0].shape == (2, 64, 3, 3)
    for key, pair in stubs.items():
        assert decibels(pair["float"][0], pair["quantized"][0].dequantize()) > 20, key
    # What leaves one block enters the next.
    entering = stubs["layer1.1.stats"]["quantized"][0].dequantize()
    with torch.no_grad():
        expected = static.network.layer2[0](entering)
    torch.testing.assert_close(stubs["layer2.0.stats"]["float"][0], expected, rtol=1e-3, atol=1e-4)


def test_stubs_of_several_batches(static: Static) -> None:
    """Test prepare_model_with_stubs: the logger has an entry for each batch, and the model's result stays."""
    expected = [static.quantized._c._get_method("forward")(image) for image in static.images]
    ns.prepare_model_with_stubs(static.float, static.quantized, [basic_block()], ns.ShadowLogger)
    for image, result in zip(static.images, expected, strict=True):
        assert torch.equal(static.quantized(image), result)
    stubs = ns.get_logger_dict(static.quantized)
    for i, image in enumerate(static.images):
        alone = ns.compare_model_stub(static.float, static.quantized, [basic_block()], image)
        for key, pair in alone.items():
            assert torch.equal(pair["float"][0], stubs[key]["float"][i])


class MyShadowLogger(ns.Logger):
    """A logger of pairs of the user's own, as in the tutorial."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        self.stats.setdefault("worst", []).append(float((plain(x) - y).abs().max()))
        return x


def test_shadow_logger_of_the_users_own(static: Static) -> None:
    """Test that a subclass of Logger with forward(x, y) is used, in one call and for several batches."""
    names = ["BasicBlock", nn.Linear]
    alone = ns.compare_model_stub(
        static.float, static.quantized, names, static.images[0], logger_cls=MyShadowLogger
    )
    assert len(alone) == 9
    ns.prepare_model_with_stubs(static.float, static.quantized, names, MyShadowLogger)
    for image in static.images:
        static.quantized(image)
    both = ns.get_logger_dict(static.quantized, "resnet")
    assert both["resnet.fc.stats"]["worst"][0] == alone["fc.stats"]["worst"][0]
    assert len(both["resnet.fc.stats"]["worst"]) == 2


def test_weights_are_as_near_as_those_of_torch() -> None:
    """Test that the error of resnet18's weights is within 1 dB of what PyTorch's own suite finds."""
    import torch.ao.ns._numeric_suite as peer
    from torch.ao.quantization import default_qconfig, quantize

    torchvision_models()
    from torchvision.models.quantization import resnet18 as quantizable

    image = torch.rand(2, 3, 10, 10)
    eager = quantizable(weights=None, quantize=False)
    make_batch_norms_uneven(eager)
    network = torchvision_models().resnet18(weights=None)
    network.load_state_dict(eager.state_dict())
    eager.eval().fuse_model()
    eager.qconfig = default_qconfig
    theirs = peer.compare_weights(
        eager.state_dict(), quantize(eager, lambda model, x: model(x), (image,)).state_dict()
    )

    model = torch.jit.script(network.eval())
    quantized = jitquant.quantize_jit(
        model, {"": jitquant.default_qconfig}, lambda model, x: model(x), [image]
    )
    ours = ns.compare_weights(model, quantized)
    assert len(theirs) == len(ours) == 21
    for key, pair in theirs.items():
        name = key.replace("._packed_params._packed_params", ".weight")
        expected = decibels(pair["float"], pair["quantized"].dequantize())
        assert abs(decibels(ours[name]["float"], ours[name]["quantized"]) - expected) < 1, key


# ------------------------------------------------------------------------------------------------------
# The dynamic half
# ------------------------------------------------------------------------------------------------------
class LSTMModel(nn.Module):
    """The tutorial's: words to vectors, an LSTM of several layers, a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(10, 64)
        self.rnn = nn.LSTM(64, 32, 3)
        self.decoder = nn.Linear(32, 10)

    def forward(self, words: Tensor, hidden: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        output, hidden = self.rnn(self.encoder(words), hidden)
        return self.decoder(output), hidden


class Dynamic:
    def __init__(self, target: str, form: str) -> None:
        torch.manual_seed(0)
        self.network = LSTMModel()
        self.inputs = (torch.randint(10, (4, 2)), (torch.rand(3, 2, 32), torch.rand(3, 2, 32)))
        self.float = in_form(self.network, form, *self.inputs)
        self.quantized = jitquant.quantize_dynamic_jit(
            self.float, {"": jitquant.default_dynamic_qconfig}, target=target
        )
        if form == "loaded":
            self.quantized = saved_and_loaded(self.quantized)


@pytest.fixture(scope="module", params=TARGETS)
def dynamic_target(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module", params=FORMS)
def dynamic(request: pytest.FixtureRequest, dynamic_target: str) -> Dynamic:
    return Dynamic(dynamic_target, request.param)


def test_weights_of_a_dynamic_model(dynamic: Dynamic) -> None:
    """Test that every weight of the LSTM is there, and that of the embedding, which is the same in both."""
    weights = ns.compare_weights(dynamic.float, dynamic.quantized)
    of_rnn = [f"rnn.weight_{part}_l{layer}" for layer in range(3) for part in ("ih", "hh")]
    assert list(weights) == ["encoder.weight", *of_rnn, "decoder.weight"]
    for key, pair in weights.items():
        quantized = pair["quantized"]
        error = decibels(pair["float"], quantized.dequantize() if quantized.is_quantized else quantized)
        assert error == math.inf if key == "encoder.weight" else 40 < error < 60
        owner, name = key.split(".")
        assert torch.equal(pair["float"], getattr(getattr(dynamic.network, owner), name))


def test_outputs_of_a_dynamic_model(dynamic: Dynamic) -> None:
    """Test that a model of two inputs is compared, and that of the LSTM it is the output."""
    outputs = ns.compare_model_outputs(dynamic.float, dynamic.quantized, *dynamic.inputs)
    assert {"encoder.stats", "rnn.stats", "decoder.stats"} <= outputs.keys()
    for pair in outputs.values():
        assert decibels(pair["float"][0], pair["quantized"][0]) > 30
    with torch.no_grad():
        expected, _ = dynamic.network.rnn(dynamic.network.encoder(dynamic.inputs[0]), dynamic.inputs[1])
    torch.testing.assert_close(outputs["rnn.stats"]["float"][0], expected)


def test_ways_that_are_not_taken_are_left_out(dynamic: Dynamic) -> None:
    """Test that only ops that ran are compared: an LSTM has a branch for single sequences."""
    compare = functools.partial(ns.compare_model_outputs, dynamic.float, dynamic.quantized, *dynamic.inputs)
    keys = compare().keys()
    assert compare(logger_cls=ns.ShadowLogger).keys() == keys
    statistics = compare(logger_cls=ns.StatisticsLogger)
    assert statistics.keys() == keys
    assert all("sqnr" in stats for stats in statistics.values())


def test_stubs_of_a_dynamic_model(dynamic: Dynamic) -> None:
    """Test that the LSTM and the linear have shadows, each on the input of the quantized one."""
    stubs = ns.compare_model_stub(dynamic.float, dynamic.quantized, [nn.Linear, nn.LSTM], *dynamic.inputs)
    assert stubs.keys() == {"rnn.stats", "decoder.stats"}
    for pair in stubs.values():
        assert 30 < decibels(pair["float"][0], pair["quantized"][0]) < 80
    entering = stubs["rnn.stats"]["quantized"][0]
    with torch.no_grad():
        torch.testing.assert_close(stubs["decoder.stats"]["float"][0], dynamic.network.decoder(entering))


# ------------------------------------------------------------------------------------------------------
# What the tutorial does not show
# ------------------------------------------------------------------------------------------------------
class Small(nn.Module):
    """A convolution with a relu, two linears of one input, and a linear that runs in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)
        self.again = nn.Linear(8, 8)

    def forward(self, x: Tensor, times: int) -> Tensor:
        x = torch.relu(self.conv(x)).mean((2, 3))
        x = self.first(x) + self.second(x)
        for _ in range(times):
            x = self.again(x)
        return x


BATCHES = [(torch.linspace(-1, 1, 2 * 3 * 36).reshape(2, 3, 6, 6) * scale, 3) for scale in (1.0, 0.5, 0.25)]


@functools.cache
def refused_pair() -> tuple[torch.jit.ScriptModule, Any]:
    """For what is refused before anything is attached."""
    return small("quantized")


def small(target: str, network: nn.Module | None = None) -> tuple[torch.jit.ScriptModule, Any]:
    model = torch.jit.script((network or Small()).eval())
    quantized = jitquant.quantize_jit(
        model,
        {"": jitquant.get_default_qconfig()},
        lambda model: [model(*batch) for batch in BATCHES],
        [],
        target=target,
    )
    return model, quantized


def test_error_in_decibels() -> None:
    """Test compute_error against the formula, for lists, for quantized tensors, and without an error."""
    x = torch.tensor([3.0, 4.0])
    assert decibels(x, torch.tensor([3.0, 4.5])) == pytest.approx(20)
    assert decibels([x, x], (x, torch.tensor([3.0, 4.5]))) == pytest.approx(10 * math.log10(50 / 0.25))
    assert decibels(x, x) == math.inf
    assert decibels(x, torch.quantize_per_tensor(x, 1.0, 0, torch.quint8)) == math.inf
    with pytest.raises(
        QuantizationError, match=r"compute_error: the sizes differ, 2 and 3; compare what both"
    ):
        ns.compute_error(x, torch.zeros(3))
    with pytest.raises(QuantizationError, match="compute_error: there is nothing to compare"):
        ns.compute_error([], [])
    with pytest.raises(QuantizationError, match="compute_error: str is no tensor"):
        ns.compute_error(x, "y")


def test_error_is_computed_in_double_precision() -> None:
    """Test doubles that differ by less than float32 can tell, alone and with the running statistics."""
    x = torch.ones(4, dtype=torch.float64)
    assert decibels(x, x + 1e-9) == pytest.approx(180, abs=1e-3)
    assert running_decibels(x, x + 1e-9) == pytest.approx(180, abs=1e-3)
    assert decibels([x, x.float()], [x, x.float()]) == math.inf


def test_infinities_on_both_sides_are_no_error() -> None:
    """Test what stands behind masked_fill(-inf), and a value against one that is not finite."""
    x, y = torch.tensor([3.0, 4.0, -math.inf]), torch.tensor([3.0, 4.5, -math.inf])
    for measure in (decibels, running_decibels):
        assert measure(x, y) == pytest.approx(20)
        assert measure(x, x) == math.inf
        assert math.isnan(measure(x[2:], y[2:]))
        assert measure(torch.tensor([math.nan, 2.0]), torch.tensor([math.nan, 2.0])) == math.inf
        for other in (math.inf, math.nan, 0.0):
            assert measure(x, torch.tensor([3.0, 4.0, other])) == -math.inf
            assert measure(torch.tensor([3.0, 4.0, other]), x) == -math.inf


def running_decibels(x: Tensor, y: Tensor) -> float:
    logger = ns.StatisticsLogger()
    logger(y, x)
    return logger.stats["sqnr"]


def test_each_round_of_a_loop_is_seen(target: str) -> None:
    """Test that a linear in a loop has an entry for each round, in both models and with its shadow."""
    network = Small()
    model, quantized = small(target, network)
    outputs = ns.compare_model_outputs(model, quantized, *BATCHES[0])
    assert [len(outputs["again.stats"][side]) for side in ("float", "quantized")] == [3, 3]
    stubs = ns.compare_model_stub(model, quantized, ["again"], *BATCHES[0])["again.stats"]
    assert len(stubs["float"]) == len(stubs["quantized"]) == 3
    with torch.no_grad():
        for i in range(1, 3):
            expected = network.again(plain(stubs["quantized"][i - 1]))
            torch.testing.assert_close(stubs["float"][i], expected, rtol=1e-2, atol=1e-2)
            assert decibels(stubs["float"][i], stubs["quantized"][i]) > 30


def test_a_relu_belongs_to_the_convolution_before_it(target: str) -> None:
    """Test that fused ops are compared as one, under the name of the first."""
    network = Small()
    model, quantized = small(target, network)
    image = BATCHES[0][0]
    outputs = ns.compare_model_outputs(model, quantized, *BATCHES[0])
    assert "relu.stats" not in outputs
    with torch.no_grad():
        torch.testing.assert_close(outputs["conv.stats"]["float"][0], torch.relu(network.conv(image)))
    stubs = ns.compare_model_stub(model, quantized, [nn.Conv2d], *BATCHES[0])
    assert float(stubs["conv.stats"]["float"][0].min()) == 0


def test_statistics_are_those_of_all_batches(target: str) -> None:
    """Test StatisticsLogger against the tensors themselves: numbers, histograms and the running SQNR."""
    model, quantized = small(target)
    ns.prepare_model_outputs(model, quantized, ns.ShadowLogger)
    tensors = run_on_all(model, quantized)
    ns.prepare_model_outputs(model, quantized, ns.StatisticsLogger)
    statistics = run_on_all(model, quantized)
    assert tensors.keys() == statistics.keys()
    for key, stats in statistics.items():
        x = torch.cat([each.flatten() for each in tensors[key]["float"]])
        y = torch.cat([plain(each).flatten() for each in tensors[key]["quantized"]])
        assert stats["sqnr"] == pytest.approx(decibels(x, y), rel=1e-3)
        for side, values in {"float": x, "quantized": y, "error": y - x}.items():
            found = stats[side]
            assert (found["count"], found["min"], found["max"]) == (len(values), values.min(), values.max())
            assert found["mean"] == pytest.approx(float(values.double().mean()), abs=1e-7)
            assert found["mean_square"] == pytest.approx(float(values.double().square().mean()))
            assert len(found["edges"]) == len(found["histogram"]) + 1
            expected = torch.histogram(values.double(), found["edges"])
            assert torch.equal(found["histogram"], expected.hist)
            assert found["histogram"].sum() == len(values)


def run_on_all(model: torch.jit.ScriptModule, quantized: torch.jit.ScriptModule) -> dict[str, Any]:
    for batch in BATCHES:
        model(*batch)
        quantized(*batch)
    return ns.get_matching_activations(model, quantized)


def test_statistics_of_shadows(target: str) -> None:
    """Test that StatisticsLogger stands in for ShadowLogger."""
    model, quantized = small(target)
    tensors = ns.compare_model_stub(model, quantized, [nn.Linear], *BATCHES[0])
    numbers = ns.compare_model_stub(
        model, quantized, [nn.Linear], *BATCHES[0], logger_cls=ns.StatisticsLogger
    )
    assert numbers.keys() == tensors.keys() == {"first.stats", "second.stats", "again.stats"}
    for key, pair in tensors.items():
        assert numbers[key]["sqnr"] == pytest.approx(decibels(pair["float"], pair["quantized"]), rel=1e-3)


class Weak(ns.StatisticsLogger):
    """Remembers what it was given, without keeping it."""

    given: ClassVar[list[weakref.ref[Tensor]]] = []

    def forward(self, x: Tensor, y: Tensor) -> None:
        Weak.given += [weakref.ref(x), weakref.ref(y)]
        super().forward(x, y)


@pytest.mark.parametrize("attach", ["outputs", "stubs"])
def test_memory_of_statistics_does_not_grow(target: str, attach: str) -> None:
    """Test that nothing of a batch is left behind it, and that the loggers take what they took at first."""
    model, quantized = small(target)
    if attach == "outputs":
        ns.prepare_model_outputs(model, quantized, Weak)
    else:
        ns.prepare_model_with_stubs(model, quantized, [nn.Linear], Weak)
    sizes = []
    for batch in BATCHES * 4:
        Weak.given.clear()
        if attach == "outputs":
            model(*batch)
        quantized(*batch)
        gc.collect()
        assert Weak.given
        assert all(each() is None for each in Weak.given)
        kept = ns.get_logger_dict(quantized).values()
        sizes.append(sum(bytes_of(stats) for stats in kept))
    assert len(set(sizes)) == 1


def bytes_of(stats: Any) -> int:
    if isinstance(stats, dict):
        return sum(bytes_of(each) for each in stats.values())
    return stats.nbytes if isinstance(stats, Tensor) else 8


def test_only_what_is_listed_is_logged(target: str) -> None:
    """Test allow_list with classes, names of classes and paths."""
    model, quantized = small(target)
    for wanted in ([nn.Linear, "conv"], ["Linear", nn.Conv2d], ["first", "second", "again", "Conv2d"]):
        outputs = ns.compare_model_outputs(model, quantized, *BATCHES[0], allow_list=wanted)
        assert outputs.keys() == {"conv.stats", "first.stats", "second.stats", "again.stats"}


def test_models_stay_what_they_are(target: str, tmp_path: Path) -> None:
    """Test that neither comparing nor preparing changes a model, what is saved of it, or a copy."""
    model, quantized = small(target)
    expected = [each(*BATCHES[0]) for each in (model, quantized)]
    graphs = [str(each.graph) for each in (model, quantized)]
    ns.compare_weights(model, quantized)
    ns.compare_model_outputs(model, quantized, *BATCHES[0])
    ns.compare_model_stub(model, quantized, [nn.Linear], *BATCHES[0])
    with pytest.raises(QuantizationError, match="the model has no loggers; prepare it with"):
        ns.get_logger_dict(quantized)
    ns.prepare_model_outputs(model, quantized)
    for i, each in enumerate((model, quantized)):
        assert torch.equal(each(*BATCHES[0]), expected[i])
        assert str(each.graph) == graphs[i]
        torch.jit.save(each, tmp_path / "saved.pt")
        for other in (torch.jit.load(tmp_path / "saved.pt"), copy.deepcopy(each)):
            assert torch.equal(other(*BATCHES[0]), expected[i])
            with pytest.raises(QuantizationError, match="pass the very object that was prepared"):
                ns.get_logger_dict(other)


def test_to_prepare_once_more_begins_anew(target: str) -> None:
    """Test that loggers of an earlier call are gone."""
    model, quantized = small(target)
    for _ in range(2):
        ns.prepare_model_outputs(model, quantized)
        outputs = run_on_all(model, quantized)
    assert len(outputs["conv.stats"]["float"]) == len(BATCHES)


FRESH = """
import sys, torch, jitquant
import jitquant.numeric_suite as ns
model, quantized = (torch.jit.load(path) for path in sys.argv[1:])
image = torch.linspace(-1, 1, 216).reshape(2, 3, 6, 6)
for found in (
    ns.compare_weights(model, quantized),
    ns.compare_model_outputs(model, quantized, image, 3),
    ns.compare_model_stub(model, quantized, ["Linear"], image, 3),
):
    for key, pair in found.items():
        print(key, float(ns.compute_error(pair["float"], pair["quantized"])))
"""


def test_files_in_a_fresh_process(target: str, tmp_path: Path) -> None:
    """Test that a process which loads both files finds what the one that made them does."""
    model, quantized = small(target)
    paths = [tmp_path / "float.pt", tmp_path / "quantized.pt"]
    torch.jit.save(model, paths[0])
    torch.jit.save(quantized, paths[1])
    command = [sys.executable, "-W", "ignore", "-c", FRESH, *map(str, paths)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    assert result.returncode == 0, result.stderr
    found = {line.split()[0]: float(line.split()[1]) for line in result.stdout.splitlines()}
    for key, pair in (
        ns.compare_weights(model, quantized)
        | ns.compare_model_outputs(model, quantized, *BATCHES[0])
        | ns.compare_model_stub(model, quantized, ["Linear"], *BATCHES[0])
    ).items():
        assert found[key] == pytest.approx(decibels(pair["float"], pair["quantized"]), rel=1e-4)


# ------------------------------------------------------------------------------------------------------
# Ways that depend on the data
# ------------------------------------------------------------------------------------------------------
class Until(nn.Module):
    """A linear that runs until the sum is large enough, and one in a branch."""

    def __init__(self) -> None:
        super().__init__()
        self.step = nn.Linear(4, 4)
        self.rare = nn.Linear(4, 4)
        with torch.no_grad():
            self.step.weight.copy_(torch.diag(torch.tensor([1.71, 1.93, 2.11, 2.03])) + 0.017)
            self.step.bias.zero_()

    def forward(self, x: Tensor, limit: float) -> Tensor:
        while float(x.sum()) < limit:
            x = self.step(x)
        if float(x.sum()) > 1000:
            x = self.rare(x)
        return x


def until(target: str) -> tuple[torch.jit.ScriptModule, Any]:
    model = torch.jit.script(Until().eval())
    data = [(torch.full((2, 4), 0.1), 10.0), (torch.full((2, 4), 200.0), 10.0)]
    quantized = jitquant.quantize_jit(
        model,
        {"": jitquant.get_default_qconfig()},
        lambda model: [model(*each) for each in data],
        [],
        target=target,
    )
    return model, quantized


def test_modules_that_did_not_run_have_no_entry(target: str) -> None:
    """Test that a branch which is not taken leaves nothing, and one that is taken does."""
    model, quantized = until(target)
    compare = functools.partial(ns.compare_model_stub, model, quantized, [nn.Linear])
    assert compare(torch.full((2, 4), 0.1), 3.0).keys() == {"step.stats"}
    assert compare(torch.full((2, 4), 200.0), 3.0).keys() == {"rare.stats"}


def test_loops_that_part_are_refused(target: str) -> None:
    """Test that a loop which ends sooner in one of the models is told of, and no logger sees part of it."""
    model, quantized = until(target)
    x = torch.linspace(0.1, 0.17, 8).reshape(2, 4)
    last = ns.compare_model_stub(model, quantized, ["step"], x, 3.0)["step.stats"]
    ends = [float(plain(last[side][-1]).sum()) for side in ("float", "quantized")]
    assert ends[0] != ends[1]
    limit = sum(ends) / 2  # the one model is above it after as many rounds, and the other is not
    with pytest.raises(
        QuantizationError,
        match=r"compare_model_stub: step of the quantized model ran \d times, and its shadow",
    ):
        ns.compare_model_stub(model, quantized, [nn.Linear], x, limit)
    ns.prepare_model_with_stubs(model, quantized, [nn.Linear])
    with pytest.raises(QuantizationError, match="pass data on which both models go the same way"):
        quantized(x, limit)
    assert ns.get_logger_dict(quantized)["step.stats"] == {"float": [], "quantized": []}


class TwoOfAKind(nn.Module):
    """Two equal ops on one line."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.fc(torch.sigmoid(x) + torch.sigmoid(y))


class CalledTwice(nn.Module):
    """Calls such a block once, and another one twice in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.once = TwoOfAKind()
        self.twice = TwoOfAKind()

    def forward(self, x: Tensor) -> Tensor:
        x = self.once(x, x + 1)
        return self.twice(self.twice(x, x), x)


@pytest.mark.parametrize("form", FORMS)
def test_calls_of_a_module_are_told_apart(target: str, form: str) -> None:
    """Test that a block with two equal ops on one line is one call, and that one called twice is two."""
    torch.manual_seed(0)
    network, x = CalledTwice().eval(), torch.rand(8, 4)
    model = in_form(network, form, x)
    quantized = jitquant.quantize_jit(
        model, {"": jitquant.get_default_qconfig()}, lambda model: model(x), [], target=target
    )
    stubs = ns.compare_model_stub(model, quantized, [TwoOfAKind], x)
    assert stubs.keys() == {"once.stats", "twice.stats", "twice_1.stats"}
    for pair in stubs.values():
        assert len(pair["float"]) == len(pair["quantized"]) == 1
        assert decibels(pair["float"], pair["quantized"]) > 30
    if target == "native":
        return  # it fuses the sigmoid behind a block with the linear in it, so no block gives its own value
    entering = [plain(stubs[key]["quantized"][0]) for key in ("once.stats", "twice.stats")]
    with torch.no_grad():
        expected = [network.twice(entering[0], entering[0]), network.twice(entering[1], entering[0])]
    for key, value in zip(("twice.stats", "twice_1.stats"), expected, strict=True):
        torch.testing.assert_close(stubs[key]["float"][0], value, rtol=1e-3, atol=1e-3)


def test_shadows_on_values_of_the_float_model_are_told_of(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test the warning where an input is not found in the integer model: once, with the module's name."""
    model, quantized = small(target)
    find = Borders.entries

    def entries(borders: Borders, block: Block) -> Iterator[Entry]:
        for entry in find(borders, block):
            lost = block.name in ("conv", "second")
            yield replace(entry, result=-1, producer=-1) if lost else entry

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # every input is found
        ns.compare_model_stub(model, quantized, [nn.Conv2d, nn.Linear], *BATCHES[0])
    monkeypatch.setattr(Borders, "entries", entries)
    ns.prepare_model_with_stubs(model, quantized, [nn.Conv2d, nn.Linear])
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for batch in BATCHES:
            quantized(*batch)
    # The convolution takes what the user gave, which is the same in both models.
    assert len(told) == 1
    assert "the shadow of second runs on the float model's own value" in str(told[0].message)


def test_prepared_models_take_arguments_by_name(target: str) -> None:
    """Test that a prepared model is called as the model is."""
    model, quantized = small(target)
    image, times = BATCHES[0]
    expected = [each(image, times) for each in (model, quantized)]
    ns.prepare_model_outputs(model, quantized)
    for each, result in zip((model, quantized), expected, strict=True):
        assert torch.equal(each(image, times=times), result)
        assert torch.equal(each(times=times, x=image), result)
        with pytest.raises(QuantizationError, match="the model cannot be called with this data"):
            each(image, rounds=times)
    assert len(ns.get_matching_activations(model, quantized)["conv.stats"]["float"]) == 2
    ns.prepare_model_with_stubs(model, quantized, [nn.Linear])
    assert torch.equal(quantized(times=times, x=image), expected[1])
    assert len(ns.get_logger_dict(quantized)["first.stats"]["float"]) == 1


def test_models_that_were_not_prepared_together_are_refused(target: str) -> None:
    """Test that loggers of another preparation are not taken for a counterpart."""
    model, one = small(target)
    other = small(target)[1]
    ns.prepare_model_outputs(model, one)
    ns.prepare_model_outputs(model, other)
    run_on_all(model, other)
    one(*BATCHES[0])
    with pytest.raises(QuantizationError, match="get_matching_activations: the two models were not prepared"):
        ns.get_matching_activations(model, one)
    ns.prepare_model_with_stubs(model, other, [nn.Linear])
    with pytest.raises(QuantizationError, match="pass both to one prepare_model_outputs"):
        ns.get_matching_activations(model, other)


class WithEncode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        return x + 1


def test_models_whose_forward_stayed_float_are_refused(target: str) -> None:
    """Test that the cause and the remedy are named where another method alone was quantized."""
    model = torch.jit.script(WithEncode().eval())
    x = torch.rand(2, 4)
    quantized = jitquant.quantize_jit(
        model,
        {"": jitquant.get_default_qconfig()},
        lambda model: model.encode(x),
        [],
        target=target,
        methods=["encode"],
    )
    for run in (
        lambda: ns.compare_model_outputs(model, quantized, x),
        lambda: ns.prepare_model_outputs(model, quantized),
        lambda: ns.compare_model_stub(model, quantized, [nn.Linear], x),
        lambda: ns.prepare_model_with_stubs(model, quantized, [nn.Linear]),
    ):
        with pytest.raises(QuantizationError, match=r"forward of the quantized model is not .* methods="):
            run()


# ------------------------------------------------------------------------------------------------------
# What is refused
# ------------------------------------------------------------------------------------------------------
def each_comparison(model: Any, quantized: Any) -> list[Any]:
    return [
        lambda: ns.compare_weights(model, quantized),
        lambda: ns.compare_model_outputs(model, quantized, *BATCHES[0]),
        lambda: ns.prepare_model_outputs(model, quantized),
        lambda: ns.compare_model_stub(model, quantized, [nn.Linear], *BATCHES[0]),
        lambda: ns.prepare_model_with_stubs(model, quantized, [nn.Linear]),
    ]


@pytest.mark.parametrize("which", range(5))
def test_eager_modules_are_refused(which: int) -> None:
    """Test that either model has to be TorchScript."""
    model, quantized = refused_pair()
    with pytest.raises(QuantizationError, match="the model is an eager Small; make it TorchScript first"):
        each_comparison(Small().eval(), quantized)[which]()
    with pytest.raises(QuantizationError, match="the model is an eager Small; make it TorchScript first"):
        each_comparison(model, Small().eval())[which]()


@pytest.mark.parametrize("which", range(5))
def test_models_that_are_no_twins_are_refused(which: int) -> None:
    """Test that the message names the first op that differs, or what the quantized model is not."""
    model, quantized = refused_pair()
    other = torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.ReLU()).eval())
    with pytest.raises(
        QuantizationError, match="was not made of this float model: op 0 is aten::linear here"
    ):
        each_comparison(other, quantized)[which]()
    with pytest.raises(QuantizationError, match="the quantized model does not say what became of each op"):
        each_comparison(model, model)[which]()
    with pytest.raises(QuantizationError, match="the float model was prepared or quantized by jitquant"):
        each_comparison(quantized, quantized)[which]()


def test_weights_of_another_size_are_refused() -> None:
    """Test that models with the same ops and other sizes are no twins."""
    _, quantized = refused_pair()
    network = Small()
    network.again = nn.Linear(8, 16)
    with pytest.raises(
        QuantizationError, match=r"compare_weights: again.weight is 16×8 here and 8×8 in the quantized model"
    ):
        ns.compare_weights(torch.jit.script(network.eval()), quantized)


def test_state_dicts_are_refused() -> None:
    """Test that the message says what to pass instead."""
    model, quantized = refused_pair()
    with pytest.raises(QuantizationError, match=r"has no weights in it.*pass the two models themselves"):
        ns.compare_weights(model.state_dict(), quantized.state_dict())


def test_data_that_does_not_fit_is_refused(target: str) -> None:
    """Test too few arguments and a wrong size, in one call and with prepared models."""
    model, quantized = small(target)
    narrow = (torch.rand(2, 5, 6, 6), 3)
    for data in (BATCHES[0][:1], narrow):
        with pytest.raises(QuantizationError, match="compare_model_outputs: the model cannot be called with"):
            ns.compare_model_outputs(model, quantized, *data)
        with pytest.raises(QuantizationError, match="compare_model_stub: the model cannot be called with"):
            ns.compare_model_stub(model, quantized, [nn.Linear], *data)
    ns.prepare_model_outputs(model, quantized)
    with pytest.raises(QuantizationError, match="pass what its forward takes, one argument after the other"):
        model(*narrow)


def no_logger() -> nn.Module:
    return nn.Identity()


class OfThree(ns.Logger):
    def forward(self, x: Tensor, y: Tensor, z: Tensor) -> None:
        """Takes more than there is."""


class WithArguments(ns.Logger):
    def __init__(self, size: int) -> None:
        super().__init__()


@pytest.mark.parametrize(
    ("logger_cls", "message"),
    [
        (no_logger, "makes no Logger but a Identity"),
        (ns.OutputLogger(), "cannot be called without arguments"),
        (WithArguments, "cannot be called without arguments"),
        (OfThree, r"OfThree.forward takes 3 values; write forward\(x"),
        ("OutputLogger", "cannot be called without arguments"),
    ],
)
def test_wrong_logger_classes_are_refused(logger_cls: Any, message: str) -> None:
    """Test that what is no class of loggers is named, with what is missing."""
    model, quantized = refused_pair()
    with pytest.raises(QuantizationError, match=message):
        ns.prepare_model_outputs(model, quantized, logger_cls)
    with pytest.raises(QuantizationError, match=message):
        ns.prepare_model_with_stubs(model, quantized, [nn.Linear], logger_cls)


def test_shadows_need_a_logger_of_pairs() -> None:
    """Test that OutputLogger is refused where it would see one value of two."""
    model, quantized = refused_pair()
    with pytest.raises(
        QuantizationError, match=r"OutputLogger.forward takes 1 values; write forward\(x, y\)"
    ):
        ns.prepare_model_with_stubs(model, quantized, [nn.Linear], ns.OutputLogger)


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        (["Liner"], "'Liner', which is no class and no path of the float model.*Linear"),
        (["conv.weight"], "'conv.weight', which is no class and no path"),
        ([basic_block], "a function; list module classes"),
        (nn.Linear, r"pass a list such as \[torch.nn.Linear\]"),
        ("Linear", r"pass a list such as \[torch.nn.Linear\]"),
        ([Static], "a type; list module classes"),
    ],
)
def test_wrong_lists_of_modules_are_refused(wanted: Any, message: str) -> None:
    """Test that what the model does not have is named."""
    model, quantized = refused_pair()
    with pytest.raises(QuantizationError, match=message):
        ns.prepare_model_with_stubs(model, quantized, wanted)
    with pytest.raises(QuantizationError, match=message):
        ns.prepare_model_outputs(model, quantized, allow_list=wanted)


def test_pairs_need_both_models_in_turn(target: str) -> None:
    """Test that a quantized model called alone, and one called on another batch, are refused."""
    model, quantized = small(target)
    ns.prepare_model_outputs(model, quantized, ns.ShadowLogger)
    with pytest.raises(
        QuantizationError, match="the float model was not called before; call it on each batch"
    ):
        quantized(*BATCHES[0])
    model(*BATCHES[0])
    quantized(*BATCHES[0])
    with pytest.raises(QuantizationError, match="the float model was not called before"):
        quantized(*BATCHES[0])
    model(*BATCHES[0])
    with pytest.raises(
        QuantizationError, match="of the float model gave no such value; call both models on the"
    ):
        quantized(BATCHES[0][0][:1], 3)


class Failing(ns.Logger):
    def forward(self, x: Tensor) -> None:
        raise ZeroDivisionError("of the user's own")


def test_what_a_logger_raises_is_raised(target: str) -> None:
    """Test that an error in a logger arrives as it is, not as one of libtorch."""
    model, quantized = small(target)
    with pytest.raises(ZeroDivisionError, match="of the user's own"):
        ns.compare_model_outputs(model, quantized, *BATCHES[0], logger_cls=Failing)
