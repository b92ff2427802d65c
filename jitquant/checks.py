"""Bad input is refused here, before anything is changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from jitquant import native
from jitquant.errors import QuantizationError
from jitquant.info import read_info
from jitquant.qconfig_mapping import QConfigMapping, as_qconfig_mapping
from jitquant.quantizer import ComposedQuantizer, Quantizer, is_quantizer, module_types


def check_script_module(model: Any, caller: str) -> None:
    """Raises QuantizationError unless the model is a ScriptModule."""
    if isinstance(model, torch.jit.ScriptModule):
        return
    kind = type(model).__name__
    if isinstance(model, torch.nn.Module):
        raise QuantizationError(
            f"{caller}: the model is an eager {kind}; make it TorchScript first, with "
            "torch.jit.script(model.eval()) or torch.jit.trace(model.eval(), example)"
        )
    raise QuantizationError(f"{caller}: the model is a {kind}; pass a torch.jit.ScriptModule")


def check_evaluation_mode(model: torch.jit.ScriptModule, caller: str) -> None:
    """Raises QuantizationError if the model or a part of it is in training mode."""
    for path, module in model.named_modules():
        if module._c.hasattr("training") and module._c.getattr("training"):
            where = f"submodule '{path}'" if path else "the model"
            raise QuantizationError(f"{caller}: {where} is in training mode; call model.eval() first")


def check_target(target: Any, caller: str) -> None:
    """Raises QuantizationError unless the target is one that can be made here."""
    if target not in ("quantized", "native"):
        raise QuantizationError(f"{caller}: there is no target {target!r}; choose 'quantized' or 'native'")
    if target == "native":
        native.check_available(caller)


def check_debug(debug: Any, caller: str) -> None:
    """Raises QuantizationError unless it is a bool or "exact"."""
    if not isinstance(debug, bool) and debug != "exact":
        raise QuantizationError(f"{caller}: debug={debug!r} is unknown; choose False, True or 'exact'")


def check_not_prepared(model: torch.jit.ScriptModule, caller: str) -> None:
    """Raises QuantizationError if jitquant has prepared or quantized the model already."""
    facts = read_info(model)
    if facts is not None:
        raise QuantizationError(
            f"{caller}: the model is {facts['stage']} already; start again from the float model"
            + (f", or go on with {_converter(facts)}" if facts["stage"] == "prepared" else "")
        )


def check_prepared(model: torch.jit.ScriptModule, caller: str) -> dict[str, Any]:
    """The facts that preparing wrote. Raises QuantizationError if this model was never prepared."""
    facts = read_info(model)
    if facts is None or facts["stage"] != "prepared":
        state = "was never prepared" if facts is None else f"is {facts['stage']} already"
        dynamic = "call prepare_dynamic_jit and convert what it returns"
        static = "call prepare_jit, calibrate what it returns, and convert that"
        remedy = dynamic if caller == "convert_dynamic_jit" else static
        raise QuantizationError(f"{caller}: the model {state}; {remedy}")
    return facts


def _converter(facts: dict[str, Any]) -> str:
    return "convert_dynamic_jit" if facts.get("dynamic") else "convert_jit"


def check_qconfig_dict(qconfig_dict: Any, model: torch.jit.ScriptModule, caller: str) -> Quantizer:
    """What chooses the qconfigs: the quantizer itself, or the mapping that a dict or torch.ao's mapping says.

    Raises QuantizationError for a wrong type, and for a mapping that names what the model does not have.
    """
    try:
        quantizer = qconfig_dict if is_quantizer(qconfig_dict) else as_qconfig_mapping(qconfig_dict)
        for mapping in _mappings_in(quantizer):
            mapping.check(module_types(model))
    except QuantizationError as error:
        raise QuantizationError(f"{caller}: {error}") from error
    return quantizer


def _mappings_in(quantizer: Quantizer) -> Iterator[QConfigMapping]:
    if isinstance(quantizer, QConfigMapping):
        yield quantizer
    elif isinstance(quantizer, ComposedQuantizer):
        for part in quantizer.quantizers:
            yield from _mappings_in(part)


def check_pass_name(name: str | None, known: tuple[str, ...], caller: str) -> None:
    """Raises QuantizationError if a pass to stop after is not among those that will run."""
    if name is not None and name not in known:
        raise QuantizationError(
            f"{caller}: stop_after={name!r} is no pass that runs; those are {', '.join(known)}"
        )


def check_run_fn(run_fn: Any, caller: str) -> None:
    """Raises QuantizationError unless run_fn can be called."""
    if not callable(run_fn):
        raise QuantizationError(
            f"{caller}: run_fn is a {type(run_fn).__name__}; "
            "pass a function that takes the prepared model and run_args"
        )


def check_methods(model: torch.jit.ScriptModule, names: Sequence[str], caller: str) -> None:
    """Raises QuantizationError if the model lacks a method that is to be quantized, or if there is none."""
    if isinstance(names, str) or not names:
        raise QuantizationError(f"{caller}: methods is {names!r}; pass a list of names such as ['forward']")
    for name in names:
        if not model._c._has_method(name):
            known = ", ".join(sorted(model._c._method_names()))
            raise QuantizationError(
                f"{caller}: methods names {name!r}, and the model has no such method; choose from {known}"
            )


def check_attributes(model: torch.jit.ScriptModule, names: Sequence[str], caller: str) -> None:
    """Raises QuantizationError if the model lacks an attribute that is to be preserved."""
    for name in names:
        if not model._c.hasattr(name) and not model._c._has_method(name):
            raise QuantizationError(
                f"{caller}: preserved_attrs names {name!r}, and the model has no such attribute or method"
            )
