"""Float TorchScript, frozen; and how every file of TorchScript is run, whoever made it."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.engines import Options, Runner
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    return save(torch.jit.freeze(subject.script), folder)


def save(model: torch.jit.ScriptModule, folder: Path) -> Path:
    file = folder / "model.pt"
    torch.jit.save(model, file)
    return file


def traced_and_frozen(network: torch.nn.Module, subject: Subject) -> torch.jit.ScriptModule:
    """How a network in Python is deployed with TorchScript."""
    with torch.no_grad():
        return torch.jit.freeze(torch.jit.trace(network, subject.calibration[0]).eval())


def load(file: Path, threads: int, batch: int, options: Options) -> Runner:
    torch.set_num_threads(threads)  # first: weights are laid out for a number of threads
    if "backend" in options:
        torch.backends.quantized.engine = options["backend"]
    if "library" in options:
        importlib.import_module(options["library"])  # registers the ops that the file calls
    model = torch.jit.load(file)

    def bind(inputs: list[np.ndarray]) -> Callable[[], Any]:
        tensors = [torch.from_numpy(array) for array in inputs]

        def call() -> Any:
            with torch.inference_mode():
                return model(*tensors)

        return call

    return Runner(bind, lambda output: [tensor.numpy() for tensor in _tensors(output)])


def _tensors(output: Any) -> list[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        return [output]
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in _tensors(part)]
