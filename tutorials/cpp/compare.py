"""Runs a model in Python and in the C++ program, and compares what they print, digit by digit.

python tutorials/cpp/compare.py out/efficientnet_lite0_int8.pt build/cpp/run_quantized
"""

import argparse
import math
import os
import subprocess
import warnings
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

import torch

SHOWN = 5


def what_python_says(model_file: Path, sizes: list[int]) -> list[str]:
    model = torch.jit.load(model_file)
    with torch.inference_mode():
        output = model(torch.linspace(-1, 1, math.prod(sizes)).reshape(sizes)).flatten()
    return [f"{value:.9g}" for value in output[:SHOWN].tolist()] + [
        f"sum {output.double().sum().item():.17g}"
    ]


def what_cpp_says(program: Path, ops: Path | None, model_file: Path, sizes: list[int]) -> list[str]:
    options = ["--ops", str(ops.resolve())] if ops else []
    command = [str(program.resolve()), *options, str(model_file), *map(str, sizes)]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()


def main() -> None:
    warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every call
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="a saved TorchScript model")
    parser.add_argument("program", type=Path, help="the C++ program, built")
    parser.add_argument("sizes", type=int, nargs="*", default=[1, 3, 224, 224], help="sizes of the input")
    parser.add_argument("--ops", type=Path, help="libjitquant_runtime.so, for a file of the native target")
    parser.add_argument(
        "--linked", action="store_true", help="the program has it linked: Python alone loads it"
    )
    arguments = parser.parse_args()

    if arguments.ops:
        torch.ops.load_library(arguments.ops)
    python = what_python_says(arguments.model, arguments.sizes)
    cpp = what_cpp_says(
        arguments.program, None if arguments.linked else arguments.ops, arguments.model, arguments.sizes
    )
    print(f"{'Python':<28}C++")
    for left, right in zip(python, cpp, strict=True):
        print(f"{left:<28}{right}")
    if python != cpp:
        raise SystemExit("they differ")
    print("the same, digit by digit")


if __name__ == "__main__":
    main()
