"""A calibrated model of which each part can be made float or integer between two calls."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from jitquant import _C
from jitquant.calls import Call, copied, unspecialized
from jitquant.errors import QuantizationError
from jitquant.pipeline import LEAVE, SWITCH, PassOptions, Record, run_passes
from jitquant.preparation import working_copy
from jitquant.statistics import observers_of
from jitquant.summary import read_report
from jitquant.watch import Watched, WatchedOp, watched_ops


@dataclass(frozen=True)
class Part:
    """What the quantized model computes in one integer op.

    Attributes:
        name: the key of its first op (``jitquant.watch.WatchedOp``), which no other part has.
        ops: the numbers of the user's ops that it computes, of which the first gives it its name.
        method, module, source, op, becomes: as in ``OpSummary``, of the first of these.
        weights: how many values the weights of all of them have.
    """

    name: str
    ops: tuple[int, ...]
    method: str
    module: str
    source: str
    op: str
    becomes: str
    weights: int


class Switchable:
    """A float copy of a calibrated model that rounds what the parts that are on would round.

    With none on it is the float model, with all on what ``debug=True`` gives.

    Args:
        prepared: the calibrated model; it is not changed.
        facts: what it says of itself.
        integer: the model that it was converted to.
    """

    def __init__(
        self, prepared: torch.jit.ScriptModule, facts: Mapping[str, Any], integer: torch.jit.ScriptModule
    ) -> None:
        work = working_copy(prepared, inplace=False)
        options = PassOptions(engine=torch.backends.quantized.engine, target=facts["target"])
        run_passes(SWITCH, work, options, methods=tuple(facts["methods"]), title="insert switches")
        self.module = torch.jit._recursive.wrap_cpp_module(work._c)
        self._count = len(work._c.getattr("_switches"))
        self._integer = integer
        self._records = read_report(integer)
        self.parts = _parts(list(work._c.getattr("_parts")), watched_ops(integer), self._records)

    @contextmanager
    def running(self, on: Collection[Part]) -> Iterator[torch.jit.ScriptModule]:
        """The module with these parts integer and all others float."""
        switches = [False] * self._count
        for part in on:
            for op in part.ops:
                switches[op] = True
        switches[-1] = bool(on)  # of values that no op gives or takes
        self.module._c.setattr("_switches", switches)
        yield self.module

    def values(self, on: Collection[Part], ops: Collection[int], call: Call) -> dict[int, Tensor]:
        """What some ops give, last in a loop, with these parts integer; before a target rounds it."""
        found: dict[int, Tensor] = {}
        with self.running(on) as module:
            watched = Watched(module, self._integer, outputs=ops)
        watched.run(
            copied(call.args), lambda op, value: found.update({op: value.clone()}), method=call.method
        )
        return found

    def gives_floats(self, call: Call) -> bool:
        """Whether there is something of floating point in what the model returns."""
        with self.running(()) as module, unspecialized():
            return bool(call.run(module))

    def multiply_adds(self, call: Call) -> dict[Part, int]:
        """Those of each part in one call: of convolutions, linears and products of matrices.

        Nothing is known of a call with keywords.
        """
        if call.kwargs:
            return dict.fromkeys(self.parts, 0)
        counts: Counter[int] = Counter()
        inputs: dict[int, list[Tensor]] = {}

        def count(op: int, result: Tensor) -> None:
            if op in inputs:
                weights = self._records[op]["weights"]
                counts[op] += _products(self._records[op]["op"], weights, inputs.pop(op), result)

        products = {op for part in self.parts for op in part.ops}
        with self.running(()) as module:
            watched = Watched(module, self._integer, outputs=products, inputs=products)
        watched.run(copied(call.args), count, inputs.__setitem__, method=call.method)
        return {part: sum(counts[op] for op in part.ops) for part in self.parts}


def left_float(
    prepared: torch.jit.ScriptModule, facts: Mapping[str, Any], parts: Collection[Part]
) -> torch.jit.ScriptModule:
    """A copy of a calibrated model in which the ops of these parts are to stay float."""
    work = working_copy(prepared, inplace=False)
    ops = sorted(op for part in parts for op in part.ops)
    if ops:
        work._c._register_attribute("_left_float", torch._C.ListType.ofInts(), ops)
        run_passes(
            LEAVE, work, PassOptions(target=facts["target"]), methods=tuple(facts["methods"]), title="leave"
        )
    return torch.jit._recursive.wrap_cpp_module(work._c)


def check_static(prepared: torch.jit.ScriptModule, caller: str) -> None:
    """Raises QuantizationError if a part of the model is to be quantized dynamically."""
    for name, observer in observers_of(prepared).items():
        if observer.hasattr("is_dynamic") and observer.getattr("is_dynamic") is True:
            path = _C.observer_paths(prepared._c).get(name, "")
            raise QuantizationError(
                f"{caller}: the qconfig of {path or 'an op of the model itself'} is a dynamic one, and what "
                "it costs cannot be measured; name static qconfigs only, or None for these ops"
            )


def _parts(leaders: Sequence[int], ops: Sequence[WatchedOp], records: Sequence[Record]) -> tuple[Part, ...]:
    moving = {row["op"].split(".")[0] for row in _C.op_table() if row["moves"]}
    members: dict[int, list[WatchedOp]] = {}
    for leader, op in zip(leaders, ops, strict=True):
        if op.is_integer:
            members.setdefault(leader, []).append(op)
    return tuple(
        Part(
            name=part[0].key,
            ops=tuple(op.index for op in part),
            weights=sum(records[op.index]["weights"] for op in part),
            **{key: getattr(part[0], key) for key in ("method", "module", "source", "op", "becomes")},
        )
        for part in members.values()
        if any(op.op not in moving for op in part)
    )


def _products(op: str, weights: int, inputs: Sequence[Tensor], result: Tensor) -> int:
    """The multiply-adds of one run of an op, whose weight, if it has one, has so many values."""
    kind = op.removeprefix("aten::")
    if kind in ("matmul", "bmm", "mm"):
        return result.numel() * inputs[0].size(-1)
    if kind == "linear":
        return result.numel() // max(result.size(-1), 1) * weights
    if found := re.fullmatch(r"conv(_transpose)?([123])d", kind):
        positions = inputs[0] if found[1] else result
        return positions.numel() // max(positions.size(-1 - int(found[2])), 1) * weights
    return 0
