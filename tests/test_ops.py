"""Tests of every op that has an integer form, in each of its spellings, through the whole of quantize_jit."""

import functools
import io
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jitquant import MinMaxObserver, PerChannelMinMaxObserver, QConfig, quantize_jit
from jitquant.passes import op_table
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import nodes_of, ops_of, working_copy
from tests.networks import sqnr

# Every value is measured in full, so that what is left of the signal says whether the integer op is right.
QCONFIG = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
COMPILERS: dict[str, Callable[[nn.Module, Tensor], torch.jit.ScriptModule]] = {
    "scripted": lambda network, x: torch.jit.script(network),
    "traced": lambda network, x: torch.jit.trace(network, (x,)),
}
SHAPES = {"conv1d": (4, 3, 24), "conv2d": (4, 3, 12, 12), "conv3d": (2, 3, 8, 8, 8), "linear": (16, 3)}


def head(kind: str) -> nn.Module:
    """What gives the op under test its integers: 8 channels or features."""
    if kind == "linear":
        return nn.Linear(3, 8)
    return {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}[kind](3, 8, 3, padding=1)


class One(nn.Module):
    """An op behind a convolution or linear."""

    def __init__(self, kind: str, tail: Any) -> None:
        super().__init__()
        self.head = head(kind)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x))


class Two(nn.Module):
    """An op that takes what two convolutions or linears gave."""

    def __init__(self, kind: str, tail: Any) -> None:
        super().__init__()
        self.left = head(kind)
        self.right = head(kind)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.left(x), self.right(x))


@dataclass(frozen=True)
class Case:
    """An op in one spelling.

    row: the op's name in the table, which the canonical graph has to have.
    integer: what the quantized graph has to have; one of several where there is a | between them.
    tail: the op, as a function or module; without operands, what makes a whole network.
    kind: what stands before it.
    operands: how many of those there are.
    bound: the SQNR in dB that it has to reach. Averages have less signal, and a step as large as before.
    """

    row: str
    integer: str
    tail: Any
    kind: str = "conv2d"
    operands: int = 1
    bound: float = 30.0

    def network(self) -> nn.Module:
        if self.operands == 0:
            return self.tail()
        return (One if self.operands == 1 else Two)(self.kind, self.tail)


CASES: dict[str, Case] = {}

# On x86 a linear is oneDNN's op on plain integers. It takes a function behind it along, and gives float where
# only the caller takes its result or a sum with it.
PLAIN_LINEAR = "onednn::qlinear_pointwise"
ON_X86 = {
    "quantized::linear": PLAIN_LINEAR,
    "quantized::linear_relu": PLAIN_LINEAR,
    "quantized::hardswish": PLAIN_LINEAR,
    "quantized::add": "aten::add",
    "quantized::add_relu": "aten::add",
}


def spellings(
    row: str, integer: str, kind: str = "conv2d", operands: int = 1, *, bound: float = 30.0, **tails: Any
) -> None:
    """Cases of one op, in several spellings."""
    for name, tail in tails.items():
        case = Case(row, integer, tail, kind, operands, bound)
        CASES[f"{row.removeprefix('aten::')}, {kind}, {name}"] = case


# Convolutions and linear


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

# Arithmetic


def plus(x: Tensor, y: Tensor) -> Tensor:
    return x + y


def add_function(x: Tensor, y: Tensor) -> Tensor:
    return torch.add(x, y)


def add_in_place(x: Tensor, y: Tensor) -> Tensor:
    x += y
    return x


def add_method_in_place(x: Tensor, y: Tensor) -> Tensor:
    return x.add_(y)


def add_broadcast(x: Tensor, y: Tensor) -> Tensor:
    return x + y.mean([2, 3], keepdim=True)


def add_then_relu(x: Tensor, y: Tensor) -> Tensor:
    return F.relu(x + y)


def add_to_itself(x: Tensor) -> Tensor:
    return x + x


def times(x: Tensor, y: Tensor) -> Tensor:
    return x * y


def mul_function(x: Tensor, y: Tensor) -> Tensor:
    return torch.mul(x, y)


def mul_in_place(x: Tensor, y: Tensor) -> Tensor:
    x *= y
    return x


def mul_broadcast(x: Tensor, y: Tensor) -> Tensor:
    return x * F.adaptive_avg_pool2d(y, 1)


def mul_broadcast_other_way(x: Tensor, y: Tensor) -> Tensor:
    return torch.sigmoid(y.mean([2, 3], keepdim=True)) * x


def mul_then_relu(x: Tensor, y: Tensor) -> Tensor:
    return torch.mul(x, y).relu_()


def cat_list(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([x, y], 1)


def cat_tuple(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat((x, y, x), dim=-1)


def cat_of_moved(x: Tensor, y: Tensor) -> Tensor:
    return torch.cat([F.max_pool2d(x, 2), F.avg_pool2d(y, 2)], dim=1)


for kind in ("conv2d", "linear"):
    spellings(
        "aten::add.Tensor",
        "quantized::add",
        kind,
        2,
        operator=plus,
        function=add_function,
        in_place=add_in_place,
        method_in_place=add_method_in_place,
    )
    spellings(
        "aten::mul.Tensor",
        "quantized::mul",
        kind,
        2,
        operator=times,
        function=mul_function,
        in_place=mul_in_place,
    )
    spellings("aten::cat", "quantized::cat", kind, 2, list=cat_list, tuple=cat_tuple)
spellings("aten::add.Tensor", "quantized::add", "conv2d", 2, broadcast=add_broadcast)
spellings("aten::add.Tensor", "quantized::add_relu", "conv2d", 2, relu=add_then_relu)
spellings("aten::add.Tensor", "quantized::add", "conv2d", 1, itself=add_to_itself)
spellings(
    "aten::mul.Tensor",
    "quantized::mul",
    "conv2d",
    2,
    bound=27,
    broadcast=mul_broadcast,
    broadcast_other_way=mul_broadcast_other_way,
)
spellings("aten::mul.Tensor", "quantized::mul_relu", "conv2d", 2, relu=mul_then_relu)
spellings("aten::cat", "quantized::cat", "conv2d", 2, of_moved=cat_of_moved)

# Activation functions


def hardswish_in_place(x: Tensor) -> Tensor:
    return F.hardswish(x, inplace=True)


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def leaky_relu_in_place(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.2)


def elu(x: Tensor) -> Tensor:
    return F.elu(x, alpha=0.6)


def elu_in_place(x: Tensor) -> Tensor:
    return F.elu(x, alpha=0.6, inplace=True)


def sigmoid_method(x: Tensor) -> Tensor:
    return x.sigmoid()


def sigmoid_in_place(x: Tensor) -> Tensor:
    return x.sigmoid_()


def hardsigmoid_in_place(x: Tensor) -> Tensor:
    return F.hardsigmoid(x, inplace=True)


def tanh_method(x: Tensor) -> Tensor:
    return x.tanh()


def tanh_in_place(x: Tensor) -> Tensor:
    return torch.tanh_(x)


spellings(
    "aten::hardswish",
    "quantized::hardswish",
    module=nn.Hardswish(),
    module_in_place=nn.Hardswish(inplace=True),
    functional=F.hardswish,
    functional_in_place=hardswish_in_place,
)
spellings(
    "aten::leaky_relu",
    "quantized::leaky_relu",
    module=nn.LeakyReLU(0.1),
    module_in_place=nn.LeakyReLU(0.1, inplace=True),
    functional=leaky_relu,
    functional_in_place=leaky_relu_in_place,
)
spellings(
    "aten::elu",
    "quantized::elu",
    module=nn.ELU(0.5),
    module_in_place=nn.ELU(inplace=True),
    functional=elu,
    functional_in_place=elu_in_place,
)
spellings(
    "aten::sigmoid",
    "quantized::sigmoid",
    module=nn.Sigmoid(),
    function=torch.sigmoid,
    functional=F.sigmoid,
    method=sigmoid_method,
    method_in_place=sigmoid_in_place,
)
spellings(
    "aten::hardsigmoid",
    "aten::hardsigmoid",
    module=nn.Hardsigmoid(),
    module_in_place=nn.Hardsigmoid(inplace=True),
    functional=F.hardsigmoid,
    functional_in_place=hardsigmoid_in_place,
)
spellings(
    "aten::tanh",
    "aten::tanh",
    module=nn.Tanh(),
    function=torch.tanh,
    functional=F.tanh,
    method=tanh_method,
    method_in_place=tanh_in_place,
)
spellings("aten::hardswish", "quantized::hardswish", "linear", module=nn.Hardswish())
spellings("aten::sigmoid", "quantized::sigmoid", "linear", module=nn.Sigmoid())

# Clamps: done by the convolution before them, or on its integers


def relu_functional_in_place(x: Tensor) -> Tensor:
    return F.relu(x, inplace=True)


def relu_method_in_place(x: Tensor) -> Tensor:
    return x.relu_()


def clamp_at_zero(x: Tensor) -> Tensor:
    return x.clamp(min=0)


def clamp_min_at_zero(x: Tensor) -> Tensor:
    return torch.clamp_min(x, 0)


def relu_behind_pooling(x: Tensor) -> Tensor:
    return F.relu(F.max_pool2d(x, 2))


def relu6_in_place(x: Tensor) -> Tensor:
    return F.relu6(x * x, inplace=True)


def hardtanh(x: Tensor) -> Tensor:
    return F.hardtanh(x, -0.3, 0.4)


def hardtanh_in_place(x: Tensor) -> Tensor:
    return F.hardtanh_(x, -0.3, 0.4)


def hardtanh_behind_pooling(x: Tensor) -> Tensor:
    return F.hardtanh(F.avg_pool2d(x, 2), -0.2, 0.2)


def clamp(x: Tensor) -> Tensor:
    return torch.clamp(x, -0.3, 0.4)


def clamp_in_place(x: Tensor) -> Tensor:
    return x.clamp_(-0.3, 0.4)


def clamp_from_below(x: Tensor) -> Tensor:
    return x.clamp(min=-0.2)


def clamp_from_above(x: Tensor) -> Tensor:
    return x.clamp(max=0.3)


def clamp_behind_pooling(x: Tensor) -> Tensor:
    return torch.clamp(F.max_pool2d(x, 2), max=0.6)


RELU = {
    "module": nn.ReLU(),
    "module_in_place": nn.ReLU(inplace=True),
    "functional": F.relu,
    "functional_in_place": relu_functional_in_place,
    "function": torch.relu,
    "method_in_place": relu_method_in_place,
    "clamp": clamp_at_zero,
    "clamp_min": clamp_min_at_zero,
}
for kind in ("conv1d", "conv2d", "conv3d", "linear"):
    spellings("aten::relu", f"quantized::{kind}_relu", kind, **RELU)
spellings("aten::relu", "aten::relu", behind_pooling=relu_behind_pooling)
spellings(
    "aten::hardtanh",
    "quantized::conv2d",
    relu6_module=nn.ReLU6(),
    relu6_module_in_place=nn.ReLU6(inplace=True),
    relu6_functional=F.relu6,
    module=nn.Hardtanh(-0.3, 0.4),
    functional=hardtanh,
    functional_in_place=hardtanh_in_place,
)
spellings("aten::hardtanh", "quantized::mul", relu6_functional_in_place=relu6_in_place)
spellings("aten::hardtanh", "aten::hardtanh", behind_pooling=hardtanh_behind_pooling)
spellings(
    "aten::clamp",
    "quantized::conv2d",
    function=clamp,
    method_in_place=clamp_in_place,
    from_below=clamp_from_below,
    from_above=clamp_from_above,
)
spellings("aten::clamp", "aten::clamp", behind_pooling=clamp_behind_pooling)

# Padding and pooling


def pad(x: Tensor) -> Tensor:
    return F.pad(x, [1, 0, 2, 1])


def pad_channels(x: Tensor) -> Tensor:
    return F.pad(x, [0, 0, 0, 0, 0, 2], "constant", 0.0)


spellings(
    "aten::constant_pad_nd",
    "aten::constant_pad_nd",
    zero_pad=nn.ZeroPad2d((1, 2, 0, 1)),
    constant_pad=nn.ConstantPad2d(1, 0.0),
    functional=pad,
    channels=pad_channels,
)


def max_pool1d(x: Tensor) -> Tensor:
    return F.max_pool1d(x, 3, 2, 1)


def max_pool2d(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 3, stride=2, padding=1, ceil_mode=True)


def max_pool3d(x: Tensor) -> Tensor:
    return F.max_pool3d(x, 2)


def avg_pool1d(x: Tensor) -> Tensor:
    return F.avg_pool1d(x, 3, 2, 1)


def avg_pool2d(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, [2, 3], ceil_mode=True)


def avg_pool3d(x: Tensor) -> Tensor:
    return F.avg_pool3d(x, 2)


def adaptive_avg_pool1d(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool1d(x, 5)


def adaptive_avg_pool2d(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, [3, 5])


def adaptive_avg_pool3d(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool3d(x, [2, 3, 4])


spellings(
    "aten::max_pool1d",
    "aten::max_pool1d",
    "conv1d",
    module=nn.MaxPool1d(2, dilation=2),
    functional=max_pool1d,
)
spellings("aten::max_pool2d", "aten::max_pool2d", module=nn.MaxPool2d(2), functional=max_pool2d)
spellings("aten::max_pool3d", "aten::max_pool3d", "conv3d", module=nn.MaxPool3d(3, 2), functional=max_pool3d)
spellings("aten::avg_pool1d", "aten::avg_pool1d", "conv1d", module=nn.AvgPool1d(2), functional=avg_pool1d)
spellings(
    "aten::avg_pool2d",
    "aten::avg_pool2d",
    module=nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False),
    divisor=nn.AvgPool2d(2, divisor_override=3),
    functional=avg_pool2d,
)
spellings(
    "aten::avg_pool3d",
    "aten::avg_pool3d",
    "conv3d",
    bound=25,
    module=nn.AvgPool3d(3, 2, 1),
    functional=avg_pool3d,
)
spellings(
    "aten::adaptive_avg_pool1d",
    "aten::adaptive_avg_pool1d",
    "conv1d",
    module=nn.AdaptiveAvgPool1d(1),
    functional=adaptive_avg_pool1d,
)
spellings(
    "aten::adaptive_avg_pool2d",
    "aten::adaptive_avg_pool2d",
    bound=27,
    module=nn.AdaptiveAvgPool2d(1),
    functional=adaptive_avg_pool2d,
)
spellings(
    "aten::adaptive_avg_pool3d",
    "aten::adaptive_avg_pool3d",
    "conv3d",
    bound=22,
    module=nn.AdaptiveAvgPool3d(1),
    functional=adaptive_avg_pool3d,
)


def mean_method(x: Tensor) -> Tensor:
    return x.mean([2, 3])


def mean_function(x: Tensor) -> Tensor:
    return torch.mean(x, dim=1, keepdim=True)


def mean_last(x: Tensor) -> Tensor:
    return x.mean(-1)


spellings(
    "aten::mean.dim", "aten::mean", bound=27, method=mean_method, function=mean_function, last=mean_last
)

# Resampling


def nearest(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def nearest_to_size(x: Tensor) -> Tensor:
    return F.interpolate(x, size=[17, 20], mode="nearest")


def bilinear(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


def bilinear_to_size(x: Tensor) -> Tensor:
    return F.interpolate(x, size=[7, 20], mode="bilinear", align_corners=False)


def nearest_3d(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0)


def plain_nearest2d(x: Tensor) -> Tensor:
    return torch.ops.aten.upsample_nearest2d(x, [24, 20], None, None)


def plain_nearest3d(x: Tensor) -> Tensor:
    return torch.ops.aten.upsample_nearest3d(x, [8, 10, 16], None, None, None)


def plain_bilinear2d(x: Tensor) -> Tensor:
    return torch.ops.aten.upsample_bilinear2d(x, [24, 20], False, None, None)


spellings(
    "aten::upsample_nearest2d.vec",
    "aten::upsample_nearest2d",
    module=nn.Upsample(scale_factor=2.0),
    functional=nearest,
    functional_to_size=nearest_to_size,
)
spellings(
    "aten::upsample_bilinear2d.vec",
    "aten::upsample_bilinear2d",
    module=nn.Upsample(scale_factor=1.5, mode="bilinear"),
    functional=bilinear,
    functional_to_size=bilinear_to_size,
)
spellings(
    "aten::upsample_nearest3d.vec",
    "aten::upsample_nearest3d",
    "conv3d",
    module=nn.Upsample(scale_factor=2.0),
    functional=nearest_3d,
)
spellings("aten::upsample_nearest2d", "aten::upsample_nearest2d", aten=plain_nearest2d)
spellings("aten::upsample_nearest3d", "aten::upsample_nearest3d", "conv3d", aten=plain_nearest3d)
spellings("aten::upsample_bilinear2d", "aten::upsample_bilinear2d", aten=plain_bilinear2d)

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

# Shape


def flatten(x: Tensor) -> Tensor:
    return torch.flatten(x, 1)


def flatten_method(x: Tensor) -> Tensor:
    return x.flatten(1, 2)


def view(x: Tensor) -> Tensor:
    return x.view(x.size(0), -1)


def view_behind_pooling(x: Tensor) -> Tensor:
    x = F.max_pool2d(x, 2)
    return x.view(-1, 8 * 6 * 6)


def view_fixed(x: Tensor) -> Tensor:
    return x.view(-1, 4, 2, 12, 12)


def reshape(x: Tensor) -> Tensor:
    return x.reshape(x.shape[0], 2, -1)


def reshape_function(x: Tensor) -> Tensor:
    return torch.reshape(x, [-1, 12])


def permute(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1)


def permute_function(x: Tensor) -> Tensor:
    return torch.permute(x, [0, 3, 1, 2])


def transpose(x: Tensor) -> Tensor:
    return x.transpose(1, -1)


def transpose_function(x: Tensor) -> Tensor:
    return torch.transpose(x, 2, 3)


def transpose_in_place(x: Tensor) -> Tensor:
    return x.transpose_(2, 3)


def t(x: Tensor) -> Tensor:
    return x.t()


def flatten_all(x: Tensor) -> Tensor:
    return torch.flatten(x)


def view_heads(x: Tensor) -> Tensor:
    return x.view(x.size(0), 2, 4)


def reshape_heads(x: Tensor) -> Tensor:
    return x.reshape(-1, 4, 4)


def transpose_features(x: Tensor) -> Tensor:
    return torch.transpose(x, 0, 1)


def channel_shuffle(x: Tensor) -> Tensor:
    return F.channel_shuffle(x, 4)


def channel_shuffle_by_hand(x: Tensor) -> Tensor:
    n, c, h, w = x.size()
    return x.view(n, 4, c // 4, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def squeeze(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).squeeze()


def squeeze_dim(x: Tensor) -> Tensor:
    return F.adaptive_avg_pool2d(x, [1, 4]).squeeze(2)


def squeeze_function(x: Tensor) -> Tensor:
    return torch.squeeze(x.mean(1, keepdim=True), 1)


def squeeze_in_place(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True).squeeze_(1)


def unsqueeze(x: Tensor) -> Tensor:
    return x.unsqueeze(1)


def unsqueeze_function(x: Tensor) -> Tensor:
    return torch.unsqueeze(x, -1)


def unsqueeze_in_place(x: Tensor) -> Tensor:
    return x.unsqueeze_(0)


def chunk(x: Tensor) -> Tensor:
    a, b = x.chunk(2, 1)
    return torch.cat([b, a], 1)


def chunk_function(x: Tensor) -> Tensor:
    a, b = torch.chunk(x, 2, dim=1)
    return a + b


def chunk_first(x: Tensor) -> Tensor:
    first, _ = x.chunk(2, 1)
    return first


def chunk_by_index(x: Tensor) -> Tensor:
    return x.chunk(2, 1)[1]


def both_by_index(x: Tensor) -> Tensor:
    parts = x.chunk(2, 1)
    return parts[1] + parts[0]


def split(x: Tensor) -> Tensor:
    a, b = x.split(4, 1)
    return a * b


def split_function(x: Tensor) -> Tensor:
    a, b = torch.split(x, 4, dim=1)
    return torch.cat([b, a], 1)


def split_by_index(x: Tensor) -> Tensor:
    return torch.split(x, 4, 1)[0]


def split_sizes(x: Tensor) -> Tensor:
    a, b = x.split([2, 6], 1)
    return torch.cat([b, a], 1)


def split_sizes_function(x: Tensor) -> Tensor:
    a, b = torch.split(x, [2, 6], 1)
    return torch.cat([b, a], 1)


def split_with_sizes(x: Tensor) -> Tensor:
    a, b = x.split_with_sizes([2, 6], 1)
    return torch.cat([b, a], 1)


def slice_channels(x: Tensor) -> Tensor:
    return x[:, 2:6]


def slice_steps(x: Tensor) -> Tensor:
    return x[:, :, ::2, 1:]


def select(x: Tensor) -> Tensor:
    return x.select(1, 3)


def index(x: Tensor) -> Tensor:
    return x[:, -1]


def contiguous(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def contiguous_channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def clone(x: Tensor) -> Tensor:
    return x.clone()


# What has no integer form, beside what has


def times_a_number(x: Tensor) -> Tensor:
    return x * 0.5


def plus_a_number(x: Tensor) -> Tensor:
    return F.relu(x + 3)


def mean_in_float64(x: Tensor) -> Tensor:
    return F.relu(x).mean([2, 3], dtype=torch.float64)


def times_integers(x: Tensor) -> Tensor:
    return x * torch.arange(12)


spellings(
    "aten::flatten.using_ints", "aten::flatten", module=nn.Flatten(), function=flatten, method=flatten_method
)
spellings(
    "aten::reshape",
    "aten::reshape",
    view=view,
    view_fixed=view_fixed,
    view_behind_pooling=view_behind_pooling,
)
spellings("aten::reshape", "aten::reshape", method=reshape, function=reshape_function)
spellings("aten::permute", "aten::permute", method=permute, function=permute_function)
spellings(
    "aten::transpose.int",
    "aten::transpose",
    method=transpose,
    function=transpose_function,
    method_in_place=transpose_in_place,
)
spellings(
    "aten::channel_shuffle",
    "aten::channel_shuffle",
    module=nn.ChannelShuffle(2),
    function=channel_shuffle,
    reshapes=channel_shuffle_by_hand,
)
spellings("aten::t", "aten::t", "linear", method=t)
spellings("aten::flatten.using_ints", "aten::flatten", "linear", function=flatten_all)
spellings("aten::reshape", "aten::reshape", "linear", heads=reshape_heads, view_heads=view_heads)
spellings("aten::transpose.int", "aten::transpose", "linear", function=transpose_features)
spellings("aten::slice.Tensor", "aten::slice", "linear", features=slice_channels)
spellings("aten::squeeze", "aten::squeeze", bound=28, method=squeeze)
spellings(
    "aten::squeeze.dim",
    "aten::squeeze",
    bound=28,
    method=squeeze_dim,
    function=squeeze_function,
    method_in_place=squeeze_in_place,
)
spellings(
    "aten::unsqueeze",
    "aten::unsqueeze",
    method=unsqueeze,
    function=unsqueeze_function,
    method_in_place=unsqueeze_in_place,
)
spellings("aten::chunk", "aten::chunk", method=chunk, function=chunk_function, first=chunk_first)
spellings("aten::split.Tensor", "aten::split", method=split, function=split_function)
spellings(
    "aten::split_with_sizes",
    "aten::split_with_sizes",
    method=split_with_sizes,
)
# Tracing calls it by its other name.
spellings(
    "aten::split_with_sizes", "aten::split_with_sizes", sizes=split_sizes, sizes_function=split_sizes_function
)
spellings("aten::slice.Tensor", "aten::slice", channels=slice_channels, steps=slice_steps)
spellings("aten::select.int", "aten::select", method=select, index=index)
spellings("aten::contiguous", "aten::contiguous", method=contiguous, channels_last=contiguous_channels_last)
spellings("aten::clone", "aten::clone", method=clone)


@pytest.fixture(autouse=True)
def x86() -> Iterator[None]:
    """Quantizes for x86, whatever the machine's default."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86"
    yield
    torch.backends.quantized.engine = engine


def quantized(network: nn.Module, compiler: str, x: Tensor) -> torch.jit.ScriptModule:
    module = COMPILERS[compiler](network, x)
    return quantize_jit(module, {"": QCONFIG}, lambda prepared: prepared(x), [])


def rows_in(module: torch.jit.ScriptModule) -> set[str]:
    """The names of the ops in a graph, with their overloads, as the op table spells them."""
    return {node.schema().split("(")[0] for node in nodes_of(module) if node.schema() != "(no schema)"}


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_an_op_runs_on_integers_from_end_to_end(name: str, compiler: str) -> None:
    """Test that the op is integer between one quantize and one dequantize, right, and in a file the same."""
    case = CASES[name]
    network = case.network().eval()
    x = torch.randn(SHAPES[case.kind])
    with torch.no_grad():
        expected = network(x)

    module = quantized(network, compiler, x)
    ops = ops_of(module)
    wanted = case.integer.split("|")
    assert (
        {ON_X86.get(op, op) for op in wanted} & set(ops) if case.kind == "linear" else set(wanted) & set(ops)
    )
    assert ops.count("aten::quantize_per_tensor") == 1
    if "aten::dequantize" in ops or PLAIN_LINEAR not in ops:
        assert ops.count("aten::dequantize") == 1
        assert ops[-1] == "aten::dequantize"

    found = module(x)
    assert found.dtype == torch.float32
    assert sqnr(expected, found) > case.bound
    assert torch.equal(saved_and_loaded(module)(x), found)


def one_spelling_each() -> list[str]:
    """The first case of each op, for each integer op and each thing before it."""
    first: dict[tuple[str, str, str], str] = {}
    for name, case in CASES.items():
        first.setdefault((case.row, case.integer, case.kind), name)
    return list(first.values())


@pytest.mark.parametrize("engine", ["fbgemm", "onednn", "qnnpack"])
@pytest.mark.parametrize("name", one_spelling_each())
def test_an_op_is_right_on_every_engine(name: str, engine: str) -> None:
    """Test that where an engine lacks an integer op, or has it wrong, the result is right all the same."""
    case = CASES[name]
    network = case.network().eval()
    x = torch.randn(SHAPES[case.kind])
    with torch.no_grad():
        expected = network(x)
    torch.backends.quantized.engine = engine
    module = quantized(network, "traced", x)
    found = module(x)
    assert sqnr(expected, found) > case.bound - 2
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "tail", [chunk_by_index, split_by_index, both_by_index], ids=lambda tail: tail.__name__
)
def test_a_list_that_is_indexed_is_right(tail: Any, compiler: str) -> None:
    """Test that parts of a chunk or split that are taken by index are right, and float to the caller."""
    network = One("conv2d", tail).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected = network(x)
    module = quantized(network, compiler, x)
    found = module(x)
    assert found.dtype == torch.float32
    assert sqnr(expected, found) > 30
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "tail", [times_a_number, plus_a_number, mean_in_float64, times_integers], ids=lambda tail: tail.__name__
)
def test_arithmetic_that_cannot_be_integer_runs(tail: Any, compiler: str) -> None:
    """Test that arithmetic with numbers, integers and other precisions is right, whatever it is done in."""
    network = One("conv2d", tail).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = quantized(network, compiler, x)
    found = module(x)
    assert found.dtype == expected.dtype
    assert sqnr(expected, found) > 30
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("row", [row["op"] for row in op_table() if row["quantized"]["integer"]])
def test_every_integer_form_has_a_case(row: str) -> None:
    """Test that each row of the op table with an integer form has a case above with the op in its graph."""
    cases = [case for case in CASES.values() if case.row == row]
    assert cases, f"{row}: add spellings of it to this file"
    for case in cases:
        module = working_copy(torch.jit.script(case.network().eval()))
        run_passes(CANONICALIZE, module)
        assert row in rows_in(module)
