"""The recurrent kernels of the op library against arithmetic that rounds the same, and what they refuse."""

import io
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from tests.marks import needs_native
from tests.networks import sqnr

pytestmark = needs_native
OPS = torch.ops.jitquant
KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


@dataclass(frozen=True)
class Network:
    """Random integer weights of all layers and directions, and the kernel made of them."""

    kind: str
    features: int
    units: int
    layers: int
    directions: int
    weights: list[Tensor]
    scales: list[Tensor]
    biases: list[Tensor]

    def kernel(self) -> torch.ScriptObject:
        both = self.directions == 2
        return OPS.recurrent_prepack(self.kind, self.weights, self.scales, self.biases, self.layers, both)

    def op(self, form: str = ""):
        return getattr(OPS, self.kind.partition("_")[0] + form + "_dynamic")

    def states(self, batch: int, size: float = 1.0) -> list[Tensor]:
        count = 2 if self.kind == "lstm" else 1
        shape = (self.layers * self.directions, batch, self.units)
        return [(torch.rand(shape) * 2 - 1) * size for _ in range(count)]

    def hx(self, states: list[Tensor]) -> list[Tensor] | Tensor:
        return states if self.kind == "lstm" else states[0]

    def float_module(self) -> nn.RNNBase:
        options = {
            "num_layers": self.layers,
            "bidirectional": self.directions == 2,
            "bias": bool(self.biases),
        }
        name, _, nonlinearity = self.kind.partition("_")
        if nonlinearity:
            options["nonlinearity"] = nonlinearity
        module = getattr(nn, name.upper())(self.features, self.units, **options).eval()
        for i, (weight, scale) in enumerate(zip(self.weights, self.scales, strict=True)):
            layer, place = divmod(i, 2 * self.directions)
            suffix = f"_l{layer}" + ("_reverse" if place >= 2 else "")
            which = "hh" if i % 2 else "ih"
            getattr(module, f"weight_{which}{suffix}").data = weight * scale.reshape(-1, 1)
            if self.biases:
                getattr(module, f"bias_{which}{suffix}").data = self.biases[i]
        return module


def network(
    kind: str,
    features: int = 20,
    units: int = 24,
    *,
    layers: int = 1,
    directions: int = 1,
    bias: bool = True,
    per_row: bool = True,
) -> Network:
    torch.manual_seed(features + 7 * units)
    rows = GATES[kind] * units
    weights, scales, biases = [], [], []
    for layer in range(layers):
        for _ in range(directions):
            for columns in (units * directions if layer else features, units):
                weights.append(torch.randint(-127, 128, (rows, columns), dtype=torch.int8))
                scale = (torch.rand(rows if per_row else 1) + 0.5) / 90 / columns**0.5
                scales.append(scale)
                biases.append(torch.randn(rows) * 0.3 if bias else torch.zeros(0))
    return Network(kind, features, units, layers, directions, weights, scales, biases if bias else [])


def rounded(x: Tensor) -> Tensor:
    """Each row to 256 steps between its least and its largest number, and zero."""
    low, high = x.amin(-1, keepdim=True).clamp(max=0), x.amax(-1, keepdim=True).clamp(min=0)
    scale = (high.double() - low.double()) / 255
    scale = torch.where(scale < 1e-30, torch.ones_like(scale), scale)
    zero_point = (-low / scale).round()
    return ((x * (1 / scale.float())).double().round() + zero_point).clamp(0, 255).sub(zero_point) * scale


def new_state(kind: str, x: Tensor, h: Tensor, last_bias: Tensor, states: list[Tensor]) -> list[Tensor]:
    """A step of what torch.nn documents, from the products of the input and of the hidden state."""
    if kind == "lstm":
        i, f, g, o = (x + h).chunk(4, -1)
        cell = f.sigmoid() * states[1] + i.sigmoid() * g.tanh()
        return [o.sigmoid() * cell.tanh(), cell]
    if kind == "gru":
        (xr, xz, xn), (hr, hz, hn) = x.chunk(3, -1), h.chunk(3, -1)
        new = (xn + (xr + hr).sigmoid() * (hn + last_bias)).tanh()
        update = (xz + hz).sigmoid()
        return [(1 - update) * new + update * states[0]]
    return [(x + h).tanh() if kind == "rnn_tanh" else (x + h).relu()]


def expected_direction(
    net: Network, index: int, steps: Sequence[Tensor], states: list[Tensor]
) -> tuple[list[Tensor], list[Tensor]]:
    """The outputs of one direction of one layer; a step may have fewer rows than the batch."""
    double = [
        (w.double() * s.double().reshape(-1, 1)).t() for w, s in zip(net.weights, net.scales, strict=True)
    ]
    w_ih, w_hh = double[2 * index], double[2 * index + 1]
    b_ih, b_hh = (net.biases[2 * index : 2 * index + 2]) if net.biases else (torch.zeros(()), torch.zeros(()))
    last_bias = torch.zeros(net.units)
    if net.kind == "gru" and net.biases:
        b_hh = b_hh.clone()
        last_bias = b_hh[-net.units :].clone()
        b_hh[-net.units :] = 0
    reverse = index % net.directions == 1
    order = reversed(range(len(steps))) if reverse else range(len(steps))
    outputs: list[Tensor] = [torch.empty(0)] * len(steps)
    states = [state.clone() for state in states]
    for step in order:
        batch = len(steps[step])
        now = [state[:batch].double() for state in states]
        x = rounded(steps[step]) @ w_ih + b_ih
        h = rounded(states[0][:batch]) @ w_hh + b_hh
        for state, new in zip(states, new_state(net.kind, x, h, last_bias, now), strict=True):
            state[:batch] = new.float()
        outputs[step] = states[0][:batch].clone()
    return outputs, states


def expected(net: Network, steps: Sequence[Tensor], states: list[Tensor]) -> list:
    """The outputs of each step, and the states in the end."""
    final: list[list[Tensor]] = [[] for _ in states]
    for layer in range(net.layers):
        parts = []
        for direction in range(net.directions):
            index = layer * net.directions + direction
            outputs, ends = expected_direction(net, index, steps, [state[index] for state in states])
            parts.append(outputs)
            for whole, end in zip(final, ends, strict=True):
                whole.append(end)
        steps = [torch.cat(row, -1) for row in zip(*parts, strict=True)]
    return [steps, *(torch.stack(state) for state in final)]


def assert_close(found: Tensor, wanted: Tensor) -> None:
    """An intermediate number may be rounded to the integer beside, which is then seen a little."""
    assert found.shape == wanted.shape
    assert found.dtype == torch.float32
    assert wanted.std() > 0.05
    assert sqnr(wanted, found) > 45
    assert (found - wanted).abs().max() < 0.03


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 2, 5, 17, 70])
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (3, 1), (1, 2), (2, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_sequence(kind: str, batch: int, layers: int, directions: int, bias: bool) -> None:
    """Test outputs and states of all steps, layers and directions, batch first and steps first."""
    net = network(kind, layers=layers, directions=directions, bias=bias)
    kernel = net.kernel()
    inputs, states = torch.randn(6, batch, net.features), net.states(batch, 0.9)
    kept = [inputs.clone(), *(state.clone() for state in states)]
    outputs, *finals = expected(net, inputs, states)
    found = net.op()(inputs, net.hx(states), kernel, False)
    for one, other in zip(found, [torch.stack(outputs), *finals], strict=True):
        assert_close(one, other)
    turned = net.op()(inputs.transpose(0, 1).contiguous(), net.hx(states), kernel, True)
    assert torch.equal(turned[0].transpose(0, 1), found[0])
    assert turned[0].is_contiguous()
    assert all(torch.equal(a, b) for a, b in zip(turned[1:], found[1:], strict=True))
    assert all(torch.equal(a, b) for a, b in zip([inputs, *states], kept, strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("features", "units"), [(1, 1), (3, 15), (64, 16), (65, 17), (130, 100), (7, 200)])
def test_sizes_that_fill_no_register(kind: str, features: int, units: int) -> None:
    for batch in (1, 3):
        net = network(kind, features, units, per_row=features % 2 == 0)
        inputs, states = torch.randn(3, batch, features), net.states(batch)
        wanted, *_ = expected(net, inputs, states)
        found = net.op()(inputs, net.hx(states), net.kernel(), False)[0]
        assert found.shape == (3, batch, units)
        assert (found - torch.stack(wanted)).abs().max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_close_to_float(kind: str) -> None:
    """Test that only the rounding of inputs and hidden states lies between the kernel and ATen's op."""
    net = network(kind, 64, 128, layers=2, directions=2)
    inputs, states = torch.randn(40, 4, 64), net.states(4)
    with torch.no_grad():
        wanted = net.float_module()(inputs, tuple(states) if kind == "lstm" else states[0])[0]
    assert sqnr(wanted, net.op()(inputs, net.hx(states), net.kernel(), False)[0]) > 35


@pytest.mark.parametrize("kind", KINDS)
def test_rows_of_a_batch_have_nothing_to_do_with_one_another(kind: str) -> None:
    """Test that each row has a range of its own: one of large numbers leaves the others as they were."""
    net = network(kind, layers=2)
    inputs, states = torch.randn(5, 3, net.features), net.states(3)
    inputs[:, 1] *= 1000
    together = net.op()(inputs, net.hx(states), net.kernel(), False)[0]
    for row in range(3):
        own = [state[:, row : row + 1] for state in states]
        alone = net.op()(inputs[:, row : row + 1], net.hx(own), net.kernel(), False)[0]
        assert torch.equal(alone[:, 0], together[:, row])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [0.0, 1e-3, 50.0])
def test_states_of_any_size(kind: str, size: float) -> None:
    """Test hidden states that are all zero, tiny, or far beyond what a step gives."""
    net = network(kind)
    inputs, states = torch.randn(4, 2, net.features), net.states(2, size)
    outputs, *finals = expected(net, inputs, states)
    found = net.op()(inputs, net.hx(states), net.kernel(), False)
    for one, other in zip(found, [torch.stack(outputs), *finals], strict=True):
        assert sqnr(other, one) > 45


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("lengths", [[5, 5, 3, 1], [7], [4, 1, 1], [9, 8, 8, 8, 2]])
def test_packed_sequence(kind: str, directions: int, lengths: list[int]) -> None:
    net = network(kind, layers=2, directions=directions)
    padded = torch.randn(lengths[0], len(lengths), net.features)
    packed = pack_padded_sequence(padded, torch.tensor(lengths))
    states = net.states(len(lengths), 0.9)
    outputs, *finals = expected(net, packed.data.split(packed.batch_sizes.tolist()), states)
    found = net.op("_packed")(packed.data, packed.batch_sizes, net.hx(states), net.kernel())
    for one, other in zip(found, [torch.cat(outputs), *finals], strict=True):
        assert_close(one, other)
    with torch.no_grad():
        hx = tuple(states) if kind == "lstm" else states[0]
        as_float: PackedSequence = net.float_module()(packed, hx)[0]
    assert sqnr(as_float.data, found[0]) > 30


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
def test_cell(kind: str, bias: bool) -> None:
    net = network(kind, bias=bias)
    kernel = net.kernel()
    for batch in (1, 6):
        inputs, states = torch.randn(1, batch, net.features), net.states(batch)
        _, *finals = expected(net, inputs, states)
        found = net.op("_cell")(inputs[0], net.hx([state[0] for state in states]), kernel)
        found = found if isinstance(found, tuple) else (found,)
        for one, other in zip(found, finals, strict=True):
            assert_close(one, other[0])
        alone = net.op("_cell")(inputs[0, 0], net.hx([state[0, 0] for state in states]), kernel)
        alone = alone if isinstance(alone, tuple) else (alone,)
        assert all(torch.equal(a, b[0]) for a, b in zip(alone, found, strict=True))


class Holder(nn.Module):
    def __init__(self, kernel: torch.ScriptObject) -> None:
        super().__init__()
        self.kernel = kernel

    def forward(self, x: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ops.jitquant.gru_dynamic(x, h, self.kernel, False)


@pytest.mark.parametrize("directions", [1, 2])
def test_saved_and_loaded(directions: int) -> None:
    """Test that a file holds the integers once, and that what is loaded gives the same."""
    net = network("gru", 130, 100, layers=2, directions=directions)
    scripted = torch.jit.script(Holder(net.kernel()))
    inputs, hx = torch.randn(4, 3, 130), net.states(3)[0]
    file = io.BytesIO()
    torch.jit.save(scripted, file)
    integers = sum(weight.numel() for weight in net.weights)
    floats = sum(tensor.numel() * 4 for tensor in net.scales + net.biases)
    assert integers + floats < file.tell() < 1.1 * integers + floats + 20000
    file.seek(0)
    loaded = torch.jit.load(file)
    assert all(torch.equal(a, b) for a, b in zip(scripted(inputs, hx), loaded(inputs, hx), strict=True))
    assert loaded.kernel.multiply_adds() == 12 * integers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 9])
def test_threads_change_no_bit(kind: str, batch: int) -> None:
    net = network(kind, 300, 400, layers=2, directions=2)
    inputs, states = torch.randn(12, batch, 300), net.states(batch)
    threads, results, kernel = torch.get_num_threads(), [], net.kernel()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(net.op()(inputs, net.hx(states), kernel, False))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_one_kernel_in_many_threads() -> None:
    """Test calls of several sizes at the same time."""
    net = network("lstm", 40, 50, layers=2)
    kernel = net.kernel()
    cases = [(torch.randn(steps, batch, 40), net.states(batch)) for steps, batch in ((3, 1), (9, 4), (5, 4))]
    alone = [OPS.lstm_dynamic(x, hx, kernel, False)[0] for x, hx in cases]
    wrong: list[int] = []

    def call(index: int) -> None:
        for i in range(50):
            x, hx = cases[(index + i) % 3]
            if not torch.equal(OPS.lstm_dynamic(x, hx, kernel, False)[0], alone[(index + i) % 3]):
                wrong.append(index)

    callers = [threading.Thread(target=call, args=(index,)) for index in range(6)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


def test_many_lengths_and_batches() -> None:
    """Test more sizes than a kernel keeps primitives for, then the first ones again."""
    net = network("gru")
    kernel = net.kernel()
    for batch in [*range(1, 45), 2, 1]:
        inputs, states = torch.randn(1 + batch % 4, batch, net.features), net.states(batch)
        wanted, *_ = expected(net, inputs, states)
        found = OPS.gru_dynamic(inputs, states[0], kernel, False)[0]
        assert (found - torch.stack(wanted)).abs().max() < 0.03


def test_strided_input_is_read_where_it_lies() -> None:
    net = network("lstm")
    wide, states = torch.randn(5, 6, 2 * net.features), net.states(3)
    kernel = net.kernel()
    for inputs in (
        wide[:, ::2, : net.features],
        wide[:, ::2, ::2],
        wide[:1, ::2, : net.features].expand(5, 3, -1),
    ):
        found = OPS.lstm_dynamic(inputs, states, kernel, False)[0]
        assert torch.equal(found, OPS.lstm_dynamic(inputs.contiguous(), states, kernel, False)[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_nan_spoils_its_own_row_from_its_step_on(kind: str, value: float) -> None:
    net = network(kind)
    inputs, states = torch.randn(5, 3, net.features), net.states(3)
    wanted = net.op()(inputs, net.hx(states), net.kernel(), False)[0]
    inputs[2, 1, 4] = value
    found = net.op()(inputs, net.hx(states), net.kernel(), False)[0]
    assert found[2:, 1].isnan().all()
    found[2:, 1] = wanted[2:, 1]
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_batch_gives_empty_results_as_aten_does(kind: str) -> None:
    net = network(kind, layers=2, directions=2)
    found = net.op()(torch.randn(4, 0, net.features), net.hx(net.states(0)), net.kernel(), False)
    assert [tuple(tensor.shape) for tensor in found] == [(4, 0, 48)] + [(4, 0, 24)] * (len(found) - 1)


X, H = torch.randn(4, 2, 20), torch.zeros(1, 2, 24)


@pytest.mark.parametrize(
    ("inputs", "hx", "words"),
    [
        (torch.randn(4, 2, 21), [H, H], "lstm_dynamic: the input has 21 features and the weight takes 20"),
        (X.double(), [H, H], "the input is Double and has to be float32"),
        (X, [H, H.double()], "a state is Double and has to be float32"),
        (X, [H], "there are 1 states and an LSTM has two"),
        (X, [H[:, :1], H], r"the hidden state is \[1, 1, 24\] and has to be \[1, 2, 24\]"),
        (X, [H, torch.zeros(1, 2, 23)], r"the cell state is \[1, 2, 23\]"),
        (X[0], [H, H], "has 2 dimensions and has to have three"),
        (X[:0], [H, H], "there is no step in the input"),
    ],
)
def test_wrong_inputs_are_refused_in_words(inputs: Tensor, hx: list[Tensor], words: str) -> None:
    with pytest.raises(RuntimeError, match=words):
        OPS.lstm_dynamic(inputs, hx, network("lstm").kernel(), False)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ([2, 1], "add up to 3 and the data has 4 rows"),
        ([1, 2, 1], "batch size 1 is 2, and none may be 0 or more"),
        ([3, 1, 0], "batch size 2 is 0"),
        ([], "have to be int64"),
    ],
)
def test_wrong_batch_sizes_are_refused(sizes: list[int], words: str) -> None:
    with pytest.raises(RuntimeError, match="gru_packed_dynamic: .*" + words):
        OPS.gru_packed_dynamic(
            torch.randn(4, 20), torch.tensor(sizes, dtype=torch.long), H, network("gru").kernel()
        )


def test_other_kernels_and_ops_are_refused() -> None:
    lstm, deep = network("lstm").kernel(), network("gru", layers=2).kernel()
    other = OPS.dequantize_prepack(0.02, 0)
    with pytest.raises(RuntimeError, match="gru_dynamic: the kernel is of kind 'lstm'"):
        OPS.gru_dynamic(X, H, lstm, False)
    with pytest.raises(RuntimeError, match="lstm_dynamic: the kernel is of kind 'dequantize'"):
        OPS.lstm_dynamic(X, [H, H], other, False)
    with pytest.raises(RuntimeError, match="gru_cell_dynamic: the kernel has several layers"):
        OPS.gru_cell_dynamic(X[0], H[0], deep)
    with pytest.raises(RuntimeError, match="give both a batch, or neither"):
        OPS.lstm_cell_dynamic(X[0], [H, H], lstm)
    with pytest.raises(RuntimeError, match="run it by the op of that name"):
        OPS.linear_dynamic(X, lstm)
    with pytest.raises(RuntimeError, match="gives several results"):
        OPS.linear_dynamic_add(X, H, network("gru").kernel())


def changed(net: Network, what: str) -> tuple:
    weights, scales, biases = list(net.weights), list(net.scales), list(net.biases)
    if what == "float":
        weights[1] = weights[1].float()
    if what == "projection":
        weights.append(weights[1])
        scales.append(scales[1])
        biases.append(biases[1])
    if what == "columns":
        weights[0] = weights[0][:, :0]
    if what == "rows":
        weights[0] = weights[0][1:]
    if what == "scales":
        scales[0] = scales[0][1:]
    if what == "bias":
        biases[1] = biases[1][1:]
    if what == "biases":
        biases.pop()
    return net.kind, weights, scales, biases, net.layers, False


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("float", r"weight 1 is Float \[96, 24\] and has to be int8 \[96, 24\]"),
        ("projection", "has no projections"),
        ("columns", "may take 1 to 65536"),
        ("rows", r"weight 0 is Char \[95, 20\] and has to be int8 \[96, 20\]"),
        ("scales", "there are 95 scales"),
        ("bias", r"a bias is Float \[95\] and has to be float32 \[96\]"),
        ("biases", "2 tensors of scales and 1 biases"),
    ],
)
def test_wrong_weights_are_refused(what: str, words: str) -> None:
    with pytest.raises(RuntimeError, match="recurrent_prepack: .*" + words):
        OPS.recurrent_prepack(*changed(network("lstm"), what))


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(RuntimeError, match="no kind 'peephole'; give lstm, gru, rnn_tanh or rnn_relu"):
        OPS.recurrent_prepack("peephole", *changed(network("lstm"), "")[1:])


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_loops_of_other_processors(instructions: str) -> None:
    """Test the loops of each instruction set: the environment takes the newer ones away."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", __file__]
    result = subprocess.run(
        command, capture_output=True, text=True, check=False,
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": instructions},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-2000:]
