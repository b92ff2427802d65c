"""Tests of smooth_inputs: large channels of what linears take are made smaller, and their weights larger."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import FileCheck

import jitquant
from jitquant.passes import PassOptions
from tests.graphs import Attributes, Run, nodes_of, ops_of, saved_and_loaded
from tests.marks import needs_native
from tests.networks import sqnr
from tests.quantized_ir import attribute, constants, pair, run_with, weight_pair
from tests.test_observe_channels import table_of

NAME = "smooth_inputs"
NATIVE = PassOptions(target="native")
FEATURES = 32


def outliers(rows: int = 400, size: float = 100.0, seed: int = 0) -> Tensor:
    """Rows in which one channel is `size` times as large as the others."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, FEATURES, generator=generator)
    x[:, 3] *= size
    return x


def linear_text(weights: list[str], before: str, after: str = "", value: str = "n") -> str:
    """Linears that take the quantized `value`, behind what gives it."""
    linears = "".join(f"  %y{i} : Tensor = aten::linear(%xd, %{w}_d, %none)\n" for i, w in enumerate(weights))
    results = ", ".join(f"%y{i}" for i in range(len(weights)))
    kind = ", ".join("Tensor" for _ in weights)
    given = f"  %r : ({kind}) = prim::TupleConstruct({results})\n"
    return f"""
graph(%self, %x : Tensor):
{attribute("sums")}
{constants(none=None, no=False, lowest=0, highest=255, one=1)}
  %epsilon : float = prim::Constant[value=1e-05]()
  %shape : int[] = prim::Constant[value=[{FEATURES}]]()
{before}
%WEIGHTS%
%PAIR%
  jitquant::record_channels(%xd, %sums, %lowest, %highest)
{linears}{after}{"" if after else given}
  return ({"%out" if after else "%r"})"""


def smoothed(
    before: str,
    numbers: Tensor,
    attributes: Attributes,
    *,
    linears: int = 1,
    after: str = "",
    value: str = "n",
    options: PassOptions = NATIVE,
    table: Tensor | None = None,
) -> Run:
    """The pass on linears behind `before`, which gives %n: `numbers` on calibration data."""
    torch.manual_seed(1)
    names = [f"w{i}" for i in range(linears)]
    text = linear_text(names, before, after)
    lines = ""
    for name in names:
        more, read = weight_pair(torch.randn(8, FEATURES), name=name)
        lines += more
        attributes = {**attributes, **read}
    low, high = float(numbers.min()), float(numbers.max())
    scale = (high - low) / 255
    text = text.replace("%WEIGHTS%", lines).replace("%PAIR%", pair("xd", value, scale, round(-low / scale)))
    attributes["sums"] = table_of(numbers) if table is None else table
    return run_with(NAME, text, attributes, options)


NORM = (
    attribute("norm_weight")
    + attribute("norm_bias")
    + "  %n : Tensor = aten::layer_norm(%x, %shape, %norm_weight, %norm_bias, %epsilon, %no)\n"
)


def norm_attributes() -> Attributes:
    weight = torch.ones(FEATURES)
    weight[3] = 100.0
    return {"norm_weight": weight, "norm_bias": torch.linspace(-1, 1, FEATURES)}


def normed(x: Tensor) -> Tensor:
    read = norm_attributes()
    return nn.functional.layer_norm(x, (FEATURES,), read["norm_weight"], read["norm_bias"])


def gain(run: Run, x: Tensor, numbers: Tensor) -> float:
    """By how many dB the worst result of some linears comes nearer to float."""
    results = zip(run.before(x), run.after(x), strict=True)
    exact = [numbers @ run.before._c.getattr(f"w{i}").t() for i in range(len(run.before(x)))]
    return min(sqnr(y, new) - sqnr(y, old) for y, (old, new) in zip(exact, results, strict=True))


def test_factors_go_into_a_layer_norm() -> None:
    """Test that no op is added where nothing else takes what the layer norm gives, on either target."""
    x = torch.randn(400, FEATURES)
    for options in (NATIVE, PassOptions()):
        run = smoothed(NORM, normed(x), norm_attributes(), options=options)
        assert run.count == 1
        kept = [kind for kind in ops_of(run.before) if "record" not in kind]
        assert sorted(ops_of(run.after)) == sorted(kept)
        assert not run.after._c.hasattr("sums")
        assert gain(run, x, normed(x)) > 10


def test_linears_share_the_smoothed_value() -> None:
    """Test that the value is quantized once for all of them, and each has its weight scaled."""
    x = torch.randn(400, FEATURES)
    run = smoothed(NORM, normed(x), norm_attributes(), linears=3)
    assert len(nodes_of(run.after, "aten::quantize_per_tensor")) == 1
    inputs = {node.inputsAt(0).debugName() for node in nodes_of(run.after, "aten::linear")}
    assert len(inputs) == 1
    assert gain(run, x, normed(x)) > 10


def test_others_keep_the_value_as_it_was() -> None:
    """Test that a residual is added as before, and only the linear takes what was multiplied."""
    x = torch.randn(400, FEATURES)
    after = "  %t : Tensor = aten::sum(%xd)\n  %out : Tensor = aten::add(%y0, %t, %one)\n"
    run = smoothed(NORM, normed(x), norm_attributes(), after=after)
    graph = run.after._c._get_method("forward").graph
    FileCheck().check("aten::layer_norm").check("aten::multiply").check("aten::quantize_per_tensor").run(
        graph
    )
    (total,) = nodes_of(run.after, "aten::sum")
    source = total.inputsAt(0).node().inputsAt(0).node()
    assert source.kind() == "aten::quantize_per_tensor"
    assert source.inputsAt(0).node().kind() == "aten::layer_norm"


def test_other_float_values_are_multiplied() -> None:
    """Test that a value of an op that is float anyway goes through an aten::multiply."""
    x = outliers()
    run = smoothed("  %n : Tensor = aten::sinh(%x)\n", torch.sinh(x / 50), {})
    assert len(nodes_of(run.after, "aten::multiply")) == run.count == 1


def test_the_float_function_is_that_of_before() -> None:
    """Test that with the new scales, all that rounding changes is within what the steps explain."""
    x = torch.randn(50, FEATURES)
    run = smoothed(NORM, normed(x), norm_attributes())
    exact = normed(x) @ run.before._c.getattr("w0").t()
    assert sqnr(exact, run.after(x)[0]) > 35


def test_recorded_means_and_products_are_those_of_the_smoothed_value() -> None:
    """Test that correct_bias and round_weights find what the linear takes now."""
    x = outliers()
    products = torch.cat([x, torch.ones(len(x), 1)], 1)
    products = (products.t() @ products)[None]
    weight, read = weight_pair(torch.randn(8, FEATURES))
    for record, sums in (
        ("record_means(%xd, %more, %last)", torch.cat([x.sum(0), torch.tensor([float(len(x))])]).double()),
        ("record_products(%xd, %more, %empty, %empty, %empty, %empty, %one)", products),
    ):
        text = f"""
graph(%self, %x : Tensor):
{attribute("sums")}
{attribute("more")}
{constants(none=None, lowest=0, highest=255, one=1, last=-1)}
  %empty : int[] = prim::ListConstruct()
{weight}
{pair("xd", "x", float(x.max() - x.min()) / 255, 128)}
  jitquant::record_channels(%xd, %sums, %lowest, %highest)
  jitquant::{record}
  %y : Tensor = aten::linear(%xd, %weight_d, %none)
  return (%y)"""
        run = run_with(NAME, text, {**read, "sums": table_of(x), "more": sums}, NATIVE)
        assert run.count == 1
        factors = run.after._c.getattr("_factors_0")
        all_factors = torch.cat([factors, torch.ones(1)])
        scaled = sums * all_factors if sums.dim() == 1 else sums * all_factors * all_factors[:, None]
        torch.testing.assert_close(run.after._c.getattr("more"), scaled.to(sums.dtype), rtol=1e-4, atol=1e-3)
        (node,) = nodes_of(run.after, "jitquant::" + record.split("(")[0])
        (linear,) = nodes_of(run.after, "aten::linear")
        assert node.inputsAt(0).debugName() == linear.inputsAt(0).debugName()


def test_even_channels_are_left_alone() -> None:
    """Test that nothing changes where no exponent helps clearly."""
    x = torch.randn(400, FEATURES)
    read = {"norm_weight": torch.ones(FEATURES), "norm_bias": torch.zeros(FEATURES)}
    run = smoothed(NORM, nn.functional.layer_norm(x, (FEATURES,)), read)
    assert run.count == 0
    assert nodes_of(run.after, "jitquant::record_channels") == []


@pytest.mark.parametrize("number", [0.0, float("nan")])
def test_nothing_is_smoothed_without_data(number: float) -> None:
    """Test that a linear which calibration did not reach, or with NaN, loses the record only."""
    table = torch.full((4, FEATURES + 1), number, dtype=torch.double)
    x = torch.randn(40, FEATURES)
    run = smoothed(NORM, normed(x), norm_attributes(), table=table)
    assert run.count == 0
    assert nodes_of(run.after, "jitquant::record_channels") == []
    assert not run.after._c.hasattr("sums")


def test_integers_of_another_op_are_left_alone() -> None:
    """Test that an op which gives integers is not made to give float."""
    before = pair("xq", "x", 0.8, 128) + "  %n : Tensor = aten::add(%xq, %xq, %one)\n"
    run = smoothed(before, outliers() * 2, {})
    assert run.count == 0


def test_a_fused_activation_stays_so_on_the_stock_target() -> None:
    """Test that a gelu whose op cannot multiply is not torn from it, and one whose op can is smoothed."""
    weight, read = weight_pair(torch.randn(FEATURES, 4), name="first")
    weight += constants(approximate="none")
    lines = weight + pair("xq", "x", 0.05, 128)
    lines += "  %l : Tensor = aten::linear(%xq, %first_d, %none)\n"
    lines += pair("ld", "l", 0.1, 128) + "  %n : Tensor = aten::gelu(%ld, %approximate)\n"
    counts = [
        smoothed(lines, outliers().relu(), dict(read), options=options).count
        for options in (PassOptions(), NATIVE)
    ]
    assert counts == [0, 1]


class Block(nn.Module):
    """A part of a transformer, with channels of very different sizes in front of its linears."""

    def __init__(self, *, pre_norm: bool) -> None:
        super().__init__()
        self.pre_norm = pre_norm
        self.norm = nn.LayerNorm(FEATURES)
        self.widen, self.narrow = nn.Linear(FEATURES, 64), nn.Linear(64, FEATURES)
        with torch.no_grad():
            self.norm.weight[::9] *= 60
            self.widen.weight[:, ::9] /= 20
            self.widen.weight[5] *= 30

    def forward(self, x: Tensor) -> Tensor:
        normed = self.norm(x)
        return (x if self.pre_norm else normed) + self.narrow(nn.functional.gelu(self.widen(normed)))


def quantized(network: nn.Module, **keywords: object) -> torch.jit.ScriptModule:
    return jitquant.quantize_jit(
        torch.jit.script(network),
        {"": jitquant.get_default_qconfig()},
        lambda model: [model(torch.randn(64, FEATURES)) for _ in range(4)],
        [],
        **keywords,
    )


@needs_native
@pytest.mark.parametrize("pre_norm", [True, False])
def test_a_block_gains_and_keeps_its_kernels(pre_norm: bool, tmp_path: Path) -> None:
    """Test that the linears stay whole, debug mode shows the same, and so does a saved file."""
    torch.manual_seed(0)
    network = Block(pre_norm=pre_norm).eval()
    keywords = {"target": "native", "preset": "fast"}
    plain, smooth = (quantized(network, **keywords, smooth_inputs=on) for on in (False, True))
    debug = quantized(network, **keywords, smooth_inputs=True, debug=True)
    x = torch.randn(128, FEATURES)
    with torch.no_grad():
        exact = network(x)
        assert sqnr(exact, smooth(x)) > sqnr(exact, plain(x)) + 3
        assert abs(sqnr(exact, smooth(x)) - sqnr(exact, debug(x))) < 1.5
        assert torch.equal(saved_and_loaded(smooth)(x), smooth(x))
    assert "aten::multiply" not in str(smooth.inlined_graph)
    assert "aten::gelu" not in str(smooth.inlined_graph)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_the_stock_target_gains_too(pre_norm: bool) -> None:
    """Test that a file for stock torch has no op of jitquant's, and the block is nearer to float."""
    torch.manual_seed(0)
    network = Block(pre_norm=pre_norm).eval()
    plain, smooth = (quantized(network, preset="fast", smooth_inputs=on) for on in (False, True))
    x = torch.randn(128, FEATURES)
    with torch.no_grad():
        exact = network(x)
        # Behind a normed residual the rest of the block is small.
        assert sqnr(exact, smooth(x)) > sqnr(exact, plain(x)) + (1 if pre_norm else 0.2)
    assert "jitquant::" not in str(smooth.inlined_graph)
