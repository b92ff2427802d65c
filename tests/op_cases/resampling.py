"""Resampling."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.op_cases.case import spellings


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
