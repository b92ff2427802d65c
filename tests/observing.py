"""What tests of observers share: data of many shapes, and the formulas once more, in numpy."""

import io

import numpy as np
import torch


def watched(observer, *batches):
    for batch in batches:
        observer(batch)
    return observer


def saved_and_loaded(module):
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def quantized_in_numpy(x, scale, zero_point, quant_min=0, quant_max=255):
    x = x.numpy().astype(np.float64)
    integers = np.clip(np.round(x / scale) + zero_point, quant_min, quant_max)
    return (integers - zero_point) * scale


def mean_squared_error(x, observer):
    scale, zero_point = (value.item() for value in observer.calculate_qparams())
    restored = quantized_in_numpy(x, scale, zero_point, observer.quant_min, observer.quant_max)
    return float(np.mean((restored - x.numpy()) ** 2))


SAMPLES = {
    "normal": lambda normal, uniform: normal,
    "laplace": lambda normal, uniform: (
        torch.sign(uniform - 0.5) * -torch.log1p(-2 * (uniform - 0.5).abs().clamp(max=0.499999))
    ),
    "lognormal": lambda normal, uniform: normal.exp(),
    "minus lognormal": lambda normal, uniform: -normal.exp(),
    "gelu": lambda normal, uniform: torch.nn.functional.gelu(2 * normal),
    "relu": lambda normal, uniform: normal.relu(),
    "uniform": lambda normal, uniform: uniform,
    "uniform around 0": lambda normal, uniform: uniform * 3 - 1,
    "relu6": lambda normal, uniform: (normal * 4 + 2).clamp(0, 6),
    "relu6, mostly at its ends": lambda normal, uniform: (normal * 40 + 20).clamp(0, 6),
    "hardtanh": lambda normal, uniform: (normal * 2).clamp(-1, 1),
    "sigmoid": lambda normal, uniform: (normal * 5).sigmoid(),
    "whole numbers": lambda normal, uniform: (uniform * 256).floor(),
    "an outlier": lambda normal, uniform: torch.cat([normal, torch.tensor([10_000.0])]),
}


def samples(name, count=40_000):
    """So many values (an outlier more) of one of SAMPLES, the same in each run."""
    generator = torch.Generator().manual_seed(7)
    return SAMPLES[name](torch.randn(count, generator=generator), torch.rand(count, generator=generator))


def qparams_in_numpy(low, high, quant_min, quant_max, symmetric):
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        zero_point = 0 if quant_min < 0 else (quant_max + 1) // 2
        return max(-low, high) / (quant_max - zero_point), zero_point
    scale = (high - low) / (quant_max - quant_min)
    return scale, int(np.clip(quant_min - np.round(low / scale), quant_min, quant_max))
