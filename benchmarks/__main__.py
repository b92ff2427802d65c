"""jitquant beside its peers: speed, accuracy, memory and size of every model of the table and of your own.

    python -m benchmarks                                      everything, about 25 minutes on two processors
    python -m benchmarks --quick                              batch 1 on one thread, about 5 minutes
    python -m benchmarks --dynamic                            dynamic quantization, one thread, batch 1
    python -m benchmarks --model file.pt --input input.pt     a model of your own
    python -m benchmarks --models efficientnet_lite0 --judge 0    accuracy over all photographs
    python -m benchmarks --show out/bench.json                tables and picture of an earlier run

`file.pt` is what torch.jit.save wrote, `input.pt` a tensor with one sample a row (or a list of one tensor for
each argument) that torch.save wrote, or `module:function` that gives as much; a quarter of the rows
calibrates, the others judge. Writes bench.json, bench.md and bench.png, or dynamic.json and so on.
"""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

from benchmarks.command_line import add_models, fill_in, positive, progress, subjects, work_folder
from benchmarks.engines import ENGINES, REFERENCE
from benchmarks.figures import Run
from benchmarks.machine import machine
from benchmarks.models import DYNAMIC_MODELS, MODELS
from benchmarks.report import report
from benchmarks.run import ModelRun, Settings

FULL = {"threads": [1, 2], "batch": [1, 8], "rounds": 5, "seconds": 0.3, "calibrate": 32, "judge": 64}
DYNAMIC = {"threads": [1], "batch": [1], "rounds": 5, "seconds": 0.3, "calibrate": 1, "judge": 64}
QUICK = {"threads": [1], "batch": [1], "rounds": 3, "seconds": 0.2, "calibrate": 16, "judge": 32}


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what --quick means filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_models(parser, {**MODELS, **DYNAMIC_MODELS})
    add = parser.add_argument
    add(
        "--dynamic",
        action="store_true",
        help="dynamic quantization, one thread, batch 1",
    )
    add("--engines", nargs="+", choices=ENGINES, metavar="NAME", help=f"of {', '.join(ENGINES)}")
    add("--threads", nargs="+", type=positive, metavar="N")
    add("--batch", nargs="+", type=positive, metavar="N")
    add("--rounds", type=positive, metavar="N")
    add("--seconds", type=float, help="of calls that a median is taken of")
    add("--quick", action="store_true", help="fewer engines, one thread, batch 1, three rounds")
    chosen = parser.parse_args(given)
    defaults = QUICK if chosen.quick else DYNAMIC if chosen.dynamic else FULL
    fill_in(chosen, parser, DYNAMIC_MODELS if chosen.dynamic else MODELS, defaults)
    chosen.engines = _with_reference(chosen.engines, quick=chosen.quick, dynamic=chosen.dynamic)
    return chosen


def _with_reference(names: Sequence[str] | None, *, quick: bool, dynamic: bool = False) -> list[str]:
    """Engines in the order of the table; float is always among them, since outputs are judged against it."""
    if names is None:
        names = [
            name
            for name, engine in ENGINES.items()
            if engine.dynamic == dynamic and (engine.quick or not quick)
        ]
    return [name for name in ENGINES if name in names or name == REFERENCE]


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
    run, say = Run(machine(), {**vars(settings), "quick": chosen.quick}), progress()
    for subject in subjects(chosen, {**MODELS, **DYNAMIC_MODELS}):
        say(subject.model.title)
        run.models.append(ModelRun(subject, settings, work, say).run())
        run.write(chosen.out / f"{file_name(chosen)}.json")
    return run


def file_name(chosen: argparse.Namespace) -> str:
    """Of what is written, without its ending."""
    return "dynamic" if chosen.dynamic else "bench"


def show(run: Run, out: Path, name: str) -> None:
    """Print the tables, and write them and the picture to the folder `out`."""
    out.mkdir(parents=True, exist_ok=True)
    text = report(run)
    print(text)
    (out / f"{name}.md").write_text(text)
    if importlib.util.find_spec("matplotlib") is None:
        print("no picture: matplotlib is not installed", file=sys.stderr)
        return
    from benchmarks.plot import plot

    plot(run, out / f"{name}.png")


def main() -> None:
    warnings.simplefilter("ignore")
    chosen = arguments()
    if chosen.show is not None:
        run = Run.read(chosen.show)
    else:
        with work_folder(chosen) as work:
            run = measure(chosen, work)
    show(run, chosen.out, file_name(chosen))


if __name__ == "__main__":
    main()
