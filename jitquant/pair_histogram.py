"""Histograms of float and quantized values over one another, in memory that does not grow with the data.

The first batch fixes the grid. Where a quantizer is known its bins are whole steps wide, and begin between
two values that integers stand for: a bin of one and a half steps would hold now one of them and now two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isfinite, log10

import torch
from torch import Tensor

from jitquant.report_data import HistogramData

BINS = 128  # about as many as can be told apart where they are drawn
MARGIN = 0.125  # of the range, on both sides of it, to show what is clipped

__all__ = ["PairHistogram", "Range", "range_of", "sqnr_of"]


@dataclass(frozen=True)
class Range:
    """What the integers of a quantized tensor stand for.

    Attributes:
        scales, zero_points: of each channel, or one of each; in float64.
        quant_min, quant_max: the least and the greatest integer that the range was chosen for.
        held: the greatest one that the values may have: an activation of 7 bits is rounded to 8.
        axis: the channels' axis; None where all values have one range.
    """

    scales: Tensor
    zero_points: Tensor
    quant_min: int
    quant_max: int
    held: int
    axis: int | None

    @property
    def lows(self) -> Tensor:
        return (self.quant_min - self.zero_points) * self.scales

    @property
    def highs(self) -> Tensor:
        return (self.quant_max - self.zero_points) * self.scales

    def count_clipped(self, values: Tensor) -> int:
        """How many values are further than half a step outside, each of its channel's range."""
        shape = [1] * values.dim()
        if self.axis is not None:
            shape[self.axis] = -1
        half = (self.scales / 2).view(shape)
        highs = (self.held - self.zero_points) * self.scales
        low, high = self.lows.view(shape) - half, highs.view(shape) + half
        return int(((values < low) | (values > high)).sum())


def range_of(tensor: Tensor, steps: int | None = None) -> Range | None:
    """The range of a quantized tensor; None for a plain one.

    Args:
        tensor: of any dtype.
        steps: how many integers its scale was chosen for, from the least on; None for all of its dtype.
    """
    if not tensor.is_quantized:
        return None
    limits = torch.iinfo(tensor.int_repr().dtype)
    per_channel = tensor.qscheme() in (torch.per_channel_affine, torch.per_channel_affine_float_qparams)
    if per_channel:
        scales, zero_points = tensor.q_per_channel_scales(), tensor.q_per_channel_zero_points()
        axis = tensor.q_per_channel_axis()
    else:
        scales, zero_points = torch.tensor([tensor.q_scale()]), torch.tensor([tensor.q_zero_point()])
        axis = None
    chosen = limits.max if steps is None else limits.min + steps - 1
    held = limits.max if axis is None else chosen  # weights are rounded to no more than what was chosen
    return Range(scales.double(), zero_points.double(), limits.min, chosen, held, axis)


@dataclass(frozen=True)
class _Grid:
    """Bins of one width. Those from `margin` on are a quantizer's range, of `steps_to_a_bin` values each."""

    first: float
    width: float
    bins: int
    margin: int = 0
    steps_to_a_bin: int = 0

    def count(self, values: Tensor) -> Tensor:
        """How many values are in each bin; the first count is of those below, the last of those above."""
        places = values.sub(self.first).mul_(1 / self.width).add_(1.0).clamp_(0, self.bins + 1)
        return torch.bincount(places.to(torch.int32).flatten(), minlength=self.bins + 2)

    def count_integers(self, values: Tensor) -> Tensor:
        """The same for integers, the least of which is 0: a fifth of the work."""
        counts = torch.bincount(values.flatten(), minlength=self.in_range * self.steps_to_a_bin)
        of_bins = counts.view(self.in_range, self.steps_to_a_bin).sum(1)
        return torch.nn.functional.pad(of_bins, (self.margin + 1, self.margin + 1))

    @property
    def in_range(self) -> int:
        return self.bins - 2 * self.margin

    def outside_of_range(self, counts: Tensor) -> int:
        """How many values are in the margins and beyond."""
        return int(counts.sum() - counts[self.margin + 1 : self.margin + 1 + self.in_range].sum())


class PairHistogram:
    """Counts pairs of a float tensor and the quantized one in its place, batch by batch.

    Args:
        steps: how many integers the range was chosen for, as in `range_of`.
    """

    def __init__(self, steps: int | None = None) -> None:
        self._steps = steps
        self._range: Range | None = None
        self._varies: Tensor | None = None  # which channels' float values are not all equal
        self._grid: _Grid | None = None
        self._counts: Tensor | None = None
        self._extremes = (float("inf"), float("-inf"))
        self._clipped = 0
        self._signal = self._noise = 0.0

    def add(self, expected: Tensor, got: Tensor) -> None:
        """Adds values of a batch: float ones, and those of the quantized model, of the same shape."""
        range_ = range_of(got, self._steps)
        expected = expected.detach().float()
        values = (got.dequantize() if got.is_quantized else got).detach().float()
        self._signal += _sum_of_squares(expected)
        self._noise += _sum_of_squares(expected - values)
        if self._grid is None:
            self._begin(_finite(expected), _finite(values), range_)
        if self._grid is not None and self._counts is not None:
            self._add_extremes(_finite(expected))
            self._counts[0] += self._grid.count(_finite(expected))
            self._counts[1] += self._count_got(got, values)
            if self._range is not None and not self._is_clipping_counted:
                self._clipped += self._range.count_clipped(expected)
            if self._range is not None and self._range.axis is not None:
                varies = _varying(expected, self._range.axis)
                self._varies = varies if self._varies is None else self._varies | varies

    @property
    def is_empty(self) -> bool:
        return self._counts is None or not bool(self._counts.any())

    @property
    def sqnr(self) -> float | None:
        """The ratio of signal to noise in dB; None where one of the two is zero or not finite."""
        return sqnr_of(self._signal, self._noise)

    @property
    def equal(self) -> bool:
        return self._noise == 0.0

    def data(self) -> HistogramData:
        """What was counted so far, of at least one finite value."""
        assert self._grid is not None
        assert self._counts is not None
        wholes = self._counts.sum(1).clamp(min=1)
        shares = (self._counts * 1e6 / wholes[:, None]).round().long()
        data = HistogramData(
            first=self._grid.first,
            width=self._grid.width,
            float_shares=shares[0, 1:-1].tolist(),
            quantized_shares=shares[1, 1:-1].tolist(),
            below=float(self._counts[0, 0] / wholes[0]),
            above=float(self._counts[0, -1] / wholes[0]),
            lowest=self._extremes[0],
            highest=self._extremes[1],
            sqnr=self.sqnr,
            equal=self.equal,
        )
        return data if self._range is None else self._with_range(data, self._range, int(wholes[0]))

    @property
    def _is_clipping_counted(self) -> bool:
        """Whether the margins of the grid hold what is clipped, and nothing else."""
        assert self._grid is not None
        return (
            self._grid.steps_to_a_bin > 0
            and self._range is not None
            and self._range.held == self._range.quant_max
        )

    def _with_range(self, data: HistogramData, range_: Range, count: int) -> HistogramData:
        scales = range_.scales
        wide, narrow = self._widest_and_narrowest(scales)
        channels = scales.numel() if range_.axis is not None else 1
        assert self._grid is not None
        assert self._counts is not None
        is_counted = self._is_clipping_counted
        clipped = self._grid.outside_of_range(self._counts[0]) if is_counted else self._clipped
        several = channels > 1
        return replace(
            data,
            range_low=float(range_.lows[wide]),
            range_high=float(range_.highs[wide]),
            narrow_low=float(range_.lows[narrow]) if several else None,
            narrow_high=float(range_.highs[narrow]) if several else None,
            scale=float(scales[wide]),
            zero_point=None if several else int(range_.zero_points[0]),
            steps=range_.quant_max - range_.quant_min + 1,
            channels=channels,
            clipped=clipped / count,
        )

    def _widest_and_narrowest(self, scales: Tensor) -> tuple[int, int]:
        """Of the channels with different values: the scale of one whose values are equal says nothing."""
        varies = self._varies
        if varies is None or not bool(varies.any()):
            varies = torch.ones_like(scales, dtype=torch.bool)
        wide, narrow = torch.where(varies, scales, -torch.inf), torch.where(varies, scales, torch.inf)
        return int(wide.argmax()), int(narrow.argmin())

    def _begin(self, expected: Tensor, got: Tensor, range_: Range | None) -> None:
        if expected.numel() == 0 or got.numel() == 0:
            return
        self._range = range_
        if range_ is not None and range_.scales.numel() == 1:
            self._grid = _grid_of_steps(range_)
        else:
            ends = torch.stack([*expected.aminmax(), *got.aminmax()])
            self._grid = _grid_of_values(float(ends.min()), float(ends.max()))
        self._counts = torch.zeros(2, self._grid.bins + 2, dtype=torch.long)

    def _count_got(self, got: Tensor, values: Tensor) -> Tensor:
        assert self._grid is not None
        is_whole = self._grid.in_range * self._grid.steps_to_a_bin == 1 << 8
        if is_whole and got.is_quantized and got.dtype == torch.quint8:
            return self._grid.count_integers(got.int_repr())
        return self._grid.count(_finite(values))

    def _add_extremes(self, expected: Tensor) -> None:
        if expected.numel():
            low, high = map(float, expected.aminmax())
            self._extremes = (min(low, self._extremes[0]), max(high, self._extremes[1]))


def sqnr_of(signal: float, noise: float) -> float | None:
    """10 log10 of their ratio, in dB; None where it is not finite."""
    if not (isfinite(signal) and isfinite(noise)) or signal <= 0.0 or noise <= 0.0:
        return None
    return 10 * log10(signal / noise)


def _varying(values: Tensor, axis: int) -> Tensor:
    rows = values.movedim(axis, 0).flatten(1)
    return (rows != rows[:, :1]).any(1)


def _sum_of_squares(values: Tensor) -> float:
    """In double precision, where float32 would lose what large and small values have in common."""
    flat = values.flatten()
    return sum(float(torch.dot(part, part)) for part in flat.split(1 << 14))


def _finite(values: Tensor) -> Tensor:
    # A sum is a quarter of the work of asking each value.
    return values if bool(values.sum().isfinite()) else values[values.isfinite()]


def _grid_of_steps(range_: Range) -> _Grid:
    """As many whole steps to a bin as it takes, and a margin on both sides."""
    scale = float(range_.scales[0])
    steps = range_.quant_max - range_.quant_min + 1
    to_a_bin = next(count for count in range(1, steps + 1) if steps % count == 0 and steps // count <= BINS)
    margin = max(1, round(steps // to_a_bin * MARGIN))
    first = float(range_.lows[0]) - scale * (margin * to_a_bin + 0.5)
    return _Grid(first, scale * to_a_bin, steps // to_a_bin + 2 * margin, margin, to_a_bin)


def _grid_of_values(low: float, high: float) -> _Grid:
    span = high - low or max(abs(low), 1.0) * 2.0**-10
    width = span / BINS
    margin = round(BINS * MARGIN)
    return _Grid(low - (margin + 0.5) * width, width, BINS + 1 + 2 * margin)
