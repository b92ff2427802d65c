"""What chooses the qconfig of each op: a quantizer, which sees the ops and says how each is quantized."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch

from jitquant import _C
from jitquant.errors import QuantizationError
from jitquant.qconfig import QConfig, as_qconfig, make_observers

__all__ = ["ComposedQuantizer", "OpNode", "Quantizer"]

ObserverModules = tuple[torch.jit.ScriptModule, torch.jit.ScriptModule]
Assignments = Mapping[str, Sequence[ObserverModules | None]]  # of each of a method's nodes, in their order


@dataclass(frozen=True, eq=False)
class OpNode:
    """One op of the model, in the canonical graph that observers are inserted into.

    Those are the ops that have a row in the op table (see OPS.md). Batch norms are folded by then, and ops
    have one spelling each: ``relu6`` is ``hardtanh``, a ``view`` is ``reshape``. Two nodes are equal only if
    they are the same one.

    Attributes:
        method: the method of the top module that it is in.
        index: its place among the nodes of that method, from 0.
        op: its canonical name, such as ``conv2d``.
        module: the dotted path of its module; empty for the model itself, and where freezing lost it.
        module_type: the class of that module, such as ``torch.nn.modules.conv.Conv2d``; None where it is
            gone.
        source: file and line of the user's code; empty where none is known.
        order: its place among the ops of that name in exactly that module and method, from 0.
        weight_shape: the shape of its weight; None where it has none, or one that is computed.
        producers: the nodes that its inputs come from, directly or through lists, tuples, branches and loops.
            Of what goes round in a loop, only where it came in.
    """

    method: str
    index: int
    op: str
    module: str = ""
    module_type: str | None = None
    source: str = ""
    order: int = 0
    weight_shape: tuple[int, ...] | None = None
    producers: tuple[OpNode, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        place = f" at {self.source}" if self.source else ""
        return f"{self.op}{place}{f' ({self.module})' if self.module else ''}"


@runtime_checkable
class Quantizer(Protocol):
    """Chooses by code what a QConfigMapping cannot say; pass it to ``prepare_jit`` or ``quantize_jit``."""

    def annotate(self, graph: Sequence[OpNode]) -> Mapping[OpNode, QConfig | None]:
        """The qconfig of each node that this quantizer has something to say about; None keeps it float.

        Args:
            graph: the nodes of all methods that are to be quantized, method by method in program order.

        Nodes that no quantizer names stay float.
        """
        ...


@dataclass(frozen=True)
class ComposedQuantizer:
    """Several quantizers as one: where two name a node, the later one decides.

    Raises:
        TypeError: if one of them has no ``annotate``, or if there is none.
    """

    quantizers: Sequence[Quantizer]

    def __post_init__(self) -> None:
        object.__setattr__(self, "quantizers", tuple(self.quantizers))
        if not self.quantizers:
            raise TypeError("ComposedQuantizer: there is nothing to compose; pass a list of quantizers")
        for quantizer in self.quantizers:
            if not is_quantizer(quantizer):
                kind = quantizer.__name__ if isinstance(quantizer, type) else type(quantizer).__name__
                raise TypeError(
                    f"ComposedQuantizer: {kind} is no quantizer; pass objects with annotate(graph), such as "
                    "jitquant.QConfigMapping()"
                )

    def annotate(self, graph: Sequence[OpNode]) -> Mapping[OpNode, QConfig | None]:
        chosen: dict[OpNode, QConfig | None] = {}
        for quantizer in self.quantizers:
            chosen.update(_annotated(quantizer, graph))
        return chosen


def is_quantizer(obj: object) -> bool:
    """Whether an object, and not a class, has ``annotate``."""
    return isinstance(obj, Quantizer) and not isinstance(obj, type)


def module_types(module: torch.jit.ScriptModule) -> dict[str, str]:
    """The class of the module at each path, as Python calls it; shared submodules are there at each path."""
    return dict(_typed(module._c, ""))


def list_ops(module: torch.jit.ScriptModule, methods: Sequence[str] = ("forward",)) -> tuple[OpNode, ...]:
    """The nodes of a canonical module, as a quantizer sees them."""
    types = module_types(module)
    found: list[OpNode] = []
    for method, facts in _C.list_ops(module._c, list(methods)).items():
        nodes: list[OpNode] = []
        orders: dict[tuple[str, str], int] = {}
        for index, fact in enumerate(facts):
            op, path, shape = fact["op"].removeprefix("aten::"), fact["module"], fact["weight_shape"]
            order = orders.get((op, path), 0)
            orders[op, path] = order + 1
            nodes.append(
                OpNode(
                    method=method,
                    index=index,
                    op=op,
                    module=path,
                    module_type=types.get(path),
                    source=fact["source"],
                    order=order,
                    weight_shape=None if shape is None else tuple(shape),
                    producers=tuple(nodes[place] for place in fact["producers"]),
                )
            )
        found += nodes
    return tuple(found)


def choose_qconfigs(
    quantizer: Quantizer, module: torch.jit.ScriptModule, methods: Sequence[str] = ("forward",)
) -> dict[OpNode, QConfig | None]:
    """What a quantizer chooses for each node of a canonical module, in the order of `list_ops`.

    Raises:
        QuantizationError: where it returns something else than qconfigs of nodes.
    """
    graph = list_ops(module, methods)
    chosen = _annotated(quantizer, graph)
    return {node: chosen.get(node) for node in graph}


def compile_observers(chosen: Mapping[OpNode, QConfig | None]) -> Assignments:
    """The observers of each node: compiled once for each qconfig, and shared as prototypes.

    Raises:
        QuantizationError: where TorchScript cannot compile one.
    """
    compiled: dict[QConfig, ObserverModules] = {}
    assigned: dict[str, list[ObserverModules | None]] = {}
    for node, qconfig in chosen.items():
        if qconfig is not None and qconfig not in compiled:
            compiled[qconfig] = _compiled(qconfig, node)
        assigned.setdefault(node.method, []).append(None if qconfig is None else compiled[qconfig])
    return assigned


def describe_choice(chosen: Mapping[OpNode, QConfig | None]) -> dict[str, str]:
    """The qconfig of each node in words, by the words that say which node it is."""
    words = {qconfig: "float" if qconfig is None else qconfig.describe() for qconfig in set(chosen.values())}
    many = len({node.method for node in chosen}) > 1

    def name(node: OpNode) -> str:
        place = f"{node.op} {node.order} of {node.module or 'the model itself'}"
        return f"{node.method}: {place}" if many else place

    return {name(node): words[qconfig] for node, qconfig in chosen.items()}


def _annotated(quantizer: Quantizer, graph: Sequence[OpNode]) -> dict[OpNode, QConfig | None]:
    """What a quantizer says, once it is known to be about these nodes."""
    name = type(quantizer).__name__
    said: Any = quantizer.annotate(graph)
    if not isinstance(said, Mapping):
        raise QuantizationError(
            f"insert_observers: {name}.annotate returned a {type(said).__name__}; "
            "return a dict from nodes of the graph to qconfigs or None"
        )
    nodes = set(graph)
    chosen: dict[OpNode, QConfig | None] = {}
    for node, qconfig in said.items():
        if node not in nodes:
            raise QuantizationError(
                f"insert_observers: {name}.annotate names {node!r}, which is no node of the graph; "
                "take nodes from the graph that it is given"
            )
        try:
            chosen[node] = None if qconfig is None else as_qconfig(qconfig)
        except TypeError as error:
            raise QuantizationError(f"insert_observers: {name}.annotate, of {node}: {error}") from error
    return chosen


def _compiled(qconfig: QConfig, node: OpNode) -> ObserverModules:
    try:
        return make_observers(qconfig)
    except (TypeError, ValueError) as error:
        raise QuantizationError(f"insert_observers: the qconfig of {node}: {error}") from error


def _typed(module: Any, path: str) -> Iterator[tuple[str, str]]:
    yield path, _class_name(module)
    for name, part in torch._C.ModuleDict(module).items():
        yield from _typed(part, f"{path}.{name}" if path else name)


def _class_name(module: Any) -> str:
    """``torch.nn.modules.conv.Conv2d`` for ``__torch__.torch.nn.modules.conv.___torch_mangle_1.Conv2d``."""
    name = module._type().qualified_name()
    return re.sub(r"___torch_mangle_\d+\.", "", name).removeprefix("__torch__.")
