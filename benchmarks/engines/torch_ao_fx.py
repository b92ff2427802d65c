"""torch.ao's FX graph mode, traced and frozen afterwards."""

from pathlib import Path

import torch
from torch.ao.quantization import get_default_qconfig_mapping
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

from benchmarks.engines import Options, Unavailable
from benchmarks.engines.torchscript import save, traced_and_frozen
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    if isinstance(subject.network, torch.jit.ScriptModule):
        raise Unavailable("FX needs the network in Python")
    torch.backends.quantized.engine = options["backend"]
    mapping = get_default_qconfig_mapping(options["backend"])
    prepared = prepare_fx(subject.network, mapping, subject.calibration[0])
    subject.calibrate(prepared)
    return save(traced_and_frozen(convert_fx(prepared), subject), folder)
