"""Float shadows: beside each quantized module runs the float one, on the input of the quantized one."""

from __future__ import annotations

import warnings
from collections import defaultdict, deque
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.numeric_suite.attached import attach
from jitquant.numeric_suite.blocks import Borders, Entry, blocks_at
from jitquant.numeric_suite.calls import call, check_forward, own
from jitquant.numeric_suite.loggers import (
    Logger,
    LoggerClass,
    ShadowLogger,
    as_float,
    check_logger_class,
)
from jitquant.numeric_suite.matched import Matched
from jitquant.numeric_suite.origins import origins_of
from jitquant.numeric_suite.selection import ModuleKind, chosen_modules
from jitquant.watch import Watched


def compare_model_stub(
    float_model: torch.jit.ScriptModule,
    q_model: torch.jit.ScriptModule,
    module_swap_list: Iterable[ModuleKind],
    *data: Any,
    logger_cls: LoggerClass = ShadowLogger,
) -> dict[str, dict[str, Any]]:
    """Runs the quantized model, and beside each module of the list its float one on the same input.

    The models stay what they are. For data in batches see ``prepare_model_with_stubs``.

    Args:
        data: what forward takes, one argument after the other.
        float_model, q_model, module_swap_list, logger_cls: as for ``prepare_model_with_stubs``.

    Returns:
        For each module, as ``layer1.0.stats``, the logger's ``stats``: of a ``ShadowLogger`` a dict with
        ``'float'`` and ``'quantized'``, lists of tensors. Modules that did not run are left out.

    Raises:
        QuantizationError: as ``prepare_model_with_stubs`` does, and where forward does not take the data.
    """
    shadows = _Shadows(float_model, q_model, module_swap_list, logger_cls, "compare_model_stub")
    shadows.run(*data)
    return {f"{name}.stats": shadows.loggers[name].stats for name in shadows.loggers if name in shadows.ran}


def prepare_model_with_stubs(
    float_module: torch.jit.ScriptModule,
    q_module: torch.jit.ScriptModule,
    module_swap_list: Iterable[ModuleKind],
    logger_cls: LoggerClass = ShadowLogger,
) -> None:
    """Attaches float shadows to the quantized model: call it on each batch, then ``get_logger_dict`` on it.

    The float code of a whole module, a ``BasicBlock`` with all in it, runs on what enters the quantized one,
    dequantized, and gives what the logger sees beside the quantized result: the error of this module alone,
    and none of those before it. Where an op of the module is fused with ops behind it, those belong to it, as
    a relu does to a linear. Of modules that give several tensors the last one is compared. Modules in which
    all stays float have no shadow. Where it is not known what the integer model has in the place of an
    input, as within a node that stands for several ops, the shadow runs on the float model's own value of
    it, errors before the module show in the comparison, and a warning names the module, once.

    Calls of the quantized model run a copy with the shadows, without gradients; what ``torch.jit.save``
    writes is the model as it was. To prepare once more begins anew.

    Args:
        float_module: the model that `q_module` was made of, scripted, traced or loaded.
        q_module: what ``quantize_jit``, ``convert_jit`` or their dynamic counterparts returned, for either
            target, or such a file loaded.
        module_swap_list: module classes (``torch.nn.Linear``, one of the user's own), names of classes
            (``"BasicBlock"``, for models loaded from files), and paths (``"layer1.0"``). What is inside
            another module of the list is part of that one.
        logger_cls: a class of loggers that take pairs; see ``Logger``.

    Raises:
        QuantizationError: for an eager module, a quantized model that jitquant did not make, one made with
            ``debug``, one that was not made of `float_module`, one whose forward was not quantized; for a
            wrong `logger_cls`, and for what is in the list and not in the model. A call raises it where a
            module runs another number of times in the one model than in the other.
    """
    shadows = _Shadows(float_module, q_module, module_swap_list, logger_cls, "prepare_model_with_stubs")
    attach(q_module, shadows.run, shadows.loggers, shadows)


class _Shadows:
    """The blocks with their loggers, and how the two models run."""

    def __init__(
        self,
        float_model: torch.jit.ScriptModule,
        quantized: torch.jit.ScriptModule,
        module_swap_list: Iterable[ModuleKind],
        logger_cls: LoggerClass,
        caller: str,
    ) -> None:
        check_script_module(float_model, caller)
        check_script_module(quantized, caller)
        check_logger_class(logger_cls, caller, values=(2,))
        self._caller = caller
        self._matched = Matched(float_model, quantized, caller)
        check_forward(self._matched.ops, caller)
        paths = chosen_modules(float_model, module_swap_list, caller, "module_swap_list")
        blocks = blocks_at(self._matched.ops, paths)
        producers = Watched(self._matched.twin, quantized, outputs=()).producers
        origins = origins_of(quantized, caller)
        borders = Borders(self._matched.ops, producers, origins, self._matched.with_several_results())
        self._exits = {i: block.name for block in blocks for i in borders.exits(block)}
        entries = [(block.name, entry) for block in blocks for entry in borders.entries(block)]
        self._entries = [entry for _, entry in entries]
        self._takers = {(entry.op, entry.slot): name for name, entry in entries}
        self._warned: set[str] = set()
        self._watch(quantized)
        self.loggers: dict[str, Logger] = {block.name: logger_cls() for block in blocks}
        self.ran: set[str] = set()  # those with a logger that saw something

    def _watch(self, quantized: torch.jit.ScriptModule) -> None:
        producers = {entry.producer for entry in self._entries if entry.result < 0}
        self._quantized = Watched(
            quantized,
            outputs=self._exits.keys() | producers,
            inputs={entry.result for entry in self._entries if entry.result >= 0},
        )
        self._float = Watched(
            self._matched.twin,
            quantized,
            outputs=self._exits,
            substitutes={entry.op for entry in self._entries},
        )

    def run(self, /, *data: Any, **named: Any) -> Any:
        """One call: of the quantized model, which is listened to, then of the float one on its inputs."""
        entering: dict[tuple[int, int], deque[Tensor]] = defaultdict(deque)
        left: dict[int, list[Tensor]] = defaultdict(list)
        last: dict[str, int] = {}  # a way out may lie in a branch that is not taken

        def see_inputs(result: int, values: list[Tensor]) -> None:
            for entry in self._entries:
                if entry.result == result:
                    entering[entry.op, entry.slot].append(self._input(entry, values[entry.position]))

        def see_output(index: int, value: Tensor) -> None:
            for entry in self._entries:
                if entry.result < 0 and entry.producer == index:
                    entering[entry.op, entry.slot].append(as_float(self._output(index, value)))
            if index in self._exits:
                left[index].append(self._output(index, value))
                last[self._exits[index]] = index

        result = call(
            self._quantized, data, self._caller, kwargs=named, on_output=see_output, on_inputs=see_inputs
        )
        shadows = self._run_float(data, named, entering, {index: left[index] for index in last.values()})
        for name, index in last.items():
            self._check_counterparts(name, left[index], shadows[index])
        for name, index in last.items():
            self.ran.add(name)
            for x, y in zip(left[index], shadows[index], strict=True):
                self.loggers[name](x, y)
        return result

    def _check_counterparts(self, name: str, left: list[Tensor], shadows: list[Tensor]) -> None:
        """Raises QuantizationError unless the shadow gave a value for each of the quantized module."""
        sizes, others = ([each.shape for each in values] for values in (left, shadows))
        if sizes != others:
            differ = (
                f"ran {len(sizes)} times, and its shadow {len(others)} times"
                if len(sizes) != len(others)
                else "gave values of other sizes than its shadow"
            )
            raise QuantizationError(
                f"{self._caller}: {name} of the quantized model {differ}, as ways that depend on the data "
                "may part; pass data on which both models go the same way, or leave the module out of "
                "module_swap_list"
            )

    def _run_float(
        self,
        data: tuple[Any, ...],
        named: dict[str, Any],
        entering: dict[tuple[int, int], deque[Tensor]],
        results: dict[int, list[Tensor]],
    ) -> dict[int, list[Tensor]]:
        """What the shadows give at these ops, whose values in the integer model are `results`."""
        found: dict[int, list[Tensor]] = defaultdict(list)
        given = [leaf for leaf in tree_leaves((data, named)) if isinstance(leaf, Tensor)]
        without: set[str] = set()

        def replace(op: int, slot: int, value: Tensor) -> Tensor | None:
            waiting = entering.get((op, slot))
            if not waiting or waiting[0].shape != value.shape:
                name = self._takers.get((op, slot))
                if name is not None and not _is_among(value, given):
                    without.add(name)
                return None
            # What comes from outside of a loop is given once, and taken more often.
            return waiting.popleft() if len(waiting) > 1 else waiting[0]

        def see(index: int, value: Tensor) -> None:
            if index in results:
                found[index].append(own(value))
                # At once: on the last input of the integer model a loop might go on for ever.
                if len(found[index]) > len(results[index]):
                    self._check_counterparts(self._exits[index], results[index], found[index])

        call(self._float, data, self._caller, kwargs=named, on_output=see, substitute=replace)
        self._warn_of(without & {self._exits[index] for index in results})
        return found

    def _warn_of(self, names: set[str]) -> None:
        """Warns, once for each module, that its shadow took a value of the float model's own."""
        for name in sorted(names - self._warned):
            self._warned.add(name)
            warnings.warn(
                f"{self._caller}: the shadow of {name} runs on the float model's own value of an input, as "
                "it is not known what the integer model has in its place; errors before the module show in "
                "the comparison. Name a module around it instead",
                stacklevel=2,
            )

    def _input(self, entry: Entry, value: Tensor) -> Tensor:
        """What the float op takes in the place of what the integer one took."""
        value = own(value)
        if value.dtype in (torch.uint8, torch.int8):
            params = self._matched.input_params(entry.result) if entry.position == 0 else None
            if params is not None:
                value = torch._make_per_tensor_quantized_tensor(value, *params)
        if not value.is_quantized and not value.is_floating_point():
            return value
        smoothing = self._matched.smoothing(entry.op) if entry.slot == 0 else None
        factors = 1 if smoothing is None or smoothing.is_undone else smoothing.factors
        return as_float(value) * factors

    def _output(self, index: int, value: Tensor) -> Tensor:
        divisors = self._matched.divisors.get(index)
        return own(value) if divisors is None else as_float(value) * divisors


def _is_among(value: Tensor, given: list[Tensor]) -> bool:
    """Whether it is what the user gave, which is the same in both models."""
    return any(value.data_ptr() == each.data_ptr() and value.shape == each.shape for each in given)
