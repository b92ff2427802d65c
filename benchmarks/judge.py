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


def judge(
    reference: np.ndarray,
    got: np.ndarray,
    *,
    classifies: bool,
    labels: np.ndarray | None,
    pooled: int = 1,
) -> Verdict:
    """Compare outputs, one sample a row.

    `labels` are the right classes, where the model was taught any. Where a row is `pooled` vectors behind
    each other, such as those of tokens, the cosine is of their means.
    """
    decibels = sqnr(torch.from_numpy(reference), torch.from_numpy(got))
    ours, theirs = (rows.reshape(len(rows), pooled, -1).mean(1) for rows in (got, reference))
    lengths = np.linalg.norm(theirs, axis=1) * np.linalg.norm(ours, axis=1)
    cosines = (theirs * ours).sum(1) / np.maximum(lengths, 1e-12)
    chosen = got.argmax(1)
    return Verdict(
        decibels if math.isfinite(decibels) else None,
        float(cosines.mean()),
        float((chosen == reference.argmax(1)).mean()) if classifies else None,
        float((chosen == labels).mean()) if labels is not None else None,
    )
