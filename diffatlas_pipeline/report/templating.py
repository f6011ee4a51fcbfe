"""What the templates of all pages share."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

import diffatlas_pipeline

FOLDER = Path(__file__).parent / "templates"


def environment() -> jinja2.Environment:
    """Reads templates from their folder; they know the style sheet, today's date, the version, and how to embed
    SVG.
    """
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    made.filters["strong"] = _strong
    made.globals |= {
        "svg": Markup,
        "css": Markup((FOLDER / "page.css").read_text(encoding="utf-8")),
        "made": date.today().isoformat(),
        "version": diffatlas_pipeline.__version__,
    }
    return made


def _strong(text: str) -> Markup:
    """Escaped text in which ``**x**`` is bold."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))
