"""Arithmetic on activations, and cat."""

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.op_cases.case import spellings


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


def minus(x: Tensor, y: Tensor) -> Tensor:
    return x - y


def sub_function(x: Tensor, y: Tensor) -> Tensor:
    return torch.sub(x, y)


def subtract_function(x: Tensor, y: Tensor) -> Tensor:
    return torch.subtract(x, y)


def sub_in_place(x: Tensor, y: Tensor) -> Tensor:
    x -= y
    return x


def sub_method_in_place(x: Tensor, y: Tensor) -> Tensor:
    return x.sub_(y)


def sub_broadcast(x: Tensor, y: Tensor) -> Tensor:
    return x - y.mean([2, 3], keepdim=True)


def sub_then_relu(x: Tensor, y: Tensor) -> Tensor:
    return F.relu(x - y)


def stack_function(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack([x, y])


def stack_last(x: Tensor, y: Tensor) -> Tensor:
    return torch.stack((x, y, x), dim=-1)


for kind in ("conv2d", "linear"):
    spellings(
        "aten::sub.Tensor",
        "quantized::add",
        kind,
        2,
        operator=minus,
        function=sub_function,
        in_place=sub_in_place,
        method_in_place=sub_method_in_place,
    )
    spellings("aten::cat", "quantized::cat", kind, 2, stack=stack_function, stack_last=stack_last)
spellings("aten::sub.Tensor", "quantized::add", "conv2d", 2, broadcast=sub_broadcast)
spellings("aten::sub.Tensor", "quantized::add_relu", "conv2d", 2, relu=sub_then_relu)

# Arithmetic with numbers


def plus_number(x: Tensor) -> Tensor:
    return x + 0.5


def number_plus(x: Tensor) -> Tensor:
    return -0.3 + x


def add_number(x: Tensor) -> Tensor:
    return torch.add(x, 1)


def add_number_in_place(x: Tensor) -> Tensor:
    x += 0.25
    return x


def add_number_method_in_place(x: Tensor) -> Tensor:
    return x.add_(0.25)


def add_number_then_relu(x: Tensor) -> Tensor:
    return F.relu(x + 0.1)


def plus_zero(x: Tensor) -> Tensor:
    return x + 0.0


def plus_number_tensor(x: Tensor) -> Tensor:
    return x + torch.tensor(0.5)


def minus_number(x: Tensor) -> Tensor:
    return x - 0.5


def sub_number(x: Tensor) -> Tensor:
    return torch.sub(x, 1)


def sub_number_in_place(x: Tensor) -> Tensor:
    x -= 0.25
    return x


def sub_number_method_in_place(x: Tensor) -> Tensor:
    return x.sub_(-0.25)


def minus_zero(x: Tensor) -> Tensor:
    return x - 0.0


def number_minus(x: Tensor) -> Tensor:
    return 1 - x


def negative_number_minus(x: Tensor) -> Tensor:
    return -0.4 - x


def rsub_function(x: Tensor) -> Tensor:
    return torch.rsub(x, 0.5)


def zero_minus(x: Tensor) -> Tensor:
    return torch.rsub(x, 0)


def times_number(x: Tensor) -> Tensor:
    return x * 0.5


def number_times(x: Tensor) -> Tensor:
    return -3 * x


def mul_number(x: Tensor) -> Tensor:
    return torch.mul(x, 1.7)


def mul_number_in_place(x: Tensor) -> Tensor:
    x *= 2
    return x


def mul_number_method_in_place(x: Tensor) -> Tensor:
    return x.mul_(0.7)


def mul_number_then_relu(x: Tensor) -> Tensor:
    return F.relu(x * -0.5)


def by_number(x: Tensor) -> Tensor:
    return x / 3


def div_number(x: Tensor) -> Tensor:
    return torch.div(x, -0.4)


def div_number_in_place(x: Tensor) -> Tensor:
    x /= 2
    return x


def div_number_method_in_place(x: Tensor) -> Tensor:
    return x.div_(0.7)


def by_number_tensor(x: Tensor) -> Tensor:
    return x / torch.tensor(8.0)


for kind in ("conv2d", "linear"):
    spellings(
        "aten::add.Scalar",
        "quantized::add",
        kind,
        operator=plus_number,
        operator_other_way=number_plus,
        function=add_number,
        in_place=add_number_in_place,
        method_in_place=add_number_method_in_place,
        relu=add_number_then_relu,
        zero=plus_zero,
        number_tensor=plus_number_tensor,
    )
    spellings(
        "aten::sub.Scalar",
        "quantized::add",
        kind,
        operator=minus_number,
        function=sub_number,
        in_place=sub_number_in_place,
        method_in_place=sub_number_method_in_place,
        zero=minus_zero,
    )
    spellings(
        "aten::rsub.Scalar",
        "quantized::add",
        kind,
        operator=number_minus,
        operator_negative=negative_number_minus,
        function=rsub_function,
        zero=zero_minus,
    )
    spellings(
        "aten::mul.Scalar",
        "quantized::mul",
        kind,
        operator=times_number,
        operator_other_way=number_times,
        function=mul_number,
        in_place=mul_number_in_place,
        method_in_place=mul_number_method_in_place,
        relu=mul_number_then_relu,
    )
    spellings(
        "aten::div.Scalar",
        "quantized::mul",
        kind,
        operator=by_number,
        function=div_number,
        in_place=div_number_in_place,
        method_in_place=div_number_method_in_place,
        number_tensor=by_number_tensor,
    )
