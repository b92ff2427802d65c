"""Models of every structure that TorchScript allows: quantized, saved and loaded they give what they gave."""

import copy
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import jitquant
from tests.graphs import nodes_of, saved_and_loaded
from tests.marks import needs_native
from tests.networks import sqnr

WHOLE = {"": jitquant.get_default_qconfig()}
FLOAT_PRODUCTS = {"aten::conv2d", "aten::_convolution", "aten::linear", "aten::addmm"}
Inputs = tuple[Any, ...]


@pytest.fixture(params=["quantized", pytest.param("native", marks=needs_native)])
def target(request: pytest.FixtureRequest) -> str:
    return request.param


def wrong(reason: str) -> pytest.MarkDecorator:
    """What does not hold yet."""
    return pytest.mark.xfail(strict=True, reason=reason)


def wrong_on_native(reason: str) -> pytest.MarkDecorator:
    native = pytest.param("native", marks=[needs_native, wrong(reason)])
    return pytest.mark.parametrize("target", ["quantized", native])


def conv(inputs: int = 3, outputs: int = 8) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def image(scale: float = 1.0) -> Tensor:
    return torch.randn(2, 3, 12, 12) * scale


def images(count: int = 4) -> list[Inputs]:
    return [(image(),) for _ in range(count)]


def calibrate(model: torch.jit.ScriptModule, batches: list[Inputs]) -> None:
    for batch in batches:
        model(*batch)


def scripted(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.script(network.eval())


def quantize(
    model: torch.jit.ScriptModule, batches: list[Inputs], target: str, *, says: str = "", **options: Any
) -> torch.jit.ScriptModule:
    """The quantized model. No warning comes, or with `says` only such; the model itself stays."""
    tensors = copy.deepcopy(model.state_dict())
    graph = str(model.inlined_graph)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions")
        quantized = jitquant.quantize_jit(model, WHOLE, calibrate, [batches], target=target, **options)
    messages = [str(warning.message) for warning in caught]
    assert all(says and says in message for message in messages), messages
    assert messages or not says
    assert str(model.inlined_graph) == graph
    same(model.state_dict(), tensors)
    return quantized


def same(given: Any, expected: Any) -> None:
    """Both are equal to the bit, and of the same structure."""
    torch.testing.assert_close(given, expected, rtol=0, atol=0, equal_nan=True)


def close(given: Any, expected: Any, least: float = 25.0) -> None:
    """Both are of the same structure, and each float tensor is close to the other's."""
    if isinstance(expected, Tensor):
        assert given.dtype == expected.dtype
        assert given.shape == expected.shape
        if expected.is_floating_point() and not torch.equal(given, expected):
            assert sqnr(expected, given) > least
        elif not expected.is_floating_point():
            same(given, expected)
    elif isinstance(expected, dict):
        assert list(given) == list(expected)
        close(list(given.values()), list(expected.values()), least)
    elif isinstance(expected, list | tuple):
        assert isinstance(given, list if isinstance(expected, list) else tuple)
        assert len(given) == len(expected)
        assert getattr(given, "_fields", None) == getattr(expected, "_fields", None)
        for one, other in zip(given, expected, strict=True):
            close(one, other, least)
    else:
        assert given == expected


def float_products(model: torch.jit.ScriptModule) -> int:
    """How many convolutions and linears are still float, in branches, loops and forks too."""
    count = 0
    for node in nodes_of(model):
        count += node.kind() in FLOAT_PRODUCTS
        if node.hasAttribute("Subgraph"):
            count += sum(str(node.g("Subgraph")).count(f"{kind}(") for kind in FLOAT_PRODUCTS)
    return count


def check(
    model: torch.jit.ScriptModule,
    batches: list[Inputs],
    target: str,
    *,
    left_float: int = 0,
    least: float = 25.0,
    says: str = "",
) -> torch.jit.ScriptModule:
    """Quantizes the model and compares it with the float one, before and after saving."""
    quantized = quantize(model, batches, target, says=says)
    assert float_products(quantized) == left_float, quantized.graph
    loaded = saved_and_loaded(quantized)
    with torch.no_grad():
        for batch in batches:
            given = quantized(*copy.deepcopy(batch))
            close(given, model(*copy.deepcopy(batch)), least)
            same(loaded(*copy.deepcopy(batch)), given)
    return quantized


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


@wrong_on_native("the quantize of an input comes before everything else, and asks for four dimensions itself")
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


@wrong("fold_attributes does not see what a fork writes, and torch's freezing loses the attribute")
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


# Where the model comes from


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.norm = nn.BatchNorm2d(8)
        self.second = conv(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.normal_(self.norm.running_mean)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)))
        x = torch.relu_(self.second(x) + x)
        return self.head(self.drop(x.mean([2, 3])))


def traced(network: nn.Module) -> torch.jit.ScriptModule:
    return torch.jit.trace(network.eval(), image())


def inlined(network: nn.Module) -> torch.jit.ScriptModule:
    model = scripted(network)
    torch._C._jit_pass_inline(model.graph)
    return model


COMPILERS: dict[str, Callable[[nn.Module], torch.jit.ScriptModule]] = {
    "scripted": scripted,
    "traced": traced,
    "loaded": lambda network: saved_and_loaded(scripted(network)),
    "traced_and_loaded": lambda network: saved_and_loaded(traced(network)),
    "frozen": lambda network: torch.jit.freeze(scripted(network)),
    "frozen_and_loaded": lambda network: saved_and_loaded(torch.jit.freeze(traced(network))),
    "frozen_unoptimized": lambda network: torch.jit.freeze(scripted(network), optimize_numerics=False),
    "inlined": inlined,
    "traced_in_scripted": lambda network: scripted(nn.Sequential(traced(network), nn.ReLU())),
    "scripted_in_traced": lambda network: traced(nn.Sequential(scripted(network), nn.ReLU())),
}


@pytest.mark.parametrize("form", COMPILERS)
def test_every_form_of_a_model(form: str, target: str) -> None:
    """Test that it makes no difference how a model became TorchScript, nor that there is no source of it."""
    check(COMPILERS[form](Plain()), images(), target)


def test_a_model_after_use(target: str) -> None:
    """Test that a model that the executor has specialized by then converts as a fresh one does."""
    model = scripted(Plain())
    for _ in range(4):
        model(image())
    check(model, images(), target)


def test_a_model_optimized_for_inference(target: str) -> None:
    """Test that what has oneDNN's layout stays float and right. No such model can be loaded, float or not."""
    model = torch.jit.optimize_for_inference(scripted(Plain()))
    quantized = quantize(model, images(), target)
    x = image()
    with torch.no_grad():
        close(quantized(x), model(x))


def test_a_quantized_model_is_refused(target: str) -> None:
    """Test that one that was quantized in part says so, before and after saving."""
    model = scripted(Plain())
    qconfigs = {**WHOLE, "second": None}
    quantized = jitquant.quantize_jit(model, qconfigs, calibrate, [images()], target=target)
    for each in (quantized, saved_and_loaded(quantized)):
        with pytest.raises(jitquant.QuantizationError, match="quantized already; start again from the float"):
            jitquant.quantize_jit(each, WHOLE, calibrate, [images()], target=target)


class QuantizedPart(nn.Module):
    """A quantized model of another origin between float layers."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.first = conv()
        self.part = part
        self.last = conv(8)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.part(torch.relu(self.first(x))))


class EagerPart(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.conv = conv(8)
        self.act = nn.ReLU()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        return self.dequant(self.act(self.conv(self.quant(x))))


@pytest.mark.filterwarnings("ignore:.*torch.ao.quantization is deprecated:DeprecationWarning")
def test_a_part_that_eager_mode_quantized(target: str) -> None:
    """Test that a part that is integer already stays so, and what is around it becomes integer."""
    part = EagerPart().eval()
    part.qconfig = torch.ao.quantization.get_default_qconfig("x86")
    torch.ao.quantization.prepare(part, inplace=True)
    for _ in range(4):
        part(torch.relu(torch.randn(2, 8, 12, 12)))
    torch.ao.quantization.convert(part, inplace=True)
    check(scripted(QuantizedPart(part)), images(), target)


class ForEagerMode(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant = torch.ao.quantization.QuantStub()
        self.conv = conv()
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.other = conv()
        self.sum = torch.ao.nn.quantized.FloatFunctional()
        self.join = torch.ao.nn.quantized.FloatFunctional()
        self.dequant = torch.ao.quantization.DeQuantStub()

    def forward(self, x: Tensor) -> Tensor:
        x = self.quant(x)
        left = self.act(self.norm(self.conv(x)))
        y = self.sum.add_relu(left, self.other(x))
        return self.dequant(self.join.cat([y, left], 1))


@pytest.mark.parametrize("joined", [False, True], ids=["apart", "joined"])
@pytest.mark.parametrize("compiler", ["scripted", "traced"])
def test_a_model_written_for_eager_mode(compiler: str, joined: bool, target: str) -> None:
    """Test that stubs, FloatFunctional and joined modules are no more than what they do in float."""
    network = ForEagerMode().eval()
    if joined:
        network = torch.ao.quantization.fuse_modules(network, [["conv", "norm", "act"]])
    check(COMPILERS[compiler](network), images(), target)


class RoundsItself(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = torch.relu(self.first(x))
        coarse = torch.quantize_per_tensor(x, 0.25, 0, torch.quint8).dequantize()
        return self.last(x), coarse


def test_a_model_that_rounds_by_itself(target: str) -> None:
    """Test that a quantize and dequantize of the model's own stay: they round, and are there for that."""
    quantized = check(scripted(RoundsItself()), images(), target, least=20)  # some values go to the next step
    with torch.no_grad():
        steps = quantized(*images()[0])[1] / 0.25
    assert torch.equal(steps, steps.round())


# Types


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_float_types(dtype: torch.dtype, target: str) -> None:
    """Test that a model of another float type stays what it is."""
    model = scripted(Plain().to(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantized = jitquant.quantize_jit(
            model, WHOLE, calibrate, [[(image().to(dtype),)] * 2], target=target
        )
    x = image().to(dtype)
    with torch.no_grad():
        expected = model(x)
        for each in (quantized, saved_and_loaded(quantized)):
            close(each(x), expected, least=40)


class InHalf(nn.Module):
    """A half of it computes in another type."""

    def __init__(self) -> None:
        super().__init__()
        self.first = conv()
        self.last = conv(8).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.first(x)).double())


def test_two_float_types_in_one_model(target: str) -> None:
    """Test that only what is float32 becomes integer."""
    check(scripted(InHalf()), images(), target, left_float=1)


class Embedding(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(20, 16)
        self.places = nn.Embedding(8, 16)
        self.norm = nn.LayerNorm(16)
        self.inner = nn.Linear(16, 32)
        self.outer = nn.Linear(32, 16)

    def forward(self, words: Tensor) -> Tensor:
        places = torch.arange(words.size(1)).unsqueeze(0)
        x = self.norm(self.words(words) + self.places(places))
        return self.outer(torch.relu(self.inner(x))) + x


def test_integer_inputs(target: str) -> None:
    """Test that indices stay indices, and what is behind the embeddings becomes integer."""
    batches = [(torch.randint(0, 20, (2, 8)),) for _ in range(4)]
    check(scripted(Embedding()), batches, target)


class Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cumsum(torch.erf(x), 1)


def test_a_model_with_nothing_to_quantize(target: str) -> None:
    """Test that it comes back as it is, and that a warning says so."""
    model = scripted(Nothing())
    quantized = quantize(model, images(), target, says="no op of the model has an integer form")
    x = image()
    same(quantized(x), model(x))
    same(saved_and_loaded(quantized)(x), model(x))
