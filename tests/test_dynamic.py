"""Tests of dynamic quantization: linears whose input becomes integer at each call, on both targets."""

import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.ao.quantization as ao
import torch.nn.functional as functional
from torch import Tensor, nn

import jitquant
from jitquant import QConfig, QuantizationError, quantize_dynamic_jit
from jitquant.multiply_adds import count_multiply_adds
from jitquant.observers import PerChannelMinMaxObserver, PlaceholderObserver, WeightMinMaxObserver
from tests.graphs import check_runs_alone, ops_of, saved_and_loaded
from tests.marks import needs_native

REDUCED = PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True, reduce_range=True)
FULL = PlaceholderObserver.with_args(dtype=torch.quint8, is_dynamic=True)
PER_TENSOR = QConfig(REDUCED, WeightMinMaxObserver)
PER_CHANNEL = QConfig(REDUCED, PerChannelMinMaxObserver)
HALF = jitquant.float16_dynamic_qconfig
BFLOAT16 = jitquant.bfloat16_dynamic_qconfig
WEIGHT_ONLY = jitquant.weight_only_int8_qconfig
SHAPES = [(3, 16), (2, 5, 16)]


class Net(nn.Module):
    """Two linears, with a relu in between and an add behind."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))) + x


class Spelled(nn.Module):
    """A linear in one of its spellings."""

    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        self.weight = nn.Parameter(torch.randn(8, 16) * 0.2)
        self.bias = nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "linear":
            return functional.linear(x, self.weight, self.bias)
        if self.spelling == "addmm":
            return torch.addmm(self.bias, x, self.weight.t())
        return torch.matmul(x, self.weight.t())


class Branches(nn.Module):
    """A linear in a branch and one in a loop."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            x = self.first(x)
        for _ in range(3):
            x = self.second(x)
        return x


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    torch.manual_seed(0)


def quantized(model: nn.Module, qconfig: Any = PER_TENSOR, **options: Any) -> torch.jit.ScriptModule:
    return quantize_dynamic_jit(torch.jit.script(model.eval()), {"": qconfig}, **options)


def check_near(result: Tensor, expected: Tensor, decibels: float = 25) -> None:
    noise = (result - expected).pow(2).mean()
    assert result.shape == expected.shape
    assert 10 * torch.log10(expected.pow(2).mean() / noise) > decibels


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["default_weight_observer", "default_per_channel_weight_observer"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_linear_gives_what_eager_gives(name: str, shape: tuple[int, ...]) -> None:
    """Test that torch.ao's eager mode, with the same observers of weights, gives the very same numbers."""
    weight = getattr(ao, name)
    model = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8)).eval()
    qconfig = ao.QConfig(ao.default_dynamic_quant_observer, weight)
    eager = ao.quantize_dynamic(model, {nn.Linear: qconfig})  # which keeps to 7 bits on every CPU
    x = torch.randn(shape)
    assert torch.equal(quantized(model, QConfig(REDUCED, weight))(x), eager(x))


@pytest.mark.parametrize("name", ["default", "per_channel", "float16"])
def test_qconfigs_of_torch_and_of_our_own(name: str) -> None:
    """Test that those of one name give the same ops, and numbers near the float model's."""
    model, x = Net(), torch.randn(4, 16)
    half = name == "float16"
    for module in (jitquant, ao):
        made = quantized(model, getattr(module, f"{name}_dynamic_qconfig"))
        ops = ops_of(made)
        suffix = "_fp16" if half else ""
        assert f"quantized::linear_relu_dynamic{suffix}" in ops
        assert f"quantized::linear_dynamic{suffix}" in ops
        check_near(made(x), model(x), 60 if half else 25)


@pytest.mark.parametrize(
    ("spelling", "shape"),
    [("addmm", SHAPES[0]), *((spelling, shape) for spelling in ("linear", "matmul") for shape in SHAPES)],
    ids=str,
)
@pytest.mark.parametrize("traced", [False, True])
def test_each_spelling_becomes_dynamic(traced: bool, spelling: str, shape: tuple[int, ...]) -> None:
    model, x = Spelled(spelling).eval(), torch.randn(shape)
    script = torch.jit.trace(model, x) if traced else torch.jit.script(model)
    made = quantize_dynamic_jit(script, {"": PER_CHANNEL}, strict=["linear"])
    assert "quantized::linear_dynamic" in ops_of(made)
    check_near(made(x), model(x))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linears_in_branches_and_loops(shape: tuple[int, ...]) -> None:
    model, x = Branches(), torch.randn(shape)
    made = quantized(model, PER_CHANNEL, strict=True)
    check_near(made(x), model(x), 20)


@pytest.mark.parametrize("qconfig", [PER_CHANNEL, HALF, BFLOAT16, WEIGHT_ONLY])
def test_a_file_runs_without_jitquant(tmp_path: Path, qconfig: QConfig) -> None:
    made, x = quantized(Net(), qconfig), torch.randn(4, 16)
    assert torch.equal(saved_and_loaded(made)(x), made(x))
    check_runs_alone(made, tmp_path, x)


@pytest.mark.parametrize("qconfig", [PER_TENSOR, PER_CHANNEL, HALF, BFLOAT16, WEIGHT_ONLY])
def test_debug_shows_float_arithmetic(qconfig: QConfig) -> None:
    """Test that debug=True stops before fusion and gives nearly the same numbers."""
    model, x = Net(), torch.randn(4, 16)
    debug = quantized(model, qconfig, debug=True)
    ops = ops_of(debug)
    assert "aten::linear" in ops
    shown = {HALF: "aten::_saturate_weight_to_fp16", BFLOAT16: "aten::to", WEIGHT_ONLY: "aten::dequantize"}
    assert shown.get(qconfig, "aten::_choose_qparams_per_tensor") in ops
    check_near(debug(x), quantized(model, qconfig)(x), 30)


class Changed(nn.Module):
    """A linear whose input changes in place behind it, before or after the relu that it could take along."""

    def __init__(self, early: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.early = early

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        if self.early:
            x[0] = 100.0
        y = torch.relu(y)
        if not self.early:
            x[0] = 100.0
        return y


@pytest.mark.parametrize("early", [True, False])
def test_an_input_that_is_changed_in_place(early: bool) -> None:
    """Test that a linear takes what its input was, and stays float where a change comes before its relu."""
    model, x = Changed(early).eval(), torch.randn(4, 16)
    made = quantized(model)
    assert ("aten::linear" in ops_of(made)) == early
    check_near(made(x.clone()), model(x.clone()))


def test_a_result_that_is_changed_in_place() -> None:
    """Test that what changes a part of the result changes the integer op's."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(16, 16)

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            y[:, :8].sigmoid_()
            return y

    model, x = Half().eval(), torch.randn(4, 16)
    made = quantized(model, strict=["linear"])
    check_near(made(x), model(x))


def test_an_empty_batch() -> None:
    made = quantized(Net())
    assert made(torch.randn(0, 16)).shape == (0, 16)


def test_what_else_there_is_stays_float_and_says_why() -> None:
    rows = jitquant.summarize(quantized(Net(), strict=True)).ops
    assert [row.becomes for row in rows] == [
        "quantized::linear_relu_dynamic",
        "quantized::linear_relu_dynamic",
        "quantized::linear_dynamic",
        "",
    ]
    assert rows[3].reason == "it has no dynamic form"


def test_a_part_without_qconfig_stays_float() -> None:
    made = quantize_dynamic_jit(torch.jit.script(Net().eval()), {"first": PER_TENSOR})
    reasons = {row.module: row.reason for row in jitquant.summarize(made).ops if row.op == "aten::linear"}
    assert reasons == {"first": "", "second": "its qconfig is None"}


def test_info_and_check(capsys: pytest.CaptureFixture[str]) -> None:
    made = quantized(Net(), jitquant.default_dynamic_qconfig)
    facts = jitquant.info(made)
    assert facts["dynamic"]
    assert facts["stage"] == "quantized"
    assert "dynamic per tensor affine quint8" in facts["qconfig"][""]
    assert jitquant.check(made)


IDENTITY = r"linear at .*\(first\).*activation observer is an Identity.* choose .*weight_only_int8_qconfig"
FOR_TRAINING = "FakeQuantize, is for training and has seen no weight; choose .*WeightMinMaxObserver"


def code_of(model: torch.jit.ScriptModule) -> bytes:
    file = io.BytesIO()
    torch.jit.save(model, file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("call", "qconfig", "words"),
    [
        ("prepare_dynamic_jit", jitquant.default_qconfig, "linear at .*(first).*calibrated.*dynamic"),
        ("prepare_dynamic_jit", ao.default_qconfig, "has to be calibrated"),
        ("prepare_jit", jitquant.default_dynamic_qconfig, "linear at .*(first).*call quantize_dynamic_jit"),
        ("prepare_jit", ao.float16_dynamic_qconfig, "records nothing"),
        ("prepare_dynamic_jit", QConfig(REDUCED, HALF.weight), "no op takes activations of torch.quint8"),
        (
            "prepare_dynamic_jit",
            QConfig(BFLOAT16.activation, HALF.weight),
            "bfloat16 and weights of .*16; pass",
        ),
        ("prepare_jit", BFLOAT16, "records nothing"),
        ("prepare_jit", ao.default_weight_only_qconfig, IDENTITY),
        ("prepare_dynamic_jit", ao.default_weight_only_qconfig, IDENTITY),
        ("prepare_dynamic_jit", ao.default_dynamic_qat_qconfig, FOR_TRAINING),
    ],
)
def test_a_qconfig_of_the_other_kind_is_refused(call: str, qconfig: Any, words: str) -> None:
    model = torch.jit.script(Net().eval())
    before = code_of(model)
    with pytest.raises(QuantizationError, match=words):
        getattr(jitquant, call)(model, {"first": qconfig}, inplace=True)
    assert code_of(model) == before


def test_a_model_prepared_for_calibration_is_refused() -> None:
    prepared = jitquant.prepare_jit(torch.jit.script(Net().eval()), {"": jitquant.default_qconfig})
    with pytest.raises(QuantizationError, match="prepared by prepare_jit; convert it with convert_jit"):
        jitquant.convert_dynamic_jit(prepared)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strict": ["second"]}, "1 of 1 ops would stay float"),
        ({"strict": ["conv9d"]}, "is no op and no module"),
        ({"target": "fast"}, "there is no target"),
        ({"stop_after": "insert_observers"}, "is no pass that runs"),
        ({"preserved_attrs": ["nothing"]}, "no such attribute"),
    ],
)
def test_refusals_name_the_function_that_was_called(options: dict[str, Any], words: str) -> None:
    """Test that they speak of convert_dynamic_jit, and not of the one that it shares its way with."""
    prepared = jitquant.prepare_dynamic_jit(torch.jit.script(Net().eval()), {"first": PER_TENSOR})
    with pytest.raises(QuantizationError, match=f"^convert_dynamic_jit: .*{words}"):
        jitquant.convert_dynamic_jit(prepared, **options)


def test_a_placeholder_is_described_and_has_no_scale() -> None:
    observer = PlaceholderObserver(is_dynamic=True)
    assert repr(observer) == "PlaceholderObserver(dynamic per tensor affine quint8, 0 to 255)"
    with pytest.raises(RuntimeError, match="no scale beforehand"):
        observer.calculate_qparams()
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        assert repr(PlaceholderObserver(dtype=dtype)) == f"PlaceholderObserver({str(dtype).split('.')[1]})"
    with pytest.raises(TypeError, match="pass True or False"):
        PlaceholderObserver(is_dynamic=1)  # type: ignore[arg-type]


class Tails(nn.Module):
    """A linear with an add and an activation function behind it, each in one of several kinds."""

    def __init__(self, activation: str, added: tuple[int, ...]) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 16)
        self.activation = activation
        self.added = len(added) > 0

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return self.behind(self.linear(x), other)

    def behind(self, y: Tensor, other: Tensor) -> Tensor:
        if self.added:
            y = y + other
        if self.activation == "relu":
            return functional.relu(y)
        if self.activation == "gelu":
            return functional.gelu(y)
        if self.activation == "silu":
            return functional.silu(y)
        if self.activation == "mul":
            return y * 0.5
        return y


def row_by_row(linear: nn.Linear, x: Tensor) -> Tensor:
    """What debug mode gives of each row alone, so that each has its own range."""
    debug = quantized(nn.Sequential(linear), QConfig(FULL, PerChannelMinMaxObserver), debug=True)
    rows = [debug(row) for row in x.reshape(-1, 16)]
    return torch.stack(rows).reshape(*x.shape[:-1], -1) if rows else linear(x)


@needs_native
@pytest.mark.parametrize("added", [(), (2, 5, 16), (5, 16), (3, 1, 5, 16)], ids=str)
@pytest.mark.parametrize("activation", ["", "relu", "gelu", "silu", "mul"])
def test_the_native_kernel_takes_what_follows_along(activation: str, added: tuple[int, ...]) -> None:
    """Test one op for all of it, of the same numbers as the parts, also if the result is larger."""
    model, x, other = Tails(activation, added).eval(), torch.randn(2, 5, 16), torch.randn(added)
    made = quantized(model, PER_CHANNEL, target="native")
    computing = [op for op in ops_of(made) if op.startswith(("aten", "jitquant"))]
    assert computing == ["jitquant::linear_dynamic_add" if added else "jitquant::linear_dynamic"]
    expected = model.behind(row_by_row(model.linear, x), other)
    torch.testing.assert_close(made(x, other), expected, rtol=1e-3, atol=2e-3)


@needs_native
@pytest.mark.parametrize("shape", [(16,), (1, 16), (7, 16), (2, 3, 4, 16), (0, 16), (2, 0, 16)], ids=str)
def test_the_native_kernel_takes_any_leading_dimensions(shape: tuple[int, ...]) -> None:
    model, x = nn.Sequential(nn.Linear(16, 8)).eval(), torch.randn(shape)
    made = quantized(model, PER_CHANNEL, target="native")
    for scale in (1.0, 100.0, 0.0, -1.0):
        expected = row_by_row(model[0], x * scale)
        torch.testing.assert_close(made(x * scale), expected, rtol=1e-3, atol=1e-3 * (1 + abs(scale)))
    assert torch.equal(saved_and_loaded(made)(x), made(x))


@needs_native
def test_the_native_kernel_lies_anywhere_and_runs_in_threads() -> None:
    model = nn.Sequential(nn.Linear(16, 8)).eval()
    made = quantized(model, PER_TENSOR, target="native")
    inputs = [torch.randn(16, 5 + i % 3).t() * (1 + i) for i in range(24)]
    expected = [made(x.contiguous()) for x in inputs]
    with ThreadPoolExecutor(4) as pool:
        assert all(torch.equal(a, b) for a, b in zip(pool.map(made, inputs), expected, strict=True))


@needs_native
def test_the_native_kernel_refuses_what_it_cannot_take() -> None:
    made = quantized(nn.Sequential(nn.Linear(16, 8)), PER_TENSOR, target="native")
    with pytest.raises(RuntimeError, match="the input has 4 features and the weight takes 16"):
        made(torch.randn(2, 4))
    with pytest.raises(RuntimeError, match="has to be float32"):
        made(torch.randn(2, 16).double())


def file_size(model: torch.jit.ScriptModule) -> int:
    return len(code_of(model))


TARGETS = ["quantized", pytest.param("native", marks=needs_native)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("qconfig", "share", "decibels"), [(BFLOAT16, 0.55, 40), (WEIGHT_ONLY, 0.3, 36)])
def test_smaller_weights_with_float_sums(
    target: str, qconfig: QConfig, share: float, decibels: float
) -> None:
    """Test the size of the file, the numbers, and that loading gives the same ones, on either target."""
    model = nn.Sequential(nn.Linear(256, 512), nn.Tanh(), nn.Linear(512, 256)).eval()
    x = torch.randn(2, 5, 256)
    made = quantized(model, qconfig, target=target, strict=["linear"])
    check_near(made(x), model(x), decibels)
    assert torch.equal(saved_and_loaded(made)(x), made(x))
    assert file_size(made) < share * file_size(torch.jit.script(model))
    again = saved_and_loaded(saved_and_loaded(made))
    assert torch.equal(again(x), made(x))


@needs_native
@pytest.mark.parametrize("activation", ["", "relu", "gelu", "mul"])
def test_bfloat16_takes_along_what_follows_on_the_native_target(activation: str) -> None:
    model, x, other = Tails(activation, (2, 5, 16)).eval(), torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    made = quantized(model, BFLOAT16, target="native")
    computing = [op for op in ops_of(made) if op.startswith(("aten", "jitquant"))]
    assert computing == ["jitquant::linear_bfloat16_add"]
    debug = quantized(model, BFLOAT16, debug=True)
    torch.testing.assert_close(made(x, other), debug(x, other), rtol=1e-4, atol=1e-4)


def test_only_the_weight_is_integer_beside_static_linears() -> None:
    """Test that a placeholder for float activations asks for no calibration, and the others get theirs."""
    model, x = Net().eval(), torch.randn(4, 16)
    qconfigs = {"first": WEIGHT_ONLY, "second": jitquant.get_default_qconfig()}
    made = jitquant.quantize_jit(torch.jit.script(model), qconfigs, lambda prepared: prepared(x), [])
    rows = {row.module: row.becomes for row in jitquant.summarize(made).ops if row.op == "aten::linear"}
    assert rows["first"] == "aten::linear"
    assert rows["second"].startswith(("quantized::", "onednn::"))
    check_near(made(x), model(x), 25)


class Residual(nn.Module):
    """A sum of a layer norm and two linears behind it."""

    def __init__(self, returns_norm: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.first = nn.Linear(16, 32)
        self.second = nn.Linear(32, 16)
        self.returns_norm = returns_norm

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.norm(x)
        z = self.second(torch.relu(self.first(y))) + y
        return z, y if self.returns_norm else z


@needs_native
@pytest.mark.parametrize("qconfig", [PER_CHANNEL, BFLOAT16])
@pytest.mark.parametrize("returned", [False, True])
def test_a_residual_is_overwritten_where_nobody_sees_it(qconfig: QConfig, returned: bool) -> None:
    model, x = Residual(returned).eval(), torch.randn(3, 16)
    made = quantized(model, qconfig, target="native")
    assert any(op.endswith("_add_") for op in ops_of(made)) is not returned
    for found, expected in zip(made(x), model(x), strict=True):
        check_near(found, expected)


@pytest.mark.parametrize("target", TARGETS)
def test_multiply_adds_are_counted(target: str) -> None:
    model, x = nn.Sequential(nn.Linear(16, 8)).eval(), torch.randn(4, 16)
    for qconfig in (PER_CHANNEL, BFLOAT16, HALF, WEIGHT_ONLY):
        made = quantized(model, qconfig, target=target)
        counted = count_multiply_adds(made, (x,))
        assert counted.whole == 4 * 16 * 8
        assert counted.integer_share == (1 if qconfig is PER_CHANNEL else 0)


def test_a_file_in_half_precision_is_half_as_large(target: str, tmp_path: Path) -> None:
    """Test that weights are half in the file, and that a process without jitquant loads and saves it so."""
    model, x = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256, bias=False)).eval(), torch.randn(2, 256)
    made = quantized(model, HALF, target=target)
    check_runs_alone(made, tmp_path, x)
    floats = sum(weight.numel() * 4 for weight in model.parameters())
    for name in ("model.pt", "again.pt"):
        assert (tmp_path / name).stat().st_size < 0.5 * floats + 20_000


@needs_native
def test_half_precision_on_the_native_target() -> None:
    model, x = Net(), torch.randn(4, 16)
    made = quantized(model, HALF, target="native")
    assert "quantized::linear_relu_dynamic_fp16" in ops_of(made)
    check_near(made(x), model(x), 60)


def test_mm_is_a_linear_too(target: str) -> None:
    """Test the product that only takes matrices."""

    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(16, 8) * 0.2)

        def forward(self, x: Tensor) -> Tensor:
            return torch.mm(x, self.weight)

    model, x = Product(), torch.randn(4, 16)
    made = quantized(model, PER_CHANNEL, target=target)
    assert jitquant.summarize(made).ops[0].is_integer
    check_near(made(x), model(x))


def test_a_summary_counts_bfloat16_weights(target: str) -> None:
    summary = jitquant.summarize(quantized(Net(), BFLOAT16, target=target))
    assert summary.weights_share == 1
    assert [op.op for op in summary.ops] == ["aten::linear", "aten::relu", "aten::linear", "aten::add"]
    becomes = {"quantized": "aten::linear", "native": "jitquant::linear_bfloat16"}[target]
    assert summary.ops[0].becomes == becomes
