"""debug="exact" gives the bits of the integer model for every op with an integer form, on every engine."""

import re
import warnings
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

import jitquant
from jitquant import MinMaxObserver, PerChannelMinMaxObserver, QConfig
from tests.marks import needs_native
from tests.op_cases import CASES, SHAPES
from tests.test_embeddings import CASES as EMBEDDINGS
from tests.test_ops import one_spelling_each

QCONFIGS = {"": QConfig(MinMaxObserver.with_args(), PerChannelMinMaxObserver.with_args())}

# What has no formula and runs on integers, by engine.
NORMS = {"quantized::group_norm", "quantized::instance_norm"}
LINEARLY = {"aten::upsample_bilinear2d"}
TRANSPOSED = {f"quantized::conv_transpose{dims}d" for dims in (1, 2, 3)}
WITHOUT_FORMULA = {
    "fbgemm": NORMS | LINEARLY | {"quantized::prelu"},
    "x86": NORMS | LINEARLY | TRANSPOSED | {"quantized::prelu"},
    "onednn": NORMS | LINEARLY | {"quantized::prelu"},
    "native": set(),
}
NO_FORMULA = re.compile(r'debug="exact": (\S+) .*has no formula')


@pytest.fixture(params=["fbgemm", "x86", "onednn", pytest.param("native", marks=needs_native)])
def engine(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each engine in turn, and the native target; afterwards the engine from before."""
    before = torch.backends.quantized.engine
    torch.backends.quantized.engine = "x86" if request.param == "native" else request.param
    yield request.param
    torch.backends.quantized.engine = before


def both(
    name: str, target: str
) -> tuple[torch.jit.ScriptModule, torch.jit.ScriptModule, set[str], list[Tensor]]:
    """The integer model of a case, the exact one, the ops without a formula, and inputs."""
    case = CASES[name]
    torch.manual_seed(0)
    network = case.network().eval()
    inputs = [torch.randn(SHAPES[case.kind]) for _ in range(3)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = torch.jit.trace(network, (inputs[0],), check_trace=False)
        prepared = jitquant.prepare_jit(model, QCONFIGS, target=target)
        prepared(inputs[0])
        quantized = jitquant.convert_jit(prepared)
        exact = jitquant.convert_jit(prepared, debug="exact")
    found = (NO_FORMULA.search(str(warning.message)) for warning in caught)
    return quantized, exact, {match.group(1) for match in found if match}, inputs


def test_every_op_has_the_bits_of_the_integer_model(engine: str) -> None:
    """Test that a case of each op gives the same bits, and which ops run on integers without a formula."""
    wrong: dict[str, str] = {}
    without_formula: set[str] = set()
    for name in one_spelling_each():
        quantized, exact, ops, inputs = both(name, "native" if engine == "native" else "quantized")
        without_formula |= ops
        with torch.no_grad(), torch.jit.optimized_execution(False):
            for x in inputs:
                expected, found = quantized(x), exact(x)
                if not torch.equal(found, expected):
                    wrong[name] = f"{int((found != expected).sum())} of {expected.numel()} differ"
                elif found.stride() != expected.stride():
                    wrong[name] = f"strides {found.stride()}, not {expected.stride()}"
    assert wrong == {}
    assert without_formula == WITHOUT_FORMULA[engine]


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param(jitquant.get_default_qconfig(), id="symmetric"),
        pytest.param(jitquant.float_qparams_weight_only_qconfig, id="bytes"),
        pytest.param(jitquant.float_qparams_weight_only_qconfig_4bit, id="nibbles"),
    ],
)
@pytest.mark.parametrize("name", [name for name in EMBEDDINGS if name != "bag with the last offset"])
def test_embeddings_have_the_bits_of_the_integer_model(name: str, rows: QConfig) -> None:
    """Test that rows and sums of rows are the same floats, for each kind of rows.

    Left out are bags whose last offset leaves words out, which ATen's op on 4-bit rows refuses.
    """
    make, words = EMBEDDINGS[name]
    torch.manual_seed(0)
    model = torch.jit.trace(make().eval(), (words,))
    prepared = jitquant.prepare_jit(model, {"": rows})
    prepared(words)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "debug=.exact.*has no formula")
        exact = jitquant.convert_jit(prepared, debug="exact")
    with torch.no_grad():
        assert torch.equal(exact(words), jitquant.convert_jit(prepared)(words))
