"""Tests of embeddings without calibration: rows of 8 or 4 bits with a scale and a float zero point each."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn

import jitquant
from jitquant import QConfig, QConfigMapping, QuantizationError, quantize_dynamic_jit
from jitquant.observers import HistogramObserver, PerChannelMinMaxObserver, PlaceholderObserver
from tests.graphs import check_runs_alone, ops_of, saved_and_loaded
from tests.networks import sqnr

BYTE = jitquant.float_qparams_weight_only_qconfig
NIBBLE = jitquant.float_qparams_weight_only_qconfig_4bit
QCONFIGS = {8: BYTE, 4: NIBBLE}
BITS = pytest.mark.parametrize("bits", [8, 4])
NIBBLES = "quantized::embedding_bag_4bit_rowwise_offsets"
LOOKUP = {8: "quantized::embedding_byte", 4: NIBBLES}
BAG = {8: "quantized::embedding_bag_byte", 4: NIBBLES}
DECIBELS = {8: 44, 4: 19}
WORDS, FEATURES = 50, 16

SEVEN = torch.tensor([1, 3, 3, 7, 49, 0, 20])
TABLE = torch.randint(0, WORDS, (5, 6), generator=torch.Generator().manual_seed(0))
INDICES = {
    "one dimension": SEVEN,
    "two dimensions": TABLE,
    "three dimensions": TABLE.reshape(5, 2, 3),
    "one word": torch.tensor(7),
    "turned around": TABLE.t(),
    "32 bits": TABLE.int(),
    "nothing": SEVEN[:0],
    "no word in rows": TABLE[:, :0],
}


class Bags(nn.Module):
    """Bags of any length, the third of them empty, with a factor for each word where that is asked for."""

    def __init__(self, mode: str, last: bool = False, weighted: bool = False, width: int = FEATURES) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, width, mode=mode, include_last_offset=last)
        self.weighted = weighted

    def forward(self, words: Tensor, offsets: Tensor) -> Tensor:
        if self.weighted:
            return self.bag(words, offsets, words * 0.1)
        return self.bag(words, offsets)


class Recommender(nn.Module):
    """What is looked up goes through linears, as in networks that recommend."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, FEATURES, padding_idx=0)
        self.bag = nn.EmbeddingBag(WORDS, FEATURES)
        self.linear = nn.Linear(2 * FEATURES, 8)

    def forward(self, words: Tensor) -> Tensor:
        both = torch.cat([self.embedding(words).mean(1), self.bag(words)], 1)
        return self.linear(both)


def compiled(network: nn.Module, compiler: str, *inputs: Tensor) -> torch.jit.ScriptModule:
    network.eval()
    if compiler == "traced":
        return torch.jit.trace(network, inputs)
    script = torch.jit.script(network)
    return torch.jit.freeze(script) if compiler == "frozen" else script


def reasons_of(module: torch.jit.ScriptModule) -> dict[str, str]:
    return {row.op: row.reason for row in jitquant.summarize(module).ops}


@BITS
@pytest.mark.parametrize("compiler", ["scripted", "traced", "frozen"])
@pytest.mark.parametrize("name", INDICES)
def test_rows_are_looked_up(name: str, compiler: str, bits: int, target: str) -> None:
    """Test that indices of each shape and dtype give the rows of the packed weight, and a file the same."""
    words = INDICES[name]
    model = compiled(nn.Sequential(nn.Embedding(WORDS, FEATURES)), compiler, words)
    module = quantize_dynamic_jit(model, {"": QCONFIGS[bits]}, target=target, strict=["embedding"])
    assert LOOKUP[bits] in ops_of(module)
    assert "aten::embedding" not in ops_of(module)
    expected, found = model(words), module(words)
    assert (found.shape, found.dtype) == (expected.shape, torch.float32)
    assert words.numel() == 0 or sqnr(expected, found) > DECIBELS[bits]
    assert torch.equal(saved_and_loaded(module)(words), found)


@BITS
@pytest.mark.parametrize("last", [False, True], ids=["", "last offset"])
@pytest.mark.parametrize("mode", ["sum", "weighted", "mean"])
def test_bags(mode: str, last: bool, bits: int, target: str) -> None:
    """Test sums, weighted sums and means of bags of any length, empty ones and none at all included."""
    network = Bags("mean" if mode == "mean" else "sum", last, mode == "weighted")
    model = compiled(network, "scripted")
    module = quantize_dynamic_jit(model, {"": QCONFIGS[bits]}, target=target, strict=["embedding_bag"])
    assert BAG[bits] in ops_of(module)
    ends = [7] if last else []
    for words, offsets in (
        (SEVEN, torch.tensor([0, 3, 5, 5, *ends])),
        (SEVEN.int(), torch.tensor([0, 2, *ends]).int()),
        (SEVEN[:0], torch.tensor([0, 0, *([0] if last else [])])),
        (SEVEN[:0], torch.tensor([0] if last else [], dtype=torch.int64)),
    ):
        expected, found = model(words, offsets), module(words, offsets)
        assert (found.shape, found.dtype) == (expected.shape, torch.float32)
        assert not expected.any() or sqnr(expected, found) > DECIBELS[bits]
        assert torch.equal(found == 0, expected == 0)
        assert torch.equal(saved_and_loaded(module)(words, offsets), found)


@BITS
@pytest.mark.parametrize("compiler", ["scripted", "traced", "frozen"])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_of_one_length(mode: str, compiler: str, bits: int) -> None:
    """Test that a table of words is a bag for each row."""
    model = compiled(nn.Sequential(nn.EmbeddingBag(WORDS, FEATURES, mode=mode)), compiler, TABLE)
    module = quantize_dynamic_jit(model, {"": QCONFIGS[bits]}, strict=["embedding_bag"])
    for words in (TABLE, TABLE[:2].int()):
        assert sqnr(model(words), module(words)) > DECIBELS[bits]


@BITS
@pytest.mark.parametrize("width", [1, 2, 7, 15, 33])
def test_rows_of_any_width(width: int, bits: int) -> None:
    """Test that rows which fill no whole byte come out as wide as they were."""
    rows = compiled(nn.Sequential(nn.Embedding(WORDS, width)), "scripted")
    bags = compiled(Bags("sum", width=width), "scripted")
    for model, inputs in ((rows, (TABLE,)), (bags, (SEVEN, torch.tensor([0, 4])))):
        module = quantize_dynamic_jit(model, {"": QCONFIGS[bits]})
        assert {LOOKUP[bits], BAG[bits]} & set(ops_of(module))
        expected, found = model(*inputs), module(*inputs)
        assert found.shape == expected.shape
        assert sqnr(expected, found) > DECIBELS[bits] - 4
        assert torch.equal(saved_and_loaded(module)(*inputs), found)


@pytest.mark.parametrize(("network", "bits"), [(nn.Embedding, 8), (nn.EmbeddingBag, 8), (nn.EmbeddingBag, 4)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_numbers_are_those_of_eager_mode(network: type[nn.Module], bits: int) -> None:
    """Test that torch.ao's eager mode gives the very same numbers, and its qconfigs do here."""
    options = {"mode": "sum"} if network is nn.EmbeddingBag else {}
    model = network(WORDS, FEATURES, **options).eval()
    suffix = "_4bit" if bits == 4 else ""
    theirs = getattr(ao, f"float_qparams_weight_only_qconfig{suffix}")
    eager = ao.quantize_dynamic(nn.Sequential(model), {network: theirs})
    assert "quantized" in type(eager[0]).__module__
    for qconfig in (theirs, QCONFIGS[bits]):
        module = quantize_dynamic_jit(torch.jit.script(model), {"": qconfig})
        assert torch.equal(module(TABLE), eager(TABLE))


def test_the_numbers_of_4_bits_are_those_of_the_op() -> None:
    """Test the op for packed rows: torch's eager mode reads the 4-bit rows of an Embedding as bytes."""
    model = nn.Embedding(WORDS, FEATURES).eval()
    observer = NIBBLE.weight()
    observer(model.weight)
    rows = torch.quantize_per_channel(model.weight, *observer.calculate_qparams(), 0, torch.quint4x2)
    packed = torch.ops.quantized.embedding_bag_prepack(rows)
    module = quantize_dynamic_jit(torch.jit.script(model), {"": ao.float_qparams_weight_only_qconfig_4bit})
    assert torch.equal(module(TABLE), torch.ops.quantized.embedding_4bit(packed, TABLE))


@BITS
def test_debug_looks_rounded_rows_up(bits: int) -> None:
    """Test that debug=True gives the same numbers, but that 4-bit rows have scales of half precision."""
    model = torch.jit.script(Recommender().eval())
    mapping = {"embedding": QCONFIGS[bits], "bag": QCONFIGS[bits]}
    debug = quantize_dynamic_jit(model, mapping, debug=True)
    assert {"aten::quantize_per_channel", "aten::embedding", "aten::embedding_bag"} <= set(ops_of(debug))
    near = 1e-5 if bits == 8 else 4e-3
    torch.testing.assert_close(
        debug(TABLE), quantize_dynamic_jit(model, mapping)(TABLE), atol=near, rtol=near
    )


def test_equal_rows_and_the_padding_row_are_exact() -> None:
    """Test that a row of one value stays that, zeros included."""
    embedding = nn.Embedding(4, FEATURES, padding_idx=0)
    with torch.no_grad():
        embedding.weight[2] = 1.5
    module = quantize_dynamic_jit(torch.jit.script(embedding.eval()), {"": BYTE})
    assert torch.equal(module(torch.tensor([0, 2])), embedding(torch.tensor([0, 2])))


@pytest.mark.parametrize(("bits", "share"), [(8, 0.27), (4, 0.14)])
def test_a_file_is_small(bits: int, share: float) -> None:
    """Test that a file has integers, a scale and a zero point for each row, and no float weight."""
    model = torch.jit.script(nn.Embedding(2000, 256).eval())
    module = quantize_dynamic_jit(model, {"": QCONFIGS[bits]})
    sizes = [len(each.save_to_buffer()) for each in (module, model)]
    assert sizes[0] < share * sizes[1]


@BITS
def test_a_file_runs_without_jitquant(tmp_path: Path, bits: int) -> None:
    mapping = QConfigMapping().set_global(jitquant.default_dynamic_qconfig)
    mapping.set_object_type(nn.Embedding, QCONFIGS[bits]).set_object_type("embedding_bag", QCONFIGS[bits])
    module = quantize_dynamic_jit(torch.jit.script(Recommender().eval()), mapping)
    check_runs_alone(module, tmp_path, TABLE)


@BITS
def test_embeddings_and_linears_each_by_their_own(bits: int, target: str) -> None:
    """Test a model whose linears become dynamic and whose rows are packed, of a mapping by type."""
    model = torch.jit.script(Recommender().eval())
    mapping = QConfigMapping().set_global(jitquant.per_channel_dynamic_qconfig)
    mapping.set_object_type("Embedding", QCONFIGS[bits]).set_object_type("embedding_bag", QCONFIGS[bits])
    module = quantize_dynamic_jit(
        model, mapping, target=target, strict=["embedding", "embedding_bag", "linear"]
    )
    rows = {row.op: row.becomes for row in jitquant.summarize(module).ops}
    assert rows["aten::embedding"] == LOOKUP[bits]
    assert rows["aten::embedding_bag"] == BAG[bits]
    assert rows["aten::linear"].endswith("linear_dynamic")
    assert sqnr(model(TABLE), module(TABLE)) > DECIBELS[bits] - 10


@BITS
@pytest.mark.parametrize("reduce_range", [False, True])
def test_rows_say_nothing_of_the_range_of_activations(bits: int, reduce_range: bool) -> None:
    """Test that `info` gives the range of the linear, as nothing multiplies the integers of rows."""
    activation = PlaceholderObserver.with_args(is_dynamic=True, reduce_range=reduce_range)
    rows = QCONFIGS[bits]
    mapping = {"": QConfig(activation, PerChannelMinMaxObserver), "embedding": rows, "bag": rows}
    module = quantize_dynamic_jit(torch.jit.script(Recommender().eval()), mapping)
    assert jitquant.info(module)["reduce_range"] is reduce_range


@pytest.mark.parametrize("qconfig", [jitquant.default_dynamic_qconfig, jitquant.float16_dynamic_qconfig])
def test_a_qconfig_of_linears_leaves_embeddings_float(qconfig: QConfig) -> None:
    """Test that, as in torch, embeddings stay float until they are told otherwise, and are said to."""
    module = quantize_dynamic_jit(torch.jit.script(Recommender().eval()), {"": qconfig})
    reasons = reasons_of(module)
    assert reasons["aten::embedding"] == reasons["aten::embedding_bag"]
    assert "no qconfig of a kind that suits it" in reasons["aten::embedding"]
    assert not reasons["aten::linear"]


def test_a_qconfig_of_rows_leaves_linears_float() -> None:
    """Test that it says so, and that strict refuses it."""
    model = torch.jit.script(Recommender().eval())
    reasons = reasons_of(quantize_dynamic_jit(model, {"": BYTE}))
    assert "no qconfig of a kind that suits it" in reasons["aten::linear"]
    assert not reasons["aten::embedding"]
    mixed = quantize_dynamic_jit(model, {"": jitquant.default_dynamic_qconfig, "linear": BYTE, "bag": BYTE})
    assert "no qconfig of a kind that suits it" in reasons_of(mixed)["aten::linear"]
    with pytest.raises(QuantizationError, match="no qconfig of a kind that suits it"):
        quantize_dynamic_jit(model, {"": BYTE}, strict=["linear"])


@BITS
def test_static_quantization_takes_them_too(bits: int, target: str) -> None:
    """Test that rows of float zero points stand beside calibrated linears."""
    model = torch.jit.script(Recommender().eval())
    mapping = {"": jitquant.get_default_qconfig(), "embedding": QCONFIGS[bits], "bag": QCONFIGS[bits]}
    module = jitquant.quantize_jit(model, mapping, lambda prepared: prepared(TABLE), [], target=target)
    assert {LOOKUP[bits], BAG[bits]} <= set(ops_of(module))
    assert "aten::linear" not in ops_of(module)
    assert sqnr(model(TABLE), module(TABLE)) > DECIBELS[bits] - 10


def test_a_static_linear_has_no_rows_to_look_up() -> None:
    """Test that an observer of rows leaves a linear float, and what only moves values with it."""
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
    qconfig = QConfig(HistogramObserver.with_args(), BYTE.weight)
    mapping = {"": BYTE, "2": qconfig}
    x = torch.randn(4, 8)
    model = torch.jit.script(network.eval())
    module = jitquant.quantize_jit(model, mapping, lambda prepared: prepared(x), [])
    assert torch.equal(module(x), model(x))


@pytest.mark.parametrize("options", [{"mode": "max"}, {"mode": "sum", "padding_idx": 3}])
def test_bags_that_the_op_lacks_stay_float(options: dict[str, Any]) -> None:
    model = torch.jit.script(nn.EmbeddingBag(WORDS, FEATURES, **options).eval())
    module = quantize_dynamic_jit(model, {"": BYTE})
    assert torch.equal(module(TABLE), model(TABLE))
    assert "average" in reasons_of(module)["aten::embedding_bag"]


@pytest.mark.parametrize("call", ["quantize_dynamic_jit", "prepare_jit"])
def test_weights_that_nothing_takes_are_refused(call: str) -> None:
    qconfig = QConfig(
        PlaceholderObserver.with_args(dtype=torch.float32), jitquant.float16_dynamic_qconfig.weight
    )
    with pytest.raises(QuantizationError, match=r"float activations and weights of .*float16; choose"):
        getattr(jitquant, call)(torch.jit.script(Recommender().eval()), {"": qconfig})


@BITS
def test_observers_for_training_are_refused_unless_the_model_runs(bits: int) -> None:
    """Test that rows whose observer saw none are refused in words, and that calibration lets it see them."""
    training = {8: ao.default_embedding_qat_qconfig, 4: ao.default_embedding_qat_qconfig_4bit}[bits]
    model = torch.jit.script(nn.Embedding(WORDS, FEATURES).eval().requires_grad_(False))
    remedy = repr(QCONFIGS[bits].weight().dtype) + ", qscheme=torch.per_channel_affine_float_qparams"
    with pytest.raises(QuantizationError, match=f"qconfig of embedding.* is for training.*{remedy}"):
        quantize_dynamic_jit(model, {"": training})
    module = jitquant.quantize_jit(model, {"": training}, lambda prepared: prepared(TABLE), [])
    assert sqnr(model(TABLE), module(TABLE)) > DECIBELS[bits] - 1


def test_integers_of_one_axis_only_are_rows() -> None:
    """Test that scales along the features are left alone."""
    weight = PerChannelMinMaxObserver.with_args(
        dtype=torch.quint8, qscheme=torch.per_channel_affine_float_qparams, ch_axis=1
    )
    model = torch.jit.script(nn.Embedding(WORDS, FEATURES).eval())
    module = quantize_dynamic_jit(model, {"": QConfig(BYTE.activation, weight)})
    assert torch.equal(module(TABLE), model(TABLE))
    assert "no op takes its kind of scales" in reasons_of(module)["aten::embedding"]


def test_rows_too_large_for_half_precision_stay_float(target: str) -> None:
    """Test that 4 bits, whose scales are in half precision, never give infinity."""
    model = nn.Sequential(nn.Embedding(10, 8)).eval()
    with torch.no_grad():
        model[0].weight.mul_(1e6)
    qconfig = {"": jitquant.float_qparams_weight_only_qconfig_4bit}
    made = jitquant.quantize_dynamic_jit(torch.jit.script(model), qconfig, target=target)
    words = torch.arange(10)
    assert torch.equal(made(words), model(words))
    (op,) = jitquant.summarize(made).ops
    assert "no op takes its kind of scales" in op.reason
