"""Tests of statistics apart from the model: saved, loaded, merged, and gathered from several processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.ao.quantization import observer as ao

import jitquant
from jitquant import QConfig, QuantizationError
from jitquant.observers import (
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
    WeightMinMaxObserver,
)
from tests.marks import needs_distributed

WEIGHT = PerChannelMinMaxObserver.with_args()
EXACT = [MinMaxObserver, HistogramObserver, PercentileObserver.with_args(percentile=99)]


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


def prepared_model(activation=HistogramObserver, weight=WEIGHT):
    torch.manual_seed(0)
    model = torch.jit.script(Network().eval())
    return jitquant.prepare_jit(model, {"": QConfig(activation, weight)})


def batches(count=6):
    """Each wider than the one before, so that grids differ."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(2, 3, 16, 16, generator=generator) * 3.0**i + i for i in range(count)]


def calibrated(data, **arguments):
    model = prepared_model(**arguments)
    with torch.no_grad():
        for batch in data:
            model(batch)
    return model


def observers(model):
    return {name: child for name, child in model.named_children() if name.startswith("_observer_")}


def state(observer):
    names = ["min_val", "max_val", "calls", "histogram", "bin_width", "first_bin", "zeros"]
    return {name: getattr(observer, name) for name in names if hasattr(observer, name)}


def same(left, right):
    assert left.keys() == right.keys()
    return all(
        torch.equal(value, right[name]) if isinstance(value, torch.Tensor) else value == right[name]
        for name, value in left.items()
    )


def assert_same_statistics(left, right):
    left, right = observers(left), observers(right)
    assert left.keys() == right.keys()
    for name in left:
        assert same(state(left[name]), state(right[name])), name


# Saved and loaded


@pytest.mark.parametrize("activation", [*EXACT, MovingAverageMinMaxObserver])
def test_loaded_statistics_make_the_same_model(activation, tmp_path):
    """Test that an uncalibrated model that loads statistics equals the one they are of."""
    seen = calibrated(batches(), activation=activation)
    jitquant.save_statistics(seen, tmp_path / "statistics.pt")
    other = prepared_model(activation)
    jitquant.load_statistics(other, tmp_path / "statistics.pt")
    assert_same_statistics(other, seen)
    x = batches()[0]
    assert torch.equal(jitquant.convert_jit(other)(x), jitquant.convert_jit(seen)(x))


def test_calibration_goes_on_after_loading(tmp_path):
    """Test that what is recorded after loading adds to what was loaded."""
    data = batches()
    jitquant.save_statistics(calibrated(data[:3]), tmp_path / "half.pt")
    other = prepared_model()
    jitquant.load_statistics(other, tmp_path / "half.pt")
    with torch.no_grad():
        for batch in data[3:]:
            other(batch)
    assert_same_statistics(other, calibrated(data))


def test_the_file_is_plain_data(tmp_path):
    """Test that the file opens without running code, and names classes, modules, settings and statistics."""
    jitquant.save_statistics(calibrated(batches(2)), tmp_path / "statistics.pt")
    content = torch.load(tmp_path / "statistics.pt", weights_only=True)
    assert content["jitquant"] == jitquant.__version__
    by_class = {}
    for record in content["observers"].values():
        by_class.setdefault(record["observer"], []).append(record)
    assert {record["module"] for record in by_class["PerChannelMinMaxObserver"]} == {"first", "second"}
    first = by_class["HistogramObserver"][0]
    assert first["settings"]["bins"] == 2048
    assert first["statistics"]["histogram"].sum() + first["statistics"]["zeros"] == 2 * 2 * 3 * 16 * 16
    assert (tmp_path / "statistics.pt").stat().st_size < 300_000


def test_statistics_of_a_prepared_model_from_a_file(tmp_path):
    """Test that a prepared model that was saved and loaded takes and gives statistics too."""
    seen = calibrated(batches())
    torch.jit.save(seen, tmp_path / "prepared.pt")
    reloaded = torch.jit.load(tmp_path / "prepared.pt")
    jitquant.save_statistics(reloaded, tmp_path / "statistics.pt")
    other = prepared_model()
    jitquant.load_statistics(other, tmp_path / "statistics.pt")
    assert_same_statistics(other, seen)


def test_statistics_of_a_foreign_observer_are_saved(tmp_path):
    """Test that observers of torch.ao keep what they saw as well."""
    activation = ao.MovingAverageMinMaxObserver.with_args(dtype=torch.quint8)
    weight = ao.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    seen = calibrated(batches(3), activation=activation, weight=weight)
    jitquant.save_statistics(seen, tmp_path / "statistics.pt")
    other = prepared_model(activation, weight)
    jitquant.load_statistics(other, tmp_path / "statistics.pt")
    assert_same_statistics(other, seen)


# Merged


@pytest.mark.parametrize("activation", EXACT)
@pytest.mark.parametrize("weight", [WEIGHT, WeightMinMaxObserver])
@pytest.mark.parametrize("split", [1, 3, 5])
def test_parts_merged_are_the_whole(activation, weight, split):
    """Test that a model and another merged equal, bit for bit, one that saw all the data in one run."""
    data = batches()
    makers = {"activation": activation, "weight": weight}
    left, right = calibrated(data[:split], **makers), calibrated(data[split:], **makers)
    jitquant.merge_statistics(left, right)
    whole = calibrated(data, **makers)
    assert_same_statistics(left, whole)
    assert torch.equal(jitquant.convert_jit(left)(data[0]), jitquant.convert_jit(whole)(data[0]))


def test_many_parts_are_merged_at_once_from_models_and_files(tmp_path):
    """Test that others may be models and files, in any number, and stay as they are."""
    data = batches()
    parts = [calibrated([batch]) for batch in data]
    jitquant.save_statistics(parts[5], tmp_path / "last.pt")
    jitquant.merge_statistics(parts[0], *parts[1:5], str(tmp_path / "last.pt"))
    assert_same_statistics(parts[0], calibrated(data))
    assert_same_statistics(parts[1], calibrated(data[1:2]))


@pytest.mark.parametrize("activation", [*EXACT, MovingAverageMinMaxObserver])
def test_a_part_that_never_ran_changes_nothing(activation):
    """Test that merging with a model that saw no data gives what the other saw, either way round."""
    seen = calibrated(batches(2), activation=activation)
    fresh = prepared_model(activation)
    jitquant.merge_statistics(seen, fresh)
    assert_same_statistics(seen, calibrated(batches(2), activation=activation))
    jitquant.merge_statistics(fresh, seen)
    assert_same_statistics(fresh, seen)


def test_moving_averages_are_weighted_with_their_calls():
    """Test the mean of two averages, of one batch and of three."""
    activation = MovingAverageMinMaxObserver.with_args(averaging_constant=0.5)
    data = batches(4)
    left, right = calibrated(data[:1], activation=activation), calibrated(data[1:], activation=activation)
    name = next(name for name, child in observers(left).items() if hasattr(child, "calls"))
    expected = {
        end: (getattr(observers(left)[name], end) + 3 * getattr(observers(right)[name], end)) / 4
        for end in ("min_val", "max_val")
    }
    jitquant.merge_statistics(left, right)
    merged = observers(left)[name]
    assert merged.calls == 4
    for end, value in expected.items():
        assert getattr(merged, end).item() == pytest.approx(value.item(), rel=1e-6)


def test_nan_of_one_part_is_in_the_whole():
    """Test that a bad value seen by one part is reported when the merged model is converted."""
    bad = batches(1)[0]
    bad[0, 0, 0, 0] = torch.nan
    left = calibrated(batches(2))
    jitquant.merge_statistics(left, calibrated([bad]))
    with pytest.raises(QuantizationError, match="saw NaN or infinity"):
        jitquant.convert_jit(left)


# Refused


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"activation": MinMaxObserver}, "is a MinMaxObserver there and a HistogramObserver in the model"),
        ({"activation": HistogramObserver.with_args(bins=64)}, "has bins=64 there and bins=2048"),
        ({"activation": HistogramObserver.with_args(reduce_range=True)}, "has quant_max=127 there"),
        ({"weight": PerChannelMinMaxObserver.with_args(eps=0.5)}, "has eps=0.5 there"),
    ],
)
def test_other_observers_are_refused(other, words, tmp_path):
    """Test that a difference in class or setting is named, and nothing is changed."""
    model, different = calibrated(batches(2)), calibrated(batches(1), **other)
    jitquant.save_statistics(different, tmp_path / "other.pt")
    with pytest.raises(QuantizationError, match=f"{words}.*; prepare both from the same model"):
        jitquant.merge_statistics(model, calibrated(batches(3)), different)
    with pytest.raises(QuantizationError, match=f"other.pt does not fit the model: .*{words}"):
        jitquant.load_statistics(model, tmp_path / "other.pt")
    assert_same_statistics(model, calibrated(batches(2)))


def test_another_model_is_refused():
    """Test that a missing observer is named, and so is one of another width."""

    def prepared(channels, kernel=3):
        model = torch.jit.script(nn.Sequential(nn.Conv2d(3, channels, kernel)).eval())
        made = jitquant.prepare_jit(model, {"": QConfig(HistogramObserver, WEIGHT)})
        made(torch.randn(1, 3, 8, 8))
        return made

    with pytest.raises(QuantizationError, match=r"merge_statistics: other 1 .* it lacks _observer_\d+; pre"):
        jitquant.merge_statistics(prepared_model(), prepared(4))
    with pytest.raises(QuantizationError, match="recorded 4 channels there and 8 in the model"):
        jitquant.merge_statistics(prepared(8), prepared(4))


def test_a_histogram_of_torch_is_refused_by_merge():
    """Test that what cannot be merged is named, with what it lacks and the remedy."""
    activation = ao.HistogramObserver.with_args(dtype=torch.quint8)
    model = calibrated(batches(1), activation=activation)
    with pytest.raises(QuantizationError, match=r"a HistogramObserver, cannot be merged, as it keeps no bin"):
        jitquant.merge_statistics(model, calibrated(batches(1), activation=activation))


def test_an_observer_with_statistics_of_its_own_is_refused(tmp_path):
    """Test that nothing is left out in silence."""

    class WithMean(MinMaxObserver):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mean", torch.zeros(1))

    model = prepared_model(WithMean)
    with pytest.raises(QuantizationError, match="a WithMean, keeps mean, which says nothing to jitquant"):
        jitquant.save_statistics(model, tmp_path / "statistics.pt")


def test_what_is_not_prepared_is_refused(tmp_path):
    """Test that a float model, a quantized one and an eager one are told what to do."""
    float_model = torch.jit.script(Network().eval())
    with pytest.raises(QuantizationError, match="save_statistics: the model was never prepared; call"):
        jitquant.save_statistics(float_model, tmp_path / "statistics.pt")
    with pytest.raises(QuantizationError, match="load_statistics: the model is an eager Network"):
        jitquant.load_statistics(Network(), tmp_path / "statistics.pt")
    with pytest.raises(QuantizationError, match="merge_statistics: the model was never prepared"):
        jitquant.merge_statistics(prepared_model(), float_model)


def test_another_file_is_refused(tmp_path):
    """Test that a file of something else is named, and a missing one is what it is."""
    torch.save({"weight": torch.ones(3)}, tmp_path / "weights.pt")
    (tmp_path / "text.pt").write_text("not a file of torch")
    for name in ("weights.pt", "text.pt"):
        with pytest.raises(QuantizationError, match=f"{name} is no file of statistics; pass one that save"):
            jitquant.load_statistics(prepared_model(), tmp_path / name)
    with pytest.raises(FileNotFoundError):
        jitquant.load_statistics(prepared_model(), tmp_path / "missing.pt")


# Several processes

RANK = """
import sys
from pathlib import Path

import torch
import torch.distributed as dist

import jitquant
from tests.test_statistics import batches, calibrated
from jitquant.observers import HistogramObserver, MinMaxObserver

folder, rank, activations = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3].split(",")
torch.set_num_threads(1)
dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
activation = {"histogram": HistogramObserver, "minmax": MinMaxObserver}[activations[rank]]
model = calibrated(batches()[rank::2], activation=activation)
try:
    torch.jit.save(jitquant.convert_jit(model), folder / f"{rank}.pt")
except jitquant.QuantizationError as error:
    (folder / f"{rank}.txt").write_text(str(error))
dist.destroy_process_group()
"""


def run_two_processes(folder, activations):
    root = Path(__file__).parent.parent
    command = [sys.executable, "-c", RANK, str(folder)]
    processes = [
        subprocess.Popen(
            [*command, str(rank), activations],
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    finally:
        for process in processes:
            process.kill()


@needs_distributed
def test_all_processes_convert_to_the_model_of_all_data(tmp_path):
    """Test that two processes with half of the data each end with the model that one makes of all of it."""
    run_two_processes(tmp_path, "histogram,histogram")
    x = batches()[0]
    expected = jitquant.convert_jit(calibrated(batches()))(x)
    for rank in range(2):
        assert torch.equal(torch.jit.load(tmp_path / f"{rank}.pt")(x), expected)


@needs_distributed
def test_processes_with_different_observers_are_all_refused(tmp_path):
    """Test that each process is told which one differs, rather than waiting for the other."""
    run_two_processes(tmp_path, "histogram,minmax")
    for rank in range(2):
        message = (tmp_path / f"{rank}.txt").read_text()
        assert message.startswith("convert_jit: rank 1 does not fit the model: ")
        assert "is a MinMaxObserver there" in message


@pytest.mark.parametrize("preset", ["balanced", "accurate"])
def test_what_presets_record_is_merged_and_saved_too(preset: str, tmp_path: Path) -> None:
    """Test that sums add up over the parts, ranges of channels are merged, and all goes through a file."""
    data = batches()

    def recorded(part: list[torch.Tensor]) -> torch.jit.ScriptModule:
        torch.manual_seed(0)
        qconfig = {"": QConfig(MinMaxObserver, WEIGHT)}
        model = jitquant.prepare_jit(torch.jit.script(Network().eval()), qconfig, preset=preset)
        for batch in part:
            model(batch)
        return model

    whole, first, second = recorded(data), recorded(data[:3]), recorded(data[3:])
    jitquant.save_statistics(second, tmp_path / "second.pt")
    jitquant.merge_statistics(first, tmp_path / "second.pt")
    for name in ("_statistics_0", "_statistics_1"):
        torch.testing.assert_close(first._c.getattr(name), whole._c.getattr(name), rtol=1e-4, atol=1e-2)
    other = recorded([])
    jitquant.load_statistics(other, tmp_path / "second.pt")
    assert torch.equal(other._c.getattr("_statistics_0"), second._c.getattr("_statistics_0"))


def test_ranges_of_channels_are_merged(tmp_path: Path) -> None:
    """Test that the lowest and highest numbers are those of all parts, and squares add up."""
    data = [torch.randn(5, 8) * scale + scale for scale in (1.0, 3.0, -2.0)]

    def recorded(part: list[torch.Tensor]) -> torch.jit.ScriptModule:
        torch.manual_seed(0)
        script = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(8, 4)).eval())
        qconfig = {"": QConfig(MinMaxObserver, WEIGHT)}
        model = jitquant.prepare_jit(script, qconfig, preset="fast", smooth_inputs=True)
        for batch in part:
            model(batch)
        return model

    whole, first, second = recorded(data), recorded(data[:1]), recorded(data[1:])
    jitquant.save_statistics(second, tmp_path / "second.pt")
    jitquant.merge_statistics(first, tmp_path / "second.pt", recorded([]))
    table = whole._c.getattr("_statistics_0")
    assert table.shape == (4, 9)
    assert bool(table.any())
    torch.testing.assert_close(first._c.getattr("_statistics_0"), table)


def test_statistics_of_another_preset_are_refused() -> None:
    """Test that what fast does not record cannot come from it."""
    torch.manual_seed(0)
    script = torch.jit.script(Network().eval())
    models = [
        jitquant.prepare_jit(script, {"": QConfig(MinMaxObserver, WEIGHT)}, preset=preset)
        for preset in ("balanced", "fast")
    ]
    with pytest.raises(QuantizationError, match="it lacks _statistics_0"):
        jitquant.merge_statistics(*models)
