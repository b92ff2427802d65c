"""The arithmetic of integer ops in floating point, bit for bit: what ``debug="exact"`` runs.

Each integer op has a formula here: a plain function that torch.jit compiles into ops of stock torch. It holds
integers exactly in float64, and then scales, adds, rounds and saturates in the order of the op's own kernel.
`arithmetic` has the steps they share; the other modules have the formulas.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, cast

import torch

from jitquant.exact.registry import EMULATIONS, ENGINES, Quantized, Weight, emulates

__all__ = ["ENGINES", "Quantized", "Weight", "emulates", "emulations", "formulas"]

MODULES = {
    "quantized": ("pointwise", "products", "pooling", "normalization", "selection", "embeddings"),
    "native": (
        "native",
        "native_dynamic",
        "native_normalization",
        "native_pointwise",
        "native_pooling",
    ),
}


@functools.cache
def emulations(engine: str, target: str) -> dict[str, torch.jit.ScriptFunction[Any, Any]]:
    """The compiled formulas by op, for the ops of `target` on `engine`; empty where none is known.

    Ops are named without overload, or with it where overloads differ: ``aten::mean.dim``.
    """
    return {op: _compiled(formula) for op, formula in formulas(engine, target).items()}


def formulas(engine: str, target: str) -> dict[str, Callable[..., object]]:
    """The formulas by op, as they are written."""
    for module in MODULES.get(target, ()):
        importlib.import_module(f"jitquant.exact.{module}")
    return EMULATIONS.get((target, engine), {})


@functools.cache
def _compiled(formula: object) -> torch.jit.ScriptFunction[Any, Any]:
    return cast("torch.jit.ScriptFunction[Any, Any]", torch.jit.script(formula))
