"""How near debug models come to the integer model: the share of equal outputs, and the SQNR of the others.

    python -m benchmarks.debug_modes                             EfficientNet-Lite0, 100 photographs
    python -m benchmarks.debug_modes --photographs 8 --engines native

Each engine's integer model of EfficientNet-Lite0 (32 photographs calibrate, the default qconfig) is compared
with debug=True and debug="exact"; PyTorch's own quantize_jit, with its default qconfig, with its debug=True.
Without the folder of photographs random images are used. *Time* is that of a call, against the integer model.
"""

import argparse
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import jitquant
from benchmarks.report import table
from jitquant import native
from tests.networks import IMAGENET_SAMPLE, efficientnet_lite0, photographs, sqnr

ENGINES = ("fbgemm", "x86", "onednn", "native")
CALIBRATION = 32
BATCH = 4


@dataclass(frozen=True)
class Nearness:
    """A debug model beside the integer one of the same engine."""

    engine: str
    mode: str
    equal: float  # share of outputs
    sqnr: float  # of all of them, in dB
    time: float


def compare(engine: str, mode: str, quantized: nn.Module, debug: nn.Module, images: Tensor) -> Nearness:
    expected, integer_s = run(quantized, images)
    found, debug_s = run(debug, images)
    equal = float((expected == found).double().mean())
    return Nearness(engine, mode, equal, sqnr(expected, found), debug_s / integer_s)


def run(module: nn.Module, images: Tensor) -> tuple[Tensor, float]:
    with torch.no_grad():
        module(images[:BATCH])
        begin = time.perf_counter()
        outputs = [module(batch) for batch in images.split(BATCH)]
        return torch.cat(outputs), time.perf_counter() - begin


def jitquant_rows(engine: str, model: torch.jit.ScriptModule, images: Tensor) -> list[Nearness]:
    target = "native" if engine == "native" else "quantized"
    prepared = jitquant.prepare_jit(model, {"": jitquant.get_default_qconfig()}, target=target)
    calibrate(prepared, images)
    quantized = jitquant.convert_jit(prepared)
    modes: tuple[tuple[str, Any], ...] = (("debug=True", True), ('debug="exact"', "exact"))
    return [
        compare(engine, mode, quantized, jitquant.convert_jit(prepared, debug=debug), images)
        for mode, debug in modes
    ]


def torch_row(engine: str, model: torch.jit.ScriptModule, images: Tensor) -> Nearness:
    from torch.ao.quantization import get_default_qconfig
    from torch.ao.quantization.quantize_jit import convert_jit, prepare_jit

    prepared = prepare_jit(model, {"": get_default_qconfig(engine)})
    calibrate(prepared, images)
    return compare(
        engine, "PyTorch, debug=True", convert_jit(prepared), convert_jit(prepared, debug=True), images
    )


def calibrate(prepared: torch.jit.ScriptModule, images: Tensor) -> None:
    with torch.no_grad():
        for image in images[:CALIBRATION].split(1):
            prepared(image)


def measure(engines: Sequence[str], images: Tensor, *, peer: bool) -> list[Nearness]:
    rows: list[Nearness] = []
    model = torch.jit.trace(efficientnet_lite0(), images[:1])
    for engine in engines:
        if engine == "native":
            rows += jitquant_rows(engine, model, images)
            continue
        torch.backends.quantized.engine = engine
        rows += jitquant_rows(engine, model, images)
        if peer:
            rows.append(torch_row(engine, model, images))
    return rows


def report(rows: Sequence[Nearness]) -> str:
    head = ("engine", "model", "equal outputs %", "SQNR dB", "time")
    cells = [
        (row.engine, row.mode, f"{100 * row.equal:.1f}", f"{row.sqnr:.1f}", f"{row.time:.1f}") for row in rows
    ]
    return table([head, *cells])


def images_from(folder: Path, count: int) -> Tensor:
    if folder.is_dir():
        return photographs(folder, range(200))[0][:count]
    print(f"no photographs in {folder}: random images instead")
    torch.manual_seed(0)
    return torch.randn(count, 3, 224, 224)


def main(arguments: Sequence[str] | None = None, show: Callable[[str], None] = print) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    available = [engine for engine in ENGINES if engine != "native" or native.is_available()]
    parser.add_argument("--engines", nargs="+", choices=available, default=available)
    parser.add_argument("--photographs", type=int, default=100, help="how many are compared (at least 1)")
    parser.add_argument("--data", type=Path, default=IMAGENET_SAMPLE, help="a folder of them")
    parser.add_argument("--no-peer", action="store_true", help="leave PyTorch's own out, which is slow")
    given = parser.parse_args(arguments)
    if given.photographs < 1:
        parser.error("--photographs has to be 1 or more")
    warnings.simplefilter("ignore")
    show(report(measure(given.engines, images_from(given.data, given.photographs), peer=not given.no_peer)))


if __name__ == "__main__":
    main()
