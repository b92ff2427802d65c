"""What a report shows, as plain data: the one thing between measuring and drawing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

__all__ = ["Figures", "GraphNode", "HistogramData", "OpData", "ReportData", "TimeData"]


@dataclass(frozen=True)
class HistogramData:
    """Counts of float and of quantized values in bins of one width.

    Attributes:
        first: where the first bin begins.
        width: of each bin, in units of the value.
        float_shares, quantized_shares: the part of all finite values in each bin, in millionths.
        below, above: the parts, from 0 to 1, of the float values below the first bin and above the last.
        lowest, highest: the extremes of the float values.
        range_low, range_high: the least and the greatest value of the range that was chosen; with a range for
            each channel, those of the widest. None where the quantized model has floats too.
        narrow_low, narrow_high: likewise those of the channel with the narrowest range; None with one range.
        scale: the step between two integers; with a range for each channel, the widest channel's.
        zero_point: the integer that stands for 0; None with a range for each channel.
        steps: how many integers the range was chosen for.
        channels: how many ranges; 1 for all values together.
        clipped: the part of the float values that no integer of the dtype stands for, from 0 to 1.
        sqnr: in dB, of quantized against float values; None where they are equal, or the float ones zeros.
        equal: whether they are equal in every bit.
    """

    first: float
    width: float
    float_shares: list[int]
    quantized_shares: list[int]
    below: float
    above: float
    lowest: float
    highest: float
    range_low: float | None = None
    range_high: float | None = None
    narrow_low: float | None = None
    narrow_high: float | None = None
    scale: float | None = None
    zero_point: int | None = None
    steps: int | None = None
    channels: int = 1
    clipped: float | None = None
    sqnr: float | None = None
    equal: bool = False


@dataclass(frozen=True)
class OpData:
    """One op of the model as it was before quantization: a row of ``summarize``, and what was measured.

    Attributes:
        key: its unique name in the model.
        method, module, source, op, becomes, reason: as in ``jitquant.OpSummary``.
        part_of: the index of the op whose value the integer op gives that this one is inside of; None where
            that is this op itself.
        sqnr, equal: as in ``HistogramData``, of what it gives; None and False where it is inside of another.
        float_bytes, bytes: what its weight takes as float32, and as it is now.
        float_us, us: µs in one call of the float model and of the quantized one; None where not known.
        float_node, node: its places in the two graphs; None where it has none of its own.
        activation: what it gives; None where there is nothing to compare.
        weights: names and values; a recurrent layer has several.
        no_activation, no_weights: why there is nothing; else empty.
    """

    key: str
    method: str
    module: str
    source: str
    op: str
    becomes: str
    reason: str
    part_of: int | None
    sqnr: float | None
    equal: bool
    float_bytes: int
    bytes: int
    float_us: float | None
    us: float | None
    float_node: int | None
    node: int | None
    activation: HistogramData | None
    weights: list[tuple[str, HistogramData]]
    no_activation: str = ""
    no_weights: str = ""


@dataclass(frozen=True)
class GraphNode:
    """A node of a graph that gives tensors; its place in the list is its name.

    Attributes:
        op: its kind, such as ``quantized::conv2d``; ``input`` and ``output`` for the ends of the graph.
        module: the dotted path of its module.
        inputs: places of the nodes whose tensors it takes.
        ops: the indices of the model's ops that it computes.
    """

    op: str
    module: str
    inputs: list[int]
    ops: list[int]


@dataclass(frozen=True)
class TimeData:
    """Time of the quantized model that belongs to no op of the float one: to quantize, between ops."""

    what: str
    calls: int
    us: float


@dataclass(frozen=True)
class Figures:
    """Float against quantized, of the whole model.

    sqnr, equal: of what forward gives, in dB, as in ``HistogramData``.
    float_bytes, bytes: of the two files.
    float_ms, ms: of one call, medians of runs that took turns; the float model frozen.
    integer_ops, ops: how many.
    weights_share, multiply_adds_share: the integer part of them, from 0 to 1; None where there are none.
    multiply_adds: of one call.
    """

    sqnr: float | None
    equal: bool
    float_bytes: int
    bytes: int
    float_ms: float
    ms: float
    integer_ops: int
    ops: int
    weights_share: float | None
    multiply_adds_share: float | None
    multiply_adds: int


@dataclass(frozen=True)
class ReportData:
    """All that a page says.

    Attributes:
        title: what the model is called.
        facts: name and value, in words, of how it was quantized and how it was measured.
        figures: of the whole model.
        ops: in program order.
        other_times: what else a call of the quantized model takes.
        float_graph, graph: the canonical float graph and the quantized one.
    """

    title: str
    facts: list[tuple[str, str]]
    figures: Figures
    ops: list[OpData]
    other_times: list[TimeData]
    float_graph: list[GraphNode]
    graph: list[GraphNode]

    def to_json(self) -> str:
        """Everything, on one line."""
        return json.dumps(asdict(self), allow_nan=False, separators=(",", ":"))
