"""The benchmarks' own arithmetic, their command lines, and tiny models through their worker processes."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.__main__ import arguments, measure, show
from benchmarks.coverage import FAMILIES, Row, shortcomings
from benchmarks.coverage import arguments as coverage_arguments
from benchmarks.coverage import cells as coverage_cells
from benchmarks.coverage import measure as measure_row
from benchmarks.coverage import read as read_rows
from benchmarks.coverage import report as coverage_report
from benchmarks.coverage import write as write_rows
from benchmarks.coverage_worker import in_a_line as error_line
from benchmarks.engines import ENGINES, Role
from benchmarks.figures import EngineFigures, ModelFigures, Run, Timing
from benchmarks.judge import judge
from benchmarks.models import DYNAMIC_MODELS, MODELS
from benchmarks.report import compare, medians, report
from benchmarks.samples import Limits, rows
from benchmarks.scaling import arguments as scaling_arguments
from benchmarks.scaling import measure as measure_scaling
from benchmarks.scaling import report as scaling_report
from benchmarks.session import Session, WorkerFailed
from jitquant.pipeline import CONVERT_PASSES, PREPARE_PASSES

ROUNDS = [
    {"float": 9.0, "mine": 2.0, "mine-too": 5.0, "peer": 4.0, "other": 3.0},
    {"float": 9.0, "mine": 3.0, "mine-too": 5.0, "peer": 4.0, "other": 3.0},
    {"float": 9.0, "mine": 1.0, "mine-too": 5.0, "peer": 4.0, "other": 4.0},
]
ROLES = {
    "float": Role.FLOAT,
    "mine": Role.JITQUANT,
    "mine-too": Role.JITQUANT,
    "peer": Role.PEER,
    "other": Role.PEER,
}


def figures(*timings: Timing) -> ModelFigures:
    engines = [EngineFigures(name, role) for name, role in ROLES.items()]
    return ModelFigures("net", "Net", "made up", 4, engines, list(timings))


def run_of(*models: ModelFigures) -> Run:
    machine = {"processor": "none", "processors": 1, "flags": [], "versions": {"torch": "0"}}
    return Run(machine, {"rounds": 3}, list(models))


def test_ratio_is_of_the_fastest_on_each_side_within_a_round() -> None:
    timing = Timing(1, 1, ROUNDS)
    compared = compare(figures(timing), timing)
    assert compared is not None
    assert (compared.ours, compared.peer) == ("mine", "other")
    assert (compared.low, compared.ratio, compared.high) == (1 / 4, 2 / 3, 1.0)


def test_median_is_over_the_rounds_that_have_the_engine() -> None:
    timing = Timing(1, 1, [{"peer": 8.0, "mine": 1.0}, {"mine": 2.0}])
    assert medians(timing) == {"peer": 8.0, "mine": 1.5}
    compared = compare(figures(timing), timing)
    assert compared is not None
    assert compared.low == compared.high == 1 / 8


@pytest.mark.parametrize("missing", [["peer", "other"], ["mine", "mine-too"], list(ROLES)])
def test_no_ratio_without_both_sides(missing: list[str]) -> None:
    timing = Timing(1, 1, [{name: ms for name, ms in r.items() if name not in missing} for r in ROUNDS])
    model = figures(timing)
    assert compare(model, timing) is None
    assert "Net" in report(run_of(model))


def test_report_shows_ratio_spread_accuracy_and_notes() -> None:
    model = figures(Timing(2, 8, ROUNDS))
    model.engine("mine").sqnr_db, model.engine("mine").same_top1 = 30.25, 0.5
    model.engine("peer").notes.append("convert: no")
    text = report(run_of(model))
    assert "0.67 (0.25–1.00)" in text
    assert " 30.2 |" in text
    assert "50.0 %" in text
    assert "- peer: convert: no" in text


def test_figures_are_the_same_when_read_back(tmp_path: Path) -> None:
    run = run_of(figures(Timing(1, 1, ROUNDS)))
    run.write(tmp_path / "bench.json")
    assert Run.read(tmp_path / "bench.json") == run


def test_picture_is_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is installed by the extra `bench`")
    model = figures(Timing(1, 1, ROUNDS))
    model.engine("mine").sqnr_db = 30.0
    show(run_of(model, figures()), tmp_path, "bench")
    assert (tmp_path / "bench.png").stat().st_size > 1000


def test_judge_compares_rows_and_leaves_out_what_makes_no_sense() -> None:
    reference = np.array([[1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    verdict = judge(reference, reference[::-1].copy(), classifies=True, labels=np.array([1, 1]))
    assert (verdict.cosine, verdict.same_top1, verdict.top1) == (0.0, 0.0, 0.5)
    assert verdict.sqnr_db == pytest.approx(10 * math.log10(1 / 2))
    exact = judge(reference, reference, classifies=False, labels=None)
    assert (exact.sqnr_db, exact.same_top1, exact.top1) == (None, None, None)


def test_outputs_that_are_not_numbers_have_no_sqnr() -> None:
    reference = np.ones((1, 2), dtype=np.float32)
    assert judge(reference, reference * np.nan, classifies=False, labels=None).sqnr_db is None


def test_rows_begin_again_where_there_are_too_few() -> None:
    (taken,) = rows([np.arange(3)], 2, 4)
    assert taken.tolist() == [2, 0, 1, 2]


def test_quick_is_one_thread_and_batch_1_unless_said_otherwise() -> None:
    chosen = arguments(["--quick", "--rounds", "7"])
    assert (chosen.threads, chosen.batch, chosen.rounds) == ([1], [1], 7)
    assert chosen.models == list(MODELS)
    assert set(chosen.engines) < set(ENGINES)
    assert arguments([]).engines == [name for name, engine in ENGINES.items() if not engine.dynamic]


def test_dynamic_has_models_and_engines_of_its_own() -> None:
    """Test that float stands beside what needs no calibration, and nothing else does."""
    chosen = arguments(["--dynamic"])
    assert chosen.models == list(DYNAMIC_MODELS)
    assert [name for name in chosen.engines if not ENGINES[name].dynamic] == ["float"]
    assert {ENGINES[name].role for name in chosen.engines} == set(Role)
    assert (chosen.threads, chosen.batch) == ([1], [1])


@pytest.mark.parametrize("name", [name for name in DYNAMIC_MODELS if not name.startswith("minilm")])
def test_recurrent_networks_take_any_batch(name: str) -> None:
    """Test that a row's result does not depend on the rows beside it, in TorchScript too."""
    model = DYNAMIC_MODELS[name]
    words = torch.from_numpy(model.samples(None, Limits(0, 3)).judged[0])
    network = model.network()
    script = model.script(network, (words,))
    torch.testing.assert_close(script(words)[1:2], network(words[1:2]), atol=1e-5, rtol=1e-5)


def test_float_is_always_measured() -> None:
    assert arguments(["--engines", "ort-int8", "jitquant-x86"]).engines == [
        "float",
        "jitquant-x86",
        "ort-int8",
    ]


def test_a_model_of_the_users_own_is_measured_alone() -> None:
    assert arguments(["--model", "a.pt", "--input", "b.pt"]).models == []
    assert arguments(["--model", "a.pt", "--input", "b.pt", "--models", "resnet18"]).models == ["resnet18"]


@pytest.mark.parametrize(
    "given", [["--model", "a.pt"], ["--models", "nothing"], ["--threads", "0"], ["--judge", "-1"]]
)
def test_nonsense_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(given)
    assert "error" in capsys.readouterr().err


def test_photographs_of_scikit_image_stand_in_for_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("skimage", reason="scikit-image carries them")
    samples = MODELS["resnet18"].samples(tmp_path, Limits(2, 3))
    assert [len(arrays[0]) for arrays in (samples.calibration, samples.judged)] == [2, 3]
    assert samples.judged[0].shape[1:] == (3, 224, 224)
    assert samples.labels is None


def test_a_users_model_goes_through_float_and_jitquant(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5)).eval()
    torch.jit.script(network).save(tmp_path / "tiny.pt")
    torch.save(torch.randn(64, 3, 8, 8), tmp_path / "rows.pt")
    given = ["--model", str(tmp_path / "tiny.pt"), "--input", str(tmp_path / "rows.pt"), "--threads", "1"]
    given += ["--batch", "1", "4", "--rounds", "2", "--seconds", "0.01", "--out", str(tmp_path / "out")]
    run = measure(arguments([*given, "--engines", "jitquant-x86", "torch-fx-x86"]), tmp_path / "work")
    assert Run.read(tmp_path / "out" / "bench.json") == run
    (model,) = run.models
    assert model.judged == 48
    assert [timing.batch for timing in model.timings] == [1, 4]
    for timing in model.timings:
        assert timing.rounds[0].keys() == {"float", "jitquant-x86"}
    jitquant = model.engine("jitquant-x86")
    assert jitquant.notes == []
    assert jitquant.sqnr_db is not None
    assert jitquant.sqnr_db > 15
    assert model.engine("torch-fx-x86").notes == ["convert: FX needs the network in Python"]


def test_a_worker_that_dies_becomes_a_note(tmp_path: Path) -> None:
    with (
        Session("no such engine", tmp_path / "log.txt") as session,
        pytest.raises(WorkerFailed, match="convert: the process ended with exit status 1"),
    ):
        session.ask("convert")


def test_a_worker_that_takes_too_long_becomes_a_note(tmp_path: Path) -> None:
    with (
        Session("float", tmp_path / "log.txt") as session,
        pytest.raises(WorkerFailed, match="no answer within 0 s"),
    ):
        session.ask("measure", patience=0.01, batch=1, seconds=0)


def test_a_failed_command_leaves_the_worker_ready(tmp_path: Path) -> None:
    with Session("float", tmp_path / "log.txt") as session:
        for _ in range(2):
            with pytest.raises(WorkerFailed, match="measure: KeyError: 1"):
                session.ask("measure", batch=1, seconds=0)


def coverage_rows() -> list[Row]:
    good = Row("net", "scripted", "jitquant-x86", "time", sqnr_db=30.0, ms=1.0, float_ms=2.0)
    good.prepare_s, good.convert_s, good.integer_share = 0.5, 1.0, 1.0
    bad = replace(good, model="slow", sqnr_db=20.0, ms=3.0, convert_s=4.0, integer_share=0.5)
    crashed = Row("hard", "traced", "jitquant-native", "convert", "the process ended with SIGSEGV")
    return [good, bad, replace(bad, engine="torch-jit", sqnr_db=25.0), crashed]


def test_shortcomings_are_of_jitquant_and_worst_first() -> None:
    good, bad, peer, crashed = coverage_rows()
    worse = replace(bad, model="worse", ms=9.0)
    found = dict(shortcomings([good, bad, worse, peer, crashed]))
    assert found["Failures"] == ["hard traced jitquant-native: convert: the process ended with SIGSEGV"]
    assert found["SQNR below that of torch-jit"] == ["slow scripted jitquant-x86: 5.0 dB"]
    assert found["Slower than float"] == [
        "worse scripted jitquant-x86: 4.50 of the time of float",
        "slow scripted jitquant-x86: 1.50 of the time of float",
    ]
    assert len(found["Less than 95% of the multiply-adds in integer"]) == 2
    assert len(found["Conversion of more than 3 s"]) == 2
    assert not any("net" in line for lines in found.values() for line in lines)


def test_a_network_that_is_no_torchscript_is_no_failure_of_an_engine() -> None:
    rows = [Row("net", "traced", engine, "traced", "no") for engine in ("jitquant-x86", "jitquant-native")]
    found = dict(shortcomings(rows))
    assert found["Failures"] == []
    assert found["Networks that cannot be scripted or traced, whatever the engine"] == ["net traced: no"]


def test_coverage_has_a_row_for_each_network_and_is_read_back(tmp_path: Path) -> None:
    rows = coverage_rows()
    text = coverage_report(rows)
    assert "convert: the process ended with SIGSEGV" in text
    assert len(coverage_cells(rows)) == 1 + len(rows)
    write_rows(rows, {}, tmp_path / "coverage.json")
    assert read_rows(tmp_path / "coverage.json") == rows


def test_coverage_takes_one_size_of_each_family_unless_told() -> None:
    chosen = coverage_arguments([])
    assert chosen.models == list(FAMILIES)
    assert chosen.forms == ["scripted", "traced"]
    assert coverage_arguments(["--models", "resnet18"]).models == ["resnet18"]


def test_every_size_of_torchvision_can_be_asked_for() -> None:
    models = coverage_arguments(["--all"]).models
    assert set(FAMILIES) < set(models)
    assert len(models) == len(set(models))


@pytest.mark.parametrize(
    "given", [["--all", "--models", "resnet18"], ["--engines", "none"], ["--jobs", "0"], ["--limit", "0"]]
)
def test_nonsense_for_coverage_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        coverage_arguments(given)
    assert "error" in capsys.readouterr().err


def test_an_engine_that_fails_is_a_row(tmp_path: Path) -> None:
    row = Row("no_such_network", "scripted", "jitquant-x86")
    measure_row(row, tmp_path / "log.txt", limit=60.0, seconds=0.0)
    assert (row.step, row.ms) == ("scripted", None)
    assert "no_such_network" in (row.error or "")
    row = Row("resnet18", "scripted", "no engine")
    measure_row(row, tmp_path / "log.txt", limit=0.01, seconds=0.0)
    assert row.error == "not done within 0 s"


def test_a_network_goes_through_both_steps(tmp_path: Path) -> None:
    row = Row("squeezenet1_1", "traced", "jitquant-x86")
    measure_row(row, tmp_path / "log.txt", limit=120.0, seconds=0.0)
    assert (row.step, row.error, row.integer_share) == ("time", None, 1.0)
    assert row.sqnr_db is not None
    assert row.sqnr_db > 20


def test_a_message_is_the_line_that_says_something() -> None:
    assert error_line(ValueError("no\nwhere")) == "ValueError: no"
    trace = (
        "The following operation failed in the TorchScript interpreter.\nTraceback\n  here\nRuntimeError: bad"
    )
    assert error_line(RuntimeError(trace)) == "RuntimeError: bad"
    assert error_line(KeyError()) == "KeyError"


def test_scaling_has_the_time_of_each_pass() -> None:
    measured = measure_scaling(6, "quantized")
    on_demand = {"observe_products", "equalize_layers"}
    assert set(measured.passes) == set(PREPARE_PASSES + CONVERT_PASSES) - on_demand
    text = scaling_report([measured])
    assert "fold_prepack" in text
    assert "around the passes" in text
    assert scaling_arguments(["--nodes", "10"]).nodes == [10]
