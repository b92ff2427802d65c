"""Tests of convolutions without calibration: integer at each call, where the qconfig names them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import QConfig, QConfigMapping, QuantizationError, quantize_dynamic_jit
from jitquant.observers import PerChannelMinMaxObserver, PlaceholderObserver, WeightMinMaxObserver
from tests.graphs import check_runs_alone, ops_of, saved_and_loaded
from tests.networks import sqnr

COMPUTING = "onednn::qconv_pointwise"
DYNAMIC = PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True)
REDUCED = PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True, reduce_range=True)
PER_CHANNEL = jitquant.per_channel_dynamic_qconfig
PER_TENSOR = jitquant.default_dynamic_qconfig

SHAPES: dict[str, tuple[Any, tuple[int, ...]]] = {
    "2d": (lambda: nn.Conv2d(8, 12, 3), (2, 8, 9, 9)),
    "2d, no bias": (lambda: nn.Conv2d(8, 12, 3, bias=False), (2, 8, 9, 9)),
    "2d, strided and padded": (lambda: nn.Conv2d(3, 16, 7, stride=2, padding=3), (1, 3, 32, 20)),
    "2d, dilated": (lambda: nn.Conv2d(8, 8, 3, dilation=2, padding=(2, 1)), (1, 8, 12, 14)),
    "2d, same": (lambda: nn.Conv2d(8, 8, 3, padding="same"), (1, 8, 12, 14)),
    "2d, one pixel": (lambda: nn.Conv2d(16, 24, 1), (3, 16, 8, 8)),
    "2d, groups": (lambda: nn.Conv2d(16, 32, 3, groups=4), (2, 16, 9, 9)),
    "2d, reflected": (lambda: nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect"), (2, 8, 9, 9)),
    "1d": (lambda: nn.Conv1d(8, 12, 5, padding=2), (2, 8, 50)),
    "1d, groups": (lambda: nn.Conv1d(8, 12, 3, groups=2, stride=2), (2, 8, 50)),
}


class Net(nn.Module):
    """A convolution with a relu behind it, a depthwise one, and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 16, 3, groups=16)
        self.last = nn.Conv2d(16, 8, 3)
        self.linear = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        x = self.last(self.depthwise(x))
        return self.linear(x.mean([2, 3]).view(x.shape[0], -1))


def named(qconfig: Any = PER_CHANNEL) -> QConfigMapping:
    mapping = QConfigMapping().set_object_type("conv1d", qconfig)
    return mapping.set_object_type("conv2d", qconfig)


def reasons_of(module: torch.jit.ScriptModule) -> dict[str, str]:
    return {row.module: row.reason for row in jitquant.summarize(module).ops if row.module}


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
@pytest.mark.parametrize("relu", [False, True], ids=["", "relu"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_convolution_becomes_integer_at_each_call(name: str, relu: bool, traced: bool, target: str) -> None:
    """Test that it rounds nothing but input and weight, whatever range the input has."""
    make, shape = SHAPES[name]
    model, x = nn.Sequential(make(), *([nn.ReLU()] if relu else [])).eval(), torch.randn(shape)
    script = torch.jit.trace(model, x) if traced else torch.jit.script(model)
    module = quantize_dynamic_jit(script, named(), target=target)
    debug = quantize_dynamic_jit(script, named(), target=target, debug=True)
    assert COMPUTING in ops_of(module)
    assert "aten::relu" not in ops_of(module)
    for factor, shift in ((1.0, 0.0), (100.0, 3.0), (0.01, 0.0)):
        given = x * factor + shift
        assert sqnr(model(given), module(given)) > 30
        # Float sums in another order may round a value of the next layer's input elsewhere: there is none.
        torch.testing.assert_close(module(given), debug(given), rtol=1e-4, atol=1e-4 * factor)
    assert torch.equal(saved_and_loaded(module)(x), module(x))


@pytest.mark.parametrize(
    ("convolution", "shape"),
    [
        (nn.Conv2d(6, 80, 3, padding=1, groups=2), (2, 6, 12, 12)),
        (nn.Conv1d(10, 160, 4, groups=2), (1, 10, 40)),
        (nn.Conv2d(4, 8, 1, padding=1), (1, 4, 6, 6)),
    ],
    ids=["groups", "groups, 1d", "padding beyond the kernel"],
)
def test_what_onednn_computes_wrong_stays_float(
    convolution: nn.Module, shape: tuple[int, ...], target: str
) -> None:
    """Test that a geometry for which oneDNN's kernel is wrong is left alone, and the report says so."""
    model, x = nn.Sequential(convolution).eval(), torch.randn(shape)
    module = quantize_dynamic_jit(torch.jit.script(model), named(), target=target)
    assert COMPUTING not in ops_of(module)
    assert (
        reasons_of(module)["0"]
        == "its weight is not symmetric, the engine has no oneDNN, or that computes it wrong"
    )
    assert sqnr(model(x), module(x)) > 100


@pytest.mark.parametrize("activation", [DYNAMIC, REDUCED], ids=["8 bits", "7 bits"])
@pytest.mark.parametrize("weight", [WeightMinMaxObserver, PerChannelMinMaxObserver])
def test_qconfigs(weight: Any, activation: Any) -> None:
    """Test one scale for the weight or one for each channel, and an input of 7 bits."""
    model, x = nn.Sequential(nn.Conv2d(8, 12, 3)).eval(), torch.randn(2, 8, 9, 9)
    qconfig = QConfig(activation, weight.with_args())
    module = quantize_dynamic_jit(torch.jit.script(model), {"0": qconfig}, strict=["0"])
    debug = quantize_dynamic_jit(torch.jit.script(model), {"0": qconfig}, debug=True)
    torch.testing.assert_close(module(x), debug(x), rtol=1e-4, atol=1e-5)
    assert sqnr(model(x), module(x)) > (30 if activation is REDUCED else 35)


def test_the_stock_dynamic_op_clips_its_result() -> None:
    """Test why another op stands for it: the range of the input is taken for that of the result.

    Should this fail, torch has mended https://github.com/pytorch/pytorch/issues/70480.
    """
    x, weight = torch.randn(1, 8, 9, 9), torch.randn(8, 8, 3, 3)
    rounded = torch.quantize_per_tensor(weight, float(weight.abs().max() / 127), 0, torch.qint8)
    packed = torch.ops.quantized.conv2d_prepack(rounded, None, [1, 1], [0, 0], [1, 1], 1)
    stock = torch.ops.quantized.conv2d_dynamic(x, packed, False)
    expected = torch.conv2d(x, weight)
    assert expected.abs().max() > 2 * x.abs().max()
    assert stock.abs().max() < 1.1 * x.abs().max()
    model = nn.Sequential(nn.Conv2d(8, 8, 3, bias=False)).eval()
    model[0].weight = nn.Parameter(weight)
    module = quantize_dynamic_jit(torch.jit.script(model), named(PER_TENSOR))
    assert sqnr(expected, stock) < 10
    assert sqnr(expected, module(x)) > 30


def test_convolutions_that_nothing_names_stay_float(target: str) -> None:
    """Test that, as in torch, the qconfig of the whole model is for linears."""
    model = torch.jit.script(Net().eval())
    module = quantize_dynamic_jit(model, {"": PER_CHANNEL}, target=target)
    reasons = reasons_of(module)
    assert "names it" in reasons["first"]
    assert "names it" in reasons["last"]
    assert not reasons["linear"]
    assert COMPUTING not in ops_of(module)
    quantize_dynamic_jit(model, {"": PER_CHANNEL}, strict=True)
    with pytest.raises(QuantizationError, match="names it"):
        quantize_dynamic_jit(model, {"": PER_CHANNEL}, strict=["conv2d"])


@pytest.mark.parametrize(
    "mapping",
    [
        QConfigMapping().set_global(PER_CHANNEL).set_object_type("conv2d", PER_CHANNEL),
        QConfigMapping().set_global(PER_CHANNEL).set_object_type(nn.Conv2d, PER_CHANNEL),
        {"": PER_CHANNEL, "first": PER_CHANNEL, "last": PER_CHANNEL, "depthwise": PER_CHANNEL},
    ],
    ids=["by op", "by class", "by path"],
)
def test_convolutions_that_are_named_become_dynamic(mapping: Any, target: str) -> None:
    """Test each way to name them; a depthwise one stays float, as it is faster so."""
    model, x = torch.jit.script(Net().eval()), torch.randn(2, 3, 12, 12)
    module = quantize_dynamic_jit(model, mapping, target=target)
    assert ops_of(module).count(COMPUTING) == 2
    reasons = reasons_of(module)
    assert "depthwise" in reasons["depthwise"]
    assert not reasons["first"]
    assert not reasons["last"]
    assert not reasons["linear"]
    assert sqnr(model(x), module(x)) > 25


@pytest.mark.parametrize(
    ("network", "shape"),
    [
        (nn.Conv3d(3, 4, 3), (1, 3, 6, 6, 6)),
        (nn.ConvTranspose1d(3, 4, 3), (1, 3, 6)),
        (nn.ConvTranspose2d(3, 4, 3), (1, 3, 6, 6)),
        (nn.ConvTranspose3d(3, 4, 3), (1, 3, 6, 6, 6)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_other_convolutions_stay_float(network: nn.Module, shape: tuple[int, ...], target: str) -> None:
    """Test that these are left alone, and a named one is said to have no dynamic form."""
    model = torch.jit.script(nn.Sequential(network).eval())
    with pytest.warns(UserWarning, match="no op of the model has a dynamic form"):
        module = quantize_dynamic_jit(model, {"0": PER_CHANNEL}, target=target)
    x = torch.randn(shape)
    assert torch.equal(module(x), model(x))
    assert reasons_of(module)["0"] == "it has no dynamic form"


def test_half_precision_is_for_linears() -> None:
    """Test that a convolution has no such form, named or not."""
    model, x = torch.jit.script(Net().eval()), torch.randn(2, 3, 12, 12)
    module = quantize_dynamic_jit(
        model, {"": jitquant.float16_dynamic_qconfig, "last": jitquant.float16_dynamic_qconfig}
    )
    assert ops_of(module).count("aten::conv2d") == 3
    assert "aten::_saturate_weight_to_fp16" not in ops_of(module)
    assert sqnr(model(x), module(x)) > 60


def test_an_engine_without_onednn_keeps_them_float(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that nothing of the rounding is left then."""
    monkeypatch.setattr(torch.backends.quantized, "engine", "qnnpack")
    model, x = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3)).eval()), torch.randn(1, 3, 6, 6)
    module = quantize_dynamic_jit(model, {"0": PER_CHANNEL})
    assert torch.equal(module(x), model(x))
    assert "engine" in reasons_of(module)["0"]


def test_a_file_runs_without_jitquant(tmp_path: Path) -> None:
    module, x = quantize_dynamic_jit(torch.jit.script(Net().eval()), named()), torch.randn(2, 3, 12, 12)
    check_runs_alone(module, tmp_path, x, exactly=False)
