"""Which op takes how much of the time of a node that gives the values of several, as of merged linears.

Before: %all : Tensor = quantized::linear_dynamic(%x, %packed, %reduce)
        %parts : Tensor[] = aten::split_with_sizes(%all, %sizes, %axis)
After:  the ops of %parts take the time of both nodes, in proportion to %sizes
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Protocol

from jitquant.numeric_suite.graphs import Graph
from jitquant.numeric_suite.packed import name_of

__all__ = ["share_times"]


class Place(Protocol):
    """Of an op's value: a node, and which of its outputs; negative within a fused op."""

    @property
    def node(self) -> int: ...
    @property
    def output(self) -> int: ...


_SPLIT = "aten::split_with_sizes"


def share_times(
    graph: Graph, places: Mapping[int, Place], by_node: Mapping[int, float]
) -> tuple[dict[int, float], set[int]]:
    """The time of each op, in µs, and the nodes whose time that is.

    A node that stands for no op, and feeds nothing but splits that stand for several, is timed with these.

    Args:
        graph: of the quantized model's forward.
        places: of its ops, by their numbers.
        by_node: times, by the place of a node among those that make tensors.
    """
    members: dict[int, list[int]] = {}
    for index, place in places.items():
        members.setdefault(place.node, []).append(index)
    splits = {name_of(graph.nodes[node]): node for node in members if _is_merged(graph, members[node], node)}
    times: dict[int, float] = {}
    taken = {node for node in members if node in by_node}
    whole = {node: by_node[node] for node in taken}
    for node, user_names in _feeders(graph, members, splits).items():
        if node in by_node:
            taken.add(node)
            for name in user_names:
                whole[splits[name]] = whole.get(splits[name], 0.0) + by_node[node] / len(user_names)
    for node, us in whole.items():
        shares = _shares(graph, places, members[node], node in splits.values(), node)
        times.update({index: us * share for index, share in shares.items()})
    return times, taken


def _is_merged(graph: Graph, indices: Collection[int], node: int) -> bool:
    return len(indices) > 1 and graph.nodes[node].kind() == _SPLIT


def _feeders(graph: Graph, members: Collection[int], splits: Mapping[str, int]) -> dict[int, list[str]]:
    """The nodes that stand for no op and feed splits alone, with the names of these."""
    found = {}
    for place, node in enumerate(graph.nodes):
        users = [name_of(use.user) for output in node.outputs() for use in output.uses()]
        if place not in members and users and all(user in splits for user in users):
            found[place] = users
    return found


def _shares(
    graph: Graph, places: Mapping[int, Place], indices: Collection[int], is_split: bool, node: int
) -> dict[int, float]:
    """The part of a node's time that is each op's: of a fused one's all is that of each op in it."""
    if not is_split:
        return dict.fromkeys(indices, 1.0)
    seen = [index for index in indices if places[index].output >= 0]
    sizes = graph.static(graph.nodes[node].namedInput("split_sizes"))
    of_each = {index: sizes[places[index].output] if sizes else 1 for index in seen}
    return {index: size / sum(of_each.values()) for index, size in of_each.items()}
