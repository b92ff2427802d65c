"""The comparison of accuracies: its rows, its table, and a tiny model through its processes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import jitquant
from benchmarks import accuracy
from benchmarks.accuracy import JUDGED_MODELS, arguments, cells, choices, measure, report, variants
from benchmarks.engines import Role, Unavailable, Variant, with_jitquant
from benchmarks.figures import EngineFigures, ModelFigures, Run
from benchmarks.inputs import user_samples
from benchmarks.judge import judge
from benchmarks.models import Model
from benchmarks.samples import Limits, Samples
from benchmarks.subject import Subject


@pytest.fixture
def keywords(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The keywords that quantize_jit is taken to have."""
    known: set[str] = set()
    monkeypatch.setattr(accuracy, "takes", known.__contains__)
    return known


def test_all_photographs_judge_unless_it_is_to_be_quick() -> None:
    chosen = arguments([])
    assert chosen.models == list(JUDGED_MODELS)
    assert (chosen.calibrate, chosen.judge, chosen.presets) == (32, 0, ["fast", "balanced", "accurate"])
    chosen = arguments(["--quick", "--calibrate", "8", "--models", "minilm"])
    assert (chosen.calibrate, chosen.judge, chosen.models) == (8, 64, ["minilm"])


@pytest.mark.parametrize("given", [["--model", "a.pt"], ["--presets", "best"], ["--engines", "none"]])
def test_nonsense_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(given)
    assert "error" in capsys.readouterr().err


def test_a_row_for_each_preset_of_each_engine_of_jitquant(keywords: set[str]) -> None:
    keywords.add("preset")
    rows = variants(["jitquant-native", "ort-int8"], ["fast", "accurate"], ablation=False)
    assert list(rows) == ["float", "jitquant-native fast", "jitquant-native accurate", "ort-int8"]
    assert rows["jitquant-native fast"] == Variant("jitquant-native", {"keywords": {"preset": "fast"}})
    assert rows["ort-int8"] == Variant("ort-int8")


def test_one_row_where_there_are_no_presets(keywords: set[str]) -> None:
    rows = variants(["jitquant-x86"], ["fast", "accurate"], ablation=True)
    assert list(rows) == ["float", "jitquant-x86"]


def test_ablation_has_each_method_alone_and_all_but_it(keywords: set[str]) -> None:
    keywords.update(["smooth_inputs", "equalize"])
    found = choices([], ablation=True)
    assert list(found) == [
        *("", "no method", "equalize alone", "smooth_inputs alone"),
        *("all but equalize", "all but smooth_inputs", "all methods"),
    ]
    assert (
        found["equalize alone"]
        == found["all but smooth_inputs"]
        == {"equalize": True, "smooth_inputs": False}
    )
    assert choices([], ablation=False) == {"": {}}


def test_ablation_of_a_single_method_says_nothing_twice(keywords: set[str]) -> None:
    keywords.add("smooth_inputs")
    assert list(choices([], ablation=True)) == ["", "no method", "smooth_inputs alone"]


def figures() -> ModelFigures:
    float_row = EngineFigures("float", Role.FLOAT, top1=0.9, same_top1=1.0, calibrate_processor_seconds=2.0)
    ours = EngineFigures("ours", Role.JITQUANT, same_top1=0.5, sqnr_db=20.0, cosine=0.75, file_mb=4.0)
    ours.convert_seconds, ours.convert_processor_seconds, ours.calibrate_seconds = 5.0, 6.0, 4.0
    ours.calibrate_processor_seconds = 3.0
    peer = EngineFigures("peer", Role.PEER, convert_seconds=9.0, export_seconds=2.0, calibrate_seconds=0.0)
    peer.notes.append("judge: no")
    return ModelFigures("net", "Net", "made up", 4, [float_row, ours, peer])


def run_of(model: ModelFigures) -> Run:
    machine = {"processor": "none", "processors": 1, "flags": [], "versions": {"torch": "0"}}
    return Run(machine, {"calibrate": 2}, [model])


def test_table_has_calibration_beside_float_passes_and_no_export() -> None:
    head, float_row, ours, peer = cells(figures())
    assert [len(row) for row in (float_row, ours, peer)] == [len(head)] * 3
    found = dict(zip(head, ours, strict=True))
    assert (found["SQNR dB"], found["same top-1 %"], found["seconds"]) == ("20.0", "50.0", "5.00")
    assert found["of float passes"] == "1.50"
    assert dict(zip(head, peer, strict=True))["seconds"] == "7.00"
    assert dict(zip(head, peer, strict=True))["calibrate s"] == ""
    assert dict(zip(head, float_row, strict=True))["top-1 %"] == "90.00"


def test_columns_that_no_row_has_are_left_out() -> None:
    model = figures()
    model.engine("float").top1 = None
    assert "top-1 %" not in cells(model)[0]


def test_report_is_the_same_when_the_figures_are_read_back(tmp_path: Path) -> None:
    run = run_of(figures())
    run.write(tmp_path / "accuracy.json")
    text = report(run)
    assert report(Run.read(tmp_path / "accuracy.json")) == text
    assert "- peer: judge: no" in text
    assert "judged on 4" in text


def test_cosine_of_tokens_is_that_of_their_means() -> None:
    reference = np.array([[1.0, 0.0, 0.0, 1.0]], dtype=np.float32)
    swapped = np.array([[0.0, 1.0, 1.0, 0.0]], dtype=np.float32)
    assert judge(reference, swapped, classifies=False, labels=None).cosine == 0.0
    pooled = judge(reference, swapped, classifies=False, labels=None, pooled=2)
    assert pooled.cosine == pytest.approx(1.0)
    assert pooled.sqnr_db == pytest.approx(10 * np.log10(1 / 2))


def test_keywords_reach_quantize_jit_or_become_a_note(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(4, 4)).eval()
    rows = torch.randn(3, 1, 4)
    model = Model("tiny", "Tiny", lambda: network, lambda data, limits: Samples("none", [], []))
    subject = Subject(model, network, torch.jit.script(network), [(row,) for row in rows])
    file = with_jitquant.convert(subject, tmp_path, {"keywords": {"debug": True}})
    assert jitquant.info(file)["stage"] == "debug"
    assert subject.calibrating.wall > 0
    with pytest.raises(Unavailable, match="not available: quantize_jit has no unheard_of argument"):
        with_jitquant.convert(subject, tmp_path, {"keywords": {"unheard_of": True}})


def test_samples_come_from_a_function_of_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_rows.py").write_text(
        "import torch\n\ndef rows():\n    return torch.arange(8.0)[:, None]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    samples = user_samples("some_rows:rows", Limits(0, 3))
    assert [array[:, 0].tolist() for array in samples.calibration + samples.judged] == [[0, 1], [2, 3, 4]]


def test_a_users_model_goes_through_float_and_jitquant(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    torch.jit.script(network).save(tmp_path / "tiny.pt")
    torch.save(torch.randn(32, 3, 8, 8), tmp_path / "rows.pt")
    given = ["--model", str(tmp_path / "tiny.pt"), "--input", str(tmp_path / "rows.pt"), "--classifies"]
    given += ["--engines", "jitquant-x86", "--presets", "balanced", "--out", str(tmp_path / "out")]
    run = measure(arguments(given), tmp_path / "work")
    assert Run.read(tmp_path / "out" / "accuracy.json") == run
    (model,) = run.models
    float_row, ours = model.engines
    assert model.judged == 24
    assert float_row.notes == ours.notes == []
    assert float_row.calibrate_seconds is not None
    assert ours.sqnr_db is not None
    assert ours.sqnr_db > 15
    assert ours.same_top1 is not None
    assert ours.convert_seconds is not None
    assert ours.calibrate_seconds is not None
    assert 0 < ours.calibrate_seconds < ours.convert_seconds
