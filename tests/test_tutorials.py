"""The tutorials run from top to bottom, and the C++ one prints what Python prints."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import jitquant
from tests.networks import REPOSITORY

TUTORIALS = REPOSITORY / "tutorials"


def run(*command: str | Path, folder: Path) -> str:
    """Runs a command to its end and gives what it printed."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    result = subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.mark.slow
def test_cpp_program_prints_what_python_prints(tmp_path: Path) -> None:
    """Test that the C++ program, built against the libtorch of the wheel, gives the same digits."""
    network = nn.Sequential(
        nn.Conv2d(3, 128, 3), nn.ReLU6(), nn.Conv2d(128, 128, 3, groups=128), nn.Flatten()
    )
    inputs = torch.rand(1, 3, 12, 12) * 2 - 1
    model = jitquant.quantize_jit(
        torch.jit.trace(network.eval(), inputs), {"": jitquant.get_default_qconfig()}, lambda m: m(inputs), []
    )
    torch.jit.save(model, tmp_path / "model.pt")

    cmake = shutil.which(
        "cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    )
    assert cmake is not None, "cmake is one of the packages that the tests need: pip install cmake"
    run(
        cmake,
        "-S",
        TUTORIALS / "cpp",
        "-B",
        tmp_path / "build",
        "-DCMAKE_BUILD_TYPE=Release",
        f"-DCMAKE_PREFIX_PATH={torch.utils.cmake_prefix_path}",
        folder=tmp_path,
    )
    run(cmake, "--build", tmp_path / "build", folder=tmp_path)
    program = tmp_path / "build" / "run_quantized"
    sizes = ("1", "3", "12", "12")
    printed = run(
        sys.executable,
        TUTORIALS / "cpp" / "compare.py",
        tmp_path / "model.pt",
        program,
        *sizes,
        folder=tmp_path,
    )
    assert printed.endswith("the same, digit by digit\n")


@pytest.mark.slow
def test_static_tutorial_runs(tmp_path: Path) -> None:
    """Test that the static tutorial runs from top to bottom."""
    assert "int8" in run(sys.executable, TUTORIALS / "static_quantization.py", folder=tmp_path)
