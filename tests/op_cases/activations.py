"""Activation functions and clamps."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


def hardswish_in_place(x: Tensor) -> Tensor:
    return F.hardswish(x, inplace=True)


def leaky_relu(x: Tensor) -> Tensor:
    return F.leaky_relu(x, 0.2)


def leaky_relu_in_place(x: Tensor) -> Tensor:
    return F.leaky_relu_(x, 0.2)


class FunctionalPReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.slopes = nn.Parameter(torch.tensor([0.3, -0.2, 0.1, 0.0, 0.5, 1.0, 0.05, 0.25]))

    def forward(self, x: Tensor) -> Tensor:
        return F.prelu(x, self.slopes)


class PReLUMethod(FunctionalPReLU):
    def forward(self, x: Tensor) -> Tensor:
        return x.prelu(self.slopes)


def uneven_prelu() -> nn.Module:
    prelu = nn.PReLU(8)
    prelu.weight.data = torch.linspace(-0.2, 1.5, 8)
    return prelu


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
spellings("aten::leaky_relu", "quantized::leaky_relu", prelu_of_one_slope=nn.PReLU(init=0.2))
for kind in ("conv1d", "conv2d", "conv3d", "linear"):
    spellings(
        "aten::prelu",
        "quantized::prelu",
        kind,
        module=uneven_prelu(),
        functional=FunctionalPReLU(),
        method=PReLUMethod(),
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

# CELU, PReLU and softmax


def celu(x: Tensor) -> Tensor:
    return F.celu(x, alpha=0.6)


def celu_function(x: Tensor) -> Tensor:
    return torch.celu(x)


def celu_in_place(x: Tensor) -> Tensor:
    return F.celu(x, alpha=0.6, inplace=True)


def softmax(x: Tensor) -> Tensor:
    return F.softmax(x, dim=1)


def softmax_function(x: Tensor) -> Tensor:
    return torch.softmax(x, -1)


def softmax_method(x: Tensor) -> Tensor:
    return x.softmax(1)


spellings(
    "aten::celu",
    "quantized::celu",
    module=nn.CELU(0.5),
    module_in_place=nn.CELU(inplace=True),
    functional=celu,
    function=celu_function,
    functional_in_place=celu_in_place,
)
for kind in ("conv2d", "linear"):
    spellings(
        "aten::softmax.int",
        "quantized::softmax",
        kind,
        module=nn.Softmax(1),
        functional=softmax,
        function=softmax_function,
        method=softmax_method,
    )
