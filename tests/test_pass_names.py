"""Tests of all passes: one name in four places, a header that explains, a place in the pipeline."""

import ast
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from jitquant import QuantizationError, pipeline
from jitquant.passes import passes, run_pass
from tests.graphs import graph_text, working_copy

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = {path.stem: path for path in sorted((REPOSITORY / "passes").glob("*.cpp"))}
PIPELINES = {
    name: list_
    for name, list_ in vars(pipeline).items()
    if name.isupper() and isinstance(list_, tuple) and all(isinstance(item, str) for item in list_)
}
IN_SOURCE = re.compile(r'^JITQUANT_PASS\((\w+), "(\w+)",\s*"([^"]+)"\);$', re.MULTILINE)

every_pass = pytest.mark.parametrize("name", SOURCES)


def header(name: str) -> str:
    """The comment that a pass opens with, without its slashes."""
    lines = SOURCES[name].read_text().splitlines()
    length = next(index for index, line in enumerate(lines) if not line.startswith("//"))
    return "\n".join(line.removeprefix("//").removeprefix(" ") for line in lines[:length])


def camel_case(name: str) -> str:
    return "".join(word.capitalize() for word in name.split("_"))


def test_there_are_passes() -> None:
    """Test that the files and lists that the other tests look at were found."""
    assert len(SOURCES) >= 15
    assert {"CANONICALIZE", "PREPARE_PASSES", "CONVERT_PASSES", "FUSE_PASSES"} <= set(PIPELINES)


def test_registered_passes_are_the_files() -> None:
    """Test that each file in passes/ registers the pass of its name, and no other pass is there."""
    assert sorted(passes()) == sorted(SOURCES)


@every_pass
def test_source_registers_its_own_name(name: str) -> None:
    """Test that a file has one registration, of the function and the name that the file has."""
    registrations = IN_SOURCE.findall(SOURCES[name].read_text())
    assert [(function, registered) for function, registered, _ in registrations] == [(camel_case(name), name)]
    assert f"int64_t {camel_case(name)}(Context& context)" in SOURCES[name].read_text()


@every_pass
def test_purpose_is_a_sentence(name: str) -> None:
    """Test that the purpose that passes() gives is that of the source: one sentence on one line."""
    purpose = passes()[name]
    ((_, _, in_source),) = IN_SOURCE.findall(SOURCES[name].read_text())
    assert purpose == in_source
    assert re.fullmatch(r"[A-Z][^\n]+[.]", purpose)


@every_pass
def test_pass_has_a_test_file(name: str) -> None:
    """Test that tests/test_<name>.py is there and runs the pass."""
    path = REPOSITORY / "tests" / f"test_{name}.py"
    assert path.is_file()
    assert f'"{name}"' in path.read_text()


@every_pass
def test_header_explains(name: str) -> None:
    """Test that a pass opens with its name and purpose, and shows IR before and after or what it refuses."""
    text = header(name)
    assert re.match(rf"{name}: \S+", text)
    shows_ir = "Before:" in text and "After" in text and "%" in text
    says_what_it_refuses = re.search(r"^(Left alone|Left float|Refused)\b", text, re.MULTILINE)
    assert shows_ir or says_what_it_refuses


@every_pass
def test_no_pass_includes_another(name: str) -> None:
    """Test that a pass stands on csrc/ and libtorch only."""
    includes = re.findall(r'#include ["<]([^">]+)[">]', SOURCES[name].read_text())
    assert not [path for path in includes if path.startswith("passes/") or path.endswith(".cpp")]


@every_pass
def test_pass_has_a_place_in_a_pipeline(name: str) -> None:
    """Test that each registered pass stands in one of the lists."""
    assert name in {item for list_ in PIPELINES.values() for item in list_}


@pytest.mark.parametrize("list_name", PIPELINES)
def test_pipeline_names_are_registered(list_name: str) -> None:
    """Test that each name in a list is that of a pass."""
    assert set(PIPELINES[list_name]) <= set(passes())


def test_each_place_has_a_reason() -> None:
    """Test that beside each pass in a list of several stands why it is there."""
    source = Path(pipeline.__file__).read_text()
    lines = source.splitlines()
    tuples = [
        node.value.elts
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple)
    ]
    lists = [items for items in tuples if len(items) > 1 and all(isinstance(i, ast.Constant) for i in items)]
    assert lists
    for line in (lines[item.lineno - 1] for items in lists for item in items):
        assert re.search(r"#\s+\S+", line), line


def test_prepare_and_convert_are_made_of_all_passes() -> None:
    """Test that quantizing a model runs every pass there is, but for those that other lists have."""
    quantizing = set(pipeline.PREPARE_PASSES) | set(pipeline.CONVERT_PASSES)
    others = set(pipeline.EXACT_PASSES) | set(pipeline.SWITCH) | set(pipeline.LEAVE)
    assert quantizing | others == set(passes())


@pytest.mark.parametrize("unknown", ["fold_conv", "", "FoldConvBn"])
def test_unknown_pass_is_refused(unknown: str) -> None:
    """Test that an unknown name is refused with those that are known, and the module stays as it is."""
    module = working_copy(torch.jit.script(nn.Sequential(nn.Dropout()).eval()))
    text = graph_text(module)
    with pytest.raises(QuantizationError) as refusal:
        run_pass(unknown, module)
    known = ", ".join(sorted(passes()))
    assert str(refusal.value) == f"run_pass: there is no pass '{unknown}'; the passes are {known}"
    assert graph_text(module) == text


def test_readme_lists_the_pipeline() -> None:
    """Test that the README's table has each pass with its purpose, in the order in which they run."""
    rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", (REPOSITORY / "README.md").read_text(), re.MULTILINE)
    order = pipeline.PREPARE_PASSES + pipeline.CONVERT_PASSES
    assert [row for row in rows if row[0] in passes()] == [(name, passes()[name]) for name in order]
