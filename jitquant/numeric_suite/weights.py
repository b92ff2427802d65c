"""The weights of a float model beside those that its integer ops hold."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from jitquant.errors import QuantizationError
from jitquant.numeric_suite.matched import Matched


def compare_weights(
    float_model: torch.jit.ScriptModule, quantized_model: torch.jit.ScriptModule
) -> dict[str, dict[str, Tensor]]:
    """The weights of both models, side by side.

    The float weight is the one right before it was rounded: batch norms are folded into it, layers are
    equalized, and the columns that ``smooth_inputs`` scaled are scaled. The quantized one is what the integer
    op holds: a quantized tensor with one scale or one for each channel, or float16 or bfloat16 where the op
    computes with halves. Of an op that stays float it is the float weight. Of a linear that was merged with
    others it is its own rows.

    Args:
        float_model: the model that `quantized_model` was made of, scripted, traced, frozen or loaded.
        quantized_model: what ``quantize_jit``, ``convert_jit`` or their dynamic counterparts returned, for
            either target, or such a file loaded.

    Returns:
        For each weight, by its module's path and its own name (``conv1.weight``,
        ``rnn.weight_hh_l0_reverse``), a dict with ``'float'`` and ``'quantized'``: two tensors of the same
        shape.

    Raises:
        QuantizationError: for a state dict and for an eager module; for a quantized model that jitquant did
            not make, one made with ``debug``, and one that was not made of `float_model`.
    """
    caller = "compare_weights"
    for model in (float_model, quantized_model):
        _refuse_state_dict(model, caller)
    matched = Matched(float_model, quantized_model, caller)
    return {
        f"{matched.names[op.index]}.{pair.name}": {"float": pair.floating, "quantized": pair.quantized}
        for op in matched.ops
        for pair in matched.weights(op.index)
    }


def _refuse_state_dict(model: Any, caller: str) -> None:
    if isinstance(model, dict):
        raise QuantizationError(
            f"{caller}: this is a state dict, and that of a quantized module has no weights in it, as they "
            "are packed into constants; pass the two models themselves"
        )
