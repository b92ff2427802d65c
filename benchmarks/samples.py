"""Rows to calibrate and to judge on, in memory and on the disk.

All of it is numpy, one array for each argument of the model with one sample a row, because the processes that
run an engine do not all import torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Arrays = list[np.ndarray]


@dataclass(frozen=True)
class Limits:
    """How many rows are wanted; zero is all there are."""

    calibrate: int = 0
    judge: int = 0


@dataclass(frozen=True)
class Samples:
    """Rows to calibrate on, other rows to judge by, and the right classes of these where they are known."""

    origin: str
    calibration: Arrays
    judged: Arrays
    labels: np.ndarray | None = None

    def limited(self, limits: Limits) -> "Samples":
        """The same with no more rows than wanted."""
        judged = limits.judge or None
        return Samples(
            self.origin,
            [array[: limits.calibrate or None] for array in self.calibration],
            [array[:judged] for array in self.judged],
            None if self.labels is None else self.labels[:judged],
        )

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        for role, arrays in (("calibration", self.calibration), ("judged", self.judged)):
            for position, array in enumerate(arrays):
                np.save(folder / f"{role}_{position}.npy", array)


def saved_arrays(folder: Path, role: str) -> Arrays:
    """What `Samples.save` wrote, left on the disk until rows of it are taken."""
    return [np.load(path, mmap_mode="r") for path in sorted(folder.glob(f"{role}_*.npy"))]


def rows(arrays: Sequence[np.ndarray], start: int, count: int) -> Arrays:
    """`count` rows from `start` on, beginning again where there are too few."""
    return [np.take(array, range(start, start + count), axis=0, mode="wrap") for array in arrays]
