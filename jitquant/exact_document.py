"""The formulas of ``debug="exact"`` as a page: ``python -m jitquant.exact_document > EXACT.md``."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from types import ModuleType

from jitquant.exact import ENGINES, arithmetic, formulas, native_layout, onednn_eltwise, sums

HEAD = """\
# Exact debug mode

What `debug="exact"` computes for each integer op, with the source of each formula: the docstrings of
`jitquant/exact`, written out by `python -m jitquant.exact_document > EXACT.md`.

Integers are held in float64, which holds them exactly; sums of their products are exact too, and are taken in
float32 where none of them can reach 2²⁴. Behind that a formula scales, adds, rounds and saturates in the
order, and with the precision, of the kernel that it stands for. Formulas are ops of stock torch, so that an
exact model is saved, loaded and run like any other. Ops that only move or select values run on the integers
as they are.

## What does not match

- Formulas are those of the processor and of the settings (`ONEDNN_MAX_CPU_ISA`) under which a model is
  converted, as kernels are.
- oneDNN of stock torch changes kernels by a rule that is not known where input, weight and result have less
  than some 1,000 elements together: in 106 of 2,724 drawn layers. Single elements at ties may differ there.
- On more than 32,768 elements ATen's pointwise ops divide the work among threads, and round some elements at
  the end of each share another way. Formulas are those of one thread.
- fbgemm saturates sums of 16 bits in depthwise convolutions and on processors without VNNI. With the qconfig
  for that engine, whose activations have 7 bits, no sum gets there; with 8 bits it is not emulated.
- `quantized::conv2d_add` (onednn, AMX) rounded 1 to 10 elements of 11 in 1,149 drawn layers another way, at
  ties of scales that are nearly multiples of each other; `quantized::sigmoid` four elements of one draw.
- Without a formula, with a warning, the model keeps: recurrent layers, `quantized::prelu`, group and instance
  norm, bilinear resampling and (x86, onednn) transposed convolutions of the default target; products in
  half precision on both.
- `debug=True` is another thing: float ops between quantize and dequantize. Of EfficientNet-Lite0's logits
  it gave the share of equal ones that README shows (`python -m benchmarks.debug_modes`).
"""


# What formulas of a target share, beside arithmetic.
_SHARED: dict[str, tuple[ModuleType, ...]] = {"quantized": (), "native": (onednn_eltwise, native_layout)}


def document() -> str:
    """The whole page, as Markdown."""
    steps = ["## Arithmetic\n", *_steps(arithmetic, {}), *_steps(sums, {})]
    sections = [HEAD, *_sections("quantized", ENGINES), *_sections("native", ENGINES[:1]), *steps]
    return "\n".join(sections)


def _sections(target: str, engines: tuple[str, ...]) -> Iterator[str]:
    tables = {engine: formulas(engine, target) for engine in engines}
    yield f"## Target `{target}`\n"
    entries: dict[Callable[..., object], dict[str, list[str]]] = {}
    for engine, table in tables.items():
        for op, formula in table.items():
            entries.setdefault(formula, {}).setdefault(op, []).append(engine)
    by_module: dict[ModuleType, list[Callable[..., object]]] = {}
    for formula in entries:
        by_module.setdefault(_module_of(formula), []).append(formula)
    for module, of_module in by_module.items():
        yield f"### {_title(module.__doc__ or '')}\n"
        for formula in of_module:
            yield _entry(formula, entries[formula], engines)
        steps = [*_steps(module, entries)]
        if steps:
            yield "Where\n"
            yield from steps
    for module in _SHARED[target]:
        yield f"### {_title(module.__doc__ or '')}\n"
        yield from _steps(module, {})


def _module_of(formula: Callable[..., object]) -> ModuleType:
    module = inspect.getmodule(formula)
    assert module is not None
    return module


def _steps(module: ModuleType, but: dict[Callable[..., object], dict[str, list[str]]]) -> Iterator[str]:
    """The functions of a module that formulas name."""
    for name, function in inspect.getmembers(module, inspect.isfunction):
        is_own = function.__module__ == module.__name__ and function.__name__ == name
        if is_own and function not in but:
            yield f"- `{name}`: {_one_line(inspect.getdoc(function) or '')}\n"


def _entry(formula: Callable[..., object], ops: dict[str, list[str]], engines: tuple[str, ...]) -> str:
    names = ", ".join(f"`{op}`" for op in ops)
    some = next(iter(ops.values()))
    where = "" if len(some) == len(engines) else f" ({', '.join(some)})"
    label = f", `{formula.__name__}`" if formula.__name__ not in {op.split("::")[-1] for op in ops} else ""
    return f"- {names}{label}{where}: {_one_line(inspect.getdoc(formula) or '')}\n"


def _title(text: str) -> str:
    return _one_line(text.split("\n\n")[0]).rstrip(".")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()


if __name__ == "__main__":
    print(document(), end="")
