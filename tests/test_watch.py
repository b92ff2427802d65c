"""Values of the float model and of the integer one, matched op by op."""

import io
import subprocess
import sys

import pytest
import torch
from torch import nn

import jitquant
from jitquant.watch import Watched, float_twin, watched_ops
from tests.marks import needs_native


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(8, 8, 3, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x):
        return self.relu(self.norm(self.conv2(self.relu(self.conv1(x)))) + x)


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.block = Block()
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.block(self.stem(x)).mean((2, 3)))


def sqnr(x, y):
    return float(20 * torch.log10(x.norm() / (x - y).norm()))


@pytest.fixture
def images():
    torch.manual_seed(0)
    return torch.randn(2, 3, 12, 12)


TARGETS = ["quantized", pytest.param("native", marks=needs_native)]


def quantized_pair(images, target, traced=False):
    torch.manual_seed(1)
    network = Network().eval()
    model = torch.jit.trace(network, images) if traced else torch.jit.script(network)
    qconfig = {"": jitquant.get_default_qconfig()}
    return model, jitquant.quantize_jit(model, qconfig, lambda m, x: m(x), [images], target=target)


def reloaded(module):
    buffer = io.BytesIO()
    torch.jit.save(module, buffer)
    buffer.seek(0)
    return torch.jit.load(buffer)


KEYS = ["stem", "block.conv1", "block.relu", "block.conv2", "block.add", "block.relu_1", "mean", "head"]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_every_op_is_found_after_saving(images, target, traced):
    """Test that a loaded file says of each op which node gives its value."""
    _, quantized = quantized_pair(images, target, traced)
    ops = watched_ops(reloaded(quantized))
    assert [op.key for op in ops] == KEYS
    assert ops == watched_ops(quantized)
    assert all(op.group >= 0 for op in ops)
    assert "places" not in str(quantized.graph)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("traced", [False, True], ids=["scripted", "traced"])
def test_values_are_matched(images, target, traced):
    """Test that each value of the integer model is near that of the same op of the float model."""
    model, quantized = quantized_pair(images, target, traced)
    quantized = reloaded(quantized)
    expected, found = {}, {}
    twin = Watched(float_twin(model, quantized), quantized)
    result = twin.run((images,), lambda i, value: expected.update({i: value.clone()}))
    torch.testing.assert_close(result, model(images))
    Watched(quantized).run((images,), lambda i, value: found.update({i: value.clone()}))
    ops = watched_ops(quantized)
    assert set(found) == {op.index for op in ops if op.is_result}
    assert len(found) >= 4
    for index, value in found.items():
        assert sqnr(expected[index], value.dequantize()) > 25, ops[index].key


@pytest.mark.parametrize("target", TARGETS)
def test_a_float_shadow_runs_on_the_inputs_of_the_integer_op(images, target):
    """Test that inputs of the integer ops take the place of those of the float model."""
    model, quantized = quantized_pair(images, target)
    ops = {op.key: op for op in watched_ops(quantized)}
    taken, results, shadows = {}, {}, {}
    # The stem's value stays what it is in the twin; only what the block's first op takes is replaced.
    inner = ops["block.conv1"].index
    last = next(op.index for op in ops.values() if op.group == ops["block.conv1"].group and op.is_result)
    watched = Watched(quantized, inputs=[last])
    watched.run(
        (images,),
        on_output=lambda i, value: results.update({i: value.dequantize().clone()}),
        on_inputs=lambda i, values: taken.update({i: [value.dequantize().clone() for value in values]}),
    )
    twin = Watched(float_twin(model, quantized), quantized, substitutes=[inner])
    twin.run(
        (images,),
        on_output=lambda i, value: shadows.update({i: value.clone()}),
        substitute=lambda i, slot, value: taken[last][slot],
    )
    assert list(taken) == [last]
    assert twin.producers[inner] == [ops["stem"].index]
    assert sqnr(shadows[last], results[last]) > 30
    assert not torch.equal(shadows[last], results[last])


def test_a_model_that_is_not_the_twin_is_refused(images):
    """Test that another float model is refused, with the first op that differs."""
    _, quantized = quantized_pair(images, "quantized")
    other = torch.jit.script(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sigmoid()).eval())
    with pytest.raises(jitquant.QuantizationError, match="op 1 is aten::sigmoid here and aten::conv2d there"):
        float_twin(other, quantized)
    with pytest.raises(jitquant.QuantizationError, match="was prepared or quantized by jitquant"):
        float_twin(quantized, quantized)


def test_debug_models_are_refused(images):
    """Test that a module that does not say what became of its ops is refused, with the remedy."""
    model, _ = quantized_pair(images, "quantized")
    qconfig = {"": jitquant.default_qconfig}
    debug = jitquant.quantize_jit(model, qconfig, lambda m, x: m(x), [images], debug=True)
    for module in (model, debug):
        with pytest.raises(jitquant.QuantizationError, match="not with debug"):
            watched_ops(module)


def test_values_in_loops_are_seen_each_time():
    """Test that a value in a loop is seen at each step."""

    class Loop(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell = nn.Linear(6, 6)

        def forward(self, x):
            for _ in range(x.size(0)):
                x = self.cell(x)
            return x

    model = torch.jit.script(Loop().eval())
    quantized = jitquant.quantize_dynamic_jit(model, {"": jitquant.per_channel_dynamic_qconfig})
    seen = []
    Watched(quantized).run((torch.randn(5, 6),), lambda index, value: seen.append(index))
    assert seen == [0] * 5


def test_a_callback_may_run_another_watched_model(images):
    """Test that what a callback runs is watched by its own callbacks, and the outer run goes on."""
    model, quantized = quantized_pair(images, "quantized")
    twin = Watched(float_twin(model, quantized), quantized)
    outer, inner = [], []

    def see(index, value):
        outer.append(index)
        if len(outer) == 1:
            twin.run((images,), lambda index, value: inner.append(index))

    Watched(quantized).run((images,), see)
    assert len(inner) == len(KEYS)
    assert outer == [op.index for op in watched_ops(quantized) if op.is_result]


def test_nobody_watches_behind_an_error(images):
    """Test that a callback that raises is told no more values, and the next run has its own."""
    _, quantized = quantized_pair(images, "quantized")
    seen = []

    def fail(index, value):
        seen.append(index)
        raise ValueError("enough")

    watched = Watched(quantized)
    with pytest.raises(RuntimeError, match="enough"):
        watched.run((images,), fail)
    watched.run((images,))
    assert len(seen) == 1


def test_a_process_that_watched_ends_well():
    """Test that what watches is not destroyed behind the interpreter, whatever hangs on it alone."""
    code = (
        "from jitquant import _C\n"
        "names = {}\n"
        "exec('def see(number, value): pass', names)\n"
        "_C.watch_with(names.pop('see'), None)\n"
        "del names\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
