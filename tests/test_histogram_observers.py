"""Tests of the observers that keep a histogram: what is counted, and which range is chosen from it."""

import math

import numpy as np
import pytest
import torch
from torch.ao.quantization import observer as ao

from jitquant.observers import HistogramObserver, MinMaxObserver, PercentileObserver, choose_qparams
from tests.observing import (
    SAMPLES,
    mean_squared_error,
    qparams_in_numpy,
    quantized_in_numpy,
    samples,
    watched,
)


def counts_by_edge(observer):
    counts = {}
    for i in observer.histogram.nonzero().flatten().tolist():
        # Of a value millions of times smaller than a bin, float32 cannot tell on which side of 0 it lies.
        edge = (observer.first_bin + i) * observer.bin_width if observer.first_bin + i != -1 else 0.0
        counts[edge] = counts.get(edge, 0) + observer.histogram[i].item()
    return counts


def test_histogram_counts_are_those_of_numpy():
    """Test that each bin holds as many values as numpy counts between its edges, exact zeros left out."""
    x = torch.randint(-3000, 5000, (5000,), generator=torch.Generator().manual_seed(0)).float() / 512
    observer = watched(torch.jit.script(HistogramObserver(bins=100)), *x.split(1234))
    edges = (observer.first_bin + np.arange(observer.histogram.numel() + 1)) * observer.bin_width
    expected, _ = np.histogram(x[x != 0].numpy(), edges)
    assert np.array_equal(observer.histogram.numpy(), expected)
    assert (expected > 0).sum() >= 100
    assert (x == 0).any()


@pytest.mark.parametrize("growth", [3.0, 1e6, 1e30])
def test_counts_are_kept_when_the_range_grows(growth):
    """Test that growing ranges end in the same histogram as the same batches from widest to narrowest."""
    small = torch.randint(-900, 1000, (3000,), generator=torch.Generator().manual_seed(2)).float() / 64
    batches = [small, small[:700] * -growth, small[:50].abs() * growth * growth if growth < 1e19 else small]
    forward, backward = (torch.jit.script(HistogramObserver(bins=64)) for _ in range(2))
    watched(forward, *batches)
    watched(backward, *sorted(batches, key=lambda batch: -batch.abs().max().item()))
    assert counts_by_edge(forward) == counts_by_edge(backward)
    assert forward.histogram.sum().item() == sum(batch.count_nonzero().item() for batch in batches)
    assert forward.histogram.shape == HistogramObserver(bins=64).histogram.shape


def test_counts_stay_exact_beyond_float32():
    """Test that more values than float32 can count by ones are all counted."""
    observer = watched(HistogramObserver(), torch.ones(2**24 + 5))
    assert observer.histogram.sum().item() == 2**24 + 5


@pytest.mark.parametrize("size", [1e-42, 1e-30, 1e-10, 1.0, 1e20, 3e38])
def test_any_size_of_values_is_taken(size):
    """Test that values near the ends of what float32 holds are counted, and the range covers them."""
    x = torch.linspace(-1, 1, 1001) * size
    observer = watched(torch.jit.script(HistogramObserver()), x)
    assert observer.histogram.sum().item() == x.count_nonzero().item()
    scale, zero_point = (value.item() for value in observer.calculate_qparams())
    assert (255 - zero_point) * scale >= 0.99 * size
    assert -zero_point * scale <= -0.99 * size or scale == pytest.approx(2**-23)


@pytest.mark.parametrize("value", [3.0, -0.7, 0.0, 1e-3, 12345.678])
def test_a_constant_is_restored(value):
    """Test that a tensor of one value is quantized without error."""
    observer = watched(
        torch.jit.script(HistogramObserver()), torch.full((3, 7), value), torch.full((9,), value)
    )
    scale, zero_point = (result.item() for result in observer.calculate_qparams())
    restored = quantized_in_numpy(torch.tensor([value]), scale, zero_point)
    assert restored == pytest.approx([value], rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("name", ["normal", "laplace", "lognormal", "minus lognormal"])
@pytest.mark.parametrize("symmetric", [False, True])
def test_histogram_beats_minmax_on_tails(name, symmetric):
    """Test that with long tails the error is well below that of the extremes, and at most that of torch."""
    arguments = {"dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric} if symmetric else {}
    x = samples(name)
    own = mean_squared_error(x, watched(HistogramObserver(**arguments), *x.split(10_000)))
    assert own < 0.97 * mean_squared_error(x, watched(MinMaxObserver(**arguments), x))
    peer = watched(ao.HistogramObserver(**arguments), *x.split(10_000))
    assert own < 1.01 * mean_squared_error(x, peer)


@pytest.mark.parametrize(
    "name",
    [
        "uniform",
        "uniform around 0",
        "relu6",
        "relu6, mostly at its ends",
        "hardtanh",
        "sigmoid",
        "whole numbers",
        "an outlier",
    ],
)
@pytest.mark.parametrize("reduce_range", [False, True])
def test_histogram_is_no_worse_than_minmax_without_tails(name, reduce_range):
    """Test that where nothing is gained by clipping, nothing is lost either."""
    x = samples(name)
    own = watched(HistogramObserver(reduce_range=reduce_range), *x.split(10_000))
    extremes = watched(MinMaxObserver(reduce_range=reduce_range), x)
    assert mean_squared_error(x, own) <= 1.001 * mean_squared_error(x, extremes)


@pytest.mark.parametrize("name", ["normal", "lognormal", "gelu", "relu"])
def test_histogram_is_near_the_best_range_there_is(name):
    """Test that no range of a brute-force search, judged by quantizing, is better by more than 2 %."""
    x = samples(name, 10_000)
    low, high = min(x.min().item(), 0.0), max(x.max().item(), 0.0)
    best = math.inf
    for end in np.linspace(0.2, 1, 30) * high:
        for start in np.linspace(0.2, 1, 20) if low < 0 else [1.0]:
            scale, zero_point = qparams_in_numpy(start * low, end, 0, 255, symmetric=False)
            best = min(best, np.mean((quantized_in_numpy(x, scale, zero_point) - x.numpy()) ** 2))
    assert mean_squared_error(x, watched(HistogramObserver(), x)) <= 1.02 * best


def expected_error_in_torch(points, counts, scale, zero_point, quant_min, quant_max):
    """The formula again, with searches among the points in the place of positions on a grid."""
    step = scale.to(torch.float64)
    low = (quant_min - zero_point) * step
    high = (quant_max - zero_point) * step
    bounds = torch.stack([low, torch.maximum(-step / 2, low), torch.minimum(step / 2, high), high])
    moments = torch.stack([counts, counts * points, counts * points * points]).cumsum(1)
    moments = torch.nn.functional.pad(moments, [1, 0])
    below = torch.searchsorted(points, bounds)
    count, first, second = moments[:, below].unbind(0)
    above = moments[:, -1:] - moments[:, below[3]]
    clipped_low = second[0] - 2 * low * first[0] + low * low * count[0]
    clipped_high = above[2] - 2 * high * above[1] + high * high * above[0]
    rounded = (count[3] - count[0] - count[2] + count[1]) * step * step / 12
    return clipped_low + clipped_high + second[2] - second[1] + rounded


def middles(observer):
    bins = torch.arange(observer.histogram.numel(), dtype=torch.float64) + observer.first_bin
    return (bins + 0.5) * observer.bin_width


def searched_in_torch(observer):
    """The scale and zero point of the best of all candidates, compared at once."""
    low, high = observer.min_val.double().clamp(max=0), observer.max_val.double().clamp(min=0)
    ends = observer.quant_min, observer.quant_max
    best_low, best_high = low, high
    coarse = torch.exp2(torch.linspace(0, -12, 64, dtype=torch.float64))
    fine = torch.exp2(torch.linspace(-12 / 63, 12 / 63, 33, dtype=torch.float64))
    for factors in [torch.cat([coarse, torch.zeros(1)]), fine]:
        lows = torch.maximum(best_low * factors, low).repeat_interleave(factors.numel())
        highs = torch.minimum(best_high * factors, high).repeat(factors.numel())
        scales, zero_points = choose_qparams(lows, highs, *ends, observer.symmetric, observer.eps)
        error = expected_error_in_torch(middles(observer), observer.histogram, scales, zero_points, *ends)
        best = int(error.argmin())
        best_low, best_high = lows[best], highs[best]
    return scales[best], zero_points[best]


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("symmetric", [False, True])
def test_the_search_finds_the_best_of_all_candidates(name, symmetric):
    """Test that the compiled search ends where the one that compares all candidates in torch does."""
    qscheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    observer = watched(HistogramObserver(qscheme=qscheme), *samples(name).split(10_000))
    scale, zero_point = observer.calculate_qparams()
    expected_scale, expected_zero_point = searched_in_torch(observer)
    assert scale.item() == pytest.approx(expected_scale.item(), rel=1e-6)
    assert zero_point.item() == expected_zero_point.item()


def test_expected_error_is_that_of_the_formula():
    """Test that places on the grid give the sums that searches among the middles of the bins give."""
    observer = watched(HistogramObserver(bins=300), samples("laplace"))
    scale = torch.logspace(-4, 1, 500)
    zero_point = torch.arange(500) % 256
    own = torch.ops.jitquant.expected_error(
        observer.histogram, observer.bin_width, observer.first_bin, scale, zero_point, 0, 255
    )
    formula = expected_error_in_torch(middles(observer), observer.histogram, scale, zero_point, 0, 255)
    assert torch.allclose(own, formula, rtol=1e-9)


@pytest.mark.parametrize(("scale", "zero_point"), [(0.01, 100), (0.05, 128), (0.5, 7), (5.0, 0)])
def test_expected_error_is_the_error_of_really_quantizing(scale, zero_point):
    """Test that the error expected of fine bins is the one measured."""
    x = samples("normal")
    measured = np.sum((quantized_in_numpy(x, scale, zero_point) - x.numpy()) ** 2)
    observer = watched(HistogramObserver(bins=2**16), x)
    expected = torch.ops.jitquant.expected_error(
        observer.histogram,
        observer.bin_width,
        observer.first_bin,
        torch.tensor([scale]),
        torch.tensor([zero_point]),
        0,
        255,
    )
    assert expected.item() == pytest.approx(measured, rel=0.03)


@pytest.mark.parametrize("name", ["relu", "lognormal", "relu6", "sigmoid"])
def test_zero_is_the_exact_lower_end_of_one_sided_data(name):
    """Test that data without negative values spends no integer on them, however its upper end is clipped."""
    zero_point = watched(HistogramObserver(), samples(name)).calculate_qparams()[1]
    assert zero_point.item() == 0
    mirrored = watched(HistogramObserver(), -samples(name)).calculate_qparams()[1]
    assert mirrored.item() == 255


@pytest.mark.parametrize("reduce_range", [False, True])
@pytest.mark.parametrize("share_at_the_end", [0.01, 0.5, 0.95])
@pytest.mark.parametrize("end", [6.0, 5.9, -6.0])
def test_a_peak_at_the_end_is_not_clipped(share_at_the_end, reduce_range, end):
    """Test that relu6's 6 stays the largest value when a part of the values sits there."""
    x = (samples("uniform") / (1 - share_at_the_end)).clamp(max=1) * end
    observer = watched(HistogramObserver(reduce_range=reduce_range), x)
    assert observer.calculate_qparams()[0].item() == pytest.approx(abs(end) / observer.quant_max, rel=1e-6)


def test_exact_zeros_do_not_sway_the_range():
    """Test that values which cost nothing change nothing, however many they are."""
    x = samples("lognormal")
    with_zeros = torch.cat([x, torch.zeros(20 * x.numel())])
    own = watched(HistogramObserver(), with_zeros).calculate_qparams()
    assert all(map(torch.equal, own, watched(HistogramObserver(), x).calculate_qparams()))


@pytest.mark.parametrize("bins", [2, 100, 5001, 77_777])
def test_exact_zeros_are_left_out_of_their_own_bin(bins):
    """Test that no bin ends below zero or with a zero in it, whatever the number of bins and their place."""
    for low, high in [(-1.0, 1.7), (-0.003, 1.7), (0.0, 1.7), (-1.7, 0.0), (-2036.5, 100_000.0)]:
        x = torch.cat([torch.tensor([low, high]), torch.zeros(1000)])
        observer = watched(HistogramObserver(bins=bins), x)
        assert observer.histogram.min().item() == 0
        assert observer.histogram.sum().item() == x.count_nonzero().item()


@pytest.mark.parametrize("factor", [2.0**-12, 2.0**20])
def test_scaled_data_has_scaled_qparams(factor):
    """Test that small and large data are split as finely as others."""
    x = samples("laplace")
    scale, zero_point = watched(HistogramObserver(), x).calculate_qparams()
    other_scale, other_zero_point = watched(HistogramObserver(), x * factor).calculate_qparams()
    assert other_scale.item() == scale.item() * factor
    assert torch.equal(zero_point, other_zero_point)


def test_strided_values_are_counted():
    """Test that channels-last, sliced and expanded tensors give what their contiguous copies give."""
    x = torch.randn(2, 3, 8, 8)
    for view in (x.to(memory_format=torch.channels_last), x[:, :, ::2], x[:1, :1].expand(4, 5, 8, 8)):
        own = watched(HistogramObserver(), view)
        assert torch.equal(own.histogram, watched(HistogramObserver(), view.contiguous()).histogram)
        assert own.histogram.sum().item() == view.numel()


# What the compiled loops must not show


def histogram_in_numpy(values, observer):
    """The counts of all values, without the zeros, on the observer's grid."""
    values = values.numpy().astype(np.float64).ravel()
    bins = np.floor(values[values != 0] / observer.bin_width).astype(np.int64) - observer.first_bin
    return np.bincount(bins, minlength=observer.histogram.numel())


@pytest.fixture
def two_threads():
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("count", [1, 3, 1023, 1025, 16_385, 300_001])
def test_any_number_of_values_is_counted(name, count):
    """Test counts and extremes of sizes around those of the loops' blocks against numpy."""
    x = samples(name, count)
    observer = watched(HistogramObserver(bins=100), x)
    assert np.array_equal(observer.histogram.numpy(), histogram_in_numpy(x, observer))
    assert observer.zeros == (x == 0).sum().item()
    assert [observer.min_val.item(), observer.max_val.item()] == [x.min().item(), x.max().item()]


@pytest.mark.parametrize("name", ["normal", "relu", "an outlier"])
def test_threads_do_not_show_in_the_histogram(name, two_threads):
    """Test that two threads record what one does, and what the batches in another order give."""
    x = samples(name, 1_000_003)
    together = watched(HistogramObserver(), x)
    torch.set_num_threads(1)
    alone = watched(HistogramObserver(), x)
    in_parts = watched(HistogramObserver(), *reversed(x.split(77_777)))
    for other in (alone, in_parts):
        assert torch.equal(together.histogram, other.histogram)
        assert (together.first_bin, together.bin_width) == (other.first_bin, other.bin_width)
        assert (together.zeros, together.min_val, together.max_val) == (
            other.zeros,
            other.min_val,
            other.max_val,
        )


@pytest.mark.parametrize("place", [0, 5000, 199_999])
@pytest.mark.parametrize("bad", [math.nan, -math.nan, math.inf, -math.inf])
def test_one_bad_value_among_many_is_noticed(place, bad, two_threads):
    """Test that NaN and infinity anywhere in a large tensor end in the extremes as torch.aminmax has them."""
    x = torch.randn(400_000)
    x[place] = bad
    for make in (MinMaxObserver, HistogramObserver):
        observer = watched(make(), x)
        low, high = torch.aminmax(x)
        assert torch.equal(observer.min_val.nan_to_num(7.5), low.reshape(1).nan_to_num(7.5))
        assert torch.equal(observer.max_val.nan_to_num(7.5), high.reshape(1).nan_to_num(7.5))
        with pytest.raises(RuntimeError, match="NaN or infinity"):
            observer.calculate_qparams()


def test_a_range_that_grows_a_million_times():
    """Test that each step of a growing range keeps all counts, in the memory of the first."""
    batches = [torch.randn(999) * 10.0**power for power in range(-3, 4)]
    observer = watched(HistogramObserver(), *batches)
    assert np.array_equal(observer.histogram.numpy(), histogram_in_numpy(torch.cat(batches), observer))
    assert observer.histogram.shape == HistogramObserver().histogram.shape


def test_the_smallest_negative_numbers_lie_below_zero():
    """Test that values too small for the arithmetic stay on their side of 0, as when the grid grows."""
    tiny = torch.tensor([-1e-45, -1e-40, 1e-45])
    large = torch.tensor([-1e30, 1e30])
    straight, grown = watched(HistogramObserver(), torch.cat([large, tiny])), HistogramObserver()
    watched(grown, tiny, large)
    assert torch.equal(straight.histogram, grown.histogram)
    assert straight.histogram[-straight.first_bin - 1].item() == 2


def test_histograms_of_other_sizes_are_not_merged():
    """Test that the op names both numbers of bins."""
    states = [
        (o.histogram, o.min_val, o.max_val, o.bin_width, o.first_bin, o.zeros)
        for o in (watched(HistogramObserver(bins=bins), torch.ones(3)) for bins in (4, 16))
    ]
    with pytest.raises(RuntimeError, match="one histogram has 8 bins and the other 32; merge what"):
        torch.ops.jitquant.merge_histograms(*states[0], *states[1])


# The share of the values


@pytest.mark.parametrize("name", SAMPLES)
@pytest.mark.parametrize("percentile", [60.0, 99.0, 99.9, 100.0])
def test_the_range_holds_the_share_and_hardly_more(name, percentile):
    """Test both ends against the values: the share lies within, and not within a range a bin narrower."""
    x = samples(name)
    observer = watched(torch.jit.script(PercentileObserver(percentile=percentile)), *x.split(7777))
    low, high = (end.item() for end in PercentileObserver._range(observer))
    ends = 2 if x.min() < 0 < x.max() else 1
    beyond = (100 - percentile) / 100 * x.numel() / ends
    width = observer.bin_width
    assert (x < low).sum().item() <= beyond
    assert (x > high).sum().item() <= beyond
    assert low == 0 or (x < low + width).sum().item() > beyond
    assert high == 0 or (x >= high - width).sum().item() > beyond
    scale, _ = observer.calculate_qparams()
    assert scale.item() == pytest.approx(qparams_in_numpy(low, high, 0, 255, symmetric=False)[0], rel=1e-6)


def test_all_of_the_values_are_held_by_a_percentile_of_100():
    """Test that nothing is clipped then, as by the extremes."""
    x = samples("an outlier")
    own, extremes = watched(PercentileObserver(percentile=100), x), watched(MinMaxObserver(), x)
    assert all(map(torch.equal, own.calculate_qparams(), extremes.calculate_qparams()))


def test_zeros_count_among_the_share():
    """Test that what a relu sets to zero is part of the values of which a share is kept."""
    x = torch.cat([torch.zeros(900), torch.linspace(0.01, 1, 100)])
    scale, _ = watched(PercentileObserver(percentile=99, bins=4096), x).calculate_qparams()
    assert scale.item() * 255 == pytest.approx(0.9, abs=0.01)


@pytest.mark.parametrize("value", [0.0, 3.0, -2.0])
def test_a_constant_is_held_by_any_share(value):
    """Test that a constant is not clipped away."""
    observer = watched(PercentileObserver(percentile=60), torch.full((100,), value))
    scale, zero_point = (result.item() for result in observer.calculate_qparams())
    restored = quantized_in_numpy(torch.tensor([value]), scale, zero_point)
    assert restored == pytest.approx([value], rel=1e-6, abs=1e-9)
