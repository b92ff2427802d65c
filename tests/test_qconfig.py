"""Tests of qconfigs: what is refused, the defaults for each backend, and the scripted observers they make."""

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.ao import quantization as ao

import jitquant
from jitquant.observers import (
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    PerChannelMinMaxObserver,
    WeightMinMaxObserver,
)
from jitquant.qconfig import (
    QConfig,
    as_qconfig,
    default_qconfig,
    get_default_qconfig,
    make_observers,
    of_the_whole_model,
    saturates,
)

X86_BACKENDS = ["fbgemm", "x86", "onednn"]


@pytest.fixture
def cpu(monkeypatch):
    """Lets a test say what the CPU can do."""

    def pretend(architecture="x86_64", **capabilities):
        found = {"architecture": architecture, **capabilities}
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)

    return pretend


# QConfig


def test_a_qconfig_takes_classes_factories_and_functions():
    """Test that whatever makes an observer when called is taken as it is."""
    factory = HistogramObserver.with_args(bins=64)
    qconfig = QConfig(activation=factory, weight=WeightMinMaxObserver)
    assert qconfig.activation is factory
    assert qconfig.weight is WeightMinMaxObserver
    assert QConfig(lambda: MinMaxObserver(), WeightMinMaxObserver).activation().dtype == torch.quint8


@pytest.mark.parametrize("role", ["activation", "weight"])
def test_an_observer_instance_is_refused(role):
    """Test that an instance, which all values would share, is refused with the remedy."""
    parts = {"activation": MinMaxObserver, "weight": WeightMinMaxObserver, role: MinMaxObserver()}
    with pytest.raises(
        TypeError, match=rf"{role}: a MinMaxObserver is an observer already.* pass the class or"
    ):
        QConfig(**parts)


@pytest.mark.parametrize("nothing", [None, torch.quint8, "MinMaxObserver"])
def test_what_cannot_be_called_is_refused(nothing):
    """Test that something that makes no observer is refused with its type and the remedy."""
    kind = type(nothing).__name__
    with pytest.raises(TypeError, match=rf"weight: a {kind} makes no observer; pass the class or"):
        QConfig(MinMaxObserver, nothing)


def test_a_qconfig_is_a_value():
    """Test that a qconfig cannot be changed, and equals a copy of it and one made alike."""
    with pytest.raises(AttributeError):
        default_qconfig.weight = MinMaxObserver
    alike = QConfig(HistogramObserver.with_args(), WeightMinMaxObserver.with_args())
    assert default_qconfig == alike == copy.deepcopy(default_qconfig)
    assert hash(default_qconfig) == hash(alike)
    assert default_qconfig != QConfig(HistogramObserver.with_args(), PerChannelMinMaxObserver.with_args())


def test_a_qconfig_describes_itself_in_a_line():
    """Test that describe says which observers, for factories, classes and those of torch."""
    qconfig = QConfig(HistogramObserver.with_args(reduce_range=True), WeightMinMaxObserver)
    assert qconfig.describe() == (
        "activations by HistogramObserver(per tensor affine quint8, 0 to 127, 2048 bins); "
        "weights by WeightMinMaxObserver(per tensor symmetric qint8, -128 to 127)"
    )
    foreign = as_qconfig(ao.QConfig(ao.MinMaxObserver.with_args(dtype=torch.quint8), nn.Identity))
    assert foreign.describe() == (
        "activations by MinMaxObserver(per tensor affine quint8, 0 to 255); weights by Identity()"
    )


# Taking over other qconfigs


def test_own_qconfigs_are_taken_as_they_are():
    """Test that as_qconfig returns a QConfig itself."""
    assert as_qconfig(default_qconfig) is default_qconfig


def test_qconfigs_of_torch_are_taken():
    """Test that torch's qconfig keeps its observers."""
    theirs = ao.get_default_qconfig("x86")
    ours = as_qconfig(theirs)
    assert isinstance(ours, QConfig)
    assert (ours.activation, ours.weight) == (theirs.activation, theirs.weight)


@pytest.mark.parametrize(
    ("obj", "kind"),
    [
        ({"": default_qconfig}, "a dict"),
        (None, "a NoneType"),
        (QConfig, "the class QConfig"),
        (SimpleNamespace(activation=MinMaxObserver), "a SimpleNamespace"),
        (SimpleNamespace(activation=MinMaxObserver, weight=8), "a SimpleNamespace"),
    ],
)
def test_what_is_no_qconfig_is_refused(obj, kind):
    """Test that the error names the type and the remedy."""
    with pytest.raises(
        TypeError, match=rf"{kind} has no callable activation and weight; pass jitquant.QConfig"
    ):
        as_qconfig(obj)


def test_an_instance_inside_another_qconfig_is_refused():
    """Test that as_qconfig checks the parts as QConfig does."""
    with pytest.raises(TypeError, match=r"weight: a MinMaxObserver is an observer already"):
        as_qconfig(SimpleNamespace(activation=MinMaxObserver, weight=MinMaxObserver()))


# Defaults


def test_the_default_qconfig():
    """Test that the default is 8-bit affine quint8 by histogram, and symmetric qint8 for a whole weight."""
    activation, weight = default_qconfig.activation(), default_qconfig.weight()
    assert isinstance(activation, HistogramObserver)
    assert (activation.dtype, activation.qscheme) == (torch.quint8, torch.per_tensor_affine)
    assert (activation.quant_min, activation.quant_max) == (0, 255)
    assert isinstance(weight, WeightMinMaxObserver)
    assert (weight.dtype, weight.qscheme) == (torch.qint8, torch.per_tensor_symmetric)


@pytest.mark.parametrize("backend", [*X86_BACKENDS, "qnnpack"])
@pytest.mark.parametrize("vnni", [False, True])
def test_the_defaults_of_each_backend(cpu, backend, vnni):
    """Test that weights have channels except for qnnpack, and activations 7 bits where 8 would saturate."""
    cpu(avx512_vnni=vnni)
    qconfig = get_default_qconfig(backend)
    activation, weight = qconfig.activation(), qconfig.weight()
    assert isinstance(activation, HistogramObserver)
    assert activation.quant_max == (127 if not vnni and backend != "qnnpack" else 255)
    assert isinstance(weight, WeightMinMaxObserver if backend == "qnnpack" else PerChannelMinMaxObserver)
    assert (weight.dtype, weight.quant_min, weight.quant_max) == (torch.qint8, -128, 127)
    assert weight.symmetric


def test_the_default_backend_is_x86(cpu):
    """Test that without a backend the defaults are those of x86."""
    cpu(avx512_vnni=False, avx_vnni=True)
    assert get_default_qconfig() == get_default_qconfig("x86")
    assert get_default_qconfig() != get_default_qconfig("onednn")


@pytest.mark.parametrize("ask", [get_default_qconfig, saturates])
def test_an_unknown_backend_is_refused(ask):
    """Test that the error names the backend and all known ones."""
    known = "pass one of 'fbgemm', 'x86', 'onednn', 'qnnpack'"
    with pytest.raises(ValueError, match=f"backend='cuda' is unknown; {known}"):
        ask("cuda")


@pytest.mark.parametrize("backend", X86_BACKENDS)
def test_saturation_without_vnni(cpu, backend):
    """Test that no VNNI means saturation, AVX512-VNNI means none, and AVX-VNNI helps onednn alone."""
    cpu()
    assert saturates(backend)
    cpu(avx512_vnni=True)
    assert not saturates(backend)
    cpu(avx_vnni=True)
    assert saturates(backend) == (backend != "onednn")


@pytest.mark.parametrize("backend", X86_BACKENDS)
def test_saturation_of_depthwise_convolutions(cpu, backend):
    """Test that depthwise convolutions saturate in fbgemm's kernels whatever the CPU has."""
    cpu(avx512_vnni=True, avx_vnni=True)
    assert saturates(backend, depthwise=True) == (backend != "onednn")


@pytest.mark.parametrize("depthwise", [False, True])
def test_only_x86_saturates(cpu, depthwise):
    """Test that qnnpack never saturates, and nothing does on other CPUs."""
    cpu()
    assert not saturates("qnnpack", depthwise=depthwise)
    cpu(architecture="aarch64")
    assert not any(saturates(backend, depthwise=depthwise) for backend in X86_BACKENDS)


@pytest.mark.parametrize("depthwise", [False, True])
@pytest.mark.parametrize("backend", torch.backends.quantized.supported_engines)
def test_saturation_is_what_this_cpu_does(monkeypatch, backend, depthwise):
    """Test that the largest products come out right on the real kernels, with the bits granted."""
    if backend not in (*X86_BACKENDS, "qnnpack"):
        pytest.skip(f"{backend} is no backend of jitquant")
    monkeypatch.setattr(torch.backends.quantized, "engine", backend)
    largest = 127 if saturates(backend, depthwise=depthwise) else 255
    groups = 128 if depthwise else 1
    weight = torch.quantize_per_tensor(torch.full((128, 128 // groups, 3, 3), 127.0), 1.0, 0, torch.qint8)
    x = torch.quantize_per_tensor(torch.full((1, 128, 5, 5), float(largest)), 1.0, 0, torch.quint8)
    packed = torch.ops.quantized.conv2d_prepack(weight, None, [1, 1], [0, 0], [1, 1], groups)
    exact = largest * 127 * 9 * 128 / groups
    result = torch.ops.quantized.conv2d(x, packed, exact / 200, 0)
    assert result.int_repr().to(torch.int64).unique().tolist() == [200]


# Scripted observers


def test_make_observers_scripts_both():
    """Test that both are new script modules that observe."""
    activation, weight = make_observers(default_qconfig)
    assert isinstance(activation, torch.jit.ScriptModule)
    assert isinstance(weight, torch.jit.ScriptModule)
    weight(torch.tensor([-1.27, 1.0]))
    assert weight.calculate_qparams()[0].item() == pytest.approx(0.01)
    assert activation.min_val.numel() == 0
    assert make_observers(default_qconfig)[1].min_val.numel() == 0


def test_make_observers_scripts_those_of_torch():
    """Test that the observers of torch's qconfig are made and observe."""
    activation, weight = make_observers(
        as_qconfig(ao.QConfig(ao.HistogramObserver, ao.default_per_channel_weight_observer))
    )
    weight(torch.tensor([[1.0, 2.0], [3.0, -4.0]]))
    assert weight.calculate_qparams()[0].shape == (2,)
    assert activation.original_name == "HistogramObserver"


class Unscriptable(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + sum(value for value in {1: 2}.values() if globals())

    @torch.jit.export
    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(1), torch.zeros(1, dtype=torch.int64)


class Unexported(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def calculate_qparams(self) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.ones(1), torch.zeros(1, dtype=torch.int64)


def test_an_observer_that_does_not_compile_is_named():
    """Test that the error names the observer's role, class, what does not compile, and the remedy."""
    with pytest.raises(ValueError, match=r"qconfig.weight: .* cannot compile Unscriptable") as refusal:
        make_observers(QConfig(MinMaxObserver, Unscriptable))
    assert "globals()" in str(refusal.value)
    assert "Rewrite that part of Unscriptable in TorchScript, or use" in str(refusal.value)
    assert refusal.value.__cause__ is not None


def test_an_observer_without_compiled_qparams_is_refused():
    """Test that a forgotten @torch.jit.export is told before calibration, not after."""
    with pytest.raises(
        ValueError, match=r"qconfig.activation: Unexported .* decorate it with @torch.jit.export"
    ):
        make_observers(QConfig(Unexported, WeightMinMaxObserver))


def test_what_makes_no_module_is_refused():
    """Test that a factory which returns something else is told so."""
    with pytest.raises(TypeError, match=r"qconfig.activation: it made a list; let it make an observer"):
        make_observers(QConfig(list, WeightMinMaxObserver))


def test_missing_arguments_show_when_the_observer_is_made():
    """Test that a class which needs arguments is told by the name of what is missing."""
    with pytest.raises(TypeError, match="scale"):
        make_observers(QConfig(FixedQParamsObserver, WeightMinMaxObserver))


@pytest.mark.parametrize(("suffix", "words"), [("", "quint8, 0 to 255"), ("_4bit", "quint4x2, 0 to 15")])
def test_qconfigs_of_rows(suffix, words):
    """Test that those of torch's names say what they do, and that both make observers of the same kind."""
    name = f"float_qparams_weight_only_qconfig{suffix}"
    ours, theirs = getattr(jitquant, name), as_qconfig(getattr(torch.ao.quantization, name))
    assert ours.describe() == (
        "activations by PlaceholderObserver(float32); weights by "
        f"PerChannelMinMaxObserver(per channel affine float qparams {words}, channel axis 0)"
    )
    for part in ("activation", "weight"):
        mine, other = getattr(ours, part)(), getattr(theirs, part)()
        assert mine.dtype == other.dtype
    assert ours.weight().qscheme == theirs.weight().qscheme
    make_observers(ours)


def test_a_dynamic_qconfig_of_the_whole_model_is_not_for_convolutions():
    """Test that others are for all ops, and that dynamic ones are for linears."""
    dynamic = jitquant.default_dynamic_qconfig
    assert of_the_whole_model("linear", dynamic) is dynamic
    assert of_the_whole_model("conv2d", default_qconfig) is default_qconfig
    assert of_the_whole_model("conv2d", None) is None
    left_float = of_the_whole_model("conv_transpose1d", dynamic)
    assert left_float.describe().count("PlaceholderObserver(float32)") == 2
