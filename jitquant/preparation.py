"""What static and dynamic calls have in common: the copy that is worked on, and the way through it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from jitquant import _C
from jitquant.checks import (
    check_attributes,
    check_evaluation_mode,
    check_methods,
    check_not_prepared,
    check_pass_name,
    check_qconfig_dict,
    check_script_module,
    check_target,
)
from jitquant.info import write_info
from jitquant.observers import SCRIPTED_FLOAT_ZERO_POINTS
from jitquant.pipeline import PassOptions, Record, run_passes
from jitquant.qconfig import QConfig, check_kinds
from jitquant.qconfig_mapping import QConfigMapping
from jitquant.quantizer import OpNode, Quantizer, choose_qconfigs, compile_observers, describe_choice
from jitquant.statistics import observers_of
from jitquant.summary import write_report
from jitquant.version import __version__

QConfigDict = Mapping[str, Any] | QConfigMapping | Quantizer


@dataclass(frozen=True)
class Preparation:
    """What becomes of a float model before it is converted.

    Attributes:
        caller: the function that the user called.
        dynamic: whether nothing is going to be calibrated.
        before: the passes that run before qconfigs are chosen.
        observing: those that run with them.
        facts: what the module says of it besides what every prepared one says.
    """

    caller: str
    dynamic: bool
    before: tuple[str, ...]
    observing: tuple[str, ...]
    facts: Mapping[str, Any]

    def run(
        self,
        model: torch.jit.ScriptModule,
        qconfig_dict: QConfigDict,
        inplace: bool,
        *,
        target: str,
        methods: Sequence[str],
        preserved_attrs: Sequence[str],
        print_graphs: bool,
        stop_after: str | None,
    ) -> torch.jit.ScriptModule:
        """The prepared model, or what the pass `stop_after` left. Refuses bad input before it changes it."""
        caller = self.caller
        check_script_module(model, caller)
        check_target(target, caller)
        check_not_prepared(model, caller)
        check_evaluation_mode(model, caller)
        check_pass_name(stop_after, self.before + self.observing, caller)
        check_attributes(model, preserved_attrs, caller)
        check_methods(model, methods, caller)
        quantizer = check_qconfig_dict(qconfig_dict, model, caller)

        work = working_copy(model, inplace)
        records: list[Record] = []
        options = PassOptions(target=target, preserved_attrs=preserved_attrs)
        run = partial(
            run_passes,
            module=work,
            methods=methods,
            records=records,
            title="prepare",
            print_graphs=print_graphs,
            stop_after=stop_after,
        )
        chosen: dict[OpNode, QConfig | None] = {}
        if not run(self.before, options=options):
            chosen = choose_qconfigs(quantizer, work, methods)
            check_kinds(chosen, self.dynamic, caller)
            run(self.observing, options=replace(options, observers=compile_observers(chosen)))
        observers = observers_of(work)
        if stop_after is None and not observers:
            form = "a dynamic" if self.dynamic else "an integer"
            warnings.warn(
                f"{caller}: no op of the model has {form} form under this qconfig_dict", stacklevel=3
            )
        write_info(
            work,
            {
                "jitquant": __version__,
                "torch": torch.__version__,
                "stage": "prepared",
                "target": target,
                **self.facts,
                "methods": list(methods),
                "qconfig": quantizer.describe()
                if isinstance(quantizer, QConfigMapping)
                else describe_choice(chosen),
                "reduce_range": are_reduced([*observers.values()]),
            },
        )
        write_report(work, records)
        return hand_over(model, work, inplace)


def quantize(
    model: torch.jit.ScriptModule,
    inplace: bool,
    stop_after: str | None,
    passes: tuple[str, ...],
    *,
    prepare: Callable[..., torch.jit.ScriptModule],
    calibrate: Callable[[torch.jit.ScriptModule], None],
    convert: Callable[..., torch.jit.ScriptModule],
) -> torch.jit.ScriptModule:
    """The two calls as one, and what is between them; `passes` are those of the first."""
    stop_early = stop_after if stop_after in passes else None
    work = prepare(model, stop_after=stop_early)
    if stop_early is None:
        calibrate(work)
        convert(work, inplace=True, stop_after=stop_after)
    return hand_over(model, work, inplace)


def working_copy(model: torch.jit.ScriptModule, inplace: bool) -> torch.jit.ScriptModule:
    """A module with graphs of its own to work on; a model that is to be changed takes it over at the end.

    Its submodules are not wrapped: passes do not ask for them, and it takes as long as several passes.
    """
    copy = _C.clone(model._c, share_tensors=inplace)
    return torch.jit._script.RecursiveScriptModule._construct(copy, lambda module: None)


def hand_over(
    model: torch.jit.ScriptModule, work: torch.jit.ScriptModule, inplace: bool
) -> torch.jit.ScriptModule:
    """The copy as a module like any other; or the model itself, which is what the copy was from now on."""
    if not inplace:
        return torch.jit._recursive.wrap_cpp_module(work._c)
    model._reconstruct(work._c)
    return model


def are_reduced(observers: Sequence[Any]) -> bool:
    """Whether all activations keep to 7 of their 8 bits, or all weights do; products need no more than one.

    What stands for half precision has no integers, and no range of them. Rows that are looked up are neither:
    nothing multiplies their integers.
    """
    ends = [
        (observer.getattr("quant_min"), observer.getattr("quant_max"))
        if observer.hasattr("quant_min") and observer.hasattr("quant_max")
        else (0, 255)
        for observer in observers
        if not _watches_rows(observer)
    ]
    known = [(low, high) for low, high in ends if low is not None and high is not None]
    activations = [high for low, high in known if low == 0]
    weights = [high for low, high in known if low < 0]
    return bool(observers) and (max(activations, default=0) <= 127 or max(weights, default=0) <= 63)


def _watches_rows(observer: Any) -> bool:
    return observer.hasattr("qscheme") and observer.getattr("qscheme") == SCRIPTED_FLOAT_ZERO_POINTS
