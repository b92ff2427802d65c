"""Tests of every op that has an integer form, in each of its spellings, through the whole of quantize_jit."""

import io
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jitquant import MinMaxObserver, PerChannelMinMaxObserver, QConfig, quantize_jit
from jitquant.passes import op_table
from jitquant.pipeline import CANONICALIZE, run_passes
from tests.graphs import nodes_of, ops_of, working_copy
from tests.marks import needs_native
from tests.networks import sqnr
from tests.op_cases import CASES, SHAPES, Case, One
from tests.op_cases.weighted import transposed_without_padding

# Every value is measured in full, so that what is left of the signal says whether the integer op is right.
QCONFIG = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
COMPILERS: dict[str, Callable[[nn.Module, Tensor], torch.jit.ScriptModule]] = {
    "scripted": lambda network, x: torch.jit.script(network),
    "traced": lambda network, x: torch.jit.trace(network, (x,)),
}

# On x86 a linear is oneDNN's op on plain integers. It takes a function behind it along, and gives float where
# only the caller takes its result or a sum with it.
PLAIN_LINEAR = "onednn::qlinear_pointwise"
PLAIN_LINEARS = {
    "quantized::linear": PLAIN_LINEAR,
    "quantized::linear_relu": PLAIN_LINEAR,
    "quantized::hardswish": PLAIN_LINEAR,
}


def chunk_by_index(x: Tensor) -> Tensor:
    return x.chunk(2, 1)[1]


def both_by_index(x: Tensor) -> Tensor:
    parts = x.chunk(2, 1)
    return parts[1] + parts[0]


def split_by_index(x: Tensor) -> Tensor:
    return torch.split(x, 4, 1)[0]


def times_a_length(x: Tensor) -> Tensor:
    return x * x.size(2)


def whole_halves(x: Tensor) -> Tensor:
    return torch.div(x * 400, 2, rounding_mode="floor")


def mean_in_float64(x: Tensor) -> Tensor:
    return F.relu(x).mean([2, 3], dtype=torch.float64)


def times_integers(x: Tensor) -> Tensor:
    return x * torch.arange(12)


@pytest.fixture(autouse=True)
def x86() -> Iterator[None]:
    """Quantizes for x86, whatever the machine's default."""
    engine = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86"
    yield
    torch.backends.quantized.engine = engine


# What is known to be wrong, by the names of tests.
END, ENGINE = r"integers_from_end_to_end\[", r"right_on_every_engine\["


def quantized(
    network: nn.Module, compiler: str, x: Tensor, target: str = "quantized"
) -> torch.jit.ScriptModule:
    module = COMPILERS[compiler](network, x)
    return quantize_jit(module, {"": QCONFIG}, lambda prepared: prepared(x), [], target=target)


def integer_forms(case: Case) -> list[str]:
    """What the op may become on x86."""
    if case.kind != "linear":
        return case.integer.split("|")
    if case.row == "aten::add.Tensor":
        return ["aten::add"]
    return [PLAIN_LINEARS.get(op, op) for op in case.integer.split("|")]


def rows_in(module: torch.jit.ScriptModule) -> set[str]:
    """The names of the ops in a graph, with their overloads, as the op table spells them."""
    return {node.schema().split("(")[0] for node in nodes_of(module) if node.schema() != "(no schema)"}


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_an_op_runs_on_integers_from_end_to_end(name: str, compiler: str) -> None:
    """Test that the op is integer between one quantize and one dequantize, right, and in a file the same."""
    case = CASES[name]
    network = case.network().eval()
    x = torch.randn(SHAPES[case.kind])
    with torch.no_grad():
        expected = network(x)

    module = quantized(network, compiler, x)
    ops = ops_of(module)
    assert set(integer_forms(case)) & set(ops)
    assert ops.count("aten::quantize_per_tensor") == 1
    if "aten::dequantize" in ops or PLAIN_LINEAR not in ops:
        assert ops.count("aten::dequantize") == 1
        assert ops[-1] == "aten::dequantize"

    found = module(x)
    assert found.dtype == torch.float32
    assert sqnr(expected, found) > case.bound
    assert torch.equal(saved_and_loaded(module)(x), found)


def one_spelling_each() -> list[str]:
    """The first case of each op, for each integer op and each thing before it."""
    first: dict[tuple[str, str, str], str] = {}
    for name, case in CASES.items():
        first.setdefault((case.row, case.integer, case.kind), name)
    return list(first.values())


@pytest.mark.parametrize("engine", ["fbgemm", "onednn", "qnnpack"])
@pytest.mark.parametrize("name", one_spelling_each())
def test_an_op_is_right_on_every_engine(name: str, engine: str) -> None:
    """Test that where an engine lacks an integer op, or has it wrong, the result is right all the same."""
    case = CASES[name]
    network = case.network().eval()
    x = torch.randn(SHAPES[case.kind])
    with torch.no_grad():
        expected = network(x)
    torch.backends.quantized.engine = engine
    module = quantized(network, "traced", x)
    found = module(x)
    assert sqnr(expected, found) > case.bound - 2
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("engine", ["x86", "fbgemm", "onednn", "qnnpack"])
@pytest.mark.parametrize("features", [6, 8])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_a_transposed_convolution_without_output_padding_is_right(
    dimensions: int, features: int, engine: str
) -> None:
    """Test that what stock torch has wrong on oneDNN, unless inputs and outputs are as many, stays float."""
    kind = f"conv{dimensions}d"
    network = transposed_without_padding(dimensions, features).eval()
    x = torch.randn(SHAPES[kind])
    with torch.no_grad():
        expected = network(x)
    torch.backends.quantized.engine = engine
    module = quantized(network, "traced", x)
    found = module(x)
    assert sqnr(expected, found) > 28
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
def test_a_batch_norm_without_weights_is_right(target: str, compiler: str) -> None:
    """Test that statistics without a factor and a shift are enough."""
    norm = nn.BatchNorm2d(8, affine=False)
    norm.running_mean = torch.linspace(-0.2, 0.3, 8)
    norm.running_var = torch.linspace(0.2, 0.6, 8)
    network = One("conv2d", nn.Sequential(nn.MaxPool2d(2), norm)).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected = network(x)
    module = quantized(network, compiler, x, target)
    found = module(x)
    assert sqnr(expected, found) > 30
    assert torch.equal(saved_and_loaded(module)(x), found)


NATIVE_ROWS = {row["op"]: row["native"] for row in op_table()}
# The kernels take CELU with an alpha of 1, and averages that count no zeros and divide by what they average.
FLOAT_ON_NATIVE = (
    "celu, conv2d, module",
    "celu, conv2d, functional",
    "celu, conv2d, functional_in_place",
    "avg_pool1d, conv1d, functional",
    "avg_pool2d, conv2d, divisor",
    "avg_pool3d, conv3d, module",
)
# Where only the caller takes what they give, they add and normalize floats.
FLOAT_FOR_THE_CALLER = ("aten::add.Tensor", "aten::layer_norm")


def has_kernel(row: str) -> bool:
    """Whether the native target has an op of its own for a row."""
    return any("jitquant::" in recipe for recipe in NATIVE_ROWS[row]["recipes"])


@needs_native
@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("name", CASES)
def test_an_op_is_right_on_the_native_target(name: str, compiler: str) -> None:
    """Test that the op is right, in a file the same, and integer where the target has a form of it."""
    case = CASES[name]
    network = case.network().eval()
    x = torch.randn(SHAPES[case.kind])
    with torch.no_grad():
        expected = network(x)
    module = quantized(network, compiler, x, "native")
    found = module(x)
    assert found.dtype == torch.float32
    assert sqnr(expected, found) > case.bound
    assert torch.equal(saved_and_loaded(module)(x), found)

    if case.operands != 2 and NATIVE_ROWS[case.row]["integer"] and name not in FLOAT_ON_NATIVE:
        ops = ops_of(module)
        assert ops.count("jitquant::quantize") == 1
        assert "jitquant::dequantize" not in ops[:-1]
        if has_kernel(case.row) and case.row not in FLOAT_FOR_THE_CALLER:
            assert case.row.split(".")[0] not in ops


class Indices(nn.Module):
    """Values and where they were, both returned."""

    def __init__(self, op: str) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.op = op

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.head(x)
        if self.op == "max":
            values, indices = x.max(1)
        elif self.op == "min":
            values, indices = x.min(1)
        elif self.op == "topk":
            values, indices = x.topk(3, 1)
        elif self.op == "sort":
            values, indices = x.sort(1)
        else:
            values, indices = x.sort(stable=True, dim=1, descending=True)
        if values.dim() == 3:
            values, indices = values.unsqueeze(1), indices.unsqueeze(1)
        return values, indices


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
@pytest.mark.parametrize("op", ["max", "min", "topk", "sort", "stable sort"])
def test_indices_that_the_caller_gets_are_right(op: str, target: str, compiler: str) -> None:
    """Test that they are integers of 64 bits, and say where in the float values the returned ones were."""
    network = Indices(op).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected, places = network(x)
        numbers = network.head(x)
    module = quantized(network, compiler, x, target)
    for one in (module, saved_and_loaded(module)):
        values, indices = one(x)
        assert values.dtype == torch.float32
        assert indices.dtype == torch.int64
        assert sqnr(expected, values) > 30
        assert sqnr(numbers.gather(1, indices), values) > 30
        # Of values that are within a step of each other, the other one may come first.
        assert (indices == places).float().mean() > 0.85


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "tail", [chunk_by_index, split_by_index, both_by_index], ids=lambda tail: tail.__name__
)
def test_a_list_that_is_indexed_is_right(tail: Any, compiler: str) -> None:
    """Test that parts of a chunk or split that are taken by index are right, and float to the caller."""
    network = One("conv2d", tail).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected = network(x)
    module = quantized(network, compiler, x)
    found = module(x)
    assert found.dtype == torch.float32
    assert sqnr(expected, found) > 30
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize("compiler", COMPILERS)
@pytest.mark.parametrize(
    "tail",
    [times_a_length, whole_halves, mean_in_float64, times_integers, nn.PReLU(8)],
    ids=lambda tail: getattr(tail, "__name__", "PReLU"),
)
def test_arithmetic_that_cannot_be_integer_runs(tail: Any, compiler: str) -> None:
    """Test that arithmetic with numbers, integers, other precisions and learnt slopes is right."""
    network = One("conv2d", tail).eval()
    x = torch.randn(SHAPES["conv2d"])
    with torch.no_grad():
        expected = network(x)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = quantized(network, compiler, x)
    found = module(x)
    assert found.dtype == expected.dtype
    assert sqnr(expected, found) > 30
    assert torch.equal(saved_and_loaded(module)(x), found)


@pytest.mark.parametrize(
    "row", [row["op"] for row in op_table() if row["quantized"]["integer"] and row["activations"]]
)
def test_every_integer_form_has_a_case(row: str) -> None:
    """Test that each row of the op table with an integer form has a case above with the op in its graph.

    Those of which only the weight is integer are in test_embeddings.py.
    """
    cases = [case for case in CASES.values() if case.row == row]
    assert cases, f"{row}: add spellings of it to tests/op_cases"
    for case in cases:
        module = working_copy(torch.jit.script(case.network().eval()))
        run_passes(CANONICALIZE, module)
        assert row in rows_in(module)
