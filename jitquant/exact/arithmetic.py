"""Steps of float and integer arithmetic that the formulas share, each exact to the bit.

All of them are compiled by torch.jit, and use ops that round as IEEE 754 says.
"""

import torch
from torch import Tensor


def to_odd(head: Tensor, tail: Tensor) -> Tensor:
    """The sum of two doubles of which the first is the rounded sum, rounded to odd: float64.

    Rounded so, it rounds to float32 as the true sum would (Boldo and Melquiond, "Emulation of a FMA and
    correctly rounded sums: proved algorithms using rounding to odd", 2008).
    """
    is_even = torch.fmod(torch.frexp(head)[0] * 2.0**53, 2.0) == 0
    towards = torch.full_like(head, float("inf")) * torch.sign(tail)
    return torch.where(is_even & (tail != 0), torch.nextafter(head, towards), head)


def fma(factor: Tensor, other: Tensor, summand: Tensor) -> Tensor:
    """factor × other + summand of float32 tensors, rounded once: float32.

    The product of two float32 is exact in float64; its sum with the third is rounded to odd, so that the
    rounding to float32 is the only one.
    """
    product = factor.double() * other.double()
    addend = summand.double()
    total = product + addend
    of_product = total - addend
    tail = (product - of_product) + (addend - (total - of_product))  # TwoSum: what `total` lacks
    return to_odd(total, torch.where(torch.isfinite(total), tail, torch.zeros_like(tail))).float()


def saturate(integers: Tensor, least: int = 0, most: int = 255) -> Tensor:
    """Integers clipped to [least, most]: float64. NaN stays NaN."""
    return integers.double().clamp(least, most)


def as_float32(number: float) -> float:
    """A double rounded to float32."""
    return torch.tensor(number, dtype=torch.float64).float().double().item()
