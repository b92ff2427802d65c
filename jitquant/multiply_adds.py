"""How many multiply-adds a call of a module takes, in integers and in float."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from jitquant import _C

__all__ = ["MultiplyAdds", "count_multiply_adds"]

_OWN_FLOATING = "jitquant::linear_bfloat16"


@dataclass(frozen=True)
class MultiplyAdds:
    """Multiply-adds of one call: of convolutions, linears and products of matrices."""

    integer: int
    floating: int

    @property
    def whole(self) -> int:
        return self.integer + self.floating

    @property
    def integer_share(self) -> float:
        """From 0 to 1; 0 where there are none at all."""
        return self.integer / self.whole if self.whole else 0.0


def count_multiply_adds(module: torch.jit.ScriptModule, inputs: tuple[Any, ...]) -> MultiplyAdds:
    """Calls copies of the module, without gradients, and counts."""
    with torch.no_grad(), _Counter() as counter:
        copy.deepcopy(module)(*inputs)
    # Kernels of jitquant's know what they did; the dispatcher does not show them.
    ops = _C.profile(_C.clone(module._c, share_tensors=False), inputs, 1)["ops"]
    own = [(op["op"].startswith(_OWN_FLOATING), op["multiply_adds"] * op["calls"]) for op in ops]
    return MultiplyAdds(
        counter.integer + sum(count for is_floating, count in own if not is_floating),
        counter.floating + sum(count for is_floating, count in own if is_floating),
    )


class _Counter(TorchDispatchMode):
    """Sees every op that TorchScript's interpreter calls."""

    def __init__(self) -> None:
        super().__init__()
        self.integer = 0
        self.floating = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        space, _, name = func._schema.name.partition("::")
        if space in ("quantized", "onednn") and name in _WEIGHTS:
            count = _of_weight(_WEIGHTS[name](args), args[0], result, name)
            if name.endswith("fp16"):
                self.floating += count
            else:
                self.integer += count
        elif space == "aten" and name in _PRODUCTS:
            self.floating += _PRODUCTS[name](args, result)
        return result


def _of_weight(weight: list[int], given: Any, result: Any, name: str) -> int:
    """A weight is [output, input of a group, ...], or [input, output of a group, ...] where transposed."""
    positions = given if "transpose" in name else result
    return positions.numel() * prod(weight[1:])


def _unpacked(name: str) -> Callable[[Any], list[int]]:
    unpack = getattr(torch.ops.quantized, f"{name}_unpack")
    return lambda args: list(unpack(args[1])[0].shape)


_WEIGHTS: dict[str, Callable[[Any], list[int]]] = {
    "qconv_pointwise": lambda args: list(args[3].shape),
    # Packed as [input, output].
    "qlinear_pointwise": lambda args: list(args[3].shape)[::-1],
}
for _base in (
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
):
    for _tail in ("", "_relu", "_add", "_add_relu"):
        _WEIGHTS[_base + _tail] = _unpacked(_base)

for _name in ("dynamic", "relu_dynamic", "dynamic_fp16", "relu_dynamic_fp16"):
    _WEIGHTS[f"linear_{_name}"] = _unpacked("linear")


def _convolution(args: Any, result: Any) -> int:
    """convolution(input, weight, bias, stride, padding, dilation, transposed, ...)."""
    return (args[0] if args[6] else result).numel() * prod(args[1].shape[1:])


_PRODUCTS: dict[str, Callable[[Any, Any], int]] = {
    "convolution": _convolution,
    "_convolution": _convolution,
    "mkldnn_convolution": lambda args, result: result.numel() * prod(args[1].shape[1:]),
    "mm": lambda args, result: result.numel() * args[0].shape[-1],
    "bmm": lambda args, result: result.numel() * args[0].shape[-1],
    "mv": lambda args, result: args[0].numel(),
    "dot": lambda args, result: args[0].numel(),
    "addmm": lambda args, result: result.numel() * args[1].shape[-1],
    "baddbmm": lambda args, result: result.numel() * args[1].shape[-1],
    "linear": lambda args, result: result.numel() * args[1].shape[-1],
}
