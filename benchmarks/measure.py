"""How the benchmarks measure: models as once saved and loaded, times taken in turns, readable tables."""

import io
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Runs what is inside on one thread. Load models inside: weights are laid out for a number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def saved(model: torch.jit.ScriptModule) -> bytes:
    """What torch.jit.save writes for `model`."""
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    return buffer.getvalue()


def loaded(content: bytes) -> torch.jit.ScriptModule:
    """The model that `saved` gave the content of, as it is where it was deployed."""
    return torch.jit.load(io.BytesIO(content))


def interleaved_medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median milliseconds of each contender.

    They take turns, one call each a round: a machine that slows down for a while slows all of them.
    """
    times: dict[str, list[float]] = {name: [] for name in contenders}
    with torch.inference_mode():
        for call in contenders.values():
            for _ in range(3):
                call()
        for _ in range(rounds):
            for name, call in contenders.items():
                call()  # not counted: what ran before has filled the caches
                start = time.perf_counter()
                call()
                times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(samples) for name, samples in times.items()}


def processor() -> str:
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.split(": ", 1)[1] for line in lines if line.startswith("model name")), platform.machine()
    )


def table(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as a Markdown table, the first as its head; all columns but the first are set to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join([first, *others])} |"

    return "\n".join([line(rows[0]), line(rule), *(line(row) for row in rows[1:])])
