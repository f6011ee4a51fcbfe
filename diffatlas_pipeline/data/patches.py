"""Patches from stored cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.planning.plan import STORED_LIMIT, Plan
from diffatlas_pipeline.preprocessing.store import StoredCase, open_case
from diffatlas_pipeline.volumes.grids import Triple

IMAGE_PADDING = -1.0  # the image's minimum
DISTANCE_PADDING = STORED_LIMIT  # outside every label; training clips it to +1
FOREGROUND_FRACTION = 0.5


class PatchSource:
    """Draws random patches from the stored ``cases`` of one preprocessed data set.

    Unless they are ``labelled``, what labels they have is not read. Raises DatasetError when there is no case, or one
    is not stored, has no labels though it should, or does not have the plan's channels or labels.
    """

    def __init__(self, folder: Path, cases: Sequence[str], plan: Plan, labelled: bool = True) -> None:
        if not cases:
            raise DatasetError(f"{folder}: no case to draw patches from. Check splits.json.")
        self.patch = plan.patch_size
        self._maps, self._labelled = plan.dataset.distance_maps, labelled
        self._cases = [open_case(folder, case) for case in cases]
        for case in self._cases:
            _check(case, plan, folder, labelled)

    def sample(
        self, rng: np.random.Generator, extent: Triple | None = None, beyond: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """One random patch: image (C, *extent) in [-1, 1] and distances (K, *extent) within ±STORED_LIMIT, both
        float32. With ``beyond`` the image is not cut off where it goes beyond the planned Hounsfield bounds.

        Distances are NaN unless the cases are labelled.

        A patch of the planned size is placed in a random case: half of the time around a random voxel of a random
        label, else anywhere. It stays inside the volume on axes where the volume is larger, and the volume stays inside
        it on axes where the volume is smaller. ``extent`` (default: the patch) asks for a larger or smaller box about
        the same centre, for augmentation to turn and zoom in. What lies outside the volume is padded.
        """
        case = self.draw_case(rng)
        start = self._place(case, rng)
        extent = extent or self.patch
        start = [s - (e - p) // 2 for s, e, p in zip(start, extent, self.patch, strict=True)]
        image = _read_padded(case.image, start, extent, -np.inf)
        empty = np.isneginf(image)
        image[empty] = min(IMAGE_PADDING, float(image.min(where=~empty, initial=np.inf))) if beyond else IMAGE_PADDING
        if not beyond:
            np.clip(image, -1, 1, out=image)
        if not self._labelled:
            return image, np.full((self._maps, *extent), np.nan, dtype=np.float32)
        assert case.distances is not None  # checked when the case was opened
        return image, _read_padded(case.distances, start, extent, DISTANCE_PADDING)

    def draw_case(self, rng: np.random.Generator) -> StoredCase:
        """The case of the next :meth:`sample`."""
        return self._cases[int(rng.integers(len(self._cases)))]

    def _place(self, case: StoredCase, rng: np.random.Generator) -> list[int]:
        """First voxel of the patch, negative where it begins before the volume."""
        around = rng.random() < FOREGROUND_FRACTION and self._labelled
        room = [n - p for n, p in zip(case.shape, self.patch, strict=True)]
        start = [int(rng.integers(min(0, r), max(0, r) + 1)) for r in room]
        present = [points for k in range(len(case.facts.foreground)) if len(points := case.foreground(k))]
        if around and present:
            points = present[int(rng.integers(len(present)))]
            voxel = points[int(rng.integers(len(points)))]
            for axis, r in enumerate(room):
                if r > 0:  # a smaller volume lies in the patch whole, wherever its labels are
                    start[axis] = int(np.clip(voxel[axis] - self.patch[axis] // 2, 0, r))
        return start


def _check(case: StoredCase, plan: Plan, folder: Path, labelled: bool) -> None:
    facts = case.facts
    if labelled and facts.distances is None:
        raise DatasetError(f"{folder}: case '{case.case}' is unlabelled, so it cannot train. Leave it out of the split.")
    planned = len(plan.channels), plan.dataset.distance_maps
    found = facts.image.shape[0], facts.distances.shape[0] if labelled and facts.distances else planned[1]
    if found != planned:
        raise DatasetError(
            f"{folder}: case '{case.case}' is stored with {found[0]} channel(s) and {found[1]} distance map(s), but the plan "
            f"has {planned[0]} and {planned[1]}. Run `plan_and_preprocess` again."
        )
    if facts.plan and facts.plan != plan.stored_digest():
        raise DatasetError(
            f"{folder}: case '{case.case}' was made with another plan: spacing_mm, channels, labels, dimensions or "
            "distance.tau_mm in plans.json were changed since. Restore them, or plan anew with `plan_and_preprocess` and "
            "`overwrite`."
        )


def _read_padded(array: np.ndarray, start: Sequence[int], extent: Triple, padding: float) -> np.ndarray:
    """The box of ``array`` (C, X, Y, Z) that begins at ``start``, as float32 (C, *extent)."""
    # Not acvl_utils' crop_and_pad_nd: it fills a box wholly outside the volume with 0, which is every label's surface.
    low = [max(0, s) for s in start]
    high = [min(n, s + e) for n, s, e in zip(array.shape[1:], start, extent, strict=True)]
    if all(s == lo and s + e == hi for s, e, lo, hi in zip(start, extent, low, high, strict=True)):
        return _read(array, low, high).astype(np.float32)
    box = np.full((array.shape[0], *extent), padding, dtype=np.float32)
    if all(lo < hi for lo, hi in zip(low, high, strict=True)):
        inside = tuple(slice(lo - s, hi - s) for lo, hi, s in zip(low, high, start, strict=True))
        box[(slice(None), *inside)] = _read(array, low, high)
    return box


def _read(array: np.ndarray, low: Sequence[int], high: Sequence[int]) -> np.ndarray:
    return np.asarray(array[(slice(None), *(slice(lo, hi) for lo, hi in zip(low, high, strict=True)))])
