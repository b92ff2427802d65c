"""One network, form and engine of the coverage table, in two steps that are processes of their own.

    python -m benchmarks.coverage_worker resnet18 scripted jitquant-native convert FOLDER
    python -m benchmarks.coverage_worker resnet18 scripted jitquant-native run FOLDER SECONDS

The first writes the float and the quantized file to the folder, the second loads both as a user of the files
would. Each prints one JSON object a line as soon as it knows something, so that what was known before a crash
is not lost. Times are of the processor, with one thread, so that other work on the machine counts for little.
"""

import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.worker import LONGEST_NOTE
from tests.networks import sqnr, torchvision_model

FORMS = ("scripted", "traced")
ENGINES = ("jitquant-native", "jitquant-x86", "torch-jit")
SEGMENTATION = ("fcn", "deeplab", "lraspp")
VIDEO = ("r3d", "mc3", "r2plus1d", "s3d", "mvit", "swin3d")

CALIBRATIONS = 4
FEWEST_CALLS, MOST_CALLS = 3, 15  # that a median is taken of


def input_shape(name: str) -> tuple[int, ...]:
    """One sample: small where the network takes it."""
    if name.startswith(("s3d", "mvit")):  # their pooling and their position tables want this much
        return (1, 3, 16, 224, 224)
    if name.startswith(VIDEO):
        return (1, 3, 8, 64, 64)
    if name.startswith(SEGMENTATION):
        return (1, 3, 128, 128)
    return (1, 3, 240, 240) if name.startswith("inception") else (1, 3, 224, 224)


def network_of(name: str) -> nn.Module:
    """Random weights, none of which hides the network behind it."""
    network = torchvision_model(name)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(1)
        for parameter in network.parameters():
            if parameter.dim() > 1 and parameter.abs().max() < 1e-5:  # a head of zeros, a layer scale of 1e-6
                nn.init.normal_(parameter, 0.0, 0.1)
    return network


def samples(name: str, count: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(input_shape(name), generator=generator) for _ in range(count)]


def script_of(network: nn.Module, form: str, example: Tensor) -> torch.jit.ScriptModule:
    if form == "scripted":
        return torch.jit.script(network)  # type: ignore[no-any-return]
    with torch.no_grad():
        return torch.jit.trace(network, example, strict=False)  # type: ignore[no-any-return]


class Steps:
    """Says which step is under way, so that an error and a crash have a place."""

    def __init__(self, answers: Any) -> None:
        self._answers = answers

    def say(self, **facts: Any) -> None:
        print(json.dumps(facts), file=self._answers, flush=True)

    def __call__(self, step: str) -> None:
        self.say(step=step)


def convert(name: str, form: str, engine: str, steps: Steps, folder: Path, seconds: float = 0.0) -> None:
    """Make both files, and say what conversion took without calibration."""
    steps(form)
    script = script_of(network_of(name), form, samples(name, 1, seed=2)[0])
    frozen = torch.jit.freeze(script)
    steps("float")
    with torch.inference_mode():
        frozen(samples(name, 1, seed=2)[0])
    torch.jit.save(frozen, folder / "float.pt")

    prepare, finish = converter(engine)
    steps("prepare")
    begin = time.process_time()
    prepared = prepare(script)
    prepare_seconds = time.process_time() - begin
    steps("calibrate")
    with torch.inference_mode():
        for sample in samples(name, CALIBRATIONS, seed=3):
            prepared(sample)
    steps("convert")
    begin = time.process_time()
    quantized = finish(prepared)
    steps.say(prepare_s=prepare_seconds, convert_s=time.process_time() - begin)
    steps("save")
    torch.jit.save(quantized, folder / "int8.pt")
    steps.say(file_mb=(folder / "int8.pt").stat().st_size / 2**20)


def converter(engine: str) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
    """Prepare and convert of an engine, as functions of the model alone."""
    torch.backends.quantized.engine = "x86"
    if engine == "torch-jit":
        from torch.ao.quantization import get_default_qconfig
        from torch.ao.quantization.quantize_jit import convert_jit, prepare_jit

        return (lambda model: prepare_jit(model, {"": get_default_qconfig("x86")})), convert_jit
    import jitquant

    qconfig = {"": jitquant.get_default_qconfig()}
    target = "native" if engine == "jitquant-native" else "quantized"
    return (lambda model: jitquant.prepare_jit(model, qconfig, target=target)), jitquant.convert_jit


def run(name: str, form: str, engine: str, steps: Steps, folder: Path, seconds: float = 0.0) -> None:
    """Load both files afresh, compare what they give, count and time them."""
    torch.set_num_threads(1)
    torch.backends.quantized.engine = "x86"
    if engine == "jitquant-native":
        import jitquant  # noqa: F401, as it brings the ops
    steps("load")
    frozen, quantized = (torch.jit.load(folder / file) for file in ("float.pt", "int8.pt"))
    sample = samples(name, 1, seed=4)[0]
    steps("run")
    with torch.inference_mode():
        expected, given = flat(frozen(sample)), flat(quantized(sample))
    db = sqnr(expected, given)
    steps.say(sqnr_db=db if abs(db) < float("inf") else None, finite=bool(given.isfinite().all()))
    steps("count")
    whole, left = multiply_adds(frozen, sample), multiply_adds(quantized, sample)
    steps.say(multiply_adds=whole, integer_share=1 - left / whole if whole else None)
    steps("time")
    float_ms, ms = milliseconds([frozen, quantized], sample, seconds)
    steps.say(float_ms=float_ms, ms=ms)


def flat(output: Any) -> Tensor:
    """All tensors of an output in one row; the heads that only training has are None."""
    return torch.cat([tensor.float().flatten() for tensor in tensors(output)])


def tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if output is None:
        return []
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in tensors(part)]


def multiply_adds(model: Callable[[Tensor], Any], sample: Tensor) -> int:
    """Those of float convolutions and matrix products, whose shapes are seen while it runs.

    Integer ops are not among what is counted, so that what a quantized model has left is what stayed float.
    """
    with torch.no_grad(), Counter() as counter:
        model(sample)
    return counter.multiply_adds


class Counter(TorchDispatchMode):
    """Adds up the multiply-adds of what runs within it. (FlopCounterMode trips over traced sizes.)"""

    def __init__(self) -> None:
        super().__init__()
        self.multiply_adds = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [
            torch.tensor(value)
            if str(argument.type) == "Tensor" and isinstance(value, int | float)
            else value
            for value, argument in zip(args, func._schema.arguments, strict=False)
        ]  # numbers that were tensors come without their wrapping
        result = func(*given, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.multiply_adds += (
                flop_registry[func.overloadpacket](*given, **(kwargs or {}), out_val=result) // 2
            )
        return result


def milliseconds(models: list[Callable[[Tensor], Any]], sample: Tensor, seconds: float) -> list[float]:
    """The median time of each model, called in turns."""
    times: list[list[float]] = [[] for _ in models]
    end = time.perf_counter() + seconds
    with torch.inference_mode():
        for _ in range(2):  # TorchScript specializes a model in its first calls
            for model in models:
                model(sample)
        while len(times[0]) < FEWEST_CALLS or (len(times[0]) < MOST_CALLS and time.perf_counter() < end):
            for model, spent in zip(models, times, strict=True):
                begin = time.process_time()
                model(sample)
                spent.append(1000 * (time.process_time() - begin))
    return [statistics.median(spent) for spent in times]


def in_a_line(error: BaseException) -> str:
    """The last line that says something: TorchScript puts a trace of the code before the message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" ~<-.")]
    kind = type(error).__name__
    if not lines:
        return kind
    message = lines[-1] if "TorchScript" in lines[0] else lines[0]
    text = f"{kind}: {message}" if kind not in message else message
    return text if len(text) <= LONGEST_NOTE else text[: LONGEST_NOTE - 1] + "…"


STEPS = {"convert": convert, "run": run}


def main() -> None:
    warnings.simplefilter("ignore")
    name, form, engine, step, folder, seconds = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print
    steps = Steps(answers)
    try:
        STEPS[step](name, form, engine, steps, Path(folder), float(seconds))
    except Exception as error:
        import traceback

        traceback.print_exc()
        steps.say(error=in_a_line(error))


if __name__ == "__main__":
    main()
