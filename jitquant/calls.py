"""Calls of a model, kept to be repeated: those of a user's data, or those that calibration makes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from jitquant.errors import QuantizationError

MOST_CALLS = 256
MOST_BYTES = 2**27  # of the inputs that are kept
# Rows of a batch that run together where rows have nothing to do with each other. One at a time takes least
# time for each: 30 ms of EfficientNet-Lite0, and 48 in a batch of 8, for which memory is fetched anew.
PIECE = 1


@dataclass(frozen=True)
class Call:
    """One call of a method, with what it was given."""

    method: str = "forward"
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    def run(self, module: torch.jit.ScriptModule) -> list[Tensor]:
        """The tensors of floating point in what the module returns, in order.

        They and the inputs are copies: a model may change what it is given.
        """
        args, kwargs = copied((self.args, self.kwargs))
        result = getattr(module, self.method)(*args, **kwargs)
        return [leaf.detach().clone() for leaf in tree_leaves(result) if _is_floating(leaf)]

    @property
    def tensors(self) -> list[Tensor]:
        """The tensors that it is given."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def rows(self) -> int:
        """How many rows all of its tensors have; 1 if they differ."""
        counts = {tensor.size(0) if tensor.dim() else 1 for tensor in self.tensors}
        return counts.pop() if len(counts) == 1 else 1

    def piece(self, begin: int, end: int) -> Call:
        """The same call on some rows only."""

        def cut(leaf: Any) -> Any:
            return leaf[begin:end] if isinstance(leaf, Tensor) else leaf

        args, kwargs = tree_map(cut, (self.args, self.kwargs))
        return Call(self.method, args, kwargs)


def calls_of(data: Any, caller: str) -> list[Call]:
    """A call of forward for each item of a list, or of one item: a tuple of inputs, or the only one.

    Raises:
        QuantizationError: if there is none, or an item is no tensor and no tuple.
    """
    items = data if isinstance(data, list) else [data]
    if not items:
        raise QuantizationError(
            f"{caller}: data is empty; pass inputs of the model, as a list of tuples or tensors"
        )
    for item in items:
        if not isinstance(item, Tensor | tuple):
            raise QuantizationError(
                f"{caller}: data holds a {type(item).__name__}; pass a list whose items are tuples of what "
                "forward takes, or its only tensor"
            )
    return [Call(args=item if isinstance(item, tuple) else (item,)) for item in items]


@contextmanager
def unspecialized() -> Iterator[None]:
    """Without gradients, and without the executor that specializes a graph in its first calls.

    That takes longer than the few calls which each of many graphs gets.
    """
    with torch.no_grad(), torch.jit.optimized_execution(False):  # type: ignore[attr-defined]
        yield


@contextmanager
def recorded(model: torch.jit.ScriptModule, methods: Sequence[str]) -> Iterator[list[Call]]:
    """Keeps the calls of some methods that are made meanwhile: the first ones, up to a bound."""
    calls: list[Call] = []
    for name in methods:
        model.__dict__[name] = _recording(getattr(model, name), name, calls)
    try:
        yield calls
    finally:
        for name in methods:
            del model.__dict__[name]


def in_pieces(module: torch.jit.ScriptModule, calls: Sequence[Call], most: int) -> list[Call]:
    """The same work in calls of few rows, with at most so many rows in all; the first call is always there.

    A call is taken apart if the float model gives for some rows what it gives for them in the whole batch.
    """
    pieces: list[Call] = []
    rows = 0
    for call in calls:
        if rows >= most:
            break  # finding out whether a call can be taken apart is a run of the whole batch
        for piece in _apart(module, call) if call.rows > PIECE else [call]:
            if rows < most:
                pieces.append(piece)
                rows += piece.rows
    return pieces


def spread(calls: Sequence[Call], most: int) -> Sequence[Call]:
    """At most twice so many calls, evenly taken from all; the first is always there."""
    return calls[:: max(1, len(calls) // most)]


def copied(values: Any) -> Any:
    """The same with tensors of their own, in tuples, lists and dicts."""
    return tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, values)


def _apart(module: torch.jit.ScriptModule, call: Call) -> list[Call]:
    pieces = [call.piece(begin, begin + PIECE) for begin in range(0, call.rows, PIECE)]
    whole = call.run(module)
    try:
        part = pieces[-1].run(module)  # the first could do without what went before it
    except RuntimeError:  # it asks for that very number of rows
        return [call]
    rows = pieces[-1].rows
    fits = len(whole) == len(part) and all(
        a.dim() > 0
        and a.size(0) == call.rows
        and torch.allclose(a[-rows:], b, rtol=1e-3, atol=1e-5, equal_nan=True)
        for a, b in zip(whole, part, strict=True)
    )
    return pieces if fits else [call]


def _recording(method: Callable[..., Any], name: str, calls: list[Call]) -> Callable[..., Any]:
    def record(*args: Any, **kwargs: Any) -> Any:
        call = Call(name, args, kwargs)
        held = sum(tensor.nbytes for kept in calls for tensor in kept.tensors)
        more = sum(tensor.nbytes for tensor in call.tensors)
        if not calls or (len(calls) < MOST_CALLS and held + more <= MOST_BYTES):
            calls.append(Call(name, *copied((args, kwargs))))
        return method(*args, **kwargs)

    return record


def _is_floating(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()
