"""Test of EXACT.md: it is what the formulas say."""

from jitquant.exact import ENGINES, formulas
from jitquant.exact_document import document
from tests.networks import REPOSITORY


def test_the_page_is_that_of_the_formulas() -> None:
    """Test that EXACT.md was written out again after the last change of a formula."""
    written = (REPOSITORY / "EXACT.md").read_text()
    assert written == document(), "run python -m jitquant.exact_document > EXACT.md"


def test_every_formula_is_on_the_page_and_says_something() -> None:
    """Test that each op of each target and engine is on the page, with a sentence behind it."""
    page = document()
    for target in ("quantized", "native"):
        for engine in ENGINES:
            for op, formula in formulas(engine, target).items():
                assert f"`{op}`" in page
                assert formula.__doc__, op


def test_no_heading_stands_twice() -> None:
    """Test that all formulas of a kind are in one place."""
    headings = [line for line in document().splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings))
