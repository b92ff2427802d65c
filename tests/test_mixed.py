"""Tests of static and dynamic quantization in one model, as qconfigs say."""

import io
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import QuantizationError
from tests.graphs import ops_of, saved_and_loaded
from tests.networks import sqnr

STATIC = jitquant.get_default_qconfig()
DYNAMIC = jitquant.per_channel_dynamic_qconfig
LINEARS_DYNAMIC = {"": STATIC, "head": DYNAMIC}


class Speech(nn.Module):
    """Convolutions over time, then linears on each step, of which one takes what the layer norm gives."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv1d(8, 32, 5, padding=2), nn.ReLU(), nn.Conv1d(32, 32, 3, padding=1))
        self.norm = nn.LayerNorm(32)
        self.head = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.body(x).transpose(1, 2)))


class Both(nn.Module):
    """A value that a static and a dynamic op take, before and behind what only moves it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3)
        self.static = nn.Linear(16, 16)
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.conv(x)).mean([2, 3])
        return self.static(y) + self.head(y)


MODELS: dict[str, Any] = {"speech": (Speech, (4, 8, 40)), "both": (Both, (4, 3, 12, 12))}


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def quantized(
    model: torch.jit.ScriptModule, qconfigs: Any, x: Tensor, **options: Any
) -> torch.jit.ScriptModule:
    return jitquant.quantize_jit(model, qconfigs, lambda prepared: prepared(x), [], **options)


@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
@pytest.mark.parametrize("name", MODELS)
def test_convolutions_static_and_linears_dynamic(name: str, traced: bool, target: str) -> None:
    """Test that each op becomes what its qconfig says, also in a file, and numbers stay near."""
    make, shape = MODELS[name]
    eager, x = make().eval(), torch.randn(shape)
    model = torch.jit.trace(eager, x) if traced else torch.jit.script(eager)
    result = saved_and_loaded(quantized(model, LINEARS_DYNAMIC, x, target=target))
    ops = ops_of(result)
    wanted = {"quantized": "quantized::linear_dynamic", "native": "jitquant::linear_dynamic"}[target]
    assert any(op.startswith(wanted) for op in ops)
    assert any("conv" in op and not op.startswith("aten::") for op in ops)
    assert "aten::linear" not in ops
    assert sqnr(eager(x), result(x)) > 25
    assert all(
        op.is_integer for op in jitquant.summarize(result).ops if op.op in ("aten::linear", "aten::conv1d")
    )


@pytest.mark.parametrize("name", MODELS)
def test_debug_mode_is_near(name: str, target: str) -> None:
    """Test that the readable pattern of both kinds gives what the integer model does, within rounding."""
    make, shape = MODELS[name]
    model, x = torch.jit.script(make().eval()), torch.randn(shape)
    debug = quantized(model, LINEARS_DYNAMIC, x, target=target, debug=True)
    assert "aten::_choose_qparams_per_tensor" in ops_of(debug)
    assert "aten::quantize_per_tensor" in ops_of(debug)
    assert sqnr(debug(x), quantized(model, LINEARS_DYNAMIC, x, target=target)(x)) > 30


def test_a_value_is_calibrated_for_static_ops_only(target: str) -> None:
    """Test that a dynamic op takes the value as it was, also where a static one has it observed."""
    model = torch.jit.script(Both().eval())
    prepared = jitquant.prepare_jit(model, LINEARS_DYNAMIC, target=target)
    kinds = [
        module.original_name for name, module in prepared.named_children() if name.startswith("_observer_")
    ]
    assert kinds.count("PlaceholderObserver") == 1
    assert "HistogramObserver" in kinds


def test_half_precision_beside_static() -> None:
    """Test that a linear in half precision is one of the dynamic kinds too."""
    model, x = torch.jit.script(Speech().eval()), torch.randn(4, 8, 40)
    result = quantized(model, {"": STATIC, "head": jitquant.float16_dynamic_qconfig}, x)
    assert "quantized::linear_relu_dynamic_fp16" in ops_of(result)
    assert "quantized::conv1d_relu" in ops_of(result)


def test_presets_round_the_weights_of_dynamic_ops_too(target: str) -> None:
    """Test that every preset takes a mixed model, and the accurate one is not worse."""
    model, x = torch.jit.script(Speech().eval()), torch.randn(4, 8, 40)
    errors = {
        preset: sqnr(model(x), quantized(model, LINEARS_DYNAMIC, x, target=target, preset=preset)(x))
        for preset in ("fast", "balanced", "accurate")
    }
    assert errors["accurate"] > errors["fast"] - 0.5


def test_what_goes_to_dynamic_ops_only_says_so() -> None:
    """Test that an op whose result nothing rounds stays float, and why."""
    model, x = torch.jit.script(Speech().eval()), torch.randn(4, 8, 40)
    result = quantized(model, {"": STATIC, "norm": DYNAMIC, "head": DYNAMIC}, x)
    reasons = {op.op: op.reason for op in jitquant.summarize(result).ops if not op.is_integer}
    assert reasons == {"aten::layer_norm": "its result is float and gets a range at each call"}


def test_dynamic_qconfigs_alone_are_refused() -> None:
    """Test that a static call without anything static names the remedy, and changes nothing."""
    model = torch.jit.script(Speech().eval())
    before = io.BytesIO()
    torch.jit.save(model, before)
    with pytest.raises(QuantizationError, match="call quantize_dynamic_jit"):
        jitquant.prepare_jit(model, {"": DYNAMIC}, inplace=True)
    after = io.BytesIO()
    torch.jit.save(model, after)
    assert before.getvalue() == after.getvalue()


def test_static_qconfigs_in_a_dynamic_call_are_refused() -> None:
    """Test that a mixed mapping is for the static call, which calibrates."""
    with pytest.raises(QuantizationError, match=r"has to be calibrated.*or call quantize_jit"):
        jitquant.quantize_dynamic_jit(torch.jit.script(Speech().eval()), LINEARS_DYNAMIC)
