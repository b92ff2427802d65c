"""The ops of a float model and of the integer one that was made of it, node by node."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from functools import cached_property
from itertools import zip_longest
from typing import NamedTuple, NoReturn

import torch
from torch import Tensor

from jitquant.errors import QuantizationError
from jitquant.numeric_suite.float_weights import FloatWeight, float_weights
from jitquant.numeric_suite.graphs import Graph, Node
from jitquant.numeric_suite.names import names_of
from jitquant.numeric_suite.packed import held_weights, like, name_of, rows_of
from jitquant.numeric_suite.selection import is_within
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
        self._caller = caller
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

    def result_names(self, paths: Collection[str] | None = None) -> dict[int, str]:
        """What each value is called that both models give, by the number of its op.

        Of ops that are one node of the integer graph it is the value of the last and the name of the first.

        Args:
            paths: only of ops in these modules, or fused with such; None for all.
        """
        fused: dict[int, list[int]] = {}
        found = {}
        for op in self.ops:
            if op.group >= 0:
                fused.setdefault(op.group, []).append(op.index)
            if op.is_result:
                members = fused.pop(op.group)
                modules = [self.ops[i].module for i in members]
                if paths is None or any(is_within(module, path) for module in modules for path in paths):
                    found[op.index] = self.names[members[0]]
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
        for weight, held in zip_longest(floats, self._held_weights(index)):
            quantized = None if weight is None or held is None else like(held, weight.tensor)
            if quantized is None:
                self._refuse(index, weight, held)
            tensor = weight.tensor if smoothing is None else weight.tensor * smoothing.factors
            yield WeightPair(weight.name, tensor, quantized)

    def _refuse(self, index: int, weight: FloatWeight | None, held: Tensor | None) -> NoReturn:
        name = f"{self.names[index]}.{'weight' if weight is None else weight.name}"
        here, there = (
            "missing" if each is None else "×".join(map(str, each.shape))
            for each in (None if weight is None else weight.tensor, held)
        )
        raise QuantizationError(
            f"{self._caller}: {name} is {here} here and {there} in the quantized model; give the float model "
            "that was quantized"
        )

    def smoothing(self, index: int) -> Smoothing | None:
        """What was done to the input of an integer linear."""
        return self._smoothings.get(index)

    @cached_property
    def _smoothings(self) -> dict[int, Smoothing]:
        found = {}
        for op in self.ops:
            if op.op == "aten::linear" and op.is_integer and op.index in self._places:
                graph, twin = self._graphs[op.method], self._twin_graphs[op.method]
                nodes = self._node(op.index), self._twin_node(op.index)
                smoothing = find_smoothing(graph, nodes[0], twin, nodes[1], self._of_user[op.method])
                if smoothing is not None:
                    found[op.index] = smoothing
        return found

    @cached_property
    def _of_user(self) -> dict[str, dict[str, int]]:
        """By method, the nodes that give the values of ops, by name, and the last op of each."""
        found: dict[str, dict[str, int]] = {method: {} for method in self._graphs}
        for index, place in sorted(self._places.items()):
            found[place.method][name_of(self._node(index))] = index
        return found

    def input_params(self, index: int) -> tuple[float, int] | None:
        """Scale and zero point of what an op takes first, where the op itself says them."""
        node, graph = self._node(index), self._graphs[self.ops[index].method]
        if not node.kind().startswith("onednn::"):
            return None
        return graph.static(node.namedInput("x_scale")), graph.static(node.namedInput("x_zero_point"))

    @cached_property
    def divisors(self) -> dict[int, Tensor]:
        """The factors by which the integer model divides the value of a layer norm, by its number."""
        found = {}
        for index, smoothing in self._smoothings.items():
            if smoothing.norm is not None:
                norm = self._of_user[self.ops[index].method][name_of(smoothing.norm)]
                found[norm] = smoothing.factors
        return found

    def _float_weights(self, index: int) -> list[FloatWeight]:
        return float_weights(self._twin_graphs[self.ops[index].method], self._twin_node(index))

    def _held_weights(self, index: int) -> list[Tensor]:
        node, place = self._node(index), self._places[index]
        graph = self._graphs[place.method]
        held = held_weights(graph, node, self._of_user[place.method])
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
