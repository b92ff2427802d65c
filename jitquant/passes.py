"""Passes by name: what there is, and each one alone on IR text or on a module.

>>> module = parse_ir('''
... graph(%self, %x : Tensor):
...   %p : float = prim::Constant[value=0.5]()
...   %train : bool = prim::Constant[value=0]()
...   %y : Tensor = aten::dropout(%x, %p, %train)
...   return (%y)''')
>>> run_pass("remove_no_ops", module)
1
"""

from __future__ import annotations

from typing import Any

import torch

from jitquant import _C
from jitquant.pipeline import PassOptions, run_pass

__all__ = ["PassOptions", "describe_nodes", "op_table", "parse_ir", "passes", "run_pass"]


def passes() -> dict[str, str]:
    """The registered passes: name and purpose."""
    return dict(_C.passes())


def op_table() -> list[dict[str, Any]]:
    """The facts about each op that observer insertion, fusion and the documentation read: one dict a row."""
    return list(_C.op_table())


def parse_ir(text: str, attributes: dict[str, Any] | None = None) -> torch.jit.ScriptModule:
    """Makes a module whose ``forward`` is the graph in ``text``, to run passes on and to call.

    The first input of the graph is ``%self``. ``attributes`` maps dotted paths ("conv.weight") to the values
    that ``prim::GetAttr`` reads; script modules may be among them. Raises QuantizationError where the graph
    reads an attribute that is not given, and RuntimeError where the text does not parse.
    """
    typed = {path: _with_type(value) for path, value in (attributes or {}).items()}
    return torch.jit._recursive.wrap_cpp_module(_C.parse_module(text, typed))


def describe_nodes(module: torch.jit.ScriptModule, method: str = "forward") -> list[str]:
    """How errors name each node of a method: "aten::conv2d at model.py:12 (layer1.0.conv1)"."""
    return list(_C.describe_nodes(module._c, method))


def _with_type(value: Any) -> tuple[Any, Any]:
    if isinstance(value, torch.jit.ScriptModule):
        return value._c, None
    return value, torch._C._jit_try_infer_type(value).type()
