"""Observers: modules that watch a float value and say how to store it in 8 bits.

An observer stands behind a value (or before a weight) in a prepared model. Its ``forward`` records the
value and returns it unchanged; its ``calculate_qparams`` turns what was recorded into a scale and a zero
point, so that ``float = scale * (integer - zero_point)`` (Jacob et al. 2018, arXiv:1712.05877, equation 1).
Every observer compiles with ``torch.jit.script`` and keeps its attributes and statistics through
``torch.jit.save``. What reads the data is compiled: the ops ``jitquant::`` of ``csrc/observers/``, so a file
with observers in it loads where jitquant was imported.

==============================  ==========================================  ==================================
Observer                        What it keeps                               Meant for
==============================  ==========================================  ==================================
`HistogramObserver`             a histogram of fixed size, the extremes     activations (the default)
`PercentileObserver`            likewise                                    activations, a share to be kept
`MinMaxObserver`                the extremes                                activations without outliers
`MovingAverageMinMaxObserver`   a moving average of each batch's extremes   activations, many noisy batches
`PerChannelMinMaxObserver`      the extremes of each channel, once          weights, rows of embeddings
`WeightMinMaxObserver`          the extremes, once                          weights, one scale for the whole
`FixedQParamsObserver`          the extremes, for checking only             ranges known beforehand (sigmoid)
`PlaceholderObserver`           nothing                                     dynamic, or weights alone
==============================  ==========================================  ==================================
"""

import inspect
from dataclasses import dataclass
from typing import Any, ClassVar, NoReturn, TypedDict, Unpack

import torch
from torch import Tensor, nn

from jitquant import _C  # noqa: F401  (it registers the ops that observers call)

__all__ = [
    "FixedQParamsObserver",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "Observer",
    "ObserverFactory",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "WeightMinMaxObserver",
]

FLOAT32_EPS = torch.finfo(torch.float32).eps

INTEGER_RANGES = {torch.quint8: (0, 255), torch.qint8: (-128, 127), torch.quint4x2: (0, 15)}
FLOAT_ZERO_POINTS = torch.per_channel_affine_float_qparams
SCRIPTED_FLOAT_ZERO_POINTS = 4  # TorchScript keeps a qscheme as the number that C++ has for it
FLOATS = (torch.float16, torch.bfloat16, torch.float32)
PER_TENSOR = (torch.per_tensor_affine, torch.per_tensor_symmetric)
PER_CHANNEL = (torch.per_channel_affine, torch.per_channel_symmetric, FLOAT_ZERO_POINTS)
SYMMETRIC = (torch.per_tensor_symmetric, torch.per_channel_symmetric)


class CommonArguments(TypedDict, total=False):
    """The constructor arguments that every observer takes; `Observer` documents them."""

    dtype: torch.dtype | None
    qscheme: torch.qscheme | None
    reduce_range: bool
    quant_min: int | None
    quant_max: int | None
    eps: float


def choose_qparams(
    low: Tensor, high: Tensor, quant_min: int, quant_max: int, symmetric: bool, eps: float
) -> tuple[Tensor, Tensor]:
    """The scale and zero point with which quant_min..quant_max covers each range low..high widened to hold 0.

    Affine (Jacob et al. 2018, arXiv:1712.05877, section 3; Krishnamoorthi 2018, arXiv:1806.08342)::

        scale = (high - low) / (quant_max - quant_min)      zero_point = quant_min - round(low / scale)

    Symmetric (arXiv:1806.08342, section 2.2)::

        scale = max(-low, high) / levels                    zero_point = the middle, 0 for qint8

    where ``levels`` is how many integers lie on each side of the zero point: 127 for qint8, whose -128 stays
    unused.

    Args:
        low: smallest values, float32 or float64, shape [C]; the zero point is computed in that dtype.
        high: largest values, same dtype and shape.
        quant_min: smallest integer.
        quant_max: largest integer.
        symmetric: whether the range is made symmetric about 0.
        eps: the smallest scale to return.

    Returns:
        scale (float32) and zero point (int64), both of shape [C].
    """
    return torch.ops.jitquant.choose_qparams(low, high, quant_min, quant_max, symmetric, eps)


def check_recorded(min_val: Tensor, max_val: Tensor) -> None:
    """Raises RuntimeError when nothing was recorded, or something that no scale can hold."""
    if min_val.numel() == 0:
        raise RuntimeError(
            "calculate_qparams: the observer never ran; run calibration data through the prepared model first"
        )
    if not bool((min_val.isfinite() & max_val.isfinite()).all()):
        raise RuntimeError(
            "calculate_qparams: the observer saw NaN or infinity, which no scale can hold; "
            "look for them in the calibration data and in the weights"
        )


class Observer(nn.Module):
    """What all observers share: their arguments, and watching without touching.

    Args:
        dtype: torch.quint8 or torch.qint8.
        qscheme: torch.per_tensor_affine, torch.per_tensor_symmetric, or for observers of channels
            torch.per_channel_affine, torch.per_channel_symmetric.
        reduce_range: halve the integer range (0..127 or -64..63), for kernels whose 16-bit sums saturate.
        quant_min: smallest integer; given together with `quant_max` in place of `reduce_range`.
        quant_max: largest integer.
        eps: the smallest scale ever returned.

    Attributes:
        min_val: smallest recorded values, float32, shape [1], or [C] for channels; empty until then.
        max_val: largest recorded values, likewise. NaN and infinity are recorded as they are.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for arguments that do not fit together. Both name the argument, the cause and the remedy.
    """

    default_dtype: ClassVar[torch.dtype] = torch.quint8
    default_qscheme: ClassVar[torch.qscheme] = torch.per_tensor_affine
    known_dtypes: ClassVar[tuple[torch.dtype, ...]] = (torch.quint8, torch.qint8)
    cause_of_other_dtypes: ClassVar[str] = "not an 8-bit quantized type"
    known_qschemes: ClassVar[tuple[torch.qscheme, ...]] = PER_TENSOR
    records_once: ClassVar[bool] = False

    min_val: Tensor
    max_val: Tensor

    def __init__(
        self,
        *,
        dtype: torch.dtype | None = None,
        qscheme: torch.qscheme | None = None,
        reduce_range: bool = False,
        quant_min: int | None = None,
        quant_max: int | None = None,
        eps: float = FLOAT32_EPS,
    ) -> None:
        super().__init__()
        self.dtype = self._checked_dtype(self.default_dtype if dtype is None else dtype)
        self.qscheme = self._checked_qscheme(self.default_qscheme if qscheme is None else qscheme)
        self.symmetric = self.qscheme in SYMMETRIC
        self.quant_min, self.quant_max = self._integer_range(reduce_range, quant_min, quant_max)
        self.eps = self._checked_number("eps", eps, 0.0, 1.0)
        self.once = self.records_once
        self.register_buffer("min_val", torch.empty(0))
        self.register_buffer("max_val", torch.empty(0))

    def forward(self, x: Tensor) -> Tensor:
        """Records x and returns it, the same tensor. Integers and empty tensors are returned unrecorded."""
        done = self.once and self.min_val.numel() > 0
        if x.dtype == torch.float and x.numel() > 0 and not done:
            self._record(x.detach())
        return x

    def _record(self, values: Tensor) -> None:
        raise NotImplementedError("an observer says in _record what it keeps")

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int64), both of shape [1], or [C] for channels.

        Raises:
            RuntimeError: if nothing was recorded yet, or NaN or infinity was (torch.jit.Error once scripted).
        """
        check_recorded(self.min_val, self.max_val)
        return choose_qparams(
            self.min_val, self.max_val, self.quant_min, self.quant_max, self.symmetric, self.eps
        )

    @classmethod
    def with_args(cls, **arguments: Any) -> "ObserverFactory":
        """A frozen recipe that makes this observer with these arguments whenever it is called.

        Raises:
            TypeError, ValueError: at once, if no observer can be made with these arguments.
        """
        return ObserverFactory(cls, tuple(sorted(arguments.items())))

    @classmethod
    def argument_names(cls) -> list[str]:
        """The names of all constructor arguments, the observer's own first."""
        names = [
            parameter.name
            for owner in cls.__mro__
            if "__init__" in vars(owner) and issubclass(owner, Observer)
            for parameter in inspect.signature(owner.__init__).parameters.values()
            if parameter.kind is parameter.KEYWORD_ONLY
        ]
        return list(dict.fromkeys(names))

    def extra_repr(self) -> str:
        scheme = str(self.qscheme).removeprefix("torch.").replace("_", " ")
        dtype = str(self.dtype).removeprefix("torch.")
        words = [f"{scheme} {dtype}", f"{self.quant_min} to {self.quant_max}", *self._own_words()]
        if self.eps != FLOAT32_EPS:
            words.append(f"eps {self.eps:g}")
        return ", ".join(words)

    def _own_words(self) -> list[str]:
        return []

    def _checked_dtype(self, dtype: torch.dtype) -> torch.dtype:
        remedy = f"pass {' or '.join(map(str, self.known_dtypes))}"
        if not isinstance(dtype, torch.dtype):
            self._refuse_type("dtype", dtype, remedy)
        if dtype not in self.known_dtypes:
            self._refuse("dtype", dtype, self.cause_of_other_dtypes, remedy)
        return dtype

    def _checked_qscheme(self, qscheme: torch.qscheme) -> torch.qscheme:
        known = " or ".join(map(str, self.known_qschemes))
        if not isinstance(qscheme, torch.qscheme):
            self._refuse_type("qscheme", qscheme, f"pass {known}")
        if qscheme not in self.known_qschemes:
            cause, other = "this observer makes a single scale", "PerChannelMinMaxObserver"
            if self.known_qschemes == PER_CHANNEL:
                cause, other = "this observer makes a scale for each channel", "MinMaxObserver"
            self._refuse("qscheme", qscheme, cause, f"pass {known}, or use {other}")
        return qscheme

    def _integer_range(
        self, reduce_range: bool, quant_min: int | None, quant_max: int | None
    ) -> tuple[int, int]:
        if not isinstance(reduce_range, bool):
            self._refuse_type("reduce_range", reduce_range, "pass True or False")
        widest = INTEGER_RANGES[self.dtype]
        if quant_min is None and quant_max is None:
            return (widest[0] // 2, widest[1] // 2) if reduce_range else widest
        if quant_min is None or quant_max is None:
            missing = "quant_min" if quant_min is None else "quant_max"
            self._refuse(missing, None, "only one end of the range is given", "pass both ends or none")
        if reduce_range:
            self._refuse("reduce_range", True, "quant_min and quant_max say the range", "leave one out")
        low = self._checked_int("quant_min", quant_min, *widest)
        high = self._checked_int("quant_max", quant_max, *widest)
        if high - low < 2:
            self._refuse("quant_min", low, f"too near to quant_max={high}", "leave at least 3 integers")
        if self.symmetric and self.dtype == torch.qint8 and (low + high) not in (0, -1):
            remedy = f"pass quant_min={-high}, or an affine qscheme"
            self._refuse("quant_min", low, f"{low}..{high} is lopsided for a zero point of 0", remedy)
        return low, high

    def _checked_int(self, argument: str, value: int, low: int, high: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            self._refuse_type(argument, value, "pass an int")
        if not low <= value <= high:
            self._refuse(argument, value, f"not within {low}..{high}", "pass an int of that range")
        return value

    def _checked_number(self, argument: str, value: float, above: float, most: float) -> float:
        if not isinstance(value, (int, float)) or isinstance(value, bool):
            self._refuse_type(argument, value, "pass a float")
        if not above < value <= most:
            self._refuse(argument, value, f"not within {above:g}..{most:g}", f"pass a float above {above:g}")
        return float(value)

    def _refuse(self, argument: str, value: object, cause: str, remedy: str) -> NoReturn:
        raise ValueError(f"{type(self).__name__}: {argument}={value}: {cause}; {remedy}")

    def _refuse_type(self, argument: str, value: object, remedy: str) -> NoReturn:
        raise TypeError(f"{type(self).__name__}: {argument}={value!r} is a {type(value).__name__}; {remedy}")


@dataclass(frozen=True, repr=False)
class ObserverFactory:
    """An observer class and the arguments to make it with; calling it makes a new observer.

    `Observer.with_args` makes these. Its repr says in words what observer it makes.
    """

    observer: type[Observer]
    arguments: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        known = self.observer.argument_names()
        name = self.observer.__name__
        for argument, _ in self.arguments:
            if argument not in known:
                raise TypeError(f"{name}: unknown argument {argument!r}; it takes {', '.join(known)}")
        self()

    def __call__(self) -> Observer:
        return self.observer(**dict(self.arguments))

    def with_args(self, **arguments: Any) -> "ObserverFactory":
        """A new factory with these arguments added, or put in place of the ones it has."""
        merged = {**dict(self.arguments), **arguments}
        return ObserverFactory(self.observer, tuple(sorted(merged.items())))

    def __repr__(self) -> str:
        return repr(self())


class MinMaxObserver(Observer):
    """Covers everything it ever saw: the smallest and largest value of the whole tensor."""

    def _record(self, values: Tensor) -> None:
        low, high = torch.ops.jitquant.extremes(values)
        self._extend(low, high)

    def _extend(self, low: Tensor, high: Tensor) -> None:
        if self.min_val.numel() == 0:
            self.min_val, self.max_val = low, high
        else:
            self.min_val = torch.minimum(self.min_val, low)
            self.max_val = torch.maximum(self.max_val, high)


class MovingAverageMinMaxObserver(MinMaxObserver):
    """Covers a typical batch: an exponential moving average of the batches' smallest and largest values.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.1.

    Args:
        averaging_constant: the weight of the newest batch, above 0 and up to 1.

    Attributes:
        calls: how many batches were recorded; averages of several models are merged in proportion to it.
    """

    def __init__(self, *, averaging_constant: float = 0.01, **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.averaging_constant = self._checked_number("averaging_constant", averaging_constant, 0.0, 1.0)
        self.calls = 0

    def _extend(self, low: Tensor, high: Tensor) -> None:
        self.calls += 1
        if self.min_val.numel() == 0:
            self.min_val, self.max_val = low, high
        else:
            # Not old + c * (new - old): that would make NaN of an infinity once seen.
            old = 1.0 - self.averaging_constant
            self.min_val = self.min_val * old + low * self.averaging_constant
            self.max_val = self.max_val * old + high * self.averaging_constant

    def _own_words(self) -> list[str]:
        return [f"averaging constant {self.averaging_constant:g}"]


class WeightMinMaxObserver(MinMaxObserver):
    """One scale for a whole weight; symmetric qint8 unless told otherwise.

    Weights do not change: the first call is recorded, later ones return at once.
    """

    default_dtype = torch.qint8
    default_qscheme = torch.per_tensor_symmetric
    records_once = True


class PlaceholderObserver(Observer):
    """Records nothing: it says that a value gets its range at each call, or in which precision it is.

    Args:
        dtype: torch.quint8 or torch.qint8; torch.float16 or torch.bfloat16 for weights (and what is
            multiplied with them); torch.float32 for an activation that stays as it is.
        is_dynamic: whether the value is an activation whose range is found at each call.

    Raises:
        RuntimeError: from calculate_qparams (torch.jit.Error once scripted): there is no scale beforehand.
    """

    known_dtypes = (torch.quint8, torch.qint8, *FLOATS)
    cause_of_other_dtypes = "no value is kept in it"

    def __init__(self, *, is_dynamic: bool = False, **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        if not isinstance(is_dynamic, bool):
            self._refuse_type("is_dynamic", is_dynamic, "pass True or False")
        self.is_dynamic = is_dynamic

    def forward(self, x: Tensor) -> Tensor:
        """Returns x, the same tensor."""
        return x

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """Raises RuntimeError."""
        if self.is_dynamic or self.min_val.numel() == 0:
            raise RuntimeError(
                "calculate_qparams: a placeholder has no scale beforehand; convert the model with "
                "convert_dynamic_jit"
            )
        return self.min_val, self.max_val

    def extra_repr(self) -> str:
        dynamic = "dynamic " if self.is_dynamic else ""
        if self.dtype in FLOATS:
            return dynamic + str(self.dtype).removeprefix("torch.")
        return f"{dynamic}{super().extra_repr()}"

    def _integer_range(
        self, reduce_range: bool, quant_min: int | None, quant_max: int | None
    ) -> tuple[int, int]:
        if self.dtype in FLOATS:
            return 0, 0
        return super()._integer_range(reduce_range, quant_min, quant_max)


class PerChannelMinMaxObserver(Observer):
    """A scale for each channel of a weight; symmetric qint8 unless told otherwise.

    Weights do not change: the first call is recorded, later ones return at once.

    Rows of embeddings may have ``qscheme=torch.per_channel_affine_float_qparams``: a float zero point each,
    with ``dtype`` torch.quint8 or torch.quint4x2, of 8 or 4 bits. Then the ends of a row are exact, and
    zero need not be::

        scale = (high - low) / (quant_max - quant_min)      zero_point = quant_min - low / scale

    A row of equal values has the scale 1. Source: the row-wise uniform quantization of Guan et al. 2019,
    arXiv:1911.02079.

    Args:
        ch_axis: the axis of the channels, counted from 0; all results have that axis's length as shape.

    Raises:
        ValueError: for torch.quint4x2 without float zero points, and for these with torch.qint8.
        RuntimeError: from forward, if the tensor has no such axis (torch.jit.Error once scripted).
    """

    default_dtype = torch.qint8
    default_qscheme = torch.per_channel_symmetric
    known_dtypes = (torch.quint8, torch.qint8, torch.quint4x2)
    known_qschemes = PER_CHANNEL
    records_once = True

    def __init__(self, *, ch_axis: int = 0, **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.ch_axis = self._checked_int("ch_axis", ch_axis, 0, 63)
        self.has_float_zero_points = self.qscheme == FLOAT_ZERO_POINTS
        if self.has_float_zero_points and self.dtype == torch.qint8:
            remedy = "pass dtype=torch.quint8 or dtype=torch.quint4x2"
            self._refuse("dtype", self.dtype, "float zero points go with unsigned integers", remedy)
        if self.dtype == torch.quint4x2 and not self.has_float_zero_points:
            remedy = "pass qscheme=torch.per_channel_affine_float_qparams"
            self._refuse("dtype", self.dtype, "4 bits go with float zero points only", remedy)

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int64, or float32 where it is float) of each channel: [C].

        Raises:
            RuntimeError: if nothing was recorded yet, or NaN or infinity was (torch.jit.Error once scripted).
        """
        check_recorded(self.min_val, self.max_val)
        if not self.has_float_zero_points:
            return choose_qparams(
                self.min_val, self.max_val, self.quant_min, self.quant_max, self.symmetric, self.eps
            )
        step = (self.max_val - self.min_val) / float(self.quant_max - self.quant_min)
        scale = step.masked_fill(step <= self.eps, 1.0)
        return scale, self.quant_min - self.min_val / scale

    def _record(self, values: Tensor) -> None:
        if self.ch_axis >= values.dim():
            raise RuntimeError(
                f"PerChannelMinMaxObserver: ch_axis={self.ch_axis}: the tensor has {values.dim()} axes; "
                "pass the axis of the weight's output channels"
            )
        self.min_val, self.max_val = torch.ops.jitquant.channel_extremes(values, self.ch_axis)

    def _own_words(self) -> list[str]:
        return [f"channel axis {self.ch_axis}"]


class FixedQParamsObserver(MinMaxObserver):
    """Returns the scale and zero point it was made with, as for a sigmoid, whose range is known.

    It records extremes all the same, so that a value which never ran, or was NaN, can be told.

    Args:
        scale: the scale, above 0.
        zero_point: the zero point, within quant_min..quant_max.
    """

    def __init__(self, *, scale: float, zero_point: int, **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.scale = self._checked_number("scale", scale, 0.0, torch.finfo(torch.float32).max)
        self.zero_point = self._checked_int("zero_point", zero_point, self.quant_min, self.quant_max)

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The given scale (float32, shape [1]) and zero point (int64, shape [1]), whatever was recorded."""
        return torch.tensor([self.scale], dtype=torch.float32), torch.tensor([self.zero_point])

    def _own_words(self) -> list[str]:
        return [f"scale {self.scale:g}", f"zero point {self.zero_point}"]


class HistogramObserver(MinMaxObserver):
    """Covers the range with the least expected squared error: clips outliers where finer steps pay.

    One pass over the data and a fixed amount of memory, whatever the data. Bins have a power of two as
    width and begin at multiples of it, so when the range grows, whole bins merge and no count is split or
    lost. Exact zeros are counted apart: they cost nothing, as 0 is always represented exactly.

    The range is searched among shrunken copies of the recorded one, both ends apart, first coarsely and then
    around the best; an end at 0 stays at 0. What is minimised, `csrc/observers/range_search.h` says with its
    sources: clipped values are off by their distance to the nearer end, the rest by scale^2 / 12 on average.
    ``torch.ops.jitquant.expected_error`` computes it for any scale and zero point.

    Args:
        bins: into how many steps the recorded range is split at least, 2 to 2^20.

    Attributes:
        histogram: how many values lie in each bin, float64, shape [N]; exact zeros are not among them.
        bin_width: the width of a bin, a power of two.
        first_bin: bin i holds the values from ``(first_bin + i) * bin_width`` up to the next bin.
        zeros: how many values were exactly 0.
    """

    histogram: Tensor

    def __init__(self, *, bins: int = 2048, **common: Unpack[CommonArguments]) -> None:
        super().__init__(**common)
        self.bins = self._checked_int("bins", bins, 2, 2**20)
        # Twice as many, as the range may use little more than half of a grid with power-of-two bins.
        slots = 1 << (2 * self.bins - 1).bit_length()
        self.register_buffer("histogram", torch.zeros(slots, dtype=torch.float64))
        self.first_bin = 0
        self.bin_width = 2.0**-100
        self.zeros = 0

    def _record(self, values: Tensor) -> None:
        recorded = torch.ops.jitquant.record_histogram(
            values, self.histogram, self.min_val, self.max_val, self.bin_width, self.first_bin, self.zeros
        )
        self.histogram, self.min_val, self.max_val, self.bin_width, self.first_bin, self.zeros = recorded

    @torch.jit.export
    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        """The scale (float32) and zero point (int64) of the range that the observer chooses; shape [1].

        Raises:
            RuntimeError: if nothing was recorded yet, or NaN or infinity was (torch.jit.Error once scripted).
        """
        check_recorded(self.min_val, self.max_val)
        low, high = self._range()
        return choose_qparams(low, high, self.quant_min, self.quant_max, self.symmetric, self.eps)

    def _range(self) -> tuple[Tensor, Tensor]:
        return torch.ops.jitquant.least_error_range(
            self.histogram,
            self.bin_width,
            self.first_bin,
            self.min_val,
            self.max_val,
            self.quant_min,
            self.quant_max,
            self.symmetric,
            self.eps,
        )

    def _own_words(self) -> list[str]:
        return [f"{self.bins} bins"]


class PercentileObserver(HistogramObserver):
    """Covers a given share of the values and clips the rest, the farthest from 0.

    It records what `HistogramObserver` does. Each end is the edge of a bin, or the extreme value where that
    is nearer to 0: the range holds at least the share asked for, and reaches at most one bin too far.
    Source: the percentile calibration of Wu et al. 2020, arXiv:2004.09602.

    Args:
        percentile: how many percent of the values the range holds, above 50 and up to 100. Zeros count. Of
            data with both signs, half of the rest lies beyond each end.
        bins: into how many steps the recorded range is split at least, 2 to 2^20.
    """

    def __init__(
        self, *, percentile: float = 99.99, bins: int = 2048, **common: Unpack[CommonArguments]
    ) -> None:
        super().__init__(bins=bins, **common)
        self.percentile = self._checked_number("percentile", percentile, 50.0, 100.0)

    def _range(self) -> tuple[Tensor, Tensor]:
        low = self.min_val.to(torch.float64).clamp(max=0.0)
        high = self.max_val.to(torch.float64).clamp(min=0.0)
        beyond = (100.0 - self.percentile) / 100.0 * (self.histogram.sum() + self.zeros)
        if bool((low < 0.0) & (high > 0.0)):
            beyond = beyond / 2.0
        negative, positive = self.histogram[: -self.first_bin], self.histogram[-self.first_bin :]
        left_out = (negative.cumsum(0) <= beyond).sum()
        kept = positive.numel() - (positive.flip(0).cumsum(0) <= beyond).sum()
        lowest = (left_out + self.first_bin).to(torch.float64) * self.bin_width
        highest = kept.to(torch.float64) * self.bin_width
        return torch.maximum(low, lowest), torch.minimum(high, highest)

    def _own_words(self) -> list[str]:
        return [f"{self.percentile:g} percent", f"{self.bins} bins"]
