"""torch.ao's dynamic quantization, of a network in Python or of TorchScript, with weights per channel."""

from pathlib import Path

import torch
from torch import nn
from torch.ao.quantization import per_channel_dynamic_qconfig, quantize_dynamic
from torch.ao.quantization.quantize_jit import quantize_dynamic_jit

from benchmarks.engines import Options
from benchmarks.engines.torchscript import save
from benchmarks.subject import Subject

LINEARS, RECURRENT = {nn.Linear}, {nn.LSTM, nn.GRU, nn.LSTMCell, nn.GRUCell, nn.RNNCell}


def convert(subject: Subject, folder: Path, options: Options) -> Path:
    torch.backends.quantized.engine = options["backend"]
    if options["kind"] == "jit":
        return save(quantize_dynamic_jit(subject.script, {"": per_channel_dynamic_qconfig}), folder)
    # Recurrent modules of eager mode take weights with one scale only.
    network = quantize_dynamic(subject.network, dict.fromkeys(LINEARS, per_channel_dynamic_qconfig))
    network = quantize_dynamic(network, RECURRENT)
    return save(subject.model.script(network, subject.calibration[0]), folder)
