"""The op library of the native target: where it is, whether it was built, and loading it."""

from __future__ import annotations

from pathlib import Path

import torch

from jitquant.errors import QuantizationError

LIBRARY = Path(__file__).parent / "lib" / "libjitquant_runtime.so"

_reason = ""


def load() -> None:
    """Registers the ops ``jitquant::`` with torch, if they were built; ``import jitquant`` calls it."""
    global _reason
    if not LIBRARY.is_file():
        _reason = (
            "there is no op library beside this build: oneDNN was not found when jitquant was built, or "
            "the library was taken away; "
            "install onednn-cpu-gomp==2023.2.0 and onednn-devel-cpu-gomp==2023.2.0 (or name a newer oneDNN "
            "in ONEDNN_ROOT) and build again"
        )
        return
    try:
        torch.ops.load_library(LIBRARY)
    except OSError as error:
        _reason = (
            f"its op library cannot be loaded ({error.__cause__ or error}); "
            "install onednn-cpu-gomp==2023.2.0, or put libdnnl.so.3 on the library path"
        )


def is_available() -> bool:
    """Whether ``target="native"`` can be made and run here."""
    return LIBRARY.is_file() and not _reason


def why_not_available() -> str:
    """What is missing and what to do about it; empty where the native target is available."""
    return _reason


def check_available(caller: str) -> None:
    """Raises QuantizationError, with what to do about it, where the native target is not available."""
    if not is_available():
        raise QuantizationError(f"{caller}: target 'native' is not available: {_reason}")
