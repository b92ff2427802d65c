"""Where smooth_inputs divided the channels of a value by factors, so that what is compared has to be brought
to the same measure.

Nothing in the file says so by name; it follows from the graph (see passes/smooth_inputs.cpp): the factors
stand in a multiplication before the quantize, in a kernel of the native target, or in the layer norm in
front.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from jitquant.numeric_suite.graphs import Graph, Node
from jitquant.numeric_suite.packed import kernel_state, name_of

# What only changes how a number is written down.
_CONVERSIONS = {
    "aten::_make_per_tensor_quantized_tensor",
    "aten::dequantize",
    "aten::int_repr",
    "aten::quantize_per_tensor",
    "jitquant::dequantize",
}
# Kernels that multiply with factors before they round, and the place of these among their tensors.
_KERNELS = {"jitquant::linear": 3, "jitquant::quantize": 0}
_NORMS = {"aten::layer_norm", "quantized::layer_norm", "jitquant::layer_norm"}


@dataclass(frozen=True)
class Smoothing:
    """Of a linear's input.

    Attributes:
        factors: by what each channel of the input is divided, and each column of the weight multiplied;
            float32, shape [channels].
        norm: the layer norm of the integer graph that gives its value so divided; None where the division
            stands behind the op that gives the value.
        is_undone: whether ``Watched`` shows the values as they were before, as it does where a kernel
            divides.
    """

    factors: Tensor
    norm: Node | None = None
    is_undone: bool = False


def find_smoothing(
    graph: Graph, linear: Node, twin: Graph, twin_linear: Node, of_user: Collection[str]
) -> Smoothing | None:
    """What was done to the input of an integer linear, or None.

    Args:
        graph, linear: the integer graph and the op in it.
        twin, twin_linear: the float twin's, likewise.
        of_user: the names of the nodes that give the values of the user's ops (see ``name_of``).
    """
    node = linear.inputsAt(0).node()
    while node.kind() in _CONVERSIONS or (node.kind() == "jitquant::quantize" and not _tensors(graph, node)):
        node = node.inputsAt(0).node()
    # Loading a file makes the one of the other.
    if node.kind() in ("aten::mul", "aten::multiply") and name_of(node) not in of_user:
        return Smoothing(1 / graph.static(node.inputsAt(1)).flatten())
    if node.kind() in _KERNELS:
        tensors, place = _tensors(graph, node), _KERNELS[node.kind()]
        return Smoothing(1 / tensors[place].flatten(), is_undone=True) if len(tensors) > place else None
    if node.kind() in _NORMS:
        return _of_norm(graph, node, twin, twin_linear.namedInput("input").node())
    return None


def _tensors(graph: Graph, node: Node) -> list[Tensor]:
    """Those of the kernel that a node of the native target runs."""
    return kernel_state(graph, list(node.inputs())[-1])[1]


def _of_norm(graph: Graph, norm: Node, twin: Graph, twin_norm: Node) -> Smoothing | None:
    """Weight and bias are divided; of a channel where both are 0 nothing can be said, nor matters."""
    if twin_norm.kind() != "aten::layer_norm":
        return None
    weight: Tensor | None
    if norm.kind() == "jitquant::layer_norm":
        weight, bias = _tensors(graph, norm)[:2]
    else:
        weight, bias = (graph.static(norm.namedInput(name)) for name in ("weight", "bias"))
    if weight is None:
        return None
    weight_before, bias_before = (twin.static(twin_norm.namedInput(name)) for name in ("weight", "bias"))
    ones = torch.ones_like(weight)
    factors = (ones if weight_before is None else weight_before) / weight
    if bias_before is not None:
        factors = torch.where(weight == 0, bias_before / bias, factors)
    factors = torch.where(factors.isfinite(), factors, ones).detach()
    return None if torch.equal(factors, ones) else Smoothing(factors, norm)
