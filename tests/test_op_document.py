"""Test of OPS.md: it is what the op table says."""

from jitquant.op_document import document
from jitquant.passes import op_table
from tests.networks import REPOSITORY


def test_the_page_is_that_of_the_op_table() -> None:
    """Test that OPS.md was written out again after the last change of the table."""
    written = (REPOSITORY / "OPS.md").read_text()
    assert written == document(), "run python -m jitquant.op_document > OPS.md"


def test_every_op_is_on_the_page_with_both_targets() -> None:
    lines = {line.split("|")[1].strip(): line for line in document().splitlines() if line.startswith("| `")}
    assert list(lines) == [f"`{row['op']}`" for row in op_table()]
    assert "`quantized::conv2d`" in lines["`aten::conv2d`"]
    assert "`jitquant::conv2d`" in lines["`aten::conv2d`"]
    assert lines["`aten::gelu`"].split("|")[5].strip() == "float"
    assert lines["`aten::flatten.using_ints`"].count("as it is") == 2
