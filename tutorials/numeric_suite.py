"""Where does a quantized model lose its accuracy? Numeric Suite: read it from top to bottom, or run it.

    pip install jitquant torchvision
    python tutorials/numeric_suite.py

PyTorch's Numeric Suite compares an eager model with its quantized one. jitquant.numeric_suite has its names
and does so for TorchScript: the weights of both, what both give at matching places, and each quantized
module beside the float one on the same input. A comment that starts with `# >` is what the line above it
printed; numbers differ a little from one processor to another. With matplotlib installed the two histograms
are drawn too, into weights.png.
"""

import os
import sys
import tempfile
import types
import warnings
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported

import torch
from torch import Tensor, nn

import jitquant
import jitquant.numeric_suite as ns

# torchvision registers shapes for compiled ops that a CPU-only torch does not have; no model needs them.
sys.modules.setdefault("torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations"))
from torchvision.models.resnet import BasicBlock, resnet18  # noqa: E402

warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every call
torch.manual_seed(0)
folder = Path(tempfile.mkdtemp())

# ----------------------------------------------------------------------------------------------------
# 1. A float model and the quantized one that was made of it
# ----------------------------------------------------------------------------------------------------
# Only such two can be compared. The weights are random, so that nothing has to be downloaded. Scripted,
# traced and loaded models will do, for either target.
images = [torch.rand(2, 3, 64, 64) for _ in range(4)]
float_model = torch.jit.script(resnet18().eval())


def calibrate(model: torch.jit.ScriptModule) -> None:
    for image in images:
        model(image)


quantized = jitquant.quantize_jit(float_model, {"": jitquant.default_qconfig}, calibrate, [])

# ----------------------------------------------------------------------------------------------------
# 2. The weights of both
# ----------------------------------------------------------------------------------------------------
# Both models are passed, where PyTorch's suite takes state dicts: a quantized module has its weights packed.
# The float weight is the one right before it was rounded, with the batch norm behind it folded in.
weights = ns.compare_weights(float_model, quantized)
print(len(weights), list(weights)[:3])
# > 21 ['conv1.weight', 'layer1.0.conv1.weight', 'layer1.0.conv2.weight']
print(weights["conv1.weight"].keys(), weights["conv1.weight"]["float"].shape)
# > dict_keys(['float', 'quantized']) torch.Size([64, 3, 7, 7])
print(weights["conv1.weight"]["quantized"].dtype, weights["conv1.weight"]["quantized"].qscheme())
# > torch.qint8 torch.per_tensor_affine

# The error in decibels, 20 log10(|x| / |x - y|): 6 more are half the error.
errors = {
    key: float(ns.compute_error(pair["float"], pair["quantized"].dequantize()))
    for key, pair in weights.items()
}
for key in sorted(errors, key=errors.get)[:3]:
    print(f"{key:28}{errors[key]:5.1f} dB")
# > layer4.1.conv2.weight        38.2 dB
# > layer4.0.conv2.weight        38.5 dB
# > layer2.0.conv2.weight        38.6 dB

# Histograms of the weights of conv1: rounded to a few values, and of the same shape.
of_float = weights["conv1.weight"]["float"].flatten()
of_quantized = weights["conv1.weight"]["quantized"].flatten().dequantize()
for title, values in (("float", of_float), ("quantized", of_quantized)):
    counts = torch.histc(values, bins=9, min=-0.1, max=0.1).int().tolist()
    print(f"{title:10}", *(f"{count:5}" for count in counts), f"   {values.unique().numel()} different")
# > float          8   128   717  2170  3197  2286   774   114    13    9406 different
# > quantized      9   128   722  2172  3183  2282   782   116    13    206 different

try:
    import matplotlib

    matplotlib.use("Agg")  # no window
    from matplotlib import pyplot
except ImportError:
    pass
else:
    _, axes = pyplot.subplots(1, 2, sharey=True)
    for axis, title, values in zip(
        axes, ("Floating point", "Quantized"), (of_float, of_quantized), strict=True
    ):
        axis.hist(values.detach(), bins=100)
        axis.set_title(f"{title} weights of conv1")
    pyplot.savefig(folder / "weights.png")

# ----------------------------------------------------------------------------------------------------
# 3. What both give at matching places
# ----------------------------------------------------------------------------------------------------
# Each model runs on its own values, so that errors add up along the network. An op that was fused with those
# behind it has one entry: conv1 is the convolution with its relu.
outputs = ns.compare_model_outputs(float_model, quantized, images[0])
print(outputs["conv1.stats"].keys(), outputs["conv1.stats"]["float"][0].shape)
# > dict_keys(['float', 'quantized']) torch.Size([2, 64, 32, 32])
for key in ("conv1", "layer1.1.add", "layer2.1.add", "layer3.1.add", "layer4.1.add", "fc"):
    pair = outputs[f"{key}.stats"]
    print(f"{key:14}{ns.compute_error(pair['float'], pair['quantized']):5.1f} dB")
# > conv1          43.9 dB
# > layer1.1.add   38.3 dB
# > layer2.1.add   34.8 dB
# > layer3.1.add   33.2 dB
# > layer4.1.add   32.0 dB
# > fc             34.5 dB

# For several batches, attach loggers and call both models. They are Python objects beside the modules: what
# torch.jit.save writes of a model is the model.
ns.prepare_model_outputs(float_model, quantized)
for image in images:
    float_model(image)
    quantized(image)
outputs = ns.get_matching_activations(float_model, quantized)
print(len(outputs["fc.stats"]["float"]), "batches")
# > 4 batches


# A logger of one's own sees each value. One whose forward takes two, forward(x, y), sees the quantized value
# and the float one.
class Largest(ns.Logger):
    def forward(self, x: Tensor) -> None:
        self.stats["largest"] = max(float(x.dequantize().max()), self.stats.get("largest", 0.0))


largest = ns.compare_model_outputs(float_model, quantized, images[0], logger_cls=Largest)
print({side: round(stats["largest"], 1) for side, stats in largest["layer4.1.add.stats"].items()})
# > {'float': 3.3, 'quantized': 3.3}

# Tensors of many batches fill the memory. Statistics do not: count, ends, mean, mean square and histogram of
# both and of the error, and the SQNR of all batches together.
ns.prepare_model_outputs(float_model, quantized, ns.StatisticsLogger)
for image in images:
    float_model(image)  # first the float model, then the quantized one on the same batch
    quantized(image)
statistics = ns.get_matching_activations(float_model, quantized)["fc.stats"]
print(f"{statistics['sqnr']:.1f} dB of {statistics['error']['count']} values")
print(f"float from {statistics['float']['min']:.2f} to {statistics['float']['max']:.2f}")
# > 34.7 dB of 8000 values
# > float from -1.17 to 1.04

# ----------------------------------------------------------------------------------------------------
# 4. Each quantized module beside its float one, on the same input
# ----------------------------------------------------------------------------------------------------
# Here errors do not add up: the float code of a block runs on what enters the quantized block. Blocks are
# named by their class, by the name of it, or by their path.
stubs = ns.compare_model_stub(float_model, quantized, [BasicBlock, "fc"], images[0])
for key, pair in stubs.items():
    print(f"{key:16}{ns.compute_error(pair['float'], pair['quantized']):5.1f} dB")
# > layer1.0.stats   41.4 dB
# > layer1.1.stats   42.5 dB
# > layer2.0.stats   39.5 dB
# > layer2.1.stats   39.5 dB
# > layer3.0.stats   38.4 dB
# > layer3.1.stats   39.7 dB
# > layer4.0.stats   37.5 dB
# > layer4.1.stats   40.2 dB
# > fc.stats         43.5 dB

# For several batches, and with statistics; any logger whose forward takes two will do.
ns.prepare_model_with_stubs(float_model, quantized, [BasicBlock], ns.StatisticsLogger)
for image in images:
    quantized(image)
blocks = ns.get_logger_dict(quantized)
worst = min(blocks, key=lambda key: blocks[key]["sqnr"])
print(f"{worst} is the worst of {len(blocks)}: {blocks[worst]['sqnr']:.1f} dB")
# > layer4.0.stats is the worst of 8: 37.8 dB


# ----------------------------------------------------------------------------------------------------
# 5. A dynamic model: embedding, LSTM, linear
# ----------------------------------------------------------------------------------------------------
class WordModel(nn.Module):
    """Words [time, batch] and a state, to a score for each word and the next state."""

    def __init__(self, words: int, width: int, units: int, layers: int) -> None:
        super().__init__()
        self.encoder = nn.Embedding(words, width)
        self.rnn = nn.LSTM(width, units, layers)
        self.decoder = nn.Linear(units, words)

    def forward(self, words: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        values, state = self.rnn(self.encoder(words), state)
        return self.decoder(values), state


float_model = torch.jit.script(WordModel(words=10, width=512, units=256, layers=5).eval())
quantized = jitquant.quantize_dynamic_jit(float_model, {"": jitquant.default_dynamic_qconfig})

# The embedding stays float: its two weights are the same, and the error is none.
weights = ns.compare_weights(float_model, quantized)
for key in ("encoder.weight", "rnn.weight_ih_l0", "rnn.weight_hh_l4", "decoder.weight"):
    print(f"{key:18}{ns.compute_error(weights[key]['float'], weights[key]['quantized']):5.1f} dB")
# > encoder.weight      inf dB
# > rnn.weight_ih_l0   48.1 dB
# > rnn.weight_hh_l4   48.1 dB
# > decoder.weight     48.0 dB

# The model takes two arguments, and so do the comparisons. Of the LSTM's results it is the first.
data = torch.randint(10, (1, 1)), (torch.zeros(5, 1, 256), torch.zeros(5, 1, 256))
outputs = ns.compare_model_outputs(float_model, quantized, *data)
for key, pair in outputs.items():
    print(f"{key:16}{ns.compute_error(pair['float'][0], pair['quantized'][0]):5.1f} dB")
# > encoder.stats     inf dB
# > rnn.stats        60.0 dB
# > decoder.stats    53.5 dB

stubs = ns.compare_model_stub(float_model, quantized, [nn.Linear, nn.LSTM], *data)
for key, pair in stubs.items():
    print(f"{key:16}{ns.compute_error(pair['float'], pair['quantized']):5.1f} dB")
# > rnn.stats        60.0 dB
# > decoder.stats    53.1 dB

# ----------------------------------------------------------------------------------------------------
# 6. Files
# ----------------------------------------------------------------------------------------------------
# A saved model says which of its nodes gives the value of which op, so files can be compared as well, in
# another process and years later.
for name, model in (("float", float_model), ("quantized", quantized)):
    torch.jit.save(model, folder / f"{name}.pt")
loaded = [torch.jit.load(folder / f"{name}.pt") for name in ("float", "quantized")]
print(ns.compare_model_stub(*loaded, ["LSTM", "Linear"], *data).keys())
# > dict_keys(['rnn.stats', 'decoder.stats'])
