"""The model as ONNX, for the engines that start from it."""

from pathlib import Path

import torch

from benchmarks.subject import Subject


def input_names(count: int) -> list[str]:
    return [f"input_{position}" for position in range(count)]


def export(subject: Subject, folder: Path) -> Path:
    """Write `subject` as a float ONNX file that takes any batch."""
    file = folder / "float.onnx"
    example = subject.calibration[0]
    names = input_names(len(example))
    with subject.exporting:
        torch.onnx.export(
            subject.network,
            example,
            file,
            input_names=names,
            dynamic_axes={name: {0: "batch"} for name in names},
            opset_version=17,
            dynamo=False,
        )
    return file
