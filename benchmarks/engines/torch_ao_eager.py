"""torch.ao's eager mode, for networks that were written for it."""

from pathlib import Path

import torch
from torch.ao.quantization import convert as converted
from torch.ao.quantization import get_default_qconfig, prepare

from benchmarks.engines import Options, Unavailable
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    if subject.model.quantizable is None:
        raise Unavailable("eager mode needs a network with its stubs")
    torch.backends.quantized.engine = options["backend"]
    network = subject.model.quantizable()
    network.fuse_model(is_qat=False)  # type: ignore[operator]
    network.qconfig = get_default_qconfig(options["backend"])  # type: ignore[assignment]
    prepared = prepare(network)
    subject.calibrate(prepared)
    return save(torch.jit.freeze(torch.jit.script(converted(prepared))), folder)
