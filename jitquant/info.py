"""What a quantized module says about how it was made: a JSON string in an attribute that is saved with it."""

from __future__ import annotations

import json
from os import PathLike
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


def info(path_or_module: str | PathLike[str] | torch.jit.ScriptModule) -> dict[str, Any]:
    """Prints how a module was quantized and returns it: stage, versions, engine, target, qconfig, range.

    Args:
        path_or_module: a module, or the path of a file that ``torch.jit.save`` wrote.

    Raises:
        QuantizationError: if jitquant did not make the module.
    """
    if isinstance(path_or_module, torch.jit.ScriptModule):
        what, module = "the module", path_or_module
    else:
        what, module = str(path_or_module), torch.jit.load(path_or_module)
    facts = read_info(module)
    if facts is None:
        raise QuantizationError(f"info: {what} was not made by jitquant; quantize it with quantize_jit first")
    for name, value in facts.items():
        if isinstance(value, dict):
            print(f"{name}:")
            for path, words in value.items():
                print(f"  {path or '(whole model)'}: {words}")
        else:
            print(f"{name}: {value}")
    return facts
