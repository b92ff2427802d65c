"""How much accuracy each way to quantize keeps, and what it takes: jitquant's presets beside its peers.

    python -m benchmarks.accuracy                                      EfficientNet-Lite0 and MiniLM
    python -m benchmarks.accuracy --quick                              fewer photographs and passages
    python -m benchmarks.accuracy --presets fast accurate --ablation   which method gives how much
    python -m benchmarks.accuracy --model file.pt --input module:function --classifies
    python -m benchmarks.accuracy --show out/accuracy.json             the tables of an earlier run

`file.pt` is what torch.jit.save wrote. Its samples are a file that torch.save wrote, or what a function of
yours gives: a tensor with one sample a row (or a list of one for each argument); a quarter of the rows
calibrates, the others judge. Every row is made in a process of its own. Writes accuracy.json and accuracy.md.
"""

import argparse
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

from benchmarks.command_line import add_models, fill_in, positive, progress, subjects, work_folder
from benchmarks.engines import ENGINES, REFERENCE, Role, Variant
from benchmarks.engines.with_jitquant import takes
from benchmarks.figures import EngineFigures, ModelFigures, Run
from benchmarks.machine import machine
from benchmarks.models import MODELS, TOKENS_OF_MINILM
from benchmarks.report import machine_line, notes, number, percent, table
from benchmarks.run import ModelRun, Settings

JUDGED_MODELS = {"efficientnet_lite0": MODELS["efficientnet_lite0"], "minilm": TOKENS_OF_MINILM}
DEFAULT_ENGINES = ["jitquant-native", "ort-int8", "openvino-int8"]
PRESETS = ("fast", "balanced", "accurate")
METHODS = ("equalize", "smooth_inputs", "round_weights", "correct_bias")
FULL = {"calibrate": 32, "judge": 0}
QUICK = {"calibrate": 16, "judge": 64}

LEGEND = """\
SQNR is of the outputs against float; the cosine is of whole outputs, or of the means over tokens. Seconds are
those of prepare, calibrate and convert in a process of its own, of the wall and of the processor in all
threads, without the export to ONNX that some engines start from. Calibration is a part of them; float's is
the plain passes over the same samples, and *of float passes* compares the processor's time with those."""


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what --quick means filled in."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_models(parser, JUDGED_MODELS)
    add = parser.add_argument
    add("--engines", nargs="+", choices=ENGINES, default=DEFAULT_ENGINES, metavar="NAME")
    add("--presets", nargs="+", choices=PRESETS, default=list(PRESETS), help="of quantize_jit")
    add("--ablation", action="store_true", help="switch the single methods on and off, one by one")
    add("--threads", type=positive, default=1, metavar="N", help="that the judged rows run on")
    add("--quick", action="store_true", help="fewer samples")
    chosen = parser.parse_args(given)
    fill_in(chosen, parser, JUDGED_MODELS, QUICK if chosen.quick else FULL)
    return chosen


def variants(engines: Sequence[str], presets: Sequence[str], *, ablation: bool) -> dict[str, Variant]:
    """The rows of a table: float, jitquant's engines with all that is asked of each, and the peers."""
    rows = {REFERENCE: Variant(REFERENCE)}
    for name in engines:
        if ENGINES[name].role == Role.JITQUANT:
            for title, keywords in choices(presets, ablation=ablation).items():
                rows[f"{name} {title}".strip()] = Variant(name, {"keywords": keywords})
        else:
            rows[name] = Variant(name)
    return rows


def choices(presets: Sequence[str], *, ablation: bool) -> dict[str, dict[str, Any]]:
    """Keywords of quantize_jit under the names of their rows; those that it has not are left out."""
    found: dict[str, dict[str, Any]] = {"": {}}
    if takes("preset"):
        found = {preset: {"preset": preset} for preset in presets}
    methods = [method for method in METHODS if takes(method)] if ablation else []
    if not methods:
        return found
    off, on = dict.fromkeys(methods, False), dict.fromkeys(methods, True)
    found["no method"] = off
    for method in methods:
        found[f"{method} alone"] = {**off, method: True}
    if len(methods) > 1:
        for method in methods:
            found[f"all but {method}"] = {**on, method: False}
        found["all methods"] = on
    return found


def measure(chosen: argparse.Namespace, work: Path) -> Run:
    """Measure everything; the JSON file is written after each model, so that nothing is lost on the way."""
    rows = variants(chosen.engines, chosen.presets, ablation=chosen.ablation)
    settings = Settings(list(rows), [chosen.threads], [1], 0, 0.0, chosen.calibrate, chosen.judge)
    run, say = Run(machine(), {**vars(settings), "quick": chosen.quick}), progress()
    for subject in subjects(chosen, JUDGED_MODELS):
        say(subject.model.title)
        run.models.append(ModelRun(subject, settings, work, say, rows).run_untimed())
        run.write(chosen.out / "accuracy.json")
    return run


def report(run: Run) -> str:
    """The whole report, as Markdown."""
    parts = [machine_line(run), LEGEND]
    for model in run.models:
        origin = (
            f"Calibrated on at most {run.settings['calibrate']} of {model.samples}, judged on {model.judged}."
        )
        parts += [f"### {model.title}", origin, table(cells(model)), *notes(model)]
    return "\n\n".join(parts) + "\n"


def cells(model: ModelFigures) -> list[list[str]]:
    """One row for each variant; columns that no row has are left out."""
    head = ["", "top-1 %", "same top-1 %", "SQNR dB", "cosine", "seconds", "processor s", "calibrate s"]
    lines = [[*head, "processor s", "of float passes", "file MB"]]
    # A busy machine stretches the wall's time, and not of all rows alike.
    passes = model.engine(REFERENCE).calibrate_processor_seconds
    for row in model.engines:
        calibrating = row.calibrate_processor_seconds
        ratio = calibrating / passes if calibrating and passes else None
        is_float = row.role == Role.FLOAT
        lines.append(
            [
                row.engine,
                percent(row.top1, 2),
                percent(row.same_top1, 1),
                number(row.sqnr_db, 1),
                "" if is_float else number(row.cosine, 4),
                "" if is_float else number(seconds_of(row), 2),
                "" if is_float else number(processor_seconds_of(row), 2),
                number(row.calibrate_seconds or None, 2),
                number(calibrating or None, 2),
                number(ratio, 2),
                number(row.file_mb, 1),
            ]
        )
    kept = [column for column in range(len(lines[0])) if any(line[column] for line in lines[1:])]
    return [[line[column] for column in kept] for line in lines]


def seconds_of(row: EngineFigures) -> float | None:
    """Of the wall, to quantize what was exported already."""
    return None if row.convert_seconds is None else row.convert_seconds - (row.export_seconds or 0)


def processor_seconds_of(row: EngineFigures) -> float | None:
    """The same of the processor."""
    whole = row.convert_processor_seconds
    return None if whole is None else whole - (row.export_processor_seconds or 0)


def main() -> None:
    warnings.simplefilter("ignore")
    chosen = arguments()
    if chosen.show is not None:
        run = Run.read(chosen.show)
    else:
        missing = [name for name in ("preset", *(METHODS if chosen.ablation else ())) if not takes(name)]
        if missing:
            print(f"quantize_jit has no {', '.join(missing)}: without rows of these", file=sys.stderr)
        with work_folder(chosen) as work:
            run = measure(chosen, work)
    chosen.out.mkdir(parents=True, exist_ok=True)
    text = report(run)
    print(text)
    (chosen.out / "accuracy.md").write_text(text)


if __name__ == "__main__":
    main()
