"""Convolutions and linear."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


class FunctionalConv(nn.Module):
    """F.conv1d, F.conv2d or F.conv3d with parameters of its own."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3, *[3] * dimensions) * 0.2)
        self.bias = nn.Parameter(torch.randn(8) * 0.1)


class FunctionalConv1d(FunctionalConv):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv1d(x, self.weight, self.bias, padding=1, stride=2)


class FunctionalConv2d(FunctionalConv):
    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias, padding=1, dilation=2)


class FunctionalConv3d(FunctionalConv):
    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv3d(x, self.weight, self.bias, stride=2)


class FunctionalLinear(nn.Module):
    """F.linear and what is written in its place."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8, 3) * 0.3)
        self.bias = nn.Parameter(torch.randn(8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


class LinearWithoutBias(FunctionalLinear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Addmm(FunctionalLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.addmm(self.bias, x, self.weight.t())


class MatmulAdd(FunctionalLinear):
    def forward(self, x: Tensor) -> Tensor:
        return torch.matmul(x, self.weight.t()) + self.bias


class MatmulAddInPlace(FunctionalLinear):
    def forward(self, x: Tensor) -> Tensor:
        y = x @ self.weight.t()
        y += self.bias
        return y


class TransposedWeight(nn.Module):
    """x @ w + b with a weight that is stored as it is multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8) * 0.3)
        self.bias = nn.Parameter(torch.randn(8) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        return x.matmul(self.weight) + self.bias


for number, functional in enumerate((FunctionalConv1d, FunctionalConv2d, FunctionalConv3d), start=1):
    conv = f"conv{number}d"
    spellings(f"aten::{conv}", f"quantized::{conv}", conv, module=nn.Identity())
    spellings(f"aten::{conv}", f"quantized::{conv}", conv, 0, functional=functional)


def depthwise(number: int) -> nn.Sequential:
    """A depthwise convolution of more groups than x86 gives to oneDNN itself, between two others."""
    make = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[number]
    return nn.Sequential(make(3, 104, 1), make(104, 104, 3, groups=104), nn.ReLU(), make(104, 4, 1))


for number in (1, 2):
    spellings(
        f"aten::conv{number}d",
        "onednn::qconv_pointwise",
        f"conv{number}d",
        0,
        depthwise=functools.partial(depthwise, number),
    )
spellings("aten::linear", "quantized::linear", "linear", module=nn.Identity())
spellings("aten::linear", "quantized::linear_relu", "linear", relu=nn.ReLU())
spellings(
    "aten::linear",
    "quantized::linear",
    "linear",
    0,
    functional=FunctionalLinear,
    without_bias=LinearWithoutBias,
    addmm=Addmm,
    matmul_add=MatmulAdd,
    matmul_add_in_place=MatmulAddInPlace,
    transposed_weight=TransposedWeight,
)

# Dropout does nothing here


def dropout(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=False)


def dropout_in_place(x: Tensor) -> Tensor:
    return F.dropout(x, 0.5, training=False, inplace=True)


def dropout_then_relu(x: Tensor) -> Tensor:
    return F.relu(F.dropout(x, 0.5, training=False))


spellings(
    "aten::conv2d",
    "quantized::conv2d",
    dropout_module=nn.Dropout(),
    dropout_module_in_place=nn.Dropout(inplace=True),
    dropout2d=nn.Dropout2d(),
    dropout_functional=dropout,
    dropout_functional_in_place=dropout_in_place,
)
spellings("aten::conv2d", "quantized::conv2d_relu", dropout_then_relu=dropout_then_relu)

# Transposed convolutions


class FunctionalTransposed(nn.Module):
    """A convolution, and F.conv_transpose1d, 2d or 3d with parameters of its own behind it."""

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.head = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](3, 8, 3, padding=1)
        self.weight = nn.Parameter(torch.randn(8, 2, *[3] * dimensions) * 0.2)
        self.bias = nn.Parameter(torch.randn(4) * 0.1)


class FunctionalTransposed1d(FunctionalTransposed):
    def __init__(self) -> None:
        super().__init__(1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return F.conv_transpose1d(x, self.weight, self.bias, stride=2, output_padding=1, groups=2)


class FunctionalTransposed2d(FunctionalTransposed):
    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return F.conv_transpose2d(x, self.weight, self.bias, (2, 3), 1, (1, 2), groups=2, dilation=2)


class FunctionalTransposed3d(FunctionalTransposed):
    def __init__(self) -> None:
        super().__init__(3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(x)
        return F.conv_transpose3d(x, self.weight, self.bias, stride=2, output_padding=1, groups=2)


def transposed(number: int, *behind: nn.Module, **arguments: Any) -> nn.Sequential:
    """A transposed convolution behind a convolution. On oneDNN, stock torch has those without
    output_padding wrong, and none with it."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[number - 1]
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[number - 1]
    return nn.Sequential(
        conv(3, 8, 3, padding=1), up(8, 4, 3, stride=2, padding=1, output_padding=1, **arguments), *behind
    )


def transposed_without_padding(number: int, features: int) -> nn.Sequential:
    """The same without output_padding, between two convolutions."""
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[number - 1]
    up = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)[number - 1]
    return nn.Sequential(
        conv(3, 8, 3, padding=1), up(8, features, 3, stride=2, groups=2), nn.ReLU(), conv(features, 4, 1)
    )


for number, functional in enumerate(
    (FunctionalTransposed1d, FunctionalTransposed2d, FunctionalTransposed3d), start=1
):
    op = f"conv_transpose{number}d"
    spellings(
        f"aten::{op}{'' if number == 1 else '.input'}",
        f"quantized::{op}",
        f"conv{number}d",
        0,
        module=functools.partial(transposed, number),
        without_bias=functools.partial(transposed, number, bias=False),
        relu=functools.partial(transposed, number, nn.ReLU()),
        hardtanh=functools.partial(transposed, number, nn.Hardtanh(-0.1, 0.2)),
        functional=functional,
    )
