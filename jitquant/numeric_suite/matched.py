"""The ops of a float model and of the integer one that was made of it, node by node."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from jitquant.numeric_suite.float_weights import FloatWeight, float_weights
from jitquant.numeric_suite.graphs import Graph, Node
from jitquant.numeric_suite.names import names_of
from jitquant.numeric_suite.packed import held_weights, like, name_of, rows_of
from jitquant.numeric_suite.smoothing import Smoothing, find_smoothing
from jitquant.watch import final_places, float_twin, twin_places, watched_ops


class WeightPair(NamedTuple):
    """A weight of an op of the float model, and the one that the integer op holds, of the same shape."""

    name: str
    floating: Tensor
    quantized: Tensor


class Matched:
    """Both models, and of each op the nodes that give its value.

    Attributes:
        twin: the canonical copy of the float model.
        ops: the ops in program order.

    Raises:
        QuantizationError: where the one was not made of the other (see ``float_twin``).
    """

    def __init__(
        self, float_model: torch.jit.ScriptModule, quantized: torch.jit.ScriptModule, caller: str
    ) -> None:
        self.quantized = quantized
        self.ops = watched_ops(quantized, caller)
        self.twin = float_twin(float_model, quantized, caller)
        self._places = final_places(quantized, caller)
        self._twin_places = twin_places(self.twin, quantized)
        methods = {op.method for op in self.ops}
        self._graphs = {method: Graph(quantized, method) for method in methods}
        self._twin_graphs = {method: Graph(self.twin, method) for method in methods}

    @cached_property
    def names(self) -> list[str]:
        """What each op is called in results; see ``names_of``."""
        return names_of(self.ops, [bool(self._float_weights(op.index)) for op in self.ops])

    def result_names(self) -> dict[int, str]:
        """What each value is called that both models give, by the number of its op.

        Of ops that are one node of the integer graph it is the value of the last and the name of the first.
        """
        firsts: dict[int, str] = {}
        found = {}
        for op, name in zip(self.ops, self.names, strict=True):
            if op.group >= 0:
                firsts.setdefault(op.group, name)
            if op.is_result:
                found[op.index] = firsts.pop(op.group)
        return found

    def with_several_results(self) -> list[int]:
        """The ops that give several tensors, of which the first is their value."""
        return [op.index for op in self.ops if self._twin_node(op.index).outputsSize() > 1]

    def weights(self, index: int) -> Iterator[WeightPair]:
        """The weights of an op of which something is left."""
        floats = self._float_weights(index) if index in self._places else []
        if not floats:
            return
        smoothing = self.smoothing(index)
        for weight, held in zip(floats, self._held_weights(index), strict=True):
            tensor = weight.tensor if smoothing is None else weight.tensor * smoothing.factors
            yield WeightPair(weight.name, tensor, like(held, tensor))

    def smoothing(self, index: int) -> Smoothing | None:
        """What was done to the input of an integer linear."""
        if self.ops[index].op != "aten::linear" or not self.ops[index].is_integer or index not in self._places:
            return None
        method = self.ops[index].method
        graph, twin = self._graphs[method], self._twin_graphs[method]
        return find_smoothing(graph, self._node(index), twin, self._twin_node(index))

    def input_params(self, index: int) -> tuple[float, int] | None:
        """Scale and zero point of what an op takes first, where the op itself says them."""
        node, graph = self._node(index), self._graphs[self.ops[index].method]
        if not node.kind().startswith("onednn::"):
            return None
        return graph.static(node.namedInput("x_scale")), graph.static(node.namedInput("x_zero_point"))

    @cached_property
    def divisors(self) -> dict[int, Tensor]:
        """For each layer norm whose value in the integer model is divided by factors, these, one for each channel."""
        found = {}
        by_node = {name_of(self._node(index)): index for index in self._places}
        for op in self.ops:
            smoothing = self.smoothing(op.index)
            if smoothing is not None and smoothing.norm is not None:
                found[by_node[name_of(smoothing.norm)]] = smoothing.factors
        return found

    def _float_weights(self, index: int) -> list[FloatWeight]:
        return float_weights(self._twin_graphs[self.ops[index].method], self._twin_node(index))

    def _held_weights(self, index: int) -> list[Tensor]:
        node, place = self._node(index), self._places[index]
        graph = self._graphs[place.method]
        others = {self._places[other].node for other in self._places if self._places[other].method == place.method}
        held = held_weights(graph, node, [graph.nodes[other] for other in others])
        if node.kind() != "aten::split_with_sizes" or not held:
            return held
        sizes = graph.static(node.namedInput("split_sizes"))
        begin = sum(sizes[: place.output])
        return [rows_of(held[0], begin, begin + sizes[place.output])]

    def _node(self, index: int) -> Node:
        place = self._places[index]
        return self._graphs[place.method].nodes[place.node]

    def _twin_node(self, index: int) -> Node:
        place = self._twin_places[index]
        return self._twin_graphs[place.method].nodes[place.node]
