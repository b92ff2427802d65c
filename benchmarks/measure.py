"""How the benchmarks measure: times of contenders taken in turns, sizes of saved files, tables to read."""

import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch


def interleaved_medians(contenders: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median milliseconds of each contender on one thread.

    They take turns, one call each a round: a machine that slows down for a while slows all of them.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for call in contenders.values():
                for _ in range(3):
                    call()
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(rounds):
                for name, call in contenders.items():
                    start = time.perf_counter()
                    call()
                    times[name].append(1000 * (time.perf_counter() - start))
    finally:
        torch.set_num_threads(before)
    return {name: statistics.median(samples) for name, samples in times.items()}


def saved_size(model: torch.jit.ScriptModule) -> int:
    """Bytes that torch.jit.save writes for `model`."""
    buffer = io.BytesIO()
    torch.jit.save(model, buffer)
    return buffer.getbuffer().nbytes


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
