"""Tables of text: columns side by side, as wide as they need to be."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence


def aligned(
    cells: Sequence[tuple[str, ...]], left: Collection[str], dull: Mapping[str, str] | None = None
) -> list[str]:
    """The lines of a table, without columns that say nothing.

    The first row names the columns. Those in `left` begin at the left, all others end at the right. `dull`
    has, of a column, what says no more than an empty cell does.
    """
    columns = [column for column in zip(*cells, strict=True) if _says_something(column, dull or {})]
    return ["  ".join(line).rstrip() for line in zip(*(_padded(c, left) for c in columns), strict=True)]


def millions(count: int | None) -> str:
    """A count in millions; empty where there is none."""
    return f"{count / 1e6:.2f}" if count else ""


def decibels(value: float) -> str:
    """A ratio in dB."""
    return f"{value:.1f}" if math.isfinite(value) else str(value)


def _says_something(column: tuple[str, ...], dull: Mapping[str, str]) -> bool:
    name, *cells = column
    return not set(cells) <= {"", dull.get(name, "")}


def _padded(column: tuple[str, ...], left: Collection[str]) -> list[str]:
    width = max(map(len, column))
    return [cell.ljust(width) if column[0] in left else cell.rjust(width) for cell in column]
