"""The one error that jitquant raises for bad input."""

from jitquant._C import QuantizationError as QuantizationError

__all__ = ["QuantizationError"]
