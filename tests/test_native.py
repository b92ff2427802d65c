"""The native target: kernels against float arithmetic, networks end to end, and what is refused."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import jitquant
from jitquant.errors import QuantizationError
from tests.graphs import saved_and_loaded
from tests.marks import needs_native
from tests.networks import sqnr, torchvision_model

WHOLE = {"": jitquant.get_default_qconfig()}


class Net(nn.Module):
    """Residual, squeeze-and-excite, pooling and a float op in between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.Hardswish())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.BatchNorm2d(16))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(16, 16, 1), nn.Hardsigmoid())
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.head = nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(self.body(x) + x)
        y = self.pool(y * self.squeeze(y))
        return self.head(torch.erf(y).mean([2, 3]))


def quantized_net(**options: object) -> tuple[torch.jit.ScriptModule, torch.jit.ScriptModule, Tensor]:
    torch.manual_seed(0)
    model, images = torch.jit.script(Net().eval()), torch.randn(4, 3, 32, 32)
    return (
        model,
        jitquant.quantize_jit(model, WHOLE, lambda m: m(images), [], target="native", **options),
        images,
    )


@needs_native
def test_a_network_is_quantized_saved_and_loaded() -> None:
    model, quantized, images = quantized_net()
    kinds = [node.kind() for node in quantized.graph.nodes()]
    assert (
        kinds.count("jitquant::conv2d")
        + kinds.count("jitquant::conv2d_add_")
        + kinds.count("jitquant::conv2d_add")
        == 3
    )
    assert not any("quantize_per_tensor" in kind or "prepack" in kind for kind in kinds)
    assert sqnr(model(images), quantized(images)) > 25
    assert torch.equal(saved_and_loaded(quantized)(images), quantized(images))
    assert jitquant.info(quantized)["target"] == "native"


@needs_native
def test_debug_is_close_to_the_final_model() -> None:
    _, quantized, images = quantized_net()
    _, debug, _ = quantized_net(debug=True)
    assert sqnr(debug(images), quantized(images)) > 30


@needs_native
def test_several_threads_run_one_module() -> None:
    _, quantized, images = quantized_net()
    expected = quantized(images)
    wrong: list[int] = []

    def work(number: int) -> None:
        torch.set_num_threads(1)
        batch = 1 + number % 4
        for _ in range(20):
            if not torch.allclose(quantized(images[:batch]), expected[:batch], atol=1e-4):
                wrong.append(number)

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


@needs_native
@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "mobilenet_v3_large", "shufflenet_v2_x1_0"])
def test_torchvision_networks_lose_no_more_than_on_the_stock_target(name: str) -> None:
    model = torch.jit.script(torchvision_model(name).eval())
    torch.manual_seed(0)
    images = torch.randn(4, 3, 96, 96)
    native = jitquant.quantize_jit(model, WHOLE, lambda m: m(images), [], target="native")
    stock = jitquant.quantize_jit(model, WHOLE, lambda m: m(images), [])
    with torch.no_grad():
        expected = model(images)
        assert sqnr(expected, native(images)) > sqnr(expected, stock(images)) - 0.5


class Resample(nn.Module):
    def __init__(self, mode: str, options: dict[str, object]) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)
        self.resample = nn.Upsample(mode=mode, **options)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.resample(self.first(x)))


@needs_native
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("options", [{"scale_factor": 2.0}, {"size": (17, 11)}, {"scale_factor": 1.7}])
def test_resampling_is_integer(mode: str, options: dict[str, object]) -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 3, 12, 12)
    aligned: list[dict[str, object]] = [{}] if mode == "nearest" else [{}, {"align_corners": True}]
    for corners in aligned:
        model = torch.jit.trace(Resample(mode, options | corners).eval(), images)
        quantized = jitquant.quantize_jit(model, WHOLE, lambda m: m(images), [], target="native")
        kinds = [node.kind() for node in quantized.graph.nodes()]
        assert "jitquant::dequantize" not in kinds
        assert kinds.count("jitquant::quantize") == 1
        assert sqnr(model(images), quantized(images)) > 30


@needs_native
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize(("channels", "features"), [(8, 8), (8, 12)])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_transposed_convolutions_have_a_scale_for_each_output_channel(
    dimensions: int, channels: int, features: int, groups: int
) -> None:
    """Test that weights whose channels differ forty times in size are not quantized along their inputs."""
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dimensions]
    transposed = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}[dimensions]
    up = transposed(channels, features, 3, stride=2, padding=1, output_padding=1, groups=groups)
    with torch.no_grad():
        up.weight *= torch.linspace(0.1, 4, features // groups).view(1, -1, *[1] * dimensions)
    network = nn.Sequential(conv(3, channels, 3), up, nn.ReLU(), conv(features, 4, 1)).eval()
    x = torch.randn(2, 3, *[8] * dimensions)
    quantized = jitquant.quantize_jit(torch.jit.script(network), WHOLE, lambda m: m(x), [], target="native")
    kinds = [node.kind() for node in quantized.graph.nodes()]
    assert "jitquant::conv_transpose" in kinds
    assert sqnr(network(x), quantized(x)) > 30
    assert torch.equal(saved_and_loaded(quantized)(x), quantized(x))


class Attention(nn.Module):
    """A layer of a transformer, its norms before or behind what they normalize."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        self.qkv = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))
        self.mix, self.widen, self.narrow = nn.Linear(32, 32), nn.Linear(32, 64), nn.Linear(64, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(2))
        self.norm_first = norm_first

    def attend(self, x: Tensor) -> Tensor:
        q, k, v = (part(x).view(x.size(0), -1, 4, 8).transpose(1, 2) for part in self.qkv)
        weights = torch.softmax(q @ k.transpose(-1, -2) / 8**0.5, dim=-1)
        return self.mix((weights @ v).transpose(1, 2).reshape(x.shape))

    def feed(self, x: Tensor) -> Tensor:
        return self.narrow(nn.functional.gelu(self.widen(x)))

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.norms
        if self.norm_first:
            x = x + self.attend(first(x))
            return x + self.feed(second(x))
        x = first(x + self.attend(x))
        return second(x + self.feed(x))


@needs_native
@pytest.mark.parametrize("norm_first", [True, False])
def test_attention_is_integer_throughout(norm_first: bool) -> None:
    """Test that nothing but norms and the sums before them is float, at any batch size."""
    torch.manual_seed(0)
    tokens = torch.randn(4, 16, 32)
    model = torch.jit.trace(nn.Sequential(*(Attention(norm_first) for _ in range(2))).eval(), tokens[:1])
    quantized = jitquant.quantize_jit(model, WHOLE, lambda m: m(tokens), [], target="native")
    kinds = [node.kind() for node in quantized.graph.nodes()]
    assert kinds.count("jitquant::matmul") == kinds.count("jitquant::softmax") * 2 == 4
    assert sum(kind.startswith("jitquant::linear") for kind in kinds) == 12
    assert not {"jitquant::dequantize", "aten::matmul", "aten::softmax", "aten::gelu", "aten::linear"} & set(
        kinds
    )
    assert sqnr(model(tokens), quantized(tokens)) > 25
    assert torch.equal(saved_and_loaded(quantized)(tokens), quantized(tokens))


class RelativePositions(nn.Module):
    """Queries and a table of positions, as video transformers multiply them."""

    def __init__(self, equation: str, table: tuple[int, ...]) -> None:
        super().__init__()
        self.query = nn.Linear(12, 16)
        self.key = nn.Linear(16, 16)
        self.register_buffer("table", torch.randn(table))
        self.equation = equation

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum(self.equation, self.query(x), self.key(self.table))


@needs_native
@pytest.mark.parametrize("compiler", ["scripted", "traced"])
@pytest.mark.parametrize(
    ("equation", "table", "kind"),
    [
        ("b t h c, h k c -> b t h k", (5, 7, 16), "jitquant::einsum"),
        ("bthc,hkc->kbth", (5, 7, 16), "jitquant::einsum"),
        ("bThc,hKc", (5, 7, 16), "jitquant::einsum"),
        ("bthc,hkc->bthk", (1, 7, 16), "jitquant::einsum"),
        ("...hc,hkc->...hk", (5, 7, 16), "aten::einsum"),
        ("bthc,hkc->bk", (5, 7, 16), "aten::einsum"),
    ],
)
def test_einsum_is_right(compiler: str, equation: str, table: tuple[int, ...], kind: str) -> None:
    """Test einsum end to end, at another batch size, and in a file; what has no kernel says why."""
    torch.manual_seed(0)
    network, x = RelativePositions(equation, table).eval(), torch.randn(3, 4, 5, 12)
    model = torch.jit.script(network) if compiler == "scripted" else torch.jit.trace(network, x[:1])
    quantized = jitquant.quantize_jit(model, WHOLE, lambda m: m(x), [], target="native")
    assert kind in [node.kind() for node in quantized.graph.nodes()]
    assert sqnr(network(x), quantized(x)) > 30
    assert torch.equal(saved_and_loaded(quantized)(x), quantized(x))
    summary = jitquant.summarize(quantized, x)
    (row,) = [op for op in summary.ops if op.op == "aten::einsum"]
    assert ("spell every dimension out" in row.reason) == (kind == "aten::einsum")
    if kind == "jitquant::einsum":
        assert summary.multiply_adds.integer_share == 1
        assert summary.multiply_adds.whole == x.numel() * 16 + x.numel() // 12 * 7 * 16


@needs_native
def test_signed_activations_stay_out_of_the_kernels() -> None:
    """Test that ops whose input is quantized as qint8, which no kernel takes, compute what they should."""

    class Signed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.norm = nn.Linear(8, 8), nn.LayerNorm(8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.softmax(self.norm(self.linear(x)), -1)

    signed = jitquant.QConfig(
        activation=jitquant.MinMaxObserver.with_args(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric),
        weight=jitquant.get_default_qconfig().weight,
    )
    model, tokens = torch.jit.script(Signed().eval()), torch.randn(6, 5, 8)
    for qconfigs in ({"": signed}, WHOLE | {"linear": signed}, WHOLE | {"norm": signed}):
        quantized = jitquant.quantize_jit(model, qconfigs, lambda m: m(tokens), [], target="native")
        assert sqnr(model(tokens), quantized(tokens)) > 25


RUN_WITH_LIBRARY_ONLY = """
import sys, torch
try:
    torch.jit.load(sys.argv[1])
    raise SystemExit("loaded without its ops")
except RuntimeError as error:
    assert "jitquant" in str(error), error
torch.ops.load_library(sys.argv[3])
model = torch.jit.load(sys.argv[1])
inputs, expected = torch.load(sys.argv[2])
assert torch.equal(model(inputs), expected)
assert "jitquant" not in sys.modules
print("equal")
"""


@needs_native
def test_the_file_needs_the_op_library_and_nothing_else(tmp_path: Path) -> None:
    _, quantized, images = quantized_net()
    torch.jit.save(quantized, tmp_path / "model.pt")
    torch.save((images, quantized(images)), tmp_path / "data.pt")
    command = [
        sys.executable,
        "-c",
        RUN_WITH_LIBRARY_ONLY,
        "model.pt",
        "data.pt",
        str(jitquant.native.LIBRARY),
    ]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.stdout.strip() == "equal", result.stderr


@needs_native
def test_a_processor_without_dot_products_is_refused(tmp_path: Path) -> None:
    """Test that a file made elsewhere does not give saturated sums here."""
    _, quantized, _ = quantized_net()
    torch.jit.save(quantized, tmp_path / "model.pt")
    code = "import sys, torch; torch.ops.load_library(sys.argv[2]); torch.jit.load(sys.argv[1])"
    command = [sys.executable, "-c", code, "model.pt", str(jitquant.native.LIBRARY)]
    limited = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False, env=limited)
    assert "needs a processor with 8-bit dot products" in result.stderr


def test_an_unknown_target_is_refused() -> None:
    model = torch.jit.script(Net().eval())
    with pytest.raises(QuantizationError, match="there is no target 'fast'; choose 'quantized' or 'native'"):
        jitquant.quantize_jit(model, WHOLE, lambda m: None, [], target="fast")


def test_a_build_without_the_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jitquant.native, "LIBRARY", Path("nowhere.so"))
    monkeypatch.setattr(jitquant.native, "_reason", "")  # is put back, whatever load writes to it
    jitquant.native.load()
    model = torch.jit.script(Net().eval())
    with pytest.raises(QuantizationError, match=r"not available: there is no op library beside.*ONEDNN_ROOT"):
        jitquant.quantize_jit(model, WHOLE, lambda m: None, [], target="native")
