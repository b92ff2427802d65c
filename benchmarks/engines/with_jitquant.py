"""jitquant: for its default target on an engine of stock torch, or for another target."""

import inspect
from pathlib import Path
from typing import Any

import torch

import jitquant
from benchmarks.engines import Options, Unavailable
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject, calibrate


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    keywords: dict[str, Any] = {}
    if "target" in options:
        if "target" not in inspect.signature(jitquant.quantize_jit).parameters:
            raise Unavailable("not available: quantize_jit has no target argument")
        keywords["target"] = options["target"]
    if "backend" in options:
        torch.backends.quantized.engine = options["backend"]
    qconfig = jitquant.get_default_qconfig()
    return save(
        jitquant.quantize_jit(subject.script, {"": qconfig}, calibrate, [subject.calibration], **keywords),
        folder,
    )
