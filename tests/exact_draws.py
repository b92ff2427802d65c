"""Random single ops for the formulas of jitquant.exact: shapes, parameters and data, many of them ties."""

import os
import random
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jitquant.exact import emulations
from jitquant.exact.registry import Quantized, Weight

SEED = int(os.environ.get("JITQUANT_SEED", "0"))


@dataclass
class Draw:
    """One drawing of everything; the same number gives the same."""

    number: int

    def __post_init__(self) -> None:
        self.random = random.Random(f"{SEED} {self.number}")
        self.generator = torch.Generator().manual_seed(self.random.getrandbits(60))

    def among(self, *choices: Any) -> Any:
        return self.random.choice(choices)

    def chance(self, share: float) -> bool:
        return self.random.random() < share

    def between(self, least: int, most: int) -> int:
        return self.random.randint(least, most)

    def scale(self, low: float = -8, high: float = 2) -> float:
        """A power of two, or any double."""
        exponent = self.random.uniform(low, high)
        return 2.0 ** round(exponent) if self.chance(0.4) else 2.0**exponent

    def zero_point(self) -> int:
        return self.among(0, 128, self.between(0, 255))

    def integers(self, *shape: int, least: int = 0, most: int = 255) -> Tensor:
        return torch.randint(least, most + 1, shape, generator=self.generator)

    def reals(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self.generator)

    def shape(self, dims: int, most: int = 12) -> list[int]:
        return [self.between(1, most) for _ in range(dims)]

    def layout(self, x: Tensor) -> Tensor:
        """As it is, or channels-last."""
        if x.dim() in (4, 5) and self.chance(0.5):
            return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.channels_last_3d)
        return x

    def activation(self, *shape: int, most: int = 255, low: float = -8, high: float = 2) -> Tensor:
        """A quantized tensor."""
        x = self.layout(self.integers(*shape, most=most).to(torch.uint8))
        return torch._make_per_tensor_quantized_tensor(x, self.scale(low, high), self.zero_point())

    def weight(self, *shape: int, per_channel: bool | None = None) -> Tensor:
        """A quantized weight without zero points; half of them have a scale for each channel."""
        real = self.reals(*shape)
        if self.chance(0.5) if per_channel is None else per_channel:
            scales = torch.tensor([self.scale(-8, -4) for _ in range(shape[0])], dtype=torch.float64)
            zero_points = torch.zeros(shape[0], dtype=torch.int64)
            return torch.quantize_per_channel(real, scales, zero_points, 0, torch.qint8)
        return torch.quantize_per_tensor(real, self.scale(-8, -4), 0, torch.qint8)

    def bias(self, size: int, step: float, *, sure: bool = False) -> Tensor | None:
        """Often a multiple of what the sums count in, which gives ties."""
        if not sure and self.chance(0.25):
            return None
        if self.chance(0.5):
            return self.integers(size, least=-500, most=500).float() * step
        return self.reals(size) * step * 300

    def output_scale(self, step: float) -> float:
        """Often an even multiple of what the sums count in, which gives ties."""
        return step * self.among(
            2.0 ** self.between(1, 10), 2.0 * self.between(1, 400), self.random.uniform(3, 900)
        )


def triple(x: Tensor) -> Quantized:
    """What a formula takes for a quantized tensor."""
    return x.int_repr().double(), x.q_scale(), x.q_zero_point()


def weight_of(w: Tensor) -> Weight:
    """What a formula takes for a quantized weight."""
    if w.qscheme() == torch.per_tensor_affine:
        scales, zero_points = [w.q_scale()], [w.q_zero_point()]
        return w.int_repr(), torch.tensor(scales, dtype=torch.float64), torch.tensor(zero_points)
    return w.int_repr(), w.q_per_channel_scales().double(), w.q_per_channel_zero_points()


def emulate(op: str, engine: str, *arguments: Any) -> Any:
    """What the formula of the op gives."""
    return emulations(engine, "quantized")[op](*arguments)


def check_same(real: Tensor, emulated: Any, what: object = "") -> None:
    """That integers, scale, zero point and strides are the same; or the bits of floats."""
    if not real.is_quantized:
        emulated = emulated if isinstance(emulated, Tensor) else emulated[0]
        same = torch.equal(real.double(), emulated.double())
        wrong = int((real.double() != emulated.double()).sum())
    else:
        emulated, scale, zero_point = emulated
        assert (scale, zero_point) == (real.q_scale(), real.q_zero_point()), what
        same = torch.equal(real.int_repr().double(), emulated)
        wrong = int((real.int_repr().double() != emulated).sum())
    assert same, f"{wrong} of {real.numel()} differ: {what}"
    assert real.stride() == emulated.stride(), (
        f"{real.stride()} {emulated.stride()} {tuple(real.shape)}: {what}"
    )
