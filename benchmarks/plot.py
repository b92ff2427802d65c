"""The figures as a picture: ratios to the best peer with their spread, and accuracy beside speed."""

import math
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot, ticker

from benchmarks.engines import Role
from benchmarks.figures import ModelFigures, Run, Timing
from benchmarks.report import compare, medians

COLUMNS = 4
MARKERS = {Role.JITQUANT: "*", Role.PEER: "o"}


def plot(run: Run, file: Path) -> None:
    """Write the picture of `run` to `file`."""
    rows = max(1, math.ceil(len(run.models) / COLUMNS))
    figure = pyplot.figure(figsize=(16, 4.5 + 3.4 * rows), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=[4.5, 3.4 * rows])
    _ratios(run, above.subplots())
    panels = below.subplots(rows, COLUMNS, squeeze=False).flatten()
    colours = _colours(run)
    for panel, model in zip(panels, run.models, strict=False):
        _scatter(model, panel, colours)
    for panel in panels[len(run.models) :]:
        panel.set_axis_off()
    _legend(run, below, colours)
    figure.savefig(file, dpi=110)
    pyplot.close(figure)


def _ratios(run: Run, axes: Any) -> None:
    """For each model and setting, jitquant's time against the best peer's, and its spread over the rounds."""
    settings = list(dict.fromkeys((t.threads, t.batch) for model in run.models for t in model.timings))
    for position, (threads, batch) in enumerate(settings):
        points = [
            (place + 0.8 * (position + 0.5) / len(settings) - 0.4, compared)
            for place, model in enumerate(run.models)
            for timing in model.timings
            if (timing.threads, timing.batch) == (threads, batch) and (compared := compare(model, timing))
        ]
        axes.errorbar(
            [place for place, _ in points],
            [compared.ratio for _, compared in points],
            yerr=[
                [compared.ratio - compared.low for _, compared in points],
                [compared.high - compared.ratio for _, compared in points],
            ],
            fmt="o",
            capsize=3,
            label=f"{threads} thread{'s' if threads > 1 else ''}, batch {batch}",
        )
    axes.axhline(1, color="grey", linewidth=1)
    axes.set_xticks(range(len(run.models)), [model.title.replace(", ", "\n") for model in run.models])
    axes.set_ylim(bottom=0)
    axes.set_ylabel("jitquant's time / best peer's\n(below 1: jitquant is faster)")
    axes.set_title(run.machine["processor"])
    axes.grid(axis="y", alpha=0.3)
    if settings:
        axes.legend()


def _scatter(model: ModelFigures, axes: Any, colours: dict[str, Any]) -> None:
    """Speed against accuracy of everything quantized, at the first setting."""
    timing = model.timings[0] if model.timings else Timing(1, 1)
    times = medians(timing)
    for engine in model.engines:
        if engine.role in MARKERS and engine.engine in times and engine.sqnr_db is not None:
            role = Role(engine.role)
            size = 160 if role == Role.JITQUANT else 60
            place = times[engine.engine], engine.sqnr_db
            axes.scatter(*place, s=size, marker=MARKERS[role], color=colours[engine.engine], alpha=0.85)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    axes.set_title(f"{model.title}\n{timing.threads} thread, batch {timing.batch}", fontsize=10)
    axes.set_xlabel("ms (left is faster)")
    axes.set_ylabel("SQNR, dB (up is nearer to float)")
    axes.grid(alpha=0.3, which="both")


def _colours(run: Run) -> dict[str, Any]:
    names = dict.fromkeys(engine.engine for model in run.models for engine in model.engines)
    palette = pyplot.get_cmap("tab20").colors
    return {name: palette[position % len(palette)] for position, name in enumerate(names)}


def _legend(run: Run, figure: Any, colours: dict[str, Any]) -> None:
    roles = {engine.engine: engine.role for model in run.models for engine in model.engines}
    handles = [
        pyplot.Line2D([], [], linestyle="", marker=MARKERS[Role(role)], color=colours[name], label=name)
        for name, role in roles.items()
        if role in MARKERS
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=5, fontsize=9)
