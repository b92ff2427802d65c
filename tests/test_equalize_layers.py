"""Tests of equalize_layers: channels between two layers get ranges that are alike, and results stay."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant.passes import run_pass
from jitquant.pipeline import BEFORE_OBSERVING, run_passes
from tests.graphs import working_copy
from tests.networks import sqnr

BETWEEN: dict[str, Any] = {
    "nothing": nn.Identity,
    "relu": nn.ReLU,
    "leaky relu": lambda: nn.LeakyReLU(0.1),
    "max pool": lambda: nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2, 1)),
    "average pool": lambda: nn.AvgPool2d(2),
    "adaptive pool": lambda: nn.AdaptiveAvgPool2d(3),
}
NOT_BETWEEN: dict[str, Any] = {"relu6": nn.ReLU6, "hardswish": nn.Hardswish, "sigmoid": nn.Sigmoid}


def uneven(layer: nn.Module) -> nn.Module:
    """Output channels of which some are a thousand times the others."""
    with torch.no_grad():
        factors = torch.logspace(-1.5, 1.5, layer.weight.size(0))
        layer.weight.mul_(factors.reshape(-1, *[1] * (layer.weight.dim() - 1)))
        if layer.bias is not None:
            layer.bias.mul_(factors)
    return layer


def network(between: nn.Module, *, groups: int = 1, bias: bool = True) -> nn.Sequential:
    return nn.Sequential(
        uneven(nn.Conv2d(3, 8, 3, bias=bias)),
        between,
        nn.Conv2d(8, 16, 3, padding=1, groups=groups, bias=bias),
    ).eval()


def equalized(model: nn.Module) -> tuple[torch.jit.ScriptModule, int]:
    module = working_copy(torch.jit.script(model))
    run_passes(BEFORE_OBSERVING, module)
    return module, run_pass("equalize_layers", module)


def ranges(module: torch.jit.ScriptModule, first: str = "0", second: str = "2") -> tuple[Tensor, Tensor]:
    """The largest weight of each row of the first, and of each column of the second layer."""
    rows = module._c.getattr(first).getattr("weight").abs().flatten(1).amax(1)
    columns = module._c.getattr(second).getattr("weight").abs().transpose(0, 1).flatten(1).amax(1)
    return rows, columns


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("between", BETWEEN)
def test_channels_get_ranges_that_are_alike(between: str, bias: bool) -> None:
    """Test that rows and columns of each channel have the same largest weight, and results are the same."""
    model = network(BETWEEN[between](), bias=bias)
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    module, count = equalized(model)
    assert count == 1
    rows, columns = ranges(module)
    torch.testing.assert_close(rows, columns, rtol=0.02, atol=0)
    assert sqnr(expected, module(x)) > 110


@pytest.mark.parametrize("between", NOT_BETWEEN)
def test_not_equalized_across_what_a_factor_changes(between: str) -> None:
    """Test that weights stay as they are where a function between would give another result."""
    model = network(NOT_BETWEEN[between]())
    module, count = equalized(model)
    assert count == 0
    assert torch.equal(module._c.getattr("0").getattr("weight"), model[0].weight)


MIXED: dict[str, Any] = {
    "max pool between linears": (nn.Linear, nn.MaxPool1d(3, 1, 1), nn.Linear),
    "average pool between linears": (nn.Linear, nn.AvgPool1d(3, 1, 1), nn.Linear),
    "two dimensions behind one": (partial(nn.Conv1d, kernel_size=1), nn.AvgPool2d(3, 1, 1), None),
}


@pytest.mark.parametrize("name", MIXED)
def test_not_equalized_across_a_pool_of_channels(name: str) -> None:
    """Test that results stay where a pool takes several channels together."""
    first, pool, second = MIXED[name]
    model = nn.Sequential(uneven(first(8, 8)), pool, (second or first)(8, 8)).eval()
    x = torch.randn(4, 8, 8)
    expected = model(x)
    module, count = equalized(model)
    assert count == 0
    assert torch.equal(module(x), expected)


def test_a_layer_without_a_partner_is_not_written() -> None:
    """Test that the tensors of layers whose channels do not fit together stay the very same."""
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ReLU(), nn.Conv2d(4, 4, 1)).eval()
    module = working_copy(torch.jit.script(model))
    run_passes(BEFORE_OBSERVING, module)
    before = module._c.getattr("0").getattr("weight").data_ptr()
    assert run_pass("equalize_layers", module) == 0
    assert module._c.getattr("0").getattr("weight").data_ptr() == before


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_a_convolution_in_groups_behind(groups: int) -> None:
    """Test that each channel's factor goes to the columns of its group."""
    model = network(nn.ReLU(), groups=groups)
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    module, count = equalized(model)
    assert count == 1
    assert sqnr(expected, module(x)) > 110


def test_linears_and_longer_chains() -> None:
    """Test that a layer in the middle is equalized with both of its neighbours."""
    model = nn.Sequential(
        uneven(nn.Linear(4, 8)), nn.ReLU(), uneven(nn.Linear(8, 8)), nn.ReLU(), nn.Linear(8, 3)
    ).eval()
    x = torch.randn(5, 4)
    expected = model(x)
    module, count = equalized(model)
    assert count == 2
    for first, second in (("0", "2"), ("2", "4")):
        rows, columns = ranges(module, first, second)
        torch.testing.assert_close(rows, columns, rtol=0.05, atol=0)
    assert sqnr(expected, module(x)) > 110


def test_a_channel_without_weights_is_left_alone() -> None:
    """Test that a row or column of zeros gives no infinite factor."""
    model = network(nn.ReLU())
    with torch.no_grad():
        model[0].weight[2] = 0
        model[2].weight[:, 3] = 0
    x = torch.randn(2, 3, 12, 12)
    expected = model(x)
    module, _ = equalized(model)
    assert sqnr(expected, module(x)) > 110


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = uneven(nn.Conv2d(3, 3, 3, padding=1))
        self.second = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        return self.second(y) + y


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = uneven(nn.Conv2d(3, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


@pytest.mark.parametrize("model", [Residual(), Shared()], ids=["used twice", "shared"])
def test_not_equalized_where_something_else_would_change(model: nn.Module) -> None:
    """Test that a value which something else takes, and a weight at several call sites, are left alone."""
    assert equalized(model.eval())[1] == 0


def test_a_keyword_of_quantize_jit_switches_it_on(target: str) -> None:
    """Test that weights with one scale for all channels keep more of the signal."""
    eager = network(nn.ReLU())
    with torch.no_grad():  # the second layer takes back what the first has too much or too little of
        eager[2].weight.div_(torch.logspace(-1.5, 1.5, 8).reshape(1, -1, 1, 1))
    model = torch.jit.script(eager)
    x = torch.randn(8, 3, 12, 12)
    qconfig = {"": jitquant.get_default_qconfig("qnnpack")}
    off, on = (
        jitquant.quantize_jit(
            model, qconfig, lambda prepared: prepared(x), [], target=target, equalize_layers=switch
        )
        for switch in (False, True)
    )
    assert jitquant.info(on)["accuracy"]["equalize_layers"] is True
    assert sqnr(model(x), on(x)) > sqnr(model(x), off(x)) + 6
