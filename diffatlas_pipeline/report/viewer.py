"""Volumes for the viewer in the page: cropped, 8 bits, compressed; and the viewer itself."""

from __future__ import annotations

import base64
import functools
import gzip
import importlib.util
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.evaluation.overlays import read_scan
from diffatlas_pipeline.report.sources import CaseSource
from diffatlas_pipeline.volumes.crop import mask_box
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import read_labels
from diffatlas_pipeline.volumes.nifti import nifti_bytes
from diffatlas_pipeline.volumes.orientation import to_canonical
from diffatlas_pipeline.volumes.resample import resample

PACKAGE = "jupyterlab_niivue"  # the smallest package with a bundle of NiiVue: BSD-2, needs no other package
_BUNDLE = "labextension/static/niivue/index.js"
_EXTENDS = "extends EventTarget"
MARGIN, MARGIN_MM = 0.25, 10.0  # shown around the labels: a share of their extent, but at least so many mm
MOST_VOXELS = 160**3  # larger crops are shown with larger voxels
MOST_PROBABLE = 0.5  # of an error, at the end of the scale: between two labels it cannot be more
UNCERTAINTY_STEPS = 31  # up to there; there is one volume per model, and finer steps would double its size
_FRAME = 120  # bytes of markup and scores around a volume
NOT_KNOWN = 255  # in the reference: voxels with the ignore label
WINDOW = (0.5, 99.5)  # percentiles of the crop shown as black and white


@dataclass(frozen=True)
class EmbeddedCase:
    """A case as the page holds it: gzipped NIfTI files in base64. ``layers``: per cell (segmentation, uncertainty).

    ``start`` is where the viewer begins, as shares of the shown part along X, Y and Z: inside a structure.
    """

    source: CaseSource
    image: str
    reference: str
    layers: dict[str, tuple[str, str]]
    reduced: bool  # shown with larger voxels than it has
    problems: tuple[str, ...]
    start: tuple[float, ...] = (0.5, 0.5, 0.5)

    @property
    def size(self) -> int:
        """Bytes in the page, with what names and frames them."""
        volumes = [self.image, self.reference, *(part for pair in self.layers.values() for part in pair)]
        return sum(map(len, volumes)) + _FRAME * (2 + len(volumes))


def niivue_bundle() -> str | None:
    """The JavaScript module of NiiVue, gzipped, in base64; None if it is not installed or not as expected.

    The package holds NiiVue inside a module that exports nothing. The class is the last one that extends EventTarget
    before the definition of ``attachToCanvas``; a line at the end hands it to the page as ``globalThis.Niivue``.
    """
    found = importlib.util.find_spec(PACKAGE)
    path = Path(found.origin).parent / _BUNDLE if found and found.origin else None
    return _bundle(path) if path is not None and path.is_file() else None


@functools.cache
def _bundle(path: Path) -> str | None:
    code = path.read_text(encoding="utf-8")
    start = code.rfind(_EXTENDS, 0, max(0, code.find("async attachToCanvas(")))
    name = re.search(r"([\w$]+) ?= ?class(?: [\w$]+)? ?$", code[max(0, start - 80) : start]) if start >= 0 else None
    if name is None:
        return None
    code = re.sub(r"^//# sourceMappingURL=.*$", "", code, flags=re.MULTILINE)
    return _packed(f"{code}\nglobalThis.Niivue = {name[1]};\n".encode())


def embed_case(source: CaseSource, labels: Sequence[LabelClass], ignore: int | None = None) -> EmbeddedCase:
    """Read, crop and compress the volumes of a case. What cannot be read or does not fit is left out and listed.

    Voxels of the reference with the value ``ignore`` become NOT_KNOWN.
    """
    problems: list[str] = []
    masks: dict[str, np.ndarray] = {}
    grid: Grid | None = None
    paths = [*([("", source.reference)] if source.reference else []), *source.segmentations]
    for key, path in paths:
        try:
            volume = read_labels(path)
        except ImageError as error:
            problems.append(str(error))
            continue
        if grid is not None and volume.array.shape != grid.shape:
            problems.append(f"{path}: has another shape than the other files of {source.title}, so it is not shown")
            continue
        grid = grid or volume.grid
        indices = _indices(volume.array, labels)
        if ignore is not None and not key:
            indices[volume.array == ignore] = NOT_KNOWN
        masks[key] = to_canonical(indices[None], volume.grid)[0][0]
    if grid is None:
        return EmbeddedCase(source, "", "", {}, False, tuple(problems))
    canonical = to_canonical(np.zeros((1, *grid.shape), dtype=np.uint8), grid)[1]
    shown = np.logical_or.reduce([(mask > 0) & (mask < NOT_KNOWN) for mask in masks.values()])
    box = mask_box(shown, _margin(shown, canonical))
    shape = tuple(part.stop - part.start for part in box)
    factor = max(1.0, (np.prod(shape) / MOST_VOXELS) ** (1 / 3))
    size = tuple(max(1, round(n / factor)) for n in shape)
    affine = canonical.of_box(box, size).matrix

    def part_of(array: np.ndarray, order: int) -> np.ndarray:
        return resample(array[box][None], size, order)[0] if factor > 1 else array[box]  # type: ignore[arg-type]

    def packed(array: np.ndarray, order: int, slope: float = 1.0, inter: float = 0.0) -> str:
        grey = np.rint(np.clip((part_of(array, order) - inter) / slope, 0, 255)).astype(np.uint8)
        return _packed(nifti_bytes(grey, affine, slope, inter))

    scan = _scan(source.image, grid, problems)
    low, high = (0.0, 1.0) if scan is None else (float(v) for v in np.percentile(scan[box], WINDOW))
    image = packed(np.zeros(canonical.shape) if scan is None else scan, 1, max(high - low, 1e-6) / 255, low)
    errors = {key: array for key, path in source.uncertainties if (array := _scan(path, grid, problems)) is not None}
    layers = {}
    for key, mask in masks.items():
        if key:
            uncertainty = (
                packed(errors[key].clip(0, MOST_PROBABLE), 1, MOST_PROBABLE / UNCERTAINTY_STEPS) if key in errors else ""
            )
            layers[key] = packed(mask, 0), uncertainty
    reference = packed(masks[""], 0) if "" in masks else ""
    start = _inside([np.rint(part_of(np.where(mask < NOT_KNOWN, mask, 0), 0)).astype(np.uint8) for mask in masks.values()])
    return EmbeddedCase(source, image, reference, layers, factor > 1, tuple(problems), start)


def _inside(masks: Sequence[np.ndarray]) -> tuple[float, ...]:
    """The place in the largest structure of all ``masks`` (X, Y, Z) that is nearest to its centroid, as shares of their
    shape; of the first ones where they agree on none, and the middle where there is no structure.
    """
    agreed = np.where(np.logical_and.reduce([mask == masks[0] for mask in masks]), masks[0], 0)
    mask = next((mask for mask in (agreed, *masks) if mask.any()), None)
    if mask is None:
        return (0.5, 0.5, 0.5)
    places = np.argwhere(mask == np.bincount(mask[mask > 0]).argmax())
    nearest = places[np.square(places - places.mean(axis=0)).sum(axis=1).argmin()]
    return tuple(round(float(part), 4) for part in (nearest + 0.5) / mask.shape)


def _packed(content: bytes) -> str:
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


def _indices(array: np.ndarray, labels: Sequence[LabelClass]) -> np.ndarray:
    """Label values (X, Y, Z) as 1 to K in the order of ``labels``, everything else 0; of regions the innermost that a
    voxel is in.
    """
    result = np.zeros(array.shape, dtype=np.uint8)
    for index, label in sorted(enumerate(labels[: NOT_KNOWN - 1]), key=lambda one: -len(one[1].values)):
        result[label.mask(array)] = index + 1
    return result


def _margin(mask: np.ndarray, grid: Grid) -> list[int]:
    box = mask_box(mask)
    extents = [part.stop - part.start for part in box]
    return [max(round(MARGIN * n), math.ceil(MARGIN_MM / mm)) for n, mm in zip(extents, grid.spacing_mm, strict=True)]


def _scan(path: Path | None, grid: Grid, problems: list[str]) -> np.ndarray | None:
    """The first channel of a scan (X, Y, Z) in canonical orientation, None if it cannot be shown on ``grid``."""
    try:
        return None if path is None else to_canonical(read_scan(path, grid)[None], grid)[0][0]
    except ImageError as error:
        problems.append(str(error))
        return None
