"""Everything that a run measures, as it is kept in JSON."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

Round = dict[str, float]  # median milliseconds of each engine


@dataclass
class Load:
    """What loading a file cost on a number of threads."""

    threads: int
    seconds: float
    peak_mb: float


@dataclass
class EngineFigures:
    """One engine on one model. What failed is None, and the notes say why.

    Export and calibration are parts of the conversion, 0 where an engine has no such part or hides it. For
    float, calibration is the plain passes over the same samples.
    """

    engine: str
    role: str
    notes: list[str] = field(default_factory=list)
    convert_seconds: float | None = None
    convert_processor_seconds: float | None = None
    export_seconds: float | None = None
    export_processor_seconds: float | None = None
    calibrate_seconds: float | None = None
    calibrate_processor_seconds: float | None = None
    convert_peak_mb: float | None = None
    convert_before_mb: float | None = None
    file_mb: float | None = None
    sqnr_db: float | None = None
    cosine: float | None = None
    same_top1: float | None = None
    top1: float | None = None
    loads: list[Load] = field(default_factory=list)


@dataclass
class Timing:
    """The rounds at one number of threads and one batch. An engine missing from a round was left out."""

    threads: int
    batch: int
    rounds: list[Round] = field(default_factory=list)


@dataclass
class ModelFigures:
    """Everything about one model."""

    model: str
    title: str
    samples: str
    judged: int
    engines: list[EngineFigures] = field(default_factory=list)
    timings: list[Timing] = field(default_factory=list)

    def engine(self, name: str) -> EngineFigures:
        return next(figures for figures in self.engines if figures.engine == name)


@dataclass
class Run:
    """A whole run: where, with what settings, and what came of it."""

    machine: dict[str, Any]
    settings: dict[str, Any]
    models: list[ModelFigures] = field(default_factory=list)

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1) + "\n")

    @staticmethod
    def read(file: Path) -> "Run":
        content = json.loads(file.read_text())
        return Run(content["machine"], content["settings"], [_model(entry) for entry in content["models"]])


def _model(entry: dict[str, Any]) -> ModelFigures:
    engines = [
        EngineFigures(**{**figures, "loads": [Load(**load) for load in figures["loads"]]})
        for figures in entry["engines"]
    ]
    return ModelFigures(**{**entry, "engines": engines, "timings": [Timing(**t) for t in entry["timings"]]})
