"""What compare_weights reads of a graph: nodes by their places, and the values that are known beforehand."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch

from jitquant import _C

Node = Any  # torch._C.Node; its stubs say little of it
Value = Any  # torch._C.Value


class Graph:
    """One method of a module.

    Attributes:
        nodes: those that make tensors, in program order: the numbers of csrc/watch.h are places in this list.
    """

    def __init__(self, module: torch.jit.ScriptModule, method: str) -> None:
        self._module = module._c
        self.nodes: list[Node] = [
            node for node in _walk(module._c._get_method(method).graph) if _makes_tensors(node)
        ]

    def static(self, value: Value) -> Any:
        """What a value is in every call: a constant's, or an attribute's; None if that is not known."""
        node = value.node()
        if node.kind() == "prim::Constant":
            return value.toIValue()
        if node.kind() == "prim::ListConstruct":  # what a constant list is in a file
            found = [self.static(each) for each in node.inputs()]
            return None if any(each is None for each in found) else found
        return self.attribute(value)

    def attribute(self, value: Value) -> Any:
        """The attribute that a value is read from; None if it is none. For objects see `state`."""
        names = _path(value)
        if not names:
            return None
        owner = self._module
        for name in names:
            owner = owner.getattr(name)
        return owner

    def state(self, value: Value) -> Any:
        """What an object of a class written in TorchScript is saved as: those of csrc/packed_weight.cpp.

        Python cannot hold such an object, so that a method of a copy of the module asks it.
        """
        name = f"_state_{len(self._copy._c._method_names())}"
        self._copy.define(f"def {name}(self):\n    return self.{'.'.join(_path(value))}.__getstate__()\n")
        return self._copy._c._get_method(name)()

    @cached_property
    def _copy(self) -> torch.jit.ScriptModule:
        return torch.jit._recursive.wrap_cpp_module(_C.clone(self._module, share_tensors=True))


def _path(value: Value) -> list[str]:
    """The names of the attributes that lead to a value; empty if it is none."""
    names: list[str] = []
    while (node := value.node()).kind() == "prim::GetAttr":
        names.insert(0, node.s("name"))
        value = node.input()
    return names


def class_name(value: Value) -> str:
    """``jitquant.Kernel`` for ``__torch__.torch.classes.jitquant.Kernel``; empty for what is no object."""
    kind = value.type()
    if kind.kind() != "ClassType":
        return ""
    name = kind.qualified_name().removeprefix("__torch__.").removeprefix("torch.classes.")
    return str(name)


def _walk(block: Any) -> Iterator[Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _walk(inner)


def _makes_tensors(node: Node) -> bool:
    return not node.kind().startswith("prim::") and any(
        output.type().str() in ("Tensor", "Tensor[]") or output.type().kind() == "TensorType"
        for output in node.outputs()
    )
