"""How the time of conversion grows with the network: whether a node costs as much in a large one.

    python -m benchmarks.scaling                          100, 1,000 and 10,000 nodes
    python -m benchmarks.scaling --nodes 300 --target native

A scripted chain of convolution, add and relu on tiny tensors is prepared, calibrated with one sample and
converted. Seconds of the processor are those of prepare_jit and convert_jit, and of each pass within them.
"""

import argparse
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

import jitquant
from benchmarks.report import table
from jitquant import pipeline

NODES_OF_A_BLOCK = 3
CHANNELS, SIZE = 4, 4


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 1)
        # Such that thousands of blocks in a row neither grow without bound nor die away.
        with torch.no_grad():
            self.conv.weight.mul_(0.1).sub_(0.2 * torch.eye(CHANNELS)[:, :, None, None])

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.conv(x))


@dataclass
class Conversion:
    """What it took to prepare and to convert a network of so many nodes."""

    nodes: int
    prepare_s: float = 0.0
    convert_s: float = 0.0
    passes: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @property
    def ms_per_node(self) -> float:
        return 1000 * (self.prepare_s + self.convert_s) / self.nodes


def network(nodes: int) -> torch.jit.ScriptModule:
    blocks = max(nodes // NODES_OF_A_BLOCK, 1)
    return torch.jit.script(nn.Sequential(*(Block() for _ in range(blocks))).eval())  # type: ignore[no-any-return]


def measure(nodes: int, target: str) -> Conversion:
    model, qconfig = network(nodes), {"": jitquant.get_default_qconfig()}
    measured = Conversion(nodes)
    with clocks(measured.passes):
        measured.prepare_s, prepared = timed(lambda: jitquant.prepare_jit(model, qconfig, target=target))
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            prepared(torch.randn(1, CHANNELS, SIZE, SIZE))
        measured.convert_s, _ = timed(lambda: jitquant.convert_jit(prepared))
    return measured


def timed(action: Callable[[], Any]) -> tuple[float, Any]:
    begin = time.process_time()
    result = action()
    return time.process_time() - begin, result


@contextmanager
def clocks(seconds: dict[str, float]) -> Iterator[None]:
    """Adds up the time of each pass; one that runs twice is one row."""
    run_pass = pipeline.run_pass

    def clocked(name: str, *arguments: Any, **keywords: Any) -> int:
        begin = time.process_time()
        count = run_pass(name, *arguments, **keywords)
        seconds[name] += time.process_time() - begin
        return count

    with mock.patch.object(pipeline, "run_pass", clocked):
        yield


def report(all_measured: Sequence[Conversion]) -> str:
    """A row for each number of nodes, and the passes below, slowest of the largest network first."""
    rows = [["nodes", "prepare s", "convert s", "ms per node"]]
    rows += [
        [f"{m.nodes:,}", f"{m.prepare_s:.2f}", f"{m.convert_s:.2f}", f"{m.ms_per_node:.3f}"]
        for m in all_measured
    ]
    last = all_measured[-1]
    names = sorted(last.passes, key=lambda name: last.passes[name], reverse=True)
    passes = [["µs per node", *(f"{m.nodes:,}" for m in all_measured)]]
    for name in [*names, "around the passes"]:
        passes.append([name, *(f"{1e6 * _seconds(m, name) / m.nodes:.1f}" for m in all_measured)])
    return f"{table(rows)}\n\n{table(passes)}\n"


def _seconds(measured: Conversion, name: str) -> float:
    if name in measured.passes:
        return measured.passes[name]
    return measured.prepare_s + measured.convert_s - sum(measured.passes.values())


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scaling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--nodes", nargs="+", type=int, default=[100, 1_000, 10_000], metavar="N")
    parser.add_argument("--target", choices=("quantized", "native"), default="quantized")
    chosen = parser.parse_args(given)
    if min(chosen.nodes) < 1:
        parser.error("--nodes are positive")
    return chosen


def main() -> None:
    warnings.simplefilter("ignore")
    chosen = arguments()
    measure(NODES_OF_A_BLOCK, chosen.target)  # what is looked up once is not of the first network
    print(report([measure(nodes, chosen.target) for nodes in sorted(chosen.nodes)]))


if __name__ == "__main__":
    main()
