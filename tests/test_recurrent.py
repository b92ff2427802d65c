"""Tests of recurrent layers and cells in dynamic quantization: numbers, states, spellings, files, reports."""

import io
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import jitquant
from jitquant import QConfig, QuantizationError, quantize_dynamic_jit
from jitquant.observers import PerChannelMinMaxObserver, PlaceholderObserver, WeightMinMaxObserver
from tests.graphs import check_runs_alone, graph_text, ops_of, saved_and_loaded
from tests.marks import needs_native

REDUCED = PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True, reduce_range=True)
PER_TENSOR = QConfig(REDUCED, WeightMinMaxObserver)
PER_CHANNEL = QConfig(REDUCED, PerChannelMinMaxObserver)
HALF = jitquant.float16_dynamic_qconfig
TARGETS = ["quantized", pytest.param("native", marks=needs_native)]
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 3, "dropout": 0.3},
    {"bidirectional": True},
    {"batch_first": True, "bias": False},
    {"num_layers": 2, "bidirectional": True, "batch_first": True},
]
SPELLINGS = ["scripted", "traced", "frozen", "loaded", "traced and frozen"]
INPUTS, HIDDEN = 12, 16


class Layer(nn.Module):
    """A recurrent layer with a linear behind it, which gives all that the layer gives."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(INPUTS, HIDDEN, **options)
        self.head = nn.Linear(HIDDEN * (1 + options.get("bidirectional", False)), 4)

    def forward(self, x: Tensor) -> Any:
        y, hidden = self.rnn(x)
        return self.head(y), hidden


class Batches(Layer):
    """The same for batches, of which only what the linear gives is returned."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])


class Cells(nn.Module):
    """One step of each kind of cell."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.lstm = nn.LSTMCell(INPUTS, HIDDEN, bias)
        self.gru = nn.GRUCell(HIDDEN, HIDDEN, bias)
        self.tanh = nn.RNNCell(HIDDEN, HIDDEN, bias)
        self.relu = nn.RNNCell(HIDDEN, HIDDEN, bias, nonlinearity="relu")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        h, c = self.lstm(x)
        g = self.gru(h, c)
        t = self.tanh(g, h)
        return h, c, g, t, self.relu(t, g)


class Steps(nn.Module):
    """A cell that is called at each step, as a scripted loop or one that tracing unrolls."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(INPUTS, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(x.size(1), self.cell.hidden_size)
        for t in range(x.size(0)):
            h = self.cell(x[t], h)
        return h


class Branches(nn.Module):
    """A layer in a branch and one in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(INPUTS, INPUTS)
        self.second = nn.GRU(INPUTS, INPUTS)

    def forward(self, x: Tensor, often: int) -> Tensor:
        if often > 1:
            x = self.first(x)[0]
        for _ in range(often):
            x = self.second(x)[0]
        return x


class Packed(nn.Module):
    """Sequences of several lengths."""

    def __init__(self, kind: type[nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.rnn = kind(INPUTS, HIDDEN, batch_first=True, **options)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        y, _ = self.rnn(packed)
        return pad_packed_sequence(y, batch_first=True)


class Streaming(nn.Module):
    """A layer that goes on where the call before it ended: a buffer changes in place, an attribute is set."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, HIDDEN, batch_first=True)
        self.register_buffer("hidden", torch.zeros(1, 1, HIDDEN))
        self.cell = torch.zeros(1, 1, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        y, (hidden, cell) = self.rnn(x, (self.hidden, self.cell))
        self.hidden.copy_(hidden)
        self.cell = cell
        return y

    @torch.jit.export
    def reset_states(self) -> None:
        self.hidden = torch.zeros_like(self.hidden)
        self.cell = torch.zeros_like(self.cell)


class Outer(nn.Module):
    """Keeps one that goes on in a submodule, and counts calls in place."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Streaming()
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        self.calls.add_(1)
        return self.inner(x)

    @torch.jit.export
    def reset_states(self) -> None:
        self.calls.zero_()
        self.inner.reset_states()


class Functional(nn.Module):
    """torch.lstm without a module."""

    def __init__(self, train: bool = False) -> None:
        super().__init__()
        self.train_ = train
        self.w_ih = nn.Parameter(torch.randn(4 * HIDDEN, INPUTS) * 0.2)
        self.w_hh = nn.Parameter(torch.randn(4 * HIDDEN, HIDDEN) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        zeros = torch.zeros(1, x.size(1), self.w_hh.size(1))
        weights = [self.w_ih, self.w_hh]
        return torch.lstm(x, [zeros, zeros], weights, False, 1, 0.0, self.train_, False, False)[0]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def spelled(model: nn.Module, spelling: str, *inputs: Any) -> torch.jit.ScriptModule:
    model.eval()
    script = torch.jit.trace(model, inputs) if "traced" in spelling else torch.jit.script(model)
    if "frozen" in spelling:
        script = torch.jit.freeze(script)
    return saved_and_loaded(script) if spelling == "loaded" else script


def quantized(model: nn.Module, qconfig: Any = PER_TENSOR, **options: Any) -> torch.jit.ScriptModule:
    return quantize_dynamic_jit(torch.jit.script(model.eval()), {"": qconfig}, **options)


def flat(values: Any) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [tensor for value in values for tensor in flat(value)]


def check_near(result: Any, expected: Any, decibels: float = 20) -> None:
    for one, other in zip(flat(result), flat(expected), strict=True):
        assert one.shape == other.shape
        if not other.is_floating_point():
            assert torch.equal(one, other)
            continue
        noise = (one - other).pow(2).mean()
        assert noise == 0 or 10 * torch.log10(other.pow(2).mean() / noise) > decibels


def check_equal(result: Any, expected: Any) -> None:
    for one, other in zip(flat(result), flat(expected), strict=True):
        assert torch.equal(one, other)


def computing_ops(module: torch.jit.ScriptModule) -> list[str]:
    """The recurrent ops, by their names."""
    names = ("lstm", "gru", "rnn")
    return [op for op in ops_of(module) if any(name in op.rpartition("::")[2] for name in names)]


def reasons(module: torch.jit.ScriptModule) -> dict[str, str]:
    return {row.op: row.reason for row in jitquant.summarize(module).ops if row.reason}


# Layers


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_layer_becomes_dynamic(
    kind: type[nn.RNNBase], options: dict[str, Any], spelling: str, target: str
) -> None:
    """Test that it is one op for all layers and directions, with numbers near the float model's."""
    model, x = Layer(kind, **options).eval(), torch.randn(5, 3, INPUTS)
    script = spelled(model, spelling, x)
    made = quantize_dynamic_jit(script, {"": PER_CHANNEL}, target=target, strict=True)
    (op,) = computing_ops(made)
    assert op != f"aten::{kind.__name__.lower()}"
    check_near(made(x), model(x))


@pytest.mark.parametrize("shape", [(5, 3, INPUTS), (5, INPUTS), (1, 1, INPUTS), (5, 0, INPUTS)], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_layer_takes_any_batch(kind: type[nn.RNNBase], shape: tuple[int, ...]) -> None:
    """Test batches, single sequences and nothing at all."""
    model, x = Layer(kind).eval(), torch.randn(shape)
    made = quantized(model)
    if x.numel() == 0:
        assert [value.shape for value in flat(made(x))] == [value.shape for value in flat(model(x))]
    else:
        check_near(made(x), model(x))


@pytest.mark.parametrize("weight", ["default_weight_observer", "default_per_channel_weight_observer"])
@pytest.mark.parametrize("options", [each for each in OPTIONS if each.get("bias", True)], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_gives_what_eager_gives(kind: type[nn.RNNBase], options: dict[str, Any], weight: str) -> None:
    """Test that torch.ao's eager mode, with the same observers of weights, gives the very same numbers."""
    observer = getattr(ao, weight)
    model, x = Layer(kind, **options).eval(), torch.randn(5, 3, INPUTS)
    qconfig = ao.QConfig(ao.default_dynamic_quant_observer, observer)
    eager = ao.quantize_dynamic(model, {kind: qconfig, nn.Linear: qconfig})
    check_equal(quantized(model, QConfig(REDUCED, observer))(x), eager(x))


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_half_precision_gives_what_eager_gives(kind: type[nn.RNNBase]) -> None:
    model, x = Layer(kind, num_layers=2).eval(), torch.randn(5, 3, INPUTS)
    eager = ao.quantize_dynamic(model, {kind, nn.Linear}, dtype=torch.float16)
    made = quantized(model, HALF)
    check_equal(made(x), eager(x))
    check_near(made(x), model(x), 60)


@pytest.mark.parametrize("qconfig", [PER_TENSOR, PER_CHANNEL, HALF])
def test_debug_shows_float_arithmetic(qconfig: QConfig) -> None:
    """Test that debug=True keeps the float op, with quantized weights, and gives nearly the same numbers."""
    model, x = Layer(nn.LSTM, num_layers=2), torch.randn(5, 3, INPUTS)
    debug = quantized(model, qconfig, debug=True)
    assert computing_ops(debug) == ["aten::lstm"]
    expected = "aten::_saturate_weight_to_fp16" if qconfig is HALF else "aten::dequantize"
    assert ops_of(debug).count(expected) >= 4
    check_near(debug(x), quantized(model, qconfig)(x), 20)


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_packed_sequences(kind: type[nn.RNNBase], options: dict[str, Any], traced: bool) -> None:
    """Test sequences of several lengths, also of others than tracing saw."""
    model = Packed(kind, **options).eval()
    x, lengths = torch.randn(3, 7, INPUTS), torch.tensor([4, 7, 2])
    script = spelled(model, "traced" if traced else "scripted", x, lengths)
    made = quantize_dynamic_jit(script, {"": PER_CHANNEL}, strict=True)
    assert computing_ops(made) == [f"aten::quantized_{kind.__name__.lower()}"]
    for sizes in (lengths, torch.tensor([3, 1, 6])):
        check_near(made(x, sizes), model(x, sizes))


def test_a_function_without_a_module() -> None:
    model, x = Functional().eval(), torch.randn(5, 3, INPUTS)
    made = quantized(model, strict=True)
    check_near(made(x), model(x))


def test_layers_in_branches_and_loops() -> None:
    model, x = Branches().eval(), torch.randn(5, 3, INPUTS)
    made = quantized(model, PER_CHANNEL, strict=True)
    for often in (1, 3):
        check_near(made(x, often), model(x, often), 15)


# Cells


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("bias", [True, False])
def test_cells_become_dynamic(bias: bool, spelling: str, target: str) -> None:
    model, x = Cells(bias).eval(), torch.randn(3, INPUTS)
    script = spelled(model, spelling, x)
    made = quantize_dynamic_jit(script, {"": PER_CHANNEL}, target=target)
    assert not [op for op in computing_ops(made) if op.startswith("aten")]
    if "traced" in spelling:  # which takes a cell apart into linears
        linears = [op for op in jitquant.summarize(made).ops if op.op == "aten::linear"]
        assert [op.is_integer for op in linears] == [True] * 8
    else:
        assert len(computing_ops(made)) == 4
    check_near(made(x), model(x))


@pytest.mark.parametrize("weight", ["default_weight_observer", "default_per_channel_weight_observer"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_cells_give_what_eager_gives(weight: str) -> None:
    observer = getattr(ao, weight)
    model, x = Cells().eval(), torch.randn(3, INPUTS)
    qconfig = ao.QConfig(ao.default_dynamic_quant_observer, observer)
    kinds = (nn.LSTMCell, nn.GRUCell, nn.RNNCell)
    eager = ao.quantize_dynamic(model, dict.fromkeys(kinds, qconfig))
    check_equal(quantized(model, QConfig(REDUCED, observer))(x), eager(x))


def test_cells_in_half_precision() -> None:
    model, x = Cells().eval(), torch.randn(3, INPUTS)
    made = quantized(model, HALF)
    assert len([op for op in computing_ops(made) if op.startswith("quantized")]) == 4
    check_near(made(x), model(x), 60)


@pytest.mark.parametrize("qconfig", [PER_TENSOR, PER_CHANNEL, HALF])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_cell_called_at_each_step_has_its_weights_once(spelling: str, qconfig: QConfig) -> None:
    """Test that two weights are packed, however often tracing unrolled the loop."""
    model, x = Steps().eval(), torch.randn(6, 3, INPUTS)
    made = quantize_dynamic_jit(spelled(model, spelling, x), {"": qconfig})
    assert not {"aten::gru_cell", "aten::linear"} & set(ops_of(made))
    names = {node.split('"')[1] for node in graph_text(made).split("GetAttr[name=")[1:]}
    assert len([name for name in names if name.startswith("_jit_pass_packed_weight_")]) == 2
    check_near(made(x), model(x), 15)


# State


@pytest.mark.parametrize("kept", [Streaming, Outer])
def test_a_model_keeps_its_state_between_calls(kept: type[nn.Module]) -> None:
    """Test that calls go on where the last one ended, that reset_states works, and both in a loaded file."""
    torch.manual_seed(1)
    model, x = kept().eval(), torch.randn(1, 9, INPUTS)
    made = quantized(model, PER_CHANNEL, strict=True)
    assert computing_ops(made) == ["aten::quantized_lstm"]
    script = torch.jit.script(model)
    for module in (made, saved_and_loaded(made)):
        for _ in range(2):
            module.reset_states()
            script.reset_states()
            for part in x.split([4, 3, 2], dim=1):
                check_near(module(part), script(part))
        module.reset_states()
        first = module(x)
        assert not torch.equal(module(x), first)
        module.reset_states()
        assert torch.equal(module(x), first)


# Files


@pytest.mark.parametrize("qconfig", [PER_CHANNEL, HALF], ids=["8 bits", "16 bits"])
@pytest.mark.parametrize("model", [Layer(nn.LSTM, num_layers=2), Layer(nn.GRU, bias=False), Cells()])
def test_a_file_runs_without_jitquant(tmp_path: Path, model: nn.Module, qconfig: QConfig) -> None:
    x = torch.randn(3, INPUTS) if isinstance(model, Cells) else torch.randn(5, 3, INPUTS)
    made = quantized(model, qconfig)
    check_equal(saved_and_loaded(made)(x), made(x))
    check_runs_alone(made, tmp_path, x)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_is_small(tmp_path: Path, spelling: str) -> None:
    """Test that nothing of the float weights is left, under whatever name."""

    class Large(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(256, 256, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    script = spelled(Large(), spelling, torch.randn(4, 1, 256))
    torch.jit.save(script, tmp_path / "float.pt")
    torch.jit.save(quantize_dynamic_jit(script, {"": PER_CHANNEL}), tmp_path / "made.pt")
    sizes = [(tmp_path / name).stat().st_size for name in ("float.pt", "made.pt")]
    assert sizes[1] < 0.28 * sizes[0]


# What stays float


class Recurrent(nn.Module):
    """Gives what a layer gives first."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_projections_stay_float(bias: bool, bidirectional: bool) -> None:
    """Test an LSTM with projections, also where the count of its parameters would fit another layer."""
    for layers in (1, 2, 4):
        options = {"num_layers": layers, "bias": bias, "bidirectional": bidirectional}
        model = Recurrent(nn.LSTM(INPUTS, HIDDEN, proj_size=5, **options)).eval()
        x = torch.randn(5, 3, INPUTS)
        with pytest.warns(UserWarning, match="no op of the model has a dynamic form"):
            made = quantized(model)
        assert "projections" in reasons(made)["aten::lstm"]
        check_near(made(x), model(x), 100)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.filterwarnings("ignore:.*no op of the model has a dynamic form")
def test_simple_layers_stay_float_on_stock_ops(nonlinearity: str) -> None:
    """Test that nn.RNN, of whose layers stock torch has no integer op, stays as it is and says why."""
    model, x = Recurrent(nn.RNN(INPUTS, HIDDEN, nonlinearity=nonlinearity)).eval(), torch.randn(5, 3, INPUTS)
    made = quantized(model)
    reason = "the target 'quantized' has no integer op for it"
    assert reasons(made)[f"aten::rnn_{nonlinearity}"] == reason
    check_near(made(x), model(x), 100)


@pytest.mark.filterwarnings("ignore:.*no op of the model has a dynamic form")
def test_training_stays_float() -> None:
    made = quantized(Functional(train=True))
    assert computing_ops(made) == ["aten::lstm"]
    assert "train=True" in reasons(made)["aten::lstm"]


@pytest.mark.filterwarnings("ignore:.*no op of the model has a dynamic form")
def test_computed_weights_stay_float() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w_ih = nn.Parameter(torch.randn(4 * HIDDEN, INPUTS))
            self.w_hh = nn.Parameter(torch.randn(4 * HIDDEN, HIDDEN))

        def forward(self, x: Tensor) -> Tensor:
            zeros = torch.zeros(1, x.size(1), self.w_hh.size(1))
            weights = [self.w_ih * x.mean(), self.w_hh]
            return torch.lstm(x, [zeros, zeros], weights, False, 1, 0.0, False, False, False)[0]

    made = quantized(Computed())
    assert "its weight is not a float32 constant" in reasons(made)["aten::lstm"]


def test_a_layer_without_qconfig_stays_float() -> None:
    model, x = Layer(nn.LSTM).eval(), torch.randn(5, 3, INPUTS)
    made = quantize_dynamic_jit(torch.jit.script(model), {"head": PER_TENSOR})
    assert reasons(made)["aten::lstm"] == "its qconfig is None"
    assert "quantized::linear_dynamic" in ops_of(made)
    check_near(made(x), model(x))


def test_static_quantization_leaves_layers_float() -> None:
    """Test that quantize_jit makes integers of what is around a layer, and says what would take it."""
    model, x = Layer(nn.LSTM).eval(), torch.randn(5, 3, INPUTS)
    made = jitquant.quantize_jit(
        torch.jit.script(model), {"": jitquant.default_qconfig}, lambda prepared: prepared(x), []
    )
    assert "quantize_dynamic_jit" in reasons(made)["aten::lstm"]
    assert computing_ops(made) == ["aten::lstm"]
    check_near(made(x), model(x))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("strict", [True, ["rnn"]])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_strict_is_met_by_a_layer(kind: type[nn.RNNBase], strict: Any, target: str) -> None:
    """Test that the squeeze of single sequences is not asked for, in a dynamic call and in a mixed one."""
    x = torch.randn(3, 2, INPUTS)
    model = torch.jit.script(Batches(kind).eval())
    layer = "aten::lstm" if kind is nn.LSTM else "aten::gru"
    dynamic = quantize_dynamic_jit(model, {"": PER_CHANNEL}, target=target, strict=strict)
    mapping = {"": jitquant.get_default_qconfig(), "rnn": PER_CHANNEL}
    mixed = jitquant.quantize_jit(model, mapping, lambda m: m(x), [], target=target, strict=strict)
    for module in (dynamic, mixed):
        reasons = {row.op: row.reason for row in jitquant.summarize(module).ops}
        assert reasons[layer] == reasons["aten::linear"] == ""
        assert reasons["aten::squeeze"]


@pytest.mark.parametrize("names", [["squeeze"], ["aten::squeeze", "rnn"]])
def test_strict_asks_for_what_moves_values_where_it_is_named(names: list[str]) -> None:
    model = torch.jit.script(Batches(nn.LSTM).eval())
    with pytest.raises(QuantizationError, match=r"aten::squeeze at .*it has no dynamic form"):
        quantize_dynamic_jit(model, {"": PER_CHANNEL}, strict=names)


def test_strict_refuses_a_layer_that_stays_float() -> None:
    model = torch.jit.script(Batches(nn.LSTM).eval())
    with pytest.raises(QuantizationError, match=r"1 of 1 ops would stay float.*\n.*its qconfig is None"):
        quantize_dynamic_jit(model, {"": PER_CHANNEL, "rnn": None}, strict=["rnn"])


class Written(nn.Module):
    """A cell by hand, whose state nothing but the next call reads."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(INPUTS, INPUTS)
        self.state = torch.zeros(3, INPUTS)

    def forward(self, x: Tensor) -> Tensor:
        self.state = torch.tanh(self.f(x) + self.state)
        return self.state

    @torch.jit.export
    def reset_states(self) -> None:
        self.state = torch.zeros_like(self.state)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dynamic", [True, False], ids=["dynamic", "static"])
def test_a_state_that_a_graph_without_branches_sets(dynamic: bool, target: str) -> None:
    """Test that setting an attribute is not taken for dead code."""
    model, x = Written().eval(), torch.randn(3, INPUTS)
    script = torch.jit.script(model)
    if dynamic:
        made = quantize_dynamic_jit(script, {"": PER_CHANNEL}, target=target)
    else:
        qconfig = {"": jitquant.get_default_qconfig()}
        made = jitquant.quantize_jit(script, qconfig, lambda m: [m(x) for _ in range(4)], [], target=target)
        made.reset_states()
    model.state = torch.zeros(3, INPUTS)
    for _ in range(3):
        check_near(made(x), model(x), 20)
    made.reset_states()
    model.reset_states()
    check_near(made(x), model(x), 20)


class Encoder(nn.Module):
    """A layer that an exported method takes as well."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(INPUTS, HIDDEN)
        self.head = nn.Linear(HIDDEN, HIDDEN)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0])

    @torch.jit.export
    def encode(self, x: Tensor) -> Tensor:
        return self.rnn(x)[0]


@pytest.mark.parametrize("name", ["dynamic", "bfloat16", "layer left float", "static"])
def test_a_layer_that_another_method_takes_too(name: str) -> None:
    """Test that a method which is not quantized keeps its weights, whatever becomes of the other."""
    model, x = Encoder().eval(), torch.randn(5, 3, INPUTS)
    script = torch.jit.script(model)
    qconfigs: dict[str, Any] = {
        "dynamic": {"": PER_CHANNEL},
        "bfloat16": {"": jitquant.bfloat16_dynamic_qconfig},
        "layer left float": {"": PER_CHANNEL, "rnn": None},
    }
    if name == "static":
        made = jitquant.quantize_jit(script, {"": jitquant.get_default_qconfig()}, lambda m: m(x), [])
    else:
        made = quantize_dynamic_jit(script, qconfigs[name])
    check_near(made(x), model(x), 20)
    torch.testing.assert_close(made.encode(x), model.encode(x))


class FourTimes(nn.Module):
    """A part that is called at four places."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Any:
        return self.part(x), self.part(x + 1), self.part(x * 2), self.part(x - 1)


PARTS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(256, 256), lambda: torch.randn(3, 256)),
    "GRU": (lambda: nn.GRU(128, 128), lambda: torch.randn(4, 2, 128)),
    "LSTM cell": (lambda: nn.LSTMCell(128, 128), lambda: torch.randn(3, 128)),
    "convolution": (lambda: nn.Conv2d(128, 128, 3), lambda: torch.randn(1, 128, 6, 6)),
}
SHARING: dict[str, Any] = {
    "default": jitquant.default_dynamic_qconfig,
    "per channel": jitquant.per_channel_dynamic_qconfig,
    "half": jitquant.float16_dynamic_qconfig,
    "bfloat16": jitquant.bfloat16_dynamic_qconfig,
    "weight only": jitquant.weight_only_int8_qconfig,
}
# Of the float file. What stays float is there once; recurrent layers in half precision are saved as floats.
LARGEST = {"default": 0.45, "per channel": 0.45, "half": 1.15, "bfloat16": 1.15, "weight only": 1.15}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("frozen", [False, True], ids=["scripted", "frozen"])
@pytest.mark.parametrize("kind", SHARING)
@pytest.mark.parametrize("part", PARTS)
def test_a_weight_at_four_places_is_there_once(part: str, kind: str, frozen: bool, target: str) -> None:
    """Test that neither target packs a weight for each place, whatever the qconfig."""
    make, inputs = PARTS[part]
    model, x = FourTimes(make()).eval(), inputs()
    script = torch.jit.script(model)
    script = torch.jit.freeze(script) if frozen else script
    qconfigs = jitquant.QConfigMapping().set_global(SHARING[kind]).set_object_type("conv2d", SHARING[kind])
    made = quantize_dynamic_jit(script, qconfigs, target=target)
    file = io.BytesIO()
    torch.jit.save(made, file)
    floats = sum(weight.numel() * 4 for weight in model.parameters())
    assert len(file.getvalue()) < LARGEST[kind] * floats + 40_000
    made(x)
