"""The parts of a model that are shadowed: which ops are in each, and where its values come in and go out.

A part is a module with all in it. Ops that the integer model fuses with one of them belong to it too: of a
linear with a relu behind it, both.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from jitquant.numeric_suite.selection import is_within
from jitquant.watch import WatchedOp


@dataclass(frozen=True)
class Block:
    """One call of a module.

    Attributes:
        name: its path, with ``_1`` and so on where it is called more than once.
        ops: the numbers of the ops in it, in program order.
    """

    name: str
    ops: tuple[int, ...]


def blocks_at(ops: Sequence[WatchedOp], paths: Sequence[str]) -> list[Block]:
    """The calls of the modules at these paths in which something became integer.

    What is fused from ops of two modules of them belongs to the first.
    """
    blocks = []
    given_away: set[int] = set()
    for path in paths:
        calls = (_with_fused(ops, call) - given_away for call in _calls(ops, path))
        for number, call in enumerate(each for each in calls if any(ops[i].is_integer for i in each)):
            blocks.append(Block(f"{path}_{number}" if number else path, tuple(sorted(call))))
            given_away |= call
    return blocks


def _calls(ops: Sequence[WatchedOp], path: str) -> Iterator[list[int]]:
    """Calls are inlined, so a module called n times in a row is there as n times the same ops.

    That a single op comes again says nothing: a block may well have two of a kind on one source line. A
    block that is nothing but such, ``fc(fc(x))``, is taken for two calls; one whose calls took different
    ways, fixed in the graph, for one.
    """
    for inside, run in groupby(ops, lambda op: is_within(op.module, path)):
        if inside:
            yield from _repetitions(list(run))


def _repetitions(run: list[WatchedOp]) -> Iterator[list[int]]:
    """The shortest parts that are all alike; the whole where there are none."""
    marks = [(op.method, op.module, op.op, op.source) for op in run]
    lengths = (n for n in range(1, len(run) + 1) if len(run) % n == 0)
    length = next(n for n in lengths if marks[n:] == marks[:-n])
    for begin in range(0, len(run), length):
        yield [op.index for op in run[begin : begin + length]]


def _with_fused(ops: Sequence[WatchedOp], call: list[int]) -> set[int]:
    groups = {ops[i].group for i in call if ops[i].group >= 0 and not _is_merged(ops, ops[i].group)}
    return {op.index for op in ops if op.group in groups} | set(call)


def _is_merged(ops: Sequence[WatchedOp], group: int) -> bool:
    """Whether a node gives the values of several ops, that only share it."""
    return sum(op.is_result for op in ops if op.group == group) > 1


@dataclass(frozen=True)
class Entry:
    """An input of an op in a block that comes from outside.

    Attributes:
        op, slot: which input.
        result: the op of which the integer model's node, which does this op as well, takes it; -1 where that
            is not sure.
        position: which of that node's inputs it is.
        producer: the op outside that gives it; -1 where that is none.
    """

    op: int
    slot: int
    result: int
    position: int
    producer: int


class Borders:
    """Where values enter and leave blocks.

    Args:
        ops: all ops.
        producers: of each op of the float twin, the op that gives each input; -1 for none.
        origins: of each node of the integer graph, by the number of its result, the op that gives each input;
            -1 for none, and None where it is a value within the op itself.
        with_several: the ops with several results.
    """

    def __init__(
        self,
        ops: Sequence[WatchedOp],
        producers: Mapping[int, Sequence[int]],
        origins: Mapping[int, Sequence[int | None]],
        with_several: Collection[int] = (),
    ) -> None:
        self._ops = ops
        self._producers = producers
        self._origins = origins
        self._with_several = set(with_several)

    def exits(self, block: Block) -> list[int]:
        """The ops whose values both models give and nothing else in the block takes.

        What takes an op's other results, as one looks at the hidden state of an LSTM, does not take its
        value.
        """
        taken = {given for i in block.ops for given in self._givers(i)} - self._with_several
        results = [i for i in block.ops if self._ops[i].is_result]
        return [i for i in results if i not in taken]

    def _givers(self, index: int) -> Iterator[int]:
        """The ops that give what an op takes; of those that have vanished, what they take."""
        for given in self._producers[index] if self._ops[index].group >= 0 else ():
            if given >= 0 and self._ops[given].group < 0:
                yield from (i for i in self._producers[given] if i >= 0)
            elif given >= 0:
                yield given

    def entries(self, block: Block) -> Iterator[Entry]:
        """The inputs from outside, those of ops of one node together."""
        inside = set(block.ops)
        by_group: dict[int, list[tuple[int, int, int]]] = {}
        for i in block.ops:
            for slot, producer in enumerate(self._producers[i]):
                if producer not in inside:
                    by_group.setdefault(self._ops[i].group, []).append((i, slot, producer))
        for group, slots in by_group.items():
            yield from self._matched(group, slots)

    def _matched(self, group: int, slots: list[tuple[int, int, int]]) -> Iterator[Entry]:
        """Finds the node's input that stands for each: the one that comes from the same op."""
        result = next((op.index for op in self._ops if op.group == group and op.is_result), -1)
        free = dict(enumerate(self._origins.get(result, ())) if group >= 0 else ())
        for op, slot, given in slots:
            producer = self._left_of(given)
            position = next((at for at, origin in free.items() if self._is_of(origin, producer)), -1)
            if position >= 0:
                del free[position]
            yield Entry(op, slot, result if position >= 0 else -1, position, producer)

    def _left_of(self, producer: int) -> int:
        """The op that gives a value where `producer` has vanished; -1 for none."""
        while producer >= 0 and self._ops[producer].group < 0:
            producer = self._producers[producer][0] if self._producers[producer] else -1
        return producer

    def _is_of(self, origin: int | None, producer: int) -> bool:
        if origin is None:
            return False
        if origin < 0 or producer < 0:
            return origin == producer
        return origin == producer or self._ops[origin].group == self._ops[producer].group >= 0
