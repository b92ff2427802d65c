"""The formulas of ``debug="exact"`` as a page: ``python -m jitquant.exact_document > EXACT.md``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from itertools import groupby

from jitquant.exact import ENGINES, formulas

HEAD = """\
# Exact debug mode

What `debug="exact"` computes for each integer op, with the source of each formula: the docstrings of
`jitquant/exact`, written out by `python -m jitquant.exact_document > EXACT.md`.

Integers are held in float64, which holds them exactly; sums of their products are exact too, and are taken in
float32 where none of them can reach 2²⁴. Behind that a formula scales, adds, rounds and saturates in the
order, and with the precision, of the kernel that it stands for. Formulas are ops of stock torch, so that an
exact model is saved, loaded and run like any other; it does depend on the processor as the kernels do, and
carries the answers that hold where it was converted. Ops that only move or select values run on the integers
as they are. Of an integer op without a formula (recurrent layers) the model keeps the integer op, with a
warning that names it.
"""


def document() -> str:
    """The whole page, as Markdown."""
    sections = [HEAD, *_sections("quantized", ENGINES), *_sections("native", ("",))]
    return "\n".join(sections)


def _sections(target: str, engines: tuple[str, ...]) -> Iterator[str]:
    tables = {engine: formulas(engine, target) for engine in engines}
    yield f"## Target `{target}`\n"
    entries: dict[Callable[..., object], dict[str, list[str]]] = {}
    for engine, table in tables.items():
        for op, formula in table.items():
            entries.setdefault(formula, {}).setdefault(op, []).append(engine)
    by_module = groupby(entries.items(), key=lambda entry: inspect.getmodule(entry[0]))
    for module, group in by_module:
        yield f"### {_title(module.__doc__ or '')}\n"
        for formula, ops in group:
            yield _entry(formula, ops, engines)


def _entry(formula: Callable[..., object], ops: dict[str, list[str]], engines: tuple[str, ...]) -> str:
    names = ", ".join(f"`{op}`" for op in ops)
    some = next(iter(ops.values()))
    where = "" if len(some) == len(engines) else f" ({', '.join(some)})"
    return f"- {names}{where}: {_one_line(inspect.getdoc(formula) or '')}\n"


def _title(text: str) -> str:
    return _one_line(text.split("\n\n")[0]).rstrip(".")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    print(document(), end="")
