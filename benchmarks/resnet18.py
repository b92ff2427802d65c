"""torchvision's resnet18 with random weights: jitquant beside PyTorch's own quantize_jit.

    python benchmarks/resnet18.py

Scripted and traced. The batch norms have uneven statistics, so folding them matters. All of one row are timed
in turns in the same process, batch 1 on one thread.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved_medians, loaded, one_thread, processor, saved, table
from tests.networks import resnet18, sqnr


@dataclass(frozen=True)
class Figures:
    """What is measured of one way to reach TorchScript."""

    made_by: str
    sqnr_db: float
    torch_sqnr_db: float
    float_ms: float
    milliseconds: float
    torch_ms: float


def calibrate(model: Callable[[Tensor], Tensor], images: Tensor) -> None:
    with torch.inference_mode():
        for image in images.split(1):
            model(image)


def with_jitquant(model: torch.jit.ScriptModule, images: Tensor) -> torch.jit.ScriptModule:
    import jitquant

    return jitquant.quantize_jit(model, {"": jitquant.get_default_qconfig()}, calibrate, [images])


def with_torch(model: torch.jit.ScriptModule, images: Tensor) -> torch.jit.ScriptModule:
    from torch.ao.quantization import get_default_qconfig
    from torch.ao.quantization.quantize_jit import quantize_jit

    return quantize_jit(model, {"": get_default_qconfig("x86")}, calibrate, [images])


def measure(made_by: str, rounds: int) -> Figures:
    generator = torch.Generator().manual_seed(1)
    calibration = torch.randn(16, 3, 224, 224, generator=generator)
    judged = torch.randn(16, 3, 224, 224, generator=generator)

    network = resnet18(uneven_bn=True)
    model = torch.jit.script(network) if made_by == "scripted" else torch.jit.trace(network, judged[:1])
    frozen = torch.jit.freeze(model)
    our_file, their_file = saved(with_jitquant(model, calibration)), saved(with_torch(model, calibration))
    ours, theirs = loaded(our_file), loaded(their_file)

    with torch.inference_mode():
        expected, got, torch_got = frozen(judged), ours(judged), theirs(judged)
    image = judged[:1]
    with one_thread():
        frozen, ours, theirs = torch.jit.freeze(model), loaded(our_file), loaded(their_file)
        medians = interleaved_medians(
            {"float": lambda: frozen(image), "jitquant": lambda: ours(image), "torch": lambda: theirs(image)},
            rounds,
        )
    return Figures(
        made_by=made_by,
        sqnr_db=sqnr(expected, got),
        torch_sqnr_db=sqnr(expected, torch_got),
        float_ms=medians["float"],
        milliseconds=medians["jitquant"],
        torch_ms=medians["torch"],
    )


def row(figures: Figures) -> list[str]:
    return [
        figures.made_by,
        f"{figures.sqnr_db:.1f}",
        f"{figures.torch_sqnr_db:.1f}",
        f"{figures.float_ms:.1f}",
        f"{figures.milliseconds:.2f}",
        f"{figures.torch_ms:.2f}",
        f"{figures.torch_ms / figures.milliseconds:.2f} ×",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=50, help="calls that the median time is taken of")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")

    measured = [measure(made_by, arguments.rounds) for made_by in ("scripted", "traced")]
    print(f"\nresnet18, random weights; {processor()}, one thread; torch {torch.__version__}\n")
    head = ["", "SQNR dB", "torch's SQNR dB", "float ms", "int8 ms", "torch's int8 ms", "torch / jitquant"]
    print(table([head, *(row(figures) for figures in measured)]))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "processor": processor(),
            "torch": torch.__version__,
            "figures": [asdict(figures) for figures in measured],
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
