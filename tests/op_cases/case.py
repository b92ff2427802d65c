"""What a case is: an op in one spelling, behind what gives it its integers."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

SHAPES = {"conv1d": (4, 3, 24), "conv2d": (4, 3, 12, 12), "conv3d": (2, 3, 8, 8, 8), "linear": (16, 3)}


def head(kind: str) -> nn.Module:
    """What gives the op under test its integers: 8 channels or features."""
    if kind == "linear":
        return nn.Linear(3, 8)
    return {"conv1d": nn.Conv1d, "conv2d": nn.Conv2d, "conv3d": nn.Conv3d}[kind](3, 8, 3, padding=1)


class One(nn.Module):
    """An op behind a convolution or linear."""

    def __init__(self, kind: str, tail: Any) -> None:
        super().__init__()
        self.head = head(kind)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.head(x))


class Two(nn.Module):
    """An op that takes what two convolutions or linears gave."""

    def __init__(self, kind: str, tail: Any) -> None:
        super().__init__()
        self.left = head(kind)
        self.right = head(kind)
        self.tail = tail

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.left(x), self.right(x))


@dataclass(frozen=True)
class Case:
    """An op in one spelling.

    row: the op's name in the table, which the canonical graph has to have.
    integer: what the quantized graph has to have; one of several where there is a | between them.
    tail: the op, as a function or module; without operands, what makes a whole network.
    kind: what stands before it.
    operands: how many of those there are.
    bound: the SQNR in dB that it has to reach. Averages have less signal, and a step as large as before.
    """

    row: str
    integer: str
    tail: Any
    kind: str = "conv2d"
    operands: int = 1
    bound: float = 30.0

    def network(self) -> nn.Module:
        if self.operands == 0:
            return self.tail()
        return (One if self.operands == 1 else Two)(self.kind, self.tail)


CASES: dict[str, Case] = {}


def spellings(
    row: str, integer: str, kind: str = "conv2d", operands: int = 1, *, bound: float = 30.0, **tails: Any
) -> None:
    """Cases of one op, in several spellings."""
    for name, tail in tails.items():
        name = f"{row.removeprefix('aten::')}, {kind}, {name}"
        assert name not in CASES, f"there are two cases of the name {name}"
        CASES[name] = Case(row, integer, tail, kind, operands, bound)
