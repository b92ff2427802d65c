"""Statistics of values that pass by, in a fixed amount of memory."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jitquant.observers import HistogramObserver


class RunningStatistics:
    """Of all values so far: how many, the ends, the mean, the mean square and the histogram.

    Sums are in double precision. The histogram's bins have a power of two as width and merge when the range
    grows (see ``jitquant.HistogramObserver``), so that neither the order of the values nor how they came in
    batches shows in it. With NaN or infinity among the values only the ends stay meaningful.

    Args:
        bins: into how many steps the range is split at least, 2 to 2^20.
    """

    def __init__(self, bins: int) -> None:
        self.count = 0
        self.sum = 0.0
        self.sum_of_squares = 0.0
        self._observer = HistogramObserver(bins=bins)

    def add(self, values: Tensor) -> None:
        """Takes values of any shape, float32 or float64; the ends and the histogram are those in float32."""
        self.count += values.numel()
        self.sum += float(values.sum(dtype=torch.float64))
        self.sum_of_squares += float(values.double().square().sum())
        self._observer(values.float())

    def as_dict(self) -> dict[str, Any]:
        """Count, min, max, mean and mean_square as numbers; histogram and edges as tensors.

        The histogram is float64 of shape [N], the edges of its bins are float64 of shape [N + 1]: bin i holds
        the values from edge i up to the next.
        """
        seen = self._observer
        counts = seen.histogram.clone()
        if seen.zeros:
            counts[-seen.first_bin] += seen.zeros
        steps = torch.arange(seen.first_bin, seen.first_bin + len(counts) + 1, dtype=torch.float64)
        return {
            "count": self.count,
            "min": float(seen.min_val),
            "max": float(seen.max_val),
            "mean": self.sum / self.count if self.count else 0.0,
            "mean_square": self.sum_of_squares / self.count if self.count else 0.0,
            "histogram": counts,
            "edges": steps * seen.bin_width,
        }
