"""The models of the table, one row each, and a model of the user's own."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.inputs import images, user_samples
from benchmarks.minilm import TOKENS, minilm, passages
from benchmarks.recurrent import bidirectional_lstm, cell_loop, gru, language_model, word_numbers
from benchmarks.samples import Limits, Samples
from tests.networks import efficientnet_lite0, make_batch_norms_uneven, torchvision_model


@dataclass(frozen=True)
class Model:
    """A model to measure. All that an engine has to know of a model beyond its graph is said here.

    Args:
        name: what `--models` calls it.
        title: what the tables call it.
        network: makes it, in evaluation mode; the same weights every time.
        samples: makes what it is calibrated and judged on, from the folder of
            photographs, which may be missing.
        scripted: reach TorchScript by scripting, not by tracing.
        quantizable: the same with the stubs that eager mode wants, and with `fuse_model`.
        classifies: whether the largest output is an answer.
        labelled: whether its classes are those that the photographs are labelled with.
        transformer: whether it is one; NNCF wants to know.
        pooled: how many vectors behind each other its output is that a mean makes one; 1 where it has none.
    """

    name: str
    title: str
    network: Callable[[], nn.Module]
    samples: Callable[[Path | None, Limits], Samples]
    scripted: bool = False
    quantizable: Callable[[], nn.Module] | None = None
    classifies: bool = True
    labelled: bool = False
    transformer: bool = False
    pooled: int = 1

    def script(self, network: nn.Module, example: tuple[torch.Tensor, ...]) -> torch.jit.ScriptModule:
        """`network` as a ScriptModule."""
        if isinstance(network, torch.jit.ScriptModule):
            return network
        if self.scripted:
            return torch.jit.script(network)
        return torch.jit.trace(network, example)  # type: ignore[no-any-return]


def _quantizable(name: str) -> nn.Module:
    """torchvision's variant for eager mode, with the weights that `torchvision_model` gives."""
    network = torchvision_model(name)
    from torchvision.models import quantization

    variant: nn.Module = getattr(quantization, name)(weights=None, quantize=False)
    make_batch_norms_uneven(variant)
    variant.load_state_dict(network.state_dict())
    return variant.eval()


def _of_torchvision(name: str, title: str, *, eager: bool = True) -> Model:
    return Model(
        name,
        title,
        partial(torchvision_model, name),
        images,
        scripted=True,
        quantizable=partial(_quantizable, name) if eager else None,
    )


MODELS = {
    model.name: model
    for model in (
        _of_torchvision("resnet18", "resnet18"),
        _of_torchvision("resnet50", "resnet50"),
        _of_torchvision("mobilenet_v2", "mobilenet_v2"),
        _of_torchvision("mobilenet_v3_large", "mobilenet_v3_large"),
        _of_torchvision("shufflenet_v2_x1_0", "shufflenet_v2_x1_0"),
        Model(
            "efficientnet_lite0",
            "EfficientNet-Lite0, real weights",
            efficientnet_lite0,
            images,
            labelled=True,
        ),
        Model(
            "minilm",
            "MiniLM BERT, 128 tokens, real weights",
            minilm,
            passages,
            classifies=False,
            transformer=True,
        ),
    )
}


def _tokens_of_minilm(tokens: int) -> Model:
    """The mean hides half of the noise, so accuracy is judged before it."""
    return Model(
        f"minilm_{tokens}_tokens",
        f"MiniLM BERT, last hidden state of {tokens} tokens, real weights",
        partial(minilm, pools=False, tokens=tokens),
        partial(passages, tokens=tokens),
        classifies=False,
        transformer=True,
        pooled=tokens,
    )


def _recurrent(name: str, title: str, network: Callable[[], nn.Module], *, scripted: bool = True) -> Model:
    return Model(name, title, network, word_numbers, scripted=scripted, classifies=False)


TOKENS_OF_MINILM = _tokens_of_minilm(TOKENS)

# Of which most is in linears or recurrent layers.
DYNAMIC_MODELS = {
    model.name: model
    for model in (
        _tokens_of_minilm(16),
        TOKENS_OF_MINILM,
        _recurrent("lstm", "embedding, LSTM of two layers of 512, decoder, 35 steps", language_model),
        _recurrent("gru", "embedding, GRU of 512, 35 steps", gru),
        _recurrent("bidirectional_lstm", "embedding, LSTM of 256 both ways, 35 steps", bidirectional_lstm),
        _recurrent("lstm_cell", "embedding, loop over an LSTM cell of 512, 35 steps", cell_loop),
    )
}


def user_model(file: Path, inputs: str, *, classifies: bool = False) -> Model:
    """A user's model: a file that torch.jit.save wrote, and rows of input as `user_samples` takes them."""

    def network() -> nn.Module:
        return torch.jit.load(file).eval()  # type: ignore[no-any-return]

    def samples(data: Path | None, limits: Limits) -> Samples:
        return user_samples(inputs, limits)

    return Model(file.stem, file.name, network, samples, classifies=classifies)


def chosen_model(choice: Sequence[str]) -> Model:
    """The model behind what a worker is told: a name of the table, or a user's two files."""
    if len(choice) == 1:
        return {**MODELS, **DYNAMIC_MODELS}[choice[0]]
    file, inputs = choice
    return user_model(Path(file), inputs)
