"""What is read off the figures: ratios to the best peer with their spread, and tables."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.engines import REFERENCE, Role
from benchmarks.figures import EngineFigures, ModelFigures, Run, Timing

LEGEND = """\
*Time against peer* is jitquant's time divided by the best peer's (below 1 is faster), in brackets the lowest
and highest of the rounds. SQNR is of the outputs against float. *Same answer* is the share of the same top-1
as float, or the mean cosine of outputs where the model does not classify."""


@dataclass(frozen=True)
class Comparison:
    """The fastest of jitquant's engines beside the fastest peer: time against its time, below 1 is faster.

    Both are chosen by their medians over all rounds. The ratio is taken within each round; here are the
    median, the lowest and the highest.
    """

    ours: str
    peer: str
    ratio: float
    low: float
    high: float


def medians(timing: Timing) -> dict[str, float]:
    """The milliseconds of each engine: the median over the rounds that have it."""
    names = dict.fromkeys(name for measured in timing.rounds for name in measured)
    return {name: statistics.median(m[name] for m in timing.rounds if name in m) for name in names}


def fastest(model: ModelFigures, timing: Timing, role: Role) -> str | None:
    """The fastest engine of a role, None if none was measured."""
    of_role = {figures.engine for figures in model.engines if figures.role == role}
    times = {name: time for name, time in medians(timing).items() if name in of_role}
    return min(times, key=lambda name: times[name], default=None)


def compare(model: ModelFigures, timing: Timing) -> Comparison | None:
    """None if either side is missing, or the two were never measured in the same round."""
    ours, peer = fastest(model, timing, Role.JITQUANT), fastest(model, timing, Role.PEER)
    if ours is None or peer is None:
        return None
    ratios = [m[ours] / m[peer] for m in timing.rounds if ours in m and peer in m]
    if not ratios:
        return None
    return Comparison(ours, peer, statistics.median(ratios), min(ratios), max(ratios))


def report(run: Run) -> str:
    """The whole report, as Markdown."""
    parts = [heading(run), table(summary(run.models))]
    for model in run.models:
        parts += [f"### {model.title}", f"Judged on {model.judged} rows: {model.samples}."]
        parts += [table(details(model)), *notes(model)]
    return "\n\n".join(part for part in parts if part) + "\n"


def machine_line(run: Run) -> str:
    machine = run.machine
    flags = ", ".join(machine["flags"])
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    return (
        f"{machine['processor']}, {machine['processors']} processors ({flags}), "
        f"load {machine.get('load', 0):.1f} before it began; {versions}."
    )


def heading(run: Run) -> str:
    return (
        f"{machine_line(run)} Median of {run.settings['rounds']} rounds, every engine in a process of its "
        f"own and in turns.\n\n{LEGEND}"
    )


def summary(models: Iterable[ModelFigures]) -> list[list[str]]:
    """One row for each model, number of threads and batch."""
    head = ["model", "threads", "batch", "float ms", "jitquant", "ms", "best peer", "ms", "time against peer"]
    lines = [[*head, "SQNR dB", "peer's", "same answer", "peer's"]]
    for model in models:
        lines += [_summary_row(model, timing) for timing in model.timings]
    return lines


def _summary_row(model: ModelFigures, timing: Timing) -> list[str]:
    times = medians(timing)
    ours, peer = fastest(model, timing, Role.JITQUANT), fastest(model, timing, Role.PEER)
    compared = compare(model, timing)
    ratio = f"{compared.ratio:.2f} ({compared.low:.2f}–{compared.high:.2f})" if compared else ""
    verdicts = [model.engine(name) if name else None for name in (ours, peer)]
    return [
        model.title,
        str(timing.threads),
        str(timing.batch),
        number(times.get(REFERENCE), 2),
        ours or "",
        number(times[ours], 2) if ours else "",
        peer or "",
        number(times[peer], 2) if peer else "",
        ratio,
        *(number(figures.sqnr_db, 1) if figures else "" for figures in verdicts),
        *(agreement(figures) if figures else "" for figures in verdicts),
    ]


def details(model: ModelFigures) -> list[list[str]]:
    """One row for each engine."""
    columns = [f"{t.threads} thr., batch {t.batch}, ms" for t in model.timings]
    costs = ["convert s", "convert peak MB", "load s", "peak MB", "file MB"]
    with_labels = any(figures.top1 is not None for figures in model.engines)
    head = ["engine", *columns, "SQNR dB", "same answer", *(["top-1 %"] if with_labels else []), *costs]
    times = [medians(timing) for timing in model.timings]
    lines = [head]
    for figures in model.engines:
        load = figures.loads[0] if figures.loads else None
        lines.append(
            [
                figures.engine,
                *(number(setting.get(figures.engine), 2) for setting in times),
                number(figures.sqnr_db, 1),
                agreement(figures),
                *([percent(figures.top1, 2)] if with_labels else []),
                number(figures.convert_seconds, 1),
                number(figures.convert_peak_mb, 0),
                number(load.seconds if load else None, 2),
                number(load.peak_mb if load else None, 0),
                number(figures.file_mb, 1),
            ]
        )
    return lines


def notes(model: ModelFigures) -> list[str]:
    """What failed, engine by engine."""
    lines = [f"- {figures.engine}: {note}" for figures in model.engines for note in figures.notes]
    return ["\n".join(lines)] if lines else []


def agreement(figures: EngineFigures) -> str:
    if figures.same_top1 is not None:
        return f"{percent(figures.same_top1, 1)} %"
    return number(figures.cosine, 4)


def percent(share: float | None, digits: int) -> str:
    return number(None if share is None else 100 * share, digits)


def number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"


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
