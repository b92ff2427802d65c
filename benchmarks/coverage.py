"""What becomes of torchvision's networks: converted, saved, loaded and compared with float, one row each.

    python -m benchmarks.coverage                                  one size of each family
    python -m benchmarks.coverage --all                            every size
    python -m benchmarks.coverage --models swin_t --engines jitquant-native

Classification, segmentation and video networks with random weights and uneven batch norms, on random input,
scripted and traced. Each row is made by processes of its own under a time limit: a crash or a hang is a row
too. Writes coverage.json and coverage.md.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.coverage_worker import ENGINES, FORMS
from benchmarks.report import number, table
from benchmarks.session import QUIET, REPOSITORY

# One size of each architecture.
FAMILIES = (
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet"),
    *("inception_v3", "maxvit_t", "mnasnet1_0", "mobilenet_v2", "mobilenet_v3_large", "mobilenet_v3_small"),
    *("regnet_x_400mf", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d", "shufflenet_v2_x1_0"),
    *("squeezenet1_0", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_16"),
    "wide_resnet50_2",
    *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large"),
    *("mc3_18", "mvit_v1_b", "mvit_v2_s", "r2plus1d_18", "r3d_18", "s3d", "swin3d_t"),
)
PEER = "torch-jit"
FEW_INTEGERS, LONG_CONVERSION = 0.95, 3.0


@dataclass
class Row:
    """A network in a form under an engine. What did not come about is None, and `error` says why.

    `step` is the last that was begun: scripted or traced, float, prepare, calibrate, convert, save, load,
    run, count, time.
    """

    model: str
    form: str
    engine: str
    step: str = ""
    error: str | None = None
    prepare_s: float | None = None
    convert_s: float | None = None
    file_mb: float | None = None
    sqnr_db: float | None = None
    finite: bool | None = None
    multiply_adds: int | None = None
    integer_share: float | None = None
    float_ms: float | None = None
    ms: float | None = None

    @property
    def seconds(self) -> float | None:
        """Of conversion, without calibration."""
        return None if self.prepare_s is None or self.convert_s is None else self.prepare_s + self.convert_s

    @property
    def time_share(self) -> float | None:
        """Its time as a part of float's."""
        return None if self.ms is None or self.float_ms is None else self.ms / self.float_ms

    @property
    def has_no_float(self) -> bool:
        """Whether the network itself cannot be scripted, traced or run, which is no engine's fault."""
        return self.error is not None and self.step in (*FORMS, "float")


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.coverage",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help="of torchvision; one size of each family by default")
    add("--all", action="store_true", help="every size of every family")
    add("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    add("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    add("--limit", type=float, default=300.0, metavar="SECONDS", help="that a process may take")
    add("--seconds", type=float, default=3.0, help="of calls that a median is taken of")
    add("--jobs", type=int, default=1, metavar="N", help="so many at once, which spoils the times")
    add("--out", type=Path, default=Path("out"), help="folder for what is written")
    add("--keep", action="store_true", help="keep the rows that coverage.json has from before")
    add("--show", type=Path, help="measure nothing; show this JSON file of an earlier run")
    chosen = parser.parse_args(given)
    if chosen.all and chosen.models:
        parser.error("--all and --models say different things")
    if chosen.jobs < 1 or chosen.limit <= 0:
        parser.error("--jobs and --limit are positive")
    if chosen.models is None:
        chosen.models = every_model() if chosen.all else list(FAMILIES)
    return chosen


def every_model() -> list[str]:
    """All of torchvision that is not detection, optical flow or quantized already."""
    from tests.networks import torchvision_models

    models = torchvision_models()
    parts = (models, models.segmentation, models.video)
    return [name for part in parts for name in models.list_models(module=part)]


def measure(row: Row, log: Path, *, limit: float, seconds: float) -> Row:
    """Fill in a row: a process that converts, then one that loads what came of it."""
    with tempfile.TemporaryDirectory() as folder:
        for step in ("convert", "run"):
            if row.error is None:
                _step(row, [step, folder, str(seconds)], log, limit)
    return row


def _step(row: Row, what: Sequence[str], log: Path, limit: float) -> None:
    command = [sys.executable, "-m", "benchmarks.coverage_worker", row.model, row.form, row.engine]
    with log.open("ab") as errors:
        try:
            done = subprocess.run(
                [*command, *what],
                stdout=subprocess.PIPE,
                stderr=errors,
                cwd=REPOSITORY,
                env={**os.environ, **QUIET, "OMP_NUM_THREADS": "1"},
                timeout=limit,
            )
            said, status = done.stdout, done.returncode
        except subprocess.TimeoutExpired as expired:
            said, status = expired.stdout or b"", None
    for line in said.splitlines():
        for name, value in json.loads(line).items():
            setattr(row, name, value)
    if status is None:
        row.error = f"not done within {limit:.0f} s"
    elif status != 0:
        row.error = f"the process ended with {ending(status)}"


def ending(status: int) -> str:
    import signal

    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def report(rows: Sequence[Row]) -> str:
    """What falls short, worst first, and the table of all rows, as Markdown."""
    parts = ["## What falls short"]
    for title, lines in shortcomings(rows):
        parts.append(
            f"{title}: {len(lines)}" + ("\n\n" + "\n".join(f"- {line}" for line in lines) if lines else "")
        )
    return "\n\n".join([*parts, "## All", table(cells(rows))]) + "\n"


def shortcomings(rows: Sequence[Row]) -> list[tuple[str, list[str]]]:
    """Each kind of shortcoming of jitquant's engines with its rows, worst first."""
    ours = [row for row in rows if row.engine != PEER and not row.has_no_float]
    peers = {(row.model, row.form): row.sqnr_db for row in rows if row.engine == PEER}
    behind = {}
    for row in ours:
        peer = peers.get((row.model, row.form))
        if row.sqnr_db is not None and peer is not None and row.sqnr_db < peer:
            behind[id(row)] = peer - row.sqnr_db

    def worst(
        of: Callable[[Row], float | None], is_bad: Callable[[float], bool], sign: int, say: str
    ) -> list[str]:
        found = [(value, row) for row in ours if (value := of(row)) is not None and is_bad(value)]
        found.sort(key=lambda pair: sign * pair[0], reverse=True)
        return [f"{title_of(row)}: {say.format(value)}" for value, row in found]

    failed = [f"{title_of(row)}: {row.step}: {row.error}" for row in ours if row.error is not None]
    not_finite = [f"{title_of(row)}: not finite" for row in ours if row.finite is False]
    slower = worst(lambda row: row.time_share, lambda share: share > 1, 1, "{:.2f} of the time of float")
    behind_peer = worst(lambda row: behind.get(id(row)), lambda gap: gap > 0, 1, "{:.1f} dB")
    low = worst(lambda row: row.integer_share, lambda share: share < FEW_INTEGERS, -1, "{:.1%}")
    long = worst(lambda row: row.seconds, lambda seconds: seconds > LONG_CONVERSION, 1, "{:.1f} s")
    no_float = [
        f"{row.model} {row.form}: {row.error}" for row in _one_each(row for row in rows if row.has_no_float)
    ]
    return [
        ("Failures", failed + not_finite),
        (f"SQNR below that of {PEER}", behind_peer),
        ("Slower than float", slower),
        (f"Less than {FEW_INTEGERS:.0%} of the multiply-adds in integer", low),
        (f"Conversion of more than {LONG_CONVERSION:.0f} s", long),
        ("Networks that cannot be scripted or traced, whatever the engine", no_float),
    ]


def _one_each(rows: Iterable[Row]) -> list[Row]:
    return list({(row.model, row.form): row for row in rows}.values())


def title_of(row: Row) -> str:
    return f"{row.model} {row.form} {row.engine}"


def cells(rows: Sequence[Row]) -> list[list[str]]:
    head = ["model", "form", "engine", "result", "convert s", "SQNR dB", "ms", "float ms", "of float"]
    lines = [[*head, "integer %"]]
    for row in rows:
        result = "ok" if row.error is None else f"{row.step}: {row.error}"
        lines.append(
            [
                *(row.model, row.form, row.engine, result.replace("|", "/")),
                number(row.seconds, 2),
                number(row.sqnr_db, 1),
                number(row.ms, 2),
                number(row.float_ms, 2),
                number(row.time_share, 2),
                number(None if row.integer_share is None else 100 * row.integer_share, 1),
            ]
        )
    return lines


def read(file: Path) -> list[Row]:
    return [Row(**entry) for entry in json.loads(file.read_text())["rows"]]


def write(rows: Sequence[Row], machine: dict[str, Any], file: Path) -> None:
    content = {"machine": machine, "rows": [asdict(row) for row in rows]}
    file.write_text(json.dumps(content, indent=1) + "\n")


def measure_all(chosen: argparse.Namespace) -> list[Row]:
    """All rows, engine after engine; the JSON file is written after each."""
    from benchmarks.machine import machine

    file, begin, facts = chosen.out / "coverage.json", time.monotonic(), machine()
    wanted = product(chosen.engines, chosen.models, chosen.forms)
    rows = [Row(model, form, engine) for engine, model, form in wanted]
    wanted_titles = {title_of(row) for row in rows}
    before = read(file) if chosen.keep and file.exists() else []
    done = [row for row in before if title_of(row) not in wanted_titles]

    def measured(row: Row) -> Row:
        return measure(row, chosen.out / "coverage.log", limit=chosen.limit, seconds=chosen.seconds)

    with ThreadPoolExecutor(chosen.jobs) as pool:
        for row in pool.map(measured, rows):
            said = "ok" if row.error is None else f"{row.step}: {row.error}"
            print(f"[{time.monotonic() - begin:5.0f} s] {title_of(row)}: {said}", file=sys.stderr, flush=True)
            done.append(row)
            write(done, facts, file)
    return done


def main() -> None:
    chosen = arguments()
    chosen.out.mkdir(parents=True, exist_ok=True)
    rows = read(chosen.show) if chosen.show is not None else measure_all(chosen)
    text = report(rows)
    print(text)
    (chosen.out / "coverage.md").write_text(text)


if __name__ == "__main__":
    main()
