"""OpenVINO: float, or quantized by NNCF."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import openvino

from benchmarks.engines import Options, Runner


def convert(subject: Any, folder: Path, options: Options) -> Path:
    from benchmarks.engines.onnx_file import export

    model = openvino.convert_model(export(subject, folder))
    if options["kind"] == "int8":
        model = _quantized(model, subject)
    file = folder / "model.xml"
    openvino.save_model(model, file, compress_to_fp16=False)
    return file


def _quantized(model: Any, subject: Any) -> Any:
    import nncf

    samples = [[tensor.numpy() for tensor in inputs] for inputs in subject.calibration]
    return nncf.quantize(
        model,
        nncf.Dataset(samples),
        subset_size=len(samples),
        model_type=nncf.ModelType.TRANSFORMER if subject.model.transformer else None,
    )


def load(file: Path, threads: int, batch: int, options: Options) -> Runner:
    core = openvino.Core()
    model = core.read_model(file)
    model.reshape({port.any_name: [batch, *list(port.partial_shape)[1:]] for port in model.inputs})
    settings = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()

    def bind(inputs: list[np.ndarray]) -> Callable[[], Any]:
        request.infer(inputs)
        return lambda: request.infer(inputs, share_inputs=True, share_outputs=True)

    return Runner(bind, lambda output: [np.array(array) for array in output.values()])
