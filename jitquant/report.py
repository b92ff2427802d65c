"""A page that shows a float model and its quantized twin side by side: where accuracy, size and time go."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.report_measures import measure
from jitquant.report_page import render_page

__all__ = ["report"]

_CALLER = "report"
_WHAT_TO_PASS = "pass what forward takes, a tuple or its only tensor, or a list of such"


def report(
    float_model: torch.jit.ScriptModule,
    quantized: torch.jit.ScriptModule,
    data: Tensor | tuple[Any, ...] | Iterable[Tensor | tuple[Any, ...]],
    path: str | os.PathLike[str] = "report.html",
    *,
    title: str = "",
) -> Path:
    """Writes a page that shows what quantization did: one HTML file that needs nothing else.

    It shows the signal-to-quantization-noise ratio along the network, the values and the weight of each op as
    histograms with the ranges that were chosen, what stayed float and why, size and time of each op, and both
    graphs around any of them. Neither model is changed.

    Args:
        float_model: the model that `quantized` was made of: scripted, traced, frozen or loaded.
        quantized: what ``quantize_jit``, ``convert_jit`` or their dynamic counterparts returned, for either
            target, or such a file loaded. Its engine has to be the one that torch is set to.
        data: what forward takes: a tuple, or its only tensor; or any number of such, as a list or whatever
            gives one after the other. Values are compared on all of it, batch by batch, in memory that does
            not grow with it; time is measured on the first.
        path: the file to write. What is there is replaced.
        title: the heading; the class of the model if empty.

    Returns:
        The path.

    Raises:
        QuantizationError: if `quantized` was not made of `float_model`, or with ``debug``, or its forward was
            not quantized; for data that forward does not take, or none; for a path that cannot be written.
    """
    for model in (float_model, quantized):
        check_script_module(model, _CALLER)
    file = _writable(path)
    page = render_page(measure(float_model, quantized, _batches(data), title, _CALLER))
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise _not_writable(file, error.strerror or str(error)) from error
    return file


def _writable(path: Any) -> Path:
    """The file to write; found out before anything is measured."""
    if not isinstance(path, str | os.PathLike):
        raise QuantizationError(
            f"{_CALLER}: path is a {type(path).__name__}; pass the name of a file to write"
        )
    file = Path(path)
    if file.is_dir():
        raise _not_writable(file, "it is a folder")
    if not file.absolute().parent.is_dir():
        raise _not_writable(file, f"there is no folder {file.parent}")
    if not os.access(file if file.exists() else file.absolute().parent, os.W_OK):
        raise _not_writable(file, "permission denied")
    return file


def _not_writable(file: Path, cause: str) -> QuantizationError:
    return QuantizationError(
        f"{_CALLER}: path={str(file)!r} cannot be written ({cause}); name a file in a folder that can be"
    )


def _batches(data: Any) -> Iterator[tuple[Any, ...]]:
    """The inputs of one call after the other."""
    if isinstance(data, Tensor | tuple):
        data = [data]
    if not isinstance(data, Iterable) or isinstance(data, str | dict):
        raise QuantizationError(f"{_CALLER}: data is a {type(data).__name__}; {_WHAT_TO_PASS}")
    return map(_as_inputs, data)


def _as_inputs(batch: Any) -> tuple[Any, ...]:
    if isinstance(batch, Tensor):
        return (batch,)
    if isinstance(batch, tuple):
        return batch
    raise QuantizationError(f"{_CALLER}: data gives a {type(batch).__name__}; {_WHAT_TO_PASS}")
