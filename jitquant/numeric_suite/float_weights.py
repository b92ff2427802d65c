"""The weights of an op of the float model, and of one that stays float, with the names that torch.nn gives
them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from torch import Tensor

from jitquant import _C
from jitquant.numeric_suite.graphs import Graph, Node

# What torch.nn calls the weights of a cell, which the ops name otherwise.
_CELL = {"w_ih": "weight_ih", "w_hh": "weight_hh"}
_RECURRENT = ("weight_ih", "weight_hh", "weight_hr")


@dataclass(frozen=True)
class FloatWeight:
    """A weight that is the same in every call.

    Attributes:
        name: as in the module's state dict: ``weight``, ``weight_hh_l1_reverse``.
        tensor: its values.
    """

    name: str
    tensor: Tensor


def float_weights(graph: Graph, node: Node) -> list[FloatWeight]:
    """The float weights that a node takes, in its order; nothing where they are computed."""
    arguments = _weight_arguments().get(node.kind(), ())
    if arguments == ("params",):
        return _of_layers(graph, node)
    found = []
    for argument in arguments:
        tensor = graph.static(node.namedInput(argument))
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            return []
        found.append(FloatWeight(_CELL.get(argument, argument), tensor.detach()))
    return found


@cache
def _weight_arguments() -> dict[str, tuple[str, ...]]:
    """What each op's weights are called, by the op's name without its overload."""
    return {row["op"].split(".")[0]: tuple(row["weights"]) for row in _C.op_table() if row["weights"]}


def _of_layers(graph: Graph, node: Node) -> list[FloatWeight]:
    """Of each layer and direction the matrices; biases have one dimension."""
    tensors = graph.static(node.namedInput("params"))
    if tensors is None or not all(isinstance(tensor, Tensor) for tensor in tensors):
        return []
    matrices = [tensor.detach() for tensor in tensors if tensor.dim() == 2]
    directions = 2 if graph.static(node.namedInput("bidirectional")) else 1
    each = len(matrices) // (directions * graph.static(node.namedInput("num_layers")))
    names = []
    for i in range(len(matrices)):
        layer, direction = divmod(i // each, directions)
        names.append(f"{_RECURRENT[i % each]}_l{layer}{'_reverse' if direction else ''}")
    return [FloatWeight(name, matrix) for name, matrix in zip(names, matrices, strict=True)]
