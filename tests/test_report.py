"""Tests of report: what is measured, in pure Python, and the page that shows it, in a browser."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import jitquant
import jitquant.numeric_suite as ns
from jitquant import QuantizationError
from jitquant.graph_outline import outline_graph
from jitquant.numeric_suite.graphs import Graph
from jitquant.pair_histogram import BINS, PairHistogram, range_of
from jitquant.passes import parse_ir
from jitquant.qconfig import QConfig
from jitquant.report_data import GraphNode, ReportData
from jitquant.report_measures import measure
from jitquant.report_page import SCRIPTS, render_page
from jitquant.report_shares import share_times
from tests.browser import Browser, needs_browser
from tests.graphs import saved_and_loaded
from tests.networks import REPOSITORY, sqnr


class Spot(NamedTuple):
    """A node and which of its outputs."""

    node: int
    output: int


WHOLE = {"": jitquant.get_default_qconfig()}


class Net(nn.Module):
    """A convolution with a relu, a residual, erf, which stays float, and a head whose qconfig is None."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.next = nn.Conv2d(8, 8, 1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = torch.relu(self.next(y) + y)
        return self.head(torch.erf(y).mean([2, 3]))


IMAGES = [torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def pair(target: str = "quantized") -> tuple[torch.jit.ScriptModule, torch.jit.ScriptModule]:
    model = torch.jit.script(Net().eval())
    return model, jitquant.quantize_jit(model, WHOLE | {"head": None}, calibrate, [], target=target)


def calibrate(model: torch.jit.ScriptModule) -> None:
    for image in IMAGES:
        model(image)


def measured(
    model: torch.jit.ScriptModule, quantized: torch.jit.ScriptModule, *batches: Tensor
) -> ReportData:
    return measure(model, quantized, ((batch,) for batch in batches), "", "report")


def data_in(page: Path) -> dict[str, Any]:
    """What the page carries."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page.read_text(), re.S)
    assert found is not None
    return json.loads(found[1])  # type: ignore[no-any-return]


# Values


def test_bins_are_whole_steps_with_the_values_of_integers_in_their_middles() -> None:
    """Test that each bin of a quantized tensor's range holds as many of its values as the next one."""
    x = torch.rand(100_000) * 10 - 3
    histogram = PairHistogram()
    histogram.add(x, torch.quantize_per_tensor(x, 0.05, 60, torch.quint8))
    data = histogram.data()
    assert data.width == pytest.approx(0.05 * 256 / BINS)
    centres = torch.tensor([(q - 60) * 0.05 for q in range(256)], dtype=torch.float64)
    bins = ((centres - data.first) / data.width).floor().long()
    assert torch.bincount(bins).unique().tolist() == [0, 256 // BINS]
    assert (data.range_low, data.range_high) == (pytest.approx(-3.0), pytest.approx(195 * 0.05))
    assert (data.scale, data.zero_point, data.steps, data.channels) == (pytest.approx(0.05), 60, 256, 1)


def test_shares_add_up_and_clipped_values_are_counted() -> None:
    x = torch.cat([torch.linspace(0, 1, 900), torch.full((100,), 5.0)])
    histogram = PairHistogram()
    histogram.add(x, torch.quantize_per_tensor(x, 1 / 255, 0, torch.quint8))
    data = histogram.data()
    assert data.clipped == pytest.approx(0.1)
    assert data.above == pytest.approx(0.1)
    assert data.below == 0
    assert data.highest == 5.0
    assert sum(data.float_shares) == pytest.approx(0.9e6, abs=len(data.float_shares))
    assert sum(data.quantized_shares) == pytest.approx(1e6, abs=len(data.float_shares))


def test_batches_add_up_on_the_grid_of_the_first() -> None:
    """Test that memory does not grow: later values go to the grid that the first batch chose."""
    first, second = torch.randn(1000), 100 * torch.randn(1000)
    histogram = PairHistogram()
    histogram.add(first, first)
    bins = len(histogram.data().float_shares)
    histogram.add(second, second)
    data = histogram.data()
    assert len(data.float_shares) == bins
    assert data.below + data.above > 0.4
    assert data.highest == float(second.max())
    assert data.equal
    assert data.sqnr is None


def test_sqnr_of_a_histogram_is_that_of_all_batches() -> None:
    x = torch.randn(4, 1000)
    got = torch.quantize_per_tensor(x, 0.1, 128, torch.quint8)
    histogram = PairHistogram()
    for row, integers in zip(x, got, strict=True):
        histogram.add(row, integers)
    assert histogram.sqnr == pytest.approx(sqnr(x, got.dequantize()), abs=1e-3)


def test_channels_have_ranges_of_their_own() -> None:
    """Test that the widest and the narrowest range are told, and clipping is counted in each channel."""
    weight = torch.tensor([[1.0, -1.0], [0.25, 10.0]])
    got = torch.quantize_per_channel(weight, torch.tensor([0.01, 0.002]), torch.zeros(2), 0, torch.qint8)
    histogram = PairHistogram()
    histogram.add(weight, got)
    data = histogram.data()
    assert (data.channels, data.zero_point) == (2, None)
    assert (data.range_low, data.range_high) == (pytest.approx(-1.28), pytest.approx(1.27))
    assert (data.narrow_low, data.narrow_high) == (pytest.approx(-0.256), pytest.approx(0.254))
    assert data.clipped == 0.25
    assert range_of(weight) is None


def test_channels_of_equal_values_are_neither_the_widest_nor_the_narrowest() -> None:
    weight = torch.tensor([[0.0, 0.0], [0.5, -0.5], [0.25, 1.0], [9.0, 9.0]])
    scales = torch.tensor([1e-9, 0.004, 0.008, 0.1])
    histogram = PairHistogram()
    histogram.add(weight, torch.quantize_per_channel(weight, scales, torch.zeros(4), 0, torch.qint8))
    data = histogram.data()
    assert data.range_high == pytest.approx(127 * 0.008)
    assert data.narrow_high == pytest.approx(127 * 0.004)
    assert data.channels == 4


def test_a_range_of_seven_bits_clips_what_eight_cannot_hold() -> None:
    """Test that the range shown is the chosen one, and what the dtype holds above it is not clipped."""
    x = torch.cat([torch.linspace(0, 1.27, 800), torch.full((100,), 2.0), torch.full((100,), 3.0)])
    histogram = PairHistogram(128)
    histogram.add(x, torch.quantize_per_tensor(x, 0.01, 0, torch.quint8))
    data = histogram.data()
    assert (data.steps, data.range_high) == (128, pytest.approx(1.27))
    assert data.clipped == pytest.approx(0.1)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_no_numbers_are_left_out(value: float) -> None:
    x = torch.tensor([1.0, 2.0, value])
    histogram = PairHistogram()
    histogram.add(x, x)
    data = histogram.data()
    assert data.highest == 2.0
    assert sum(data.float_shares) == pytest.approx(1e6, abs=2)
    assert data.sqnr is None


def test_nothing_finite_is_an_empty_histogram() -> None:
    histogram = PairHistogram()
    histogram.add(torch.empty(0), torch.empty(0))
    assert histogram.is_empty


# Graphs


def outlined(text: str, **attributes: Any) -> list[tuple[str, list[int]]]:
    nodes, _ = outline_graph(parse_ir(text, attributes).graph, {})
    return [(node.op, node.inputs) for node in nodes]


def test_lists_and_numbers_are_left_out_of_a_graph() -> None:
    found = outlined("""
graph(%self, %x : Tensor, %y : Tensor):
  %one : int = prim::Constant[value=1]()
  %rows : int = aten::size(%x, %one)
  %a : Tensor = aten::relu(%x)
  %l : Tensor[] = prim::ListConstruct(%a, %y)
  %c : Tensor = aten::cat(%l, %one)
  return (%c)""")
    assert found == [
        ("input", []),
        ("input", []),
        ("aten::relu", [0]),
        ("aten::cat", [2, 1]),
        ("output", [3]),
    ]


def test_branches_and_loops_stand_in_the_order_in_which_they_are_written() -> None:
    """Test that what a branch gives comes from both of its sides, and a loop's value from before it too."""
    found = outlined("""
graph(%self, %x : Tensor, %n : int, %b : bool):
  %true : bool = prim::Constant[value=1]()
  %y : Tensor = prim::Loop(%n, %true, %x)
    block0(%i : int, %turn : Tensor):
      %r : Tensor = aten::relu(%turn)
      -> (%true, %r)
  %z : Tensor = prim::If(%b)
    block0():
      %s : Tensor = aten::sigmoid(%y)
      -> (%s)
    block1():
      -> (%y)
  return (%z)""")
    names = [name for name, _ in found]
    assert names[-3:] == ["aten::relu", "aten::sigmoid", "output"]
    relu, sigmoid = names.index("aten::relu"), names.index("aten::sigmoid")
    assert found[relu][1] == [0]
    assert found[sigmoid][1] == [0, relu]
    assert found[-1][1] == [0, relu, sigmoid]


def test_what_is_appended_to_a_list_comes_out_of_it() -> None:
    found = outlined("""
graph(%self, %x : Tensor):
  %zero : int = prim::Constant[value=0]()
  %l : Tensor[] = prim::ListConstruct()
  %a : Tensor = aten::relu(%x)
  %m : Tensor[] = aten::append(%l, %a)
  %y : Tensor = aten::stack(%l, %zero)
  return (%y)""")
    assert found[2:] == [("aten::stack", [1]), ("output", [2])]


# What is measured


def test_each_op_has_its_values_and_its_place(target: str) -> None:
    """Test the rows of a small network: SQNR as of the models' values, sizes, fused ops and graphs."""
    model, quantized = pair(target)
    data = measured(model, quantized, *IMAGES)
    rows = {op.op: op for op in data.ops}
    assert [op.op for op in data.ops] == [op.op for op in jitquant.summarize(quantized).ops]
    conv = data.ops[0]
    assert conv.part_of == 1
    assert conv.activation is None
    assert (conv.float_bytes, conv.bytes) == (4 * 3 * 8 * 9, 3 * 8 * 9)
    assert [name for name, _ in conv.weights] == ["weight"]
    assert conv.weights[0][1].channels == 8
    relu = data.ops[1]
    assert relu.part_of is None
    assert relu.sqnr is not None
    assert relu.sqnr > 25
    assert relu.activation is not None
    assert relu.activation.steps == 256
    assert rows["aten::erf"].reason == "no integer form of it is known"
    assert rows["aten::linear"].float_bytes == rows["aten::linear"].bytes == 4 * 8 * 4
    expected, got = (torch.cat([one(image) for image in IMAGES]) for one in (model, quantized))
    assert data.figures.sqnr == pytest.approx(sqnr(expected.detach(), got), abs=0.01)
    assert rows["aten::linear"].sqnr == pytest.approx(data.figures.sqnr, abs=0.01)


def test_graphs_name_the_ops_that_their_nodes_compute(target: str) -> None:
    data = measured(*pair(target), IMAGES[0])
    for index, op in enumerate(data.ops):
        assert op.float_node is not None
        assert op.node is not None
        assert data.float_graph[op.float_node].ops == [index]
        assert data.float_graph[op.float_node].op == op.op
        assert index in data.graph[op.node].ops
    conv, relu = data.ops[:2]
    assert conv.node == relu.node
    for graph in (data.float_graph, data.graph):
        assert [node.op for node in graph].count("output") == 1
        assert all(place < index for index, node in enumerate(graph) for place in node.inputs)


def test_times_of_ops_and_of_what_lies_between(target: str) -> None:
    data = measured(*pair(target), IMAGES[0])
    assert all(op.float_us is not None and op.float_us > 0 for op in data.ops)
    assert all((op.us is None) == (op.part_of is not None) for op in data.ops)
    others = [row.what for row in data.other_times]
    assert others[-1] == "between ops"
    assert any("quantize" in name for name in others)
    assert data.figures.float_ms > 0
    assert data.figures.ms > 0


SEVEN = jitquant.HistogramObserver.with_args(reduce_range=True)
EIGHT_OF_WEIGHTS = jitquant.PerChannelMinMaxObserver.with_args()
SEVEN_OF_WEIGHTS = jitquant.PerChannelMinMaxObserver.with_args(reduce_range=True)


@pytest.mark.parametrize(
    ("qconfig", "steps"),
    [
        (QConfig(SEVEN, EIGHT_OF_WEIGHTS), 128),
        (QConfig(jitquant.HistogramObserver.with_args(), SEVEN_OF_WEIGHTS), 256),
    ],
    ids=["activations", "weights"],
)
def test_reduced_ranges_are_shown_as_they_were_chosen(qconfig: QConfig, steps: int) -> None:
    """Test 7-bit activations beside a sigmoid, whose range is known beforehand, and 7-bit weights alone."""
    model = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid(), nn.Conv2d(8, 8, 1)).eval())
    quantized = jitquant.quantize_jit(model, {"": qconfig}, calibrate, [])
    assert jitquant.info(quantized)["reduce_range"]
    found = [op.activation.steps for op in measured(model, quantized, IMAGES[0]).ops if op.activation]
    assert found == [steps, 256, steps]


class Rows(nn.Module):
    """A table whose rows are summed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.EmbeddingBag(20, 16, mode="sum")

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        return self.rows(words, offsets)


def test_rows_of_four_bits_have_sixteen_steps_and_half_a_byte() -> None:
    model = torch.jit.script(Rows().eval())
    qconfig = jitquant.float_qparams_weight_only_qconfig_4bit
    quantized = jitquant.quantize_dynamic_jit(model, {"": qconfig})
    words, offsets = torch.arange(12), torch.tensor([0, 4])
    row = measure(model, quantized, iter([(words, offsets)]), "", "report").ops[-1]
    assert row.becomes == "quantized::embedding_bag_4bit_rowwise_offsets"
    assert row.weights[0][1].steps == 16
    assert (row.float_bytes, row.bytes) == (4 * 20 * 16, 20 * 16 // 2)


def test_a_recurrent_layer_of_half_precision_has_two_bytes_a_weight() -> None:
    """Test that bytes are those of the tensors that are held, which the name of the op does not say."""
    model = torch.jit.script(Words().eval())
    quantized = jitquant.quantize_dynamic_jit(model, {"": jitquant.float16_dynamic_qconfig})
    data = measured(model, quantized, torch.arange(12).view(6, 2))
    lstm = next(op for op in data.ops if op.op == "aten::lstm")
    assert lstm.becomes
    assert lstm.bytes * 2 == lstm.float_bytes


class Heads(nn.Module):
    """Three linears of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(64, 96), nn.Linear(64, 96), nn.Linear(64, 48)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.q(x), self.k(x), self.v(x)


def test_merged_linears_share_the_time_of_what_they_became(target: str) -> None:
    """Test that each has the part of the one linear and its split that its rows are, and nothing is over."""
    model = torch.jit.script(Heads().eval())
    quantized = jitquant.quantize_dynamic_jit(
        model, {"": jitquant.per_channel_dynamic_qconfig}, target=target
    )
    linear = {"quantized": "quantized::linear_dynamic", "native": "jitquant::linear_dynamic"}[target]
    data = measured(model, quantized, torch.randn(512, 64))
    assert [node.op for node in data.graph] == ["input", linear, "aten::split_with_sizes", "output"]
    q, k, v = (op.us or 0.0 for op in data.ops)
    assert q == k == pytest.approx(2 * v)
    assert v > 0
    assert [row.what for row in data.other_times] == ["between ops"]


SPLITS = """
graph(%self, %x : Tensor):
  %sizes : int[] = prim::Constant[value=[6, 2]]()
  %axis : int = prim::Constant[value=-1]()
  %a : Tensor = aten::relu(%x)
  %b : Tensor = aten::relu(%x)
  %p : Tensor[] = aten::split_with_sizes(%a, %sizes, %axis)
  %q : Tensor[] = aten::split_with_sizes(%b, %sizes, %axis)
  %c : Tensor = aten::neg(%b)
  return (%p, %q, %c)"""


def test_only_what_feeds_nothing_but_splits_shares_its_time() -> None:
    """Test the parts of each op, of splits behind a node of their own and behind one that others take too."""
    graph = Graph(parse_ir(SPLITS, {}), "forward")
    places = {0: Spot(2, 0), 1: Spot(2, 1), 2: Spot(3, 0), 3: Spot(3, 1), 4: Spot(4, 0), 5: Spot(4, -1)}
    times, timed = share_times(graph, places, {0: 10.0, 1: 20.0, 2: 6.0, 3: 4.0, 4: 1.0})
    assert times == {0: 12.0, 1: 4.0, 2: 3.0, 3: 1.0, 4: 1.0, 5: 1.0}
    assert timed == {0, 2, 3, 4}


def test_shares_and_sizes_of_the_whole() -> None:
    model, quantized = pair()
    summary = jitquant.summarize(quantized, IMAGES[0])
    figures = measured(model, quantized, IMAGES[0]).figures
    assert (figures.integer_ops, figures.ops) == (5, 8)
    assert figures.weights_share == summary.weights_share
    assert summary.multiply_adds is not None
    assert figures.multiply_adds == summary.multiply_adds.whole
    assert figures.bytes > 0
    assert figures.float_bytes > 0


@pytest.mark.parametrize("make", [saved_and_loaded, lambda model: model])
def test_loaded_and_traced_models(make: Callable[[Any], Any], target: str) -> None:
    """Test that a saved file says as much: values, module paths and places are found in it."""
    traced = torch.jit.trace(Net().eval(), IMAGES[0])
    quantized = jitquant.quantize_jit(traced, WHOLE, calibrate, [], target=target)
    data = measured(make(traced), make(quantized), *IMAGES)
    assert data.ops[0].module == "body.0"
    assert data.graph[data.ops[0].node or 0].module.startswith("body.")
    assert sum(op.activation is not None for op in data.ops) == sum(op.part_of is None for op in data.ops)


class Words(nn.Module):
    """An embedding, an LSTM and a linear."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.rnn = nn.LSTM(16, 8, num_layers=2)
        self.decoder = nn.Linear(8, 20)

    def forward(self, words: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        out, state = self.rnn(self.embedding(words))
        return self.decoder(out), state


def test_dynamic_models(target: str) -> None:
    """Test that values without a range of their own are compared, and all weights of a recurrent layer."""
    model = torch.jit.script(Words().eval())
    quantized = jitquant.quantize_dynamic_jit(
        model, {"": jitquant.per_channel_dynamic_qconfig}, target=target
    )
    data = measured(model, quantized, torch.arange(12).view(6, 2), torch.arange(4).view(2, 2))
    rows = {op.op: op for op in data.ops}
    assert len(rows["aten::lstm"].weights) == 4
    linear = rows["aten::linear"].activation
    assert linear is not None
    assert linear.scale is None
    assert linear.sqnr is not None
    assert linear.sqnr > 20
    assert data.figures.sqnr is not None
    assert ("accuracy", "dynamic") in data.facts


class Turns(nn.Module):
    """A linear in a loop whose results go into a list."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state, states = torch.zeros(4), []
        for i in range(x.size(0)):
            state = self.linear(x[i] + state)
            states.append(state)
        return torch.stack(states)


def test_loops(target: str) -> None:
    """Test that all turns of a loop count, that lists are passed over, and that both graphs have an order."""
    model = torch.jit.script(Turns().eval())
    x = torch.randn(6, 4)
    quantized = jitquant.quantize_jit(model, WHOLE, lambda m: m(x), [], target=target)
    data = measured(model, quantized, x)
    rows = {op.op: op for op in data.ops}
    turns, stacked = rows["aten::linear"].activation, rows["aten::stack"].activation
    assert turns is not None
    assert stacked is not None
    assert (turns.lowest, turns.highest) == (stacked.lowest, stacked.highest)
    assert rows["aten::append"].activation is None
    assert rows["aten::append"].float_node is None
    assert rows["aten::stack"].float_node is not None
    assert rows["aten::linear"].float_node in data.float_graph[rows["aten::stack"].float_node].inputs


def test_neither_model_is_changed() -> None:
    model, quantized = pair()
    before = [model(IMAGES[0]), quantized(IMAGES[0]), str(model.graph), str(quantized.graph)]
    measured(model, quantized, IMAGES[0])
    after = [model(IMAGES[0]), quantized(IMAGES[0]), str(model.graph), str(quantized.graph)]
    assert all(torch.equal(one, other) for one, other in zip(before[:2], after[:2], strict=True))
    assert before[2:] == after[2:]


def test_loggers_of_the_numeric_suite_get_nothing() -> None:
    """Test that models with loggers attached are run without them, and keep them."""
    model, quantized = pair()
    calls: list[int] = []

    class Count(ns.Logger):
        def forward(self, x: Tensor) -> None:
            calls.append(x.numel())

    ns.prepare_model_outputs(model, quantized, Count)
    measured(model, quantized, IMAGES[0])
    assert not calls
    quantized(IMAGES[0])
    assert calls


def test_values_are_compared_in_parts_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that holding less at once gives the same figures."""
    model, quantized = pair()
    whole = measured(model, quantized, *IMAGES)
    monkeypatch.setattr("jitquant.report_values.HELD_BYTES", 1)
    parts = measured(model, quantized, *IMAGES)
    assert [op.activation for op in parts.ops] == [op.activation for op in whole.ops]
    assert parts.figures.sqnr == whole.figures.sqnr


# The file


def test_the_page_is_written_and_its_path_returned(tmp_path: Path) -> None:
    """Test that one file comes out, with the data in it, and nothing in it that is fetched."""
    path = jitquant.report(*pair(), IMAGES, tmp_path / "page.html", title="A <b>title</b>")
    assert path == tmp_path / "page.html"
    text = path.read_text()
    assert data_in(path)["title"] == "A <b>title</b>"
    assert "<b>title" not in text
    assert not re.search(r"""(src|href)=|@import|url\((?!#)""", text)


def test_data_may_be_a_tensor_a_tuple_or_whatever_gives_them(tmp_path: Path) -> None:
    model, quantized = pair()
    for data, batches in [
        (IMAGES[0], 1),
        ((IMAGES[0],), 1),
        (iter(IMAGES), 3),
        ([(IMAGES[0],), IMAGES[1]], 2),
    ]:
        path = jitquant.report(model, quantized, data, tmp_path / "page.html")
        assert ["values and SQNR", f"of {batches} batch{'es' if batches > 1 else ''}"] in data_in(path)[
            "facts"
        ]


def test_every_script_is_in_the_page() -> None:
    folder = Path(jitquant.__file__).parent / "page"
    assert {path.stem for path in folder.glob("*.js")} == set(SCRIPTS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": []}, "data is empty; pass at least one batch"),
        ({"data": 3}, "data is a int; pass what forward takes"),
        ({"data": ["image"]}, "data gives a str; pass what forward takes"),
        ({"data": torch.randn(2, 5)}, "the model cannot be called with this data"),
        ({"path": 3}, "path is a int; pass the name of a file"),
        (
            {"path": "no/such/folder/page.html"},
            "cannot be written .there is no folder no/such/folder.; name a file",
        ),
        ({"path": "."}, "cannot be written .it is a folder.; name a file"),
        ({"float_model": Net()}, "the model is an eager Net; make it TorchScript"),
        (
            {"quantized": torch.jit.script(Net().eval())},
            "does not say what became of each op; give what quantize_jit",
        ),
        ({"float_model": torch.jit.script(nn.ReLU())}, "was not made of this float model"),
    ],
)
def test_what_cannot_be_shown_is_refused(arguments: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Test that a refusal names cause and remedy, and writes nothing."""
    model, quantized = pair()
    given = {
        "float_model": model,
        "quantized": quantized,
        "data": IMAGES,
        "path": tmp_path / "page.html",
    } | arguments
    with pytest.raises(QuantizationError, match=f"^report: .*{message}"):
        jitquant.report(**given)
    assert not list(tmp_path.iterdir())


def test_debug_models_are_refused(tmp_path: Path) -> None:
    model, _ = pair()
    debug = jitquant.quantize_jit(model, WHOLE, calibrate, [], debug=True)
    with pytest.raises(QuantizationError, match="not with debug"):
        jitquant.report(model, debug, IMAGES, tmp_path / "page.html")


def test_a_model_whose_forward_is_float_is_refused(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x)

        @torch.jit.export
        def other(self, x: Tensor) -> Tensor:
            return self.linear(x)

    model = torch.jit.script(Two().eval())
    x = torch.randn(2, 4)
    quantized = jitquant.quantize_jit(model, WHOLE, lambda m: m.other(x), [], methods=("other",))
    with pytest.raises(QuantizationError, match="forward of the quantized model is not quantized"):
        jitquant.report(model, quantized, x, tmp_path / "page.html")


# The page in a browser


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("program", ["/bin/false", "no/such/program", sys.executable])
def test_a_browser_that_does_not_answer_leaves_nothing_behind(
    program: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Test that its pipes are closed, its process is gone and its profile too, whatever went wrong."""
    monkeypatch.setattr("tests.browser.COMMAND", program)
    monkeypatch.setattr("tests.browser.tempfile.tempdir", str(tmp_path))
    before = open_files()
    processes = []
    start = subprocess.Popen

    def note(*arguments: Any, **options: Any) -> Any:
        processes.append(start(*arguments, **options))
        return processes[-1]

    monkeypatch.setattr("tests.browser.subprocess.Popen", note)
    with pytest.raises((RuntimeError, OSError)), Browser():
        pass
    assert processes[0].returncode is not None
    assert open_files() == before
    assert not list(tmp_path.iterdir())


def test_make_says_that_tests_of_the_page_will_skip(tmp_path: Path) -> None:
    """Test that it does so where there is no browser and no right to install one, and sets no stamp."""
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "which", "grep", "touch", "make", "mkdir"):
        (tools / name).symlink_to(shutil.which(name) or name)
    (tools / "id").write_text("#!/bin/sh\necho 1000\n")
    (tools / "id").chmod(0o755)
    (tmp_path / "venv").touch()
    result = subprocess.run(
        [tools / "make", f"STAMPS={tmp_path}", "-o", tmp_path / "venv", tmp_path / "browser"],
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
        env={"PATH": str(tools)},
    )
    assert "the tests of the page will skip" in result.stdout
    assert not (tmp_path / "browser").exists()


def test_a_missing_browser_is_a_failure_where_it_is_asked_for() -> None:
    """Test that JITQUANT_NEEDS_BROWSER=1 lets tests of the page run, and fail, where they would skip."""
    code = "from tests.browser import needs_browser; print(needs_browser.mark.args[0])"
    for asked, skips in [("", "True"), ("1", "False")]:
        environment = {**os.environ, "PATH": "/no/such/folder", "JITQUANT_NEEDS_BROWSER": asked}
        found = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            cwd=REPOSITORY,
            env=environment,
        )
        assert found.stdout.strip() == skips


MANY = 500
LONG = ".".join(["a_module_with_a_long_name"] * 12)
EVIL = "</script><script>window.harmed = 1</script><img src=x onerror='window.harmed = 1'>"


@pytest.fixture(scope="module")
def small() -> ReportData:
    torch.manual_seed(0)
    return measured(*pair(), *IMAGES)


@pytest.fixture
def page(small: ReportData, tmp_path: Path) -> Iterator[Browser]:
    """The page of the small network; that it complains of nothing is checked at the end of each test."""
    yield from opened(small, tmp_path)


def opened(data: ReportData, folder: Path, width: int = 1280) -> Iterator[Browser]:
    file = folder / "page.html"
    file.write_text(render_page(data), encoding="utf-8")
    with Browser(width) as page:
        page.open(file)
        yield page
        assert page.complaints == []
        assert page.requests == [file.as_uri()]


def many(data: ReportData, count: int) -> ReportData:
    """Ops in a long row, some of them float, with paths of any length and names that are markup."""
    op = replace(data.ops[1], part_of=None)
    ops = [
        replace(
            op,
            key=f"{EVIL}{i}",
            op=f"aten::{EVIL}" if i == 3 else f"aten::op{i}",
            module=EVIL if i % 3 == 0 else f"{LONG}.{i}",
            reason=f"{EVIL}: because of {EVIL}" if i % 5 == 4 else "",
            sqnr=50 - i / count * 40,
            float_node=i + 1,
            node=i + 1,
        )
        for i in range(count)
    ]
    graph = [
        GraphNode("input", EVIL, [], []),
        *(GraphNode(op.op, op.module, [i] if i else [0], [i]) for i, op in enumerate(ops)),
        GraphNode("output", "", [count], []),
    ]
    return replace(data, title=EVIL, ops=ops, float_graph=graph, graph=graph, facts=[(EVIL, EVIL)] * 4)


CHOSEN = '#table tr[aria-selected="true"]'


def chosen(page: Browser) -> int:
    return int(page.run(f"document.querySelector('{CHOSEN}').dataset.op"))


@needs_browser
def test_the_head_and_every_part_are_there(page: Browser, small: ReportData) -> None:
    """Test that figures, a point and a row for each op, histograms, graphs and reasons are drawn."""
    assert page.text("h1") == "Net"
    assert f"{small.figures.sqnr:.1f} dB" in page.text("#figures")
    assert "5 of 8" in page.text("#figures")
    parts = page.count("#curve .point, #curve .point-equal, #curve .point-part, #curve .point-float")
    assert parts == len(small.ops) == page.count("#table tbody tr")
    assert page.count("#curve .point-float") == sum(bool(op.reason) for op in small.ops)
    assert page.count("#activation .area") == page.count("#activation .steps-line") == 1
    assert page.count("#float-graph .node.chosen") == page.count("#graph .node.chosen") == 1
    assert page.count("#float-ops li") == 3
    assert "no integer form of it is known" in page.text("#float-ops")
    assert "between ops" in page.text("#table tfoot")


@needs_browser
def test_a_click_on_a_row_changes_histograms_and_graphs(page: Browser, small: ReportData) -> None:
    page.click('#table tr[data-op="0"]')
    weight = page.run("document.querySelector('#weight .area').getAttribute('points')")
    assert page.text("#op-path") == "body.0"
    assert "What relu behind it gives" in page.text("#activation figcaption")
    assert page.text("#float-graph .node.chosen .op-name") == "conv2d"
    assert "time of all 2" in page.text("#op-facts")
    page.click('#table tr[data-op="2"]')
    assert page.text("#op-path") == "next"
    assert page.run("document.querySelector('#weight .area').getAttribute('points')") != weight
    assert small.ops[2].activation is not None
    assert f"zero point {small.ops[2].activation.zero_point};" in page.text("#activation .note")
    page.click('#table tr[data-op="5"]')
    assert page.text("#op-kind") == "float"
    assert "no integer form of it is known" in page.text("#op-remark")


@needs_browser
def test_a_click_on_the_curve_and_the_tip_on_it(page: Browser, small: ReportData) -> None:
    """Test that a point is chosen where it is clicked, and told of where the mouse is over it."""
    left, top, width, height = page.box("#curve")
    place = left + 44 + (width - 56) * (5.5 / len(small.ops))
    page.move_to(place, top + height / 2)
    assert "erf" in page.text("#tip")
    assert "left float" in page.text("#tip")
    page.click_at(place, top + height / 2)
    assert chosen(page) == 5


@needs_browser
def test_a_click_on_a_node_walks_through_the_network(page: Browser) -> None:
    """Test that both graphs follow, and that a node that no op stands for becomes the middle of its own."""
    page.click('#table tr[data-op="2"]')
    page.click('#float-graph .node[aria-label^="relu"]')
    assert page.text("#op-title") == "relu"
    assert page.text("#graph .node.chosen .op-name") == "conv2d_relu"
    page.click('#graph .node[aria-label^="quantize_per_tensor"]')
    assert page.text("#op-title") == "relu"
    assert page.text("#graph .node.chosen .op-name") == "quantize_per_tensor"


@needs_browser
def test_more_steps_show_more_of_the_graph(page: Browser) -> None:
    page.click('#table tr[data-op="2"]')
    few = page.count("#float-graph .node")
    page.run("document.getElementById('steps').value = '5'")
    page.run("document.getElementById('steps').dispatchEvent(new Event('change'))")
    assert page.count("#float-graph .node") > few


@needs_browser
def test_no_edge_runs_through_a_node(page: Browser) -> None:
    """Test that nodes of one row do not lie over one another, and every edge goes down."""
    page.click('#table tr[data-op="3"]')
    boxes = page.run(
        "[...document.querySelectorAll('#float-graph .node rect')].map(r => r.getBoundingClientRect())"
        ".map(b => [b.left, b.top, b.right, b.bottom])"
    )
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[i + 1 :]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    ends = page.run(
        "[...document.querySelectorAll('#float-graph .edge')].map(e =>"
        " [e.getPointAtLength(0).y, e.getPointAtLength(e.getTotalLength()).y])"
    )
    assert ends
    assert all(begin < end for begin, end in ends)


@needs_browser
def test_filtering(page: Browser) -> None:
    """Test that / reaches the filter, words have to be there all, Enter chooses, and Escape clears."""
    page.press("/")
    assert page.run("document.activeElement.id") == "filter"
    page.write("conv2d next")
    assert page.count("#table tbody tr") == 1
    assert page.text("#count") == "1 of 8"
    page.press("Enter")
    assert chosen(page) == 2
    page.press("Escape")
    assert page.count("#table tbody tr") == 8
    page.click('[data-kind="float"]')
    assert page.count("#table tbody tr") == page.count("#table tbody tr.is-float") == 3
    page.press("/")
    page.write("no such op")
    assert page.count("#table tbody tr") == 0


@needs_browser
def test_sorting(page: Browser) -> None:
    """Test that a click on a head sorts by it, a second one the other way, and that blanks come last."""
    page.click("#table th:nth-child(3) button")
    cells = page.run("[...document.querySelectorAll('#table tbody td:nth-child(3)')].map(c => c.textContent)")
    values = [float(cell) for cell in cells if cell and cell != "equal"]
    assert values == sorted(values)
    assert len(values) > 3
    assert cells[-1] == ""
    page.click("#table th:nth-child(3) button")
    cells = page.run("[...document.querySelectorAll('#table tbody td:nth-child(3)')].map(c => c.textContent)")
    assert [float(cell) for cell in cells if cell] == values[::-1]
    assert (
        page.run("document.querySelector('#table th:nth-child(3)').getAttribute('aria-sort')") == "descending"
    )


@needs_browser
def test_keys_walk(page: Browser) -> None:
    """Test arrows on the page, in the table, on the curve and in a graph, and that they stop at the ends."""
    page.click('#table tr[data-op="0"]')
    page.press("ArrowLeft")
    assert chosen(page) == 0
    page.press("ArrowRight")
    page.press("ArrowRight")
    assert chosen(page) == 2
    page.run(f"document.querySelector('{CHOSEN}').focus()")
    page.press("ArrowDown")
    assert chosen(page) == 3
    page.run("document.getElementById('curve').focus()")
    page.press("End")
    assert chosen(page) == 7
    assert page.run("document.getElementById('curve').getAttribute('aria-valuenow')") == "8"
    page.press("ArrowRight")
    assert chosen(page) == 7
    page.run("document.querySelector('#float-graph .node.chosen').focus()")
    page.press("ArrowUp")
    assert chosen(page) == 6


@needs_browser
def test_the_address_names_what_is_chosen(page: Browser, tmp_path: Path) -> None:
    page.click('#table tr[data-op="2"]')
    fragment = page.run("location.hash")
    assert fragment == "#next"
    page.run("location.hash = '#body.2'")
    page.wait_for_drawing()
    assert chosen(page) == 1


@needs_browser
def test_the_scale_of_histograms_and_their_numbers(page: Browser) -> None:
    page.click('#table tr[data-op="2"]')
    outline = "document.querySelector('#weight .area').getAttribute('points')"
    linear = page.run(outline)
    page.click('[data-scale="log"]')
    assert page.run(outline) != linear
    page.click("#weight summary")
    assert page.count("#weight .numbers tbody tr") > 10


@needs_browser
def test_choosing_moves_nothing(small: ReportData, tmp_path: Path) -> None:
    """Test that every part stays where it is, whatever is chosen: values or none, paths of any length."""
    long = many(small, 20)
    mixed = replace(small, ops=[*small.ops, *long.ops], float_graph=long.graph, graph=long.graph)
    where = "[...document.querySelectorAll('.panel')].map(p => p.getBoundingClientRect().top + scrollY)"
    for page in opened(mixed, tmp_path):
        tops = []
        for index in range(len(mixed.ops)):
            page.run(f"document.querySelector('#table tr[data-op=\"{index}\"]').click()")
            page.wait_for_drawing()
            tops.append(page.run(where))
        assert tops == [tops[0]] * len(tops)


@needs_browser
@pytest.mark.parametrize("width", [1440, 800, 360])
def test_many_ops_with_long_paths_fit_any_width(small: ReportData, tmp_path: Path, width: int) -> None:
    """Test that nothing overflows, and that markup in names does no harm anywhere."""
    for page in opened(many(small, MANY), tmp_path, width):
        assert page.run("document.documentElement.scrollWidth") <= width
        assert page.count("#table tbody tr") == MANY
        page.run("document.querySelectorAll('#table tr')[4].click()")
        page.press("ArrowRight")
        left, top, _, _ = page.box("#curve")
        page.move_to(left + 60, top + 60)
        assert page.text("h1") == EVIL
        assert page.run("window.harmed") is None
        assert page.count("main img, main script") == 0


@needs_browser
def test_a_single_op(small: ReportData, tmp_path: Path) -> None:
    """Test the smallest network there can be."""
    for page in opened(many(small, 1), tmp_path):
        page.press("ArrowRight")
        assert chosen(page) == 0
        assert page.run("['previous', 'next'].map(id => document.getElementById(id).disabled)") == [
            True,
            True,
        ]


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_words_stand_out_from_their_ground(page: Browser, dark: bool) -> None:
    """Test a contrast of 4.5 to 1, as WCAG 2 asks for, of all colours that words have, on all grounds."""
    page.look(dark=dark)
    colours = page.run(
        "Object.fromEntries(['ground', 'panel', 'faint', 'chosen', 'ink', 'muted', 'integer', 'left'].map("
        "name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim()]))"
    )
    for words in ("ink", "muted", "integer", "left"):
        for ground in ("ground", "panel", "faint") + (("chosen",) if words in ("ink", "muted") else ()):
            assert contrast(colours[words], colours[ground]) >= 4.5, (words, ground)


def contrast(one: str, other: str) -> float:
    """The ratio of luminances as WCAG 2 defines it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@needs_browser
def test_everything_that_can_be_used_has_a_name(page: Browser) -> None:
    """Test that buttons, fields and pictures say what they are to those who do not see them."""
    nameless = page.run(
        "[...document.querySelectorAll('button, input, select, [role], svg')].filter(e =>"
        " !e.closest('[aria-hidden]') && !e.textContent.trim() && !e.getAttribute('aria-label')"
        " && !e.labels?.length && e.getAttribute('role') !== 'status').map(e => e.outerHTML)"
    )
    assert nameless == []
    assert page.run("document.documentElement.lang") == "en"


@needs_browser
def test_print_shows_every_row(page: Browser) -> None:
    """Test that on paper nothing scrolls and nothing that is pressed is left."""
    page.look(printed=True)
    assert page.run("getComputedStyle(document.querySelector('.rows')).overflow") == "visible"
    assert page.run("getComputedStyle(document.querySelector('.tools')).display") == "none"
