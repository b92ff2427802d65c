"""Modules that share, contain and remember, and what goes in and out of them."""

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tests.graphs import saved_and_loaded
from tests.structures import (
    calibrate,
    check,
    close,
    conv,
    image,
    images,
    quantize,
    same,
    scripted,
    wrong,
)

# Sharing


class SharedModule(nn.Module):
    """The second call sees values a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        small = torch.relu(self.conv(x))
        large = torch.relu(self.conv(x * 100))
        return small, large


def test_a_submodule_called_twice(target: str) -> None:
    """Test that each call has a range of its own: values of the one are a hundredth of the other's."""
    check(scripted(SharedModule()), images(), target, least=30)


class SharedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(8, 8)
        self.right = nn.Linear(8, 8)
        self.right.weight = self.left.weight

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        left = torch.relu(self.left(x))
        right = self.right(x * 100)
        return left, right, nn.functional.linear(left * 0.01, self.left.weight)


def test_a_weight_at_several_call_sites(target: str) -> None:
    """Test that ops that share a weight have ranges of their own, ten thousandfold apart."""
    check(scripted(SharedWeight()), [(torch.randn(16, 8),) for _ in range(4)], target, least=30)


class SharedByBatchNorms(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.left = nn.BatchNorm2d(8)
        self.right = nn.BatchNorm2d(8)
        nn.init.constant_(self.right.weight, 30.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return self.left(self.conv(x)), self.right(self.conv(x)), self.conv(x)


def test_a_convolution_before_two_batch_norms(target: str) -> None:
    """Test that batch norms are folded into one call each of a convolution that all share."""
    check(scripted(SharedByBatchNorms()), images(), target, least=30)


class ManyUses(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.left = conv(8)
        self.right = conv(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.first(x)
        y = self.left(x) + self.right(torch.relu(x)) * torch.sigmoid(x) + x
        return torch.cat([y, x], 1), x.softmax(1)


def test_a_tensor_that_many_ops_use(target: str) -> None:
    """Test that a value with integer and float users is right for all of them."""
    check(scripted(ManyUses()), images(), target)


# Modules in modules


class InContainers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv(), nn.BatchNorm2d(8), nn.ReLU())
        self.blocks = nn.ModuleList([nn.Sequential(conv(8), nn.ReLU(), conv(8)) for _ in range(3)])
        self.heads = nn.ModuleDict({"wide": conv(8, 16), "slim": conv(8, 2)})

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        for layer in self.stem:
            x = layer(x)
        for number, block in enumerate(self.blocks):
            x = block(x) + x if number != 1 else block(x)
        found: dict[str, Tensor] = {}
        for name, head in self.heads.items():
            found[name] = head(x)
        return found


def test_containers_in_loops(target: str) -> None:
    """Test that ModuleList, ModuleDict and Sequential that loops go over are integer throughout."""
    check(scripted(InContainers()), images(), target)


@torch.jit.interface
class Step(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        pass


class ReluStep(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


class CallsInterface(nn.Module):
    step: Step

    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.step = ReluStep()
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.step.forward(self.first(x)))


def test_a_module_interface(target: str) -> None:
    """Test that a call through an interface stays as it is, and what is around it becomes integer."""
    check(scripted(CallsInterface()), images(), target, left_float=1)


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = InContainers()
        self.factor = 0.25


class Reaching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.holder = Holder()

    def forward(self, x: Tensor) -> Tensor:
        stem = self.holder.inner.stem
        x = stem[2](stem[0](x)) * self.holder.factor
        block = self.holder.inner.blocks[0]
        bias = block[2].bias
        assert bias is not None
        return self.holder.inner.heads["slim"](x) + bias[:2].reshape(2, 1, 1)


def test_submodules_of_attributes_of_attributes(target: str) -> None:
    """Test that modules, numbers and weights deep inside are found where they are."""
    check(scripted(Reaching()), images(), target)


class Forking(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.left = conv(8)
        self.right = conv(8)
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        future = torch.jit.fork(self.left, x)
        y = self.right(x)
        return self.last(torch.jit.wait(future) + y)


def test_fork_and_wait(target: str) -> None:
    """Test that what is forked gives the right result, and what is around it becomes integer."""
    check(scripted(Forking()), images(), target, left_float=1)


class ForkSharing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.norm = nn.BatchNorm2d(8)
        nn.init.constant_(self.norm.weight, 7.0)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        future = torch.jit.fork(self.conv, x)
        y = self.norm(self.conv(x))
        return torch.jit.wait(future), y


def test_a_fork_of_a_convolution_whose_batch_norm_is_folded(target: str) -> None:
    """Test that folding leaves the weights that a fork uses."""
    check(scripted(ForkSharing()), images(), target, left_float=1, least=30)


class Counter(nn.Module):
    offset: float

    def __init__(self) -> None:
        super().__init__()
        self.offset = 0.0

    def forward(self) -> int:
        self.offset = self.offset + 1.0
        return 0


class ForkWriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()
        self.counter = Counter()

    def forward(self, x: Tensor) -> Tensor:
        future = torch.jit.fork(self.counter)
        torch.jit.wait(future)
        return self.conv(x) + self.counter.offset


@wrong("torch.jit.freeze drops an attribute that only a fork writes; freeze such a model nowhere")
def test_an_attribute_that_a_fork_writes(target: str) -> None:
    """Test that it is not taken for a constant."""
    model = scripted(ForkWriting())
    x = image()
    quantized = quantize(model, [(x,)], target)
    with torch.no_grad():
        first, second = quantized(x), quantized(x)
    close((second - first).mean(), torch.tensor(1.0), least=30)


# Inputs and outputs


class ListIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = conv()

    def forward(self, xs: list[Tensor]) -> list[Tensor]:
        found: list[Tensor] = []
        for x in xs:
            found.append(self.conv(x))
        found.append(torch.cat(xs, 1))
        return found


def test_lists_of_tensors(target: str) -> None:
    """Test that lists go in and come out, of any length."""
    batches = [([image() for _ in range(count)],) for count in (1, 2, 3)]
    check(scripted(ListIn()), batches, target)


class DictIn(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = conv()
        self.right = conv()

    def forward(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        left = self.left(given["left"])
        right = torch.relu(self.right(given["right"]))
        found = {"sum": left + right, "left": left}
        found["both"] = torch.cat([left, right], 1)
        return found


def test_dicts_of_tensors(target: str) -> None:
    """Test that dicts go in and come out with their names in order."""
    batches = [({"left": image(), "right": image()},) for _ in range(4)]
    check(scripted(DictIn()), batches, target)


class Pair(NamedTuple):
    features: Tensor
    scores: Tensor


class Tuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def features_of(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, y = pair
        return self.first(x), (y, x)

    def forward(self, pair: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        x, (y, z) = self.features_of(pair)
        packed = (torch.relu(x), self.first(y))
        a, b = packed
        return self.last(a + b), (z, packed[0])


def test_tuples(target: str) -> None:
    """Test that tuples are taken apart and put together, as arguments, between and as results."""
    check(scripted(Tuples()), [((image(), image()),) for _ in range(4)], target)


class NamedTuples(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def forward(self, pair: Pair) -> Pair:
        x = Pair(features=self.first(pair.features), scores=pair.scores)
        return Pair(torch.relu(self.last(x.features)), x.scores + 1)


def test_named_tuples(target: str) -> None:
    """Test that named tuples go in and come out with their names."""
    check(scripted(NamedTuples()), [(Pair(image(), image()),) for _ in range(4)], target)


class OptionalOutput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.extra = conv(8, 2)

    def forward(self, x: Tensor, mask: Tensor | None, more: bool) -> tuple[Tensor, Tensor | None]:
        x = self.first(x)
        if mask is not None:
            x = x * mask
        extra: Tensor | None = None
        if more:
            extra = self.extra(x)
        return x, extra


def test_optional_inputs_and_outputs(target: str) -> None:
    """Test that None goes in and comes out where it did."""
    masks = [None, torch.rand(2, 1, 12, 12)]
    batches = [(image(), mask, more) for mask in masks for more in (False, True)]
    check(scripted(OptionalOutput()), batches, target)


# State


class Counting(nn.Module):
    calls: int

    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.conv = conv(8)
        self.register_buffer("seen", torch.zeros(1))
        self.register_buffer("memory", torch.zeros(2, 8, 12, 12))
        self.calls = 0

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, int]:
        self.calls += 1
        self.seen += 1
        self.memory = self.memory * 0.5 + self.conv(torch.relu(self.first(x)))
        return self.memory, self.seen.clone(), self.calls


def test_state_between_calls(target: str) -> None:
    """Test that buffers and attributes advance from where calibration left them, and are saved."""
    model = scripted(Counting())
    batches = images()
    calibrated = copy.deepcopy(model)
    quantized = quantize(model, batches, target)
    with torch.no_grad():
        calibrate(calibrated, batches)
        for _ in range(3):
            x = image()
            close(quantized(x), calibrated(x))
        loaded = saved_and_loaded(quantized)
        same(loaded(x), quantized(x))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into = nn.Linear(6, 16)
        self.back = nn.Linear(16, 16)

    def forward(self, xs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        found: list[Tensor] = []
        for x in xs.unbind(0):
            state = torch.tanh(self.into(x) + self.back(state))
            found.append(state)
        return torch.cat(found, 1), state


def test_state_that_goes_around_a_loop(target: str) -> None:
    """Test that a recurrent cell keeps its state through the rounds."""
    batches = [(torch.randn(rounds, 2, 6), torch.zeros(2, 16)) for rounds in (3, 7, 5)]
    check(scripted(Recurrent()), batches, target)


class Exporting(nn.Module):
    names: list[str]

    def __init__(self) -> None:
        super().__init__()
        self.body = conv()
        self.head = conv(8, 2)
        self.names = ["cat", "dog"]
        self.version = 3

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))

    def features(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x))

    @torch.jit.export
    def classes(self) -> list[str]:
        return self.names

    @torch.jit.export
    def embed(self, x: Tensor) -> Tensor:
        return self.features(x).mean([2, 3])


def test_exported_methods(target: str) -> None:
    """Test that every exported method survives and gives what it gave, in float, after saving too."""
    model = scripted(Exporting())
    quantized = check(model, images(), target)
    x = image()
    for each in (quantized, saved_and_loaded(quantized)):
        assert each.classes() == ["cat", "dog"]
        torch.testing.assert_close(each.embed(x), model.embed(x))


def test_preserved_attributes(target: str) -> None:
    """Test that attributes and helpers stay where they are asked for, and go where they are not."""
    model = scripted(Exporting())
    kept = quantize(model, images(), target, preserved_attrs=["version", "features"])
    x = image()
    for each in (kept, saved_and_loaded(kept)):
        assert each.version == 3
        torch.testing.assert_close(each.features(x), model.features(x))
        close(each(x), model(x))
    assert not hasattr(quantize(model, images(), target), "version")
