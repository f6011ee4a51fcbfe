"""What stands on the planes of a picture: the directions of the body, and a bar that tells the scale."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

FONT_SIZE = 12
_COLOUR, _OUTLINE = "#ffd75e", "black"  # readable on white, too
_LENGTHS_MM = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_SHARE = 0.3  # of a plane's width, at most, for the bar


def mark_directions(axis: Axes, ends: Sequence[str]) -> None:
    """Write the letters ``ends`` (left, right, bottom, top), if there are any, at the edges of a plane."""
    places = ((0.03, 0.5), (0.97, 0.5), (0.5, 0.03), (0.5, 0.97))
    for (x, y), letter in zip(places, ends, strict=False):
        _write(axis, x, y, letter, ha="center", va="center")


def mark_scale(axis: Axes, width_mm: float) -> None:
    """Draw a bar of a round length into the lower left of a plane that is ``width_mm`` wide, and write its length."""
    length_mm = bar_length_mm(width_mm)
    share = length_mm / width_mm
    for colour, thickness in ((_OUTLINE, 5), (_COLOUR, 2.5)):
        axis.plot([0.04, 0.04 + share], [0.04, 0.04], transform=axis.transAxes, color=colour, linewidth=thickness)
    _write(axis, 0.04, 0.06, f"{length_mm:g} mm", ha="left", va="bottom")


def bar_length_mm(width_mm: float) -> float:
    """The longest round length that takes at most three tenths of ``width_mm``; the shortest one if none does."""
    return max((length for length in _LENGTHS_MM if length <= _SHARE * width_mm), default=_LENGTHS_MM[0])


def _write(axis: Axes, x: float, y: float, text: str, ha: str, va: str) -> None:
    written = axis.text(x, y, text, transform=axis.transAxes, color=_COLOUR, fontsize=FONT_SIZE, ha=ha, va=va)
    written.set_path_effects([withStroke(linewidth=2.5, foreground=_OUTLINE)])
