"""Every engine of the comparison, one row each. What an engine does is in the module that its row names.

A module has `convert(subject, folder, options)`, which gives the file to deploy, or
`load(file, threads, batch, options)`, which gives a Runner, or both. It is imported in a worker process only,
so that no engine has to be installed for another to be measured.
"""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

Options = Mapping[str, Any]


class Unavailable(Exception):
    """An engine has no way to do this model; the message says why, and becomes a note in the tables."""


class Role(StrEnum):
    """What an engine is compared as."""

    FLOAT = "float"  # stands beside the others, for reference
    JITQUANT = "jitquant"
    PEER = "peer"


@dataclass(frozen=True)
class Variant:
    """A row of a table: an engine, and options of its that are other than usual.

    For jitquant the option `keywords` goes to quantize_jit.
    """

    engine: str
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Runner:
    """A loaded model. `bind` gives the call that is timed, `arrays` what such a call gave as numpy arrays."""

    bind: Callable[[list[np.ndarray]], Callable[[], Any]]
    arrays: Callable[[Any], list[np.ndarray]]


@dataclass(frozen=True)
class Engine:
    """A way to run a model: the module that converts it, the one that loads what came of it, and options."""

    name: str
    role: Role
    converter: str
    loader: str
    options: Options = field(default_factory=dict)
    quick: bool = True
    dynamic: bool = False  # it needs no calibration: `python -m benchmarks --dynamic`

    def convert(self, subject: Any, folder: Path) -> Path:
        return self._module(self.converter).convert(subject, folder, self.options)  # type: ignore[no-any-return]

    def load(self, file: Path, threads: int, batch: int) -> Runner:
        return self._module(self.loader).load(file, threads, batch, self.options)  # type: ignore[no-any-return]

    def warm_imports(self, module: str) -> None:
        """Import what the engine needs, so that the clock does not see it."""
        self._module(module)
        if "library" in self.options:
            importlib.import_module(self.options["library"])

    @staticmethod
    def _module(name: str) -> Any:
        return importlib.import_module(f"benchmarks.engines.{name}")


def _dynamic(name: str, role: Role, converter: str, options: Options) -> Engine:
    return Engine(name, role, converter, "torchscript", options, dynamic=True)


REFERENCE = "float"  # outputs are judged against this engine's

ENGINES = {
    engine.name: engine
    for engine in (
        Engine(REFERENCE, Role.FLOAT, "torchscript", "torchscript"),
        Engine("jitquant-x86", Role.JITQUANT, "with_jitquant", "torchscript", {"backend": "x86"}),
        Engine("jitquant-onednn", Role.JITQUANT, "with_jitquant", "torchscript", {"backend": "onednn"}),
        Engine(
            "jitquant-native",
            Role.JITQUANT,
            "with_jitquant",
            "torchscript",
            {"target": "native", "library": "jitquant"},
        ),
        Engine("torch-jit-x86", Role.PEER, "torch_ao_jit", "torchscript", {"backend": "x86"}),
        Engine("torch-jit-onednn", Role.PEER, "torch_ao_jit", "torchscript", {"backend": "onednn"}),
        Engine(
            "torch-eager-x86", Role.PEER, "torch_ao_eager", "torchscript", {"backend": "x86"}, quick=False
        ),
        Engine("torch-fx-x86", Role.PEER, "torch_ao_fx", "torchscript", {"backend": "x86"}, quick=False),
        Engine("ort-fp32", Role.FLOAT, "onnx_runtime", "onnx_runtime", {"kind": "float"}, quick=False),
        Engine("ort-int8", Role.PEER, "onnx_runtime", "onnx_runtime", {"kind": "MinMax"}),
        Engine(
            "ort-int8-percentile",
            Role.PEER,
            "onnx_runtime",
            "onnx_runtime",
            {"kind": "Percentile"},
            quick=False,
        ),
        Engine("openvino-fp32", Role.FLOAT, "open_vino", "open_vino", {"kind": "float"}, quick=False),
        Engine("openvino-int8", Role.PEER, "open_vino", "open_vino", {"kind": "int8"}),
        _dynamic("jitquant-dynamic", Role.JITQUANT, "jitquant_dynamic", {"backend": "x86"}),
        _dynamic(
            "jitquant-dynamic-bfloat16",
            Role.JITQUANT,
            "jitquant_dynamic",
            {"backend": "x86", "qconfig": "bfloat16_dynamic_qconfig"},
        ),
        _dynamic(
            "jitquant-dynamic-native",
            Role.JITQUANT,
            "jitquant_dynamic",
            {"target": "native", "library": "jitquant"},
        ),
        _dynamic(
            "jitquant-dynamic-native-bfloat16",
            Role.JITQUANT,
            "jitquant_dynamic",
            {"target": "native", "library": "jitquant", "qconfig": "bfloat16_dynamic_qconfig"},
        ),
        _dynamic("torch-dynamic-eager", Role.PEER, "torch_ao_dynamic", {"backend": "x86", "kind": "eager"}),
        _dynamic("torch-dynamic-jit", Role.PEER, "torch_ao_dynamic", {"backend": "x86", "kind": "jit"}),
        Engine("ort-dynamic", Role.PEER, "onnx_runtime", "onnx_runtime", {"kind": "dynamic"}, dynamic=True),
    )
}
