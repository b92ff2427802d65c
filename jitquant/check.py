"""Whether a quantized file fits the machine it is on, before it gives wrong numbers there."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from jitquant import cpu, native
from jitquant.errors import QuantizationError
from jitquant.info import facts_of
from jitquant.qconfig import saturates
from jitquant.version import __version__

__all__ = ["Finding", "Fit", "check"]

# The x86 engine gives a convolution of more groups to fbgemm, whose depthwise kernels saturate on every CPU.
MOST_GROUPS_X86_GIVES_ONEDNN = 100
PACKED_CONV = re.compile(r"quantized\.Conv\dd?PackedParamsBase")


@dataclass(frozen=True)
class Finding:
    """Something that a file needs and this machine does not give.

    Attributes:
        what: what is wrong.
        why: what comes of it.
        remedy: what to do about it.
    """

    what: str
    why: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.remedy}"


@dataclass(frozen=True)
class Fit:
    """What `check` found; ``print`` it, or ask ``if jitquant.check(file):``.

    Attributes:
        title: the path, or ``"the module"``.
        findings: what does not fit; empty where all does.
    """

    title: str
    findings: tuple[Finding, ...]

    @property
    def fits(self) -> bool:
        return not self.findings

    def __bool__(self) -> bool:
        return self.fits

    def __str__(self) -> str:
        if self.fits:
            return f"{self.title} fits this machine"
        return "\n".join([f"{self.title} does not fit this machine:", *(f"  {f}" for f in self.findings)])


def check(path_or_module: str | PathLike[str] | torch.jit.ScriptModule) -> Fit:
    """Says whether a quantized model fits this machine: its engine or op library, the CPU, torch's version.

    Args:
        path_or_module: a quantized module, or the path of its file, which is not loaded.

    Raises:
        QuantizationError: if jitquant did not make the module, or it is prepared and not converted yet.
    """
    facts = facts_of(path_or_module, "check")
    title = "the module" if isinstance(path_or_module, torch.jit.ScriptModule) else str(path_or_module)
    if facts["stage"] == "prepared":
        raise QuantizationError(
            f"check: {title} is prepared and runs in float; calibrate it, and then call convert_jit"
        )
    findings = list(_older("torch", torch.__version__, facts))
    if facts["stage"] == "quantized":  # with debug=True its arithmetic is float, which any machine has
        findings += _of_native(facts) if facts["target"] == "native" else _of_engine(facts)
    return Fit(title, tuple(findings))


def most_depthwise_groups(module: torch.jit.ScriptModule, methods: Sequence[str]) -> int:
    """The most groups of a convolution that fbgemm may give to its depthwise kernels; 0 where there is none.

    Those are of two or three dimensions and not transposed, and the engine packs their weights.
    """
    most = 0
    for method in methods:
        for node in module._c._get_method(method).graph.findAllNodes("prim::GetAttr", True):
            if PACKED_CONV.search(node.output().type().str()):
                packed = module._c.getattr(node.s("name"))
                if packed.groups() > most and not packed.transpose() and _is_depthwise(packed.unpack()[0]):
                    most = packed.groups()
    return most


def _is_depthwise(weight: Tensor) -> bool:
    return weight.size(1) == 1 and min(weight.shape[2:]) > 1  # one of one dimension is packed as 1 × k


def _older(package: str, version: str, facts: dict[str, Any]) -> Iterator[Finding]:
    """A finding where the package here is older than the one that made the file, bug fixes aside."""
    here, made = (_minor(text) for text in (version, facts[package]))
    if here < made:
        yield Finding(
            f"it was made with {package} {facts[package]}, and this is {version}",
            "an older one may lack ops of the file, or take them for others",
            f"install {package} {made} or newer, or quantize the model again with this one",
        )


def _minor(version: str) -> TorchVersion:
    return TorchVersion(".".join(version.split("+")[0].split(".")[:2]))


def _of_native(facts: dict[str, Any]) -> Iterator[Finding]:
    yield from _older("jitquant", __version__, facts)
    if not native.is_available():
        yield Finding(
            "it needs jitquant's op library", "that is not available here", native.why_not_available()
        )
    if cpu.is_x86() and not cpu.dot_products():
        yield Finding(
            f"this CPU has no 8-bit dot products (AVX-512 VNNI or AVX-VNNI){_made_on(facts)}",
            "ops of the native target refuse to run without",
            'quantize the model with target="quantized" here',
        )


def _of_engine(facts: dict[str, Any]) -> Iterator[Finding]:
    engine, current = facts["engine"], torch.backends.quantized.engine
    supported = [name for name in torch.backends.quantized.supported_engines if name != "none"]
    if engine not in supported:
        yield Finding(
            f"it is for the engine {engine!r}",
            f"this torch has only {', '.join(map(repr, supported)) or 'none'}",
            "quantize the model again with torch.backends.quantized.engine set to one of those"
            if supported
            else "install a torch that has it",
        )
        return
    if engine != current:
        yield Finding(
            f"it is for the engine {engine!r}, and the current one is {current!r}",
            "weights are packed anew while a file is loaded, and by the kernels of another engine its "
            "convolutions may saturate or fail",
            f"set torch.backends.quantized.engine = {engine!r} and load the file after that",
        )
    if facts["reduce_range"]:
        return
    if saturates(engine):
        default, observer = (
            ("default_dynamic_qconfig", "PlaceholderObserver")
            if facts.get("dynamic")
            else ("get_default_qconfig()", "HistogramObserver")
        )
        yield Finding(
            f"8-bit products of the engine {engine!r} saturate on this CPU ({cpu.describe()})"
            + _made_on(facts),
            "the model's activations use all 8 bits, so that sums are cut off and outputs wrong",
            f"quantize the model again with {default} on this machine, or anywhere with "
            f"{observer}.with_args(reduce_range=True) for activations",
        )
    elif _has_saturating_depthwise(engine, facts):
        yield Finding(
            f"depthwise convolutions of {facts['depthwise']} groups go to fbgemm's kernels for them",
            "those saturate on every x86 CPU, and the model's activations use all 8 bits",
            "quantize the model again for the engine 'onednn', or with "
            "HistogramObserver.with_args(reduce_range=True) for activations",
        )


def _has_saturating_depthwise(engine: str, facts: dict[str, Any]) -> bool:
    without = MOST_GROUPS_X86_GIVES_ONEDNN if engine == "x86" else 0
    return saturates(engine, depthwise=True) and facts.get("depthwise", 0) > without


def _made_on(facts: dict[str, Any]) -> str:
    return f", and the one that made it was {facts['cpu']}" if "cpu" in facts else ""
