"""Padding, pooling and means."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


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

# Padding with what is there


def reflect_1d(x: Tensor) -> Tensor:
    return F.pad(x, [3, 1], mode="reflect")


def reflect_2d(x: Tensor) -> Tensor:
    return F.pad(x, [1, 0, 2, 1], mode="reflect")


def plain_reflection1d(x: Tensor) -> Tensor:
    return torch.ops.aten.reflection_pad1d(x, [1, 2])


def plain_reflection2d(x: Tensor) -> Tensor:
    return torch.ops.aten.reflection_pad2d(x, [1, 2, 0, 3])


spellings(
    "aten::reflection_pad1d",
    "aten::reflection_pad1d",
    "conv1d",
    aten=plain_reflection1d,
    module=nn.ReflectionPad1d(2),
    functional=reflect_1d,
)
spellings(
    "aten::reflection_pad2d",
    "aten::reflection_pad2d",
    aten=plain_reflection2d,
    module=nn.ReflectionPad2d((1, 2, 0, 3)),
    functional=reflect_2d,
)
