"""The values of both models at matching places, while each runs on its own values."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.numeric_suite.attached import are_prepared_together, attach, get_logger_dict
from jitquant.numeric_suite.calls import call, check_forward, own
from jitquant.numeric_suite.loggers import (
    Logger,
    LoggerClass,
    OutputLogger,
    as_float,
    check_logger_class,
    count_values,
)
from jitquant.numeric_suite.matched import Matched
from jitquant.numeric_suite.selection import ModuleKind, chosen_modules
from jitquant.watch import Watched


def compare_model_outputs(
    float_model: torch.jit.ScriptModule,
    q_model: torch.jit.ScriptModule,
    *data: Any,
    logger_cls: LoggerClass = OutputLogger,
    allow_list: Iterable[ModuleKind] | None = None,
) -> dict[str, dict[str, Any]]:
    """Runs both models on the same data and gives what their ops gave, side by side.

    The models stay what they are. For data in batches see ``prepare_model_outputs``.

    Args:
        data: what forward takes, one argument after the other.
        float_model, q_model, logger_cls, allow_list: as for ``prepare_model_outputs``.

    Returns:
        As ``get_matching_activations`` gives.

    Raises:
        QuantizationError: as ``prepare_model_outputs`` does, and where forward does not take the data.
    """
    caller = "compare_model_outputs"
    outputs = _Outputs(float_model, q_model, logger_cls, allow_list, caller)
    outputs.run_float(*data)
    outputs.run_quantized(*data)
    return _matching(_stats(outputs.float_loggers), _stats(outputs.quantized_loggers))


def prepare_model_outputs(
    float_module: torch.jit.ScriptModule,
    q_module: torch.jit.ScriptModule,
    logger_cls: LoggerClass = OutputLogger,
    allow_list: Iterable[ModuleKind] | None = None,
) -> None:
    """Attaches loggers to both models: call both on each batch, then ``get_matching_activations``.

    An op has a logger where the integer model gives its value; of ops that became one it is the last one's
    value, under the name of the first: ``conv1`` for a convolution with the relu behind it. Of what an op
    gives, it is the first tensor: an LSTM's output. Calls of the models run copies with loggers in them,
    without gradients; what ``torch.jit.save`` writes is the model as it was. To prepare once more begins
    anew.

    With a logger that takes pairs (``ShadowLogger``, ``StatisticsLogger``), the loggers are those of the
    quantized model, and each batch goes to the float model first and then to the quantized one: its values
    are held until then, so that the memory does not grow with the number of batches.

    Args:
        float_module: the model that `q_module` was made of, scripted, traced, frozen or loaded.
        q_module: what ``quantize_jit``, ``convert_jit`` or their dynamic counterparts returned, for either
            target, or such a file loaded.
        logger_cls: a class of loggers; see ``Logger``.
        allow_list: only ops in such modules: classes, names of classes and paths; None for all.

    Raises:
        QuantizationError: for an eager module, a quantized model that jitquant did not make, one made with
            ``debug``, one that was not made of `float_module`, one whose forward was not quantized; for a
            wrong `logger_cls`, and for an `allow_list` with something that the model does not have.
    """
    outputs = _Outputs(float_module, q_module, logger_cls, allow_list, "prepare_model_outputs")
    attach(float_module, outputs.run_float, outputs.float_loggers, outputs)
    attach(q_module, outputs.run_quantized, outputs.quantized_loggers, outputs)


def get_matching_activations(
    float_module: torch.jit.ScriptModule, q_module: torch.jit.ScriptModule
) -> dict[str, dict[str, Any]]:
    """What the loggers of two prepared models have kept, side by side.

    Returns:
        For each op, as ``conv1.stats``, a dict with ``'float'`` and ``'quantized'``: lists with a tensor for
        each call, where a logger keeps ``tensor_val``; else the ``stats`` of both. Loggers of pairs say
        both themselves. Ops that did not run are left out.

    Raises:
        QuantizationError: for models that were not prepared, or not together.
    """
    of_float, of_quantized = get_logger_dict(float_module), get_logger_dict(q_module)
    if not are_prepared_together(float_module, q_module):
        raise QuantizationError(
            "get_matching_activations: the two models were not prepared together, or one of them once more "
            "since; pass both to one prepare_model_outputs, call them, and read what they gave before either "
            "is prepared again"
        )
    return _matching(of_float, of_quantized)


class _Outputs:
    """The loggers of two models, and how each runs."""

    def __init__(
        self,
        float_model: torch.jit.ScriptModule,
        quantized: torch.jit.ScriptModule,
        logger_cls: LoggerClass,
        allow_list: Iterable[ModuleKind] | None,
        caller: str,
    ) -> None:
        check_script_module(float_model, caller)
        check_script_module(quantized, caller)
        check_logger_class(logger_cls, caller)
        self._caller = caller
        matched = Matched(float_model, quantized, caller)
        check_forward(matched.ops, caller)
        paths = None if allow_list is None else chosen_modules(float_model, allow_list, caller, "allow_list")
        self._names = matched.result_names(paths)
        self._divisors = matched.divisors
        self._float = Watched(matched.twin, quantized, outputs=self._names)
        self._quantized = Watched(quantized, outputs=self._names)
        self._held: dict[int, deque[Tensor]] | None = None
        self._pairs = count_values(logger_cls()) == 2
        names = self._names.values()
        self.float_loggers: dict[str, Logger] = {} if self._pairs else {name: logger_cls() for name in names}
        self.quantized_loggers: dict[str, Logger] = {name: logger_cls() for name in names}

    def run_float(self, /, *data: Any, **named: Any) -> Any:
        held: dict[int, deque[Tensor]] = {}

        def see(index: int, value: Tensor) -> None:
            if self._pairs:
                held.setdefault(index, deque()).append(own(value))
            else:
                self.float_loggers[self._names[index]](own(value))

        result = call(self._float, data, self._caller, kwargs=named, on_output=see)
        self._held = held
        return result

    def run_quantized(self, /, *data: Any, **named: Any) -> Any:
        if self._pairs and self._held is None:
            raise QuantizationError(
                f"{self._caller}: these loggers compare pairs, and the float model was not called before; "
                "call it on each batch, and then the quantized model on the same"
            )

        def see(index: int, value: Tensor) -> None:
            logger = self.quantized_loggers[self._names[index]]
            divisors = self._divisors.get(index)
            value = own(value) if divisors is None else as_float(value) * divisors
            if self._pairs:
                logger(value, self._counterpart(index, value))
            else:
                logger(value)

        result = call(self._quantized, data, self._caller, kwargs=named, on_output=see)
        self._held = None
        return result

    def _counterpart(self, index: int, value: Tensor) -> Tensor:
        """What the float model gave at the same place."""
        waiting = (self._held or {}).get(index)
        if not waiting or waiting[0].shape != value.shape:
            raise QuantizationError(
                f"{self._caller}: {self._names[index]} of the float model gave no such value; call both "
                "models on the same batch, the float one first (ways that depend on the data may part)"
            )
        return waiting.popleft()


def _stats(loggers: dict[str, Logger]) -> dict[str, dict[str, Any]]:
    return {f"{name}.stats": logger.stats for name, logger in loggers.items()}


def _matching(
    of_float: dict[str, dict[str, Any]], of_quantized: dict[str, dict[str, Any]]
) -> dict[str, dict[str, Any]]:
    found = {}
    for key, stats in of_quantized.items():
        if not stats and key not in of_float:
            continue  # statistics of pairs that there are none of
        both = stats if {"float", "quantized"} <= stats.keys() else None
        pair = both or {"float": _values(of_float.get(key, {})), "quantized": _values(stats)}
        is_empty_list = isinstance(pair["quantized"], list) and not pair["quantized"]
        if not is_empty_list:
            found[key] = pair
    return found


def _values(stats: dict[str, Any]) -> Any:
    return stats.get("tensor_val", stats)
