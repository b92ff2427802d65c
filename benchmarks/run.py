"""Runs engines on models: each converts in a process of its own, then all are timed in turns.

One process computes at a time. In a round every engine is measured once, one after the other, so that a
machine that slows down for a while slows all of them, and ratios are taken within a round.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.engines import ENGINES, REFERENCE, Variant
from benchmarks.figures import EngineFigures, Load, ModelFigures, Timing
from benchmarks.judge import judge
from benchmarks.models import Model
from benchmarks.samples import Samples
from benchmarks.session import Session, WorkerFailed

# An engine this many times slower than the fastest is measured in the first round only.
HOPELESS = 8.0


@dataclass(frozen=True)
class Settings:
    """What a user may choose about a run."""

    engines: Sequence[str]
    threads: Sequence[int]
    batches: Sequence[int]
    rounds: int
    seconds: float
    calibrate: int
    judge: int


@dataclass(frozen=True)
class Subject:
    """A model, how a worker is told which one it is, and its samples."""

    model: Model
    choice: list[str]
    samples: Samples


class ModelRun:
    """All engines on one model."""

    def __init__(
        self,
        subject: Subject,
        settings: Settings,
        work: Path,
        say: Callable[[str], None],
        variants: Mapping[str, Variant] | None = None,
    ) -> None:
        self.subject = subject
        self.settings = settings
        self.folder = work / subject.model.name
        self.samples = self.folder / "samples"
        self.say = say
        self.files: dict[str, str] = {}
        self.variants = variants or {name: Variant(name) for name in settings.engines}
        self.figures = ModelFigures(
            subject.model.name,
            subject.model.title,
            subject.samples.origin,
            len(subject.samples.judged[0]),
            [EngineFigures(name, ENGINES[variant.engine].role) for name, variant in self.variants.items()],
        )

    def run(self) -> ModelFigures:
        self.subject.samples.save(self.samples)
        for figures in self.figures.engines:
            self.convert(figures)
        for threads in self.settings.threads:
            self.measure(threads)
        self.judge()
        return self.figures

    def run_untimed(self) -> ModelFigures:
        """Accuracy and the cost of conversion alone."""
        self.subject.samples.save(self.samples)
        self.pass_over()
        for figures in self.figures.engines:
            self.convert(figures)
            if figures.engine in self.files:
                with self.session(figures.engine) as session:
                    if self.load(figures.engine, session, self.settings.threads[0]):
                        self.write_outputs(figures.engine, session)
        self.judge()
        return self.figures

    def pass_over(self) -> None:
        """Time the float network on what others calibrate on."""
        figures = self.figures.engine(REFERENCE)
        try:
            with self.session(REFERENCE) as session:
                answer = session.ask("float_passes", model=self.subject.choice, samples=str(self.samples))
        except WorkerFailed as failed:
            self.note(REFERENCE, str(failed))
            return
        for name, value in answer.items():
            setattr(figures, name, value)

    def convert(self, figures: EngineFigures) -> None:
        folder = self.folder / figures.engine
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with self.session(figures.engine) as session:
                answer = session.ask(
                    "convert", model=self.subject.choice, samples=str(self.samples), folder=str(folder)
                )
        except WorkerFailed as failed:
            self.note(figures.engine, str(failed))
            return
        self.files[figures.engine] = answer["file"]
        figures.convert_seconds = answer["seconds"]
        figures.convert_processor_seconds = answer["processor_seconds"]
        for part in ("export", "calibrate"):
            for kind in ("seconds", "processor_seconds"):
                if figures.engine != REFERENCE:
                    setattr(figures, f"{part}_{kind}", answer[f"{part}_{kind}"])
        figures.convert_peak_mb = answer["peak_mb"]
        figures.convert_before_mb = answer["before_mb"]
        figures.file_mb = answer["file_mb"]
        self.say(f"{figures.engine}: converted in {answer['seconds']:.1f} s")

    def measure(self, threads: int) -> None:
        with ExitStack() as stack:
            started = {name: stack.enter_context(self.session(name)) for name in self.files}
            sessions = {
                name: session for name, session in started.items() if self.load(name, session, threads)
            }
            for name, session in sessions.items():
                if not self.outputs(name).exists():
                    self.write_outputs(name, session)
            for batch in self.settings.batches:
                timing = Timing(threads, batch)
                self.figures.timings.append(timing)
                self.time(timing, dict(sessions))

    def load(self, name: str, session: Session, threads: int) -> bool:
        try:
            answer = session.ask(
                "load",
                file=self.files[name],
                samples=str(self.samples),
                threads=threads,
                batches=list(self.settings.batches),
            )
        except WorkerFailed as failed:
            self.note(name, str(failed))
            return False
        self.figures.engine(name).loads.append(Load(threads, answer["seconds"], answer["peak_mb"]))
        for batch, note in answer["notes"].items():
            self.note(name, f"batch {batch}: {note}")
        return True

    def write_outputs(self, name: str, session: Session) -> None:
        try:
            session.ask("judge", samples=str(self.samples), outputs=str(self.outputs(name)))
        except WorkerFailed as failed:
            self.note(name, str(failed))

    def time(self, timing: Timing, sessions: dict[str, Session]) -> None:
        """Measure the rounds of one setting; who fails or is hopelessly slow leaves `sessions`."""
        for _ in range(self.settings.rounds):
            measured: dict[str, float] = {}
            for name, session in list(sessions.items()):
                try:
                    answer = session.ask("measure", batch=timing.batch, seconds=self.settings.seconds)
                    measured[name] = answer["ms"]
                except WorkerFailed:
                    del sessions[name]  # its load said why
            timing.rounds.append(measured)
            limit = HOPELESS * min(measured.values(), default=0)
            for name, milliseconds in measured.items():
                if milliseconds > limit:
                    del sessions[name]
        best = min(timing.rounds[0].items(), key=lambda item: item[1], default=("nobody", 0.0))
        self.say(f"{timing.threads} threads, batch {timing.batch}: {best[0]} is fastest, {best[1]:.2f} ms")

    def judge(self) -> None:
        """Compare what each engine gave with what float gave."""
        if not self.outputs(REFERENCE).exists():
            return
        reference = np.load(self.outputs(REFERENCE))
        for figures in self.figures.engines:
            if self.outputs(figures.engine).exists():
                got = np.load(self.outputs(figures.engine))
                labels = self.subject.samples.labels if self.subject.model.labelled else None
                model = self.subject.model
                verdict = judge(
                    reference, got, classifies=model.classifies, labels=labels, pooled=model.pooled
                )
                for measure, value in asdict(verdict).items():
                    setattr(figures, measure, value)

    def outputs(self, name: str) -> Path:
        return self.folder / name / "outputs.npy"

    def session(self, name: str) -> Session:
        variant = self.variants[name]
        return Session(variant.engine, self.folder / name / "log.txt", variant.options)

    def note(self, name: str, text: str) -> None:
        notes = self.figures.engine(name).notes
        if text not in notes:
            notes.append(text)
            self.say(f"{name}: {text}")
