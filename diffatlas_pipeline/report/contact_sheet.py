"""Generated pairs beside the training cases most like them, as one picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.overlays import label_colours
from diffatlas_pipeline.evaluation.populations import LabelledImage
from diffatlas_pipeline.volumes.grids import TripleMm

_PLANES = (("axial", 2, (0, 1)), ("coronal", 1, (0, 2)), ("sagittal", 0, (1, 2)))  # name, normal, (horizontal, vertical)
_TILE, _HEAD = 1.35, 0.42  # inches
_OPACITY = 0.55


def contact_sheet(
    rows: Sequence[tuple[LabelledImage, LabelledImage]], labels: Sequence[LabelClass], spacing_mm: TripleMm, path: Path
) -> None:
    """Draw a row for each (generated, training) pair: the image and three planes with labels, of both.

    Planes go through the structures' centroid; the first channel is shown, and all tiles have one scale. UserError if
    ``path`` cannot be written.
    """
    flat = all(one.labels.shape[2] == 1 for row in rows for one in row)
    planes = _PLANES[:1] if flat else _PLANES
    tiles = len(planes) + 1
    colours = label_colours(len(labels))
    reach_mm = max(n * s for row in rows for one in row for n, s in zip(one.labels.shape, spacing_mm, strict=True))
    columns = min(8, len(labels))
    foot = 0.2 + 0.22 * math.ceil(len(labels) / columns)
    ratios = [1.0] * tiles + [0.25] + [1.0] * tiles
    with mpl.rc_context({"text.parse_math": False}):
        figure = Figure(figsize=(_TILE * (2 * tiles + 0.25), _TILE * len(rows) + _HEAD + foot), facecolor="black")
        axes = figure.subplots(len(rows), 2 * tiles + 1, squeeze=False, gridspec_kw={"width_ratios": ratios})
        for line, pair in zip(axes, rows, strict=True):
            line[tiles].set_axis_off()
            for one, places in zip(pair, (line[:tiles], line[tiles + 1 :]), strict=True):
                centre = _centre(one.labels)
                for place, plane, shown in zip(places, (planes[0], *planes), (False, *(True,) * len(planes)), strict=True):
                    _tile(place, one, plane, centre, spacing_mm, colours if shown else (), reach_mm)
                places[0].set_title(one.case, color="white", fontsize=6.5, loc="left", pad=2)
        height = figure.get_figheight()
        margins = {"bottom": foot / height, "top": 1 - _HEAD / height}
        figure.subplots_adjust(left=0.005, right=0.995, wspace=0.03, hspace=0.13, **margins)
        for x, text in ((0.01, "generated"), (0.515, "the training case most like it")):
            figure.text(x, 1 - _HEAD / 2 / height, text, color="white", fontsize=11, va="center")
        figure.legend(
            handles=[Patch(color=colour, label=label.name) for label, colour in zip(labels, colours, strict=True)],
            loc="lower center", ncols=columns, frameon=False, labelcolor="white", fontsize=9,
        )  # fmt: skip
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110, facecolor="black")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another `output`.") from error


def _tile(
    axis: Axes,
    one: LabelledImage,
    plane: tuple[str, int, tuple[int, int]],
    centre: Sequence[int],
    spacing_mm: TripleMm,
    colours: Sequence[tuple[float, ...]],
    reach_mm: float,
) -> None:
    """One cut in grey, with labels in ``colours``; the middle of the volume is in the middle of ``reach_mm``."""
    _, normal, (across, up) = plane
    index: list[slice | int] = [slice(None)] * 3
    index[normal] = centre[normal]
    grey, labels = one.image[0][tuple(index)].T, one.labels[tuple(index)].T
    shown = np.repeat(((np.clip(grey, -1, 1) + 1) / 2)[..., None], 3, axis=2)
    for number, colour in enumerate(colours, 1):
        here = labels == number
        shown[here] = (1 - _OPACITY) * shown[here] + _OPACITY * np.asarray(colour[:3])
    width, height = grey.shape[1] * spacing_mm[across], grey.shape[0] * spacing_mm[up]
    axis.imshow(shown, origin="lower", extent=(0, width, 0, height), interpolation="nearest")
    axis.set_xlim((width + reach_mm) / 2, (width - reach_mm) / 2)  # the patient's right is on the left
    axis.set_ylim((height - reach_mm) / 2, (height + reach_mm) / 2)
    axis.set_aspect("equal")
    axis.set_axis_off()


def _centre(labels: np.ndarray) -> tuple[int, ...]:
    if not (labels > 0).any():
        return tuple(n // 2 for n in labels.shape)
    return tuple(round(float(where.mean())) for where in np.nonzero(labels))
