"""The table of formulas: for each integer op, the function that gives its bits in floating point."""

from collections.abc import Callable
from typing import TypeVar

from torch import Tensor

__all__ = ["EMULATIONS", "ENGINES", "Quantized", "Weight", "emulates"]

ENGINES = ("fbgemm", "x86", "onednn")

# What takes the place of a quantized tensor: its integers as float64, its scale and its zero point.
Quantized = tuple[Tensor, float, int]
# What takes the place of a quantized weight: its integers as int8, its scales as float64 and its zero points
# as int64, one or n of each. Of rows that are looked up, the integers are uint8 (two of four bits to a byte)
# and the zero points float64.
Weight = tuple[Tensor, Tensor, Tensor]

Formula = TypeVar("Formula", bound=Callable[..., object])

# By target, engine and op; an op is named with its overload where overloads differ.
EMULATIONS: dict[tuple[str, str], dict[str, Callable[..., object]]] = {}


def emulates(
    *ops: str, target: str = "quantized", engines: tuple[str, ...] = ENGINES
) -> Callable[[Formula], Formula]:
    """Says that a function gives the bits of these ops, on these engines of this target.

    The function takes the op's arguments in the order of its schema. In place of a quantized tensor it takes
    a `Quantized`, in place of a packed weight what the prepack op takes, and there in place of a quantized
    weight a `Weight`. Plain integers come and go as float64 tensors. All else passes through.
    """

    def register(formula: Formula) -> Formula:
        for engine in engines:
            for op in ops:
                known = EMULATIONS.setdefault((target, engine), {}).setdefault(op, formula)
                if known is not formula:
                    raise ValueError(f"{op} has two formulas for target {target!r} on engine {engine!r}")
        return formula

    return register
