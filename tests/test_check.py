"""Tests of check: files on machines that differ from the one that made them, none of which is loaded."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import jitquant
from jitquant import native
from jitquant.errors import QuantizationError
from jitquant.info import read_info, write_info
from jitquant.observers import HistogramObserver, PerChannelMinMaxObserver
from tests.marks import needs_native

SEVEN_BITS = HistogramObserver.with_args(reduce_range=True)
EIGHT_BITS = HistogramObserver.with_args(reduce_range=False)
VNNI = {"architecture": "x86_64", "avx512_vnni": True}
AVX2 = {"architecture": "x86_64", "avx2": True}

Cpu = Callable[[dict[str, Any]], None]


@pytest.fixture(autouse=True)
def x86_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", "x86")


@pytest.fixture
def cpu(monkeypatch: pytest.MonkeyPatch) -> Cpu:
    """Lets a test say what the CPU can do."""

    def pretend(capabilities: dict[str, Any]) -> None:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    return pretend


def quantized(activation: Any = EIGHT_BITS, weight: Any = None, **options: Any) -> torch.jit.ScriptModule:
    """A small network with depthwise convolutions of 16 and of 128 groups."""
    convolutions = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, groups=16, padding=1), nn.Conv2d(16, 128, 1)
    network = nn.Sequential(*convolutions, nn.Conv2d(128, 128, 3, groups=128), nn.ReLU())
    qconfig = jitquant.QConfig(activation, weight or PerChannelMinMaxObserver.with_args())
    images = torch.randn(2, 3, 8, 8)
    script = torch.jit.script(network.eval())
    return jitquant.quantize_jit(script, {"": qconfig}, lambda m: m(images), [], **options)


def rewritten(module: torch.jit.ScriptModule, **facts: Any) -> torch.jit.ScriptModule:
    """The module with other facts than those that made it."""
    write_info(module, {**(read_info(module) or {}), **facts})
    return module


def only_finding(module: torch.jit.ScriptModule | Path) -> jitquant.Finding:
    (finding,) = jitquant.check(module).findings
    return finding


def test_a_model_fits_the_machine_that_made_it(cpu: Cpu) -> None:
    cpu(VNNI)
    fit = jitquant.check(quantized())
    assert fit
    assert fit.fits
    assert str(fit) == "the module fits this machine"


@needs_native
def test_a_native_model_fits_the_machine_that_made_it(cpu: Cpu) -> None:
    cpu(VNNI)
    assert jitquant.check(quantized(target="native")).fits


def test_a_file_is_not_loaded(tmp_path: Path, cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(VNNI)
    module = quantized()
    module.save(tmp_path / "int8.pt")
    monkeypatch.setattr(torch.jit, "load", None)
    assert jitquant.check(tmp_path / "int8.pt").fits
    assert jitquant.check(str(tmp_path / "int8.pt")).title.endswith("int8.pt")
    assert jitquant.info(tmp_path / "int8.pt") == read_info(module)


def test_a_file_may_be_renamed_and_nested(tmp_path: Path) -> None:
    """Test that only what the outermost module says counts."""

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = quantized()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.inner(x)

    quantized().save(tmp_path / "int8.pt")
    renamed = (tmp_path / "int8.pt").rename(tmp_path / "data.pkl")
    assert jitquant.info(renamed)["stage"] == "quantized"
    torch.jit.script(Outer().eval()).save(tmp_path / "outer.pt")
    with pytest.raises(QuantizationError, match=r"outer\.pt was not made by jitquant"):
        jitquant.check(tmp_path / "outer.pt")


def test_another_current_engine(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    cpu(VNNI)
    module = quantized()
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    finding = only_finding(module)
    assert finding.what == "it is for the engine 'x86', and the current one is 'onednn'"
    assert "engine = 'x86' and load the file after that" in finding.remedy


def test_an_engine_that_is_not_there(cpu: Cpu) -> None:
    cpu({"architecture": "aarch64"})
    finding = only_finding(rewritten(quantized(), engine="another"))
    assert finding.what == "it is for the engine 'another'"
    assert "'x86'" in finding.why
    assert "quantize the model again" in finding.remedy


def test_eight_bits_saturate_without_vnni(cpu: Cpu) -> None:
    cpu(VNNI)
    module = quantized()
    cpu(AVX2)
    finding = only_finding(module)
    assert "saturate on this CPU (x86_64 with no 8-bit dot products)" in finding.what
    assert "the one that made it was x86_64 with AVX-512 VNNI" in finding.what
    assert "reduce_range=True" in finding.remedy
    text = str(jitquant.check(module))
    assert text.startswith("the module does not fit this machine:\n  8-bit products")


@pytest.mark.parametrize(
    "observers",
    [{"activation": SEVEN_BITS}, {"weight": PerChannelMinMaxObserver.with_args(reduce_range=True)}],
)
def test_seven_bits_do_not_saturate(observers: dict[str, Any], cpu: Cpu) -> None:
    module = quantized(**observers)
    cpu(AVX2)
    assert jitquant.check(module).fits


def test_one_part_of_eight_bits_saturates(cpu: Cpu) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)).eval()
    observers = {
        path: jitquant.QConfig(bits, PerChannelMinMaxObserver.with_args())
        for path, bits in (("", SEVEN_BITS), ("1", EIGHT_BITS))
    }
    images = torch.randn(1, 3, 4, 4)
    module = jitquant.quantize_jit(torch.jit.script(network), observers, lambda m: m(images), [])
    cpu(AVX2)
    assert not jitquant.check(module)


@pytest.mark.parametrize(
    ("engine", "groups", "fits"),
    [
        ("fbgemm", 16, False),
        ("fbgemm", 0, True),
        ("x86", 100, True),
        ("x86", 128, False),
        ("onednn", 128, True),
    ],
)
def test_depthwise_kernels_of_fbgemm(
    engine: str, groups: int, fits: bool, cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    cpu(VNNI)
    module = rewritten(quantized(), depthwise=groups)
    assert jitquant.check(module).fits == fits
    if not fits:
        assert (
            only_finding(module).what
            == f"depthwise convolutions of {groups} groups go to fbgemm's kernels for them"
        )


@pytest.mark.parametrize(
    ("engine", "groups"), [("x86", 16), ("fbgemm", 0), ("onednn", 128), ("qnnpack", 128)]
)
def test_depthwise_convolutions_are_recorded(
    engine: str, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Test that only those count whose weights the engine packs: jitquant leads the others around fbgemm."""
    if engine not in torch.backends.quantized.supported_engines:
        pytest.skip(
            f"needs the {engine} engine, which this torch was built without: install torch's own wheel"
        )
    monkeypatch.setattr(torch.backends.quantized, "engine", engine)
    options = {"weight": jitquant.get_default_qconfig(engine).weight}
    assert jitquant.info(quantized(**options))["depthwise"] == groups


def test_fbgemm_has_no_depthwise_kernels_of_one_dimension(cpu: Cpu) -> None:
    cpu(VNNI)
    network = nn.Sequential(nn.Conv1d(128, 128, 3, groups=128), nn.ConvTranspose1d(128, 128, 3, groups=128))
    series = torch.randn(1, 128, 8)
    qconfig = {"": jitquant.get_default_qconfig()}
    module = jitquant.quantize_jit(torch.jit.script(network.eval()), qconfig, lambda m: m(series), [])
    assert jitquant.info(module)["depthwise"] == 0


@needs_native
def test_native_files_need_their_ops_and_dot_products(
    tmp_path: Path, cpu: Cpu, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu(VNNI)
    quantized(target="native").save(tmp_path / "native.pt")
    cpu(AVX2)
    assert "no 8-bit dot products" in only_finding(tmp_path / "native.pt").what
    cpu({"architecture": "x86_64", "avx_vnni": True})
    assert jitquant.check(tmp_path / "native.pt").fits
    monkeypatch.setattr(native, "_reason", "there is no op library; build it")
    finding = only_finding(tmp_path / "native.pt")
    assert (finding.what, finding.remedy) == (
        "it needs jitquant's op library",
        "there is no op library; build it",
    )


@needs_native
def test_a_native_file_of_a_newer_jitquant(cpu: Cpu) -> None:
    cpu(VNNI)
    finding = only_finding(rewritten(quantized(target="native"), jitquant="99.0.1"))
    assert finding.what == f"it was made with jitquant 99.0.1, and this is {jitquant.__version__}"


@pytest.mark.parametrize(
    ("made", "fits"), [("2.14.0+cpu", False), ("2.13.9", True), ("2.9.1", True), ("10.0", False)]
)
def test_an_older_torch(made: str, fits: bool, cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """Test that versions are compared as numbers, and that bug fixes do not count."""
    cpu(VNNI)
    monkeypatch.setattr(torch, "__version__", "2.13.0+cpu")
    module = rewritten(quantized(), torch=made)
    assert jitquant.check(module).fits == fits
    if not fits:
        assert "torch 2.14 or newer" in only_finding(module).remedy or made == "10.0"


def test_a_debug_model_runs_in_float_anywhere(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    module = quantized(debug=True)
    cpu(AVX2)
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    assert jitquant.check(module).fits


def test_all_that_is_wrong_is_said(cpu: Cpu, monkeypatch: pytest.MonkeyPatch) -> None:
    module = rewritten(quantized(), torch="99.0")
    cpu(AVX2)
    monkeypatch.setattr(torch.backends.quantized, "engine", "onednn")
    assert len(jitquant.check(module).findings) == 3


def test_what_jitquant_did_not_make_is_refused(tmp_path: Path) -> None:
    float_model = torch.jit.script(nn.ReLU())
    with pytest.raises(QuantizationError, match=r"^check: the module was not made by jitquant; quantize it"):
        jitquant.check(float_model)
    float_model.save(tmp_path / "float.pt")
    with pytest.raises(QuantizationError, match=r"^check: .*float\.pt was not made by jitquant"):
        jitquant.check(tmp_path / "float.pt")
    prepared = jitquant.prepare_jit(
        torch.jit.script(nn.Sequential(nn.Linear(2, 2)).eval()), {"": jitquant.default_qconfig}
    )
    with pytest.raises(QuantizationError, match=r"^check: the module is prepared .*call convert_jit"):
        jitquant.check(prepared)
    with pytest.raises(FileNotFoundError):
        jitquant.check(tmp_path / "nowhere.pt")


@pytest.mark.parametrize("content", ["text", "archive", "pickle"])
def test_what_is_no_torchscript_is_refused(content: str, tmp_path: Path) -> None:
    file = tmp_path / "some.pt"
    if content == "text":
        file.write_text(json.dumps({}))
    else:
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("some/data.pkl" if content == "pickle" else "some", b"nonsense")
    with pytest.raises(QuantizationError, match=r"^check: .*some\.pt is no file of TorchScript"):
        jitquant.check(file)


def test_nothing_of_a_file_is_executed(tmp_path: Path) -> None:
    """Test that a file that would call something while it is unpickled does not get to."""
    call = (
        b"cbuiltins\neval\n(V__import__('pathlib').Path('"
        + str(tmp_path / "made").encode()
        + b"').touch()\ntR."
    )
    with zipfile.ZipFile(tmp_path / "evil.pt", "w") as archive:
        archive.writestr("evil/data.pkl", call)
    with pytest.raises(QuantizationError, match="was not made by jitquant"):
        jitquant.check(tmp_path / "evil.pt")
    assert not (tmp_path / "made").exists()
