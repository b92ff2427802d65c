"""Models from anywhere and of any type: frozen, loaded, inlined, written for eager mode, half, empty."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import jitquant
from tests.graphs import saved_and_loaded
from tests.structures import WHOLE, calibrate, check, close, conv, image, images, quantize, same, scripted

# Where the model comes from


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.norm = nn.BatchNorm2d(8)
        self.second = conv(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu_(self.second(x) + x)
        return self.head(self.drop(x.mean([2, 3])))


def traced(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(network.eval(), image())


def inlined(network: nn.Module) -> torch.jit.ScriptModule:
    model = scripted(network)
    torch._C._jit_pass_inline(model.graph)
    return model


COMPILERS: dict[str, Callable[[nn.Module], torch.jit.ScriptModule]] = {
    "scripted": scripted,
    "traced": traced,
    "loaded": lambda network: saved_and_loaded(scripted(network)),
    "traced_and_loaded": lambda network: saved_and_loaded(traced(network)),
    "frozen": lambda network: torch.jit.freeze(scripted(network)),
    "frozen_and_loaded": lambda network: saved_and_loaded(torch.jit.freeze(traced(network))),
    "frozen_unoptimized": lambda network: torch.jit.freeze(scripted(network), optimize_numerics=False),
    "inlined": inlined,
    "traced_in_scripted": lambda network: scripted(nn.Sequential(traced(network), nn.ReLU())),
    "scripted_in_traced": lambda network: traced(nn.Sequential(scripted(network), nn.ReLU())),
}


@pytest.mark.parametrize("form", COMPILERS)
def test_every_form_of_a_model(form: str, target: str) -> None:
    """Test that it makes no difference how a model became TorchScript, nor that there is no source of it."""
    check(COMPILERS[form](Plain()), images(), target)


def test_a_model_after_use(target: str) -> None:
    """Test that a model that the executor has specialized by then converts as a fresh one does."""
    model = scripted(Plain())
    for _ in range(4):
        model(image())
    check(model, images(), target)


def test_a_model_optimized_for_inference(target: str) -> None:
    """Test that what has oneDNN's layout stays float and right. No such model can be loaded, float or not."""
    model = torch.jit.optimize_for_inference(scripted(Plain()))
    quantized = quantize(model, images(), target)
    x = image()
    with torch.no_grad():
        close(quantized(x), model(x))


def test_a_quantized_model_is_refused(target: str) -> None:
    """Test that one that was quantized in part says so, before and after saving."""
    model = scripted(Plain())
    qconfigs = {**WHOLE, "second": None}
    quantized = jitquant.quantize_jit(model, qconfigs, calibrate, [images()], target=target)
    for each in (quantized, saved_and_loaded(quantized)):
        with pytest.raises(jitquant.QuantizationError, match="quantized already; start again from the float"):
            jitquant.quantize_jit(each, WHOLE, calibrate, [images()], target=target)


class QuantizedPart(nn.Module):
    """A quantized model of another origin between float layers."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first = conv()
        self.part = part
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(torch.relu(self.first(x))))


class EagerPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.conv = conv(8)
        self.act = nn.ReLU()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.act(self.conv(self.quant(x))))


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_part_that_eager_mode_quantized(target: str) -> None:
    """Test that a part that is integer already stays so, and what is around it becomes integer."""
    part = EagerPart().eval()
    part.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(part, inplace=True)
    for _ in range(4):
        part(torch.relu(torch.randn(2, 8, 12, 12)))
    torch.ao.quantization.convert(part, inplace=True)
    check(scripted(QuantizedPart(part)), images(), target)


class ForEagerMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.conv = conv()
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.other = conv()
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.join = torch.ao.nn.quantized.FloatFunctional()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        left = self.act(self.norm(self.conv(x)))
        y = self.sum.add_relu(left, self.other(x))
        return self.dequant(self.join.cat([y, left], 1))


@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize("compiler", ["scripted", "traced"])
def test_a_model_written_for_eager_mode(compiler: str, joined: bool, target: str) -> None:
    """Test that stubs, FloatFunctional and joined modules are no more than what they do in float."""
    network = ForEagerMode().eval()
    if joined:
        network = torch.ao.quantization.fuse_modules(network, [["conv", "norm", "act"]])
    check(COMPILERS[compiler](network), images(), target)


class RoundsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        coarse = torch.quantize_per_tensor(x, 0.25, 0, torch.quint8).dequantize()
        return self.last(x), coarse


def test_a_model_that_rounds_by_itself(target: str) -> None:
    """Test that a quantize and dequantize of the model's own stay: they round, and are there for that."""
    quantized = check(scripted(RoundsItself()), images(), target, least=20)  # some values go to the next step
    with torch.no_grad():
        steps = quantized(*images()[0])[1] / 0.25
    assert torch.equal(steps, steps.round())


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types(dtype: torch.dtype, target: str) -> None:
    """Test that a model of another float type stays what it is."""
    model = scripted(Plain().to(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = jitquant.quantize_jit(
            model, WHOLE, calibrate, [[(image().to(dtype),)] * 2], target=target
        )
    x = image().to(dtype)
    with torch.no_grad():
        expected = model(x)
        for each in (quantized, saved_and_loaded(quantized)):
            close(each(x), expected, least=40)


class InHalf(nn.Module):
    """A half of it computes in another type."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).double())


def test_two_float_types_in_one_model(target: str) -> None:
    """Test that only what is float32 becomes integer."""
    check(scripted(InHalf()), images(), target, left_float=1)


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.places = nn.Embedding(8, 16)
        self.norm = nn.LayerNorm(16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 16)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.size(1)).unsqueeze(0)
        x = self.norm(self.words(words) + self.places(places))
        return self.outer(torch.relu(self.inner(x))) + x


def test_integer_inputs(target: str) -> None:
    """Test that indices stay indices, and what is behind the embeddings becomes integer."""
    batches = [(torch.randint(0, 20, (2, 8)),) for _ in range(4)]
    check(scripted(Embedding()), batches, target)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(torch.erf(x), 1)


def test_a_model_with_nothing_to_quantize(target: str) -> None:
    """Test that it comes back as it is, and that a warning says so."""
    model = scripted(Nothing())
    quantized = quantize(model, images(), target, says="no op of the model has an integer form")
    x = image()
    same(quantized(x), model(x))
    same(saved_and_loaded(quantized)(x), model(x))
