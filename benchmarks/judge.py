"""How near an engine's outputs are to float's."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from tests.networks import sqnr


@dataclass(frozen=True)
class Verdict:
    """None is what makes no sense for the model, or has no number."""

    sqnr_db: float | None
    cosine: float
    same_top1: float | None
    top1: float | None


def judge(reference: np.ndarray, got: np.ndarray, *, classifies: bool, labels: np.ndarray | None) -> Verdict:
    """Compare outputs, one sample a row; `labels` are the right classes, where the model was taught any."""
    decibels = sqnr(torch.from_numpy(reference), torch.from_numpy(got))
    lengths = np.linalg.norm(reference, axis=1) * np.linalg.norm(got, axis=1)
    cosines = (reference * got).sum(1) / np.maximum(lengths, 1e-12)
    chosen = got.argmax(1)
    return Verdict(
        decibels if math.isfinite(decibels) else None,
        float(cosines.mean()),
        float((chosen == reference.argmax(1)).mean()) if classifies else None,
        float((chosen == labels).mean()) if labels is not None else None,
    )
