"""Pictures of a prediction and its reference on three planes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from diffatlas_pipeline.datasets import colours
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.evaluation.evaluate import ROLES, Evaluation
from diffatlas_pipeline.evaluation.marks import mark_directions, mark_scale
from diffatlas_pipeline.volumes.grids import Grid, TripleMm
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, name_without_ending, read_labels, read_volume
from diffatlas_pipeline.volumes.orientation import to_canonical

Colour = tuple[float, float, float, float]

_NAMED = 8  # labels whose Dice fits into the title
MARGIN = 0.35  # shown around the structures, as a share of their extent
_HEIGHT = 4.2  # inches of a plane
_COLUMN = 1.8  # inches of an entry of the legend
_FONT_SIZE = 12  # of the title at most two more
_REFERENCE, _PREDICTION = (0, (1, 0)), (0, (2.2, 1.2))  # solid, dashed


@dataclass(frozen=True)
class _Plane:
    """One cut: the axis it is normal to, its other two axes as (horizontal, vertical), and the world directions
    shown.
    """

    name: str
    normal: int
    across: tuple[int, int]
    ends: tuple[str, ...]  # left, right, bottom, top; empty where they mean nothing


# Seen as radiologists do: the patient's right is on the left, the front faces left or up.
_PLANES = (
    _Plane("axial", 2, (0, 1), ("R", "L", "P", "A")),
    _Plane("coronal", 1, (0, 2), ("R", "L", "I", "S")),
    _Plane("sagittal", 0, (1, 2), ("A", "P", "I", "S")),
)
_FLAT = _Plane("image", 2, (0, 1), ())


def overlay_png(
    image: np.ndarray | None,
    prediction: np.ndarray,
    reference: np.ndarray | None,
    grid: Grid,
    labels: Sequence[LabelClass],
    path: Path,
    title: str,
) -> None:
    """Draw three planes through the reference's centroid; contours of the reference solid, of the prediction dashed.

    With a reference, the first plane is drawn once more, with the voxels that are wrong in colour.

    ``image`` (X, Y, Z) or None, ``prediction`` and ``reference`` (X, Y, Z; the latter None if there is none) in label
    values, all on ``grid``. UserError if ``path`` cannot be written.
    """
    compared = reference is not None
    if reference is None:
        reference = np.zeros_like(prediction)
    stack = [prediction, reference] if image is None else [prediction, reference, image]
    arrays = [to_canonical(array[None], grid) for array in stack]
    spacing_mm = arrays[0][1].spacing_mm
    found, wanted = arrays[0][0][0], arrays[1][0][0]
    grey = None if image is None else arrays[2][0][0]
    values = [value for label in labels for value in label.values]
    shown = np.isin(wanted, values), np.isin(found, values)
    focus = shown[0] if shown[0].any() else shown[1]
    centre = _centroid(focus)
    window = _window(shown[0] | shown[1])
    planes = _PLANES if found.shape[2] > 1 else (_FLAT,)
    shown_planes = [*planes, planes[0]] if compared else [*planes]
    extents = [_extent_mm(plane, window, spacing_mm) for plane in shown_planes]
    widths = [min(3.0, max(0.4, width / tall)) for width, tall in extents]
    handles = _legend(labels, label_colours(len(labels)), compared)
    width = max(6.0, _HEIGHT * sum(widths) + 0.4)
    columns = max(2, min(len(handles), int(width / _COLUMN)))
    head, foot = (0.75 if "\n" in title else 0.45) if title else 0.1, 0.15 + 0.3 * math.ceil(len(handles) / columns)
    height = _HEIGHT + head + foot
    figure = Figure(figsize=(width, height), facecolor="black")
    axes = figure.subplots(1, len(shown_planes), squeeze=False, gridspec_kw={"width_ratios": widths})[0]
    for index, (axis, plane) in enumerate(zip(axes, shown_planes, strict=True)):
        image_cut = None if grey is None else _cut(grey, plane, centre, window)
        cuts = _cut(found, plane, centre, window), _cut(wanted, plane, centre, window)
        _draw(axis, plane, spacing_mm, image_cut, *cuts, labels, as_errors=index == len(planes))
    title_size = min(_FONT_SIZE + 2, 72 * width / (0.62 * max(map(len, title.split("\n"))) + 1))
    figure.suptitle(title, color="white", fontsize=title_size, y=1 - 0.06 / height, va="top")
    figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, labelcolor="white", fontsize=_FONT_SIZE)
    figure.subplots_adjust(left=0.1 / width, right=1 - 0.1 / width, top=1 - head / height, bottom=foot / height, wspace=0.03)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=110, facecolor="black")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another `output`.") from error


def label_colours(count: int) -> list[Colour]:
    """One colour per label, (red, green, blue, alpha) in [0, 1], as all pictures use them."""
    return [(red / 255, green / 255, blue / 255, 1.0) for red, green, blue in colours.label_colours(count)]


def write_overlays(evaluation: Evaluation, folder: Path, images: Path | None) -> tuple[list[Path], list[str]]:
    """Draw the worst, median and best case into ``folder``; returns the pictures and what could not be shown.

    ``images`` is the folder of the scans (``case.ext`` or ``case_0000.ext``; the first channel is shown) or None.
    Pictures that an earlier evaluation of these cases left there, for which another case was the worst, are deleted.
    """
    pairs = {pair.case: pair for pair in evaluation.pairs}
    pictures, remarks = [], []
    remarkable = evaluation.remarkable()
    scored = {pair.prediction for pair in evaluation.pairs}  # pictures themselves, maybe
    for role, case in itertools.product(ROLES, pairs):
        path = folder / f"{role}_{case}.png"
        if remarkable.get(role) != case and path not in scored:
            path.unlink(missing_ok=True)
    for role, case in remarkable.items():
        path = folder / f"{role}_{case}.png"
        rows = evaluation.cases[evaluation.cases["case"] == case].set_index("label")
        dice = [float(rows["dice"][label.name]) for label in evaluation.labels]
        mean = float(np.nanmean(dice))
        reference, image = read_labels(pairs[case].reference), None
        scan = image_of(case, images)
        if images is not None and scan is None:
            remarks.append(f"{case}: no image found to show")
        try:
            image = None if scan is None else read_scan(scan, reference.grid)
        except ImageError as error:
            remarks.append(str(error))
        prediction = pairs[case].prediction
        found = np.zeros_like(reference.array) if prediction is None else read_labels(prediction).array
        if evaluation.ignore is not None:  # what is not known is neither right nor wrong
            found = np.where(reference.array == evaluation.ignore, 0, found)
        each = ", ".join(f"{label.name} {_shown(value)}" for label, value in zip(evaluation.labels, dice, strict=True))
        title = f"{role} case: {case}, mean Dice {mean:.3f}" + (f"\nDice: {each}" if len(dice) <= _NAMED else "")
        overlay_png(image, found, reference.array, reference.grid, evaluation.labels, path, title)
        pictures.append(path)
    return pictures, remarks


def find_images(references: Path) -> Path | None:
    """The folder of the scans beside a folder of references: imagesTr for labelsTr, imagesTs for labelsTs, if it is
    there.
    """
    folder = (references if references.is_dir() else references.parent).resolve()
    beside = folder.with_name(folder.name.replace("labels", "images", 1))
    return beside if beside != folder and beside.is_dir() else None


def image_of(case: str, images: Path | None) -> Path | None:
    """The file (or DICOM folder) of the case's first channel in ``images``, or ``images`` itself if it is a file."""
    if images is None or images.is_file():
        return images
    stems = (f"{case}_0000", case)
    names = [f"{stem}{ending}" for stem in stems for ending in (*FILE_ENDINGS, "")]
    usual = next((images / name for name in names if (images / name).exists()), None)
    # An ending in capitals is found by looking at all of them.
    return usual or next((path for path in sorted(images.iterdir()) if name_without_ending(path) in stems), None)


def read_scan(path: Path, grid: Grid) -> np.ndarray:
    """The first channel (X, Y, Z) of the scan in ``path``. ImageError if it cannot be read or has not the shape of
    ``grid``.
    """
    array = read_volume([path]).array[0]
    if array.shape != grid.shape:
        raise ImageError(f"{path}: has another shape than the labels, so it is not shown")
    return array


def _centroid(mask: np.ndarray) -> tuple[int, ...]:
    if not mask.any():
        return tuple(n // 2 for n in mask.shape)
    return tuple(round(float(indices.mean())) for indices in np.nonzero(mask))


def _window(mask: np.ndarray) -> list[tuple[int, int]]:
    """First and one-past-last voxel shown on each axis."""
    window = []
    for axis, size in enumerate(mask.shape):
        occupied = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
        if not len(occupied):
            window.append((0, size))
            continue
        margin = max(3, round(MARGIN * (occupied[-1] - occupied[0] + 1)))
        window.append((max(0, int(occupied[0]) - margin), min(size, int(occupied[-1]) + 1 + margin)))
    return window


def _extent_mm(plane: _Plane, window: Sequence[tuple[int, int]], spacing_mm: TripleMm) -> tuple[float, float]:
    width, height = ((window[axis][1] - window[axis][0]) * spacing_mm[axis] for axis in plane.across)
    return width, height


def _cut(array: np.ndarray, plane: _Plane, centre: Sequence[int], window: Sequence[tuple[int, int]]) -> np.ndarray:
    """The plane's voxels within the window, (vertical, horizontal), first row at the bottom."""
    index: list[slice | int] = [slice(*window[axis]) for axis in range(3)]
    index[plane.normal] = centre[plane.normal]
    return array[tuple(index)].T


def _draw(
    axis: Axes,
    plane: _Plane,
    spacing_mm: TripleMm,
    grey: np.ndarray | None,
    prediction: np.ndarray,
    reference: np.ndarray,
    labels: Sequence[LabelClass],
    as_errors: bool,
) -> None:
    """One cut, each array (vertical, horizontal): the contours of both segmentations, or the voxels that are wrong."""
    horizontal, vertical = (spacing_mm[a] for a in plane.across)
    rows, columns = reference.shape
    extent = (0, columns * horizontal, 0, rows * vertical)
    if grey is not None:
        low, high = np.percentile(grey, [1, 99])
        axis.imshow(grey, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), origin="lower", extent=extent)
    else:
        axis.imshow(np.zeros_like(reference), cmap="gray", vmin=0, vmax=1, origin="lower", extent=extent)
    if as_errors:
        axis.imshow(_errors(prediction, reference, labels), origin="lower", extent=extent, interpolation="nearest")
    else:
        _contours(axis, prediction, reference, labels, (horizontal, vertical))
    axis.set_xlim(extent[1], extent[0])  # canonical axes grow to the right, front and top; see _PLANES
    axis.set_ylim(extent[2], extent[3])
    axis.set_aspect("equal")
    axis.set_axis_off()
    mark_directions(axis, plane.ends)
    mark_scale(axis, extent[1])


def _errors(prediction: np.ndarray, reference: np.ndarray, labels: Sequence[LabelClass]) -> np.ndarray:
    """(vertical, horizontal, red green blue alpha) from 0 to 255: ``ERRORS`` of the colours, elsewhere transparent.

    Where the reference is neither background nor one of ``labels``, nothing is known to be wrong.
    """
    found, wanted = (np.array([label.mask(array) for label in labels]) for array in (prediction, reference))
    some, needed = found.any(axis=0), wanted.any(axis=0)
    kinds = needed & ~some, some & ~needed & (reference == 0), some & needed & (found != wanted).any(axis=0)
    painted = np.zeros((*prediction.shape, 4), dtype=np.uint8)
    for where, (_, colour) in zip(kinds, colours.ERRORS, strict=True):
        painted[where] = (*colour, 255)
    return painted


def _contours(
    axis: Axes, prediction: np.ndarray, reference: np.ndarray, labels: Sequence[LabelClass], voxel_mm: tuple[float, float]
) -> None:
    rows, columns = reference.shape
    xs, ys = ((np.arange(-1, count + 1) + 0.5) * mm for count, mm in zip((columns, rows), voxel_mm, strict=True))
    for label, colour in zip(labels, label_colours(len(labels)), strict=True):
        for mask, style, width in ((reference, _REFERENCE, 1.3), (prediction, _PREDICTION, 1.8)):
            inside = np.pad(label.mask(mask), 1).astype(float)
            if inside.any():
                colour_here = colour if style is _REFERENCE else _tint(colour)
                axis.contour(xs, ys, inside, levels=[0.5], colors=[colour_here], linestyles=[style], linewidths=width)


def _shown(dice: float) -> str:
    return "absent" if math.isnan(dice) else f"{dice:.3f}"


def _tint(colour: Colour) -> Colour:
    """A lighter shade: the prediction's contour of a label."""
    red, green, blue, alpha = colour
    return 0.45 + 0.55 * red, 0.45 + 0.55 * green, 0.45 + 0.55 * blue, alpha


def _legend(labels: Sequence[LabelClass], label_colours: Sequence[Colour], compared: bool) -> list[Line2D]:
    handles = [Line2D([], [], color="white", linestyle=_REFERENCE, linewidth=1.3, label="reference")] if compared else []
    handles += [
        Line2D([], [], color="white", linestyle=_PREDICTION, linewidth=1.8, label="prediction"),
    ]
    for label, colour in zip(labels, label_colours, strict=True):
        handles.append(Line2D([], [], color=colour, linewidth=4, label=label.name))
    for name, (red, green, blue) in colours.ERRORS if compared else ():
        shade = (red / 255, green / 255, blue / 255)
        handles.append(Line2D([], [], color=shade, marker="s", markersize=9, linestyle="none", label=name))
    return handles
