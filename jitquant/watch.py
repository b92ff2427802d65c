"""Values of a float model and of the integer one that was made of it, matched op by op while they run.

Each op of the float model has a number: that of its row in ``summarize``. A quantized module says, in an
attribute that is saved with it, which node of its final graph gives each op's value.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from jitquant import _C
from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.info import read_info
from jitquant.pipeline import BEFORE_OBSERVING, EQUALIZE, PassOptions, run_passes
from jitquant.preparation import working_copy
from jitquant.summary import read_report

ATTRIBUTE = "_jitquant_places"
_WITHIN = -1  # of a value that lies within a fused op

OnOutput = Callable[[int, Tensor], None]
OnInputs = Callable[[int, list[Tensor]], None]
Substitute = Callable[[int, int, Tensor], Tensor | None]


@dataclass(frozen=True)
class WatchedOp:
    """One op of the float model, and where its value is in the integer one.

    Attributes:
        index: its number, which is that of its row in ``summarize``.
        key: what tells it from all others: the path of its module where that has no other op and no modules
            inside, else the path and the op's name, such as ``layer1.0.add``; with ``_1`` and so on behind
            those of one name, as of a module that is called twice.
        method, module, source, op, becomes, reason: as in ``OpSummary``.
        group: ops of one number are one node of the integer graph; -1 where nothing is left of an op.
        is_result: whether that node gives this op's value, and not that of an op behind it.
    """

    index: int
    key: str
    method: str
    module: str
    source: str
    op: str
    becomes: str
    reason: str
    group: int
    is_result: bool

    @property
    def is_integer(self) -> bool:
        """Whether it computes with integers."""
        return self.becomes != ""


@dataclass(frozen=True)
class _Place:
    """Of an op's value: a node, by its place among those that make tensors, and which of its outputs."""

    method: str
    node: int
    output: int


@dataclass(frozen=True)
class _Slot:
    """One input of an op's node."""

    op: int
    method: str
    node: int
    slot: int


Places = dict[str, dict[int, tuple[int, int]]]  # by method and number: a node and its output


def take_places(module: torch.jit.ScriptModule, methods: Sequence[str]) -> Places:
    """Takes the numbers of ops off the graphs, and says where each was found."""
    return {method: _C.take_places(module._c, method) for method in methods}


def write_places(module: torch.jit.ScriptModule, places: Places) -> None:
    """Writes into the module where the value of each op is."""
    _C.set_string(module._c, ATTRIBUTE, json.dumps(places))


def watched_ops(quantized: torch.jit.ScriptModule, caller: str = "watched_ops") -> tuple[WatchedOp, ...]:
    """The ops of the float model that a quantized one was made of, in program order.

    Raises:
        QuantizationError: for a module that jitquant did not convert, or converted with ``debug``.
    """
    places = _read_places(quantized, caller)
    records = read_report(quantized)
    groups: dict[tuple[str, int], int] = {}
    ops = []
    for index, (record, key) in enumerate(zip(records, _keys(records), strict=True)):
        place = places.get(index)
        group = -1 if place is None else groups.setdefault((place.method, place.node), len(groups))
        shown = {name: record[name] for name in ("method", "module", "source", "op", "becomes", "reason")}
        is_result = place is not None and place.output != _WITHIN
        ops.append(WatchedOp(index=index, key=key, group=group, is_result=is_result, **shown))
    return tuple(ops)


def float_twin(
    model: torch.jit.ScriptModule, quantized: torch.jit.ScriptModule, caller: str = "float_twin"
) -> torch.jit.ScriptModule:
    """A copy of the float model with the ops of `quantized` in their order: calls inlined, norms folded.

    Raises:
        QuantizationError: if `quantized` was not made of a model like this one.
    """
    check_script_module(model, caller)
    facts = _facts_of(quantized, caller)
    records = read_report(quantized)
    methods = _methods_of(facts)
    for method in methods:
        if not model._c._has_method(method):
            raise QuantizationError(
                f"{caller}: the float model has no method {method!r}, which the quantized one has; give the "
                "model that it was made of"
            )
    if read_info(model) is not None:
        raise QuantizationError(
            f"{caller}: the float model was prepared or quantized by jitquant; give the one before that"
        )
    twin = working_copy(model, inplace=False)
    equalizes = facts.get("accuracy", {}).get("equalize_layers", False)
    passes = BEFORE_OBSERVING + (EQUALIZE if equalizes else ())
    run_passes(passes, twin, PassOptions(target=facts["target"]), methods=methods, title="float twin")
    _check_same_ops(twin, records, methods, caller)
    return twin


def final_places(quantized: torch.jit.ScriptModule, caller: str = "final_places") -> dict[int, _Place]:
    """Where the integer model gives the value of each op of which something is left."""
    return _read_places(quantized, caller)


def twin_places(twin: torch.jit.ScriptModule, quantized: torch.jit.ScriptModule) -> dict[int, _Place]:
    """Where the float twin does."""
    return _twin_places(twin, _methods_of(_facts_of(quantized, "twin_places")))


class Watched:
    """A copy of a quantized model or of its float twin, with watchers at its values.

    Args:
        module: the model; a twin is what ``float_twin`` returned.
        quantized: None where `module` is the quantized model itself; of a twin, that model.
        outputs: the numbers of the ops to watch the results of; None for all.
        inputs: the numbers of the ops to watch the inputs of.
        substitutes: likewise, of a twin, those of which an input may be given another value.

    Where `module` is quantized, an op within a fused one has no value of its own, and an op's inputs are
    those of the fused one, told to the number of the last op in it.
    """

    def __init__(
        self,
        module: torch.jit.ScriptModule,
        quantized: torch.jit.ScriptModule | None = None,
        *,
        outputs: Collection[int] | None = None,
        inputs: Collection[int] = (),
        substitutes: Collection[int] = (),
    ) -> None:
        self._nodes: dict[str, list[dict[str, Any]]] = {}
        methods = _methods_of(_facts_of(module if quantized is None else quantized, "Watched"))
        self._module = torch.jit._recursive.wrap_cpp_module(_C.clone(module._c, share_tensors=True))
        for method in methods:
            self._nodes[method] = _C.tensor_nodes(self._module._c, method)
        self._places = _read_places(module, "Watched") if quantized is None else _twin_places(module, methods)
        results = {index: place for index, place in self._places.items() if self._is_seen(place)}
        self.visible = frozenset(results)  # the ops whose values the model gives
        self._outputs = [index for index in results if outputs is None or index in outputs]
        self._inputs = self._slots(index for index in results if index in inputs)
        self._substitutes = self._slots(index for index in results if index in substitutes)
        for method in methods:
            _C.watch_method(
                self._module._c,
                method,
                [
                    (place.node, place.output, number)
                    for number, place in enumerate(self._places[index] for index in self._outputs)
                    if place.method == method
                ],
                _points(self._inputs, method, len(self._outputs)),
                _points(self._substitutes, method, 0),
            )

    @cached_property
    def producers(self) -> dict[int, list[int]]:
        """For each op the numbers of those that made its inputs; -1 of what none of them made."""
        made_by = {(place.method, place.node): index for index, place in sorted(self._places.items())}
        return {
            index: [
                made_by.get((place.method, node), -1)
                for node in self._nodes[place.method][place.node]["producers"]
            ]
            for index, place in self._places.items()
        }

    def run(
        self,
        inputs: tuple[Any, ...],
        on_output: OnOutput | None = None,
        on_inputs: OnInputs | None = None,
        substitute: Substitute | None = None,
        *,
        method: str = "forward",
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the model without gradients and returns what it returns.

        Args:
            inputs: what the method takes.
            kwargs: what it takes by name.
            on_output: called as ``on_output(number, value)`` as soon as an op has run; more than once in a
                loop.
            on_inputs: called as ``on_inputs(number, values)`` right before an op runs.
            substitute: called as ``substitute(number, slot, value)`` for each input of the ops named as
                `substitutes`; gives what takes its place, or None.

        Integers arrive as quantized tensors, of both targets. They may be overwritten after the callback.
        """
        pending: dict[int, dict[int, Tensor]] = {}  # of an op whose inputs have not all come, by slot

        def see(number: int, value: Tensor) -> None:
            if number < len(self._outputs):
                index = self._outputs[number]
                if on_output is not None:
                    on_output(index, self._with_params(self._places[index], value))
                return
            slot = self._inputs[number - len(self._outputs)]
            seen = pending.setdefault(slot.op, {})
            seen[slot.slot] = self._with_input_params(slot, value)
            if len(seen) == self._taken(slot):
                del pending[slot.op]
                if on_inputs is not None:  # those of a list come first, as that is made before
                    on_inputs(slot.op, [seen[place] for place in sorted(seen)])

        def replace(number: int, value: Tensor) -> Tensor | None:
            slot = self._substitutes[number]
            return None if substitute is None else substitute(slot.op, slot.slot, value)

        unoptimized = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
        with torch.no_grad(), unoptimized, _watching(see, replace):
            return getattr(self._module, method)(*inputs, **(kwargs or {}))

    def _is_seen(self, place: _Place) -> bool:
        """Whether the value stands in the graph as a tensor: not within a fused op, nor in a growing list."""
        return place.output != _WITHIN and place.output < self._nodes[place.method][place.node]["tensors"]

    def _slots(self, indices: Iterator[int]) -> list[_Slot]:
        slots = []
        for index in indices:
            place = self._places[index]
            count = len(self._nodes[place.method][place.node]["producers"])
            slots += [_Slot(index, place.method, place.node, slot) for slot in range(count)]
        return slots

    def _taken(self, slot: _Slot) -> int:
        return len(self._nodes[slot.method][slot.node]["producers"])

    def _with_params(self, place: _Place, value: Tensor) -> Tensor:
        return self._as_user_sees(place.method, place.node, value)

    def _with_input_params(self, slot: _Slot, value: Tensor) -> Tensor:
        producer = self._nodes[slot.method][slot.node]["producers"][slot.slot]
        return self._as_user_sees(slot.method, producer, value)

    def _as_user_sees(self, method: str, node: int, value: Tensor) -> Tensor:
        """Plain integers with their scale and zero point, and without the factors of smoothed channels."""
        if value.dtype not in (torch.uint8, torch.int8):
            return value
        maker = self._maker(method, node)
        if maker is None:
            return value
        quantized = torch._make_per_tensor_quantized_tensor(value, *_params_of(maker))
        factors = self._factors_of(maker)
        return quantized if factors is None else quantized.dequantize() / factors

    def _maker(self, method: str, node: int) -> dict[str, Any] | None:
        """The node that gave plain integers their scale: this one, or one before ops that only move them."""
        while node >= 0:
            facts = self._nodes[method][node]
            if facts["params"] is not None or "output" in _words(facts["kernel"]):
                return facts
            node = facts["producers"][0] if facts["producers"] else -1
        return None

    def _factors_of(self, maker: dict[str, Any]) -> Tensor | None:
        if maker["op"] not in _WITH_FACTORS:
            return None
        (_, tensors), _ = self._module._c.getattr(maker["attributes"][0]).__getstate__()
        place = _WITH_FACTORS[maker["op"]]
        return tensors[place] if len(tensors) > place else None


# Kernels that multiply with a factor for each channel before they round, and its place among their tensors.
_WITH_FACTORS = {"jitquant::linear": 3, "jitquant::quantize": 0}


def _words(kernel: str) -> dict[str, str]:
    return dict(word.split("=", 1) for word in kernel.split(" ") if "=" in word)


def _params_of(maker: dict[str, Any]) -> tuple[float, int]:
    if maker["params"] is not None:
        scale, zero_point = maker["params"]
    else:
        scale, zero_point = _words(maker["kernel"])["output"].split(",")
    return float(scale), int(zero_point)


def _points(slots: list[_Slot], method: str, first: int) -> list[tuple[int, int, int]]:
    return [
        (slot.node, slot.slot, first + number) for number, slot in enumerate(slots) if slot.method == method
    ]


_one_at_a_time = threading.RLock()
_watchers: list[tuple[Any, Any]] = []  # the last one sees: what a callback runs is watched by its own


@contextmanager
def _watching(see: Any, replace: Any) -> Iterator[None]:
    with _one_at_a_time:
        _watchers.append((see, replace))
        try:
            yield
        finally:
            _watchers.pop()


def _see(number: int, value: Tensor) -> None:
    if _watchers:
        _watchers[-1][0](number, value)


def _replace(number: int, value: Tensor) -> Tensor | None:
    return _watchers[-1][1](number, value) if _watchers else None


_C.watch_with(_see, _replace)  # for good: an op that runs may not lose what it calls


def _facts_of(module: torch.jit.ScriptModule, caller: str) -> dict[str, Any]:
    check_script_module(module, caller)
    facts = read_info(module)
    if facts is None or facts["stage"] != "quantized" or not module._c.hasattr(ATTRIBUTE):
        raise QuantizationError(
            f"{caller}: the quantized model does not say what became of each op; give what quantize_jit or "
            "convert_jit returned (not with debug), of this version of jitquant"
        )
    return facts


def _methods_of(facts: dict[str, Any]) -> list[str]:
    return list(facts.get("methods", ("forward",)))


def _read_places(module: torch.jit.ScriptModule, caller: str) -> dict[int, _Place]:
    _facts_of(module, caller)
    written = json.loads(module._c.getattr(ATTRIBUTE))
    firsts: dict[str, int] = {}
    for index, record in enumerate(read_report(module)):
        firsts.setdefault(record["method"], index)
    return {
        firsts[method] + int(number): _Place(method, *place)
        for method, places in written.items()
        for number, place in places.items()
    }


def _twin_places(twin: torch.jit.ScriptModule, methods: Sequence[str]) -> dict[int, _Place]:
    places: dict[int, _Place] = {}
    for method in sorted(methods):  # as reports are
        for node in _C.computing_places(twin._c, method):
            places[len(places)] = _Place(method, node, 0)
    return places


def _check_same_ops(
    twin: torch.jit.ScriptModule, records: Sequence[dict[str, Any]], methods: Sequence[str], caller: str
) -> None:
    found = []
    for method in sorted(methods):
        nodes = _C.tensor_nodes(twin._c, method)
        found += [nodes[place]["op"] for place in _C.computing_places(twin._c, method)]
    expected = [record["op"] for record in records]
    if found != expected:
        first = next(
            (i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b),
            min(len(found), len(expected)),
        )
        here = found[first] if first < len(found) else "nothing"
        there = expected[first] if first < len(expected) else "nothing"
        raise QuantizationError(
            f"{caller}: the quantized model was not made of this float model: op {first} is {here} here and "
            f"{there} there; give the model that was quantized"
        )


def _keys(records: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each op that no other has."""
    ops_of_module: dict[str, set[str]] = {}
    for record in records:
        ops_of_module.setdefault(record["module"], set()).add(record["op"])
    parents = {path[:dot] for path in ops_of_module for dot, sign in enumerate(path) if sign == "."} | {""}
    counts: dict[str, int] = {}
    keys = []
    for record in records:
        name = record["op"].removeprefix("aten::")
        alone = record["module"] not in parents and len(ops_of_module[record["module"]]) == 1
        key = record["module"] if alone else ".".join(filter(None, (record["module"], name)))
        count = counts.get(key, 0)
        counts[key] = count + 1
        keys.append(f"{key}_{count}" if count else key)
    return keys
