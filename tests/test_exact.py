"""debug="exact": whole models compute in floating point what the integer model does, with the same bits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from benchmarks.minilm import minilm
from tests.graphs import check_runs_alone, ops_of, saved_and_loaded
from tests.marks import needs_native, needs_photographs
from tests.networks import efficientnet_lite0, photographs, resnet18

ENGINES = ["fbgemm", "x86", "onednn", pytest.param("native", marks=needs_native)]
Quantize = Callable[..., torch.jit.ScriptModule]


@pytest.fixture(params=ENGINES)
def target(request: pytest.FixtureRequest) -> Iterator[str]:
    """The target, with its engine set."""
    before = torch.backends.quantized.engine
    if request.param != "native":
        torch.backends.quantized.engine = request.param
    yield "native" if request.param == "native" else "quantized"
    torch.backends.quantized.engine = before


def calibrate(model: torch.jit.ScriptModule, batches: list[Any]) -> None:
    for batch in batches:
        model(batch)


def both(
    network: nn.Module, example: Tensor, batches: list[Tensor], target: str, **options: Any
) -> tuple[torch.jit.ScriptModule, torch.jit.ScriptModule]:
    """The integer model and the exact one, of a traced network."""
    model = torch.jit.trace(network, example)
    prepared = jitquant.prepare_jit(model, {"": jitquant.get_default_qconfig()}, target=target, **options)
    calibrate(prepared, batches)
    return jitquant.convert_jit(prepared), jitquant.convert_jit(prepared, debug="exact")


def check_same_bits(quantized: nn.Module, exact: nn.Module, batches: list[Tensor]) -> None:
    with torch.no_grad():
        for batch in batches:
            expected, found = quantized(batch), exact(batch)
            assert torch.equal(found, expected), float((found != expected).float().mean())


def integer_ops(module: torch.jit.ScriptModule) -> set[str]:
    spaces = ("quantized::", "onednn::", "jitquant::", "aten::quantize_per", "aten::_make_per")
    return {op for op in ops_of(module) if op.startswith(spaces)}


def test_resnet18_has_the_bits_of_the_integer_model(target: str) -> None:
    """Test that resnet18 gives the same bits, and has no integer op."""
    torch.manual_seed(0)
    images = torch.randn(4, 3, 96, 96)
    quantized, exact = both(resnet18(), images, [images], target)
    assert not integer_ops(exact)
    check_same_bits(quantized, exact, [images, torch.randn(1, 3, 64, 80)])


@needs_photographs
def test_efficientnet_lite0_has_the_bits_of_the_integer_model_on_photographs(target: str) -> None:
    """Test that EfficientNet-Lite0 with its weights gives the same logits on 100 photographs."""
    images, _ = photographs(classes=range(200))
    batches = list(images[:100].split(10))
    quantized, exact = both(efficientnet_lite0(), images[:1], batches[:2], target)
    assert not integer_ops(exact)
    assert len(images) >= 100
    check_same_bits(quantized, exact, batches)


def test_bert_has_the_bits_of_the_integer_model(target: str) -> None:
    """Test that MiniLM gives the same hidden states."""
    torch.manual_seed(0)
    tokens = [torch.randint(1000, 25000, (2, 24)) for _ in range(3)]
    quantized, exact = both(minilm(pools=False, tokens=24).eval(), tokens[0], tokens[:2], target)
    assert not integer_ops(exact)
    check_same_bits(quantized, exact, tokens)


def test_dynamic_bert_has_the_bits_of_the_integer_model(target: str) -> None:
    """Test that MiniLM with dynamic linears gives the same hidden states."""
    torch.manual_seed(0)
    tokens = [torch.randint(1000, 25000, (2, 24)) for _ in range(2)]
    model = torch.jit.trace(minilm(pools=False, tokens=24).eval(), tokens[0])
    qconfigs = {"": jitquant.per_channel_dynamic_qconfig}
    quantized = jitquant.quantize_dynamic_jit(model, qconfigs, target=target)
    exact = jitquant.quantize_dynamic_jit(model, qconfigs, target=target, debug="exact")
    assert not integer_ops(exact)
    check_same_bits(quantized, exact, tokens)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.nn.functional.hardswish(self.conv(x))
        return self.head(torch.cat([y, y.flip(3)], 3).mean((2, 3)))


def test_an_exact_model_is_saved_and_runs_in_stock_torch(target: str, tmp_path: Path) -> None:
    """Test that an exact model needs nothing of jitquant where it is loaded, whatever its target."""
    torch.manual_seed(0)
    images = torch.randn(2, 3, 12, 12)
    quantized, exact = both(Small().eval(), images, [images], target)
    check_same_bits(quantized, saved_and_loaded(exact), [images])
    check_runs_alone(exact, tmp_path, images)
    facts = jitquant.info(exact)
    assert (facts["stage"], facts["debug"]) == ("debug", "exact")
    assert "needs" not in facts


def test_a_recurrent_layer_stays_integer_with_a_warning(target: str) -> None:
    """Test that an op without a formula is left as it is, and named."""

    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.GRU(8, 8)
            self.head = nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.layer(x)[0])

    torch.manual_seed(0)
    model = torch.jit.script(Recurrent().eval())
    x = torch.randn(5, 2, 8)
    qconfigs = {"": jitquant.default_dynamic_qconfig}
    quantized = jitquant.quantize_dynamic_jit(model, qconfigs, target=target)
    with pytest.warns(UserWarning, match="has no formula and runs on integers"):
        exact = jitquant.quantize_dynamic_jit(model, qconfigs, target=target, debug="exact")
    check_same_bits(quantized, exact, [x])


def test_an_engine_without_formulas_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that exact debug under an engine without formulas is refused before anything is made."""
    prepared = jitquant.prepare_jit(torch.jit.script(Small().eval()), {"": jitquant.default_qconfig})
    calibrate(prepared, [torch.randn(1, 3, 8, 8)])
    jitquant.exact.emulations.cache_clear()
    monkeypatch.setattr(jitquant.exact, "formulas", lambda engine, target: {})
    try:
        with pytest.raises(jitquant.QuantizationError, match="has no formulas for the engine"):
            jitquant.convert_jit(prepared, debug="exact")
    finally:
        jitquant.exact.emulations.cache_clear()


@pytest.mark.parametrize("debug", ["exactly", 1, None])
def test_unknown_debug_modes_are_refused(debug: Any) -> None:
    """Test that debug takes a bool or "exact"."""
    model = torch.jit.script(Small().eval())
    with pytest.raises(jitquant.QuantizationError, match="choose False, True or 'exact'"):
        jitquant.quantize_jit(model, {"": jitquant.default_qconfig}, calibrate, [[]], debug=debug)
