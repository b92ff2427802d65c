"""What is done to win back accuracy, and the presets that choose it.

============  ==============  ===============  ===============  =========================================
Preset        `correct_bias`  `smooth_inputs`  `round_weights`  What it costs while calibrating
============  ==============  ===============  ===============  =========================================
``fast``      no              no               no               nothing
``balanced``  yes             yes              no               the mean and the range of each channel
``accurate``  yes             yes              yes              products of inputs, seconds of conversion
============  ==============  ===============  ===============  =========================================

``equalize_layers`` is for weights with one scale, as those of qnnpack's default qconfig; where each output
channel has a scale of its own it gains little, and no preset has it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from jitquant.errors import QuantizationError

__all__ = ["PRESETS", "Methods", "choose_methods"]


@dataclass(frozen=True)
class Methods:
    """Which methods are used.

    correct_bias: the bias takes back what rounding the weight shifts on average (Nagel et al. 2019,
        arXiv:1906.04721, section 4.2).
    smooth_inputs: large channels of what a linear takes are made smaller before they are rounded, and the
        weights that they meet larger (SmoothQuant, Xiao et al. 2023, arXiv:2211.10438).
    round_weights: weights are rounded such that the results change least (GPTQ, Frantar et al. 2023,
        arXiv:2210.17323), and the bias of these ops is corrected with them.
    equalize_layers: the channels between two layers get ranges that are alike (Nagel et al. 2019,
        section 4.1).
    """

    correct_bias: bool = False
    smooth_inputs: bool = False
    round_weights: bool = False
    equalize_layers: bool = False

    def before_observing(self) -> tuple[str, ...]:
        """The passes that change the model before it is observed."""
        return ("equalize_layers",) if self.equalize_layers else ()

    def recording(self) -> tuple[str, ...]:
        """The passes that record what these methods need, in their order."""
        channels = ("observe_channels",) if self.smooth_inputs else ()
        products = ("observe_products",) if self.round_weights else ()
        means = ("observe_means",) if self.correct_bias else ()  # of what the second left alone
        return channels + products + means


PRESETS = {
    "fast": Methods(),
    "balanced": Methods(correct_bias=True, smooth_inputs=True),
    "accurate": Methods(correct_bias=True, smooth_inputs=True, round_weights=True),
}


def choose_methods(preset: Any, caller: str, **switches: Any) -> Methods:
    """The preset's methods, with each switch that is not None in place of the preset's.

    Raises QuantizationError for an unknown preset and for a switch that is neither a bool nor None.
    """
    if preset not in PRESETS:
        known = ", ".join(map(repr, PRESETS))
        raise QuantizationError(f"{caller}: preset={preset!r} is unknown; choose from {known}")
    for name, value in switches.items():
        if value is not None and not isinstance(value, bool):
            raise QuantizationError(
                f"{caller}: {name}={value!r} is a {type(value).__name__}; "
                "pass True, False, or None for what the preset does"
            )
    return replace(PRESETS[preset], **{name: value for name, value in switches.items() if value is not None})
