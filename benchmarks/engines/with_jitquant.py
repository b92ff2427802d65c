"""jitquant: for its default target on an engine of stock torch, or for another target."""

import inspect
from pathlib import Path
from typing import Any

import torch

import jitquant
from benchmarks.engines import Options, Unavailable
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    keywords: dict[str, Any] = dict(options.get("keywords", {}))
    if "target" in options:
        keywords["target"] = options["target"]
    for name in keywords:
        if not takes(name):
            raise Unavailable(f"not available: quantize_jit has no {name} argument")
    if "backend" in options:
        torch.backends.quantized.engine = options["backend"]
    qconfig = jitquant.get_default_qconfig()
    quantized = jitquant.quantize_jit(subject.script, {"": qconfig}, subject.calibrate, [], **keywords)
    return save(quantized, folder)


def takes(keyword: str) -> bool:
    """Whether this jitquant's quantize_jit has the keyword: benchmarks measure older ones too."""
    return keyword in inspect.signature(jitquant.quantize_jit).parameters
