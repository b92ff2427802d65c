"""Tests of round_weights: weights are rounded such that results on calibration data change least."""

import pytest
import torch
from torch import Tensor, nn

from tests.graphs import nodes_of
from tests.quantized_ir import Run, attribute, constants, run_with, weight_pair


def correlated(rows: int, depth: int, seed: int = 0) -> Tensor:
    """Inputs that go together, with means of their own."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(depth // 2, depth, generator=generator)
    noise = torch.randn(rows, depth, generator=generator)
    return torch.randn(rows, depth // 2, generator=generator) @ mix + 0.1 * noise + torch.randn(depth)


def products_of(patches: Tensor) -> Tensor:
    patches = torch.cat([patches, torch.ones(*patches.shape[:2], 1)], 2)
    return patches.transpose(1, 2) @ patches


def rounded_linear(weight: Tensor, x: Tensor, *, per_channel: bool = True, bits: int = 8) -> Run:
    pair, attributes = weight_pair(weight, per_channel=per_channel)
    if bits < 8:
        attributes["weight_scale"] = attributes["weight_scale"] * 2 ** (8 - bits)
    attributes |= {"sums": products_of(x[None]), "bias": torch.randn(len(weight))}
    text = f"""
graph(%self, %x : Tensor):
{attribute("sums")}
{attribute("bias")}
{constants(groups=1)}
  %none : int[] = prim::ListConstruct()
{pair}
  jitquant::record_products(%x, %sums, %none, %none, %none, %none, %groups)
  %y : Tensor = aten::linear(%x, %weight_d, %bias)
  return (%y)"""
    return run_with("round_weights", text, attributes)


@pytest.mark.parametrize("per_channel", [True, False])
def test_the_error_on_the_data_is_smaller(per_channel: bool) -> None:
    """Test that the results are nearer to float than those of rounding to the nearest, by more than half."""
    torch.manual_seed(0)
    weight, x = torch.randn(12, 32), correlated(1000, 32)
    run = rounded_linear(weight, x, per_channel=per_channel)
    assert run.count == 1
    exact = nn.functional.linear(x, weight, run.before._c.getattr("bias"))
    before, after = (float((module(x) - exact).square().mean()) for module in (run.before, run.after))
    assert after < before / 2


def test_other_data_profits_too() -> None:
    """Test that on data of the same kind, which was not recorded, the error is smaller as well."""
    torch.manual_seed(0)
    weight, x = torch.randn(12, 32), correlated(2000, 32)
    run = rounded_linear(weight, x[:1000])
    exact = nn.functional.linear(x[1000:], weight, run.before._c.getattr("bias"))
    errors = [float((module(x[1000:]) - exact).square().mean()) for module in (run.before, run.after)]
    assert errors[1] < errors[0] / 2


def test_the_mean_is_that_of_float() -> None:
    """Test that the bias takes back what rounding shifts."""
    torch.manual_seed(0)
    weight, x = torch.randn(12, 32), correlated(1000, 32) + 3
    run = rounded_linear(weight, x)
    exact = nn.functional.linear(x, weight, run.before._c.getattr("bias")).mean(0)
    torch.testing.assert_close(run.after(x).mean(0), exact, atol=2e-3, rtol=1e-3)


def test_weights_are_integers_of_the_same_scale() -> None:
    """Test that quantizing the new weight changes nothing, and most integers are neighbours of the old."""
    torch.manual_seed(0)
    weight, x = torch.randn(12, 32), correlated(1000, 32)
    run = rounded_linear(weight, x)
    scale = weight.abs().amax(1, keepdim=True) / 127
    integers = run.after._c.getattr("_weight_0") / scale
    torch.testing.assert_close(integers, integers.round(), atol=1e-4, rtol=0)
    assert (integers - weight / scale).abs().median() < 1
    assert integers.abs().max() <= 127.01


def test_weights_of_fewer_bits_stay_within_them() -> None:
    """Test that no integer leaves the range that the observer of the weight was told."""
    torch.manual_seed(0)
    run = rounded_linear(torch.randn(12, 32), correlated(1000, 32), bits=4)
    integers = run.after._c.getattr("_weight_0") / run.before._c.getattr("weight_scale")[:, None]
    assert integers.abs().max() <= 8.01


def test_inputs_that_are_always_zero_do_no_harm() -> None:
    """Test that dead channels and constant ones leave the weights finite and the result right."""
    torch.manual_seed(0)
    weight, x = torch.randn(4, 8), correlated(300, 8)
    x[:, 2], x[:, 5] = 0.0, 1.0
    run = rounded_linear(weight, x)
    exact = nn.functional.linear(x, weight, run.before._c.getattr("bias"))
    assert run.after._c.getattr("_weight_0").isfinite().all()
    assert (run.after(x) - exact).abs().mean() <= (run.before(x) - exact).abs().mean()


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_each_group_of_a_convolution_is_rounded_by_its_own_inputs(groups: int) -> None:
    """Test that grouped and depthwise convolutions come nearer to float too."""
    torch.manual_seed(0)
    weight = torch.randn(8, 4 // groups, 3, 3)
    x = nn.functional.avg_pool2d(torch.randn(16, 4, 20, 20), 3, 1) + 1  # neighbours go together
    columns = nn.functional.unfold(x, 3)
    patches = columns.reshape(16, groups, -1, columns.size(2)).permute(1, 0, 3, 2).flatten(1, 2)
    pair, attributes = weight_pair(weight)
    attributes["sums"] = products_of(patches)
    values = constants(
        none=None, window=[3, 3], stride=[1, 1], padding=[0, 0], dilation=[1, 1], groups=groups
    )
    text = f"""
graph(%self, %x : Tensor):
{attribute("sums")}
{values}
{pair}
  jitquant::record_products(%x, %sums, %window, %stride, %padding, %dilation, %groups)
  %y : Tensor = aten::conv2d(%x, %weight_d, %none, %stride, %padding, %dilation, %groups)
  return (%y)"""
    run = run_with("round_weights", text, attributes)
    exact = nn.functional.conv2d(x, weight, groups=groups)
    before, after = (float((module(x) - exact).square().mean()) for module in (run.before, run.after))
    assert after < before / 1.5


def test_nothing_is_rounded_without_data() -> None:
    """Test that an op which calibration did not reach keeps its weight and loses the record."""
    run = rounded_linear(torch.randn(4, 8), torch.zeros(0, 8))
    assert run.count == 0
    assert nodes_of(run.after, "jitquant::record_products") == []
    x = torch.randn(3, 8)
    assert torch.equal(run.after(x), run.before(x))
