"""IR text with quantize and dequantize in it, passes with options, and numbers to within a step."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitquant.passes import PassOptions, parse_ir, run_pass
from tests.graphs import Attributes, Run

# What c10::ScalarType calls torch.qint8 and torch.quint8.
QINT8 = 12
QUINT8 = 13

# Of the graphs that `convolution` and `linear` make.
RELU = "  %after : Tensor = aten::relu(%result)\n"
INPUT_PARAMS = (0.03, 120)


def constant(name: str, value: Any) -> str:
    """A line that defines `%name` as a constant."""
    if value is None:
        return f"  %{name} : NoneType = prim::Constant()\n"
    kinds = {bool: "bool", int: "int", float: "float", str: "str", list: "int[]"}
    text = {bool: lambda: int(value), str: lambda: f'"{value}"'}.get(type(value), lambda: value)()
    return f"  %{name} : {kinds[type(value)]} = prim::Constant[value={text}]()\n"


def constants(**values: Any) -> str:
    """A line for each name."""
    return "".join(constant(name, value) for name, value in values.items())


def attribute(name: str, kind: str = "Tensor") -> str:
    """A line that reads the attribute of that name from self, into a value of that name."""
    return f'  %{name} : {kind} = prim::GetAttr[name="{name}"](%self)\n'


def pair(name: str, of: str, scale: float, zero_point: int, dtype: int = QUINT8) -> str:
    """Lines that quantize `%of` into `%name_q`, and dequantize that into `%name`."""
    return (
        quantize(f"{name}_q", of, scale, zero_point, dtype)
        + f"  %{name} : Tensor = aten::dequantize(%{name}_q)\n"
    )


def quantize(name: str, of: str, scale: float, zero_point: int, dtype: int = QUINT8) -> str:
    """Lines that quantize `%of` into `%name`."""
    return (
        constants(**{f"{name}_scale": scale, f"{name}_zero": zero_point, f"{name}_dtype": dtype})
        + f"  %{name} : Tensor = aten::quantize_per_tensor"
        + f"(%{of}, %{name}_scale, %{name}_zero, %{name}_dtype)\n"
    )


def weight_pair(weight: Tensor, *, per_channel: bool = True, name: str = "weight") -> tuple[str, Attributes]:
    """Lines that quantize the attribute `name` and dequantize it into `%name_d`, and what they read."""
    dtype = constant(f"{name}_dtype", QINT8)
    if per_channel:
        scale = weight.flatten(1).abs().amax(1) / 127
        zero_point: Any = torch.zeros(len(weight), dtype=torch.int64)
        kinds, op, axis = ("Tensor", "Tensor"), "quantize_per_channel", f", %{name}_axis"
        dtype += constant(f"{name}_axis", 0)
    else:
        scale, zero_point = float(weight.abs().max() / 127), 0
        kinds, op, axis = ("float", "int"), "quantize_per_tensor", ""
    text = (
        attribute(name)
        + attribute(f"{name}_scale", kinds[0])
        + attribute(f"{name}_zero", kinds[1])
        + dtype
        + f"  %{name}_q : Tensor = aten::{op}(%{name}, %{name}_scale, %{name}_zero{axis}, %{name}_dtype)\n"
        + f"  %{name}_d : Tensor = aten::dequantize(%{name}_q)\n"
    )
    return text, {name: weight, f"{name}_scale": scale, f"{name}_zero": zero_point}


LINEAR = f"""
graph(%self, %x : Tensor):
{attribute("weight")}
{constants(none=None)}
  %y : Tensor = aten::linear(%x, %weight, %none)
  return (%y)"""


def convolution(
    weight: Tensor,
    *,
    groups: int = 1,
    padding: int = 1,
    per_channel: bool = True,
    after: str = "",
    out: tuple[float, int] = (0.03, 120),
    bias: bool = True,
) -> tuple[str, Attributes]:
    """A graph in which a convolution stands between dequantize and quantize, and its attributes.

    `after` is what stands behind the convolution: it takes %result and gives %after.
    """
    dimensions = weight.dim() - 2
    weight_text, attributes = weight_pair(weight, per_channel=per_channel)
    attributes["bias"] = torch.randn(len(weight)) if bias else None
    text = f"""
graph(%self, %x : Tensor):
{constants(ones=[1] * dimensions, padding=[padding] * dimensions, groups=groups, none=None)}
{attribute("bias") if bias else ""}
{weight_text}
{pair("xd", "x", *INPUT_PARAMS)}
  %result : Tensor = aten::conv{dimensions}d(
    %xd, %weight_d, {"%bias" if bias else "%none"}, %ones, %padding, %ones, %groups)
{after}
{pair("y", "after" if after else "result", *out)}
  return (%y)"""
    return text.replace("(\n    ", "("), {
        key: value for key, value in attributes.items() if value is not None
    }


def linear(
    *, before: str = "", after: str = "", bias: bool = True, per_channel: bool = True
) -> tuple[str, Attributes]:
    """A linear between dequantize and quantize.

    `before` takes %x and gives %f, `after` takes %result and gives %after.
    """
    weight_text, attributes = weight_pair(torch.randn(12, 16) * 0.3, per_channel=per_channel)
    if bias:
        attributes["bias"] = torch.randn(12)
    text = f"""
graph(%self, %x : Tensor):
{constants(none=None, zero=0, one=1, two=2, last=-1, no=False)}
{attribute("bias") if bias else constants(bias=None)}
{weight_text}
{before}
{pair("xd", "f" if before else "x", 0.03, 120)}
  %result : Tensor = aten::linear(%xd, %weight_d, %bias)
{after}
{pair("y", "after" if after else "result", 0.05, 100)}
  return (%y)"""
    return text, attributes


def run_with(
    name: str | Sequence[str],
    text: str,
    attributes: Attributes | None = None,
    options: PassOptions | None = None,
) -> Run:
    """Runs one pass, or several, on IR text under the options. `before` is a copy that they never saw."""
    before = parse_ir(text, _copies(attributes))
    after = parse_ir(text, _copies(attributes))
    names = [name] if isinstance(name, str) else name
    return Run(before, after, sum(run_pass(each, after, options or PassOptions()) for each in names))


def check_within_a_step(
    before: torch.nn.Module, after: torch.nn.Module, *inputs: Tensor, step: float, steps: float = 1
) -> None:
    """Both give the same numbers up to one step (or `steps`), most of them exactly.

    Different kernels may round a value halfway between two integers either way, hence the step. A reference
    of only a few values, with which anything might agree, is refused.
    """
    with torch.no_grad():
        expected, found = before(*inputs), after(*inputs)
    assert expected.dtype == found.dtype
    assert expected.shape == found.shape
    assert expected.unique().numel() >= min(8, expected.numel()), "the reference is too plain to compare with"
    error = (expected - found).abs()
    assert error.max() <= steps * step * 1.001, f"{float(error.max() / step):.2f} steps off"
    assert error.mean() <= 0.05 * steps * step, f"{float(error.mean() / step):.3f} steps off on average"


def _copies(attributes: Attributes | None) -> Attributes:
    return {path: copy.deepcopy(value) for path, value in (attributes or {}).items()}


class LayerIr(NamedTuple):
    """IR text in which `%y`, `%h` and `%c` come from an LSTM of two directions, and its attributes."""

    text: str
    attributes: Attributes


def lstm(of: str, weights: Sequence[str], *, before: str = "", train: bool = False) -> LayerIr:
    """An LSTM that takes `%of` and weights of these names, of 5 inputs and 4 hidden values.

    `before` stands in front of it. The attributes are its matrices, `w0` to `w3`, and biases, `b0` to `b3`.
    """
    attributes: Attributes = {f"w{i}": torch.randn(16, (5, 4)[i % 2]) * 0.3 for i in range(4)}
    attributes.update({f"b{i}": torch.randn(16) * 0.3 for i in range(4)})
    reads = "".join(attribute(name) for name in attributes)
    listed = ", ".join(f"%{name}" for i in (0, 2) for name in (*weights[i : i + 2], f"b{i}", f"b{i + 1}"))
    text = f"""
graph(%self, %x : Tensor, %h0 : Tensor):
{reads}
{before}
{constants(yes=True, no=False, layers=1, zero=0.0, train=train)}
  %hx : Tensor[] = prim::ListConstruct(%h0, %h0)
  %weights : Tensor[] = prim::ListConstruct({listed})
  %y : Tensor, %h : Tensor, %c : Tensor = aten::lstm(
    %{of}, %hx, %weights, %yes, %layers, %zero, %train, %yes, %no)
  %all : (Tensor, Tensor, Tensor) = prim::TupleConstruct(%y, %h, %c)
  return (%all)"""
    return LayerIr(text.replace("(\n    ", "("), attributes)
