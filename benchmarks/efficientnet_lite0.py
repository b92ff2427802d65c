"""EfficientNet-Lite0 with its ImageNet weights: what int8 costs in accuracy and gains in time and size.

    python benchmarks/efficientnet_lite0.py                    jitquant against float
    python benchmarks/efficientnet_lite0.py --peers            PyTorch's quantize_jit and ONNX Runtime as well
    python benchmarks/efficientnet_lite0.py --limit 64         judge on fewer photographs

The network is traced, calibrated on the 32 photographs of classes 0 to 62 and judged on the others. Each
contender runs in a process of its own and is timed in turns with frozen float, batch 1 on one thread.
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.measure import interleaved_medians, loaded, one_thread, processor, saved, table
from tests.networks import IMAGENET_SAMPLE, efficientnet_lite0, photographs, sqnr

CALIBRATION_CLASSES = range(64)
BATCH = 4

Model = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Figures:
    """What is measured of one contender; ratios are against float in the same process."""

    contender: str
    photographs: int
    top1_float: float
    top1: float
    same_top1: float
    sqnr_db: float
    float_ms: float
    milliseconds: float
    faster: float
    size_ratio: float
    quantize_seconds: float


def calibrate(model: Model, images: Tensor) -> None:
    with torch.inference_mode():
        for image in images.split(1):
            model(image)


def with_jitquant(traced: torch.jit.ScriptModule, images: Tensor) -> bytes:
    import jitquant

    return saved(jitquant.quantize_jit(traced, {"": jitquant.get_default_qconfig()}, calibrate, [images]))


def with_torch_x86(traced: torch.jit.ScriptModule, images: Tensor) -> bytes:
    return _with_torch("x86", traced, images)


def with_torch_onednn(traced: torch.jit.ScriptModule, images: Tensor) -> bytes:
    return _with_torch("onednn", traced, images)


def _with_torch(engine: str, traced: torch.jit.ScriptModule, images: Tensor) -> bytes:
    from torch.ao.quantization import get_default_qconfig
    from torch.ao.quantization.quantize_jit import quantize_jit

    torch.backends.quantized.engine = engine
    return saved(quantize_jit(traced, {"": get_default_qconfig(engine)}, calibrate, [images]))


def with_onnxruntime(traced: torch.jit.ScriptModule, images: Tensor) -> bytes:
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.images = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.images, None)
            return None if image is None else {"image": image.numpy()}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        torch.onnx.export(
            efficientnet_lite0(),
            (images[:1],),
            folder / "float.onnx",
            input_names=["image"],
            dynamic_axes={"image": {0: "batch"}},
            dynamo=False,
        )
        quant_pre_process(folder / "float.onnx", folder / "prepared.onnx")
        quantize_static(
            folder / "prepared.onnx",
            folder / "int8.onnx",
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return (folder / "int8.onnx").read_bytes()


def loaded_by_onnxruntime(content: bytes) -> Model:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return lambda x: torch.from_numpy(session.run(None, {"image": x.numpy()})[0])


# Each gives the file that would be deployed.
CONTENDERS: dict[str, Callable[[torch.jit.ScriptModule, Tensor], bytes]] = {
    "jitquant": with_jitquant,
    "torch quantize_jit, x86": with_torch_x86,
    "torch quantize_jit, onednn": with_torch_onednn,
    "onnxruntime, static QDQ": with_onnxruntime,
}


def measure(contender: str, folder: Path, limit: int | None, rounds: int) -> Figures:
    images, labels = photographs(folder)
    seen = torch.isin(labels, torch.tensor(CALIBRATION_CLASSES))
    calibration, judged, truth = images[seen], images[~seen][:limit], labels[~seen][:limit]

    traced = torch.jit.trace(efficientnet_lite0(), calibration[:1])
    frozen = torch.jit.freeze(traced)

    start = time.perf_counter()
    content = CONTENDERS[contender](traced, calibration)
    seconds = time.perf_counter() - start

    load = loaded_by_onnxruntime if contender.startswith("onnxruntime") else loaded
    expected, got = logits(frozen, judged), logits(load(content), judged)
    image = judged[:1]
    with one_thread():
        frozen, deployed = torch.jit.freeze(traced), load(content)
        medians = interleaved_medians(
            {"float": lambda: frozen(image), "int8": lambda: deployed(image)}, rounds
        )
    return Figures(
        contender=contender,
        photographs=len(judged),
        top1_float=share(expected.argmax(1) == truth),
        top1=share(got.argmax(1) == truth),
        same_top1=share(got.argmax(1) == expected.argmax(1)),
        sqnr_db=sqnr(expected, got),
        float_ms=medians["float"],
        milliseconds=medians["int8"],
        faster=medians["float"] / medians["int8"],
        size_ratio=len(content) / len(saved(traced)),
        quantize_seconds=seconds,
    )


def logits(model: Model, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(BATCH)])


def share(hits: Tensor) -> float:
    return hits.double().mean().item()


def measure_apart(contender: str, arguments: argparse.Namespace) -> Figures | None:
    """Measure in a process of its own, where no other contender has chosen an engine or warmed a cache."""
    command = [sys.executable, __file__, "--contender", contender, "--data", str(arguments.data)]
    command += ["--rounds", str(arguments.rounds)]
    if arguments.limit is not None:
        command += ["--limit", str(arguments.limit)]
    print(f"measuring {contender} ...", file=sys.stderr, flush=True)
    quiet = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=quiet)
    if done.returncode != 0:
        print(f"{contender} failed with exit status {done.returncode}", file=sys.stderr)
        return None
    return Figures(**json.loads(done.stdout.splitlines()[-1]))


def rows(all_figures: Iterable[Figures]) -> list[list[str]]:
    head = ["", "top-1 %", "same top-1 %", "SQNR dB", "ms", "against float", "size %", "quantized in s"]
    lines = [head]
    for figures in all_figures:
        if len(lines) == 1:
            lines.append(["float, frozen", f"{100 * figures.top1_float:.2f}", *[""] * 6])
        speed = (
            f"{figures.faster:.2f} × faster" if figures.faster >= 1 else f"{1 / figures.faster:.2f} × slower"
        )
        lines.append(
            [
                figures.contender,
                f"{100 * figures.top1:.2f}",
                f"{100 * figures.same_top1:.1f}",
                f"{figures.sqnr_db:.1f}",
                f"{figures.milliseconds:.2f} ({figures.float_ms:.1f})",
                speed,
                f"{100 * figures.size_ratio:.1f}",
                f"{figures.quantize_seconds:.1f}",
            ]
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=IMAGENET_SAMPLE, help="folder with the photographs")
    parser.add_argument("--peers", action="store_true", help="measure other quantizers too (takes minutes)")
    parser.add_argument("--limit", type=int, help="judge on this many photographs only")
    parser.add_argument("--rounds", type=int, default=50, help="calls that the median time is taken of")
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    parser.add_argument("--contender", choices=CONTENDERS, help="measure this one only, and print JSON")
    arguments = parser.parse_args()
    if not any(arguments.data.glob("*.jpg")):
        parser.error(f"no photographs in {arguments.data}: say where they are with --data")

    if arguments.contender is not None:
        warnings.simplefilter("ignore")
        print(
            json.dumps(
                asdict(measure(arguments.contender, arguments.data, arguments.limit, arguments.rounds))
            )
        )
        return

    contenders = list(CONTENDERS) if arguments.peers else ["jitquant"]
    if "onnxruntime, static QDQ" in contenders and not (
        importlib.util.find_spec("onnxruntime") and importlib.util.find_spec("onnx")
    ):
        contenders.remove("onnxruntime, static QDQ")
        print("onnxruntime and onnx are not installed, so left out", file=sys.stderr)
    measured = [figures for name in contenders if (figures := measure_apart(name, arguments)) is not None]
    if not measured:
        raise SystemExit(1)

    print(f"\nEfficientNet-Lite0, traced; {measured[0].photographs} photographs; {processor()}, one thread;")
    print(f"torch {torch.__version__}; frozen float's time in the same run in brackets\n")
    print(table(rows(measured)))
    if arguments.json is not None:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        result = {
            "processor": processor(),
            "torch": torch.__version__,
            "figures": [asdict(figures) for figures in measured],
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    if len(measured) < len(contenders):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
