"""Tests of observe_products: how the inputs that a weight multiplies go together is recorded."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.graphs import nodes_of, observed_and_recorded
from tests.quantized_ir import LINEAR, Attributes, attribute, constants

PASSES = ("observe_products", "observe_means")


def prepared(text: str, attributes: Attributes) -> torch.jit.ScriptModule:
    return observed_and_recorded(text, attributes, PASSES)


def products_of(patches: Tensor) -> Tensor:
    """Of [groups, patches, K]."""
    patches = torch.cat([patches, torch.ones(*patches.shape[:2], 1)], 2)
    return patches.transpose(1, 2) @ patches


def convolution(stride: int, padding: int, dilation: int, groups: int) -> str:
    values = constants(
        none=None, stride=[stride] * 2, padding=[padding] * 2, dilation=[dilation] * 2, groups=groups
    )
    return f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{values}
  %y : Tensor = aten::conv2d(%x, %weight, %none, %stride, %padding, %dilation, %groups)
  return (%y)"""


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize(("stride", "padding", "dilation"), [(1, 1, 1), (2, 0, 1), (1, 2, 2)])
def test_products_of_a_convolution(groups: int, stride: int, padding: int, dilation: int) -> None:
    """Test that the products are those of the patches which the convolution multiplies, zeros around too."""
    text = convolution(stride, padding, dilation, groups)
    module = prepared(text, {"weight": torch.randn(8, 4 // groups, 3, 3)})
    x = torch.randn(3, 4, 9, 8)
    for _ in range(2):
        module(x)
    columns = F.unfold(x, 3, dilation, padding, stride)
    patches = columns.reshape(3, groups, -1, columns.size(2)).permute(1, 0, 3, 2).flatten(1, 2)
    recorded = module._c.getattr("_statistics_0")
    torch.testing.assert_close(recorded, 2 * products_of(patches), atol=1e-3, rtol=1e-4)


def test_products_of_a_convolution_in_one_dimension() -> None:
    """Test that conv1d is recorded as its two-dimensional twin would be."""
    text = f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{constants(none=None, stride=[2], padding=[1], dilation=[1], groups=1)}
  %y : Tensor = aten::conv1d(%x, %weight, %none, %stride, %padding, %dilation, %groups)
  return (%y)"""
    module = prepared(text, {"weight": torch.randn(5, 4, 3)})
    x = torch.randn(2, 4, 10)
    module(x)
    patches = F.pad(x, [1, 1]).unfold(2, 3, 2).permute(0, 2, 1, 3).reshape(1, -1, 12)
    torch.testing.assert_close(module._c.getattr("_statistics_0"), products_of(patches), atol=1e-3, rtol=1e-4)


def test_products_of_a_linear() -> None:
    """Test that each row is a patch."""
    module = prepared(LINEAR, {"weight": torch.randn(3, 6)})
    x = torch.randn(2, 5, 6)
    module(x)
    torch.testing.assert_close(module._c.getattr("_statistics_0"), products_of(x.reshape(1, -1, 6)))


def test_of_many_rows_a_part_stands_for_all() -> None:
    """Test that a call never looks at more than 1,024 rows, evenly spread, and counts those."""
    module = prepared(LINEAR, {"weight": torch.randn(3, 2)})
    x = torch.arange(10000.0).reshape(-1, 1).expand(-1, 2).contiguous()
    module(x)
    recorded = module._c.getattr("_statistics_0")[0]
    assert 512 < recorded[-1, -1] <= 1024
    assert abs(recorded[0, -1] / recorded[-1, -1] - 5000) < 10


@pytest.mark.parametrize("window", [1, 3])
def test_of_many_patches_a_part_stands_for_all(window: int) -> None:
    """Test the same of a convolution, whose patches are taken from all over the image."""
    text = convolution(stride=1, padding=window // 2, dilation=1, groups=1)
    module = prepared(text, {"weight": torch.randn(3, 2, window, window)})
    x = torch.randn(2, 2, 100, 80) + torch.tensor([1.0, -3.0]).reshape(1, 2, 1, 1)
    module(x)
    recorded = module._c.getattr("_statistics_0")[0]
    count = recorded[-1, -1]
    assert 512 < count <= 1024
    middle = recorded[:-1, -1].reshape(2, -1)[:, window * window // 2] / count
    torch.testing.assert_close(middle, torch.tensor([1.0, -3.0]), atol=0.2, rtol=0)


@pytest.mark.parametrize("features", [2304, 2305])
def test_large_weights_are_left_to_observe_means(features: int) -> None:
    """Test that what would take too much memory gets its means recorded, and the others no means too."""
    module = prepared(LINEAR, {"weight": torch.randn(2, features)})
    kinds = [len(nodes_of(module, f"jitquant::record_{what}")) for what in ("products", "means")]
    assert kinds == ([1, 0] if features == 2304 else [0, 1])
