"""The page that draws a report: one file of HTML with its style, its script and its data inside."""

from __future__ import annotations

from html import escape
from importlib.resources import files
from string import Template

from jitquant.report_data import ReportData

# In the order in which they name one another.
SCRIPTS = ("elements", "curve", "histogram", "layers", "graph", "table", "page")

__all__ = ["render_page"]


def render_page(data: ReportData) -> str:
    """The whole page. It asks for nothing else: no file, no font, no server."""
    script = "\n".join(_part(f"{name}.js") for name in SCRIPTS)
    return Template(_part("page.html")).substitute(
        title=escape(data.title),
        style=_part("page.css"),
        data=_in_script(data.to_json()),
        script=f'"use strict";\n{{\n{script}\n}}',
    )


def _part(name: str) -> str:
    return (files("jitquant") / "page" / name).read_text(encoding="utf-8").rstrip()


def _in_script(text: str) -> str:
    """JSON that cannot end the element that it is in: it stays the same JSON."""
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
