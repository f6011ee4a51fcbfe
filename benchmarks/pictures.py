"""Pictures of the how-to pages: one slice of a generated heart, seen several ways side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation.overlays import label_colours
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.orientation import to_canonical

_INCHES, _OPACITY = 2.6, 0.55


@dataclass(frozen=True)
class View:
    """A ``title``, an image (X, Y, Z) in [-1, 1], and label values over it."""

    title: str
    image: np.ndarray
    labels: np.ndarray | None = None


def views_png(views: Sequence[View], grid: Grid, normal: int, index: int, labels: Sequence[LabelClass], path: Path) -> None:
    """Slice ``index`` across world axis ``normal`` (right, anterior, superior) of ``views``, which lie on ``grid``."""
    figure = Figure(figsize=(_INCHES * len(views), _INCHES + 0.75), facecolor="black")
    colours = label_colours(len(labels))
    for axis, view in zip(figure.subplots(1, len(views), squeeze=False)[0], views, strict=True):
        turned = to_canonical(view.image[None], grid)[1]
        across, up = (turned.spacing_mm[one] for one in range(3) if one != normal)
        cut = _cut(view.image, grid, normal, index)
        grey = np.repeat(np.clip((cut + 1) / 2, 0, 1)[..., None], 3, axis=2)
        over = np.zeros(cut.shape) if view.labels is None else _cut(view.labels, grid, normal, index)
        for label, colour in zip(labels, colours, strict=True):
            here = over == label.value
            grey[here] = (1 - _OPACITY) * grey[here] + _OPACITY * np.asarray(colour[:3])
        extent = (0, cut.shape[1] * across, 0, cut.shape[0] * up)
        axis.imshow(grey, origin="lower", extent=extent, interpolation="nearest")
        axis.invert_xaxis()  # the patient's right, or front, is on the left
        axis.set_title(view.title, color="white", fontsize=10)
        axis.set_axis_off()
    if any(view.labels is not None for view in views):
        handles = [Patch(color=colour, label=label.name) for label, colour in zip(labels, colours, strict=True)]
        figure.legend(handles=handles, loc="lower center", ncols=len(labels), frameon=False, labelcolor="white", fontsize=8)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.1, top=0.9, wspace=0.03)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, facecolor="black")


def _cut(array: np.ndarray, grid: Grid, normal: int, index: int) -> np.ndarray:
    """The slice (vertical, horizontal) of ``array`` (X, Y, Z)."""
    turned = to_canonical(array[None], grid)[0][0]
    return np.take(turned, index, axis=normal).T.astype(float)
