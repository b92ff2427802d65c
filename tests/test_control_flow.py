"""Branches, loops, lists that change and functions, in models that are quantized, saved and loaded."""

import io

import pytest
import torch
from torch import Tensor, nn

from tests.graphs import saved_and_loaded
from tests.structures import (
    check,
    close,
    conv,
    float_products,
    image,
    images,
    quantize,
    same,
    scripted,
)

# Branches and loops


class PassingBranch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.second = conv(8)
        self.third = conv(8)

    def forward(self, x: Tensor, deep: bool) -> Tensor:
        x = torch.relu(self.first(x))
        if deep:
            x = torch.relu(self.second(x))
        return self.third(x)


def test_a_branch_that_passes_its_input_through(target: str) -> None:
    """Test that both ways around a convolution are right."""
    batches = [(image(), deep) for deep in (False, True, False, True)]
    check(scripted(PassingBranch()), batches, target)


def test_a_branch_that_calibration_never_took(target: str) -> None:
    """Test that its results stay float, which a warning says, and that they are right."""
    model = scripted(PassingBranch())
    batches = [(image(), False) for _ in range(4)]
    # A native convolution may give float.
    left_float = 0 if target == "native" else 1
    quantized = check(model, batches, target, left_float=left_float, says="calibration never reached it")
    with torch.no_grad():
        close(quantized(batches[0][0], True), model(batches[0][0], True))


class NestedBranches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.second = conv(8)
        self.third = conv(8)
        self.last = conv(8)

    def forward(self, x: Tensor, outer: bool, inner: bool) -> Tensor:
        x = self.first(x)
        if outer:
            x = torch.relu(x)
            if inner:
                x = self.second(x) + x
            else:
                y = self.third(x)
                x = torch.cat([y, x], 1)[:, :8]
        else:
            if inner:
                x = x * 0.5
        return self.last(x)


def test_nested_branches(target: str) -> None:
    """Test that every combination of two nested decisions is right."""
    batches = [(image(), outer, inner) for outer in (False, True) for inner in (False, True)]
    check(scripted(NestedBranches()), batches, target)


class ForLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.step = conv(8)
        self.last = conv(8)

    def forward(self, x: Tensor, times: int) -> Tensor:
        x = torch.relu(self.first(x))
        for _ in range(times):
            x = torch.relu(self.step(x)) + x * 0.5
        return self.last(x)


def test_a_for_loop(target: str) -> None:
    """Test that a loop whose length is an argument is right for each length, none and new ones included."""
    model = scripted(ForLoop())
    batches = [(image(), times) for times in (1, 2, 0, 3)]
    check(model, batches, target)


class WhileLoop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.step = conv(8)

    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        x = self.first(x)
        rounds = 0
        while rounds < 4 and bool(x.abs().mean() > 0.02):
            x = torch.tanh(self.step(x))
            rounds += 1
            if rounds == 3:
                break
        return x, rounds


def test_a_while_loop_with_a_break(target: str) -> None:
    """Test that a loop that ends by what was computed in it ends in the same round."""
    check(scripted(WhileLoop()), images(), target, least=22)


class EarlyReturns(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.second = conv(8)

    def forward(self, x: Tensor, kind: int) -> Tensor:
        if kind == 0:
            return x
        x = self.first(x)
        if kind == 1:
            return torch.relu(x)
        for _ in range(3):
            x = self.second(x)
            if kind == 2:
                return x.flatten(1)
        return x


def test_early_returns(target: str) -> None:
    """Test that each of four places to return from gives what it gave."""
    batches = [(image(), kind) for kind in range(4)]
    check(scripted(EarlyReturns()), batches, target)


class Raising(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError("an image has four dimensions")
        assert x.size(1) == 3, "three channels"
        x = torch.relu(self.first(x))
        if x.size(2) < 4:
            raise RuntimeError("too small")
        return self.last(x)


def test_raises_on_paths_not_taken(target: str) -> None:
    """Test that what raised still raises, with the same words, and costs nothing else."""
    quantized = check(scripted(Raising()), images(), target)
    for model in (quantized, saved_and_loaded(quantized)):
        with pytest.raises(torch.jit.Error, match="an image has four dimensions"):
            model(torch.zeros(3, 12, 12))
        with pytest.raises(torch.jit.Error, match="three channels"):
            model(torch.zeros(1, 4, 12, 12))
        with pytest.raises(torch.jit.Error, match="too small"):
            model(torch.zeros(1, 3, 2, 2))


class ByRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.linear = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 4:
            x = self.conv(x)
        elif x.dim() == 3:
            x = self.conv(x.unsqueeze(0))
        return self.linear(x)


def test_inputs_of_several_ranks(target: str) -> None:
    """Test that a model that asks for the number of dimensions takes each that it took."""
    batches = [(torch.randn(*shape),) for shape in ((2, 3, 12, 12), (3, 12, 12), (5, 12))]
    check(scripted(ByRank()), batches, target)


# Lists that change, and changes in place


class GrowingStack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, x: Tensor, times: int) -> Tensor:
        y = self.conv(x)
        found = [y]
        for number in range(times):
            found.append(y * float(number))
        return torch.stack(found)


def test_a_stack_of_a_list_that_grows(target: str) -> None:
    """Test that stack takes what a loop has appended."""
    check(scripted(GrowingStack()), [(image(), 1), (image(), 2)], target)


class GrowingCat(GrowingStack):
    def forward(self, x: Tensor, times: int) -> Tensor:
        y = self.conv(x)
        found = [y]
        for number in range(times):
            found.append(y * float(number))
        return torch.cat(found, 1)


def test_a_cat_of_a_list_that_grows(target: str) -> None:
    """Test that cat takes what a loop has appended."""
    check(scripted(GrowingCat()), [(image(), 1), (image(), 2)], target)


class GrowingDimensions(GrowingStack):
    def forward(self, x: Tensor, all_of_it: bool) -> Tensor:
        dimensions = [2]
        if all_of_it:
            dimensions.append(3)
        return (self.conv(x) + 1).mean(dimensions)


def test_an_argument_that_is_a_list_that_grows(target: str) -> None:
    """Test that a mean is taken over the dimensions that the list has when it is used."""
    check(scripted(GrowingDimensions()), [(image(), False), (image(), True)], target)


class GrowingSize(GrowingStack):
    def forward(self, x: Tensor, times: int) -> Tensor:
        y = self.conv(x)
        size = [y.size(0)]
        for _ in range(times):
            size.append(1)
        size.append(-1)
        return y.view(size)


def test_a_view_by_a_list_that_grows(target: str) -> None:
    """Test that view gives the shape that a loop has put together."""
    check(scripted(GrowingSize()), [(image(), 0), (image(), 2)], target)


class InPlace(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.second = conv(8)

    def forward(self, x: Tensor, times: int) -> tuple[Tensor, Tensor]:
        y = self.first(x)
        other = y
        y[:, 0] = 0.5
        y[:, 1:3] += 1.0
        for _ in range(times):
            y += torch.tanh(self.second(y))
            y.relu_()
        x.mul_(2.0)
        return self.second(other), y.view(2, -1).neg_()


def test_changes_in_place(target: str) -> None:
    """Test that every name of a tensor sees what is written to it, in a loop too, and so does the caller."""
    model = scripted(InPlace())
    batches = [(image(), times) for times in (0, 1, 2)]
    quantized = quantize(model, batches, target)
    with torch.no_grad():
        for x, times in batches:
            given, expected = x.clone(), x.clone()
            close(quantized(given, times), model(expected, times))
            same(given, expected)


# Functions


def scaled_sum(x: Tensor, y: Tensor, factor: float) -> Tensor:
    return torch.relu(x + y * factor)


@torch.jit.script
def compiled_sum(x: Tensor, y: Tensor) -> Tensor:
    return scaled_sum(x, y, 0.5) + x


@torch.jit.ignore
def in_python(x: Tensor) -> Tensor:
    return torch.from_numpy(x.numpy()[:, ::-1].copy())


class CallsFunctions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = conv()
        self.right = conv()
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(compiled_sum(self.left(x), scaled_sum(self.right(x), x[:, :1], 2.0)))


def test_free_functions(target: str) -> None:
    """Test that functions beside the module, scripted before or with it, become integer with it."""
    check(scripted(CallsFunctions()), images(), target)


class CallsPython(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(in_python(torch.relu(self.first(x))))


def test_ignored_python_functions(target: str) -> None:
    """Test that a function that stays Python is called as before. Saving fails as for the float model."""
    model = scripted(CallsPython())
    quantized = quantize(model, images(), target)
    assert float_products(quantized) == 0
    x = image()
    with torch.no_grad():
        close(quantized(x), model(x))
    for each in (model, quantized):
        with pytest.raises(RuntimeError, match="Could not export Python function"):
            torch.jit.save(each, io.BytesIO())
