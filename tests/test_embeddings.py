"""Tests of embeddings: rows of an integer weight are looked up, and what comes of it is float."""

import io
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jitquant
from jitquant import QConfig
from jitquant.observers import MinMaxObserver, WeightMinMaxObserver
from tests.graphs import nodes_of, ops_of
from tests.networks import sqnr

QCONFIG = {"": jitquant.get_default_qconfig()}
PER_TENSOR = {"": QConfig(MinMaxObserver.with_args(), WeightMinMaxObserver.with_args())}
WORDS, FEATURES = 50, 16


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WORDS, FEATURES))

    def forward(self, words: Tensor) -> Tensor:
        return F.embedding(words, self.weight, padding_idx=3)


class Bag(nn.Module):
    def __init__(self, mode: str) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(WORDS, FEATURES, mode=mode)

    def forward(self, words: Tensor) -> Tensor:
        return self.bag(words)


class BagWithOffsets(nn.Module):
    """A functional bag of bags of any length, with a factor for each word."""

    def __init__(self, last: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(WORDS, FEATURES))
        self.last = last

    def forward(self, words: Tensor) -> Tensor:
        offsets = torch.tensor([0, 3, 3, 5])
        return F.embedding_bag(
            words,
            self.weight,
            offsets,
            mode="sum",
            per_sample_weights=words * 0.1,
            include_last_offset=self.last,
        )


class Classifier(nn.Module):
    """Words to classes, as small models of text are."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, FEATURES)
        self.norm = nn.LayerNorm(FEATURES)
        self.linear = nn.Linear(FEATURES, 4)

    def forward(self, words: Tensor) -> Tensor:
        return self.linear(self.norm(self.embedding(words)).mean(1))


SEVEN = torch.tensor([1, 3, 3, 7, 49, 0, 20])
TABLE = torch.randint(0, WORDS, (5, 6), generator=torch.Generator().manual_seed(0))
CASES: dict[str, tuple[Any, Tensor]] = {
    "embedding, module": (lambda: nn.Embedding(WORDS, FEATURES), SEVEN),
    "embedding, functional": (Functional, SEVEN),
    "embedding, padded": (lambda: nn.Embedding(WORDS, FEATURES, padding_idx=3), TABLE),
    "embedding of a table": (lambda: nn.Embedding(WORDS, FEATURES), TABLE),
    "embedding of three dimensions": (lambda: nn.Embedding(WORDS, FEATURES), TABLE.reshape(5, 2, 3)),
    "embedding of one word": (lambda: nn.Embedding(WORDS, FEATURES), torch.tensor(7)),
    "embedding of 32-bit indices": (lambda: nn.Embedding(WORDS, FEATURES), SEVEN.int()),
    "embedding of nothing": (lambda: nn.Embedding(WORDS, FEATURES), SEVEN[:0]),
    "bag, module": (lambda: Bag("sum"), TABLE),
    "bag of means": (lambda: Bag("mean"), TABLE),
    "bag with offsets": (lambda: BagWithOffsets(False), SEVEN),
    "bag with the last offset": (lambda: BagWithOffsets(True), SEVEN),
}
INTEGER = {"embedding": "aten::embedding", "bag": "quantized::embedding_bag_byte"}


def compiled(network: nn.Module, words: Tensor, compiler: str) -> torch.jit.ScriptModule:
    network.eval()
    return torch.jit.script(network) if compiler == "scripted" else torch.jit.trace(network, (words,))


def quantized(
    model: torch.jit.ScriptModule, words: Tensor, qconfig: Any = QCONFIG, **options: Any
) -> torch.jit.ScriptModule:
    return jitquant.quantize_jit(model, qconfig, lambda prepared: prepared(words), [], **options)


def saved(module: torch.jit.ScriptModule) -> io.BytesIO:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return file


def looks_integers_up(module: torch.jit.ScriptModule, name: str) -> bool:
    if name.startswith("bag"):
        return INTEGER["bag"] in ops_of(module)
    (scales, rows) = sorted(
        (node.inputsAt(0).toIValue() for node in nodes_of(module, "aten::embedding")),
        key=lambda weight: str(weight.dtype),
    )
    return rows.dtype == torch.int8 and scales.shape == (WORDS, 1)


def record_of(module: torch.jit.ScriptModule, op: str) -> dict[str, Any]:
    (record,) = (record for record in jitquant.summarize(module).to_records() if record["op"] == op)
    return record


@pytest.mark.parametrize("compiler", ["scripted", "traced"])
@pytest.mark.parametrize("name", CASES)
def test_rows_of_integers_are_looked_up(name: str, compiler: str, target: str) -> None:
    """Test that the weight is integer, the result right, of float32, and the same from a file."""
    make, words = CASES[name]
    model = compiled(make(), words, compiler)
    module = quantized(model, words, target=target)
    assert looks_integers_up(module, name)
    expected, found = model(words), module(words)
    assert found.shape == expected.shape
    assert found.dtype == torch.float32
    assert words.numel() == 0 or sqnr(expected, found) > 38
    assert torch.equal(torch.jit.load(saved(module))(words), found)


@pytest.mark.parametrize("name", ["embedding, module", "bag, module"])
def test_one_scale_for_the_whole_weight_will_do(name: str, target: str) -> None:
    """Test that a qconfig with one scale for the weight gives all rows that one."""
    make, words = CASES[name]
    model = compiled(make(), words, "scripted")
    module = quantized(model, words, PER_TENSOR, target=target)
    assert looks_integers_up(module, name)
    assert sqnr(model(words), module(words)) > 34


def test_the_report_names_what_looks_up() -> None:
    """Test that an embedding is said to be integer, with its weight."""
    record = record_of(quantized(torch.jit.script(Classifier().eval()), TABLE), "aten::embedding")
    assert (record["becomes"], record["weights"]) == ("aten::embedding", WORDS * FEATURES)


def test_a_file_is_a_quarter() -> None:
    """Test that a file holds integers and a scale for each row, and no float weight."""
    model = torch.jit.script(nn.Embedding(2000, 64).eval())
    module = quantized(model, SEVEN)
    assert len(saved(module).getvalue()) < 0.3 * len(saved(model).getvalue())


def test_a_model_with_an_embedding_is_integer_behind_it_too(target: str) -> None:
    """Test that what takes the rows is quantized as behind any float value."""
    model = torch.jit.script(Classifier().eval())
    module = quantized(model, TABLE, target=target)
    assert "aten::linear" not in ops_of(module)
    assert sqnr(model(TABLE), module(TABLE)) > 30


def test_debug_looks_rounded_rows_up() -> None:
    """Test that debug=True gives what the integers stand for."""
    model = torch.jit.script(nn.Embedding(WORDS, FEATURES).eval())
    debug = quantized(model, TABLE, debug=True)
    torch.testing.assert_close(debug(TABLE), quantized(model, TABLE)(TABLE))


def test_no_calibration_is_needed_for_weights() -> None:
    """Test that a model whose embedding alone is quantized converts without data."""
    model = torch.jit.script(nn.Embedding(WORDS, FEATURES).eval())
    module = jitquant.convert_jit(jitquant.prepare_jit(model, QCONFIG))
    assert sqnr(model(TABLE), module(TABLE)) > 38


def test_an_embedding_whose_qconfig_is_none_stays_float() -> None:
    """Test that a user can keep it float, and reads so."""
    model = torch.jit.script(Classifier().eval())
    module = quantized(model, TABLE, {"": QCONFIG[""], "embedding": None})
    assert record_of(module, "aten::embedding")["reason"] == "its qconfig is None"


@pytest.mark.parametrize("options", [{"mode": "max"}, {"padding_idx": 3}])
def test_bags_that_do_more_than_add_stay_float(options: dict[str, Any]) -> None:
    """Test that maxima and left-out rows are right, and the report says what would be integer."""
    network = nn.Sequential(
        nn.EmbeddingBag(WORDS, FEATURES, **({"mode": "sum"} | options)), nn.Linear(FEATURES, 4)
    )
    model = torch.jit.script(network.eval())
    module = quantized(model, TABLE)
    assert "aten::embedding_bag" in ops_of(module)
    assert sqnr(model(TABLE), module(TABLE)) > 30
    assert "mode='sum'" in record_of(module, "aten::embedding_bag")["reason"]


def test_an_embedding_that_renormalizes_its_weight_stays_float() -> None:
    """Test that a weight which calls change is left alone."""
    network = nn.Sequential(nn.Embedding(WORDS, FEATURES, max_norm=1.0), nn.Linear(FEATURES, 4))
    model = torch.jit.script(network.eval())
    module = quantized(model, TABLE)
    assert sqnr(model(TABLE), module(TABLE)) > 30
