"""A model as an engine's converter gets it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.clock import Clock
from benchmarks.models import Model
from benchmarks.samples import rows, saved_arrays

Inputs = tuple[Tensor, ...]


@dataclass(frozen=True)
class Subject:
    """A float network, the same as a ScriptModule, and what to calibrate on, one sample at a time.

    The clocks have what calibration took and, for engines that start from ONNX, the export to it.
    """

    model: Model
    network: nn.Module
    script: torch.jit.ScriptModule
    calibration: list[Inputs]
    calibrating: Clock = field(default_factory=Clock)
    exporting: Clock = field(default_factory=Clock)

    def calibrate(self, model: Any) -> None:
        """Show `model` everything to calibrate on."""
        with self.calibrating, torch.inference_mode():
            for inputs in self.calibration:
                model(*inputs)


def subject_of(model: Model, samples: Path) -> Subject:
    """`model` with what was saved for it in the folder `samples`."""
    calibration = list(_inputs(samples))
    network = model.network()
    return Subject(model, network, model.script(network, calibration[0]), calibration)


def _inputs(samples: Path) -> Iterator[Inputs]:
    arrays = saved_arrays(samples, "calibration")
    for position in range(len(arrays[0])):
        yield tuple(torch.from_numpy(array) for array in rows(arrays, position, 1))
