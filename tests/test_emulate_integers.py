"""emulate_integers: integer ops become their formulas, and what has none is left and named."""

import pytest
import torch
from torch import Tensor
from torch.testing import FileCheck

from jitquant import QuantizationError
from jitquant.passes import PassOptions, parse_ir, run_pass
from tests.graphs import graph_of
from tests.quantized_ir import constants, quantize


@torch.jit.script
def rounded(x: Tensor, scale: float, zero_point: int, dtype: int) -> tuple[Tensor, float, int]:
    return torch.round(x.double() / scale + zero_point).clamp(0, 255), scale, zero_point


@torch.jit.script
def made_float(q: tuple[Tensor, float, int]) -> Tensor:
    return ((q[0] - q[2]) * q[1]).float()


@torch.jit.script
def negated(q: tuple[Tensor, float, int]) -> tuple[Tensor, float, int]:
    return 255 - q[0], q[1], 255 - q[2]


FORMULAS = {"aten::quantize_per_tensor": rounded, "aten::dequantize": made_float}


def network(body: str, result: str = "r") -> torch.jit.ScriptModule:
    """An input that is quantized to %q, `body`, and %r dequantized."""
    return parse_ir(
        "graph(%self, %x : Tensor):\n"
        + constants(zero=0, one=1, minus=-1, half=0.5)
        + quantize("q", "x", 0.1, 128)
        + body
        + f"  %y : Tensor = aten::dequantize(%{result})\n  return (%y)"
    )


def emulated(module: torch.jit.ScriptModule, **more: torch.jit.ScriptFunction) -> torch.jit.ScriptModule:
    formulas = {**FORMULAS, **{f"aten::{name}": formula for name, formula in more.items()}}
    run_pass("emulate_integers", module, PassOptions(formulas=formulas))
    return module


def test_ops_become_their_formulas() -> None:
    """Test that quantized tensors become tuples of integers, scale and zero point, which then go away."""
    x = torch.randn(4, 3)
    module = network("  %r : Tensor = aten::relu(%q)\n")
    expected = module(x)

    @torch.jit.script
    def relu(q: tuple[Tensor, float, int]) -> tuple[Tensor, float, int]:
        return q[0].clamp(min=q[2]), q[1], q[2]

    emulated(module, relu=relu)
    text = FileCheck().check("aten::round").check_not("quantize").check_not("Tuple").check_not("aten::relu(")
    text.run(graph_of(module))
    torch.testing.assert_close(module(x), expected)


def test_ops_that_move_values_run_on_the_integers() -> None:
    """Test that what moves values keeps the scale of its input, through lists too."""
    x = torch.randn(4, 6)
    module = network(
        "  %t : Tensor = aten::transpose(%q, %zero, %one)\n"
        "  %two : int = prim::Constant[value=2]()\n"
        "  %parts : Tensor[] = aten::chunk(%t, %two, %zero)\n"
        "  %a : Tensor, %r : Tensor = prim::ListUnpack(%parts)\n"
    )
    expected = module(x)
    emulated(module)
    FileCheck().check("aten::round").check("aten::transpose(").check("aten::chunk(").run(graph_of(module))
    assert torch.equal(module(x), expected)


def test_an_op_without_formula_runs_on_integers_and_is_named() -> None:
    """Test that an integer op without a formula stays, between its integers, with a warning that names it."""
    x = torch.randn(4, 3)
    module = network("  %r : Tensor = quantized::leaky_relu(%q, %half, %zero, %half, %zero)\n")
    module = network(
        "  %no : bool = prim::Constant[value=0]()\n"
        "  %r : Tensor = quantized::leaky_relu(%q, %half, %no, %half, %zero)\n"
    )
    expected = module(x)
    with pytest.warns(UserWarning, match=r"quantized::leaky_relu.* has no formula and runs on integers"):
        emulated(module)
    FileCheck().check("_make_per_tensor_quantized_tensor").check("quantized::leaky_relu").check(
        "aten::int_repr"
    ).run(graph_of(module))
    assert torch.equal(module(x), expected)


def test_float_ops_stay() -> None:
    """Test that an op of ATen's on floats is left alone though its integer form has a formula."""
    module = parse_ir("graph(%self, %x : Tensor):\n  %y : Tensor = aten::neg(%x)\n  return (%y)")
    emulated(module, neg=negated)
    assert torch.equal(module(torch.ones(2)), -torch.ones(2))


def test_a_formula_that_does_not_fit_is_refused() -> None:
    """Test that a formula with other arguments than the op's is refused, with the op's name."""
    module = network("  %r : Tensor = aten::relu(%q)\n")
    with pytest.raises(QuantizationError, match="the formula of aten::relu takes 4 arguments, and the op has 1"):
        emulated(module, relu=rounded)
