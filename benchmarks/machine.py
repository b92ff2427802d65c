"""Where a run took place."""

import importlib.metadata
import os
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("jitquant", "torch", "torchvision", "onnxruntime", "openvino", "nncf")
# What int8 arithmetic is fast or slow by.
FLAGS = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def machine() -> dict[str, Any]:
    """The processor, what it can, and the versions of what ran on it."""
    text = _cpuinfo()
    has = set(text.get("flags", text.get("Features", "")).split())
    return {
        "processor": text.get("model name", platform.machine()),
        "processors": len(os.sched_getaffinity(0)),
        "load": os.getloadavg()[0],
        "flags": [flag for flag in FLAGS if flag in has],
        "python": platform.python_version(),
        "system": platform.platform(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
    }


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, value in pairs}


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
