"""What sees values while models run: loggers, which keep tensors or statistics of them.

They are plain Python modules, and are never compiled.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from jitquant.errors import QuantizationError
from jitquant.numeric_suite.running import RunningStatistics
from jitquant.numeric_suite.sqnr import as_double, decibels_of, energies_of, error_of

LoggerClass = Callable[[], "Logger"]


class Logger(nn.Module):
    """What every logger is made from: override ``forward``, and keep in ``stats`` what is to be read later.

    One whose ``forward`` takes one value, ``forward(x)``, sees those of one model. One whose ``forward``
    takes two, ``forward(x, y)``, sees a value of the quantized model, ``x``, beside the float one, ``y``.
    Values of the quantized model are quantized tensors where they are integers. They are the logger's own: it
    may keep them. What ``forward`` returns is not used.

    Attributes:
        stats: what the logger says of what it saw, as it likes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stats: dict[str, Any] = {}

    def forward(self, x: Tensor) -> Any:
        """Sees one value; this one keeps nothing."""


class OutputLogger(Logger):
    """Keeps each value: ``stats["tensor_val"]`` is a list of them, in the order in which they came."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["tensor_val"] = []

    def forward(self, x: Tensor) -> Tensor:
        self.stats["tensor_val"].append(x)
        return x


class ShadowLogger(Logger):
    """Keeps pairs: ``stats["float"]`` and ``stats["quantized"]`` are lists, whose entries belong together."""

    def __init__(self) -> None:
        super().__init__()
        self.stats["float"] = []
        self.stats["quantized"] = []

    def forward(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        self.stats["quantized"].append(x)
        self.stats["float"].append(y)


class StatisticsLogger(Logger):
    """Keeps statistics of pairs and no tensors: its memory does not grow with the data.

    ``stats["float"]``, ``stats["quantized"]`` and ``stats["error"]``, which is quantized minus float, are
    dicts of

    - ``count``, ``min``, ``max``, ``mean`` and ``mean_square``: numbers;
    - ``histogram``: how many values each bin holds, float64 of shape [N];
    - ``edges``: where bins begin and the last one ends, float64 of shape [N + 1].

    ``stats["sqnr"]`` is in dB and what ``compute_error`` gives of all values together.

    Args:
        bins: into how many steps each histogram splits its range at least, 2 to 2^20.
    """

    def __init__(self, bins: int = 256) -> None:
        super().__init__()
        self._running = {name: RunningStatistics(bins) for name in ("float", "quantized", "error")}
        self._signal = self._noise = 0.0  # sums of squares

    def forward(self, x: Tensor, y: Tensor) -> None:  # type: ignore[override]
        for name, values in (("float", y), ("quantized", x), ("error", error_of(y, x))):
            self._running[name].add(as_double(values))
        signal, noise = energies_of(y, x)
        self._signal += signal
        self._noise += noise
        self.stats = {name: running.as_dict() for name, running in self._running.items()}
        self.stats["sqnr"] = decibels_of(self._signal, self._noise)


def as_float(x: Tensor) -> Tensor:
    """A value of either model as float32."""
    return x.dequantize() if x.is_quantized else x.float()


def check_logger_class(logger_cls: Any, caller: str, *, values: tuple[int, ...] = (1, 2)) -> None:
    """Raises QuantizationError unless it makes loggers that take as many values as one of these numbers."""
    try:
        logger = logger_cls()
    except Exception as error:
        raise QuantizationError(
            f"{caller}: logger_cls={_name(logger_cls)} cannot be called without arguments ({error}); pass a "
            "class of loggers such as jitquant.numeric_suite.OutputLogger"
        ) from error
    if not isinstance(logger, Logger):
        raise QuantizationError(
            f"{caller}: logger_cls={_name(logger_cls)} makes no Logger but a {type(logger).__name__}; "
            "make a class from jitquant.numeric_suite.Logger"
        )
    if count_values(logger) not in values:
        wanted = " or ".join({1: "forward(x)", 2: "forward(x, y)"}[count] for count in values)
        raise QuantizationError(
            f"{caller}: {_name(logger_cls)}.forward takes {count_values(logger)} values; write {wanted}"
        )


def count_values(logger: Logger) -> int:
    """How many values its forward takes: 1, or 2 for a pair."""
    parameters = inspect.signature(logger.forward).parameters.values()
    return sum(each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD) for each in parameters)


def _name(logger_cls: Any) -> str:
    return getattr(logger_cls, "__name__", repr(logger_cls))
