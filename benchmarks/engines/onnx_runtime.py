"""ONNX Runtime: float, static quantization to QDQ, or dynamic quantization, with weights per channel."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.engines import Options, Runner


def convert(subject: Any, folder: Path, options: Options) -> Path:
    from benchmarks.engines.onnx_file import export

    exported = export(subject, folder)
    if options["kind"] == "dynamic":
        return _dynamic(exported, folder)
    return exported if options["kind"] == "float" else _quantized(exported, subject, folder, options["kind"])


def _dynamic(exported: Path, folder: Path) -> Path:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    file = folder / "dynamic.onnx"
    quantize_dynamic(exported, file, per_channel=True, weight_type=QuantType.QInt8)
    return file


def _quantized(exported: Path, subject: Any, folder: Path, method: str) -> Path:
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    from benchmarks.engines.onnx_file import input_names

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.batches: Iterator[Any] = iter(subject.calibration)

        def get_next(self) -> dict[str, np.ndarray] | None:
            inputs = next(self.batches, None)
            if inputs is None:
                return None
            return {name: x.numpy() for name, x in zip(input_names(len(inputs)), inputs, strict=True)}

    prepared, file = folder / "prepared.onnx", folder / "int8.onnx"
    try:
        quant_pre_process(exported, prepared)
    except Exception:  # its own inference of shapes does not know every op; ONNX's is what remains
        quant_pre_process(exported, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared,
        file,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod[method],
    )
    return file


def load(file: Path, threads: int, batch: int, options: Options) -> Runner:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads
    settings.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(os.fspath(file), settings, providers=["CPUExecutionProvider"])
    names = [node.name for node in session.get_inputs()]

    def bind(inputs: list[np.ndarray]) -> Callable[[], Any]:
        feed = dict(zip(names, inputs, strict=True))
        return lambda: session.run(None, feed)

    return Runner(bind, list)
