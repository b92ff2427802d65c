"""Which parts of a model a list of module classes, of their names and of paths means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from jitquant.errors import QuantizationError
from jitquant.qconfig_mapping import did_you_mean
from jitquant.quantizer import module_types

ModuleKind = type[nn.Module] | str


def chosen_modules(
    model: torch.jit.ScriptModule, wanted: Iterable[ModuleKind], caller: str, argument: str
) -> list[str]:
    """The paths of the modules that are meant, without those inside others of them.

    Args:
        model: the float model, whose modules are still there.
        wanted: classes (``torch.nn.Linear``), names of classes (``"Linear"``), and paths (``"layer1.0"``).

    Raises:
        QuantizationError: for what is none of these, and for what the model does not have.
    """
    types = module_types(model)
    if isinstance(wanted, str | type) or not isinstance(wanted, Iterable):
        raise QuantizationError(f"{caller}: {argument} is {wanted!r}; pass a list such as [torch.nn.Linear]")
    found = {path for kind in wanted for path in _meant_by(kind, types, caller, argument)}
    return [path for path in types if path in found and not any(above in found for above in _above(path))]


def _meant_by(kind: Any, types: Mapping[str, str], caller: str, argument: str) -> list[str]:
    if isinstance(kind, type) and issubclass(kind, nn.Module):
        name = torch._jit_internal._qualified_name(kind).removeprefix("__torch__.")  # as TorchScript calls it
        if kind.__module__.startswith("torch.nn."):
            return [path for path, known in types.items() if path and known == name]
    elif isinstance(kind, str) and kind:
        name = kind
    else:
        raise QuantizationError(
            f"{caller}: {argument} has {kind!r}, a {type(kind).__name__}; list module classes such as "
            "torch.nn.Linear, names of classes, or paths such as 'layer1.0'"
        )
    found = [name] if name in types else []
    found += [path for path, known in types.items() if path and name in (known, known.rpartition(".")[2])]
    if not found:
        short = {known.rpartition(".")[2] for path, known in types.items() if path}
        hint = did_you_mean(name, sorted(short | set(types)))
        hint = hint or (
            f"; its classes are {', '.join(sorted(short))}"
            if short
            else "; a frozen model has no modules any more"
        )
        raise QuantizationError(
            f"{caller}: {argument} has {name!r}, which is no class and no path of the float model{hint}"
        )
    return found


def is_within(path: str, above: str) -> bool:
    """Whether a path is that of a module or of something in it."""
    return path == above or path.startswith(f"{above}.")


def _above(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:length]) for length in range(1, len(names))]
