"""Where the inputs of the integer model's nodes come from, in terms of the user's ops."""

from __future__ import annotations

from typing import Any

import torch

from jitquant import _C
from jitquant.watch import final_places

# What only changes how a number is written down, or divides it by the factors of smooth_inputs.
_CONVERSIONS = {
    "aten::_make_per_tensor_quantized_tensor",
    "aten::dequantize",
    "aten::int_repr",
    "aten::mul",  # what loading a file makes of the next
    "aten::multiply",
    "aten::quantize_per_tensor",
    "aten::to",
    "jitquant::dequantize",
    "jitquant::quantize",
}


def origins_of(quantized: torch.jit.ScriptModule, caller: str) -> dict[int, list[int | None]]:
    """For each op, the ops that give the inputs of its node, conversions aside.

    -1 stands for what no op gives, such as an input of the model, and for what comes out of a branch; None
    for a value within the op, where it has become several nodes.
    """
    places = final_places(quantized, caller)
    made_by = {(place.method, place.node): index for index, place in sorted(places.items())}
    methods = {place.method for place in places.values()}
    nodes = {method: _C.tensor_nodes(quantized._c, method) for method in methods}

    def origin(method: str, node: int) -> int | None:
        while node >= 0:
            if (method, node) in made_by:
                return made_by[method, node]
            facts: dict[str, Any] = nodes[method][node]
            if facts["op"] not in _CONVERSIONS:
                return None
            node = facts["producers"][0] if facts["producers"] else -1
        return -1

    return {
        index: [origin(place.method, node) for node in nodes[place.method][place.node]["producers"]]
        for index, place in places.items()
    }
