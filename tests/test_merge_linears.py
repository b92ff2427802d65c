"""Tests of merge_linears: dynamic linears that take the same value become one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

import jitquant
from jitquant.passes import PassOptions
from tests.graphs import Attributes, graph_of, nodes_of, ops_of, saved_and_loaded
from tests.marks import needs_native
from tests.networks import sqnr
from tests.quantized_ir import QINT8, attribute, constants, run_with

MERGE = "merge_linears"
STOCK, NATIVE = PassOptions(), PassOptions(target="native")
TARGETS = [pytest.param(STOCK, id="quantized"), pytest.param(NATIVE, id="native", marks=needs_native)]
ROWS = (5, 3, 7)
KERNEL = "__torch__.torch.classes.jitquant.Kernel"
PACKED = "__torch__.torch.classes.quantized.LinearPackedParamsBase"


def linears(
    options: PassOptions,
    *,
    inputs: tuple[str, ...] = ("x", "x", "x"),
    biases: tuple[bool, ...] = (True, False, True),
    activation: str = "",
    per_channel: bool = True,
    between: str = "",
) -> tuple[str, Attributes]:
    """Three dynamic linears of 5, 3 and 7 rows, and an op on the first result between the first two."""
    lines = constants(
        none=None, no=False, axis=0, dtype=QINT8, zero=0, scale=0.02, nothing="", activation=activation
    )
    attributes: Attributes = {}
    for i, rows in enumerate(ROWS):
        attributes[f"w{i}"], attributes[f"b{i}"] = torch.randn(rows, 6), torch.randn(rows)
        attributes[f"s{i}"], attributes[f"z{i}"] = (
            torch.rand(rows) * 0.02 + 0.01,
            torch.zeros(rows, dtype=torch.long),
        )
        lines += "".join(attribute(f"{name}{i}") for name in "wbsz")
        bias = f"b{i}" if biases[i] else "none"
        lines += (
            f"  %q{i} : Tensor = aten::quantize_per_channel(%w{i}, %s{i}, %z{i}, %axis, %dtype)\n"
            if per_channel
            else f"  %q{i} : Tensor = aten::quantize_per_tensor(%w{i}, %scale, %zero, %dtype)\n"
        )
        if options is NATIVE:
            lines += f"""
  %i{i} : Tensor = aten::int_repr(%q{i})
  %k{i} : {KERNEL} = jitquant::linear_dynamic_prepack(%i{i}, %s{i}, %{bias}, %activation, %nothing)
  %y{i} : Tensor = jitquant::linear_dynamic(%{inputs[i]}, %k{i})
"""
        else:
            lines += f"""
  %k{i} : {PACKED} = quantized::linear_prepack(%q{i}, %{bias})
  %y{i} : Tensor = quantized::linear_dynamic(%{inputs[i]}, %k{i}, %no)
"""
        lines += between if i == 0 else ""
    text = f"""
graph(%self, %x : Tensor, %z : Tensor):
{lines}
  %all : (Tensor, Tensor, Tensor) = prim::TupleConstruct(%y0, %y1, %y2)
  return (%all)"""
    return text, attributes


def outputs(module: torch.jit.ScriptModule, *inputs: Tensor) -> list[Tensor]:
    return list(module(*inputs))


@pytest.mark.parametrize("options", TARGETS)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("shape", [(4, 6), (2, 5, 6)], ids=str)
def test_three_become_one(options: PassOptions, per_channel: bool, shape: tuple[int, ...]) -> None:
    """Test that each result is a part of one product, to the last bit, also where only some have a bias."""
    run = run_with(MERGE, *linears(options, per_channel=per_channel), options)
    assert run.count == 1
    op = "jitquant::linear_dynamic" if options is NATIVE else "quantized::linear_dynamic"
    assert ops_of(run.after).count(op) == 1
    x = torch.randn(shape)
    for one, other in zip(outputs(run.after, x, x), outputs(run.before, x, x), strict=True):
        assert torch.equal(one, other)


@needs_native
def test_no_rows() -> None:
    """Test that an empty batch has empty parts, as before."""
    run = run_with(MERGE, *linears(NATIVE), NATIVE)
    x = torch.randn(0, 6)
    assert [tuple(y.shape) for y in outputs(run.after, x, x)] == [(0, rows) for rows in ROWS]


@needs_native
def test_text() -> None:
    text, attributes = linears(NATIVE)
    run = run_with(MERGE, text, attributes, NATIVE)
    FileCheck().check_count("aten::int_repr", 3, exactly=True).check("aten::cat").check(
        "jitquant::linear_dynamic_prepack"
    ).check("jitquant::linear_dynamic(").check("aten::split_with_sizes").check("prim::ListUnpack").run(
        graph_of(run.after)
    )


@pytest.mark.parametrize("options", TARGETS)
def test_what_stands_between_two_of_them_stays_there(options: PassOptions) -> None:
    """Test that weights which are read behind the first linear are known before it, and its user stays."""
    text, attributes = linears(options, between="  %r : Tensor = aten::tanh(%y0)\n")
    text = text.replace("TupleConstruct(%y0,", "TupleConstruct(%r,")
    run = run_with(MERGE, text, attributes, options)
    assert run.count == 1
    x = torch.randn(4, 6)
    for one, other in zip(outputs(run.after, x, x), outputs(run.before, x, x), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("options", TARGETS)
def test_only_those_of_the_same_input(options: PassOptions) -> None:
    run = run_with(MERGE, *linears(options, inputs=("x", "z", "x")), options)
    assert run.count == 1
    (split,) = nodes_of(run.after, "aten::split_with_sizes")
    assert split.inputsAt(1).toIValue() == [ROWS[0], ROWS[2]]
    x, z = torch.randn(4, 6), torch.randn(4, 6)
    for one, other in zip(outputs(run.after, x, z), outputs(run.before, x, z), strict=True):
        assert torch.equal(one, other)


@needs_native
def test_not_merged_where_a_function_is_part_of_one() -> None:
    run = run_with(MERGE, *linears(NATIVE, activation="relu"), NATIVE)
    assert run.count == 0


@pytest.mark.parametrize("options", TARGETS)
@pytest.mark.parametrize(
    "between",
    [
        "  %c : Tensor = aten::relu_(%x)\n",
        "  %size : int[] = prim::Constant[value=[-1]]()\n  %c : Tensor = aten::view(%y0, %size)\n",
    ],
    ids=["input changes", "a view is asked for"],
)
def test_not_merged_where_memory_matters(options: PassOptions, between: str) -> None:
    """Test that linears before and behind a change are not one, and that a view finds memory of its own."""
    text, attributes = linears(options, between=between)
    text = text.replace("TupleConstruct(%y0", "TupleConstruct(%c")
    run = run_with(MERGE, text, attributes, options)
    assert run.count == 0


@pytest.mark.parametrize("options", TARGETS)
def test_a_result_that_is_changed_in_place_stays_apart(options: PassOptions) -> None:
    """Test that the others are merged, whose memory it does not share."""
    run = run_with(MERGE, *linears(options, between="  %c : Tensor = aten::relu_(%y0)\n"), options)
    (split,) = nodes_of(run.after, "aten::split_with_sizes")
    assert split.inputsAt(1).toIValue() == [*ROWS[1:]]
    x = torch.randn(4, 6)
    for one, other in zip(outputs(run.after, x, x), outputs(run.before, x, x), strict=True):
        assert torch.equal(one, other)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.query, self.key, self.value, self.mix = (nn.Linear(32, 32) for _ in range(4))

    def heads(self, x: Tensor) -> Tensor:
        return x.view(x.size(0), x.size(1), 4, 8).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.heads(self.query(x)), self.heads(self.key(x)), self.heads(self.value(x))
        weights = torch.softmax(query @ key.transpose(-1, -2) * 8**-0.5, -1)
        return self.mix((weights @ value).transpose(1, 2).reshape(x.size(0), x.size(1), 32))


KINDS: dict[str, Any] = {
    "default": jitquant.default_dynamic_qconfig,
    "per channel": jitquant.per_channel_dynamic_qconfig,
    "bfloat16": jitquant.bfloat16_dynamic_qconfig,
}


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "scripted"])
@pytest.mark.parametrize("kind", KINDS)
def test_query_key_and_value(kind: str, traced: bool, target: str) -> None:
    """Test that attention keeps its numbers, and what is said of each linear, in a file too."""
    torch.manual_seed(0)
    eager, x = Attention().eval(), torch.randn(2, 6, 32)
    model = torch.jit.trace(eager, x) if traced else torch.jit.script(eager)
    made = jitquant.quantize_dynamic_jit(model, {"": KINDS[kind]}, target=target)
    apart = jitquant.quantize_dynamic_jit(
        model, {"": KINDS[kind]}, target=target, stop_after="fuse_quantized"
    )
    merges = kind != "bfloat16" or target == "native"
    assert len(nodes_of(made, "aten::split_with_sizes")) == merges
    result = saved_and_loaded(made)(x)
    assert sqnr(eager(x), result) > 25
    torch.testing.assert_close(result, apart(x), rtol=1e-5, atol=1e-5)
    linears_of = [op for op in jitquant.summarize(made).ops if op.op == "aten::linear"]
    assert [op.module for op in linears_of] == ["query", "key", "value", "mix"]
    assert all(op.is_integer for op in linears_of)
