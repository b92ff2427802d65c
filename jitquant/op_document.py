"""The op table as a page: ``python -m jitquant.op_document > OPS.md``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from jitquant.passes import op_table

HEAD = """\
# Ops

What jitquant knows of each op, and what each target makes of it: `csrc/op_table.cpp`,
`csrc/target_quantized.cpp` and `csrc/target_native.cpp`, written out by `python -m jitquant.op_document >
OPS.md`. An op that is not here stays float, and so does one whose arguments the integer op does not take;
`jitquant.summarize` says which and why.

*Output's scale*: from an observer of its own, that of its input, a fixed one, or none where only the weight
is integer. *As it is*: the op runs on the integers unchanged. *Float*: what it takes is dequantized before
it, and what takes its result quantizes again. *Dynamic*: the targets on which
`quantize_dynamic_jit` makes it integer.
"""
SCALES = {"observed": "observed", "same": "its input's", "fixed": "fixed", "float": "none"}
TARGETS = ("quantized", "native")


def document() -> str:
    """The whole page, as Markdown."""
    head = (
        "op",
        "activations",
        "weight",
        "output's scale",
        "target `quantized`",
        "target `native`",
        "dynamic",
    )
    lines = [_line(head), _line(["---"] * len(head)), *(_line(_row(row)) for row in op_table())]
    return f"{HEAD}\n" + "\n".join(lines) + "\n"


def _row(row: dict[str, Any]) -> list[str]:
    weights = ", ".join(f"`{name}`" for name in row["weights"])
    weight = f"{weights}, axis {row['weight_axis']}" if weights else ""
    columns = [_integer_ops(row["op"], row[target]) for target in TARGETS]
    activations = ", ".join(f"`{name}`" for name in row["activations"])
    dynamic = ", ".join(f"`{target}`" for target in TARGETS if row[target]["dynamic"])
    return [f"`{row['op']}`", activations, weight, SCALES[row["output"]], *columns, dynamic]


def _integer_ops(row: str, column: dict[str, Any]) -> str:
    """The op that computes, in each of the recipes: the one it names, that of the row itself, or the last."""
    if not column["integer"]:
        return "float"
    forms = zip(column["becomes"], column["recipes"], strict=True)
    computing = [becomes or _computing_op(row, recipe) for becomes, recipe in forms]
    return ", ".join(f"`{op}`" for op in dict.fromkeys(computing)) or "as it is"


def _computing_op(row: str, recipe: str) -> str:
    ops = [re.sub(r".*=\s*", "", statement).split("(")[0].strip() for statement in recipe.split(";")]
    if row in ops:
        return row
    return [op for op in ops if op != "aten::_make_per_tensor_quantized_tensor"][-1]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    print(document(), end="")
