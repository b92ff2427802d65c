"""What tests of passes share: a pass alone on IR text or on a module, and how to look at what came of it."""

import io
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jitquant import _C
from jitquant.passes import PassOptions, parse_ir, run_pass
from jitquant.qconfig import QConfig, default_qconfig
from jitquant.qconfig_mapping import as_qconfig_mapping
from jitquant.quantizer import choose_qconfigs, compile_observers

Attributes = dict[str, Any]


class Run(NamedTuple):
    """What `run_alone` gives."""

    before: torch.jit.ScriptModule
    after: torch.jit.ScriptModule
    count: int


def run_alone(name: str, text: str, attributes: Attributes | None = None) -> Run:
    """Runs one pass on IR text. `before` is a second copy of the module that the pass never saw."""
    before = parse_ir(text, copied(attributes))
    after = parse_ir(text, copied(attributes))
    return Run(before, after, run_pass(name, after))


def copied(attributes: Attributes | None) -> Attributes:
    """The attributes with tensors of their own."""
    given = (attributes or {}).items()
    return {path: value.clone() if isinstance(value, Tensor) else value for path, value in given}


def working_copy(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """A module with types, graphs and tensors of its own: what passes may change."""
    with torch.no_grad():
        return torch.jit._recursive.wrap_cpp_module(_C.clone(module._c, share_tensors=False))


def check_runs_alone(
    module: torch.jit.ScriptModule, folder: Path, *inputs: Tensor, exactly: bool = True
) -> None:
    """Saves a module, and has a process that never imports jitquant load it, run it and save it again.

    The numbers there have to be those here, to the last bit or as torch.testing.assert_close allows.
    """
    torch.jit.save(module, folder / "model.pt")
    torch.save((inputs, module(*inputs)), folder / "data.pt")
    tolerance = {"rtol": 0, "atol": 0} if exactly else {}
    code = (
        "import sys, torch\n"
        "inputs, expected = torch.load('data.pt')\n"
        "module = torch.jit.load('model.pt')\n"
        f"torch.testing.assert_close(module(*inputs), expected, **{tolerance})\n"
        "assert 'jitquant' not in sys.modules\n"
        "torch.jit.save(module, 'again.pt')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def saved_and_loaded(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(module, file)
    file.seek(0)
    return torch.jit.load(file)


def insert_observers(
    module: torch.jit.ScriptModule,
    qconfigs: Mapping[str, QConfig | None],
    methods: Sequence[str] = ("forward",),
) -> int:
    """Runs that pass alone, with qconfigs by module path, and returns its count."""
    chosen = choose_qconfigs(as_qconfig_mapping(qconfigs), module, methods)
    options = PassOptions(observers=compile_observers(chosen))
    return run_pass("insert_observers", module, options, methods)


def observed_and_recorded(text: str, attributes: Attributes, passes: Sequence[str]) -> torch.jit.ScriptModule:
    """IR text with observers, and what those passes record besides."""
    module = parse_ir(text, attributes)
    insert_observers(module, {"": default_qconfig})
    for name in passes:
        run_pass(name, module)
    return module


def graph_of(module: torch.jit.ScriptModule, method: str = "forward") -> torch.Graph:
    """The graph of a method as the last pass left it; `module.graph` may show an older one."""
    return module._c._get_method(method).graph


def graph_text(module: torch.jit.ScriptModule, method: str = "forward") -> str:
    """The graph without source lines."""
    return graph_of(module, method).str(False)


def nodes_of(module: torch.jit.ScriptModule, kind: str | None = None) -> list[torch.Node]:
    """All nodes of forward in program order, those in blocks too; with `kind` only those of that kind."""
    return [node for node in _walk(graph_of(module)) if kind in (None, node.kind())]


def ops_of(module: torch.jit.ScriptModule) -> list[str]:
    """The kinds of all nodes that compute something: no constants, lists and attribute reads."""
    silent = ("prim::Constant", "prim::ListConstruct", "prim::GetAttr")
    return [node.kind() for node in nodes_of(module) if node.kind() not in silent]


def argument(node: torch.Node, index: int) -> Any:
    """What a node is given at that place: a constant, or a list of constants."""
    value = node.inputsAt(index)
    if value.node().kind() == "prim::ListConstruct":
        return [element.toIValue() for element in value.node().inputs()]
    return value.toIValue()


def scopes_of(module: torch.jit.ScriptModule, kind: str) -> list[str]:
    """The module path of each node of that kind, in program order."""
    return [node.scopeName() for node in nodes_of(module, kind)]


def check_same_numbers(
    before: torch.nn.Module,
    after: torch.nn.Module,
    *inputs: Tensor,
    atol: float = 1e-5,
    rtol: float = 1e-4,
) -> None:
    """Both give the same on the same inputs, and do the same to them."""
    inputs_before = [given.clone() for given in inputs]
    inputs_after = [given.clone() for given in inputs]
    with torch.no_grad():
        expected = before(*inputs_before)
        torch.testing.assert_close(after(*inputs_after), expected, atol=atol, rtol=rtol)
    torch.testing.assert_close(inputs_after, inputs_before)


def _walk(block: torch.Graph | torch.Block) -> Iterator[torch.Node]:
    for node in block.nodes():
        yield node
        for inner in node.blocks():
            yield from _walk(inner)
