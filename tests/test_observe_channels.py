"""Tests of observe_channels: the range and the squares of each channel that a linear takes are recorded."""

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import MinMaxObserver, PerChannelMinMaxObserver, QConfig
from jitquant.qconfig import default_qconfig
from tests.graphs import argument, nodes_of, observed_and_recorded, saved_and_loaded
from tests.quantized_ir import LINEAR, run_with

RECORD = "jitquant::record_channels"


def prepared(features: int = 6) -> torch.jit.ScriptModule:
    return observed_and_recorded(LINEAR, {"weight": torch.randn(3, features)}, ("observe_channels",))


def table_of(x: Tensor) -> Tensor:
    """What is recorded of rows."""
    x = x.reshape(-1, x.size(-1)).double()
    table = torch.zeros(4, x.size(1) + 1, dtype=torch.double)
    table[0, :-1] = x.amin(0).clamp_max(0)
    table[1, :-1] = x.amax(0).clamp_min(0)
    table[2, :-1] = x.sum(0)
    table[3, :-1] = x.square().sum(0)
    table[3, -1] = len(x)
    return table


@pytest.mark.parametrize("shape", [(6,), (300, 6), (2, 5, 6), (70, 2, 201)])
def test_ranges_and_squares_add_up(shape: tuple[int, ...]) -> None:
    """Test that calls of any size are recorded as one of all rows, with zero in the range."""
    module = prepared(shape[-1])
    batches = [torch.randn(shape) + 1, torch.randn(shape) * 3]
    for batch in batches:
        module(batch)
    rows = torch.cat([batch.reshape(-1, shape[-1]) for batch in batches])
    torch.testing.assert_close(module._c.getattr("_statistics_0"), table_of(rows), rtol=1e-5, atol=1e-4)


def test_transposed_rows_are_recorded_as_they_are() -> None:
    module = prepared()
    x = torch.randn(6, 40).t()
    module(x)
    torch.testing.assert_close(module._c.getattr("_statistics_0"), table_of(x), rtol=1e-5, atol=1e-4)


def test_what_was_recorded_is_saved() -> None:
    module = prepared()
    module(torch.ones(2, 6))
    loaded = saved_and_loaded(module)
    loaded(-torch.ones(3, 6))
    expected = table_of(torch.cat([torch.ones(2, 6), -torch.ones(3, 6)]))
    assert torch.equal(loaded._c.getattr("_statistics_0"), expected)


def test_nothing_is_recorded_of_nothing() -> None:
    module = prepared()
    module(torch.randn(0, 6))
    assert not module._c.getattr("_statistics_0").any()


class Heads(nn.Module):
    """Two layers that take the same value."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.left, self.right = nn.Linear(8, 4), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.norm(x)
        return self.left(x), self.right(x)


@pytest.mark.parametrize("preset", ["balanced", "accurate"])
def test_linears_that_take_the_same_value_share_a_record(preset: str) -> None:
    """Test that calibration looks at such a value once for each thing that is recorded."""
    model = jitquant.prepare_jit(torch.jit.script(Heads().eval()), {"": default_qconfig}, preset=preset)
    kinds = [node.kind() for node in nodes_of(model) if node.kind().startswith("jitquant::record")]
    other = "jitquant::record_products" if preset == "accurate" else "jitquant::record_means"
    assert sorted(kinds) == sorted([RECORD, other])


def test_the_integers_of_the_observer_are_kept() -> None:
    """Test that an observer of fewer bits leaves its mark."""
    qconfig = QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=127), PerChannelMinMaxObserver)
    model = jitquant.prepare_jit(torch.jit.script(Heads().eval()), {"": qconfig})
    (node,) = nodes_of(model, RECORD)
    assert [argument(node, place) for place in (2, 3)] == [0, 127]


def test_convolutions_and_unobserved_weights_are_left_alone() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model = jitquant.prepare_jit(torch.jit.script(network.eval()), {"": default_qconfig})
    assert nodes_of(model, RECORD) == []
    assert run_with("observe_channels", LINEAR, {"weight": torch.randn(3, 6)}).count == 0
