"""PyTorch's Numeric Suite for TorchScript: a float model's weights and values beside the integer one's.

The names and the results are those of ``torch.ao.ns._numeric_suite``: dicts by module path, each with
``'float'`` and ``'quantized'``. Models are scripted, traced or loaded, static or dynamic, of either target,
and stay what they are.
"""

from jitquant.numeric_suite.attached import get_logger_dict
from jitquant.numeric_suite.loggers import Logger, OutputLogger, ShadowLogger, StatisticsLogger
from jitquant.numeric_suite.outputs import (
    compare_model_outputs,
    get_matching_activations,
    prepare_model_outputs,
)
from jitquant.numeric_suite.sqnr import compute_error
from jitquant.numeric_suite.stubs import compare_model_stub, prepare_model_with_stubs
from jitquant.numeric_suite.weights import compare_weights

__all__ = [
    "Logger",
    "OutputLogger",
    "ShadowLogger",
    "StatisticsLogger",
    "compare_model_outputs",
    "compare_model_stub",
    "compare_weights",
    "compute_error",
    "get_logger_dict",
    "get_matching_activations",
    "prepare_model_outputs",
    "prepare_model_with_stubs",
]
