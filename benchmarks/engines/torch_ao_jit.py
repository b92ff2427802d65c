"""torch.ao's quantize_jit, the one that jitquant stands in for."""

from pathlib import Path

import torch
from torch.ao.quantization import get_default_qconfig
from torch.ao.quantization.quantize_jit import quantize_jit

from benchmarks.engines import Options
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    torch.backends.quantized.engine = options["backend"]
    qconfig = get_default_qconfig(options["backend"])
    return save(quantize_jit(subject.script, {"": qconfig}, subject.calibrate, []), folder)
