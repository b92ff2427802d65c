"""A calibrated model of which each part can be made float or integer between two calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from jitquant import _C
from jitquant.errors import QuantizationError
from jitquant.pipeline import LEAVE, SWITCH, PassOptions, Record, run_passes
from jitquant.preparation import working_copy
from jitquant.statistics import observers_of

SMOOTHING = "aten::multiply"  # what smooth_inputs inserts is none of the user's ops, and has no number


@dataclass(frozen=True)
class Part:
    """What the quantized model computes in one integer op.

    Attributes:
        name: the path of its module; behind that the op's name where the module has several parts, and a
            number where these have one name.
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
        records: what became of each op when it was converted.
    """

    def __init__(
        self, prepared: torch.jit.ScriptModule, facts: Mapping[str, Any], records: Sequence[Record]
    ) -> None:
        work = working_copy(prepared, inplace=False)
        options = PassOptions(engine=torch.backends.quantized.engine, target=facts["target"])
        run_passes(SWITCH, work, options, methods=tuple(facts["methods"]), title="insert switches")
        self.module = torch.jit._recursive.wrap_cpp_module(work._c)
        self._count = len(work._c.getattr("_switches"))
        self.parts = _parts(list(work._c.getattr("_parts")), numbered(records))

    @contextmanager
    def running(self, on: Collection[Part]) -> Iterator[torch.jit.ScriptModule]:
        """The module with these parts integer and all others float."""
        switches = [False] * self._count
        for part in on:
            for op in part.ops:
                switches[op] = True
        switches[-1] = bool(on)  # of values that no op gives or takes
        self.module._c.setattr("_switches", switches)
        # There are many settings and few calls of each: specializing the graph would take longer than these.
        with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
            yield self.module


def numbered(records: Sequence[Record]) -> list[Record]:
    """The records of the user's ops, each at its number."""
    return [record for record in records if record["op"] != SMOOTHING]


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
                f"{caller}: the qconfig of {path or 'an op of the model itself'} is a dynamic one, whose parts "
                "cannot be made float one by one; name static qconfigs only, or None for these ops"
            )


def _parts(leaders: Sequence[int], records: Sequence[Record]) -> tuple[Part, ...]:
    moving = {row["op"].split(".")[0] for row in _C.op_table() if row["moves"]}
    members: dict[int, list[int]] = {}
    for op, (leader, record) in enumerate(zip(leaders, records, strict=True)):
        if not record["reason"]:
            members.setdefault(leader, []).append(op)
    kept = [ops for ops in members.values() if any(records[op]["op"] not in moving for op in ops)]
    names = _names([records[ops[0]] for ops in kept])
    parts = []
    for ops, name in zip(kept, names, strict=True):
        weights = sum(records[op]["weights"] for op in ops)
        facts = {key: records[ops[0]][key] for key in ("method", "module", "source", "op", "becomes")}
        parts.append(Part(name=name, ops=tuple(ops), weights=weights, **facts))
    return tuple(parts)


def _names(records: Sequence[Record]) -> list[str]:
    in_module = Counter(record["module"] for record in records)
    seen: Counter[str] = Counter()
    names = []
    for record in records:
        path, op = record["module"], record["op"].split("::")[-1]
        name = path if path and in_module[path] == 1 else f"{path}.{op}".lstrip(".")
        seen[name] += 1
        names.append(name if seen[name] == 1 else f"{name}_{seen[name] - 1}")
    return names
