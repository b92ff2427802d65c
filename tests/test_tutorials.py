"""The tutorials run from top to bottom, and the C++ one prints what Python prints."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import jitquant
from tests.marks import needs_native
from tests.networks import REPOSITORY

TUTORIALS = REPOSITORY / "tutorials"


def run(*command: str | Path, folder: Path) -> str:
    """Runs a command to its end and gives what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def save_network(file: Path, **options: str) -> tuple[str, ...]:
    """Saves a quantized network and gives the sizes of its input."""
    network = nn.Sequential(
        nn.Conv2d(3, 128, 3), nn.ReLU6(), nn.Conv2d(128, 128, 3, groups=128), nn.Flatten()
    )
    inputs = torch.rand(1, 3, 12, 12) * 2 - 1
    traced = torch.jit.trace(network.eval(), inputs)
    model = jitquant.quantize_jit(
        traced, {"": jitquant.get_default_qconfig()}, lambda m: m(inputs), [], **options
    )
    torch.jit.save(model, file)
    return ("1", "3", "12", "12")


def build_program(folder: Path, *options: str) -> Path:
    """Builds the C++ program against the libtorch of the wheel."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    cmake = shutil.which("cmake", path=places)
    assert cmake is not None, "cmake is one of the packages that the tests need: pip install cmake"
    prefix = f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}"
    source = ("-S", TUTORIALS / "cpp", "-B", folder, "-DCMAKE_BUILD_TYPE=Release", prefix)
    run(cmake, *source, *options, folder=TUTORIALS)
    run(cmake, "--build", folder, folder=TUTORIALS)
    return folder / "run_quantized"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_program(tmp_path_factory.mktemp("build"))


@pytest.mark.slow
def test_cpp_program_prints_what_python_prints(tmp_path: Path, program: Path) -> None:
    """Test that the C++ program gives the same digits as Python."""
    sizes = save_network(tmp_path / "model.pt")
    compare = (sys.executable, TUTORIALS / "cpp" / "compare.py", tmp_path / "model.pt")
    assert run(*compare, program, *sizes, folder=tmp_path).endswith("the same, digit by digit\n")


@pytest.mark.slow
@needs_native
def test_cpp_program_runs_files_of_the_native_target(tmp_path: Path, program: Path) -> None:
    """Test that the ops are there where the program opens their library, and where it links it."""
    sizes = save_network(tmp_path / "model.pt", target="native")
    library = jitquant.native.LIBRARY
    compare = (sys.executable, TUTORIALS / "cpp" / "compare.py", tmp_path / "model.pt")
    printed = run(*compare, program, *sizes, "--ops", library, folder=tmp_path)
    assert printed.endswith("the same, digit by digit\n")
    linked = build_program(tmp_path / "linked", f"-DJITQUANT_OPS={library}")
    printed = run(*compare, linked, *sizes, "--ops", library, "--linked", folder=tmp_path)
    assert printed.endswith("the same, digit by digit\n")

    alone = subprocess.run([program, "model.pt"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert alone.returncode == 1
    assert "jitquant.Kernel" in alone.stderr


@pytest.mark.slow
def test_dynamic_tutorial_runs(tmp_path: Path) -> None:
    """Test that the dynamic tutorial runs from top to bottom, and its table has every kind."""
    printed = run(sys.executable, TUTORIALS / "dynamic_quantization.py", folder=tmp_path)
    assert "How do I reset my password?" in printed
    cosines = {line[:24].strip(): float(line.split()[-1]) for line in printed.splitlines() if " MB " in line}
    assert {"float", "int8", "int8, words too", "half"} <= cosines.keys()
    assert min(cosines.values()) > 0.98


@pytest.mark.slow
def test_static_tutorial_runs(tmp_path: Path) -> None:
    """Test that the static tutorial runs from top to bottom."""
    assert "int8" in run(sys.executable, TUTORIALS / "static_quantization.py", folder=tmp_path)


@pytest.mark.slow
def test_numeric_suite_tutorial_runs(tmp_path: Path) -> None:
    """Test that the tutorial of the Numeric Suite runs from top to bottom, and prints what it says."""
    printed = run(sys.executable, TUTORIALS / "numeric_suite.py", folder=tmp_path)
    assert "dict_keys(['rnn.stats', 'decoder.stats'])" in printed
    said = [
        line[4:] for line in (TUTORIALS / "numeric_suite.py").read_text().splitlines() if line[:4] == "# > "
    ]
    lines = printed.splitlines()
    assert len(lines) == len(said)
    for line, expected in zip(lines, said, strict=True):
        assert_says(line, expected)


NUMBER = re.compile(r"(?<![\w.])-?(?:inf\b|\d+(?:\.\d+)?(?![\w.]))")


def assert_says(line: str, expected: str) -> None:
    """The same words and whole numbers; decibels within 1.5, other fractions and counts within a tenth.

    Which weights have the largest errors is a matter of their last digits.
    """
    is_ranking = expected.startswith("layer") and ".weight" in expected
    words = [re.sub(r"^layer\S+", "", text) if is_ranking else text for text in (line, expected)]
    found, said = (NUMBER.sub("#", text).split() for text in words)
    assert found == said, line
    for got, number in zip(*map(NUMBER.findall, words), strict=True):
        tolerance = _tolerance(number, expected)
        assert float(got) == pytest.approx(float(number), **tolerance), f"{line!r} is not {expected!r}"


def _tolerance(number: str, line: str) -> dict[str, float]:
    if " dB" in line:
        return {"abs": 1.5}
    if line.endswith("different"):  # counts of a histogram
        return {"rel": 0.1, "abs": 10}
    return {"rel": 0.1} if "." in number else {"abs": 0}


@pytest.mark.parametrize(
    ("line", "expected", "agree"),
    [
        ("fc             34.5 dB", "fc             35.9 dB", True),
        ("fc             34.5 dB", "fc             36.1 dB", False),
        ("encoder.weight      inf dB", "encoder.weight      inf dB", True),
        ("encoder.weight     48.0 dB", "encoder.weight      inf dB", False),
        ("layer4.1.conv2.weight  38.2 dB", "layer2.0.conv2.weight  38.5 dB", True),
        ("torch.qint8 torch.per_tensor_affine", "torch.qint8 torch.per_channel_affine", False),
        ("float  717  9406 different", "float  722  9406 different", True),
        ("float  717  9406 different", "float  922  9406 different", False),
        ("4 batches", "4 images", False),
        ("4 batches", "5 batches", False),
        ("from -1.17 to 1.04", "from -1.15 to 1.05", True),
        ("from -1.17 to 1.04", "from -1.17 to 1.54", False),
    ],
)
def test_what_a_tutorial_says_is_compared_word_by_word(line: str, expected: str, agree: bool) -> None:
    """Test that other words and other numbers are seen, and the last digits are not."""
    if agree:
        assert_says(line, expected)
    else:
        with pytest.raises(AssertionError):
            assert_says(line, expected)
