"""Tables in Markdown, and the numbers in them."""

from __future__ import annotations

from collections.abc import Sequence


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def number(value: float, digits: int) -> str:
    """``value`` with so many ``digits`` behind the point; nothing for NaN."""
    return "" if value != value else f"{value:.{digits}f}"
