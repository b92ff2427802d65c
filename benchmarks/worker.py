"""A process of its own for one engine: it converts, loads, judges and measures as it is told over a pipe.

It reads one JSON object a line and answers each with one. What libraries print goes to standard error.
"""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clock import Clock
from benchmarks.engines import ENGINES, Engine, Runner, Unavailable
from benchmarks.samples import rows, saved_arrays

WARM_CALLS, WARM_SECONDS = 5, 1.0
LONGEST_NOTE = 160

Answer = dict[str, Any]


class Worker:
    """What is loaded for one engine, and the commands on it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.runners: dict[int, Runner] = {}
        self.calls: dict[int, Callable[[], Any]] = {}

    def convert(self, model: list[str], samples: str, folder: str) -> Answer:
        """Quantize, or whatever the engine does to have a file to deploy."""
        from benchmarks.models import chosen_model
        from benchmarks.subject import subject_of

        self.engine.warm_imports(self.engine.converter)
        subject = subject_of(chosen_model(model), Path(samples))
        before = peak_megabytes()
        with Clock() as clock:
            file = self.engine.convert(subject, Path(folder))
        return {
            "seconds": clock.wall,
            "processor_seconds": clock.processor,
            "export_seconds": subject.exporting.wall,
            "export_processor_seconds": subject.exporting.processor,
            "calibrate_seconds": subject.calibrating.wall,
            "calibrate_processor_seconds": subject.calibrating.processor,
            "peak_mb": peak_megabytes(),
            "before_mb": before,
            "file": str(file),
            "file_mb": (file.stat().st_size + weights_beside(file)) / 2**20,
        }

    def float_passes(self, model: list[str], samples: str) -> Answer:
        """What it takes to show the float network all that others calibrate on."""
        from benchmarks.models import chosen_model
        from benchmarks.subject import subject_of

        subject = subject_of(chosen_model(model), Path(samples))
        warm_up(lambda: subject.script(*subject.calibration[0]))
        subject.calibrate(subject.script)
        return {
            "calibrate_seconds": subject.calibrating.wall,
            "calibrate_processor_seconds": subject.calibrating.processor,
        }

    def load(self, file: str, samples: str, threads: int, batches: list[int]) -> Answer:
        """Load for each batch anew, as what an engine learns about one shape may not suit another."""
        self.engine.warm_imports(self.engine.loader)
        judged = saved_arrays(Path(samples), "judged")
        notes, seconds = {}, None
        for batch in batches:
            start = time.perf_counter()
            try:
                runner = self.engine.load(Path(file), threads, batch)
                seconds = seconds or time.perf_counter() - start
                call = runner.bind(rows(judged, 0, batch))
                warm_up(call)
            except Exception as error:
                notes[batch] = in_a_line(error)
                continue
            self.runners[batch], self.calls[batch] = runner, call
        if not self.calls:
            raise Unavailable(notes[batches[0]])
        return {"seconds": seconds, "peak_mb": peak_megabytes(), "notes": notes}

    def judge(self, samples: str, outputs: str) -> Answer:
        """Run all that is held out, and write what came out, a row each sample."""
        judged = saved_arrays(Path(samples), "judged")
        batch, runner = next(iter(self.runners.items()))
        count = len(judged[0])
        parts = []
        for start in range(0, count, batch):
            arrays = runner.arrays(runner.bind(rows(judged, start, batch))())
            parts.append(np.concatenate([array.reshape(len(array), -1) for array in arrays], axis=1))
        np.save(outputs, np.concatenate(parts)[:count])
        return {}

    def measure(self, batch: int, seconds: float) -> Answer:
        """The median time of a call, of as many as fit into `seconds`, after one that is not counted."""
        call = self.calls[batch]
        call()
        times: list[float] = []
        end = time.perf_counter() + seconds
        while not times or time.perf_counter() < end:
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return {"ms": 1000 * statistics.median(times), "calls": len(times)}


def warm_up(call: Callable[[], Any]) -> None:
    """TorchScript specializes a model in its first calls; a slow one is not called as often."""
    end = time.perf_counter() + WARM_SECONDS
    for _ in range(WARM_CALLS):
        call()
        if time.perf_counter() > end:
            break


def peak_megabytes() -> float:
    """The most memory this process ever had. (getrusage would count what the parent had when it forked.)"""
    status = Path("/proc/self/status").read_text()
    return float(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def weights_beside(file: Path) -> int:
    """OpenVINO keeps weights in a file of their own."""
    weights = file.with_suffix(".bin")
    return weights.stat().st_size if weights.exists() else 0


def in_a_line(error: BaseException) -> str:
    """An exception as a note: its kind unless the message says it all, and the first line of the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    message = lines[0] if lines else ""
    if not isinstance(error, Unavailable):
        message = f"{type(error).__name__}: {message}" if message else type(error).__name__
    return message if len(message) <= LONGEST_NOTE else message[: LONGEST_NOTE - 1] + "…"


def main() -> None:
    warnings.simplefilter("ignore")
    engine = ENGINES[sys.argv[1]]
    worker = Worker(replace(engine, options={**engine.options, **json.loads(sys.argv[2])}))
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:
            import traceback

            traceback.print_exc()
            answer = {"error": in_a_line(error)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
