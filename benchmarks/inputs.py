"""Where samples come from: a folder of photographs, scikit-image's, or a user's file.

`benchmarks/minilm.py` has those of text.
"""

import importlib
import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.samples import Limits, Samples
from tests.networks import photographs

CALIBRATION_CLASSES = range(64)

# Photographs that scikit-image carries inside its package, for those who have no folder of their own.
SKIMAGE_CALIBRATION = ("astronaut", "rocket", "retina", "immunohistochemistry")
SKIMAGE_JUDGED = ("coffee", "chelsea", "stereo_motorcycle")
SKIMAGE_CROPS = 8  # of each calibration photograph
SKIMAGE_JUDGED_CROPS = 32


def images(data: Path | None, limits: Limits) -> Samples:
    """Photographs as EfficientNet-Lite0 wants them: those in the folder `data`, or scikit-image's."""
    if data is None or not any(data.glob("*.jpg")):
        return Samples(
            "crops of scikit-image's photographs",
            [_crops(SKIMAGE_CALIBRATION, SKIMAGE_CROPS)],
            [_crops(SKIMAGE_JUDGED, SKIMAGE_JUDGED_CROPS)],
        ).limited(limits)
    classes = {int(path.name.split("_")[0]) for path in data.glob("*.jpg")}
    others = sorted(classes.difference(CALIBRATION_CLASSES))
    random.Random(0).shuffle(others)  # neighbours are alike, and a limit should leave all kinds
    calibration, _ = photographs(data, CALIBRATION_CLASSES)
    judged, labels = photographs(data, others[: limits.judge or None])
    samples = Samples("photographs", [calibration.numpy()], [judged.numpy()], labels.numpy())
    return samples.limited(limits)


def _crops(names: Sequence[str], crops: int, size: int = 224) -> np.ndarray:
    import skimage.data

    generator = np.random.default_rng(0)
    taken = []
    for _ in range(crops):
        for name in names:
            photograph = getattr(skimage.data, name)()
            photograph = photograph[0] if isinstance(photograph, tuple) else photograph
            top, left = (generator.integers(length - size + 1) for length in photograph.shape[:2])
            taken.append(photograph[top : top + size, left : left + size])
    pixels = np.stack(taken).transpose(0, 3, 1, 2).astype(np.float32)
    return (pixels / 255 - np.float32(0.498)) / np.float32(0.502)


def user_samples(source: str, limits: Limits) -> Samples:
    """A user's rows: a tensor, or a tuple or list of one for each argument.

    `source` is a file that torch.save wrote, or ``module:function`` of what gives them. The first quarter
    calibrates and the others judge; a single row does both.
    """
    module, _, function = source.partition(":")
    if function and not Path(source).exists():
        content = getattr(importlib.import_module(module), function)()
    else:
        content = torch.load(source, weights_only=True)
    tensors = [content] if isinstance(content, torch.Tensor) else list(content)
    if not tensors or len({len(tensor) for tensor in tensors}) != 1:
        raise ValueError(f"{source}: each argument needs the same number of rows (samples along dimension 0)")
    arrays = [tensor.numpy() for tensor in tensors]
    count = len(arrays[0])
    split = 0 if count == 1 else max(1, count // 4)
    calibration = [array[: split or 1] for array in arrays]
    return Samples(Path(source).name, calibration, [array[split:] for array in arrays]).limited(limits)
