"""Where the time of a module goes: each op, what lies between the ops, and the machine's integer peak."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from jitquant import _C, native
from jitquant.checks import check_script_module
from jitquant.errors import QuantizationError
from jitquant.pipeline import run_pass
from jitquant.text_table import aligned, millions


@dataclass(frozen=True)
class ProfiledOp:
    """One op that ran, in one run of the module.

    op: its kind: ``"jitquant::conv2d"``.
    time_us: µs in all its calls.
    share: that time as a part of the whole, from 0 to 1.
    calls: how often it ran: more than once in a loop.
    kernel: the implementation that a native kernel ran, in oneDNN's words; ``""`` for ops of torch.
    module: the dotted path of the module it came from; ``""`` for the top module, and where a file lost it.
    source: file and line in the user's code, or in the code of the file; ``""`` if not known.
    multiply_adds: of all its calls; None where the op does not say.
    peak_share: its multiply-adds per second as a part of the integer peak; None without either.
    """

    op: str
    time_us: float
    share: float
    calls: int
    kernel: str
    module: str
    source: str
    multiply_adds: int | None
    peak_share: float | None


@dataclass(frozen=True)
class Profile:
    """What ``jitquant.profile`` measured; ``print`` shows it as a table. Times are medians in µs.

    ops: a row for each op, in program order; those in branches that were not taken are left out.
    between_us: what a run takes beside its ops.
    unprofiled_us: a run without clocks. On a busy machine it is longer than ``total_us``: an interruption
        hits every run somewhere, but each op in few runs, so that medians of ops leave it out.
    peak: multiply-adds per second of a large 8-bit convolution, which stands for the integer peak of this
        machine with this number of threads; None without the op library.
    runs, threads: how it was measured.
    """

    ops: tuple[ProfiledOp, ...]
    between_us: float
    unprofiled_us: float
    peak: float | None
    runs: int
    threads: int

    @property
    def ops_us(self) -> float:
        """The time in ops."""
        return sum(row.time_us for row in self.ops)

    @property
    def total_us(self) -> float:
        """The whole: the time in ops and between them."""
        return self.ops_us + self.between_us

    @property
    def between_share(self) -> float:
        """The time between ops as a part of the whole, from 0 to 1."""
        return _part(self.between_us, self.total_us)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of the ops that say how many they have."""
        return sum(row.multiply_adds or 0 for row in self.ops)

    @property
    def peak_share(self) -> float | None:
        """The whole module's multiply-adds per second as a part of the integer peak."""
        return _share_of_peak(self.multiply_adds, self.total_us, self.peak)

    def table(self, slowest: int | None = None) -> str:
        """The profile as text: all ops in program order, or only the slowest ones, slowest first."""
        rows = self.ops if slowest is None else sorted(self.ops, key=lambda row: -row.time_us)[:slowest]
        cells = [_HEADER, *(_cells(row) for row in rows)]
        if len(rows) < len(self.ops):
            rest = self.ops_us - sum(row.time_us for row in rows)
            cells.append(_sum_cells(rest, self.total_us, f"{len(self.ops) - len(rows)} other ops"))
        cells.append(_sum_cells(self.ops_us, self.total_us, "in ops"))
        cells.append(_sum_cells(self.between_us, self.total_us, "between ops"))
        whole = _sum_cells(self.total_us, self.total_us, "whole")
        cells.append((*whole[:4], millions(self.multiply_adds), _percent(self.peak_share), "", ""))
        return "\n".join([*aligned(cells, _LEFT_ALIGNED, {"calls": "1"}), self._remarks()])

    def to_json(self) -> str:
        """The rows and the sums, for other programs."""
        sums = {name: getattr(self, name) for name in ("ops_us", "total_us", "between_share", "peak_share")}
        return json.dumps({**asdict(self), **sums})

    def __str__(self) -> str:
        return self.table()

    def _remarks(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        if self.peak is None:
            peak = "integer peak: not known, since the op library of the native target is not available"
        else:
            peak = f"integer peak: {self.peak / 1e9:.0f} G multiply-adds a second on {threads}"
        return f"{peak}\na run without clocks: {self.unprofiled_us:.1f} µs; medians of {self.runs}, {threads}"


def profile(module: torch.jit.ScriptModule, inputs: Tensor | tuple[Any, ...], *, runs: int = 20) -> Profile:
    """Measures where the time of ``module.forward`` goes; ``print`` the result to see it as a table.

    A copy of the module runs, without gradients and with as many threads as torch is set to, in libtorch's
    interpreter with a clock on both sides of each op. Neither the module nor its inputs are changed.

    Args:
        module: any ScriptModule: float, prepared, or quantized for either target.
        inputs: a tuple of what forward takes, or its only tensor; of any shapes that it takes.
        runs: how many runs to take the median of, after a few that are not counted.

    Returns:
        A row for each op (µs, kernel, module path, multiply-adds, share of the integer peak) and sums.

    Raises:
        QuantizationError: for an eager module, one without forward, inputs that forward does not take, and
            runs below 1. What forward itself raises comes through.
    """
    caller = "profile"
    check_script_module(module, caller)
    if not module._c._has_method("forward"):
        raise QuantizationError(f"{caller}: the model has no forward; profile a module that has one")
    if isinstance(runs, bool) or not isinstance(runs, int) or runs < 1:
        raise QuantizationError(f"{caller}: runs is {runs!r}; pass a whole number from 1 up")
    if not isinstance(inputs, Tensor | tuple):
        raise QuantizationError(
            f"{caller}: inputs is a {type(inputs).__name__}; "
            "pass a tuple of what forward takes, or one tensor"
        )
    given = (inputs,) if isinstance(inputs, Tensor) else inputs
    work = torch.jit._recursive.wrap_cpp_module(_C.clone(module._c, share_tensors=False))
    run_pass("inline_calls", work)
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):  # neither dropout nor the peak's data use up the caller's numbers
        measured = _C.profile(work._c, given, runs)
        peak = integer_peak() if native.is_available() else None
    ran = [op for op in measured["ops"] if op["calls"]]
    total = sum(op["time_us"] for op in ran) + measured["between_us"]
    return Profile(
        ops=tuple(_row(op, total, peak) for op in ran),
        between_us=measured["between_us"],
        unprofiled_us=measured["unprofiled_us"],
        peak=peak,
        runs=runs,
        threads=threads,
    )


_best_rates: dict[int, float] = {}  # by the number of threads: a busy moment should not count for good


def integer_peak() -> float:
    """The most multiply-adds per second that the native target has reached, with torch's number of threads.

    That is in a 3×3 convolution, which uses each value often, with an image for each thread; a matrix product
    waits for memory. Takes some hundredths of a second.
    """
    threads = torch.get_num_threads()
    kernel = _large_convolution(channels=128)
    data = torch.randint(0, 256, (threads, 128, 56, 56), dtype=torch.uint8)
    data = data.to(memory_format=torch.channels_last)
    times = []
    for _ in range(100):
        begin = time.perf_counter()
        torch.ops.jitquant.conv2d(data, kernel)
        times.append(time.perf_counter() - begin)
    _best_rates[threads] = max(kernel.multiply_adds() / min(times), _best_rates.get(threads, 0.0))
    return _best_rates[threads]


def _large_convolution(channels: int) -> Any:
    weight = torch.randint(-127, 128, (channels, channels, 3, 3), dtype=torch.int8)
    scales = torch.full((channels,), 0.01)
    geometry = ([1, 1], [1, 1], [1, 1], 1)  # stride, padding, dilation, groups
    quantization = (0.01, 0, 1.0, 0)  # scale and zero point of input and output
    no_activation_no_sum = ("", "", None, 0)
    return torch.ops.jitquant.conv_prepack(
        weight, scales, None, *geometry, *quantization, *no_activation_no_sum, None
    )


def _row(measured: dict[str, Any], total_us: float, peak: float | None) -> ProfiledOp:
    multiply_adds = measured["multiply_adds"] * measured["calls"] or None
    return ProfiledOp(
        op=measured["op"],
        time_us=measured["time_us"],
        share=_part(measured["time_us"], total_us),
        calls=measured["calls"],
        kernel=measured["kernel"],
        module=measured["module"],
        source=measured["source"],
        multiply_adds=multiply_adds,
        peak_share=_share_of_peak(multiply_adds, measured["time_us"], peak),
    )


def _part(time_us: float, total_us: float) -> float:
    return time_us / total_us if total_us else 0.0


def _share_of_peak(multiply_adds: int | None, time_us: float, peak: float | None) -> float | None:
    if not multiply_adds or not time_us or peak is None:
        return None
    return multiply_adds / (time_us * 1e-6) / peak


_HEADER = ("time µs", "share", "op", "calls", "M mul-adds", "of peak", "kernel", "module")
_LEFT_ALIGNED = ("op", "kernel", "module")


def _cells(row: ProfiledOp) -> tuple[str, ...]:
    return (
        f"{row.time_us:.1f}",
        _percent(row.share),
        row.op,
        str(row.calls),
        millions(row.multiply_adds),
        _percent(row.peak_share),
        row.kernel,
        row.module or row.source,
    )


def _sum_cells(time_us: float, total_us: float, what: str) -> tuple[str, ...]:
    return (f"{time_us:.1f}", _percent(_part(time_us, total_us)), what, "", "", "", "", "")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
