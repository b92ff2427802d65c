"""What a quantized module says about how it was made: a JSON string in an attribute that is saved with it."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from jitquant import _C
from jitquant.errors import QuantizationError

ATTRIBUTE = "_jitquant_info"


def write_info(module: torch.jit.ScriptModule, facts: dict[str, Any]) -> None:
    """Writes the facts into the module, in the place of those it has."""
    _C.set_string(module._c, ATTRIBUTE, json.dumps(facts))


def read_info(module: torch.jit.ScriptModule) -> dict[str, Any] | None:
    """The facts that a module carries, or None if jitquant did not make it."""
    return json.loads(module._c.getattr(ATTRIBUTE)) if module._c.hasattr(ATTRIBUTE) else None


def facts_of(path_or_module: str | PathLike[str] | torch.jit.ScriptModule, caller: str) -> dict[str, Any]:
    """The facts of a module or of a file, which is not loaded for them: it may not fit this machine.

    Raises:
        QuantizationError: for a file that is none of TorchScript, and if jitquant did not make the module.
    """
    if isinstance(path_or_module, torch.jit.ScriptModule):
        what, facts = "the module", read_info(path_or_module)
    else:
        what, facts = str(path_or_module), _read_file(Path(path_or_module), caller)
    if facts is None:
        raise QuantizationError(
            f"{caller}: {what} was not made by jitquant; quantize it with quantize_jit first"
        )
    return facts


def info(path_or_module: str | PathLike[str] | torch.jit.ScriptModule) -> dict[str, Any]:
    """Prints how a module was quantized and returns it: stage, versions, engine, target, qconfig, range.

    Args:
        path_or_module: a module, or the path of a file that ``torch.jit.save`` wrote, which is not loaded.

    Raises:
        QuantizationError: if jitquant did not make the module.
    """
    facts = facts_of(path_or_module, "info")
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for path, words in value.items():
                print(f"  {path or '(whole model)'}: {words}")
        else:
            print(f"{name}: {value}")
    return facts


def _read_file(path: Path, caller: str) -> dict[str, Any] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            # Its folder is called as the file was when it was written.
            names = [name for name in archive.namelist() if re.fullmatch(r"[^/]+/data\.pkl", name)]
            if not names:
                raise pickle.UnpicklingError("it has no data.pkl")
            top = _Attributes(io.BytesIO(archive.read(names[0]))).load()
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, ValueError) as error:
        raise QuantizationError(
            f"{caller}: {path} is no file of TorchScript ({error}); pass one that torch.jit.save wrote"
        ) from error
    text = getattr(top, "attributes", {}).get(ATTRIBUTE)
    return None if text is None else json.loads(text)


class _Object:
    """Stands for every class and function that a file names, so that none of them is called."""

    def __init__(self, *arguments: Any) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if isinstance(state, dict) else {}


class _Attributes(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type[_Object]:
        return _Object

    def persistent_load(self, identifier: Any) -> None:
        """Tensors stay where they are."""
