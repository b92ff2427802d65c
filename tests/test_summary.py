"""Tests of summarize and strict: each op once, what became of it, why not, and what it adds up to."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant import OpSummary, QuantizationError, Summary, summarize
from tests.graphs import saved_and_loaded
from tests.marks import needs_native

WHOLE = {"": jitquant.get_default_qconfig()}


class Net(nn.Module):
    """Integer but for erf, the linear behind it, whose qconfig is None, and a matmul of two activations."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y = torch.erf(y + y).mean([2, 3])
        return self.head(y)

    @torch.jit.export
    def features(self, x: Tensor) -> Tensor:
        return self.body(x).flatten(1)


IMAGE = torch.randn(2, 3, 8, 8)


def quantized(**options: object) -> torch.jit.ScriptModule:
    model = torch.jit.script(Net().eval())
    return jitquant.quantize_jit(model, WHOLE | {"head": None}, lambda m: m(IMAGE), [], **options)  # type: ignore[arg-type]


def rows(summary: Summary) -> dict[str, tuple[str, str]]:
    return {op.op: (op.becomes, op.reason) for op in summary.ops}


def test_each_op_has_a_row_with_its_fate() -> None:
    """Test that integer ops say what they became, and float ones why they are not."""
    summary = summarize(quantized())
    assert [op.op for op in summary.ops] == [
        "aten::conv2d",
        "aten::relu",
        "aten::add",
        "aten::erf",
        "aten::mean",
        "aten::linear",
    ]
    found = rows(summary)
    assert found["aten::conv2d"] == ("quantized::conv2d_relu", "")
    assert found["aten::relu"] == ("quantized::conv2d_relu", "")  # it is part of that
    assert found["aten::add"] == ("quantized::add", "")
    assert found["aten::erf"] == ("", "no integer form of it is known")
    assert found["aten::mean"][1].startswith("its input is float: aten::erf at test_summary.py:")
    assert found["aten::linear"] == ("", "its qconfig is None")
    conv, linear = summary.ops[0], summary.ops[-1]
    assert (conv.module, conv.method, conv.weights) == ("body.0", "forward", 3 * 8 * 9)
    assert conv.source.startswith("test_summary.py:")
    assert (linear.module, linear.weights) == ("head", 32)


def test_totals() -> None:
    """Test the shares of weights and multiply-adds, bytes saved and round trips, against a count by hand."""
    summary = summarize(quantized(), IMAGE)
    conv, linear = 3 * 8 * 9, 8 * 4
    assert summary.weights_share == conv / (conv + linear)
    assert summary.bytes_saved == 3 * conv
    assert summary.round_trips == 0
    assert summary.multiply_adds is not None
    assert summary.multiply_adds.integer == 2 * 64 * conv
    assert summary.multiply_adds.floating == 2 * linear


@pytest.mark.parametrize(
    ("network", "qconfig", "saved"),
    [
        (nn.Linear(8, 4), jitquant.float16_dynamic_qconfig, 2 * 8 * 4),
        (
            nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2)),
            jitquant.float16_dynamic_qconfig,
            2 * (8 * 4 + 4 * 2),
        ),
        (nn.Linear(8, 4), jitquant.default_dynamic_qconfig, 3 * 8 * 4),
        (nn.Linear(8, 4), jitquant.weight_only_int8_qconfig, 3 * 8 * 4),
        (nn.Embedding(10, 16), jitquant.float_qparams_weight_only_qconfig, 3 * 10 * 16),
        (nn.Embedding(10, 16), jitquant.float_qparams_weight_only_qconfig_4bit, 3.5 * 10 * 16),
    ],
)
def test_bytes_saved_are_those_of_the_weights(
    network: nn.Module, qconfig: jitquant.QConfig, saved: float, target: str
) -> None:
    """Test that a float of 4 bytes becomes one of 2, a whole or half a byte, as its qconfig says."""
    model = torch.jit.script(network.eval())
    assert summarize(jitquant.quantize_dynamic_jit(model, {"": qconfig}, target=target)).bytes_saved == saved


@pytest.mark.parametrize("op", ["linear_bfloat16", "linear_bfloat16_add", "linear_bfloat16_add_"])
def test_bfloat16_saves_two_bytes(op: str) -> None:
    row = OpSummary("forward", "", "", "aten::linear", f"jitquant::{op}", "", weights=32)
    assert Summary("quantized", (row,), round_trips=0).bytes_saved == 64


@needs_native
def test_kernels_of_the_native_target_count_too() -> None:
    """Test that the multiply-adds of native kernels are integer ones, the same number as stock ops have."""
    native = summarize(quantized(target="native"), IMAGE).multiply_adds
    assert native == summarize(quantized(), IMAGE).multiply_adds


def test_values_that_go_to_float_and_back_are_counted() -> None:
    """Test that an op in float between two in integers is one round trip."""

    class Middle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.erf(self.first(x)))

    model = torch.jit.script(Middle().eval())
    assert summarize(jitquant.quantize_jit(model, WHOLE, lambda m: m(IMAGE), [])).round_trips == 1


def test_a_prepared_model_says_what_is_going_to_be_integer() -> None:
    prepared = jitquant.prepare_jit(torch.jit.script(Net().eval()), WHOLE | {"head": None})
    summary = summarize(prepared)
    assert summary.stage == "prepared"
    found = rows(summary)
    assert found["aten::conv2d"] == ("observed", "")
    assert found["aten::linear"] == ("", "its qconfig is None")
    assert "will be integer" in str(summary)


def test_a_saved_file_says_the_same() -> None:
    """Test that the report is in the file, with module paths that the file's graph has lost."""
    model = quantized()
    assert summarize(saved_and_loaded(model)) == summarize(model)


def test_the_table_shows_every_row_or_those_that_are_float() -> None:
    text = str(summarize(quantized()))
    head = text.splitlines()[0]
    assert [
        name for name in ("op", "becomes", "why it stays float", "module", "source") if name not in head
    ] == []
    assert "quantized::conv2d_relu" in text
    assert "its qconfig is None" in text
    assert "3 of 6 ops integer" in text
    only = summarize(quantized()).table(only_float=True)
    assert "quantized::conv2d_relu" not in only
    assert "aten::erf" in only


def test_records_are_for_programs() -> None:
    summary = summarize(quantized(), IMAGE)
    assert summary.to_records()[0]["op"] == "aten::conv2d"
    data = json.loads(summary.to_json())
    assert data["bytes_saved"] == summary.bytes_saved
    assert data["multiply_adds"]["floating"] == 64


def test_other_methods_are_quantized_where_they_are_named() -> None:
    """Test that methods= chooses, that each has rows of its own, and that the others survive in float."""
    model = torch.jit.script(Net().eval())

    def run(m: torch.jit.ScriptModule) -> None:
        m(IMAGE)
        m.features(IMAGE)

    both = jitquant.quantize_jit(model, WHOLE, run, [], methods=("forward", "features"))
    assert {op.method for op in summarize(both).ops} == {"forward", "features"}
    assert (both.features(IMAGE) - model.features(IMAGE)).abs().max() < 0.1
    one = jitquant.quantize_jit(model, WHOLE, run, [])
    assert {op.method for op in summarize(one).ops} == {"forward"}
    assert torch.equal(one.features(IMAGE), model.features(IMAGE))


@pytest.mark.parametrize(
    ("methods", "words"),
    [
        ("forward", "pass a list of names"),
        ((), "pass a list of names"),
        (["nothing"], "no such method; choose"),
    ],
)
def test_wrong_methods_are_refused(methods: object, words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        jitquant.prepare_jit(torch.jit.script(Net().eval()), WHOLE, methods=methods)  # type: ignore[arg-type]


def test_strict_names_each_op_that_would_stay_float() -> None:
    """Test that the error lists ops, places and reasons, and that the caller's model is what it was."""
    with pytest.raises(QuantizationError) as raised:
        quantized(strict=True)
    text = str(raised.value)
    assert "2 of 5 ops would stay float" in text  # nothing is known of erf
    assert "aten::linear at test_summary.py" in text
    assert "(head): its qconfig is None" in text
    assert "aten::mean" in text


@pytest.mark.parametrize("names", [["conv2d"], ["aten::conv2d", "body"], False])
def test_strict_is_met(names: object) -> None:
    quantized(strict=names)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["linear"], "1 of 1 ops would stay float"),
        (["head"], "its qconfig is None"),
        (["conv9d"], "is no op and no module"),
    ],
)
def test_strict_by_name(names: list[str], words: str) -> None:
    with pytest.raises(QuantizationError, match=words):
        quantized(strict=names)


def test_what_says_nothing_is_refused(tmp_path: Path) -> None:
    for model in (torch.jit.script(Net().eval()), quantized(debug=True)):
        with pytest.raises(QuantizationError, match="says nothing of its ops; give it what prepare_jit"):
            summarize(model)
