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


def samples(name, count=40_000):
    generator = torch.Generator().manual_seed(7)
    normal = torch.randn(count, generator=generator)
    uniform = torch.rand(count, generator=generator)
    return {
        "normal": normal,
        "laplace": torch.sign(uniform - 0.5) * -torch.log1p(-2 * (uniform - 0.5).abs().clamp(max=0.499999)),
        "lognormal": normal.exp(),
        "minus lognormal": -normal.exp(),
        "gelu": torch.nn.functional.gelu(2 * normal),
        "relu": normal.relu(),
        "uniform": uniform,
        "uniform around 0": uniform * 3 - 1,
        "relu6": (normal * 4 + 2).clamp(0, 6),
        "relu6, mostly at its ends": (normal * 40 + 20).clamp(0, 6),
        "hardtanh": (normal * 2).clamp(-1, 1),
        "sigmoid": (normal * 5).sigmoid(),
        "whole numbers": (uniform * 256).floor(),
        "an outlier": torch.cat([normal, torch.tensor([10_000.0])]),
    }[name]


def qparams_in_numpy(low, high, quant_min, quant_max, symmetric):
    low, high = min(low, 0.0), max(high, 0.0)
    if symmetric:
        zero_point = 0 if quant_min < 0 else (quant_max + 1) // 2
        return max(-low, high) / (quant_max - zero_point), zero_point
    scale = (high - low) / (quant_max - quant_min)
    return scale, int(np.clip(quant_min - np.round(low / scale), quant_min, quant_max))
