"""Every op that has an integer form, in each of its spellings: one module for each family of ops."""

from tests.op_cases import (
    activations,
    arithmetic,
    moving,
    norms,
    ordering,
    pooling,
    resampling,
    weighted,
)
from tests.op_cases.case import CASES, SHAPES, Case, One

__all__ = [
    "CASES",
    "SHAPES",
    "Case",
    "One",
    "activations",
    "arithmetic",
    "moving",
    "norms",
    "ordering",
    "pooling",
    "resampling",
    "weighted",
]
