"""Tests of presets: which methods win back accuracy, and that they do."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import HistogramObserver, PerChannelMinMaxObserver, QConfig, QuantizationError
from jitquant.presets import PRESETS, Methods, choose_methods
from tests.networks import sqnr


@pytest.mark.parametrize(
    ("preset", "switches", "expected"),
    [
        ("fast", {}, Methods()),
        ("balanced", {}, Methods(correct_bias=True, smooth_inputs=True)),
        ("accurate", {}, Methods(correct_bias=True, smooth_inputs=True, round_weights=True)),
        ("fast", {"correct_bias": True}, Methods(correct_bias=True)),
        ("balanced", {"smooth_inputs": False}, Methods(correct_bias=True)),
        ("accurate", {"round_weights": False, "correct_bias": None}, PRESETS["balanced"]),
    ],
)
def test_a_switch_stands_above_the_preset(preset: str, switches: dict[str, bool], expected: Methods) -> None:
    """Test that a preset chooses methods, and a switch that is not None replaces its choice."""
    assert choose_methods(preset, "prepare_jit", **switches) == expected


def test_an_unknown_preset_is_refused() -> None:
    """Test that the error names the presets, and nothing is changed before."""
    model = torch.jit.script(nn.Linear(2, 2).eval())
    with pytest.raises(QuantizationError, match="prepare_jit: preset='best' is unknown; choose from 'fast'"):
        jitquant.prepare_jit(model, {"": jitquant.default_qconfig}, preset="best")


@pytest.mark.parametrize("switch", ["correct_bias", "smooth_inputs", "round_weights"])
def test_a_switch_of_another_type_is_refused(switch: str) -> None:
    """Test that the error names the switch and what to pass."""
    with pytest.raises(QuantizationError, match=f"{switch}='yes' is a str; pass True, False, or None"):
        choose_methods("fast", "prepare_jit", **{switch: "yes"})


# Weights of 5 bits, so that rounding them is what costs most.
QCONFIG = QConfig(HistogramObserver, PerChannelMinMaxObserver.with_args(quant_min=-15, quant_max=15))


class Network(nn.Module):
    """Convolutions of every kind, with inputs whose means are not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16),
            nn.ReLU6(),
            nn.Conv2d(16, 24, 1),
            nn.ReLU(),
            nn.Conv2d(24, 16, 3, stride=2),
            nn.ReLU(),
        )
        self.head = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).permute(0, 2, 3, 1))


@pytest.fixture(scope="module")
def network() -> Iterator[nn.Module]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield Network().eval()


def images(count: int, seed: int) -> Tensor:
    """Smooth, so that neighbouring pixels go together as in photographs."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.rand(count, 3, 6, 6, generator=generator)
    return nn.functional.interpolate(small, (24, 24), mode="bicubic")


def quantized(network: nn.Module, **arguments: object) -> torch.jit.ScriptModule:
    data = images(32, seed=1)
    return jitquant.quantize_jit(
        torch.jit.script(network),
        {"": QCONFIG},
        lambda model: [model(batch) for batch in data.split(4)],
        [],
        **arguments,
    )


def test_each_preset_is_nearer_to_float(network: nn.Module) -> None:
    """Test that on new images balanced is nearer than fast, and accurate nearest."""
    x = images(64, seed=2)
    with torch.no_grad():
        exact = network(x)
        found = {preset: sqnr(exact, quantized(network, preset=preset)(x)) for preset in PRESETS}
    assert found["fast"] + 1 < found["balanced"] < found["accurate"] - 1, found


def test_balanced_is_the_default(network: nn.Module) -> None:
    """Test that without a word the methods are those of balanced, and the file says so."""
    facts = jitquant.info(quantized(network))
    assert facts["accuracy"] == {
        "correct_bias": True,
        "smooth_inputs": True,
        "round_weights": False,
        "equalize_layers": False,
    }


@pytest.mark.parametrize("preset", PRESETS)
def test_nothing_of_it_is_left_in_the_file(network: nn.Module, preset: str) -> None:
    """Test that what was recorded is gone, and no op of jitquant's is left for stock torch."""
    module = quantized(network, preset=preset)
    assert "jitquant::" not in str(module.inlined_graph)
    assert not any(name.startswith("_statistics_") for name, _ in module.named_buffers())
    names = [name for name in dir(module._c) if name.startswith("_statistics_")]
    assert names == []
