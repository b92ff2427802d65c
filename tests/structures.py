"""What the tests of structures share: quantized, saved and loaded, a model gives what it gave."""

import copy
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
from tests.graphs import nodes_of, saved_and_loaded
from tests.networks import sqnr

WHOLE = {"": jitquant.get_default_qconfig()}
FLOAT_PRODUCTS = {"aten::conv2d", "aten::_convolution", "aten::linear", "aten::addmm"}
Inputs = tuple[Any, ...]


def wrong(reason: str) -> pytest.MarkDecorator:
    """What does not hold yet."""
    return pytest.mark.xfail(strict=True, reason=reason)


def conv(inputs: int = 3, outputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def image(scale: float = 1.0) -> Tensor:
    return torch.randn(2, 3, 12, 12) * scale


def images(count: int = 4) -> list[Inputs]:
    return [(image(),) for _ in range(count)]


def calibrate(model: torch.jit.ScriptModule, batches: list[Inputs]) -> None:
    for batch in batches:
        model(*batch)


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(network.eval())


def quantize(
    model: torch.jit.ScriptModule, batches: list[Inputs], target: str, *, says: str = "", **options: Any
) -> torch.jit.ScriptModule:
    """The quantized model. No warning comes, or with `says` only such; the model itself stays."""
    tensors = copy.deepcopy(model.state_dict())
    graph = str(model.inlined_graph)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
        quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [batches], target=target, **options)
    messages = [str(warning.message) for warning in caught]
    assert all(says and says in message for message in messages), messages
    assert messages or not says
    assert str(model.inlined_graph) == graph
    same(model.state_dict(), tensors)
    return quantized


def same(given: Any, expected: Any) -> None:
    """Both are equal to the bit, and of the same structure."""
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


def close(given: Any, expected: Any, least: float = 25.0) -> None:
    """Both are of the same structure, and each float tensor is close to the other's."""
    if isinstance(expected, Tensor):
        assert given.dtype == expected.dtype
        assert given.shape == expected.shape
        if expected.is_floating_point() and not torch.equal(given, expected):
            assert sqnr(expected, given) > least
        elif not expected.is_floating_point():
            same(given, expected)
    elif isinstance(expected, dict):
        assert list(given) == list(expected)
        close(list(given.values()), list(expected.values()), least)
    elif isinstance(expected, list | tuple):
        assert isinstance(given, list if isinstance(expected, list) else tuple)
        assert len(given) == len(expected)
        assert getattr(given, "_fields", None) == getattr(expected, "_fields", None)
        for one, other in zip(given, expected, strict=True):
            close(one, other, least)
    else:
        assert given == expected


def float_products(model: torch.jit.ScriptModule) -> int:
    """How many convolutions and linears are still float, in branches, loops and forks too."""
    count = 0
    for node in nodes_of(model):
        count += node.kind() in FLOAT_PRODUCTS
        if node.hasAttribute("Subgraph"):
            count += sum(str(node.g("Subgraph")).count(f"{kind}(") for kind in FLOAT_PRODUCTS)
    return count


def check(
    model: torch.jit.ScriptModule,
    batches: list[Inputs],
    target: str,
    *,
    left_float: int = 0,
    least: float = 25.0,
    says: str = "",
) -> torch.jit.ScriptModule:
    """Quantizes the model and compares it with the float one, before and after saving."""
    quantized = quantize(model, batches, target, says=says)
    assert float_products(quantized) == left_float, quantized.graph
    loaded = saved_and_loaded(quantized)
    with torch.no_grad():
        for batch in batches:
            given = quantized(*copy.deepcopy(batch))
            close(given, model(*copy.deepcopy(batch)), least)
            same(loaded(*copy.deepcopy(batch)), given)
    return quantized
