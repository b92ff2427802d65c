"""The weights that integer ops hold, of every kind of op and holder, beside the float ones."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import jitquant
import jitquant.numeric_suite as ns
from tests.graphs import saved_and_loaded
from tests.marks import needs_native

ENGINES = [
    ("quantized", "fbgemm"),
    ("quantized", "x86"),
    ("quantized", "onednn"),
    ("quantized", "qnnpack"),
    pytest.param(("native", "x86"), marks=needs_native),
]


@pytest.fixture(params=ENGINES, ids="-".join)
def engine_target(request: pytest.FixtureRequest) -> Any:
    """Each engine of the stock target, and the native one."""
    target, engine = request.param
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = engine
    yield target
    torch.backends.quantized.engine = before


def decibels(pair: dict[str, Tensor]) -> float:
    return float(ns.compute_error(pair["float"], pair["quantized"]))


def weights_of(
    network: nn.Module, qconfigs: Any, inputs: tuple[Any, ...], target: str, **options: Any
) -> dict[str, dict[str, Tensor]]:
    """Those of a network, scripted, quantized, saved and loaded."""
    model = torch.jit.script(network.eval())
    calibrate = lambda prepared: [prepared(*inputs) for _ in range(2)]  # noqa: E731
    quantized = jitquant.quantize_jit(model, qconfigs, calibrate, [], target=target, **options)
    weights = ns.compare_weights(model, saved_and_loaded(quantized))
    assert all(pair["float"].shape == pair["quantized"].shape for pair in weights.values())
    return weights


def dynamic_weights_of(network: nn.Module, qconfigs: Any, target: str) -> dict[str, dict[str, Tensor]]:
    model = torch.jit.script(network.eval())
    quantized = jitquant.quantize_dynamic_jit(model, qconfigs, target=target)
    weights = ns.compare_weights(model, saved_and_loaded(quantized))
    assert all(pair["float"].shape == pair["quantized"].shape for pair in weights.values())
    return weights


class Convolutions(nn.Module):
    """Of one to three dimensions, depthwise, transposed with groups, with a norm."""

    def __init__(self) -> None:
        super().__init__()
        self.flat = nn.Conv2d(3, 128, 3)
        self.norm = nn.BatchNorm2d(128)
        self.depthwise = nn.Conv2d(128, 128, 3, groups=128)
        self.transposed = nn.ConvTranspose2d(128, 4, 2, groups=2)
        self.line = nn.Conv1d(4, 5, 1)
        self.space = nn.Conv3d(1, 6, 2)
        self.norm.running_mean = torch.randn(128)
        self.norm.running_var = torch.rand(128) + 0.5

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.transposed(torch.relu(self.depthwise(torch.relu(self.norm(self.flat(x))))))
        return self.line(x.flatten(2)), self.space(x.unsqueeze(1))


def test_convolutions(engine_target: str) -> None:
    """Test convolutions of each kind, whatever they are packed into, and the folded batch norm."""
    network = Convolutions()
    image = (torch.rand(2, 3, 10, 10),)
    weights = weights_of(network, {"": jitquant.get_default_qconfig()}, image, engine_target)
    assert list(weights) == [
        f"{name}.weight" for name in ("flat", "depthwise", "transposed", "line", "space")
    ]
    factors = network.norm.weight / (network.norm.running_var + network.norm.eps).sqrt()
    expected = network.flat.weight * factors[:, None, None, None]
    torch.testing.assert_close(weights["flat.weight"]["float"], expected)
    for key, pair in weights.items():
        stays_float = not pair["quantized"].is_quantized
        assert torch.equal(*pair.values()) if stays_float else decibels(pair) > 40, key
    assert weights["flat.weight"]["quantized"].qscheme() == torch.per_channel_affine
    assert torch.equal(weights["transposed.weight"]["float"], network.transposed.weight)


def test_one_scale_for_a_whole_weight(engine_target: str) -> None:
    """Test that a weight with one scale comes as one."""
    image = (torch.rand(2, 3, 10, 10),)
    weights = weights_of(Convolutions(), {"": jitquant.default_qconfig}, image, engine_target)
    assert weights["flat.weight"]["quantized"].qscheme() == torch.per_tensor_affine
    assert decibels(weights["flat.weight"]) > 30


class Words(nn.Module):
    """Embeddings, recurrent layers of two directions, a cell, and two linears of one input."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 8)
        self.bag = nn.EmbeddingBag(20, 8, mode="sum")
        self.lstm = nn.LSTM(8, 6, 2, bidirectional=True)
        self.gru = nn.GRU(12, 6)
        self.cell = nn.LSTMCell(6, 6)
        self.query = nn.Linear(12, 5)
        self.key = nn.Linear(12, 7)

    def forward(self, words: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x, _ = self.lstm(self.words(words) + self.bag(words[:, 0].unsqueeze(1)).unsqueeze(1))
        y, _ = self.gru(x)
        return self.query(x), self.key(x), self.cell(y[0])[0], x


OF_WORDS = [
    "words.weight",
    "bag.weight",
    *[f"lstm.weight_{part}_l{k}{way}" for k in (0, 1) for way in ("", "_reverse") for part in ("ih", "hh")],
    "gru.weight_ih_l0",
    "gru.weight_hh_l0",
]
HALVES = {torch.float16: 60, torch.bfloat16: 45}


@pytest.mark.parametrize(
    ("qconfig", "rows"),
    [
        (jitquant.default_dynamic_qconfig, jitquant.float_qparams_weight_only_qconfig),
        (jitquant.per_channel_dynamic_qconfig, jitquant.float_qparams_weight_only_qconfig_4bit),
        (jitquant.float16_dynamic_qconfig, None),
        (jitquant.bfloat16_dynamic_qconfig, None),
        (jitquant.weight_only_int8_qconfig, jitquant.weight_only_int8_qconfig),
    ],
    ids=["int8", "int8-channels", "float16", "bfloat16", "weights"],
)
def test_dynamic_ops(engine_target: str, qconfig: Any, rows: Any) -> None:
    """Test embeddings, recurrent layers in all directions, cells, merged linears, and half precision."""
    engine = torch.backends.quantized.engine
    if qconfig is jitquant.float16_dynamic_qconfig and engine in ("onednn", "qnnpack"):
        pytest.skip(f"{engine} has no linear in float16")
    network = Words()
    weights = dynamic_weights_of(network, {"": qconfig, "words": rows, "bag": rows}, engine_target)
    linears = ["query.weight", "key.weight"]
    assert weights.keys() == {*OF_WORDS, *linears, "cell.weight_ih", "cell.weight_hh"}
    for key, pair in weights.items():
        owner, name = key.split(".")
        assert torch.equal(pair["float"], getattr(getattr(network, owner), name))
        quantized = pair["quantized"]
        if quantized.is_quantized:
            assert decibels(pair) > (
                20 if quantized.qscheme() == torch.per_channel_affine_float_qparams else 40
            )
        elif quantized.dtype in HALVES:
            assert decibels(pair) > HALVES[quantized.dtype]
        else:
            assert torch.equal(pair["float"], quantized)
    assert all(weights[key]["quantized"].dtype != torch.float32 for key in linears)


def test_merged_linears_have_their_own_rows(engine_target: str) -> None:
    """Test that two linears that became one hold what each would hold alone."""
    network = Words()
    qconfig = jitquant.per_channel_dynamic_qconfig
    both = dynamic_weights_of(network, {"": None, "query": qconfig, "key": qconfig}, engine_target)
    for name in ("query", "key"):
        alone = dynamic_weights_of(network, {"": None, name: qconfig}, engine_target)[f"{name}.weight"]
        assert torch.equal(both[f"{name}.weight"]["quantized"].dequantize(), alone["quantized"].dequantize())


def test_odd_rows_of_4_bits(target: str) -> None:
    """Test that a row of an odd width is as wide as the float one."""
    network = nn.Sequential(nn.Embedding(10, 7))
    rows = jitquant.float_qparams_weight_only_qconfig_4bit
    pair = dynamic_weights_of(network, {"0": rows}, target)["0.weight"]
    assert pair["quantized"].shape == (10, 7)
    assert decibels(pair) > 20


class Smoothed(nn.Module):
    """Linears whose inputs have a few large channels: behind a norm, behind a linear, behind a float op."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(16, 24)
        self.second = nn.Linear(24, 16)
        self.third = nn.Linear(16, 8)
        self.norm.weight.data = torch.logspace(-1.5, 1.5, 16)
        self.first.weight.data *= torch.logspace(1, -2, 16) * torch.logspace(-1, 2, 24)[:, None]
        self.second.weight.data *= torch.logspace(1, -2, 24)
        self.third.weight.data *= torch.logspace(1, -2, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.second(nn.functional.gelu(self.first(self.norm(x))))
        return self.third(torch.cumsum(x.sigmoid() * torch.logspace(-1.5, 1.5, 16), 0))


def test_smoothed_weights_are_compared_as_they_were_rounded(engine_target: str) -> None:
    """Test that the float weight has the columns' factors, and that they bring the values back."""
    network = Smoothed().eval()
    x = torch.randn(64, 16)
    weights = weights_of(network, {"": jitquant.get_default_qconfig()}, (x,), engine_target)
    assert all(decibels(pair) > 35 for pair in weights.values()), {k: decibels(v) for k, v in weights.items()}
    plain = {
        name: decibels(
            {"float": getattr(network, name).weight, "quantized": weights[f"{name}.weight"]["quantized"]}
        )
        for name in ("first", "third")
    }
    assert all(error < 10 for error in plain.values()), plain


def test_smoothed_values_are_compared_as_the_user_knows_them(engine_target: str) -> None:
    """Test that factors show neither in values nor in what a shadow takes."""
    network = Smoothed().eval()
    x = torch.randn(64, 16)
    model = torch.jit.script(network)
    quantized = jitquant.quantize_jit(
        model, {"": jitquant.get_default_qconfig()}, lambda model: model(x), [], target=engine_target
    )
    outputs = ns.compare_model_outputs(model, quantized, x)
    stubs = ns.compare_model_stub(model, quantized, [nn.Linear], x)
    assert {"norm.stats", "first.stats"} <= outputs.keys()
    assert stubs.keys() == {"first.stats", "second.stats", "third.stats"}
    for key, pair in (outputs | stubs).items():
        assert float(ns.compute_error(pair["float"], pair["quantized"])) > 12, key


def test_equalized_weights_are_compared_as_they_were_rounded(target: str) -> None:
    """Test that the float weights of equalized layers are the equalized ones."""
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    network[0].weight.data *= torch.logspace(-2, 0, 8)[:, None, None, None]
    image = (torch.rand(2, 3, 10, 10),)
    weights = weights_of(
        network, {"": jitquant.default_qconfig}, image, target, equalize_layers=True, smooth_inputs=False
    )
    assert not torch.allclose(weights["0.weight"]["float"], network[0].weight)
    assert all(decibels(pair) > 35 for pair in weights.values())


def test_weights_of_the_accurate_preset_are_compared_before_rounding(target: str) -> None:
    """Test that weights rounded for the least error of the results are further away than the nearest."""
    network = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 8))
    x = (torch.randn(128, 16) @ torch.randn(16, 16),)
    qconfig = {"": jitquant.get_default_qconfig()}
    errors = [
        {key: decibels(pair) for key, pair in weights_of(network, qconfig, x, target, preset=preset).items()}
        for preset in ("accurate", "balanced")
    ]
    assert all(35 < errors[0][key] < errors[1][key] for key in errors[0])


class Shared(nn.Module):
    """A linear that is called twice, and weights without a module of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(8, 8)
        self.free = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.fc(torch.relu(self.fc(x)))
        return nn.functional.linear(nn.functional.linear(x, self.free), self.free.sigmoid())


def test_each_use_of_a_weight_has_its_name(target: str) -> None:
    """Test a module that is called twice, a parameter of the model itself, and a weight that is computed."""
    weights = weights_of(Shared(), {"": jitquant.get_default_qconfig()}, (torch.randn(4, 8),), target)
    assert {"fc.weight", "fc_1.weight", "linear.weight"} <= weights.keys()
    assert torch.equal(
        weights["fc.weight"]["quantized"].dequantize(), weights["fc_1.weight"]["quantized"].dequantize()
    )


def test_a_frozen_float_model(target: str) -> None:
    """Test that a model whose weights are constants is compared, by the names of its ops."""
    model = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()))
    x = torch.randn(4, 8)
    quantized = jitquant.quantize_jit(
        model, {"": jitquant.get_default_qconfig()}, lambda model: model(x), [], target=target
    )
    assert [decibels(pair) > 40 for pair in ns.compare_weights(model, quantized).values()] == [True]


class TwoMethods(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x))

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return self.first(x.relu())


def test_each_method_that_was_quantized(target: str) -> None:
    """Test that a weight which two methods use is there for each of them."""
    model = torch.jit.script(TwoMethods().eval())
    quantized = jitquant.quantize_dynamic_jit(
        model, {"": jitquant.default_dynamic_qconfig}, target=target, methods=("forward", "encode")
    )
    weights = ns.compare_weights(model, saved_and_loaded(quantized))
    assert sorted(weights) == ["first.weight", "first_1.weight", "second.weight"]
    assert all(decibels(pair) > 40 for pair in weights.values())
