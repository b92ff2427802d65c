"""Tests of QConfigMapping: what each level means, which one decides, what is refused, and torch.ao's."""

import operator
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.nn import functional

import jitquant
from jitquant import QConfig, QConfigMapping, QuantizationError, summarize
from jitquant.observers import MinMaxObserver, WeightMinMaxObserver
from jitquant.pipeline import BEFORE_OBSERVING, run_passes
from jitquant.qconfig import as_qconfig
from jitquant.qconfig_mapping import SPELLINGS, as_qconfig_mapping
from jitquant.quantizer import OpNode, list_ops
from tests.graphs import saved_and_loaded, working_copy
from tests.marks import needs_native

A, B, C, D, E = (
    QConfig(MinMaxObserver.with_args(quant_min=0, quant_max=most), WeightMinMaxObserver.with_args())
    for most in (15, 31, 63, 127, 255)
)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x)) + x


class Net(nn.Module):
    """Two blocks, two functional ops of a kind, a linear; and a method of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Block()
        self.second = Block()
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.hardswish(self.second(self.first(x)))
        return self.head(functional.hardswish(y.mean([2, 3])))

    @torch.jit.export
    def features(self, x: Tensor) -> Tensor:
        return functional.hardswish(self.first(x))


IMAGE = torch.randn(2, 4, 5, 5)


def scripted() -> torch.jit.ScriptModule:
    return torch.jit.script(Net().eval())


def traced() -> torch.jit.ScriptModule:
    return torch.jit.trace(Net().eval(), IMAGE)


MODELS: dict[str, Callable[[], torch.jit.ScriptModule]] = {
    "scripted": scripted,
    "traced": traced,
    "scripted and loaded": lambda: saved_and_loaded(scripted()),
    "traced and loaded": lambda: saved_and_loaded(traced()),
}
every_model = pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)


def nodes(module: torch.jit.ScriptModule, *methods: str) -> tuple[OpNode, ...]:
    """The nodes that a quantizer is asked about."""
    names = methods or ("forward",)
    canonical = working_copy(module)
    run_passes(BEFORE_OBSERVING, canonical, methods=names)
    return list_ops(canonical, names)


def chosen(mapping: QConfigMapping, graph: tuple[OpNode, ...]) -> dict[str, QConfig | None]:
    """What is chosen, by place; a node of which nothing is said is not there."""
    return {f"{node.op} {node.order} {node.module}".strip(): q for node, q in mapping.annotate(graph).items()}


def everywhere(qconfig: QConfig | None) -> dict[str, QConfig | None]:
    names = ["hardswish 0", "mean 0", "hardswish 1", "linear 0 head"]
    for block in ("first", "second"):
        names += [f"conv2d 0 {block}.conv", f"relu 0 {block}", f"add 0 {block}"]
    return dict.fromkeys(names, qconfig)


# The levels


@every_model
def test_each_level_overrides_those_below(make: Callable[[], torch.jit.ScriptModule]) -> None:
    """Test that global, type, regex, name and order decide in that precedence, whatever was set first."""
    graph = nodes(make())
    steps: list[tuple[Callable[[QConfigMapping], QConfigMapping], list[str], QConfig | None]] = [
        (lambda m: m.set_global(A), list(everywhere(A)), A),
        (
            lambda m: m.set_object_type("conv2d", B).set_object_type(torch.relu, B),
            ["conv2d 0 first.conv", "conv2d 0 second.conv", "relu 0 first", "relu 0 second"],
            B,
        ),
        (
            lambda m: m.set_module_name_regex(r"(first|second)\.conv", C),
            ["conv2d 0 first.conv", "conv2d 0 second.conv"],
            C,
        ),
        (
            lambda m: m.set_module_name("second", D),
            ["conv2d 0 second.conv", "relu 0 second", "add 0 second"],
            D,
        ),
        (lambda m: m.set_module_name_object_type_order("second", "relu", 0, E), ["relu 0 second"], E),
    ]
    expected: dict[str, QConfig | None] = {}
    for count, (_, names, qconfig) in enumerate(steps, 1):
        expected |= dict.fromkeys(names, qconfig)
        setters = [step[0] for step in steps[:count]]
        for order in (setters, setters[::-1]):
            mapping = QConfigMapping()
            for setter in order:
                assert setter(mapping) is mapping
            assert chosen(mapping, graph) == expected


@pytest.mark.parametrize(
    ("low", "high"),
    [
        (lambda m, q: m.set_global(q), lambda m, q: m.set_object_type("linear", q)),
        (lambda m, q: m.set_object_type("linear", q), lambda m, q: m.set_object_type(nn.Linear, q)),
        (lambda m, q: m.set_object_type(nn.Linear, q), lambda m, q: m.set_module_name_regex("head", q)),
        (lambda m, q: m.set_module_name_regex("head", q), lambda m, q: m.set_module_name("head", q)),
        (
            lambda m, q: m.set_module_name("head", q),
            lambda m, q: m.set_module_name_object_type_order("head", "linear", 0, q),
        ),
    ],
)
@pytest.mark.parametrize(("below", "above"), [(A, B), (A, None), (None, A)])
def test_neighbouring_levels(low: Any, high: Any, below: QConfig | None, above: QConfig | None) -> None:
    """Test that of two levels the upper one decides, None included, in either order of setting."""
    graph = nodes(scripted())
    assert chosen(high(low(QConfigMapping(), below), above), graph)["linear 0 head"] == above
    assert chosen(low(high(QConfigMapping(), above), below), graph)["linear 0 head"] == above


def test_nothing_is_said_without_a_level() -> None:
    """Test that ops which no level names are not annotated, unless a global qconfig, or None, is set."""
    graph = nodes(scripted())
    mapping = QConfigMapping().set_object_type("mean", A)
    assert chosen(mapping, graph) == {"mean 0": A}
    assert chosen(mapping.set_global(None), graph) == everywhere(None) | {"mean 0": A}


# Object types


@pytest.mark.parametrize(
    ("object_type", "names"),
    [
        ("add", ["add 0 first", "add 0 second"]),
        ("aten::add", ["add 0 first", "add 0 second"]),
        ("add_", ["add 0 first", "add 0 second"]),
        (torch.add, ["add 0 first", "add 0 second"]),
        (Tensor.add, ["add 0 first", "add 0 second"]),
        (operator.add, ["add 0 first", "add 0 second"]),
        (operator.iadd, ["add 0 first", "add 0 second"]),
        (functional.linear, ["linear 0 head"]),
        (functional.conv2d, ["conv2d 0 first.conv", "conv2d 0 second.conv"]),
        (functional.hardswish, ["hardswish 0", "hardswish 1"]),
        (nn.Conv2d, ["conv2d 0 first.conv", "conv2d 0 second.conv"]),
        ("Conv2d", ["conv2d 0 first.conv", "conv2d 0 second.conv"]),
        ("torch.nn.modules.conv.Conv2d", ["conv2d 0 first.conv", "conv2d 0 second.conv"]),
        (Block, ["relu 0 first", "add 0 first", "relu 0 second", "add 0 second"]),
        ("Block", ["relu 0 first", "add 0 first", "relu 0 second", "add 0 second"]),
        (nn.Conv3d, []),
    ],
    ids=str,
)
@every_model
def test_what_an_object_type_means(
    make: Callable[[], torch.jit.ScriptModule], object_type: Any, names: list[str]
) -> None:
    """Test that ops, functions, module classes and names of classes mean the ops they should."""
    model = make()
    mapping = QConfigMapping().set_object_type(object_type, A)
    assert chosen(mapping, nodes(model)) == dict.fromkeys(names, A)
    jitquant.prepare_jit(model, mapping.set_global(A))  # and it is not refused


def test_spellings_are_those_of_known_ops() -> None:
    """Test that each function whose op has another name becomes an op of the table."""
    for name, ops in SPELLINGS.items():
        for op in ops:
            assert QConfigMapping().set_object_type(op, A).annotate([OpNode("forward", 0, op)]), name


@pytest.mark.parametrize(
    ("function", "call"),
    [
        (functional.relu6, lambda x: functional.relu6(x)),
        (Tensor.view, lambda x: x.view(-1)),
        (functional.pad, lambda x: functional.pad(x, [1, 1])),
        (functional.interpolate, lambda x: functional.interpolate(x, scale_factor=2.0)),
        (torch.bmm, lambda x: torch.bmm(x[0], x[0])),
        (torch.stack, lambda x: torch.stack([x, x])),
        (functional.max_pool2d, lambda x: functional.max_pool2d(x, 2)),
        (torch.flatten, lambda x: torch.flatten(x, 1)),
        (functional.softmax, lambda x: functional.softmax(x, dim=1)),
        (functional.adaptive_avg_pool2d, lambda x: functional.adaptive_avg_pool2d(x, 1)),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_functions_mean_the_ops_that_they_become(function: Any, call: Any) -> None:
    """Test that a function which canonical graphs spell in another way is found in them."""

    class Calls(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return call(x)

    graph = nodes(torch.jit.trace(Calls().eval(), torch.randn(1, 4, 6, 6)))
    assert QConfigMapping().set_object_type(function, A).annotate(graph)


def test_the_type_set_last_decides_among_spellings_of_one() -> None:
    """Test that two names of one op are one op, and what is set again is replaced."""
    graph = nodes(scripted())
    mapping = QConfigMapping().set_object_type("add", A).set_object_type(torch.add, B)
    assert set(chosen(mapping, graph).values()) == {B}


# Paths


def test_the_most_specific_path_wins() -> None:
    """Test that a path means all in it, but for what a longer path says, and no path that begins alike."""

    class Alike(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(Block(), Block())
            self.ab = Block()

        def forward(self, x: Tensor) -> Tensor:
            return self.ab(self.a(x))

    graph = nodes(torch.jit.script(Alike().eval()))
    mapping = (
        QConfigMapping().set_module_name("a.1", B).set_module_name("a", A).set_module_name("a.0.conv", C)
    )
    found = chosen(mapping, graph)
    assert found == {
        "conv2d 0 a.0.conv": C,
        "relu 0 a.0": A,
        "add 0 a.0": A,
        "conv2d 0 a.1.conv": B,
        "relu 0 a.1": B,
        "add 0 a.1": B,
    }


def test_the_first_regex_that_matches_wins() -> None:
    """Test that regexes are asked in the order of setting, of whole paths, those of parents included."""
    graph = nodes(scripted())
    mapping = QConfigMapping().set_module_name_regex(r".*\.conv", A).set_module_name_regex("second|hea", B)
    assert chosen(mapping, graph) == {
        "conv2d 0 first.conv": A,
        "conv2d 0 second.conv": A,
        "relu 0 second": B,
        "add 0 second": B,
    }


@pytest.mark.parametrize("make", [torch.jit.script, lambda model: torch.jit.trace(model, torch.randn(2, 3))])
def test_a_shared_submodule_has_the_path_it_is_called_by(make: Any) -> None:
    """Test that calls of one module by two names differ where it is scripted; a trace knows one name."""

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.other = self.one

        def forward(self, x: Tensor) -> Tensor:
            return self.other(torch.erf(self.one(torch.erf(self.one(x)))))

    model = make(Shared().eval())
    graph = nodes(model)
    mapping = QConfigMapping().set_module_name("one", A).set_module_name("other", B)
    mapping.set_module_name_object_type_order("one", nn.Linear, 1, C)
    last = ("linear 0 other", B) if "other" in {node.module for node in graph} else ("linear 2 one", A)
    assert chosen(mapping, graph) == {"linear 0 one": A, "linear 1 one": C, last[0]: last[1]}
    assert last[1] == (A if isinstance(model, torch.jit.TopLevelTracedModule) else B)
    jitquant.prepare_jit(model, mapping)


# One op


@every_model
def test_one_of_several_ops_of_a_module(make: Callable[[], torch.jit.ScriptModule]) -> None:
    """Test that the index counts the ops of that type in exactly that module, in program order."""
    graph = nodes(make())
    for index, name in enumerate(["hardswish 0", "hardswish 1"]):
        mapping = QConfigMapping().set_module_name_object_type_order("", functional.hardswish, index, A)
        assert chosen(mapping, graph) == {name: A}
    mapping = QConfigMapping().set_module_name_object_type_order("first.conv", nn.Conv2d, 0, A)
    assert chosen(mapping, graph) == {"conv2d 0 first.conv": A}


def test_ops_are_counted_in_each_method() -> None:
    """Test that other methods than forward are annotated as well, and their ops counted from 0."""
    graph = nodes(scripted(), "forward", "features")
    mapping = QConfigMapping().set_module_name_object_type_order("", "hardswish", 0, A)
    assert [node.method for node in mapping.annotate(graph)] == ["forward", "features"]
    mapping = QConfigMapping().set_module_name_object_type_order("", "hardswish", 1, A)
    assert [node.method for node in mapping.annotate(graph)] == ["forward"]
    mapping = QConfigMapping().set_module_name("first", A)
    assert [node.method for node in mapping.annotate(graph)] == ["forward"] * 3 + ["features"] * 3


# Whole models


@pytest.mark.parametrize("target", ["quantized", pytest.param("native", marks=needs_native)])
@every_model
def test_a_quantized_model_is_as_the_mapping_says(
    make: Callable[[], torch.jit.ScriptModule], target: str
) -> None:
    """Test that what is to stay float does, with its reason, and the rest is integer."""
    mapping = (
        QConfigMapping()
        .set_global(jitquant.get_default_qconfig())
        .set_object_type(torch.add, None)
        .set_module_name_object_type_order("", "hardswish", 1, None)
    )
    model = jitquant.quantize_jit(make(), mapping, lambda m: m(IMAGE), [], target=target)
    ops = summarize(model).ops
    asked = [(op.op, op.module) for op in ops if op.reason == "its qconfig is None"]
    assert asked == [("aten::add", "first"), ("aten::add", "second"), ("aten::hardswish", "")]
    assert all(op.is_integer for op in ops if op.op in ("aten::conv2d", "aten::linear"))


def test_a_frozen_model_still_has_its_ops() -> None:
    """Test that ops are found where freezing took the submodules, and classes are said to be gone."""
    frozen = torch.jit.freeze(scripted())
    mapping = QConfigMapping().set_object_type("conv2d", A)
    assert {node.op for node in mapping.annotate(nodes(frozen))} == {"conv2d"}
    with pytest.warns(UserWarning, match=r"is for Conv2d too, and the model has no submodules; .*'conv2d'"):
        jitquant.prepare_jit(frozen, mapping.set_object_type(nn.Conv2d, B))


def test_two_methods_are_quantized_by_one_mapping() -> None:
    """Test that prepare_jit asks for all methods, and they are observed."""
    mapping = QConfigMapping().set_global(A).set_module_name("first", None)
    prepared = jitquant.prepare_jit(scripted(), mapping, methods=["forward", "features"])
    fates = [(op.method, op.op, op.is_integer) for op in summarize(prepared).ops]
    assert ("features", "aten::conv2d", False) in fates
    assert ("features", "aten::hardswish", True) in fates
    assert ("forward", "aten::linear", True) in fates


def test_a_file_says_what_was_set_for_what(capsys: pytest.CaptureFixture[str]) -> None:
    """Test that every level is in the words that the module carries, with its qconfig or as float."""
    mapping = (
        QConfigMapping()
        .set_global(A)
        .set_object_type("add", None)
        .set_object_type(nn.Conv2d, B)
        .set_module_name_regex("fir.*", C)
        .set_module_name("head", D)
        .set_module_name_object_type_order("", torch.nn.functional.hardswish, 1, None)
        .set_module_name_object_type_order("second", "relu", 0, E)
    )
    facts = jitquant.info(jitquant.prepare_jit(scripted(), mapping))
    assert facts["qconfig"] == {
        "": A.describe(),
        "every add": "float",
        "every Conv2d": B.describe(),
        "/fir.*/": C.describe(),
        "head": D.describe(),
        "hardswish 1 of the model itself": "float",
        "relu 0 of second": E.describe(),
    }
    assert "every add: float" in capsys.readouterr().out


# Refused


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        (QConfigMapping(), r"prepare_jit: qconfig_dict is empty"),
        (
            QConfigMapping().set_module_name("secnd", A),
            r"names 'secnd', and the model has no such submodule; did you mean 'second'",
        ),
        (
            QConfigMapping().set_module_name_regex(r"secon", A),
            r"has the regex 'secon', which matches no module path; did you mean 'second'",
        ),
        (
            QConfigMapping().set_object_type("conv2", A),
            r"has the object type 'conv2', which is no known op and no class .*; did you mean .*'conv2d'",
        ),
        (QConfigMapping().set_object_type("Blok", A), r"'Blok', .*; did you mean 'Block'"),
        (QConfigMapping().set_object_type(torch.erf, A), r"object type 'erf', which is no known op"),
        (QConfigMapping().set_object_type(nn.ModuleList, A).set_object_type("zzz", A), r"an op of OPS.md"),
        (
            QConfigMapping().set_module_name_object_type_order("frst", "add", 0, A),
            r"names 'frst', .*did you mean 'first'",
        ),
        (
            QConfigMapping().set_module_name_object_type_order("first", "ad", 0, A),
            r"object type 'ad', .*did you mean 'add'",
        ),
        (
            QConfigMapping().set_module_name_object_type_order("", "hardswish", 2, A),
            r"asks for hardswish 2 of the model itself, which has 2 of that type .*; count from 0 to 1",
        ),
        (
            QConfigMapping().set_module_name_object_type_order("first", "conv2d", 0, A),
            r"conv2d 0 of first, which has 0 of that type .*; its own ops are add, relu",
        ),
    ],
)
@pytest.mark.parametrize("inplace", [False, True])
def test_what_the_model_does_not_have_is_refused(
    mapping: QConfigMapping, message: str, inplace: bool
) -> None:
    """Test that the error names what is not there and what is near, and nothing was changed."""
    model = scripted()
    before, expected = model.graph.str(), model(IMAGE)
    with pytest.raises(QuantizationError, match=message):
        jitquant.prepare_jit(model, mapping, inplace)
    assert model.graph.str() == before
    assert torch.equal(model(IMAGE), expected)


@pytest.mark.parametrize(
    ("setter", "error", "message"),
    [
        (lambda m: m.set_global("x86"), TypeError, "a str has no callable activation"),
        (lambda m: m.set_object_type("add", 8), TypeError, "a int has no callable activation"),
        (lambda m: m.set_object_type(8, A), TypeError, "object type 8 is a int; pass the name of an op"),
        (lambda m: m.set_object_type(int, A), TypeError, "is a type; pass"),
        (lambda m: m.set_object_type(nn.ReLU(), A), TypeError, "is a ReLU; pass"),
        (lambda m: m.set_module_name(3, A), TypeError, "module path 3 is a int; pass a str"),
        (lambda m: m.set_module_name("", A), ValueError, "use set_global for the whole model"),
        (lambda m: m.set_module_name_regex("(", A), ValueError, r"'\(' is no regular expression"),
        (
            lambda m: m.set_module_name_object_type_order("a", "add", -1, A),
            ValueError,
            "index=-1 is negative; ops are counted from 0",
        ),
        (
            lambda m: m.set_module_name_object_type_order("a", "add", "0", A),
            TypeError,
            "index='0' is a str; pass an int",
        ),
    ],
)
def test_nonsense_is_refused_when_it_is_set(setter: Any, error: type[Exception], message: str) -> None:
    """Test that a setter names what is wrong and what to pass, and the mapping stays as it was."""
    mapping = QConfigMapping()
    with pytest.raises(error, match=message):
        setter(mapping)
    assert vars(mapping) == vars(QConfigMapping())


def relu(x: Tensor) -> Tensor:
    return x


def test_a_function_of_the_users_own_is_no_op() -> None:
    """Test that a function which happens to be called like an op is not taken for it."""
    with pytest.raises(QuantizationError, match=r"the object type 'relu'"):
        jitquant.prepare_jit(scripted(), QConfigMapping().set_object_type(relu, A))


# Mappings of torch


def test_the_default_mapping_of_torch_is_taken() -> None:
    """Test that torch.ao's default works, and ops of a known range are left to the op table."""

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(4, 4, 1)
            self.norm = nn.LayerNorm(5)
            self.up = nn.ConvTranspose2d(4, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.up(self.norm(y * torch.sigmoid(y))).reshape(-1)

    theirs = ao.get_default_qconfig_mapping("x86")
    ours = as_qconfig_mapping(theirs)
    assert torch.sigmoid not in ours.object_type_qconfigs
    assert nn.ConvTranspose2d in ours.object_type_qconfigs
    scripted_model = torch.jit.script(Gated().eval())
    graph = nodes(scripted_model)
    up = next(node for node in graph if node.op == "conv_transpose2d")
    assert ours.annotate(graph)[up] != ours.global_qconfig
    quantized = jitquant.quantize_jit(scripted_model, theirs, lambda m: m(IMAGE), [])
    assert {op.op: op.is_integer for op in summarize(quantized).ops}["aten::conv2d"]


def test_every_level_of_a_mapping_of_torch_is_taken() -> None:
    """Test that all five levels of torch.ao's class come over, and its regexes match beginnings."""
    whole = ao.get_default_qconfig("x86")
    theirs = (
        ao.QConfigMapping()
        .set_global(whole)
        .set_object_type(torch.add, None)
        .set_module_name_regex("first|x", A)
        .set_module_name("second.conv", None)
        .set_module_name_object_type_order("", functional.hardswish, 1, B)
    )
    found = chosen(as_qconfig_mapping(theirs), nodes(scripted()))
    assert found["conv2d 0 first.conv"] == A
    assert found["conv2d 0 second.conv"] is None
    assert found["add 0 second"] is None
    assert found["hardswish 1"] == B
    assert found["linear 0 head"] == as_qconfig(whole)


def test_what_only_looks_like_a_mapping_is_refused() -> None:
    """Test that an object with some of the attributes is named, with what to pass."""
    with pytest.raises(QuantizationError, match=r"qconfig_dict is a SimpleNamespace; pass a dict"):
        jitquant.prepare_jit(scripted(), SimpleNamespace(global_qconfig=A))
