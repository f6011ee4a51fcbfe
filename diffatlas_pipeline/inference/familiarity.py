"""Does a scan belong to what a model has learnt? A few numbers of the scan and of the segmentation that was found in it
are compared with those of cases that the model should know.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline.errors import ModelError
from diffatlas_pipeline.scratch import release

Description = dict[str, tuple[float | None, ...]]
"""Numbers by aspect; None is a number that the scan does not have, such as the brightness of a label that is absent."""

# What one case of a few differs from the others by chance, at least: added to the standard deviation of a number.
SMALLEST = {
    "brightness": 0.03,
    "texture": 0.05,
    "sizes": 0.08,
    "places": 1.0,
    "image_error": 0.05,
    "mask_error": 0.15,
}
OF_CONTRAST = frozenset(("brightness", "texture", "image_error"))  # of no meaning where a scan's contrast is another
WORDS = {
    "brightness": "how bright the structures are",
    "texture": "the texture of the image",
    "sizes": "the sizes of the structures",
    "places": "where the structures lie to each other",
    "image_error": "how badly the model restores the image from noise",
    "mask_error": "how badly the model restores the segmentation from noise",
}
FEWEST = 4  # cases, below which nothing can be said
MOST = 1e6  # of any number
NEAR = 0.7  # of tau: what surrounds the structures
# The limit lies so far above the most unusual known case: few are known, and others are more unusual. A mean over fewer
# aspects varies more, so it is higher for shapes alone and for scans that lack channels.
MARGIN, MARGIN_OF_SHAPES = 1.15, 1.4


@dataclass(frozen=True)
class Familiarity:
    """How far a scan lies from the known ones: ``score`` in standard deviations, about 1 for a usual one, ``limit``
    what none of the known ones reaches, and the distance in each of its ``aspects``.
    """

    score: float
    limit: float
    aspects: dict[str, float]

    @property
    def is_foreign(self) -> bool:
        """Whether the scan is further from the known cases than any of these from the others."""
        return self.score > self.limit

    @property
    def warning(self) -> str | None:
        """What to tell the user; None for a scan that is not foreign."""
        if not self.is_foreign:
            return None
        most = sorted(self.aspects, key=lambda aspect: -self.aspects[aspect])[:2]
        return (
            f"it may not belong to what the model has learnt: it is {self.score:.1f} standard deviations from the cases that "
            f"the model knows, {self.limit:.1f} are the limit. Most unusual: {' and '.join(WORDS[one] for one in most)}. "
            "Look at its segmentation"
        )


@dataclass(frozen=True)
class KnownCases:
    """What a model keeps of cases that it should know: their names, whether they were ``held_out`` of its training, and
    their descriptions.
    """

    cases: tuple[str, ...]
    held_out: bool
    described: tuple[dict[str, tuple[float | None, ...]], ...]
    version: int = 1

    def __post_init__(self) -> None:
        numbers = [number for one in self.described for row in one.values() for number in row if number is not None]
        if len(self.cases) != len(self.described) or not all(abs(number) <= MOST for number in numbers):
            raise ValueError(f"described: expected one entry for each case, with numbers from -{MOST:g} to {MOST:g}")

    def compare(self, found: Description, other_contrast: bool = False, lacks_channels: bool = False) -> Familiarity | None:
        """How far a scan lies from the known cases; by its shapes alone if it is of an ``other_contrast``, by what it
        has if it ``lacks_channels``.

        None where too few cases are known. The score is the root mean square over aspects of :func:`distance`. The
        limit comes from the known cases, each compared with the others.
        """
        known = [_as_far_as(found, one) for one in self.described] if lacks_channels else self.described
        left_out = OF_CONTRAST if other_contrast else frozenset[str]()
        in_all = set(found).intersection(*known) - left_out
        aspects = [aspect for aspect in SMALLEST if aspect in in_all]
        if any(len(one[aspect]) != len(found[aspect]) for one in known for aspect in aspects):
            raise ModelError("known_cases.json is not of this model's channels and labels. Restore the model folder.")
        if len(self.described) < FEWEST or not aspects:
            return None
        among = [
            _root_mean_square(_distances(one, [other for other in known if other is not one], aspects).values())
            for one in known
        ]
        distances = _distances(found, known, aspects)
        margin = MARGIN_OF_SHAPES if other_contrast or lacks_channels else MARGIN
        return Familiarity(_root_mean_square(distances.values()), margin * max(among), distances)


def described(image: np.ndarray, distances: np.ndarray, spacing_mm: Sequence[float]) -> Description:
    """Brightness, texture, sizes and places of ``image`` (C, x, y, z) in [-1, 1] and the segmentation found in it.

    ``distances`` (K, x, y, z) are in units of tau, negative inside. Numbers of a channel that is missing (NaN) are
    None.
    """
    count = len(distances)
    regions = _regions(distances)  # of each label, 1 to count, and of what surrounds them
    values = range(1, count + 2)
    return {
        "brightness": tuple(n for channel in image for value in values for n in _brightness(channel[regions == value])),
        "texture": tuple(number for channel in image for number in _texture(channel)),
        "sizes": tuple(float(np.log1p(np.count_nonzero(regions == value))) for value in values[:-1]),
        "places": tuple(_places(regions, count, spacing_mm)),
    }


def _regions(distances: np.ndarray) -> np.ndarray:
    """The number of the label (x, y, z) found at each voxel, that after the last where one is near, and 0 elsewhere."""
    count, shape = len(distances), distances.shape[1:]
    regions = np.zeros(shape, dtype=np.uint8 if count < 255 else np.int32)
    for x in range(shape[0]):  # the maps may lie in a file, and be larger than the memory
        plane = distances[:, x]
        smallest = plane.min(axis=0)
        around = np.where(smallest < NEAR, count + 1, 0)
        regions[x] = np.where(smallest < 0, plane.argmin(axis=0) + 1, around)
        release()
    return regions


def distance(found: Sequence[float | None], known: Sequence[Sequence[float | None]], smallest: float) -> float | None:
    """Root mean square over numbers of how many standard deviations of the ``known`` cases ``found`` lies from their
    mean.

    Numbers that ``found`` or all known cases lack do not count; None if there are no others.
    """
    values = np.array([[np.nan if number is None else number for number in row] for row in [found, *known]], dtype=float)
    usable = ~np.isnan(values[0]) & (np.count_nonzero(~np.isnan(values[1:]), axis=0) > 1)
    if not usable.any():
        return None
    values = values[:, usable]
    deviation = np.sqrt(np.nanvar(values[1:], axis=0, ddof=1) + smallest**2)
    return float(np.sqrt(np.mean(((values[0] - np.nanmean(values[1:], axis=0)) / deviation) ** 2)))


def _distances(
    found: Description, known: Sequence[Mapping[str, tuple[float | None, ...]]], aspects: Sequence[str]
) -> dict[str, float]:
    """:func:`distance` by aspect, of those that have one."""
    each = {aspect: distance(found[aspect], [one[aspect] for one in known], SMALLEST[aspect]) for aspect in aspects}
    return {aspect: value for aspect, value in each.items() if value is not None}


def _as_far_as(found: Description, known: Mapping[str, tuple[float | None, ...]]) -> Description:
    """Those numbers of ``known`` that ``found`` has, too."""
    return {
        aspect: tuple(None if own is None else number for own, number in zip(found[aspect], numbers, strict=True))
        for aspect, numbers in known.items()
        if aspect in found
    }


def _brightness(values: np.ndarray) -> tuple[float | None, float | None]:
    """Mean and standard deviation of the image in a region; None where there is none."""
    return (float(values.mean()), float(values.std())) if len(values) and not np.isnan(values[0]) else (None, None)


def _texture(channel: np.ndarray) -> list[float | None]:
    """How much neighbouring voxels differ along each axis (x, y, z), compared with the whole image, as logarithm."""
    if np.isnan(channel.flat[0]):
        return [None] * 3
    whole = float(channel.std()) + 1e-3
    found: list[float | None] = []
    for axis in range(3):
        step = np.diff(channel, axis=axis)
        np.abs(step, out=step)
        found.append(float(np.log(step.mean() / whole + 1e-3)) if step.size else None)
    return found


def _places(regions: np.ndarray, count: int, spacing_mm: Sequence[float]) -> list[float | None]:
    """Where the middle of each of the ``count`` labels lies from that of all, along each axis, in mean voxels.

    Of a single label it is how lopsided that is: the cube root of its third moment.
    """
    units = np.asarray(spacing_mm) / np.mean(spacing_mm)
    everything = _counts((regions > 0) & (regions <= count))
    if not everything[0].any():
        return [None] * (3 * count)
    middle = _means(everything, units)
    if count == 1:
        off = [(np.arange(len(n)) * unit - mean) ** 3 for n, unit, mean in zip(everything, units, middle, strict=True)]
        return [float(np.cbrt(np.average(cube, weights=n))) for cube, n in zip(off, everything, strict=True)]
    places: list[float | None] = []
    for value in range(1, count + 1):
        own = _counts(regions == value)
        found = own[0].any()
        places += [float(number) for number in _means(own, units) - middle] if found else [None] * 3
    return places


def _counts(mask: np.ndarray) -> list[np.ndarray]:
    """How many voxels of ``mask`` lie in each plane across each axis."""
    yz = [np.count_nonzero(plane, axis=1) for plane in mask]
    xz = np.sum([np.count_nonzero(plane, axis=0) for plane in mask], axis=0)
    return [np.array([row.sum() for row in yz]), np.sum(yz, axis=0), xz]


def _means(counts: Sequence[np.ndarray], units: np.ndarray) -> np.ndarray:
    """The mean place along each axis."""
    means = [np.average(np.arange(len(n)), weights=n) for n in counts]
    return np.array(means) * units


def _root_mean_square(values: Iterable[float]) -> float:
    return float(np.sqrt(np.mean(np.square(list(values))))) if values else 0.0
