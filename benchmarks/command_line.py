"""What the command lines of the comparisons have in common: which models, which samples, where to."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks.models import Model, user_model
from benchmarks.run import Subject
from benchmarks.samples import Limits, Samples
from tests.networks import IMAGENET_SAMPLE


def add_models(parser: argparse.ArgumentParser, models: Mapping[str, Model]) -> None:
    """Add the arguments that choose models, samples and folders."""
    add = parser.add_argument
    add("--models", nargs="+", choices=models, metavar="NAME", help=f"of {', '.join(models)}")
    add("--model", type=Path, action="append", default=[], help="a TorchScript file of your own, instead")
    add(
        "--input", action="append", default=[], help="its samples, a file or module:function; one per --model"
    )
    add("--classifies", action="store_true", help="the largest output of your model is its answer")
    add("--calibrate", type=count, metavar="N", help="calibrate on at most so many samples, 0 for all")
    add("--judge", type=count, metavar="N", help="judge on at most so many samples, 0 for all")
    add("--data", type=Path, default=IMAGENET_SAMPLE, help="folder of photographs named CLASS_ANYTHING.jpg")
    add("--out", type=Path, default=Path("out"), help="folder for what is written")
    add("--work", type=Path, help="keep converted files and the workers' logs in this folder")
    add("--show", type=Path, help="measure nothing; show this JSON file of an earlier run")


def fill_in(
    chosen: argparse.Namespace,
    parser: argparse.ArgumentParser,
    models: Mapping[str, Model],
    defaults: Mapping[str, object],
) -> None:
    """Give what was not said its default; all models are meant where none is named."""
    if len(chosen.model) != len(chosen.input):
        parser.error("--model and --input come in pairs")
    for name, value in defaults.items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if chosen.models is None:
        chosen.models = [] if chosen.model else list(models)


def positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def count(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return int(text)


def subjects(chosen: argparse.Namespace, models: Mapping[str, Model]) -> list[Subject]:
    """Every model that was asked for, with its samples; those of one kind are made once."""
    limits = Limits(chosen.calibrate, chosen.judge)
    made: dict[Callable[[Path | None, Limits], Samples], Samples] = {}
    asked = [(models[name], [models[name].name]) for name in chosen.models]
    for file, inputs in zip(chosen.model, chosen.input, strict=True):
        model = user_model(file, inputs, classifies=chosen.classifies)
        asked.append((model, [str(file.resolve()), inputs]))
    found = []
    for model, choice in asked:
        if model.samples not in made:
            made[model.samples] = model.samples(chosen.data, limits)
        found.append(Subject(model, choice, made[model.samples]))
    return found


@contextmanager
def work_folder(chosen: argparse.Namespace) -> Iterator[Path]:
    """The folder that was named, or one that goes away."""
    if chosen.work is not None:
        yield chosen.work.resolve()
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield Path(folder)


def progress() -> Callable[[str], None]:
    """Says on standard error what is done, with the seconds since now."""
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    return say
