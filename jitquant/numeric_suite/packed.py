"""The weights that an integer op holds, taken out of what they were packed into.

Each kind of holder is a row: its class, and how integers, scales and axis are found in it. Weights come as
the op multiplies with them: integers with scale and zero point, or halves.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor

from jitquant.numeric_suite.float_weights import float_weights
from jitquant.numeric_suite.graphs import Graph, Node, Value, class_name

Unpack = Callable[[Graph, Node, Value], list[Tensor]]


def held_weights(graph: Graph, node: Node, of_user: Collection[str]) -> list[Tensor]:
    """The weights that an op holds: those of the node that gives its value or, where an op has become
    several, of those in front of it.

    Args:
        graph: the graph of the node.
        node: what gives the op's value.
        of_user: the names of the nodes that give the values of ops, behind which nothing is looked for.
    """
    waiting, seen = [node], set(of_user)
    while waiting:
        candidate = waiting.pop(0)
        found = _taken(graph, candidate)
        if found:
            return found
        for before in (value.node() for value in candidate.inputs()):
            if before.kind() != "prim::Param" and name_of(before) not in seen:
                seen.add(name_of(before))
                waiting.append(before)
    return []


def name_of(node: Node) -> str:
    """Unique among the nodes of a graph that give something; empty for one that gives nothing."""
    return next((str(output.debugName()) for output in node.outputs()), "")


def rows_of(weight: Tensor, begin: int, end: int) -> Tensor:
    """Some rows of a weight, with their scales."""
    if not weight.is_quantized or weight.qscheme() == torch.per_tensor_affine:
        return weight[begin:end]
    scales, zero_points = weight.q_per_channel_scales(), weight.q_per_channel_zero_points()
    return torch._make_per_channel_quantized_tensor(
        weight.int_repr()[begin:end], scales[begin:end], zero_points[begin:end], 0
    )


def like(weight: Tensor, reference: Tensor) -> Tensor | None:
    """The weight with the shape of the float one; None where it is no weight of that shape.

    Some are packed with another dimension, and 4-bit rows with a column more.
    """
    if weight.shape == reference.shape:
        return weight
    if not weight.is_quantized:
        return None
    if weight.numel() == reference.numel() and weight.squeeze().shape == reference.squeeze().shape:
        return _rebuilt(weight, weight.int_repr().reshape(reference.shape))
    rows, columns = reference.shape if reference.dim() == 2 else (-1, -1)
    if weight.shape == (rows, columns + 1):
        return _rebuilt(weight, weight.int_repr()[:, :columns])
    return None


def _rebuilt(weight: Tensor, integers: Tensor) -> Tensor:
    if weight.qscheme() == torch.per_tensor_affine:
        return torch._make_per_tensor_quantized_tensor(integers, weight.q_scale(), weight.q_zero_point())
    return torch._make_per_channel_quantized_tensor(
        integers,
        weight.q_per_channel_scales(),
        weight.q_per_channel_zero_points(),
        weight.q_per_channel_axis(),
    )


def kernel_state(graph: Graph, value: Value) -> tuple[dict[str, str], list[Tensor]]:
    """The words and tensors of a kernel of the native target (csrc/runtime/spec.h)."""
    (text, tensors), _ = graph.attribute(value).__getstate__()
    return dict(word.split("=", 1) for word in text.split(" ")), tensors


def _taken(graph: Graph, node: Node) -> list[Tensor]:
    unpack_op = _BY_OP.get(node.kind())
    found = unpack_op(graph, node) if unpack_op is not None else []
    for value in () if found else _with_lists_apart(node):
        unpack = _HOLDERS.get(_class_around(value)) or _HOLDERS.get(class_name(value))
        if unpack is not None:
            found += unpack(graph, node, value)
    return found or [weight.tensor for weight in float_weights(graph, node)]


def _with_lists_apart(node: Node) -> Iterator[Value]:
    for value in node.inputs():
        if value.node().kind() == "prim::ListConstruct":
            yield from value.node().inputs()
        else:
            yield value


def _class_around(value: Value) -> str:
    """The class of the object of csrc/packed_weight.cpp that a value is the packed weight of."""
    return class_name(value.node().input()) if value.node().kind() == "prim::GetAttr" else ""


def as_quantized(
    integers: Tensor, scales: Tensor, axis: int = 0, zero_points: Tensor | None = None
) -> Tensor:
    """Integers with one scale, or one for each index along an axis."""
    if scales.numel() == 1 and zero_points is None:
        return torch._make_per_tensor_quantized_tensor(integers, float(scales), 0)
    if scales.numel() == 1:
        scales = scales.expand(integers.shape[axis])
    zeros = torch.zeros(scales.numel(), dtype=torch.long) if zero_points is None else zero_points
    return torch._make_per_channel_quantized_tensor(integers, scales.flatten(), zeros, axis)


def _of_stock(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    return [graph.attribute(value).unpack()[0]]


def _of_stock_linear(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    return [_linear_weight(graph.attribute(value))]


def _linear_weight(packed: Any) -> Tensor:
    """What is packed in half precision comes out as float32."""
    weight = packed.unpack()[0]
    return weight if weight.is_quantized else weight.half()


def _of_cell(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    """A layer of a recurrent op in one direction: the weight for its input, then that for its state."""
    (_, _, _, _, packed), _ = graph.attribute(value).__getstate__()
    return [_linear_weight(each) for each in packed]


def _of_rows(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    """The op's own scales and zero points lie in the memory of the packed rows, and are gone with these."""
    rows = torch.ops.quantized.embedding_bag_unpack(graph.attribute(value))
    zero_points = rows.q_per_channel_zero_points().clone()
    return [as_quantized(rows.int_repr(), rows.q_per_channel_scales().clone(), zero_points=zero_points)]


def _of_onednn(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    return [as_quantized(graph.state(value.node().input())[0], graph.static(node.namedInput("w_scale")))]


def _of_dequantized_rows(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    integers, scales = graph.state(value.node().input())
    return [as_quantized(integers, scales)]


def _of_half(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    return [graph.state(value.node().input())[0]]


def _of_kernel(graph: Graph, node: Node, value: Value) -> list[Tensor]:
    words, tensors = kernel_state(graph, value)
    kind = words["kernel"]
    if kind == "linear_bfloat16":
        return [tensors[0]]
    if kind == "recurrent":
        count = 2 * int(words["layers"]) * int(words["directions"])
        return [as_quantized(*pair) for pair in zip(tensors[:count], tensors[count : 2 * count], strict=True)]
    if kind not in ("conv", "linear", "linear_dynamic"):
        return []
    if (
        "output_padding" in words
    ):  # transposed: [input, output of a group, ...], and groups share their scales
        return [as_quantized(tensors[0], tensors[1][: tensors[0].shape[1]], axis=1)]
    return [as_quantized(tensors[0], tensors[1])]


_HOLDERS: dict[str, Unpack] = {
    "quantized.Conv2dPackedParamsBase": _of_stock,
    "quantized.Conv3dPackedParamsBase": _of_stock,
    "quantized.LinearPackedParamsBase": _of_stock_linear,
    "quantized.EmbeddingPackedParamsBase": _of_rows,
    "rnn.CellParamsBase": _of_cell,
    "jitquant.PackedConv": _of_onednn,
    "jitquant.PackedLinear": _of_onednn,
    "jitquant.DequantizedRows": _of_dequantized_rows,
    "jitquant.PackedHalf": _of_half,
    "jitquant.Kernel": _of_kernel,
}


def _nibbles(graph: Graph, node: Node) -> list[Tensor]:
    """Rows as `pack_rows_4bit` (csrc/packed_weight.cpp) lays them out, as integers from 0 to 15.

    An odd width has one value more, which is 0 in every row and which no output shows.
    """
    rows = graph.static(node.namedInput("weight"))
    pairs, ends = rows[:, :-4], rows[:, -4:].contiguous().view(torch.half).float()
    integers = torch.stack([pairs % 16, pairs // 16], 2).flatten(1)
    return [as_quantized(integers, ends[:, 0], zero_points=-ends[:, 1] / ends[:, 0])]


def _symmetric_rows(graph: Graph, node: Node) -> list[Tensor]:
    """Looked-up integers times looked-up scales."""
    looked_up = [value.node() for value in node.inputs() if value.node().kind() == "aten::embedding"]
    if len(looked_up) != 2:
        return []
    integers, scales = (graph.static(each.namedInput("weight")) for each in looked_up)
    if integers is None or scales is None or integers.dtype != torch.int8:
        return []
    return [as_quantized(integers, scales)]


_BY_OP: dict[str, Callable[[Graph, Node], list[Tensor]]] = {
    "quantized::embedding_bag_4bit_rowwise_offsets": _nibbles,
    "aten::mul": _symmetric_rows,
}
