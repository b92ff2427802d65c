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
from tests.networks import sqnr
from tests.op_cases import CASES, SHAPES, One

# Every value is measured in full, so that what is left of the signal says whether the integer op is right.
QCONFIG = QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())
COMPILERS: dict[str, Callable[[nn.Module, Tensor], torch.jit.ScriptModule]] = {
    "scripted": lambda network, x: torch.jit.script(network),
    "traced": lambda network, x: torch.jit.trace(network, (x,)),
}

# On x86 a linear is oneDNN's op on plain integers. It takes a function behind it along, and gives float where
# only the caller takes its result or a sum with it.
PLAIN_LINEAR = "onednn::qlinear_pointwise"
ON_X86 = {
    "quantized::linear": PLAIN_LINEAR,
    "quantized::linear_relu": PLAIN_LINEAR,
    "quantized::hardswish": PLAIN_LINEAR,
    "quantized::add": "aten::add",
    "quantized::add_relu": "aten::add",
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
    return torch.div(x * 20, 2, rounding_mode="floor")


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


def quantized(network: nn.Module, compiler: str, x: Tensor) -> torch.jit.ScriptModule:
    module = COMPILERS[compiler](network, x)
    return quantize_jit(module, {"": QCONFIG}, lambda prepared: prepared(x), [])


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
    wanted = case.integer.split("|")
    assert (
        {ON_X86.get(op, op) for op in wanted} & set(ops) if case.kind == "linear" else set(wanted) & set(ops)
    )
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
    "tail", [times_a_length, whole_halves, mean_in_float64, times_integers], ids=lambda tail: tail.__name__
)
def test_arithmetic_that_cannot_be_integer_runs(tail: Any, compiler: str) -> None:
    """Test that arithmetic with numbers, integers and other precisions is right, whatever it is done in."""
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


@pytest.mark.parametrize("row", [row["op"] for row in op_table() if row["quantized"]["integer"]])
def test_every_integer_form_has_a_case(row: str) -> None:
    """Test that each row of the op table with an integer form has a case above with the op in its graph."""
    cases = [case for case in CASES.values() if case.row == row]
    assert cases, f"{row}: add spellings of it to tests/op_cases"
    for case in cases:
        module = working_copy(torch.jit.script(case.network().eval()))
        run_passes(CANONICALIZE, module)
        assert row in rows_in(module)
