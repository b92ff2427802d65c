"""A TorchScript graph as a list of plain nodes: what gives tensors, and whose tensors it takes.

Constants, attributes, numbers, lists and tuples are left out, and so are branches and loops: what they hold
stands in the order in which it is written, and takes what could reach it first.

Before: %l : Tensor[] = prim::ListConstruct(%a, %b)
        %c : Tensor = aten::cat(%l, %one)
After:  aten::cat takes from the nodes of %a and %b
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from jitquant.report_data import GraphNode

__all__ = ["outline_graph"]

_FILL = ("aten::append", "aten::_set_item")
_REPACK = (*_FILL, "aten::__getitem__")

Sources = tuple[int, ...]


def outline_graph(
    graph: torch.Graph, ops_of: Mapping[int, Sequence[int]]
) -> tuple[list[GraphNode], dict[int, int]]:
    """The nodes of a graph that give tensors, each behind what it takes from.

    Args:
        graph: inlined. It is not changed.
        ops_of: the indices of the model's ops that a node computes. Nodes are named as ``Watched`` does, by
            their place among those that make tensors, in program order.

    Returns:
        The nodes, and where in that list each of the named ones is.
    """
    outline = _Outline(ops_of)
    outline.add_graph(graph)
    return outline.nodes, outline.positions


class _Outline:
    def __init__(self, ops_of: Mapping[int, Sequence[int]]) -> None:
        self.nodes: list[GraphNode] = []
        self.positions: dict[int, int] = {}
        self._ops_of = ops_of
        self._sources: dict[int, Sources] = {}  # by the number of a value
        self._count = 0  # of nodes that make tensors

    def add_graph(self, graph: torch.Graph) -> None:
        for value in list(graph.inputs())[1:]:  # the first is the module
            self._give([value], (self._append("input", value.debugName(), (), ()),))
        self._add_block(graph)
        self._append("output", "", self._taken(graph.outputs()), ())

    def _add_block(self, block: torch.Graph | torch.Block) -> None:
        for node in block.nodes():
            if node.kind() in ("prim::If", "prim::Loop"):
                self._add_control_flow(node)
            else:
                self._add_node(node)

    def _add_node(self, node: torch.Node) -> None:
        taken = self._taken(node.inputs())
        if _makes_tensors(node):
            if node.kind() not in _REPACK:
                position = self._append(
                    node.kind(), node.scopeName(), taken, self._ops_of.get(self._count, ())
                )
                self.positions[self._count] = position
                taken = (position,)
            self._count += 1
        if node.kind() in _FILL:  # a list holds what was put into it afterwards, too
            self._give([next(iter(node.inputs()))], taken)
        self._give(list(node.outputs()), taken)

    def _add_control_flow(self, node: torch.Node) -> None:
        """What a loop carries comes from before it; what goes round is left out, or there were no order."""
        is_loop = node.kind() == "prim::Loop"
        carried = list(node.inputs())[2:] if is_loop else []
        given: list[set[int]] = [set(self._taken([value])) for value in carried]
        given = given or [set() for _ in node.outputs()]
        for block in node.blocks():
            parameters = list(block.inputs())[1:] if is_loop else []
            for parameter, value in zip(parameters, carried, strict=True):
                self._give([parameter], self._taken([value]))
            self._add_block(block)
            results = list(block.outputs())[1:] if is_loop else list(block.outputs())
            for sources, value in zip(given, results, strict=True):
                sources.update(self._taken([value]))
        for value, sources in zip(node.outputs(), given, strict=True):
            self._give([value], tuple(sorted(sources)))

    def _append(self, op: str, module: str, inputs: Sources, ops: Sequence[int]) -> int:
        self.nodes.append(GraphNode(op, module, list(inputs), list(ops)))
        return len(self.nodes) - 1

    def _taken(self, values: Iterator[torch.Value] | Sequence[torch.Value]) -> Sources:
        """The nodes that tensors come from, each once, in order."""
        found = (source for value in values for source in self._sources.get(value.unique(), ()))
        return tuple(dict.fromkeys(found))

    def _give(self, values: Sequence[torch.Value], sources: Sources) -> None:
        for value in values:
            self._sources[value.unique()] = sources if _holds_tensors(value.type()) else ()


def _makes_tensors(node: torch.Node) -> bool:
    """As csrc/watch.cpp says it, or the places of nodes would not be the same."""
    if node.schema() == "(no schema)" or node.kind().startswith("prim::"):
        return False
    return any(_is_tensor(value.type()) or _is_tensor_list(value.type()) for value in node.outputs())


def _is_tensor(kind: torch._C.JitType) -> bool:
    return kind.kind() == "TensorType"


def _is_tensor_list(kind: torch._C.JitType) -> bool:
    return kind.kind() == "ListType" and _is_tensor(kind.getElementType())


def _holds_tensors(kind: torch._C.JitType) -> bool:
    return _is_tensor(kind) or "Tensor" in str(kind)
