"""Numeric Suite: what PyTorch's tutorial of it shows, on TorchScript modules, and what it refuses.

Weights of every kind are in test_compare_weights.py.
"""

import copy
import gc
import math
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
import jitquant.numeric_suite as ns
from jitquant import QuantizationError
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
    """Test prepare_model_outputs: each logger has an entry for each batch, the one that a single call gives."""
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


def test_stubs_of_a_dynamic_model(dynamic: Dynamic) -> None:
    """Test that the LSTM and the linear have shadows, each on the input of the quantized one."""
    stubs = ns.compare_model_stub(dynamic.float, dynamic.quantized, [nn.Linear, nn.LSTM], *dynamic.inputs)
    assert stubs.keys() == {"rnn.stats", "decoder.stats"}
    for pair in stubs.values():
        assert 30 < decibels(pair["float"][0], pair["quantized"][0]) < 80
    entering = stubs["rnn.stats"]["quantized"][0]
    with torch.no_grad():
        torch.testing.assert_close(stubs["decoder.stats"]["float"][0], dynamic.network.decoder(entering))
