"""Tests of the observers: the contract with the passes, the formulas, and how they are made."""

import math

import numpy as np
import pytest
import torch
from torch.ao.quantization import observer as ao

from jitquant.observers import (
    SCRIPTED_FLOAT_ZERO_POINTS,
    FixedQParamsObserver,
    HistogramObserver,
    MinMaxObserver,
    MovingAverageMinMaxObserver,
    PercentileObserver,
    PerChannelMinMaxObserver,
    PlaceholderObserver,
    WeightMinMaxObserver,
)
from tests.observing import qparams_in_numpy, saved_and_loaded, watched

ACTIVATION_OBSERVERS = [MinMaxObserver, MovingAverageMinMaxObserver, HistogramObserver, PercentileObserver]
WEIGHT_OBSERVERS = [WeightMinMaxObserver, PerChannelMinMaxObserver]
FIXED = FixedQParamsObserver.with_args(scale=1 / 256, zero_point=0)
ALL_OBSERVERS = [*ACTIVATION_OBSERVERS, *WEIGHT_OBSERVERS, FIXED]
RECORDED_QPARAMS = [*ACTIVATION_OBSERVERS, *WEIGHT_OBSERVERS]


# The contract with the passes


@pytest.mark.parametrize("make", ALL_OBSERVERS)
def test_scripted_observers_expose_what_the_passes_read(make):
    """Test that a scripted observer has the attributes which the passes read, also once saved and loaded."""
    eager = make()
    for module in (torch.jit.script(eager), saved_and_loaded(torch.jit.script(eager))):
        attribute = module._c.getattr
        as_torch_does = torch.jit.script(ao.MinMaxObserver(dtype=eager.dtype))._c.getattr("dtype")
        assert attribute("dtype") == as_torch_does
        assert attribute("quant_min") == eager.quant_min
        assert attribute("quant_max") == eager.quant_max
        assert attribute("min_val").shape == attribute("max_val").shape == (0,)
    assert isinstance(eager.qscheme, torch.qscheme)


@pytest.mark.parametrize("make", ALL_OBSERVERS)
def test_qscheme_survives_scripting(make):
    """Test that the scripted qscheme is the one torch's own observer has for it."""
    eager = make()
    own = torch.jit.script(eager)._c.getattr("qscheme")
    peer = ao.PerChannelMinMaxObserver if "channel" in str(eager.qscheme) else ao.MinMaxObserver
    assert own == torch.jit.script(peer(dtype=eager.dtype, qscheme=eager.qscheme))._c.getattr("qscheme")


def test_float_zero_points_are_known_once_scripted():
    """Test that the number which stands for the qscheme is that of our observer and of torch's."""
    arguments = {"dtype": torch.quint8, "qscheme": torch.per_channel_affine_float_qparams}
    for make in (PerChannelMinMaxObserver, ao.PerChannelMinMaxObserver):
        assert torch.jit.script(make(**arguments))._c.getattr("qscheme") == SCRIPTED_FLOAT_ZERO_POINTS


def test_the_channel_axis_is_an_attribute_of_the_scripted_module():
    """Test that ch_axis can be read and set from outside, as for transposed convolutions."""
    scripted = torch.jit.script(PerChannelMinMaxObserver())
    assert scripted._c.getattr("ch_axis") == 0
    scripted._c.setattr("ch_axis", 1)
    scripted(torch.ones(2, 3))
    assert scripted.min_val.shape == (3,)


@pytest.mark.parametrize("make", ALL_OBSERVERS)
def test_forward_returns_its_input(make):
    """Test that forward returns the very tensor, lets gradients pass, and records outside of autograd."""
    scripted = torch.jit.script(make())
    leaf = torch.randn(4, 5, requires_grad=True)
    x = leaf * 2
    y = scripted(x)
    assert y.data_ptr() == x.data_ptr()
    y.sum().backward()
    assert torch.equal(leaf.grad, torch.full((4, 5), 2.0))
    assert not scripted.min_val.requires_grad
    assert not scripted.max_val.requires_grad


@pytest.mark.parametrize("make", ALL_OBSERVERS)
@pytest.mark.parametrize(
    "x",
    [torch.arange(6), torch.ones(3, dtype=torch.bool), torch.empty(0, 3), torch.ones(2, dtype=torch.cfloat)],
)
def test_what_is_not_float_or_is_empty_passes_unrecorded(make, x):
    """Test that integer, boolean, complex and empty tensors leave the observer as one that never ran."""
    scripted = torch.jit.script(make())
    assert torch.equal(scripted(x), x)
    assert scripted.min_val.numel() == scripted.max_val.numel() == 0


@pytest.mark.parametrize("make", RECORDED_QPARAMS)
def test_qparams_of_what_never_ran_are_refused(make):
    """Test that calculate_qparams says that nothing was recorded, and what to do."""
    with pytest.raises(RuntimeError, match="never ran; run calibration data"):
        make().calculate_qparams()
    with pytest.raises(torch.jit.Error, match="never ran; run calibration data"):
        torch.jit.script(make()).calculate_qparams()


@pytest.mark.parametrize("make", ALL_OBSERVERS)
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_are_kept(make, bad):
    """Test that forward takes NaN and infinity without raising, and later values do not hide them."""
    fine = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    broken = fine.clone()
    broken[1, 0] = bad
    observer = torch.jit.script(make())
    watched(observer, *([broken, fine] if make in WEIGHT_OBSERVERS else [fine, broken, fine]))
    if math.isnan(bad):
        assert observer.min_val.isnan().any()
        assert observer.max_val.isnan().any()
    else:
        assert bad in (observer.min_val if bad < 0 else observer.max_val)
    if make is not FIXED:
        with pytest.raises(torch.jit.Error, match="NaN or infinity"):
            observer.calculate_qparams()


@pytest.mark.parametrize("make", ALL_OBSERVERS)
def test_shapes_and_dtypes_of_qparams(make):
    """Test that scale is float32 and zero point int64, of shape [1] or [C], scripted as well as not."""
    x = torch.randn(6, 5)
    eager, scripted = watched(make(), x), watched(torch.jit.script(make()), x)
    shape = (6,) if isinstance(eager, PerChannelMinMaxObserver) else (1,)
    for (scale, zero_point), observer in ((o.calculate_qparams(), o) for o in (eager, scripted)):
        assert (scale.dtype, zero_point.dtype) == (torch.float32, torch.int64)
        assert scale.shape == zero_point.shape == observer.min_val.shape == observer.max_val.shape == shape
        assert observer.min_val.dtype == observer.max_val.dtype == torch.float32
    assert all(map(torch.equal, eager.calculate_qparams(), scripted.calculate_qparams()))


@pytest.mark.parametrize("make", ALL_OBSERVERS)
def test_observing_goes_on_after_saving_and_loading(make):
    """Test that an observer saved and loaded between two batches ends as one that was not."""
    first, second = torch.randn(6, 50), torch.randn(6, 50) * 1000
    straight = watched(torch.jit.script(make()), first, second)
    interrupted = saved_and_loaded(watched(torch.jit.script(make()), first))
    watched(interrupted, second)
    assert torch.equal(interrupted.min_val, straight.min_val)
    assert torch.equal(interrupted.max_val, straight.max_val)
    assert all(map(torch.equal, interrupted.calculate_qparams(), straight.calculate_qparams()))


@pytest.mark.parametrize("make", ACTIVATION_OBSERVERS)
def test_inference_mode_may_end_between_batches(make):
    """Test that statistics recorded in inference mode can be added to outside of it."""
    observer = torch.jit.script(
        make(averaging_constant=0.5) if make is MovingAverageMinMaxObserver else make()
    )
    with torch.inference_mode():
        observer(torch.tensor([-4.0, 3.0]))
    observer(torch.tensor([0.0, 1.0]))
    expected = [-2.0, 2.0] if make is MovingAverageMinMaxObserver else [-4.0, 3.0]
    assert [observer.min_val.item(), observer.max_val.item()] == expected
    if make is HistogramObserver:
        assert observer.histogram.sum().item() == 3


@pytest.mark.parametrize("make", [*ACTIVATION_OBSERVERS, *WEIGHT_OBSERVERS])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_float_types_pass_through(make, dtype):
    """Test that other float types, for which there are no integer ops, are not recorded."""
    observer = watched(torch.jit.script(make()), torch.randn(4, 64).to(dtype))
    assert observer.min_val.numel() == 0
    assert observer.max_val.numel() == 0


# The formulas


@pytest.mark.parametrize(
    ("low", "high"), [(-1.5, 2.25), (-0.3, 7.0), (0.5, 3.0), (-8.0, -2.0), (0.0, 1e-3), (-3e38, 3e38)]
)
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(
    ("dtype", "reduce_range", "quant_min", "quant_max"),
    [
        (torch.quint8, False, 0, 255),
        (torch.quint8, True, 0, 127),
        (torch.qint8, False, -128, 127),
        (torch.qint8, True, -64, 63),
    ],
)
def test_minmax_follows_the_formulas(low, high, symmetric, dtype, reduce_range, quant_min, quant_max):
    """Test that scale and zero point are those of the textbook, and 0 and both ends within the range."""
    qscheme = torch.per_tensor_symmetric if symmetric else torch.per_tensor_affine
    observer = MinMaxObserver(dtype=dtype, qscheme=qscheme, reduce_range=reduce_range)
    watched(observer, torch.tensor([[low, (low + high) / 2]]), torch.tensor([high]))
    scale, zero_point = (value.item() for value in observer.calculate_qparams())
    expected_scale, expected_zero_point = qparams_in_numpy(low, high, quant_min, quant_max, symmetric)

    assert (observer.quant_min, observer.quant_max) == (quant_min, quant_max)
    assert scale == pytest.approx(expected_scale, rel=1e-6)
    assert zero_point == expected_zero_point
    assert (quant_min - zero_point) * scale <= min(low, 0) + scale * 0.51
    assert (quant_max - zero_point) * scale >= max(high, 0) - scale * 0.51


def test_given_integer_range():
    """Test that quant_min and quant_max are used as they are."""
    observer = watched(MinMaxObserver(quant_min=10, quant_max=110), torch.tensor([-1.0, 4.0]))
    scale, zero_point = observer.calculate_qparams()
    assert scale.item() == pytest.approx(0.05)
    assert zero_point.item() == 30


@pytest.mark.parametrize("make", RECORDED_QPARAMS)
@pytest.mark.parametrize("value", [0.0, 1e-30])
def test_scale_is_at_least_eps(make, value):
    """Test that a range of no width, or next to none, gives the smallest scale and not zero."""
    x = torch.full((2, 3), value)
    assert watched(make(), x).calculate_qparams()[0].eq(torch.finfo(torch.float32).eps).all()
    assert watched(make(eps=0.5), x).calculate_qparams()[0].eq(0.5).all()


@pytest.mark.parametrize("qscheme", [torch.per_tensor_affine, torch.per_tensor_symmetric])
@pytest.mark.parametrize(
    ("own", "peer"),
    [(MinMaxObserver, ao.MinMaxObserver), (MovingAverageMinMaxObserver, ao.MovingAverageMinMaxObserver)],
)
def test_same_results_as_torch(own, peer, qscheme):
    """Test that scale and zero point are those of torch's observer, over several batches."""
    symmetric = qscheme == torch.per_tensor_symmetric
    # torch divides by 127.5 for -128..127, so the comparison is on -127..127.
    arguments = {"dtype": torch.qint8, "quant_min": -127, "quant_max": 127} if symmetric else {}
    generator = torch.Generator().manual_seed(3)
    batches = [torch.randn(100, generator=generator) * 3 + shift for shift in (0.0, 1.0, -0.5, 2.0)]
    ours = watched(own(qscheme=qscheme, **arguments), *batches)
    theirs = watched(peer(qscheme=qscheme, **arguments), *batches)
    assert ours.calculate_qparams()[0].item() == pytest.approx(theirs.calculate_qparams()[0].item(), rel=1e-6)
    assert ours.calculate_qparams()[1].item() == theirs.calculate_qparams()[1].item()


@pytest.mark.parametrize("ch_axis", [0, 1, 3])
@pytest.mark.parametrize("qscheme", [torch.per_channel_symmetric, torch.per_channel_affine])
def test_per_channel_qparams(ch_axis, qscheme):
    """Test that each channel has the qparams of its own extremes, as numpy and torch have them."""
    weight = torch.randn(4, 3, 2, 5, generator=torch.Generator().manual_seed(1)) + 0.3
    observer = watched(torch.jit.script(PerChannelMinMaxObserver(ch_axis=ch_axis, qscheme=qscheme)), weight)
    scale, zero_point = observer.calculate_qparams()
    symmetric = qscheme == torch.per_channel_symmetric
    for channel, values in enumerate(np.moveaxis(weight.numpy(), ch_axis, 0)):
        expected = qparams_in_numpy(values.min(), values.max(), -128, 127, symmetric)
        assert scale[channel].item() == pytest.approx(expected[0], rel=1e-6)
        assert zero_point[channel].item() == expected[1]
    ends = {"quant_min": -127, "quant_max": 127} if symmetric else {}
    peer = ao.PerChannelMinMaxObserver(ch_axis=ch_axis, dtype=torch.qint8, qscheme=qscheme, **ends)
    peer_scale, peer_zero_point = watched(peer, weight).calculate_qparams()
    assert torch.allclose(scale, peer_scale, rtol=1e-6, atol=0)
    assert torch.equal(zero_point, peer_zero_point.to(torch.int64))


@pytest.mark.parametrize("dtype", [torch.quint8, torch.quint4x2])
def test_rows_of_float_zero_points(dtype):
    """Test that scale and zero point are torch's very own, and that the ends of a row are exact."""
    weight = torch.randn(20, 7, generator=torch.Generator().manual_seed(1)) + 0.5
    weight[3], weight[4] = 0.0, -2.5
    arguments = {"dtype": dtype, "qscheme": torch.per_channel_affine_float_qparams}
    scale, zero_point = watched(
        torch.jit.script(PerChannelMinMaxObserver(**arguments)), weight
    ).calculate_qparams()
    expected = watched(ao.PerChannelMinMaxObserver(**arguments), weight).calculate_qparams()
    assert torch.equal(scale, expected[0])
    assert torch.equal(zero_point, expected[1])
    assert zero_point.dtype == torch.float32
    rows = torch.quantize_per_channel(weight, scale, zero_point, 0, dtype).dequantize()
    for end in (torch.amin, torch.amax):
        torch.testing.assert_close(end(rows, 1), end(weight, 1), rtol=1e-5, atol=1e-6)
    assert torch.equal(rows[3:5], weight[3:5])


def layouts(x):
    """Of four axes: in order, channels last, with gaps, turned around, repeated, and as a single value."""
    last = x.to(memory_format=torch.channels_last)
    return [
        x,
        last,
        last[:, 1:3],
        x[:, :, ::2, 1:],
        x.permute(3, 1, 0, 2),
        x[:1].expand(5, -1, -1, -1),
        x[0, 0, 0, 0],
    ]


@pytest.mark.parametrize("layout", range(7))
def test_extremes_do_not_depend_on_the_layout(layout):
    """Test extremes of tensors with and without gaps, in any order, against those of torch."""
    x = layouts(torch.randn(4, 6, 5, 7))[layout]
    observer = watched(torch.jit.script(MinMaxObserver()), x)
    assert [observer.min_val.item(), observer.max_val.item()] == [x.min().item(), x.max().item()]
    for axis in range(x.dim()):
        channels = watched(PerChannelMinMaxObserver(ch_axis=axis), x)
        others = [other for other in range(x.dim()) if other != axis]
        assert torch.equal(channels.min_val, x.amin(others))
        assert torch.equal(channels.max_val, x.amax(others))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(700_001,), (3, 200_000), (5000, 99), (2, 3, 300, 301)])
def test_threads_do_not_show_in_the_extremes(shape, threads):
    """Test that large tensors have the extremes that torch finds, with one thread and with two."""
    x = torch.randn(shape)
    torch.set_num_threads(threads)
    try:
        whole, channels = watched(MinMaxObserver(), x), watched(PerChannelMinMaxObserver(), x)
    finally:
        torch.set_num_threads(1)
    assert [whole.min_val.item(), whole.max_val.item()] == [x.min().item(), x.max().item()]
    rows = x.reshape(x.size(0), -1)
    assert torch.equal(channels.min_val, rows.amin(1))
    assert torch.equal(channels.max_val, rows.amax(1))


@pytest.mark.parametrize(
    ("op", "arguments", "words"),
    [
        ("extremes", (torch.arange(3),), "jitquant::extremes: values are Long; give it float32"),
        ("extremes", (torch.empty(0),), "values are empty; record what has values only"),
        ("channel_extremes", (torch.ones(2, 2), 2), "there is no axis 2 in a tensor of 2; pass one that it"),
        ("channel_extremes", (torch.ones(2).int(), 0), "empty or not float32; give it float32 values"),
        (
            "choose_qparams",
            (torch.ones(2), torch.ones(3), 0, 255, False, 1e-7),
            "low and high differ in shape or dtype; pass two of a kind",
        ),
        (
            "record_histogram",
            (torch.ones(2), torch.zeros(8), torch.empty(0), torch.empty(0), 1.0, 0, 0),
            "a histogram is a float64 vector without gaps; pass an observer's own",
        ),
        (
            "least_error_range",
            (torch.zeros(8).double(), 1.0, 0, torch.zeros(1), torch.tensor([math.inf]), 0, 255, False, 1e-7),
            "the recorded range is 0 to inf; look for NaN and infinity",
        ),
    ],
)
def test_ops_refuse_what_they_cannot_read(op, arguments, words):
    """Test that the compiled ops name what is wrong, rather than to read it as something else."""
    with pytest.raises(RuntimeError, match=words):
        getattr(torch.ops.jitquant, op)(*arguments)


def test_an_axis_the_weight_lacks_is_refused():
    """Test that the error names the axis and the tensor's axes."""
    with pytest.raises(RuntimeError, match=r"ch_axis=2.* has 2 axes; pass the axis"):
        PerChannelMinMaxObserver(ch_axis=2)(torch.ones(3, 3))


def test_a_vector_has_channels_too():
    """Test that a one-dimensional weight gives each element its scale."""
    observer = watched(PerChannelMinMaxObserver(), torch.tensor([-2.0, 0.5, 0.0]))
    assert observer.calculate_qparams()[0].tolist() == pytest.approx([2 / 127, 0.5 / 127, 2**-23])


@pytest.mark.parametrize("make", WEIGHT_OBSERVERS)
def test_weight_observers_record_once(make):
    """Test that only the first weight counts."""
    weight = torch.randn(4, 5)
    observer = watched(torch.jit.script(make()), weight, weight * 100)
    assert all(map(torch.equal, observer.calculate_qparams(), watched(make(), weight).calculate_qparams()))


@pytest.mark.parametrize("make", ACTIVATION_OBSERVERS)
def test_activation_observers_record_every_batch(make):
    """Test that, unlike a weight's, a later batch counts."""
    batch = torch.randn(4, 5)
    once, twice = watched(make(), batch), watched(make(), batch, batch * 100)
    assert twice.calculate_qparams()[0].item() > once.calculate_qparams()[0].item()


def test_moving_average():
    """Test that the newest batch has the weight of the averaging constant, and the first one all of it."""
    observer = torch.jit.script(MovingAverageMinMaxObserver(averaging_constant=0.25))
    watched(observer, torch.tensor([-4.0, 8.0]), torch.tensor([0.0, 16.0]), torch.tensor([1.0, 2.0]))
    assert observer.min_val.item() == (-4.0 * 0.75 + 0.0) * 0.75 + 1.0 * 0.25
    assert observer.max_val.item() == (8.0 * 0.75 + 16.0 * 0.25) * 0.75 + 2.0 * 0.25


def test_fixed_qparams_do_not_depend_on_the_data():
    """Test that the given scale and zero point are returned before and after any data."""
    observer = torch.jit.script(FixedQParamsObserver(scale=2 / 256, zero_point=128))
    before = observer.calculate_qparams()
    watched(observer, torch.tensor([-50.0, 70.0]))
    for scale, zero_point in (before, observer.calculate_qparams()):
        assert (scale.tolist(), zero_point.tolist()) == ([2 / 256], [128])
    assert (observer.min_val.item(), observer.max_val.item()) == (-50.0, 70.0)


# Making observers


def test_a_factory_makes_a_new_observer_each_time():
    """Test that with_args makes a recipe: later arguments replace earlier ones."""
    factory = HistogramObserver.with_args(bins=64, reduce_range=True)
    changed = factory.with_args(bins=128)
    assert factory() is not factory()
    assert (factory().bins, factory().quant_max) == (64, 127)
    assert (changed().bins, changed().quant_max) == (128, 127)
    assert factory == HistogramObserver.with_args(reduce_range=True, bins=64)
    assert hash(factory) == hash(HistogramObserver.with_args(reduce_range=True, bins=64))
    assert factory != changed
    with pytest.raises(AttributeError):
        factory.observer = MinMaxObserver


def test_a_factory_reads_well():
    """Test that the repr says in words what observer the factory makes."""
    assert (
        repr(HistogramObserver.with_args())
        == "HistogramObserver(per tensor affine quint8, 0 to 255, 2048 bins)"
    )
    assert (
        repr(PerChannelMinMaxObserver.with_args(ch_axis=1, reduce_range=True, eps=0.001))
        == "PerChannelMinMaxObserver(per channel symmetric qint8, -64 to 63, channel axis 1, eps 0.001)"
    )
    assert "averaging constant 0.2" in repr(MovingAverageMinMaxObserver.with_args(averaging_constant=0.2))
    assert "scale 0.00390625, zero point 0" in repr(FIXED)


@pytest.mark.parametrize(
    ("observer", "arguments", "error", "words"),
    [
        (HistogramObserver, {"bin": 10}, TypeError, "unknown argument 'bin'; it takes bins, dtype"),
        (MinMaxObserver, {"bins": 10}, TypeError, "unknown argument 'bins'; it takes dtype"),
        (HistogramObserver, {"bins": 1}, ValueError, r"bins=1: not within 2\.\.1048576; pass an int"),
        (HistogramObserver, {"bins": 10.0}, TypeError, "bins=10.0 is a float; pass an int"),
        (
            MinMaxObserver,
            {"dtype": torch.int8},
            ValueError,
            "dtype=torch.int8: not an 8-bit quantized type; pass",
        ),
        (
            HistogramObserver,
            {"dtype": torch.quint4x2},
            ValueError,
            "quint4x2: not an 8-bit quantized type; pass",
        ),
        (
            PerChannelMinMaxObserver,
            {"dtype": torch.quint4x2},
            ValueError,
            "quint4x2: 4 bits go with float zero points only; pass qscheme=torch.per_channel_affine_float",
        ),
        (
            PerChannelMinMaxObserver,
            {"qscheme": torch.per_channel_affine_float_qparams},
            ValueError,
            "qint8: float zero points go with unsigned integers; pass dtype=torch.quint8",
        ),
        (
            PlaceholderObserver,
            {"dtype": torch.float64},
            ValueError,
            "float64: no value is kept in it; pass torch.quint8 or torch.qint8 or torch.float16 or "
            "torch.bfloat16 or torch.float32",
        ),
        (
            PlaceholderObserver,
            {"dtype": "half"},
            TypeError,
            "dtype='half' is a str; pass .* or torch.float16",
        ),
        (MinMaxObserver, {"dtype": "qint8"}, TypeError, "dtype='qint8' is a str; pass torch.quint8"),
        (
            MinMaxObserver,
            {"qscheme": "affine"},
            TypeError,
            "qscheme='affine' is a str; pass torch.per_tensor",
        ),
        (
            MinMaxObserver,
            {"qscheme": torch.per_channel_affine},
            ValueError,
            "qscheme=torch.per_channel_affine: .* single scale; pass .* use PerChannelMinMaxObserver",
        ),
        (
            PerChannelMinMaxObserver,
            {"qscheme": torch.per_tensor_affine},
            ValueError,
            "qscheme=torch.per_tensor_affine: .* each channel; pass .* use MinMaxObserver",
        ),
        (MinMaxObserver, {"reduce_range": 1}, TypeError, "reduce_range=1 is a int; pass True or False"),
        (MinMaxObserver, {"quant_min": 0}, ValueError, "quant_max=None: only one end .* pass both"),
        (
            MinMaxObserver,
            {"quant_min": 0, "quant_max": 100, "reduce_range": True},
            ValueError,
            "reduce_range=True: .* leave one out",
        ),
        (
            MinMaxObserver,
            {"quant_min": 0, "quant_max": 256},
            ValueError,
            r"quant_max=256: not within 0\.\.255",
        ),
        (
            MinMaxObserver,
            {"quant_min": 9, "quant_max": 10},
            ValueError,
            "quant_min=9: too near to quant_max=10",
        ),
        (
            WeightMinMaxObserver,
            {"quant_min": -10, "quant_max": 100},
            ValueError,
            "quant_min=-10: .* lopsided .* pass quant_min=-100",
        ),
        (MinMaxObserver, {"eps": 0.0}, ValueError, "eps=0.0: .* pass a float above 0"),
        (MinMaxObserver, {"eps": math.nan}, ValueError, "eps=nan"),
        (PerChannelMinMaxObserver, {"ch_axis": -1}, ValueError, "ch_axis=-1: not within 0"),
        (
            MovingAverageMinMaxObserver,
            {"averaging_constant": 1.5},
            ValueError,
            "averaging_constant=1.5: not within",
        ),
        (
            PercentileObserver,
            {"percentile": 0.9999},
            ValueError,
            r"percentile=0.9999: not within 50\.\.100; pass a float above 50",
        ),
        (PercentileObserver, {"percentile": 100.1}, ValueError, "percentile=100.1: not within 50"),
        (PercentileObserver, {"percentile": "all"}, TypeError, "percentile='all' is a str; pass a float"),
        (FixedQParamsObserver, {"scale": 0.1}, TypeError, "'zero_point'"),
        (FixedQParamsObserver, {"scale": math.inf, "zero_point": 0}, ValueError, "scale=inf"),
        (FixedQParamsObserver, {"scale": 0.1, "zero_point": 256}, ValueError, "zero_point=256: not within"),
    ],
)
def test_nonsense_is_refused_when_the_factory_is_made(observer, arguments, error, words):
    """Test that a wrong argument is named at once, with its cause and remedy."""
    with pytest.raises(error, match=words) as refusal:
        observer.with_args(**arguments)
    assert observer.__name__ in str(refusal.value)
