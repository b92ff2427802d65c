"""jitquant's dynamic quantization: everything that has a dynamic form, by one qconfig."""

from pathlib import Path
from typing import Any

import torch

import jitquant
from benchmarks.engines import Options
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    if "backend" in options:
        torch.backends.quantized.engine = options["backend"]
    qconfig: Any = getattr(jitquant, options.get("qconfig", "per_channel_dynamic_qconfig"))
    target = options.get("target", "quantized")
    return save(jitquant.quantize_dynamic_jit(subject.script, {"": qconfig}, target=target), folder)
