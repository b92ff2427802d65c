"""The one error that jitquant raises for bad input; the C++ passes raise it too."""

from jitquant._C import QuantizationError

QuantizationError.__module__ = "jitquant"

__all__ = ["QuantizationError"]
