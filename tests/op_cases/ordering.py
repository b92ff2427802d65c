"""Ops that compare: the order of integers is that of what they stand for. Of values and places, values."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


def max_method(x: Tensor) -> Tensor:
    return x.max()


def max_function(x: Tensor) -> Tensor:
    return torch.max(x)


def min_method(x: Tensor) -> Tensor:
    return x.min()


def min_function(x: Tensor) -> Tensor:
    return torch.min(x)


def max_dim_method(x: Tensor) -> Tensor:
    return x.max(1)[0]


def max_dim_function(x: Tensor) -> Tensor:
    values, _ = torch.max(x, dim=-1, keepdim=True)
    return values


def max_dim_values(x: Tensor) -> Tensor:
    return torch.max(x, 1).values


def min_dim_method(x: Tensor) -> Tensor:
    return x.min(1)[0]


def min_dim_function(x: Tensor) -> Tensor:
    values, _ = torch.min(x, dim=-1, keepdim=True)
    return values


def min_dim_values(x: Tensor) -> Tensor:
    return torch.min(x, 1).values


def amax_method(x: Tensor) -> Tensor:
    return x.amax(1)


def amax_function(x: Tensor) -> Tensor:
    return torch.amax(x, [-1], keepdim=True)


def amax_of_all(x: Tensor) -> Tensor:
    return torch.amax(x)


def amin_method(x: Tensor) -> Tensor:
    return x.amin(1)


def amin_function(x: Tensor) -> Tensor:
    return torch.amin(x, [0, -1], keepdim=True)


def topk_method(x: Tensor) -> Tensor:
    return x.topk(3, 1)[0]


def topk_function(x: Tensor) -> Tensor:
    values, _ = torch.topk(x, 2, largest=False)
    return values


def sort_method(x: Tensor) -> Tensor:
    return x.sort(1)[0]


def sort_function(x: Tensor) -> Tensor:
    values, _ = torch.sort(x, dim=-1, descending=True)
    return values


def stable_sort_method(x: Tensor) -> Tensor:
    return x.sort(stable=True, dim=1)[0]


def stable_sort_function(x: Tensor) -> Tensor:
    values, _ = torch.sort(x, stable=True, dim=-1, descending=True)
    return values


def adaptive_max_functional(x: Tensor) -> Tensor:
    return F.adaptive_max_pool2d(x, 1)


for kind, pool in (
    ("conv1d", nn.AdaptiveMaxPool1d(1)),
    ("conv2d", nn.AdaptiveMaxPool2d(1)),
    ("conv3d", nn.AdaptiveMaxPool3d((1, 1, 1))),
):
    spellings("aten::amax", "aten::amax", kind, adaptive_max_pool=pool)
spellings(
    "aten::amax",
    "aten::amax",
    adaptive_max_functional=adaptive_max_functional,
)
for kind in ("conv2d", "linear"):
    spellings("aten::max", "aten::max", kind, method=max_method, function=max_function)
    spellings("aten::min", "aten::min", kind, method=min_method, function=min_function)
    spellings(
        "aten::max.dim",
        "aten::max",
        kind,
        method=max_dim_method,
        function=max_dim_function,
        values=max_dim_values,
    )
    spellings(
        "aten::min.dim",
        "aten::min",
        kind,
        method=min_dim_method,
        function=min_dim_function,
        values=min_dim_values,
    )
    spellings(
        "aten::amax", "aten::amax", kind, method=amax_method, function=amax_function, of_all=amax_of_all
    )
    spellings("aten::amin", "aten::amin", kind, method=amin_method, function=amin_function)
    spellings("aten::topk", "aten::topk", kind, method=topk_method, function=topk_function)
    spellings("aten::sort", "aten::sort", kind, method=sort_method, function=sort_function)
    spellings(
        "aten::sort.stable", "aten::sort", kind, method=stable_sort_method, function=stable_sort_function
    )
