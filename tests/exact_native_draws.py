"""Random single ops of the native target: what goes into each, drawn from a seed."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

ACTIVATIONS = (
    "",
    "",
    "clip,0,inf",
    "clip,0,6",
    "clip,-1,1",
    "linear,0.5,0.25",
    "linear,-1.5,2",
    "hardswish",
    "hardsigmoid",
    "swish",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "leaky_relu,0.01",
    "elu,1",
)


@dataclass(frozen=True)
class Call:
    """An op, its inputs (uint8, float32 or a list of them), and what the op that makes its kernel is told."""

    op: str
    prepack: str
    inputs: tuple[Any, ...]
    arguments: tuple[Any, ...]


class Draws:
    """Random sizes, numbers and tensors."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.has_ties = self.chance(
            0.4
        )  # scales are powers of two and biases short: then halves are frequent

    def integer(self, low: int, high: int) -> int:
        """Of [low, high]."""
        return int(torch.randint(low, high + 1, (), generator=self.generator))

    def one_of(self, choices: Any) -> Any:
        return choices[self.integer(0, len(choices) - 1)]

    def chance(self, share: float = 0.5) -> bool:
        return float(torch.rand((), generator=self.generator)) < share

    def shuffled(self, letters: str) -> str:
        order = torch.randperm(len(letters), generator=self.generator).tolist()
        return "".join(letters[i] for i in order)

    def scale(self, around: float = 0.05) -> float:
        """Near that; a power of two wherever ties are wanted, and sometimes else."""
        if self.has_ties or self.chance(0.2):
            return float(2.0 ** round(float(torch.tensor(around).log2()) + self.integer(-1, 1)))
        return around * (0.5 + float(torch.rand((), generator=self.generator)))

    def zero_point(self) -> int:
        return 0 if self.chance(0.4) else self.integer(0, 255)

    def bytes(self, *sizes: int) -> Tensor:
        """Integers, as often near each other as all over the range, in one of several layouts."""
        low, high = self.one_of([(0, 256), (0, 256), (100, 140)])
        return self.laid_out(torch.randint(low, high, sizes, dtype=torch.uint8, generator=self.generator))

    def numbers(self, *sizes: int, size: float = 3.0) -> Tensor:
        return self.laid_out(torch.randn(sizes, generator=self.generator) * size)

    def laid_out(self, tensor: Tensor) -> Tensor:
        choice = self.integer(0, 3)
        if choice == 0 and tensor.dim() > 2:
            order = [0, *range(2, tensor.dim()), 1]
            back = [0, tensor.dim() - 1, *range(1, tensor.dim() - 1)]
            return tensor.permute(order).contiguous().permute(back)
        if choice == 1 and tensor.dim() > 1:
            return torch.cat([tensor, tensor], 1)[:, : tensor.size(1)]  # with gaps
        return tensor

    def weight(self, *sizes: int) -> Tensor:
        low, high = self.one_of([(-128, 128), (-128, 128), (-4, 5), (100, 128)])
        return torch.randint(low, high, sizes, dtype=torch.int8, generator=self.generator)

    def scales(self, channels: int, around: float) -> Tensor:
        if self.chance(0.3):
            return torch.tensor([self.scale(around)])
        if self.chance():
            return torch.tensor([self.scale(around) for _ in range(channels)])
        return torch.full((channels,), self.scale(around))

    def bias(self, channels: int) -> Tensor | None:
        values = torch.randn(channels, generator=self.generator)
        values = torch.round(values * 16) / 16 if self.has_ties else values
        return None if self.chance(0.3) else values

    def output(self) -> tuple[float | None, int]:
        return (None, 0) if self.chance(0.25) else (self.scale(0.05), self.zero_point())


def conv(draws: Draws, rank: int, *, transposed: bool = False, sums: bool = False) -> Call:
    groups, each_in, each_out = draws.one_of(
        [(1, 0, 0), (1, 0, 0), (2, 0, 0), (3, 0, 0), (0, 1, 1), (0, 1, 1), (4, 1, 2)]
    )
    widest = {1: 70, 2: 70, 3: 20}[rank]
    groups = groups or draws.integer(2, widest)
    each_in = each_in or draws.integer(1, max(widest // groups, 1))
    each_out = each_out or draws.integer(1, max(widest // groups, 1))
    window = [draws.integer(1, 4 if rank < 3 else 3) for _ in range(rank)]
    if draws.chance(0.3):
        window = [1] * rank
    stride = [draws.integer(1, 3) for _ in range(rank)]
    dilation = [1 if draws.chance(0.7) else 2 for _ in range(rank)]
    padding = [draws.integer(0, min(2, w - 1) if transposed else 2) for w in window]
    if draws.chance(0.4):
        padding = [0] * rank
    elif draws.chance(0.2) and not transposed:
        padding = padding + [draws.integer(0, 2) for _ in range(rank)]
    room = [d * (w - 1) + 1 + draws.integer(0, 9 if rank < 3 else 4) for d, w in zip(dilation, window)]
    extra = [draws.integer(0, max(s, d) - 1) for s, d in zip(stride, dilation)] if transposed else None
    channels = groups * each_out
    sizes = (groups * each_in, each_out) if transposed else (channels, each_in)
    weight = draws.weight(*sizes, *window)
    inputs = draws.bytes(draws.integer(1, 3), groups * each_in, *room)
    scale, zero_point = draws.output()
    input_scale = draws.scale(0.02)
    scales = draws.scales(
        channels if not transposed else draws.one_of([channels, each_out]), 0.01 / len(window)
    )
    arguments = [
        weight,
        scales,
        draws.bias(channels),
        stride,
        padding,
        dilation,
        groups,
        input_scale,
        draws.zero_point(),
        scale,
        zero_point,
        draws.one_of(ACTIVATIONS),
    ]
    if not sums:
        op = "conv_transpose" if transposed else f"conv{rank}d"
        return Call(op, "conv_prepack", (inputs,), (*arguments, "", None, 0, extra))
    return with_sum(draws, f"conv{rank}d_add", "conv_prepack", inputs, arguments, [None])


def with_sum(
    draws: Draws, op: str, prepack: str, inputs: Tensor, arguments: list[Any], last: list[Any]
) -> Call:
    """The same op with another operand, mostly of the result's size and dtype."""
    alone = getattr(torch.ops.jitquant, op.removesuffix("_add"))
    kernel = getattr(torch.ops.jitquant, prepack)(*arguments, "", None, 0, *last)
    sizes = list(alone(inputs, kernel).shape)
    if draws.chance(0.1):
        sizes[0] = 1
    is_float = (arguments[-3] is None) != draws.chance(0.1)
    other = draws.numbers(*sizes) if is_float else draws.bytes(*sizes)
    in_place = draws.chance()
    mode, scale, zero = (
        draws.one_of([("in_place" if in_place else "new")]),
        draws.scale(0.05),
        draws.zero_point(),
    )
    if is_float:
        scale, zero = None, 0
    return Call(
        op + ("_" if in_place else ""), prepack, (inputs, other), (*arguments, mode, scale, zero, *last)
    )


def linear(draws: Draws, *, sums: bool = False) -> Call:
    features, channels = draws.integer(1, 150), draws.integer(1, 100)
    inputs = draws.bytes(*([draws.integer(1, 9)] * draws.integer(0, 2)), features)
    scale, zero_point = draws.output()
    arguments = [
        draws.weight(channels, features),
        draws.scales(channels, 0.01),
        draws.bias(channels),
        draws.scale(0.02),
        draws.zero_point(),
        scale,
        zero_point,
        draws.one_of(ACTIVATIONS),
    ]
    if sums:
        return with_sum(draws, "linear_add", "linear_prepack", inputs, arguments, [])
    factors = None
    if scale is not None and draws.chance(0.3):
        factors = torch.rand(channels, generator=draws.generator) + 0.5
    return Call("linear", "linear_prepack", (inputs,), (*arguments, "", None, 0, factors))


def dynamic(draws: Draws, *, sums: bool = False) -> Call:
    features, channels = draws.integer(1, 150), draws.integer(1, 100)
    inputs = draws.numbers(*([draws.integer(1, 9)] * draws.integer(0, 2)), features)
    if draws.chance(0.3):
        inputs = inputs.abs() * (0 if draws.chance(0.3) else 1)
    scales = draws.scales(channels, 0.01)
    arguments = (draws.weight(channels, features), scales, draws.bias(channels), draws.one_of(ACTIVATIONS))
    if not sums:
        return Call("linear_dynamic", "linear_dynamic_prepack", (inputs,), (*arguments, ""))
    sizes = [*inputs.shape[:-1], channels]
    if draws.chance(0.2):
        sizes = sizes[-1:]
    in_place = draws.chance()
    return Call(
        "linear_dynamic_add" + ("_" if in_place else ""),
        "linear_dynamic_prepack",
        (inputs, draws.numbers(*sizes)),
        (*arguments, "in_place" if in_place else "new"),
    )


def sizes_of(draws: Draws, rank: int) -> list[int]:
    return [draws.integer(1, 5), draws.integer(1, 40), *(draws.integer(1, 7) for _ in range(rank))][
        : rank + 2
    ]


def binary(draws: Draws) -> Call:
    sizes = sizes_of(draws, draws.integer(0, 3))
    other = [size if draws.chance(0.7) else 1 for size in sizes]
    if draws.chance(0.2):
        other = other[draws.integer(0, len(other) - 1) :]
    pair = [draws.bytes(*sizes), draws.bytes(*other)]
    if draws.chance():
        pair.reverse()
    kind = draws.one_of(["add", "sub", "mul"])
    arguments = (kind, draws.scale(), draws.zero_point(), draws.scale(), draws.zero_point(), *draws.output())
    op = "mul" if kind == "mul" else "add"
    return Call(op, "binary_prepack", tuple(pair), (*arguments, draws.one_of(ACTIVATIONS)))


def matmul(draws: Draws) -> Call:
    rows, depth, columns = draws.integer(1, 40), draws.integer(1, 80), draws.integer(1, 40)
    batch = [draws.integer(1, 3) for _ in range(draws.integer(0, 2))]
    left, right = draws.bytes(*batch, rows, depth), draws.bytes(*batch, depth, columns)
    if draws.chance(0.2):
        left, right = left[:1], right
    if draws.chance(0.3):
        right = draws.bytes(*batch, columns, depth).transpose(-1, -2)
    if draws.chance(0.2):
        left = draws.bytes(2, rows, 3, depth).transpose(1, 2)
        right = draws.bytes(2, depth, 3, columns).transpose(1, 2)
    elif left.size(0) != right.size(0) and left.dim() == 2:
        left = draws.bytes(rows, depth)
    arguments = (
        draws.scale(0.02),
        draws.zero_point(),
        draws.scale(0.02),
        draws.zero_point(),
        *draws.output(),
    )
    return Call("matmul", "binary_prepack", (left, right), ("matmul", *arguments, draws.one_of(ACTIVATIONS)))


def einsum(draws: Draws) -> Call:
    """Letters of a batch, of rows, of columns and of what is summed over, in any order."""
    groups = [draws.integer(0, 2), draws.integer(0, 2), draws.integer(0, 2), draws.integer(1, 2)]
    letters = iter("bfgkmnpqxy")
    batch, rows, columns, depth = ["".join(next(letters) for _ in range(count)) for count in groups]
    sizes = {letter: draws.integer(1, 6) for letter in batch + rows + columns + depth}
    left, right, result = (
        draws.shuffled(word)
        for word in (batch + rows + depth, batch + columns + depth, batch + rows + columns)
    )
    equation = f"{left},{right}->{result}" if draws.chance(0.7) or batch else f"{left}, {right}"
    operands = [draws.bytes(*(sizes[letter] for letter in word)) for word in (left, right)]
    scales, zeros = [draws.scale(0.02), draws.scale(0.02)], [draws.zero_point(), draws.zero_point()]
    arguments = (equation, scales, zeros, *draws.output(), draws.one_of(ACTIVATIONS))
    return Call("einsum", "einsum_prepack", (operands,), arguments)


def activation(draws: Draws) -> Call:
    inputs = draws.bytes(*sizes_of(draws, draws.integer(0, 3)))
    arguments = (draws.scale(), draws.zero_point(), *draws.output(), draws.one_of(ACTIVATIONS))
    return Call("activation", "activation_prepack", (inputs,), arguments)


def quantize(draws: Draws) -> Call:
    inputs = draws.numbers(*sizes_of(draws, draws.integer(0, 3)))
    padding = factors = None
    if inputs.dim() == 4 and draws.chance():
        padding = [draws.integer(0, 2) for _ in range(4)]
    elif draws.chance(0.3):
        factors = torch.rand(inputs.size(-1), generator=draws.generator) + 0.5
    return Call(
        "quantize", "quantize_prepack", (inputs,), (draws.scale(), draws.zero_point(), padding, factors)
    )


def dequantize(draws: Draws) -> Call:
    inputs = draws.bytes(*sizes_of(draws, draws.integer(0, 3)))
    return Call("dequantize", "dequantize_prepack", (inputs,), (draws.scale(), draws.zero_point()))


def prelu(draws: Draws) -> Call:
    inputs = draws.bytes(*sizes_of(draws, draws.integer(0, 3)))
    slopes = torch.rand(inputs.size(1), generator=draws.generator) - 0.3
    numbers = (draws.scale(), draws.zero_point(), draws.scale(), draws.zero_point())
    return Call("prelu", "prelu_prepack", (inputs,), (slopes, *numbers))


def batch_norm(draws: Draws) -> Call:
    inputs = draws.bytes(*sizes_of(draws, draws.integer(0, 3)))
    channels = inputs.size(1)
    weight, bias = draws.bias(channels), draws.bias(channels)
    mean = torch.randn(channels, generator=draws.generator)
    variance = torch.rand(channels, generator=draws.generator) + 0.1
    numbers = (1e-5, draws.scale(), draws.zero_point(), *draws.output(), draws.one_of(ACTIVATIONS))
    return Call("batch_norm", "batch_norm_prepack", (inputs,), (weight, bias, mean, variance, *numbers))


def cat(draws: Draws) -> Call:
    sizes = sizes_of(draws, draws.integer(0, 3))
    axis = draws.integer(-len(sizes), len(sizes) - 1)
    tensors = []
    for _ in range(draws.integer(1, 3)):
        sizes[axis] = draws.integer(1, 9)
        tensors.append(draws.bytes(*sizes))
    scales = [draws.scale() for _ in tensors]
    zeros = [draws.zero_point() for _ in tensors]
    return Call("cat", "cat_prepack", (tensors,), (axis, scales, zeros, draws.scale(), draws.zero_point()))


def channel_shuffle(draws: Draws) -> Call:
    groups = draws.integer(1, 4)
    sizes = sizes_of(draws, draws.integer(1, 3))
    inputs = draws.bytes(sizes[0], groups * draws.integer(1, 20), *sizes[2:])
    return Call("channel_shuffle", "channel_shuffle_prepack", (inputs,), (groups,))


def pool(draws: Draws) -> Call:
    rank = draws.integer(1, 3)
    kind = draws.one_of(["max", "avg"])
    window = [draws.integer(1, 4) for _ in range(rank)]
    padding = [draws.integer(0, w // 2) for w in window]
    dilation = [draws.integer(1, 2) for _ in window] if kind == "max" and draws.chance(0.3) else None
    stride = [] if draws.chance(0.3) else [draws.integer(1, 3) for _ in range(rank)]
    sizes = [2 * w + draws.integer(0, 7) for w in window]
    inputs = draws.bytes(draws.integer(1, 3), draws.integer(1, 70), *sizes)
    arguments = (kind, window, stride, padding, dilation, draws.chance(), kind == "avg" and draws.chance())
    return Call("pool", "pool_prepack", (inputs,), arguments)


def adaptive_avg_pool(draws: Draws) -> Call:
    rank = draws.integer(1, 3)
    size = [draws.integer(1, 3) for _ in range(rank)]
    room = [s * draws.integer(1, 4) + (0 if draws.chance(0.7) else 1) for s in size]
    inputs = draws.bytes(draws.integer(1, 3), draws.integer(1, 70), *room)
    return Call("adaptive_avg_pool", "adaptive_avg_pool_prepack", (inputs,), (size,))


def mean(draws: Draws) -> Call:
    inputs = draws.bytes(*sizes_of(draws, draws.integer(0, 3)))
    axes = [i for i in range(inputs.dim()) if draws.chance()] or [inputs.dim() - 1]
    if inputs.dim() > 2 and draws.chance():
        axes = list(range(2, inputs.dim()))
    scale, zero_point = draws.scale(), draws.zero_point()
    output = (scale, zero_point) if draws.chance(0.3) else draws.output()
    return Call("mean", "mean_prepack", (inputs,), (axes, draws.chance(), scale, zero_point, *output))


def layer_norm(draws: Draws) -> Call:
    columns = [draws.integer(1, 300)] if draws.chance(0.7) else [draws.integer(1, 9), draws.integer(1, 40)]
    sizes = [draws.integer(1, 9) for _ in range(draws.integer(0, 2))] + columns
    is_float = draws.chance()
    inputs = draws.numbers(*sizes) if is_float else draws.bytes(*sizes)
    weight = None if draws.chance(0.2) else torch.randn(columns, generator=draws.generator)
    bias = None if draws.chance(0.2) else torch.randn(columns, generator=draws.generator)
    given = (None, 0) if is_float else (draws.scale(), draws.zero_point())
    arguments = (columns, weight, bias, draws.one_of([1e-12, 1e-5]), *given, *draws.output())
    return Call("layer_norm", "layer_norm_prepack", (inputs,), arguments)


def softmax(draws: Draws) -> Call:
    sizes = [draws.integer(1, 9) for _ in range(draws.integer(0, 3))] + [draws.integer(1, 100)]
    is_float = draws.chance()
    inputs = draws.numbers(*sizes, size=8.0) if is_float else draws.bytes(*sizes)
    given = (None, 0) if is_float else (draws.scale(), draws.zero_point())
    output = (1 / 256, 0) if draws.chance() else (draws.scale(1 / 256), draws.zero_point())
    dim = -1 if draws.chance() else draws.integer(0, len(sizes) - 1)
    return Call("softmax", "softmax_prepack", (inputs,), (dim, *given, *output))


KINDS: dict[str, Callable[[Draws], Call]] = {
    "conv1d": lambda draws: conv(draws, 1),
    "conv2d": lambda draws: conv(draws, 2),
    "conv3d": lambda draws: conv(draws, 3),
    "conv_transpose": lambda draws: conv(draws, draws.integer(1, 3), transposed=True),
    "conv_add": lambda draws: conv(draws, draws.integer(1, 3), sums=True),
    "linear": linear,
    "linear_add": lambda draws: linear(draws, sums=True),
    "linear_dynamic": dynamic,
    "linear_dynamic_add": lambda draws: dynamic(draws, sums=True),
    "binary": binary,
    "matmul": matmul,
    "einsum": einsum,
    "activation": activation,
    "quantize": quantize,
    "dequantize": dequantize,
    "prelu": prelu,
    "batch_norm": batch_norm,
    "cat": cat,
    "channel_shuffle": channel_shuffle,
    "pool": pool,
    "adaptive_avg_pool": adaptive_avg_pool,
    "mean": mean,
    "layer_norm": layer_norm,
    "softmax": softmax,
}
