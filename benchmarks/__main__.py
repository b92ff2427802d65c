"""jitquant beside its peers: speed, accuracy, memory and size of every model of the table and of your own.

    python -m benchmarks                                      everything, about 25 minutes on two processors
    python -m benchmarks --quick                              batch 1 on one thread, about 5 minutes
    python -m benchmarks --model file.pt --input input.pt     a model of your own
    python -m benchmarks --models efficientnet_lite0 --judge 0    accuracy over all photographs
    python -m benchmarks --show out/bench.json                tables and picture of an earlier run

`file.pt` is what torch.jit.save wrote, `input.pt` a tensor with one sample a row (or a list of one tensor for
each argument) that torch.save wrote; a quarter of the rows calibrates, the others judge. Writes bench.json,
bench.md and bench.png.
"""

import argparse
import importlib.util
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

from benchmarks.engines import ENGINES, REFERENCE
from benchmarks.figures import Run
from benchmarks.machine import machine
from benchmarks.models import MODELS, user_model
from benchmarks.report import report
from benchmarks.run import ModelRun, Settings, Subject
from benchmarks.samples import Limits, Samples
from tests.networks import IMAGENET_SAMPLE

FULL = {"threads": [1, 2], "batch": [1, 8], "rounds": 5, "seconds": 0.3, "calibrate": 32, "judge": 64}
QUICK = {"threads": [1], "batch": [1], "rounds": 3, "seconds": 0.2, "calibrate": 16, "judge": 32}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what --quick means filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--models", nargs="+", choices=MODELS, metavar="NAME", help=f"of {', '.join(MODELS)}")
    add("--model", type=Path, action="append", default=[], help="a TorchScript file of your own, instead")
    add("--input", type=Path, action="append", default=[], help="its samples; one for each --model")
    add("--engines", nargs="+", choices=ENGINES, metavar="NAME", help=f"of {', '.join(ENGINES)}")
    add("--threads", nargs="+", type=_positive, metavar="N")
    add("--batch", nargs="+", type=_positive, metavar="N")
    add("--rounds", type=_positive, metavar="N")
    add("--seconds", type=float, help="of calls that a median is taken of")
    add("--calibrate", type=_count, metavar="N", help="calibrate on at most so many samples, 0 for all")
    add("--judge", type=_count, metavar="N", help="judge on at most so many samples, 0 for all")
    add("--quick", action="store_true", help="fewer engines, one thread, batch 1, three rounds")
    add("--data", type=Path, default=IMAGENET_SAMPLE, help="folder of photographs named CLASS_ANYTHING.jpg")
    add("--out", type=Path, default=Path("out"), help="folder for what is written")
    add("--work", type=Path, help="keep converted files and the workers' logs in this folder")
    add("--show", type=Path, help="measure nothing; show this JSON file of an earlier run")
    chosen = parser.parse_args(given)
    if len(chosen.model) != len(chosen.input):
        parser.error("--model and --input come in pairs")
    for name, value in (QUICK if chosen.quick else FULL).items():
        if getattr(chosen, name) is None:
            setattr(chosen, name, value)
    if chosen.models is None:
        chosen.models = [] if chosen.model else list(MODELS)
    chosen.engines = _with_reference(chosen.engines, quick=chosen.quick)
    return chosen


def _positive(text: str) -> int:
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return int(text)


def _count(text: str) -> int:
    if int(text) < 0:
        raise argparse.ArgumentTypeError(f"{text} is negative")
    return int(text)


def _with_reference(names: Sequence[str] | None, *, quick: bool) -> list[str]:
    """Engines in the order of the table; float is always among them, since outputs are judged against it."""
    if names is None:
        return [name for name, engine in ENGINES.items() if engine.quick or not quick]
    return [name for name in ENGINES if name in names or name == REFERENCE]


def subjects(chosen: argparse.Namespace) -> list[Subject]:
    """Every model that was asked for, with its samples; those of one kind are made once."""
    limits = Limits(chosen.calibrate, chosen.judge)
    made: dict[Callable[[Path | None, Limits], Samples], Samples] = {}
    models = [(MODELS[name], [name]) for name in chosen.models]
    for file, inputs in zip(chosen.model, chosen.input, strict=True):
        files = [str(path.resolve()) for path in (file, inputs)]
        models.append((user_model(file, inputs), files))
    found = []
    for model, choice in models:
        if model.samples not in made:
            made[model.samples] = model.samples(chosen.data, limits)
        found.append(Subject(model, choice, made[model.samples]))
    return found


def measure(chosen: argparse.Namespace, work: Path) -> Run:
    """Measure everything; the JSON file is written after each model, so that nothing is lost on the way."""
    settings = Settings(
        chosen.engines,
        chosen.threads,
        chosen.batch,
        chosen.rounds,
        chosen.seconds,
        chosen.calibrate,
        chosen.judge,
    )
    run = Run(machine(), {**vars(settings), "quick": chosen.quick})
    start = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - start:5.0f} s] {text}", file=sys.stderr, flush=True)

    for subject in subjects(chosen):
        say(subject.model.title)
        run.models.append(ModelRun(subject, settings, work, say).run())
        run.write(chosen.out / "bench.json")
    return run


def show(run: Run, out: Path) -> None:
    """Print the tables, and write them and the picture to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = report(run)
    print(text)
    (out / "bench.md").write_text(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    from benchmarks.plot import plot

    plot(run, out / "bench.png")


def main() -> None:
    warnings.simplefilter("ignore")
    chosen = arguments()
    if chosen.show is not None:
        run = Run.read(chosen.show)
    elif chosen.work is not None:
        run = measure(chosen, chosen.work.resolve())
    else:
        with tempfile.TemporaryDirectory() as folder:
            run = measure(chosen, Path(folder))
    show(run, chosen.out)


if __name__ == "__main__":
    main()
