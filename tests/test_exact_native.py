"""The formulas of the native target against its kernels, bit for bit, on random single ops."""

import os

import pytest
import torch
from torch import Tensor

from jitquant.exact import emulations
from tests.exact_native_draws import KINDS, Call, Draws
from tests.marks import needs_native

pytestmark = needs_native
SEED = int(os.environ.get("JITQUANT_SEED", "0"))
DRAWS = 150  # of each of the kinds


def held(values: Tensor | list[Tensor]) -> Tensor | list[Tensor]:
    """A copy with the same strides, in which integers are float64."""
    if isinstance(values, list):
        return [held(value) for value in values]
    dtype = torch.float64 if values.dtype == torch.uint8 else values.dtype
    return torch.empty_strided(values.shape, values.stride(), dtype=dtype).copy_(values)


def run(call: Call) -> tuple[Tensor, str] | None:
    """What the kernel gives, and which it was; None where oneDNN has none."""
    ops = torch.ops.jitquant
    kernel = getattr(ops, call.prepack)(*call.arguments)
    try:
        return getattr(ops, call.op)(*call.inputs, kernel), kernel.implementation()
    except RuntimeError as error:
        assert "could not create a primitive descriptor" in str(error)
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_formula_gives_the_bits_of_the_kernel(kind: str) -> None:
    """Test that a formula gives the same numbers and strides for random sizes, layouts, scales, threads."""
    formulas = emulations("x86", "native")
    threads = torch.get_num_threads()
    compared = 0
    try:
        for i in range(DRAWS):
            call = KINDS[kind](Draws(1000 * SEED + i))
            copies = [held(values) for values in call.inputs]  # the op may write to its own
            torch.set_num_threads(1 + i % 2)
            result = run(call)
            if result is None:
                continue
            expected, kernel = result
            found = formulas["jitquant::" + call.op](*copies, *call.arguments)
            told = f"draw {i} of seed {SEED}: {call.op} by {kernel}"
            assert found.dtype == (torch.float64 if expected.dtype == torch.uint8 else torch.float32), told
            is_same = torch.equal(found, expected.to(found.dtype))
            assert is_same, told
            assert found.stride() == expected.stride(), told
            compared += 1
    finally:
        torch.set_num_threads(threads)
    assert compared > DRAWS * 0.8


def test_ties_and_saturation_are_among_the_draws() -> None:
    """Test that the draws above are not only easy ones: halves to round, and numbers out of range."""
    ties = saturated = 0
    for i in range(300):
        call = KINDS["linear"](Draws(i))
        scale, zero_point = call.arguments[5:7]
        if scale is None:
            continue
        without = (*call.arguments[:5], None, 0, "", *call.arguments[8:-1], None)
        result = run(Call(call.op, call.prepack, call.inputs, without))
        assert result is not None
        numbers = result[0].double() / scale + zero_point
        ties += int((numbers.frac().abs() == 0.5).sum())
        saturated += int(((numbers < 0) | (numbers > 255)).sum())
    assert ties > 20
    assert saturated > 20


def test_every_formula_runs_in_stock_torch() -> None:
    """Test that the compiled formulas hold ops of torch alone, so that a saved model needs nothing else."""
    for op, formula in emulations("x86", "native").items():
        graph = str(formula.inlined_graph)
        assert "aten::" in graph
        assert "jitquant::" not in graph, op
