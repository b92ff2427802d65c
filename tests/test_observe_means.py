"""Tests of observe_means: the mean of each channel that a weight multiplies is recorded."""

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

from jitquant.qconfig import default_qconfig
from tests.graphs import nodes_of, observed_and_recorded, saved_and_loaded
from tests.quantized_ir import LINEAR, Attributes, attribute, constants, run_with

PASSES = ("observe_means",)


def conv_text(dimensions: int, groups: int = 1) -> tuple[str, Attributes]:
    values = constants(
        none=None, stride=[1] * dimensions, padding=[1] * dimensions, dilation=[1] * dimensions, groups=groups
    )
    text = f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{values}
  %y : Tensor = aten::conv{dimensions}d(%x, %weight, %none, %stride, %padding, %dilation, %groups)
  return (%y)"""
    return text, {"weight": torch.randn(8, 4 // groups, *[3] * dimensions)}


def prepared(text: str, attributes: Attributes) -> torch.jit.ScriptModule:
    return observed_and_recorded(text, attributes, PASSES)


@pytest.mark.parametrize(("dimensions", "groups"), [(1, 1), (2, 1), (2, 4), (3, 2)])
def test_means_of_a_convolution(dimensions: int, groups: int) -> None:
    """Test that sums over all pixels and samples, and their number, add up over calls, of whatever layout."""
    module = prepared(*conv_text(dimensions, groups))
    FileCheck().check("jitquant::record_means").check(f"aten::conv{dimensions}d").run(
        module._c._get_method("forward").graph
    )
    batches = [torch.randn(2, 4, *[5] * dimensions), torch.randn(3, 4, *[6] * dimensions)]
    for batch in batches:
        module(batch)
    pixels = torch.cat([batch.transpose(0, 1).flatten(1) for batch in batches], 1)
    recorded = module._c.getattr("_statistics_0")
    torch.testing.assert_close(recorded[:4].float(), pixels.sum(1), atol=1e-3, rtol=1e-4)
    assert recorded[4] == pixels.size(1)


@pytest.mark.parametrize("shape", [(6,), (5, 6), (2, 5, 6)])
def test_means_of_a_linear(shape: tuple[int, ...]) -> None:
    """Test that each feature is a channel, however many dimensions stand before it."""
    module = prepared(LINEAR, {"weight": torch.randn(3, 6)})
    x = torch.randn(shape)
    module(x)
    recorded = module._c.getattr("_statistics_0")
    torch.testing.assert_close(recorded[:6].float(), x.reshape(-1, 6).sum(0))
    assert recorded[6] == x.numel() // 6


def test_what_was_recorded_is_saved() -> None:
    """Test that a prepared model keeps its sums in a file, and goes on adding to them."""
    module = prepared(LINEAR, {"weight": torch.randn(3, 6)})
    module(torch.ones(2, 6))
    loaded = saved_and_loaded(module)
    loaded(torch.ones(3, 6))
    assert loaded._c.getattr("_statistics_0").tolist() == [5.0] * 7


@pytest.mark.parametrize("x", [torch.randn(0, 6), torch.randn(4, 6, dtype=torch.float64)])
def test_nothing_is_recorded_of_what_is_empty_or_not_float(x: Tensor) -> None:
    """Test that sums stay zero where the observer sees nothing either."""
    module = prepared(LINEAR, {"weight": torch.randn(3, 6, dtype=torch.float32)})
    if x.dtype == torch.float32:
        module(x)
    else:
        with pytest.raises(RuntimeError, match="same dtype"):
            module(x)
    assert not module._c.getattr("_statistics_0").any()


def test_weights_without_an_observer_are_left_alone() -> None:
    """Test that a model that nobody quantizes is not slowed down."""
    text, attributes = conv_text(2)
    assert run_with("observe_means", text, attributes).count == 0


def test_a_transposed_convolution_is_left_alone() -> None:
    """Test that an op each output of which sees another part of the weight is not recorded."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{constants(none=None, stride=[2], padding=[0], more=[0], dilation=[1], groups=1)}
  %y : Tensor = aten::conv_transpose1d(%x, %weight, %none, %stride, %padding, %more, %groups, %dilation)
  return (%y)"""
    module = prepared(text, {"weight": torch.randn(4, 3, 2)})
    assert nodes_of(module, "jitquant::record_means") == []


def test_each_op_in_a_loop_is_recorded() -> None:
    """Test that what stands in a block is recorded there."""

    class Looped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(6, 6)

        def forward(self, x: Tensor, times: int) -> Tensor:
            for _ in range(times):
                x = self.linear(x)
            return x

    import jitquant

    script = torch.jit.script(Looped().eval())
    model = jitquant.prepare_jit(script, {"": default_qconfig}, smooth_inputs=False)
    model(torch.randn(2, 6), 3)
    assert model._c.getattr("_statistics_0")[-1] == 6
