"""What became of each op of a prepared or quantized module, and why."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jitquant import _C
from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.info import read_info
from jitquant.multiply_adds import MultiplyAdds, count_multiply_adds
from jitquant.pipeline import Record
from jitquant.qconfig import is_dynamic_where_named

ATTRIBUTE = "_jitquant_report"
INTEGER_SAVES = 3.0  # bytes of the 4 of a float
SAVES = {  # what else a weight becomes
    "quantized::linear_dynamic_fp16": 2.0,
    "quantized::linear_relu_dynamic_fp16": 2.0,
    "jitquant::linear_bfloat16": 2.0,
    "jitquant::linear_bfloat16_add": 2.0,
    "jitquant::linear_bfloat16_add_": 2.0,
    "quantized::embedding_bag_4bit_rowwise_offsets": 3.5,
}
TARGETS = ("quantized", "native")

__all__ = ["OpSummary", "Summary", "summarize"]


@dataclass(frozen=True)
class OpSummary:
    """One op of the model as it was before quantization.

    Attributes:
        method: the method of the top module that it is in.
        module: the dotted path of its module; empty for the model itself.
        source: file and line of the user's code; empty where none is known.
        op: its canonical name, such as ``aten::conv2d``.
        becomes: the integer op that it is now, or is part of; of a prepared module, that it is observed.
            Empty where it stays float.
        reason: why it stays float; else empty.
        weights: how many values its weight has; 0 where it has none.
    """

    method: str
    module: str
    source: str
    op: str
    becomes: str
    reason: str
    weights: int

    @property
    def is_integer(self) -> bool:
        return not self.reason

    @property
    def bytes_saved(self) -> float:
        """How many bytes fewer its weight takes than as float32; a recurrent layer's is counted as 8 bits."""
        return SAVES.get(self.becomes, INTEGER_SAVES) * self.weights if self.is_integer else 0.0

    def __str__(self) -> str:
        place = f" at {self.source}" if self.source else ""
        return f"{self.op}{place}{f' ({self.module})' if self.module else ''}"


@dataclass(frozen=True)
class Summary:
    """What `summarize` found; `print` it for a table, or read the rows.

    Attributes:
        stage: ``"prepared"`` or ``"quantized"``.
        ops: a row for each op that computes tensors, in the order of the graph.
        round_trips: how many values in the middle of the network are dequantized, computed with in float and
            quantized again.
        multiply_adds: those of one call, integer and float; None unless inputs were given.
        tolerance: what ``quantize_jit(..., tolerance=...)`` found, as ``jitquant.info`` gives it; else None.
    """

    stage: str
    ops: tuple[OpSummary, ...]
    round_trips: int
    multiply_adds: MultiplyAdds | None = None
    tolerance: Mapping[str, Any] | None = None

    @property
    def weights_share(self) -> float:
        """The share of the weights of convolutions, linears and the like that is integer, from 0 to 1."""
        whole = sum(op.weights for op in self.ops)
        return sum(op.weights for op in self.ops if op.is_integer) / whole if whole else 0.0

    @property
    def bytes_saved(self) -> int:
        """How many bytes fewer the weights of 8 or 4 bits, or of half precision, take than float32 ones.

        A recurrent layer's are counted as 8 bits, whatever its qconfig says.
        """
        return int(sum(op.bytes_saved for op in self.ops))

    def to_records(self) -> list[dict[str, Any]]:
        """The rows, for other programs."""
        return [asdict(op) for op in self.ops]

    def to_json(self) -> str:
        """Everything, for other programs."""
        sums = {"weights_share": self.weights_share, "bytes_saved": self.bytes_saved}
        return json.dumps({**asdict(self), **sums})

    def table(self, *, only_float: bool = False, width: int = 160) -> str:
        """The rows as a table of that many columns of text, and the totals behind it."""
        from rich.console import Console  # not before it is needed: it takes a while
        from rich.table import Table

        table = Table(box=None, pad_edge=False, header_style="")
        for name in ("op", "becomes", "why it stays float", "module", "source"):
            table.add_column(name, overflow="fold")
        many = len({op.method for op in self.ops}) > 1
        for op in self.ops:
            if not (only_float and op.is_integer):
                path = f"{op.method}: {op.module}" if many else op.module
                table.add_row(op.op, op.becomes, op.reason, path, op.source)
        text = io.StringIO()
        Console(file=text, width=width, color_system=None).print(table, markup=False)
        lines = (line.rstrip() for line in text.getvalue().splitlines())
        return "\n".join([*lines, *self._totals()])

    def __str__(self) -> str:
        return self.table()

    def _totals(self) -> list[str]:
        integer = sum(op.is_integer for op in self.ops)
        will = "will be " if self.stage == "prepared" else ""
        lines = [
            f"{integer} of {len(self.ops)} ops {will}integer, with {100 * self.weights_share:.1f} % of the "
            f"weights ({self.bytes_saved / 1e6:.2f} MB less)"
        ]
        if self.multiply_adds is not None:
            share, whole = self.multiply_adds.integer_share, self.multiply_adds.whole
            lines.append(f"{100 * share:.1f} % of {whole / 1e6:.1f} M multiply-adds are integer")
        if self.stage != "prepared":
            lines.append(f"{self.round_trips} values go from integers to float and back")
        return lines + ([] if self.tolerance is None else _words_of(self.tolerance))


def summarize(module: torch.jit.ScriptModule, inputs: Tensor | tuple[Any, ...] | None = None) -> Summary:
    """Says of each op of a model what became of it, and of each that stays float why.

    Args:
        module: what ``prepare_jit``, ``convert_jit`` or ``quantize_jit`` returned, or such a file loaded.
        inputs: what forward takes (a tuple, or its only tensor), to count the multiply-adds of one call.

    Raises:
        QuantizationError: for a module that jitquant did not make, and one converted with ``debug=True``, in
            which everything is float.
    """
    caller = "summarize"
    check_script_module(module, caller)
    facts = read_info(module)
    if facts is None or facts["stage"] == "debug" or not module._c.hasattr(ATTRIBUTE):
        raise QuantizationError(
            f"{caller}: the module says nothing of its ops; give it what prepare_jit, convert_jit or "
            "quantize_jit returned (not with debug)"
        )
    records = read_report(module)
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    return Summary(
        stage=facts["stage"],
        ops=tuple(OpSummary(**record) for record in records),
        round_trips=_C.count_round_trips(module._c, list(facts.get("methods", ("forward",)))),
        multiply_adds=None if given is None else count_multiply_adds(module, given),
        tolerance=facts.get("tolerance"),
    )


def _words_of(tolerance: Mapping[str, Any]) -> list[str]:
    """What a tolerance cost."""
    loss = (
        f"{tolerance['of']}: {tolerance['reached']:.3g} of the {tolerance['asked for']:g} that may be, "
        f"and {tolerance['all integer']:.3g} with all integer"
    )
    left = len(tolerance["left float"])
    costs = f"{tolerance['bytes more'] / 1e6:.2f} MB more and {tolerance['time']:.2f} times the time"
    which = f", which takes {costs} of all integer" if left else ""
    return [loss, f"{left} of {tolerance['parts']} parts left float for that{which}"]


def write_report(module: torch.jit.ScriptModule, records: Sequence[Record]) -> None:
    """Writes what became of each op into the module, in the place of what it has."""
    _C.set_string(module._c, ATTRIBUTE, json.dumps(list(records)))


def read_report(module: torch.jit.ScriptModule) -> list[Record]:
    """What became of each op, as a module says; empty if it says nothing."""
    return json.loads(module._c.getattr(ATTRIBUTE)) if module._c.hasattr(ATTRIBUTE) else []


def check_strict(
    records: Sequence[Record],
    strict: bool | Sequence[str],
    target: str,
    caller: str,
    *,
    dynamic: bool = False,
) -> None:
    """Raises QuantizationError, with a line for each, where an op stays float that was to become integer.

    `strict` is True for every op that has an integer form on the target (if `dynamic`, a dynamic one, but
    that convolutions become dynamic only where they are named, and so they have to be here), or names: of ops
    (``"conv2d"`` or ``"aten::conv2d"``) and of modules (``"layer1.0"``). What runs as it is on integers and
    floats alike computes nothing, and is asked for only where an op's name says so.
    """
    if strict is False:
        return
    ops = [OpSummary(**record) for record in records]
    if strict is True:
        kind = "dynamic" if dynamic else "integer"
        with_form = {row["op"].split(".")[0] for row in _C.op_table() if row[target][kind]} - _moving_ops()
        if dynamic:
            with_form = {op for op in with_form if not is_dynamic_where_named(op)}
        asked = [op for op in ops if op.op in with_form]
    else:
        for name in strict:
            if not any(_is_op(op, name) or _is_within(op, name) for op in ops):
                raise QuantizationError(
                    f"{caller}: strict={name!r} is no op and no module of the model; "
                    "name an op such as 'conv2d', or the path of a submodule"
                )
        moving = _moving_ops()
        asked = [
            op
            for op in ops
            if any(_is_op(op, name) or (_is_within(op, name) and op.op not in moving) for name in strict)
        ]
    left = [op for op in asked if not op.is_integer]
    if left:
        lines = "\n".join(f"  {op}: {op.reason}" for op in left)
        raise QuantizationError(
            f"{caller}: {len(left)} of {len(asked)} ops would stay float; change what is said of each, or "
            f"leave them out of strict:\n{lines}"
        )


def _moving_ops() -> set[str]:
    """The ops that only move or select values: ``aten::squeeze``."""
    return {row["op"].split(".")[0] for row in _C.op_table() if row["moves"]}


def _is_op(op: OpSummary, name: str) -> bool:
    return name in (op.op, op.op.removeprefix("aten::"))


def _is_within(op: OpSummary, path: str) -> bool:
    return op.module == path or op.module.startswith(f"{path}.")
