"""TorchScript post-training quantization: a ScriptModule in, an integer one out that stock PyTorch runs."""

from jitquant._compatibility import check_torch_version

check_torch_version()  # before the extension is loaded: with another torch that would fail without a reason

from jitquant import native, numeric_suite  # noqa: E402
from jitquant.api import convert_jit, fuse_conv_bn_jit, prepare_jit, quantize_jit  # noqa: E402
from jitquant.check import Finding, Fit, check  # noqa: E402
from jitquant.dynamic import convert_dynamic_jit, prepare_dynamic_jit, quantize_dynamic_jit  # noqa: E402
from jitquant.errors import QuantizationError  # noqa: E402
from jitquant.info import info  # noqa: E402
from jitquant.observers import (  # noqa: E402
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    WeightMinMaxObserver,
)
from jitquant.profile import Profile, ProfiledOp, profile  # noqa: E402
from jitquant.qconfig import (  # noqa: E402
    QConfig,
    bfloat16_dynamic_qconfig,
    default_dynamic_qconfig,
    default_qconfig,
    float16_dynamic_qconfig,
    float_qparams_weight_only_qconfig,
    float_qparams_weight_only_qconfig_4bit,
    get_default_qconfig,
    per_channel_dynamic_qconfig,
    weight_only_int8_qconfig,
)
from jitquant.qconfig_mapping import QConfigMapping  # noqa: E402
from jitquant.quantizer import ComposedQuantizer, OpNode, Quantizer  # noqa: E402
from jitquant.report import report  # noqa: E402
from jitquant.sensitivity import PartSensitivity, Sensitivity, sensitivity  # noqa: E402
from jitquant.statistics import load_statistics, merge_statistics, save_statistics  # noqa: E402
from jitquant.summary import OpSummary, Summary, summarize  # noqa: E402
from jitquant.version import __version__  # noqa: E402

native.load()

__all__ = [
    "ComposedQuantizer",
    "Finding",
    "Fit",
    "FixedQParamsObserver",
    "HistogramObserver",
    "MinMaxObserver",
    "MovingAverageMinMaxObserver",
    "OpNode",
    "OpSummary",
    "PartSensitivity",
    "PerChannelMinMaxObserver",
    "PercentileObserver",
    "PlaceholderObserver",
    "Profile",
    "ProfiledOp",
    "QConfig",
    "QConfigMapping",
    "QuantizationError",
    "Quantizer",
    "Sensitivity",
    "Summary",
    "WeightMinMaxObserver",
    "__version__",
    "bfloat16_dynamic_qconfig",
    "check",
    "convert_dynamic_jit",
    "convert_jit",
    "default_dynamic_qconfig",
    "default_qconfig",
    "float16_dynamic_qconfig",
    "float_qparams_weight_only_qconfig",
    "float_qparams_weight_only_qconfig_4bit",
    "fuse_conv_bn_jit",
    "get_default_qconfig",
    "info",
    "load_statistics",
    "merge_statistics",
    "native",
    "numeric_suite",
    "per_channel_dynamic_qconfig",
    "prepare_dynamic_jit",
    "prepare_jit",
    "profile",
    "quantize_dynamic_jit",
    "quantize_jit",
    "report",
    "save_statistics",
    "sensitivity",
    "summarize",
    "weight_only_int8_qconfig",
]
