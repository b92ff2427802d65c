"""Recurrent networks of common sizes, with random weights that are the same every time."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.samples import Limits, Samples

WORDS, WIDTH, STEPS = 10_000, 512, 35
CALIBRATED, JUDGED = 8, 64


class LanguageModel(nn.Module):
    """Word numbers, batch × steps, to a score for each word behind each, batch × steps × words."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.recurrent = nn.LSTM(WIDTH, WIDTH, num_layers=2, batch_first=True)
        self.decoder = nn.Linear(WIDTH, WORDS)

    def forward(self, words: Tensor) -> Tensor:
        return self.decoder(self.recurrent(self.words(words))[0])


class Tagger(nn.Module):
    """Word numbers, batch × steps, to what a recurrent layer says of each, batch × steps × features."""

    def __init__(self, recurrent: nn.Module) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.recurrent = recurrent

    def forward(self, words: Tensor) -> Tensor:
        hidden: Tensor = self.recurrent(self.words(words))[0]
        return hidden


class CellLoop(nn.Module):
    """Word numbers, batch × steps, to the hidden state behind the last, batch × features, cell by cell."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(WORDS, WIDTH)
        self.cell = nn.LSTMCell(WIDTH, WIDTH)

    def forward(self, words: Tensor) -> Tensor:
        x = self.words(words)
        hidden = torch.zeros(x.size(0), x.size(2))
        state = torch.zeros(x.size(0), x.size(2))
        for step in range(x.size(1)):
            hidden, state = self.cell(x[:, step], (hidden, state))
        return hidden


def language_model() -> nn.Module:
    torch.manual_seed(0)
    return LanguageModel().eval()


def gru() -> nn.Module:
    torch.manual_seed(0)
    return Tagger(nn.GRU(WIDTH, WIDTH, batch_first=True)).eval()


def bidirectional_lstm() -> nn.Module:
    torch.manual_seed(0)
    return Tagger(nn.LSTM(WIDTH, WIDTH // 2, batch_first=True, bidirectional=True)).eval()


def cell_loop() -> nn.Module:
    torch.manual_seed(0)
    return CellLoop().eval()


def word_numbers(data: Path | None, limits: Limits) -> Samples:
    """Random words, as random as the weights."""
    words = np.random.default_rng(0).integers(WORDS, size=(CALIBRATED + JUDGED, STEPS))
    return Samples("random words", [words[:CALIBRATED]], [words[CALIBRATED:]]).limited(limits)
