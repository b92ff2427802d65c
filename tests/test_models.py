"""Whole networks end to end: scripted, traced, frozen or loaded, quantized, saved, run without jitquant."""

import copy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jitquant
from tests.marks import needs_photographs
from tests.networks import (
    efficientnet_lite0,
    photographs,
    resnet18,
    sqnr,
    torchvision_model,
)

WHOLE = {"": jitquant.get_default_qconfig()}

RUN_WITHOUT_JITQUANT = """
import sys, torch
model = torch.jit.load(sys.argv[1])
inputs, expected = torch.load(sys.argv[2])
assert torch.equal(model(inputs), expected), (model(inputs) - expected).abs().max()
torch.jit.save(model, sys.argv[1])  # what stock torch saves again is as good
assert torch.equal(torch.jit.load(sys.argv[1])(inputs), expected)
assert not any(name.split(".")[0] == "jitquant" for name in sys.modules)
print("equal")
"""


def calibrate(model: torch.jit.ScriptModule, batches: list[Tensor]) -> None:
    for batch in batches:
        model(batch)


def kinds(model: torch.jit.ScriptModule) -> list[str]:
    return [node.kind() for node in model.inlined_graph.nodes()]


def check_without_jitquant(model: torch.jit.ScriptModule, inputs: Tensor, folder: Path) -> None:
    """Saves the model and runs it in a process that has torch only; outputs have to be equal to the bit."""
    torch.jit.save(model, folder / "model.pt")
    torch.save((inputs, model(inputs)), folder / "data.pt")
    command = [sys.executable, "-c", RUN_WITHOUT_JITQUANT, str(folder / "model.pt"), str(folder / "data.pt")]
    # Elsewhere than in the repository, from which jitquant could be imported.
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
    assert result.stdout.strip() == "equal", result.stderr


def as_torchscript(network: nn.Module, form: str, inputs: Tensor, folder: Path) -> torch.jit.ScriptModule:
    """The network in one of the forms in which people have it."""
    if form == "traced":
        return torch.jit.trace(network, inputs)
    scripted = torch.jit.script(network)
    if form == "frozen":
        return torch.jit.freeze(scripted)
    if form == "loaded":
        torch.jit.save(scripted, folder / "float.pt")
        return torch.jit.load(folder / "float.pt")
    return scripted


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Sets the engine for one test."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = request.param
    yield request.param
    torch.backends.quantized.engine = before


@pytest.mark.parametrize("form", ["scripted", "traced", "frozen", "loaded"])
def test_resnet18(form: str, images: Tensor, tmp_path: Path) -> None:
    """Test that resnet18 in every form becomes integer from end to end, stays close, and runs anywhere."""
    network = resnet18()
    model = as_torchscript(network, form, images[:1], tmp_path)
    quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [[images]])
    found = kinds(quantized)
    assert found.count("aten::quantize_per_tensor") == 1
    assert found.count("aten::dequantize") == 1
    assert found.count("quantized::add_relu") == 8
    assert not {"aten::conv2d", "aten::batch_norm", "aten::relu", "aten::linear", "aten::add"} & set(found)
    fresh = torch.randn(8, 3, 224, 224)
    with torch.no_grad():
        assert sqnr(network(fresh), quantized(fresh)) > 34
    check_without_jitquant(quantized, fresh, tmp_path)


@pytest.mark.parametrize("engine", ["onednn", "fbgemm", "qnnpack"], indirect=True)
def test_resnet18_on_each_engine(engine: str, images: Tensor, tmp_path: Path) -> None:
    """Test that the other engines stay close too, and that onednn does residual adds in the convolution."""
    network = resnet18()
    qconfig = {"": jitquant.get_default_qconfig(engine)}
    quantized = jitquant.quantize_jit(torch.jit.script(network), qconfig, calibrate, [[images]])
    assert ("quantized::conv2d_add_relu" in kinds(quantized)) == (engine == "onednn")
    with torch.no_grad():
        assert sqnr(network(images), quantized(images)) > 29
    torch.jit.save(quantized, tmp_path / "model.pt")
    assert torch.equal(torch.jit.load(tmp_path / "model.pt")(images), quantized(images))
    assert jitquant.info(tmp_path / "model.pt")["engine"] == engine


@pytest.mark.parametrize(
    ("name", "least"),
    [("mobilenet_v2", 33), ("mobilenet_v3_large", 29), ("shufflenet_v2_x1_0", 37), ("squeezenet1_1", 34)],
)
def test_other_networks(name: str, least: float, images: Tensor, tmp_path: Path) -> None:
    """Test that networks of other kinds convert as a whole, scripted and traced."""
    network = torchvision_model(name)
    for model in (torch.jit.script(network), torch.jit.trace(network, images)):
        quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [[images]])
        assert kinds(quantized).count("aten::dequantize") == 1
        with torch.no_grad():
            assert sqnr(network(images), quantized(images)) > least
    check_without_jitquant(quantized, images, tmp_path)


def test_efficientnet_lite0_without_photographs(tmp_path: Path) -> None:
    """Test that EfficientNet-Lite0 converts without photographs too: kernels, size and a fresh process."""
    network = efficientnet_lite0()
    inputs = torch.rand(2, 3, 224, 224, generator=torch.Generator().manual_seed(1)) * 2 - 1
    model = torch.jit.trace(network, inputs[:1])
    before = copy.deepcopy(model.state_dict())
    quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [[inputs]])

    found = kinds(quantized)
    assert found.count("aten::dequantize") == 1
    assert not {"aten::hardtanh", "aten::conv2d", "aten::batch_norm", "aten::pad"} & set(found)
    assert "onednn::qconv_pointwise" in found  # 144 groups and more, which x86 would give to fbgemm
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    check_without_jitquant(quantized, inputs, tmp_path)
    torch.jit.save(model, tmp_path / "float.pt")
    assert (tmp_path / "model.pt").stat().st_size < 0.28 * (tmp_path / "float.pt").stat().st_size


@pytest.mark.slow
@needs_photographs
def test_efficientnet_lite0_on_photographs() -> None:
    """Test that EfficientNet-Lite0 keeps its accuracy, and that the debug model is close to the final one."""
    network = efficientnet_lite0()
    samples, _ = photographs(classes=range(63))
    images, labels = photographs(classes=range(64, 400))
    model = torch.jit.trace(network, samples[:1])
    batches = list(samples.split(8))
    quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [batches])
    debug = jitquant.quantize_jit(model, WHOLE, calibrate, [batches], debug=True)
    with torch.no_grad():
        expected, given = network(images), quantized(images)
        readable = debug(images[:32])
    assert (given.argmax(1) == labels).float().mean() > (expected.argmax(1) == labels).float().mean() - 0.02
    assert (given.argmax(1) == expected.argmax(1)).float().mean() > 0.95
    assert sqnr(expected, given) > 18
    assert sqnr(given[:32], readable) > 25
