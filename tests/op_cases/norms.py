"""Norms that stand alone: behind something that they cannot be folded into."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


def uneven(norm: Any) -> Any:
    """A norm whose channels differ from one another, as training leaves them."""
    for values, low, high in (
        (norm.weight, 0.5, 1.5),
        (norm.bias, -0.3, 0.4),
        (getattr(norm, "running_mean", None), -0.2, 0.3),
        (getattr(norm, "running_var", None), 0.2, 0.6),
    ):
        if values is not None:
            with torch.no_grad():
                values.copy_(torch.linspace(low, high, values.numel()).view_as(values))
    return norm


class Affine(nn.Module):
    """Weights and statistics of eight channels."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(0.5, 1.5, 8))
        self.bias = nn.Parameter(torch.linspace(-0.3, 0.4, 8))
        self.register_buffer("mean", torch.linspace(-0.2, 0.3, 8))
        self.register_buffer("var", torch.linspace(0.2, 0.6, 8))


class FunctionalLayerNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, [8], self.weight, self.bias)


class FunctionLayerNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return torch.layer_norm(x, [8], self.weight, self.bias, 1e-3)


class FunctionalBatchNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(F.max_pool2d(x, 2), self.mean, self.var, self.weight, self.bias)


class FunctionalGroupNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return F.group_norm(x, 4, self.weight, self.bias)


class FunctionGroupNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return torch.group_norm(x, 2, self.weight, self.bias)


class FunctionalInstanceNorm(Affine):
    def forward(self, x: Tensor) -> Tensor:
        return F.instance_norm(x, weight=self.weight, bias=self.bias)


def plain_layer_norm(x: Tensor) -> Tensor:
    return F.layer_norm(x, [12, 12])


def plain_group_norm(x: Tensor) -> Tensor:
    return F.group_norm(x, 2)


def plain_instance_norm(x: Tensor) -> Tensor:
    return F.instance_norm(x)


spellings(
    "aten::layer_norm",
    "quantized::layer_norm",
    "linear",
    module=uneven(nn.LayerNorm(8)),
    functional=FunctionalLayerNorm(),
    function=FunctionLayerNorm(),
)
spellings(
    "aten::layer_norm",
    "quantized::layer_norm",
    module=uneven(nn.LayerNorm((8, 12, 12))),
    without_weights=nn.LayerNorm(12, elementwise_affine=False),
    functional=plain_layer_norm,
)
for kind, norm, pool in (
    ("conv1d", nn.BatchNorm1d, nn.MaxPool1d),
    ("conv2d", nn.BatchNorm2d, nn.MaxPool2d),
    ("conv3d", nn.BatchNorm3d, nn.MaxPool3d),
):
    behind_pooling = nn.Sequential(pool(2), uneven(norm(8)))
    spellings(
        "aten::batch_norm",
        "quantized::batch_norm",
        kind,
        behind_pooling=behind_pooling,
        behind_relu=nn.Sequential(nn.ReLU(), uneven(norm(8))),
        hardtanh=nn.Sequential(*behind_pooling, nn.Hardtanh(-0.5, 0.6)),
    )
    spellings(
        "aten::batch_norm", "quantized::batch_norm_relu", kind, relu=nn.Sequential(*behind_pooling, nn.ReLU())
    )
spellings("aten::batch_norm", "quantized::batch_norm", functional=FunctionalBatchNorm())
spellings(
    "aten::batch_norm",
    "quantized::batch_norm",
    "linear",
    behind_relu=nn.Sequential(nn.ReLU(), uneven(nn.BatchNorm1d(8))),
)
for kind in ("conv1d", "conv2d", "conv3d"):
    spellings(
        "aten::group_norm",
        "quantized::group_norm",
        kind,
        module=uneven(nn.GroupNorm(2, 8)),
        functional=FunctionalGroupNorm(),
        function=FunctionGroupNorm(),
        without_weights=plain_group_norm,
    )
for kind, norm in (
    ("conv1d", nn.InstanceNorm1d),
    ("conv2d", nn.InstanceNorm2d),
    ("conv3d", nn.InstanceNorm3d),
):
    spellings(
        "aten::instance_norm",
        "quantized::instance_norm",
        kind,
        module=norm(8),
        module_with_weights=uneven(norm(8, affine=True)),
        functional=FunctionalInstanceNorm(),
        functional_without_weights=plain_instance_norm,
    )
