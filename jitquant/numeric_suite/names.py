"""What ops are called in the results: by their modules, as in PyTorch's suite, where that is clear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from jitquant.watch import WatchedOp


def names_of(ops: Sequence[WatchedOp], with_weights: Sequence[bool]) -> list[str]:
    """A name for each op that no other has: the path of its module where no other op there has weights.

    A convolution that pads by an op of its own is ``conv1``, and its padding ``conv1.constant_pad_nd``. The
    other ops have their `key`.
    """
    counts = Counter(op.module for op, has in zip(ops, with_weights, strict=True) if has)
    keys = {op.key for op in ops}
    return [
        op.module if has and op.module and counts[op.module] == 1 and op.module not in keys else op.key
        for op, has in zip(ops, with_weights, strict=True)
    ]
