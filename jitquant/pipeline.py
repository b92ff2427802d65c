"""The order of the passes, as data, and the driver that runs them.

Each list is read from top to bottom; the remark beside a pass says why it stands where it does.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from tqdm import tqdm

from jitquant import _C
from jitquant.quantizer import Assignments

CANONICALIZE = (
    "inline_calls",  # first: from here on there is one graph for each method and no call in it
    "erase_shapes",  # before anything folds what tracing saw on one input only
    "fold_attributes",  # needs the inlined graph, where attributes of submodules can be read
    "propagate_constants",  # takes the branches that fold_attributes decided
    "make_functional",  # after inlining, when it can be seen who else sees a change; before rules look at ops
    "normalize_ops",  # rules know functional ops only
    "propagate_constants",  # folds the transposes that normalize_ops made of constant weights
    "remove_no_ops",  # dropout between two ops would hide one from the other
    "split_weight_lists",  # behind propagate_constants, which makes one constant of a list of constants
)

FOLD = (
    "fold_padding",  # before observers: a padded input needs none of its own
    "fold_conv_bn",  # before observers: the folded weight is the one to be observed
)

# Before observers, which see other ranges then. jitquant/presets.py says whether it runs.
EQUALIZE = ("equalize_layers",)

OBSERVE = ("insert_observers",)

# Behind insert_observers: only weights that are observed will be rounded. jitquant/presets.py says which run.
RECORD = (
    "observe_channels",  # like the others, in front of linears as users wrote them
    "observe_products",  # of all whose products are small enough
    "observe_means",  # of what the second leaves alone
)

QUANTIZE = (
    "insert_quant_dequant",  # what the observers saw is at hand
    "smooth_inputs",  # before weights are rounded: it scales them, and what the other two recorded
    "round_weights",  # needs the scales of weights, and what observe_products recorded
    "correct_bias",  # needs rounded weights, and what observe_means recorded
    "remove_inner_quant",  # debug=True stops here, and rounds where the integer ops do
)

# In the place of QUANTIZE where it is asked what each op costs (jitquant/switchable.py).
SWITCH = (
    "insert_quant_dequant",  # this and what follows as in QUANTIZE
    "smooth_inputs",  # it scales weights and inputs alike, which leaves what is float as it is
    "remember_weights",  # before weights are rounded and biases corrected
    "round_weights",  # as in QUANTIZE
    "correct_bias",  # as in QUANTIZE
    "remove_inner_quant",  # before there is a switch at each rounding that is left
    "insert_switches",  # the graph is not looked at any more
)

# Before QUANTIZE where `tolerance` leaves ops float (jitquant/tolerance.py).
LEAVE = ("leave_float",)

LOWER = (
    "fold_attributes",  # scales and zero points: looking up thousands of attributes takes long
    "number_ops",  # right before fusion, which reports what becomes of each op by these numbers
    "fuse_quantized",  # dequantize, op and quantize stand together only right after insertion
    "cancel_quant_pairs",  # what fusion left is float: it is not quantized around for nothing
    "lower_plain_integers",  # what is left of quantized tensors stands at the borders of the integers
    "keep_float",  # needs to see which dequantizes are left
    "fuse_activation",  # after keep_float, which lets a linear give float to a gelu
    "cancel_quant_pairs",  # fusion brought plain integers together
    "fuse_padding",  # needs the native quantize and convolution
    "merge_linears",  # needs the integer ops; before something is written over what one of them gives
    "fuse_residual_add",  # needs the integer ops
    "remove_fences",  # fusion was the last to look at them
    "fold_prepack",  # while weights are attributes: torch's freezing compares all constants with each other
    "freeze",  # weights that nothing packed become constants, and the others go
)

# The end of LOWER where debug="exact".
EMULATE = (
    "emulate_integers",  # when all fusion is done, but before weights are packed: it needs their integers
    "fold_prepack",  # of ops that have no formula
    "freeze",  # as in LOWER; what formulas compute of weights alone becomes constants too
)

BEFORE_OBSERVING = CANONICALIZE + FOLD
PREPARE_PASSES = BEFORE_OBSERVING + EQUALIZE + OBSERVE + RECORD
CONVERT_PASSES = QUANTIZE + LOWER
EXACT_PASSES = QUANTIZE + LOWER[: LOWER.index("fold_prepack")] + EMULATE
FUSE_PASSES = (*CANONICALIZE, "fold_conv_bn")

Record = dict[str, Any]  # what became of an op, as csrc/report.h says


@dataclass(frozen=True)
class PassOptions:
    """What passes may ask for.

    engine: the quantized engine the result is made for (``torch.backends.quantized.supported_engines``).
    target: the column of the op table: ``quantized`` (stock torch's ops) or ``native`` (jitquant's own).
    observers: activation and weight observer for each op of each method, or None where the op stays float;
        see `jitquant.quantizer.compile_observers`.
    preserved_attrs: attributes that freezing keeps.
    formulas: what each integer op computes, in floating point; see `jitquant.exact`.
    """

    engine: str = "x86"
    target: str = "quantized"
    observers: Assignments = field(default_factory=dict)
    preserved_attrs: Sequence[str] = ()
    formulas: Mapping[str, torch.jit.ScriptFunction[Any, Any]] = field(default_factory=dict)


@functools.cache
def _inlined(formula: torch.jit.ScriptFunction[Any, Any]) -> torch.Graph:
    """A formula's graph without calls; inlining all of them anew takes longer than most passes."""
    return cast(torch.Graph, formula.inlined_graph)


def run_pass(
    name: str,
    module: torch.jit.ScriptModule,
    options: PassOptions = PassOptions(),
    methods: Sequence[str] = ("forward",),
    records: list[Record] | None = None,
) -> int:
    """Runs one pass on a module, in place, and returns how many rewrites it made.

    What the pass decided about each op takes the place of what is in `records`, if it decided.

    Raises QuantizationError for an unknown name and for what the pass refuses.
    """
    observers = {
        method: [None if pair is None else (pair[0]._c, pair[1]._c) for pair in pairs]
        for method, pairs in options.observers.items()
    }
    count, notes, decisions = _C.run_pass(
        name,
        module._c,
        list(methods),
        options.engine,
        options.target,
        observers,
        list(options.preserved_attrs),
        {op: _inlined(formula) for op, formula in options.formulas.items()},
    )
    for note in notes:
        warnings.warn(note, stacklevel=2)
    if records is not None and decisions:
        records[:] = decisions
    return int(count)


def run_passes(
    names: Sequence[str],
    module: torch.jit.ScriptModule,
    options: PassOptions = PassOptions(),
    *,
    methods: Sequence[str] = ("forward",),
    records: list[Record] | None = None,
    title: str = "passes",
    print_graphs: bool = False,
    stop_after: str | None = None,
) -> bool:
    """Runs passes in order, in place. Returns whether it stopped after ``stop_after``.

    A progress bar shows where it is, on a terminal only. With ``print_graphs`` the graph is printed after
    every pass that changed something.
    """
    for name in tqdm(names, desc=title, disable=None, leave=False):
        count = run_pass(name, module, options, methods, records)
        if print_graphs and count:
            print(f"--- after {name} ({count} rewrites) ---")
            for method in methods:
                print(module._c._get_method(method).graph)
        if name == stop_after:
            return True
    return False
