"""What the observers of a prepared model saw, apart from the model: to save, to load, and to merge.

Parts of the calibration data may go through copies of a prepared model, one after the other or on several
machines. Merged, extremes and histograms are exactly those of a single run over all of it: the bins of
histograms are powers of two wide and begin at multiples of it, so the finer histogram pours into the wider
one bin by bin. Moving averages depend on the order of the batches; merged, they are the mean of the averages,
each weighted with how many batches it is of.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from os import PathLike
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from jitquant import _C
from jitquant.checks import check_prepared, check_script_module
from jitquant.errors import QuantizationError
from jitquant.version import __version__

__all__ = ["load_statistics", "merge_statistics", "save_statistics"]

# What observers record, and what they were made with. An observer has some of each.
STATISTICS = ("min_val", "max_val", "calls", "histogram", "bin_width", "first_bin", "zeros")
SETTINGS = (
    "dtype",
    "qscheme",
    "quant_min",
    "quant_max",
    "eps",
    "ch_axis",
    "averaging_constant",
    "bins",
    "percentile",
    "scale",
    "zero_point",
)
GRID_COUNTS = ("histogram", "min_val", "max_val", "bin_width", "first_bin", "zeros")

# What the presets record besides: sums, which add up, or tables of channels, as csrc/input_statistics.h says.
SUMS = "sums"
CHANNELS = "channels"

Path = str | PathLike[str]
Statistics = dict[str, Any]


@dataclass(frozen=True)
class Recorded:
    """One observer: its class, the module whose op it stands at, its settings and what it recorded.

    The path of the module is empty in the top module, and where the prepared model came from a file.
    """

    observer: str
    module: str
    settings: dict[str, Any]
    statistics: Statistics

    @property
    def ran(self) -> bool:
        if SUMS in self.statistics:
            return bool(self.statistics[SUMS].any())
        return bool(self.statistics["min_val"].numel() > 0)


Record = Mapping[str, Recorded]


def save_statistics(prepared: torch.jit.ScriptModule, path: Path) -> None:
    """Writes what the observers of a prepared model saw: tensors and plain data, no code.

    ``torch.load(path, weights_only=True)`` reads the file: under ``"observers"``, for each observer by its
    name, its class (``"observer"``), the ``"module"`` it stands in, its ``"settings"`` and its
    ``"statistics"``, which are the attributes that `jitquant.observers` documents.

    Args:
        prepared: what ``prepare_jit`` returned, calibrated or not.
        path: the file to write.

    Raises:
        QuantizationError: for a module that is not prepared, and an observer with statistics of its own.
    """
    caller = "save_statistics"
    observers = {name: vars(recorded) for name, recorded in _recorded_by(prepared, caller).items()}
    torch.save({"jitquant": __version__, "observers": observers}, path)


def load_statistics(prepared: torch.jit.ScriptModule, path: Path) -> None:
    """Puts saved statistics in the place of what the observers of a prepared model saw.

    Args:
        prepared: the model prepared as the one that the file is of.
        path: what ``save_statistics`` wrote.

    Raises:
        QuantizationError: if the file is none of ``save_statistics``, or is of other observers. The model is
            then as it was.
    """
    caller = "load_statistics"
    own, saved = _recorded_by(prepared, caller), _read(path, caller)
    _check_fit(own, saved, str(path), caller)
    _write(prepared, {name: recorded.statistics for name, recorded in saved.items()})


def merge_statistics(prepared: torch.jit.ScriptModule, *others: torch.jit.ScriptModule | Path) -> None:
    """Adds what others saw to what the observers of a prepared model saw.

    Args:
        prepared: the model to add to.
        others: the same model prepared in the same way, or files that ``save_statistics`` wrote of such.

    Raises:
        QuantizationError: for a model or a file with other observers, and for observers of other libraries
            that cannot be merged. The model is then as it was.
    """
    caller = "merge_statistics"
    all_recorded = [_recorded_by(prepared, caller)]
    for number, other in enumerate(others, 1):
        is_module = isinstance(other, torch.nn.Module)
        recorded = _recorded_by(other, caller) if is_module else _read(other, caller)
        _check_fit(all_recorded[0], recorded, f"other {number}" if is_module else str(other), caller)
        all_recorded.append(recorded)
    _write(prepared, _merged(all_recorded, caller))


def merge_ranks(prepared: torch.jit.ScriptModule, caller: str) -> None:
    """Gives every process of ``torch.distributed`` what the observers of all of them saw.

    Without processes that were initialised nothing happens. All of them have to call it.
    """
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return
    ranks: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(ranks, _recorded_by(prepared, caller))
    for rank, recorded in enumerate(ranks):
        _check_fit(ranks[0], recorded, f"rank {rank}", caller)
    _write(prepared, _merged(ranks, caller))


def observers_of(model: torch.jit.ScriptModule) -> dict[str, Any]:
    """The observers of a prepared model by their names."""
    modules = torch._C.ModuleDict(model._c).items()
    return {name: module for name, module in modules if name.startswith("_observer_")}


def _recorded_by(prepared: Any, caller: str) -> Record:
    check_script_module(prepared, caller)
    check_prepared(prepared, caller)
    paths = _C.observer_paths(prepared._c)
    observers = {
        name: _recorded(name, observer, paths.get(name, ""), caller)
        for name, observer in observers_of(prepared).items()
    }
    sums = {
        name: Recorded(
            CHANNELS if tensor.dim() == 2 else SUMS, "", {"shape": list(tensor.shape)}, {SUMS: tensor.clone()}
        )
        for name, tensor in _sums_of(prepared)
    }
    return {**observers, **sums}


def _sums_of(prepared: torch.jit.ScriptModule) -> Iterator[tuple[str, Tensor]]:
    """The tensors that `csrc/input_statistics.h` speaks of."""
    for number in count():
        name = f"_statistics_{number}"
        if not prepared._c.hasattr(name):
            return
        yield name, prepared._c.getattr(name)


def _recorded(name: str, observer: Any, path: str, caller: str) -> Recorded:
    kind = observer._type().name()
    buffers = torch._C.BufferDict(observer).items()  # type: ignore[attr-defined]
    unknown = {buffer for buffer, _ in buffers} - {*STATISTICS, *SETTINGS}
    if unknown or not observer.hasattr("min_val"):
        cause = f"keeps {', '.join(sorted(unknown))}" if unknown else "keeps no min_val"
        raise QuantizationError(
            f"{caller}: {name}, a {kind}, {cause}, which says nothing to jitquant; "
            "calibrate in one run, or use an observer of jitquant.observers"
        )
    settings = {key: _plain(observer.getattr(key)) for key in SETTINGS if observer.hasattr(key)}
    statistics = {key: _copied(observer.getattr(key)) for key in STATISTICS if observer.hasattr(key)}
    return Recorded(kind, path, settings, statistics)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value


def _copied(value: Any) -> Any:
    return value.detach().clone() if isinstance(value, Tensor) else value


def _read(path: Any, caller: str) -> Record:
    try:
        content = torch.load(path, weights_only=True)
        return {name: Recorded(**record) for name, record in content["observers"].items()}
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        raise QuantizationError(
            f"{caller}: {path!s} is no file of statistics; pass one that save_statistics wrote"
        ) from error


def _write(prepared: torch.jit.ScriptModule, statistics: Mapping[str, Statistics]) -> None:
    for name, observer in observers_of(prepared).items():
        for key, value in statistics[name].items():
            observer.setattr(key, _copied(value))
    for name, tensor in _sums_of(prepared):
        tensor.copy_(statistics[name][SUMS])


def _check_fit(own: Record, other: Record, where: str, caller: str) -> None:
    """Raises QuantizationError unless both are of the same observers in the same places."""

    def refuse(difference: str) -> None:
        raise QuantizationError(
            f"{caller}: {where} does not fit the model: {difference}; "
            "prepare both from the same model with the same qconfig_dict"
        )

    if own.keys() != other.keys():
        name = min(own.keys() ^ other.keys(), key=lambda name: (len(name), name))
        refuse(f"{'it lacks' if name in own else 'the model lacks'} {name}")
    for name, mine in own.items():
        theirs = other[name]
        if mine.observer != theirs.observer:
            refuse(f"{name} is a {theirs.observer} there and a {mine.observer} in the model")
        if mine.module and theirs.module and mine.module != theirs.module:
            refuse(f"{name} stands in '{theirs.module}' there and in '{mine.module}' in the model")
        for key in mine.settings.keys() | theirs.settings.keys():
            here, there = mine.settings.get(key), theirs.settings.get(key)
            if here != there:
                refuse(f"{name} has {key}={there} there and {key}={here} in the model")
        if SUMS in mine.statistics:
            continue
        here, there = (recorded.statistics["min_val"].shape for recorded in (mine, theirs))
        if mine.ran and theirs.ran and here != there:
            refuse(f"{name} recorded {there.numel()} channels there and {here.numel()} in the model")


def _merged(all_recorded: Sequence[Record], caller: str) -> dict[str, Statistics]:
    merged = {}
    for name, first in all_recorded[0].items():
        ran = [recorded[name].statistics for recorded in all_recorded if recorded[name].ran]
        merged[name] = _merge_rule(name, first, caller)(ran) if ran else first.statistics
    return merged


def _merge_rule(name: str, recorded: Recorded, caller: str) -> Callable[[Sequence[Statistics]], Statistics]:
    lacking: set[str] = set()
    rule = _extremes
    if recorded.observer == CHANNELS:
        rule = _channels
    elif SUMS in recorded.statistics:
        rule = _added
    elif "histogram" in recorded.statistics:
        lacking, rule = {*GRID_COUNTS} - recorded.statistics.keys(), _histogram
    elif "averaging_constant" in recorded.settings:
        lacking, rule = {"calls"} - recorded.statistics.keys(), _mean
    if lacking:
        raise QuantizationError(
            f"{caller}: {name}, a {recorded.observer}, cannot be merged, as it keeps no "
            f"{', '.join(sorted(lacking))}; calibrate in one run, or use the observer of jitquant.observers"
        )
    return rule


def _added(parts: Sequence[Statistics]) -> Statistics:
    return {SUMS: torch.stack([part[SUMS] for part in parts]).sum(0)}


def _channels(parts: Sequence[Statistics]) -> Statistics:
    low, high, sums, squares = torch.stack([part[SUMS] for part in parts]).unbind(1)
    return {SUMS: torch.stack([low.amin(0), high.amax(0), sums.sum(0), squares.sum(0)])}


def _extremes(parts: Sequence[Statistics]) -> Statistics:
    return {
        "min_val": torch.stack([part["min_val"] for part in parts]).amin(0),
        "max_val": torch.stack([part["max_val"] for part in parts]).amax(0),
    }


def _mean(parts: Sequence[Statistics]) -> Statistics:
    calls = sum(part["calls"] for part in parts)
    means: Statistics = {
        key: (sum(part[key].double() * part["calls"] for part in parts) / calls).float()
        for key in ("min_val", "max_val")
    }
    return {**means, "calls": calls}


def _histogram(parts: Sequence[Statistics]) -> Statistics:
    merged = [parts[0][key] for key in GRID_COUNTS]
    for part in parts[1:]:
        merged = torch.ops.jitquant.merge_histograms(*merged, *(part[key] for key in GRID_COUNTS))
    return dict(zip(GRID_COUNTS, merged, strict=True))
