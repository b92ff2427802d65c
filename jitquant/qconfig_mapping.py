"""Which qconfig is for which part of a model, as data."""

from __future__ import annotations

import difflib
import operator
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from jitquant import _C
from jitquant.errors import QuantizationError
from jitquant.qconfig import QConfig, as_qconfig, of_the_whole_model
from jitquant.quantizer import OpNode

__all__ = ["QConfigMapping"]

ObjectType = str | type[nn.Module] | Callable[..., Any]

# What a function is called, and what its op is called in the canonical graph, where the names differ.
SPELLINGS: dict[str, tuple[str, ...]] = {
    "addmm": ("linear",),
    "adaptive_max_pool1d": ("amax",),
    "adaptive_max_pool2d": ("amax",),
    "adaptive_max_pool3d": ("amax",),
    "bmm": ("matmul",),
    "clip": ("clamp",),
    "concat": ("cat",),
    "concatenate": ("cat",),
    "iadd": ("add",),
    "imul": ("mul",),
    "interpolate": ("upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"),
    "isub": ("sub",),
    "moveaxis": ("movedim",),
    "pad": ("constant_pad_nd", "reflection_pad1d", "reflection_pad2d"),
    "relu6": ("hardtanh",),
    "split": ("split", "split_with_sizes"),
    "stack": ("cat",),
    "swapaxes": ("transpose",),
    "swapdims": ("transpose",),
    "truediv": ("div",),
    "view": ("reshape",),
}


class QConfigMapping:
    """Qconfigs for a model's parts, with the names of ``torch.ao.quantization.QConfigMapping``.

    >>> mapping = (
    ...     QConfigMapping()
    ...     .set_global(default_qconfig)
    ...     .set_object_type("add", None)
    ...     .set_module_name("head", None)
    ... )

    A qconfig of None keeps float what it is set for. For each op the first of these that says something
    decides, and an op of which none does stays float:

    1. ``set_module_name_object_type_order``
    2. ``set_module_name``, and of several paths the most specific
    3. ``set_module_name_regex``, and of several that match the one that was set first
    4. ``set_object_type``: the class of the op's module, then the op itself
    5. ``set_global``

    Each setter changes the mapping and returns it. What is set again is replaced.
    """

    def __init__(self) -> None:
        self.global_qconfig: QConfig | None = None
        self.object_type_qconfigs: dict[ObjectType, QConfig | None] = {}
        self.module_name_regex_qconfigs: dict[str, QConfig | None] = {}
        self.module_name_qconfigs: dict[str, QConfig | None] = {}
        self.module_name_object_type_order_qconfigs: dict[tuple[str, ObjectType, int], QConfig | None] = {}
        self._is_global_set = False

    def set_global(self, qconfig: Any) -> QConfigMapping:
        """For all that nothing else names, but that convolutions become dynamic only where they are named.

        Raises:
            TypeError: for what is no qconfig; so do the other setters.
        """
        self.global_qconfig = _checked(qconfig)
        self._is_global_set = True
        return self

    def set_object_type(self, object_type: ObjectType, qconfig: Any) -> QConfigMapping:
        """For all ops of a kind, or those in all modules of a class.

        Args:
            object_type: an op (``"conv2d"`` or ``"aten::conv2d"``), a function that is one
                (``torch.nn.functional.linear``, ``torch.relu``, ``operator.add``), a module class
                (``torch.nn.Conv2d``), or a class by its name (``"Conv2d"``), for models loaded from a file. A
                class means the ops that a module of exactly this class does itself, not those of its
                submodules. Ops are named as in the canonical graph: ``torch.nn.functional.relu6`` means every
                hardtanh.
            qconfig: what these get.

        Raises:
            TypeError: if the object type is neither a string, a function nor a module class.
        """
        _check_type(object_type)
        self.object_type_qconfigs[object_type] = _checked(qconfig)
        return self

    def set_module_name_regex(self, module_name_regex: str, qconfig: Any) -> QConfigMapping:
        """For submodules, and all in them, whose whole path the regular expression matches.

        Raises:
            ValueError: for what is no regular expression.
        """
        try:
            re.compile(module_name_regex)
        except (re.error, TypeError) as error:
            raise ValueError(
                f"QConfigMapping: {module_name_regex!r} is no regular expression ({error}); "
                r"write one such as r'layer\d\.conv.*'"
            ) from error
        self.module_name_regex_qconfigs[module_name_regex] = _checked(qconfig)
        return self

    def set_module_name(self, module_name: str, qconfig: Any) -> QConfigMapping:
        """For the submodule at a path, and all in it.

        A submodule that the model has under several names is meant by the name it is called by. A trace knows
        the first name only.

        Raises:
            TypeError: if the path is not a string.
            ValueError: if it is empty.
        """
        _check_path(module_name)
        if not module_name:
            raise ValueError(
                "QConfigMapping: '' is the path of no submodule; use set_global for the whole model"
            )
        self.module_name_qconfigs[module_name] = _checked(qconfig)
        return self

    def set_module_name_object_type_order(
        self, module_name: str, object_type: ObjectType, index: int, qconfig: Any
    ) -> QConfigMapping:
        """For one op of a module, in each method that has it.

        Args:
            module_name: the path of the module whose own op it is; ``''`` is the model itself.
            object_type: as for ``set_object_type``.
            index: which of the ops of that type in exactly that module, in program order from 0.
            qconfig: what it gets.

        Raises:
            TypeError: for a path, a type or an index of a wrong type.
            ValueError: for a negative index.
        """
        _check_path(module_name)
        _check_type(object_type)
        if not isinstance(index, int) or isinstance(index, bool):
            raise TypeError(f"QConfigMapping: index={index!r} is a {type(index).__name__}; pass an int")
        if index < 0:
            raise ValueError(f"QConfigMapping: index={index} is negative; ops are counted from 0")
        self.module_name_object_type_order_qconfigs[module_name, object_type, index] = _checked(qconfig)
        return self

    def annotate(self, graph: Sequence[OpNode]) -> dict[OpNode, QConfig | None]:
        """The qconfig of each node of which something is said. See ``Quantizer``.

        Raises:
            QuantizationError: where a module has fewer ops of a type than an index asks for.
        """
        chosen = self._by_order(graph)
        at_path = cache(self._by_path)
        of_type = self._by_type()
        for node in graph:
            if node in chosen:
                continue
            found = at_path(node.module) or of_type(node)
            if found is not None:
                chosen[node] = found.qconfig
            elif self._is_global_set:
                chosen[node] = of_the_whole_model(node.op, self.global_qconfig)
        return chosen

    def describe(self) -> dict[str, str]:
        """What is set, in words, by what it is set for; ``''`` is the whole model, a path a submodule."""
        said: dict[str, QConfig | None] = {"": self.global_qconfig} if self._is_global_set else {}
        said |= {f"every {_label(kind)}": each for kind, each in self.object_type_qconfigs.items()}
        said |= {f"/{regex}/": each for regex, each in self.module_name_regex_qconfigs.items()}
        said |= self.module_name_qconfigs
        for (path, kind, index), each in self.module_name_object_type_order_qconfigs.items():
            said[f"{_label(kind)} {index} of {path or 'the model itself'}"] = each
        return {key: "float" if qconfig is None else qconfig.describe() for key, qconfig in said.items()}

    def check(self, types: Mapping[str, str]) -> None:
        """Refuses what cannot be meant of a model.

        Args:
            types: the class of the module at each of its paths.

        Raises:
            QuantizationError: if nothing is set; for a path that no submodule has, a regular expression that
                matches none, and an object type that is nothing known.
        """
        if not self._is_global_set and not any(self._levels()):
            raise QuantizationError(
                "qconfig_dict is empty, so nothing would be quantized; pass {'': default_qconfig}"
            )
        ordered = self.module_name_object_type_order_qconfigs
        for path in (*self.module_name_qconfigs, *(path for path, _, _ in ordered)):
            if path not in types:
                hint = did_you_mean(path, filter(None, types)) or "; use '' for the whole model"
                raise QuantizationError(
                    f"qconfig_dict names {path!r}, and the model has no such submodule{hint}"
                )
        for regex in self.module_name_regex_qconfigs:
            if not any(re.fullmatch(regex, path) for path in types):
                hint = did_you_mean(regex, filter(None, types)) or "; it has to match a whole path"
                raise QuantizationError(
                    f"qconfig_dict has the regex {regex!r}, which matches no module path{hint}"
                )
        kinds = dict.fromkeys((*self.object_type_qconfigs, *(kind for _, kind, _ in ordered)))
        for kind in kinds:
            _check_known(kind, types)
        lost = [_label(kind) for kind in kinds if isinstance(kind, type)] if len(types) == 1 else []
        if lost:
            warnings.warn(
                f"qconfig_dict is for {', '.join(lost)} too, and the model has no submodules; "
                "where freezing took them, name ops such as 'conv2d'",
                stacklevel=4,
            )

    def _levels(self) -> tuple[Mapping[Any, QConfig | None], ...]:
        return (
            self.module_name_object_type_order_qconfigs,
            self.module_name_qconfigs,
            self.module_name_regex_qconfigs,
            self.object_type_qconfigs,
        )

    def _by_order(self, graph: Sequence[OpNode]) -> dict[OpNode, QConfig | None]:
        chosen: dict[OpNode, QConfig | None] = {}
        wanted = self.module_name_object_type_order_qconfigs
        by_module: dict[tuple[str, str], list[OpNode]] = {}
        for node in graph if wanted else ():
            by_module.setdefault((node.method, node.module), []).append(node)
        methods = dict.fromkeys(node.method for node in graph)
        for (path, kind, index), qconfig in wanted.items():
            meaning = _Meaning.of(kind)
            matching = [
                [node for node in by_module.get((method, path), ()) if meaning.includes(node)]
                for method in methods
            ]
            if all(index >= len(nodes) for nodes in matching):
                most = max(map(len, matching), default=0)
                raise QuantizationError(
                    f"insert_observers: qconfig_dict asks for {_label(kind)} {index} of "
                    f"{path or 'the model itself'}, which has {most} of that type in the canonical graph; "
                    + (f"count from 0 to {most - 1}" if most else _what_is_there(by_module, methods, path))
                )
            chosen |= {nodes[index]: qconfig for nodes in matching if index < len(nodes)}
        return chosen

    def _by_path(self, path: str) -> _Said | None:
        own_and_outer = _with_parents(path)
        for each in own_and_outer:
            if each in self.module_name_qconfigs:
                return _Said(self.module_name_qconfigs[each])
        for regex, qconfig in self.module_name_regex_qconfigs.items():
            if any(re.fullmatch(regex, each) for each in own_and_outer):
                return _Said(qconfig)
        return None

    def _by_type(self) -> Callable[[OpNode], _Said | None]:
        classes: dict[str, _Said] = {}
        ops: dict[str, _Said] = {}
        for kind, qconfig in self.object_type_qconfigs.items():
            meaning = _Meaning.of(kind)
            said = _Said(qconfig)
            if meaning.class_name is not None:
                classes[meaning.class_name] = said
            ops |= dict.fromkeys(meaning.ops, said)

        def find(node: OpNode) -> _Said | None:
            full = node.module_type or ""
            return classes.get(full) or classes.get(full.rpartition(".")[2]) or ops.get(node.op)

        return find


def as_qconfig_mapping(obj: Any) -> QConfigMapping:
    """A QConfigMapping from one, from a dict of module paths, or from anything like that of torch.ao.

    Of torch.ao's, what is set for object types whose range is known, or is that of their input, is left out:
    the op table says so.

    Raises:
        QuantizationError: for anything else, and for a value that is no qconfig.
    """
    if isinstance(obj, QConfigMapping):
        return obj
    if isinstance(obj, Mapping):
        return _from_dict(obj)
    if all(hasattr(obj, name) for name in vars(QConfigMapping()) if not name.startswith("_")):
        return _from_foreign(obj)
    raise QuantizationError(
        f"qconfig_dict is a {type(obj).__name__}; pass a dict such as {{'': default_qconfig}}, "
        "a jitquant.QConfigMapping or an object with annotate(graph)"
    )


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of an error message: names that are near, or nothing."""
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.4)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


@dataclass(frozen=True)
class _Said:
    """That something was said, were it None."""

    qconfig: QConfig | None


@dataclass(frozen=True)
class _Meaning:
    """What an object type stands for: ops of the canonical graph, and modules of a class."""

    ops: frozenset[str] = frozenset()
    class_name: str | None = None  # with its Python module, or without where that is not said

    @staticmethod
    def of(kind: ObjectType) -> _Meaning:
        if isinstance(kind, type):
            return _Meaning(class_name=_class_name(kind))
        if not isinstance(kind, str):
            return _Meaning(ops=_ops_of(kind.__name__) if _is_torchs(kind) else frozenset())
        return _Meaning(ops=_ops_of(kind), class_name=kind)

    def includes(self, node: OpNode) -> bool:
        of_class = node.module_type is not None and self.class_name in (
            node.module_type,
            node.module_type.rpartition(".")[2],
        )
        return of_class or node.op in self.ops


@cache
def _known_ops() -> frozenset[str]:
    return frozenset(row["op"].removeprefix("aten::").split(".")[0] for row in _C.op_table())


def _ops_of(name: str) -> frozenset[str]:
    """The ops of the table that a function or an op of that name becomes, in-place ones included."""
    plain = name.removeprefix("aten::").rstrip("_")
    return frozenset(SPELLINGS.get(plain, (plain,))) & _known_ops()


def _is_torchs(function: Callable[..., Any]) -> bool:
    home = getattr(function, "__module__", None) or ""
    of_tensors = getattr(function, "__objclass__", None) in (torch.Tensor, torch._C.TensorBase)
    return of_tensors or home.split(".")[0] in ("torch", operator.add.__module__)


def _class_name(kind: type) -> str:
    name: str = torch._jit_internal._qualified_name(kind)  # what TorchScript calls it
    return name.removeprefix("__torch__.")


def _check_type(kind: Any) -> None:
    is_module = isinstance(kind, type) and issubclass(kind, nn.Module)
    is_function = callable(kind) and not isinstance(kind, type | nn.Module) and hasattr(kind, "__name__")
    if not (isinstance(kind, str) or is_module or is_function):
        raise TypeError(
            f"QConfigMapping: the object type {kind!r} is a {type(kind).__name__}; pass the name of an op or "
            "of a class, a function such as torch.add, or a module class such as torch.nn.Conv2d"
        )


def _check_path(path: Any) -> None:
    if not isinstance(path, str):
        raise TypeError(
            f"QConfigMapping: the module path {path!r} is a {type(path).__name__}; "
            "pass a str such as 'layer1.0'"
        )


def _check_known(kind: ObjectType, types: Mapping[str, str]) -> None:
    meaning = _Meaning.of(kind)
    classes = {name for full in types.values() for name in (full, full.rpartition(".")[2])}
    if meaning.ops or meaning.class_name in classes:
        return
    if isinstance(kind, type) and kind.__module__.startswith("torch.nn."):
        return  # a mapping may be for several models
    short = {full.rpartition(".")[2] for full in types.values()}
    hint = did_you_mean(_label(kind), sorted(_known_ops() | short))
    hint = hint or "; name an op of OPS.md, such as 'conv2d', or a class of the model"
    raise QuantizationError(
        f"qconfig_dict has the object type {_label(kind)!r}, which is no known op and no class of the model"
        + hint
    )


def _what_is_there(
    by_module: Mapping[tuple[str, str], Sequence[OpNode]], methods: Iterable[str], path: str
) -> str:
    ops = sorted({node.op for method in methods for node in by_module.get((method, path), ())})
    return f"its own ops are {', '.join(ops)}" if ops else "it has no op of its own; name a submodule of it"


def _with_parents(path: str) -> list[str]:
    names = path.split(".")
    return [".".join(names[:length]) for length in range(len(names), 0, -1)]


def _label(kind: ObjectType) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def _checked(qconfig: Any) -> QConfig | None:
    return None if qconfig is None else as_qconfig(qconfig)


def _from_dict(qconfigs: Mapping[Any, Any]) -> QConfigMapping:
    mapping = QConfigMapping()
    for path, qconfig in qconfigs.items():
        try:
            if path == "":
                mapping.set_global(qconfig)
            else:
                mapping.set_module_name(path, qconfig)
        except TypeError as error:
            raise QuantizationError(f"qconfig_dict[{path!r}]: {error}") from error
    return mapping


def _from_foreign(other: Any) -> QConfigMapping:
    mapping = QConfigMapping()
    try:
        mapping.set_global(other.global_qconfig)
        for kind, qconfig in other.object_type_qconfigs.items():
            if not _says_what_the_table_says(qconfig):
                mapping.set_object_type(kind, qconfig)
        for regex, qconfig in other.module_name_regex_qconfigs.items():
            mapping.set_module_name_regex(rf"(?:{regex})[\s\S]*", qconfig)  # theirs matches beginnings
        for path, qconfig in other.module_name_qconfigs.items():
            mapping.set_module_name(path, qconfig)
        for (path, kind, index), qconfig in other.module_name_object_type_order_qconfigs.items():
            mapping.set_module_name_object_type_order(path, kind, index, qconfig)
    except (TypeError, ValueError) as error:
        raise QuantizationError(f"qconfig_dict: {error}") from error
    return mapping


def _says_what_the_table_says(qconfig: Any) -> bool:
    made = None if qconfig is None else type(as_qconfig(qconfig).activation()).__name__
    return made in ("FixedQParamsObserver", "ReuseInputObserver")
