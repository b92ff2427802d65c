"""Tests of correct_bias: what rounding a weight shifts on average, the bias takes back."""

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import PerChannelMinMaxObserver, QConfig, WeightMinMaxObserver
from jitquant.observers import MinMaxObserver, Observer
from tests.graphs import nodes_of
from tests.quantized_ir import attribute, constants, run_with, weight_pair


def text_of(op: str, more: str = "", values: str = "", bias: str = "none") -> str:
    return f"""
graph(%self, %x : Tensor):
{attribute("sums")}
{attribute("bias") if bias == "bias" else ""}
{constants(none=None, axis=-1)}
{values}
%PAIR%
  jitquant::record_means(%x, %sums, %axis)
  %y : Tensor = {op}(%x, %weight_d, %{bias}{more})
  return (%y)"""


@pytest.mark.parametrize("bias", ["bias", "none"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_the_mean_of_a_linear_is_that_of_float(bias: str, per_channel: bool) -> None:
    """Test that on the data of calibration the rounded op gives on average what the float op gives."""
    x = torch.rand(400, 6) * torch.linspace(0.1, 4, 6)
    weight = torch.randn(3, 6)
    pair, attributes = weight_pair(weight, per_channel=per_channel)
    attributes |= {"sums": torch.cat([x.sum(0), torch.tensor([400.0])]).double(), "bias": torch.randn(3)}
    text = text_of("aten::linear", bias=bias).replace("%PAIR%", pair)
    run = run_with("correct_bias", text, attributes)
    assert run.count == 1
    assert nodes_of(run.after, "jitquant::record_means") == []
    assert not run.after._c.hasattr("sums")
    assert run.after._c.hasattr("_bias_0")
    exact = nn.functional.linear(x, weight, attributes["bias"] if bias == "bias" else None).mean(0)
    torch.testing.assert_close(run.after(x).mean(0), exact, atol=1e-4, rtol=1e-4)
    assert (run.before(x).mean(0) - exact).abs().max() > 1e-3


def test_the_mean_of_a_grouped_convolution_is_that_of_float() -> None:
    """Test that each group takes the means of its own channels, for all taps of the window."""
    x = torch.rand(2, 4, 1, 1).expand(2, 4, 9, 9).contiguous()  # whose borders are like its middle
    weight = torch.randn(6, 2, 3, 3)
    pair, attributes = weight_pair(weight)
    attributes["sums"] = torch.cat([x.transpose(0, 1).flatten(1).sum(1), torch.tensor([162.0])]).double()
    values = constants(stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=2)
    text = text_of("aten::conv2d", ", %stride, %padding, %dilation, %groups", values).replace("%PAIR%", pair)
    run = run_with("correct_bias", text, attributes)
    exact = nn.functional.conv2d(x, weight, groups=2).mean((0, 2, 3))
    torch.testing.assert_close(run.after(x).mean((0, 2, 3)), exact, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("sums", [torch.zeros(7), torch.full((7,), float("nan"))])
def test_nothing_is_corrected_without_means(sums: Tensor) -> None:
    """Test that an op which calibration did not reach, or with NaN, keeps its bias and loses the record."""
    pair, attributes = weight_pair(torch.randn(3, 6))
    run = run_with(
        "correct_bias",
        text_of("aten::linear").replace("%PAIR%", pair),
        {**attributes, "sums": sums.double()},
    )
    assert run.count == 0
    assert nodes_of(run.after, "jitquant::record_means") == []
    x = torch.randn(4, 6)
    assert torch.equal(run.after(x), run.before(x))


def test_nothing_to_correct() -> None:
    """Test that a graph in which nothing was recorded is left as it is."""
    text = """
graph(%self, %x : Tensor):
  %y : Tensor = aten::erf(%x)
  return (%y)"""
    assert run_with("correct_bias", text).count == 0


class Shared(nn.Module):
    """One layer at two call sites, which see different data."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), self.linear(x * 3 + 5)


@pytest.mark.parametrize("weight", [PerChannelMinMaxObserver, WeightMinMaxObserver])
def test_each_call_site_of_a_layer_has_its_own_bias(weight: type[Observer]) -> None:
    """Test that the means of one call site do not get into the bias of the other."""
    torch.manual_seed(0)
    network = Shared().eval()
    x = torch.rand(500, 16)
    debug = jitquant.quantize_jit(
        torch.jit.script(network),
        {"": QConfig(MinMaxObserver, weight)},
        lambda model: model(x),
        [],
        debug=True,
    )
    with torch.no_grad():
        for found, exact in zip(debug(x), network(x), strict=True):
            step = float(exact.max() - exact.min()) / 255
            assert (found.mean(0) - exact.mean(0)).abs().max() < step / 2
