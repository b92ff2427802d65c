"""What a report says of a float model and its quantized twin: values, times, sizes and both graphs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitquant.errors import QuantizationError
from jitquant.graph_outline import outline_graph
from jitquant.info import read_info
from jitquant.numeric_suite.graphs import Graph
from jitquant.numeric_suite.matched import Matched
from jitquant.pair_histogram import PairHistogram
from jitquant.presets import PRESETS
from jitquant.report_data import Figures, HistogramData, OpData, ReportData, TimeData
from jitquant.report_shares import share_times
from jitquant.report_times import compare_times, profile_places, runs_within
from jitquant.report_values import Comparison, compare_values
from jitquant.summary import OpSummary, Summary, summarize
from jitquant.watch import final_places, twin_places

__all__ = ["measure"]

_FLOAT32_BYTES = 4
_METHOD = "forward"
_NIBBLES = "quantized::embedding_bag_4bit_rowwise_offsets"  # its integers come out as bytes

Model = torch.jit.ScriptModule


def measure(
    float_model: Model, quantized: Model, batches: Iterator[tuple[Any, ...]], title: str, caller: str
) -> ReportData:
    """Runs both models on all batches, and more often on the first; arguments are those of ``report``."""
    matched = Matched(float_model, quantized, caller)
    if all(op.method != _METHOD for op in matched.ops):
        raise QuantizationError(
            f"{caller}: forward of the quantized model is not quantized; report shows forward, so name it in "
            "methods= of quantize_jit"
        )
    first = next(batches, None)
    if first is None:
        raise QuantizationError(f"{caller}: data is empty; pass at least one batch of what forward takes")
    compared = compare_values(matched, quantized, chain([first], batches), caller)
    runs = runs_within(matched.twin, first)
    summary = summarize(quantized, first)
    floats = _Side(matched, matched.twin, twin_places(matched.twin, quantized), first, runs)
    final = _Side(matched, quantized, final_places(quantized), first, runs)
    rows = _Rows(matched, compared, summary, floats, final)
    return ReportData(
        title=title or float_model.original_name,
        facts=_facts(quantized, compared, runs),
        figures=_figures(float_model, quantized, compared, summary, first, runs),
        ops=rows.all(),
        other_times=rows.other_times(),
        float_graph=rows.floats.graph,
        graph=rows.final.graph,
    )


class _Side:
    """One of the two models: its graph, and where in it the ops are.

    Attributes:
        places: of the ops, by their numbers: the place of the node among those that make tensors.
        graph: what is drawn.
        positions: of nodes in `graph`, by their place.
        times: of its nodes.
        op_times: of the ops, by their numbers, in µs.
        timed: the nodes whose times these are, by their places.
    """

    def __init__(
        self, matched: Matched, model: Model, places: Mapping[int, Any], inputs: tuple[Any, ...], runs: int
    ) -> None:
        of_forward = {index: place for index, place in places.items() if place.method == _METHOD}
        self.places = {index: place.node for index, place in of_forward.items()}
        rows = _row_numbers(matched)
        members: dict[int, list[int]] = {}
        for index, place in sorted(self.places.items()):
            members.setdefault(place, []).append(index)
        rows_of = {place: [rows[index] for index in indices] for place, indices in members.items()}
        graph, self.positions = outline_graph(model._c._get_method(_METHOD).graph, rows_of)
        for place, indices in members.items():  # a file has lost the paths of its nodes
            if place in self.positions:
                position = self.positions[place]
                graph[position] = replace(graph[position], module=matched.ops[indices[0]].module)
        self.graph = graph
        self.times = profile_places(model, inputs, runs)
        self.op_times, self.timed = share_times(Graph(model, _METHOD), of_forward, self.times.by_place)


def _row_numbers(matched: Matched) -> dict[int, int]:
    """A report shows one method, so its rows are numbered anew."""
    of_forward = [op.index for op in matched.ops if op.method == _METHOD]
    return {index: row for row, index in enumerate(of_forward)}


class _Rows:
    """The ops of forward, each with all that was measured of it."""

    def __init__(
        self, matched: Matched, compared: Comparison, summary: Summary, floats: _Side, final: _Side
    ) -> None:
        self.floats, self.final = floats, final
        self._matched, self._compared, self._summary = matched, compared, summary
        self._numbers = _row_numbers(matched)
        self._results = {op.group: op.index for op in matched.ops if op.is_result}

    def all(self) -> list[OpData]:
        return [self._row(index) for index in self._numbers]

    def other_times(self) -> list[TimeData]:
        """Of the nodes that stand for no op of the model, each kind together."""
        times = self.final.times
        sums = {op: (calls, us) for op, calls, us in times.others}
        for place, us in times.by_place.items():
            if place not in self.final.timed:
                op = times.ops[place]
                calls, before = sums.get(op, (0, 0.0))
                sums[op] = (calls + 1, before + us)
        rows = [TimeData(op, calls, us) for op, (calls, us) in sums.items()]
        return [*sorted(rows, key=lambda row: -row.us), TimeData("between ops", 1, times.between)]

    def _row(self, index: int) -> OpData:
        op, summary = self._matched.ops[index], self._summary.ops[index]
        result = self._results.get(op.group, index)
        is_result = result == index or op.is_result
        histogram = self._compared.histograms.get(index)
        bits = 4 if op.becomes == _NIBBLES else None
        weights, held = [], 0
        for pair in self._matched.weights(index):
            weights.append((pair.name, _data_of(pair.floating, pair.quantized, bits)))
            held += pair.quantized.numel() * (bits or 8 * pair.quantized.element_size()) // 8
        place = self.final.places.get(index)
        floats = self.floats.places.get(index)
        return OpData(
            key=op.key,
            method=op.method,
            module=op.module,
            source=op.source,
            op=op.op,
            becomes=op.becomes,
            reason=op.reason,
            part_of=None if is_result else self._numbers[result],
            sqnr=None if histogram is None else histogram.sqnr,
            equal=histogram is not None and histogram.equal,
            float_bytes=_FLOAT32_BYTES * summary.weights,
            bytes=held or int(_FLOAT32_BYTES * summary.weights - summary.bytes_saved),
            float_us=self.floats.op_times.get(index),
            us=self.final.op_times.get(index) if is_result else None,
            float_node=None if floats is None else self.floats.positions.get(floats),
            node=None if place is None else self.final.positions.get(place),
            activation=None if histogram is None or histogram.is_empty else histogram.data(),
            weights=[(name, data) for name, data in weights if data is not None],
            no_activation=_WHY_NO_VALUES,
            no_weights="" if weights else _why_no_weights(summary),
        )


_WHY_NO_VALUES = "The quantized model has no float or integer values in the place of these."


def _why_no_weights(op: OpSummary) -> str:
    return "Its weight is not known apart from its input." if op.weights else "It has no weight."


def _data_of(expected: Tensor, got: Tensor, bits: int | None) -> HistogramData | None:
    """Of a weight; `bits` where they are not those of the dtype."""
    histogram = PairHistogram(None if bits is None else 1 << bits)
    histogram.add(expected, got)
    return None if histogram.is_empty else histogram.data()


def _figures(
    float_model: Model,
    quantized: Model,
    compared: Comparison,
    summary: Summary,
    inputs: tuple[Any, ...],
    runs: int,
) -> Figures:
    float_ms, ms = compare_times(_frozen(float_model), quantized, inputs, runs)
    ops = [op for op in summary.ops if op.method == _METHOD]
    multiply_adds = summary.multiply_adds
    assert multiply_adds is not None
    return Figures(
        sqnr=compared.sqnr,
        equal=compared.noise == 0.0,
        float_bytes=_file_bytes(float_model),
        bytes=_file_bytes(quantized),
        float_ms=float_ms,
        ms=ms,
        integer_ops=sum(op.is_integer for op in ops),
        ops=len(ops),
        weights_share=summary.weights_share if any(op.weights for op in summary.ops) else None,
        multiply_adds_share=multiply_adds.integer_share if multiply_adds.whole else None,
        multiply_adds=multiply_adds.whole,
    )


def _frozen(model: Model) -> Model:
    """As somebody would run it who wants it fast."""
    try:
        return torch.jit.freeze(model)
    except RuntimeError:  # it is frozen already
        return model


def _file_bytes(model: Model) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        torch.jit.save(model, path)
        return path.stat().st_size


def _facts(quantized: Model, compared: Comparison, runs: int) -> list[tuple[str, str]]:
    facts = read_info(quantized) or {}
    batches = f"{compared.batches} batch{'es' if compared.batches > 1 else ''}"
    threads = f"{torch.get_num_threads()} thread{'s' if torch.get_num_threads() > 1 else ''}"
    engine = f", engine {facts['engine']}" if "engine" in facts else ""
    qconfigs = [f"{path or 'whole model'}: {words}" for path, words in facts.get("qconfig", {}).items()]
    how = "dynamic" if facts.get("dynamic") else f"preset {_preset_of(facts)}"
    return [
        ("target", f"{facts['target']} target{engine}"),
        ("accuracy", how),
        ("made with", f"jitquant {facts['jitquant']}, torch {facts['torch']}"),
        *[("qconfig", words) for words in qconfigs],
        ("processor", str(facts.get("cpu", "not known"))),
        ("values and SQNR", f"of {batches}"),
        ("times", f"of the first batch, medians of {runs} runs, {threads}; the float model frozen"),
    ]


def _preset_of(facts: Mapping[str, Any]) -> str:
    """Its name, or the switches where they are those of none."""
    switches = facts.get("accuracy", {})
    for name, methods in PRESETS.items():
        if vars(methods) == switches:
            return name
    return ", ".join(name for name, is_on in switches.items() if is_on) or "none"
