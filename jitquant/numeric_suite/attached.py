"""Loggers at a ScriptModule: its calls go through an instrumented copy, and it finds its loggers again.

The module itself stays what it is: what is attached is no part of it, and is not saved or copied with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from jitquant.errors import QuantizationError
from jitquant.numeric_suite.loggers import Logger

_LOGGERS = "_numeric_suite_loggers"
_PREPARATION = "_numeric_suite_preparation"


def attach(
    module: torch.jit.ScriptModule,
    call: Callable[..., Any],
    loggers: Mapping[str, Logger],
    preparation: object,
) -> None:
    """From now on calling the module is `call`; what was attached before is gone.

    Args:
        preparation: the same object for models that are prepared together.
    """
    # Beside the module's attributes: assigning would compile them into it.
    module.__dict__["forward"] = call
    module.__dict__[_LOGGERS] = loggers
    module.__dict__[_PREPARATION] = preparation


def are_prepared_together(one: torch.jit.ScriptModule, other: torch.jit.ScriptModule) -> bool:
    """Whether the loggers of two prepared models come from the same call."""
    return one.__dict__[_PREPARATION] is other.__dict__[_PREPARATION]


def get_logger_dict(mod: torch.jit.ScriptModule, prefix: str = "") -> dict[str, dict[str, Any]]:
    """What the loggers of a prepared model have kept: their ``stats``, by name.

    Args:
        mod: what ``prepare_model_outputs`` or ``prepare_model_with_stubs`` prepared.
        prefix: comes before each name, with a dot behind it.

    Returns:
        For each logger, as ``conv1.stats`` or ``layer1.0.stats``, the logger's own dict, which later calls of
        the model go on to fill.

    Raises:
        QuantizationError: for a model that was not prepared.
    """
    loggers = mod.__dict__.get(_LOGGERS) if isinstance(mod, torch.nn.Module) else None
    if loggers is None:
        raise QuantizationError(
            "get_logger_dict: the model has no loggers; prepare it with prepare_model_outputs or "
            "prepare_model_with_stubs first, and pass the very object that was prepared"
        )
    before = f"{prefix}." if prefix else ""
    return {f"{before}{name}.stats": logger.stats for name, logger in loggers.items()}
