"""Which observer watches a model's activations and which its weights, and the defaults for each backend."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.jit import ScriptModule

from jitquant import cpu
from jitquant.errors import QuantizationError
from jitquant.observers import (
    HistogramObserver,
    Observer,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    WeightMinMaxObserver,
)

__all__ = [
    "QConfig",
    "as_qconfig",
    "bfloat16_dynamic_qconfig",
    "check_kinds",
    "default_dynamic_qconfig",
    "default_qconfig",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "get_default_qconfig",
    "is_dynamic_where_named",
    "make_observers",
    "of_the_whole_model",
    "per_channel_dynamic_qconfig",
    "saturates",
    "weight_only_int8_qconfig",
]

DYNAMIC_DTYPES = (  # of activations and weights
    (torch.quint8, torch.qint8),
    (torch.float16, torch.float16),
    (torch.bfloat16, torch.bfloat16),
)
BACKENDS = ("fbgemm", "x86", "onednn", "qnnpack")


@dataclass(frozen=True)
class QConfig:
    """How to quantize: what makes the observer of an activation, and what makes the observer of a weight.

    Args:
        activation: makes an observer when called: an observer class, or ``Observer.with_args(...)``.
        weight: likewise.

    Raises:
        TypeError: if one of them is not callable, or is an observer itself.
    """

    activation: Callable[[], nn.Module]
    weight: Callable[[], nn.Module]

    def __post_init__(self) -> None:
        for role in ("activation", "weight"):
            factory = getattr(self, role)
            cause = None
            if isinstance(factory, nn.Module):
                cause = "is an observer already, and each value needs its own"
            elif not callable(factory):
                cause = "makes no observer"
            if cause is not None:
                kind = type(factory).__name__
                remedy = "pass the class or Observer.with_args(...)"
                raise TypeError(f"QConfig: {role}: a {kind} {cause}; {remedy}")

    def describe(self) -> str:
        """One line of words that says which observers these are."""
        return f"activations by {_in_words(self.activation)}; weights by {_in_words(self.weight)}"


def as_qconfig(obj: object) -> QConfig:
    """A QConfig from a QConfig, or from anything with its two parts, such as torch.ao.quantization.QConfig.

    Raises:
        TypeError: if obj has no callable `activation` and `weight`.
    """
    if isinstance(obj, QConfig):
        return obj
    activation, weight = getattr(obj, "activation", None), getattr(obj, "weight", None)
    if not callable(activation) or not callable(weight):
        kind = f"the class {obj.__name__}" if isinstance(obj, type) else f"a {type(obj).__name__}"
        raise TypeError(
            f"qconfig: {kind} has no callable activation and weight; "
            "pass jitquant.QConfig(activation=..., weight=...) or jitquant.default_qconfig"
        )
    return QConfig(activation, weight)


def saturates(backend: str, *, depthwise: bool = False) -> bool:
    """Whether the backend's 8-bit products overflow on this CPU, so that activations must keep to 7 bits.

    Without VNNI, x86 multiplies uint8 by int8 with ``vpmaddubsw``, which adds two products into a
    saturating int16, but ``2 * 255 * 127`` is more than 32767 (oneDNN's guide, "Nuances of int8
    computations"). AVX512-VNNI sums in int32. So does AVX-VNNI, which of these backends only onednn uses.

    fbgemm has kernels of its own for 3x3 depthwise convolutions, which use ``vpmaddubsw`` on every x86 CPU;
    the x86 backend calls them too for more than 100 groups. Weights of 7 bits (``reduce_range=True`` for
    the weight) avoid that as well as activations of 7 bits do.

    Args:
        backend: one of 'fbgemm', 'x86', 'onednn', 'qnnpack'.
        depthwise: ask about depthwise convolutions rather than the other products.

    Raises:
        ValueError: for another backend.
    """
    _check_backend(backend)
    if backend == "qnnpack" or not cpu.is_x86():
        return False
    if depthwise and backend in ("fbgemm", "x86"):
        return True
    has = cpu.dot_products()
    return not (cpu.AVX512_VNNI in has or (backend == "onednn" and cpu.AVX_VNNI in has))


def get_default_qconfig(backend: str = "x86") -> QConfig:
    """What suits a backend on this CPU: histograms for activations, symmetric qint8 for weights.

    Activations use 8 bits, or 7 where `saturates` says that this CPU needs it. Weights have a scale for
    each channel, but one in all for qnnpack. A model that is to run on a CPU without VNNI should be
    quantized on one, or with ``HistogramObserver.with_args(reduce_range=True)``.

    Raises:
        ValueError: for an unknown backend.
    """
    reduce_range = saturates(backend)
    weight = WeightMinMaxObserver if backend == "qnnpack" else PerChannelMinMaxObserver
    return QConfig(HistogramObserver.with_args(reduce_range=reduce_range), weight.with_args())


def check_kinds(chosen: Mapping[Any, QConfig | None], dynamic: bool, caller: str) -> None:
    """Raises QuantizationError for the first node whose qconfig is not of the kind that the caller takes.

    A static call takes dynamic ones beside static ones. Only there the model runs before it is converted.
    """
    qconfigs = {qconfig for qconfig in chosen.values() if qconfig is not None}
    mixed = not dynamic and any(map(_is_calibrated, qconfigs))
    faults = {
        qconfig: _fault(qconfig, dynamic or (mixed and _is_dynamic(qconfig)))
        or (_fault_without_calibration(qconfig) if dynamic else None)
        for qconfig in qconfigs
    }
    for node, qconfig in chosen.items():
        fault = None if qconfig is None else faults[qconfig]
        if fault is not None:
            raise QuantizationError(f"{caller}: the qconfig of {node}: {fault}")


def _is_dynamic(qconfig: QConfig) -> bool:
    return bool(getattr(qconfig.activation(), "is_dynamic", False))


def _is_calibrated(qconfig: QConfig) -> bool:
    activation = qconfig.activation()
    return not _is_dynamic(qconfig) and getattr(activation, "dtype", None) != torch.float32


def _fault_without_calibration(qconfig: QConfig) -> str | None:
    """What is wrong with a weight's observer where the model never runs: one for training asks for that."""
    weight = qconfig.weight()
    if not hasattr(weight, "fake_quant_enabled"):
        return None
    dtype, qscheme = getattr(weight, "dtype", None), getattr(weight, "qscheme", None)
    observer = "PerChannelMinMaxObserver" if "per_channel" in str(qscheme) else "WeightMinMaxObserver"
    cause = f"its weight observer, {type(weight).__name__}, is for training and has seen no weight"
    return f"{cause}; choose jitquant.{observer}.with_args(dtype={dtype}, qscheme={qscheme})"


def _fault(qconfig: QConfig, dynamic: bool) -> str | None:
    activation, weight = qconfig.activation(), qconfig.weight()
    if isinstance(activation, nn.Identity):
        cause = "its activation observer is an Identity, which does not say what becomes of activations"
        return f"{cause}; choose jitquant.weight_only_int8_qconfig to have integer weights alone"
    if getattr(activation, "dtype", None) == torch.float32:
        return _fault_of_weight(weight)
    is_dynamic = _is_dynamic(qconfig)
    if not dynamic:
        cause = "its activation observer is a placeholder for dynamic quantization and records nothing"
        remedy = "call quantize_dynamic_jit, or choose a qconfig such as jitquant.default_qconfig"
        return f"{cause}; {remedy}" if is_dynamic else None
    remedy = "choose jitquant.default_dynamic_qconfig or another dynamic one"
    dtypes = tuple(getattr(part, "dtype", None) for part in (activation, weight))
    if not is_dynamic:
        cause = f"its activation observer, {type(activation).__name__}, is one that has to be calibrated"
        return f"{cause}; {remedy}, or call quantize_jit"
    if dtypes not in DYNAMIC_DTYPES:
        cause = f"no op takes activations of {dtypes[0]} and weights of {dtypes[1]}"
        pairs = ", ".join(f"({a}, {w})" for a, w in DYNAMIC_DTYPES)
        return f"{cause}; pass one of {pairs}"
    return None


def _fault_of_weight(weight: nn.Module) -> str | None:
    """What is wrong with a weight's observer where activations stay float."""
    dtype = getattr(weight, "dtype", None)
    if dtype in (torch.qint8, torch.quint8, torch.quint4x2, torch.float32):
        return None
    remedy = "choose jitquant.float_qparams_weight_only_qconfig"
    return f"no op takes float activations and weights of {dtype}; {remedy}"


def of_the_whole_model(op: str, qconfig: QConfig | None) -> QConfig | None:
    """What the qconfig of a whole model means for an op that nothing else names."""
    return _float if qconfig is not None and is_dynamic_where_named(op) and _is_dynamic(qconfig) else qconfig


def is_dynamic_where_named(op: str) -> bool:
    """Whether the dynamic qconfig of a whole model leaves an op (``"conv2d"``, ``"aten::conv2d"``) float.

    So it is with convolutions, as in torch: at each call their input is read thrice more, which takes longer
    than a convolution of few channels. Where they are named, they become dynamic.
    """
    return op.removeprefix("aten::").startswith("conv")


def make_observers(qconfig: QConfig) -> tuple[ScriptModule, ScriptModule]:
    """A new observer for activations and one for weights, both scripted.

    Raises:
        TypeError: if a part of the qconfig makes something other than a module.
        ValueError: if an observer cannot be scripted, or scripted lacks calculate_qparams.
    """
    return _scripted("activation", qconfig.activation), _scripted("weight", qconfig.weight)


def _scripted(role: str, factory: Callable[[], nn.Module]) -> ScriptModule:
    observer = factory()
    name = type(observer).__name__
    if not isinstance(observer, nn.Module):
        raise TypeError(f"qconfig.{role}: it made a {name}; let it make an observer, a torch.nn.Module")
    try:
        scripted: ScriptModule = torch.jit.script(observer.eval())
    except Exception as error:  # torch.jit.script raises a dozen unrelated types
        raise ValueError(
            f"qconfig.{role}: torch.jit.script cannot compile {name}: {error}\n"
            f"Rewrite that part of {name} in TorchScript, or use an observer of jitquant.observers."
        ) from error
    if not scripted._c._has_method("calculate_qparams"):
        raise ValueError(
            f"qconfig.{role}: {name} has no compiled calculate_qparams; "
            "define it, and decorate it with @torch.jit.export"
        )
    return scripted


def _in_words(factory: Callable[[], Any]) -> str:
    observer = factory()
    if isinstance(observer, Observer):
        return repr(observer)
    words = [str(getattr(observer, name, "")).removeprefix("torch.") for name in ("qscheme", "dtype")]
    ends = [getattr(observer, name, None) for name in ("quant_min", "quant_max")]
    described = " ".join(filter(None, words)).replace("_", " ")
    integers = "" if None in ends else f", {ends[0]} to {ends[1]}"
    return f"{type(observer).__name__}({described}{integers})"


def _check_backend(backend: str) -> None:
    if backend not in BACKENDS:
        known = ", ".join(map(repr, BACKENDS))
        raise ValueError(f"backend={backend!r} is unknown; pass one of {known}")


default_qconfig = QConfig(HistogramObserver.with_args(), WeightMinMaxObserver.with_args())

_of_each_call = PlaceholderObserver.with_args(
    dtype=torch.quint8, is_dynamic=True, reduce_range=saturates("x86")
)
default_dynamic_qconfig = QConfig(_of_each_call, WeightMinMaxObserver.with_args())
per_channel_dynamic_qconfig = QConfig(_of_each_call, PerChannelMinMaxObserver.with_args())
float16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float16, is_dynamic=True),
    PlaceholderObserver.with_args(dtype=torch.float16),
)
bfloat16_dynamic_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.bfloat16, is_dynamic=True),
    PlaceholderObserver.with_args(dtype=torch.bfloat16),
)
weight_only_int8_qconfig = QConfig(
    PlaceholderObserver.with_args(dtype=torch.float32), PerChannelMinMaxObserver.with_args()
)

_as_it_is = PlaceholderObserver.with_args(dtype=torch.float32)
_rows = PerChannelMinMaxObserver.with_args(dtype=torch.quint8, qscheme=torch.per_channel_affine_float_qparams)
float_qparams_weight_only_qconfig = QConfig(_as_it_is, _rows)
float_qparams_weight_only_qconfig_4bit = QConfig(_as_it_is, _rows.with_args(dtype=torch.quint4x2))
_float = QConfig(_as_it_is, _as_it_is)
