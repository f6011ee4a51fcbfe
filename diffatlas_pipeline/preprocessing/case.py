"""One case: from its native grid to the planned one, and every way back.

native → (orient, make axes perpendicular) → canonical → (crop to content) → normalise / encode labels → (resample) →
planned grid.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from diffatlas_pipeline.datasets.codes import Codes, codes_of
from diffatlas_pipeline.errors import ImageError
from diffatlas_pipeline.machine import available_bytes
from diffatlas_pipeline.planning.plan import ChannelPlan, Plan
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT, decode_labels, encode_mask
from diffatlas_pipeline.preprocessing.normalisation import beyond_bounds, denormalise, normalise
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.channels import missing_channels, with_missing, without_missing
from diffatlas_pipeline.volumes.crop import content_box, crop, uncrop
from diffatlas_pipeline.volumes.grids import Grid, LabelVolume, Triple, TripleMm, Volume
from diffatlas_pipeline.volumes.orientation import canonical_grid, from_canonical
from diffatlas_pipeline.volumes.resample import resample, resampled_shape
from diffatlas_pipeline.volumes.upright import on_grid, to_upright

IMAGE_ORDER = 3
# Labels of real scans come back best from distance maps that are interpolated cubically on the way to the native grid;
# on the way from it linear is better where the planned grid is coarser (Dice 0.988 against 0.987 at 1.5 times the
# spacing, 0.974 against 0.970 at twice), cubic elsewhere (0.9998 against 0.998 at 1.1 times).
RESTORE_ORDER = 3
COARSER = 1.25
_COPIES = 3  # of an image, or of distance maps, in float32, at least, while a scan is prepared
ANISOTROPY = 3.0  # an axis this much coarser than the finest is not interpolated cubically: it would ring between slices


def prepare_image(
    volume: Volume, plan: Plan, modality: str | None = None, beyond: bool = False
) -> tuple[np.ndarray, SpatialRecord]:
    """A scan as the network sees it: (C, x, y, z) float32 in [-1, 1] at the planned spacing, and how it came there.

    With ``beyond``, what is cut off at the planned Hounsfield bounds goes on beyond -1 and 1, for augmentation;
    clipped, it is the same image. Channels that are missing stay NaN. Raises ImageError when the number of channels or
    of dimensions is not the plan's.
    """
    _check(volume, plan)
    missing = missing_channels(volume.array)
    channels = [channel for c, channel in enumerate(plan.channels) if c not in missing]
    canonical, grid = to_upright(without_missing(volume.array), volume.grid)
    start, shape = content_box(canonical)
    spacing_mm = grid.spacing_mm
    planned_spacing_mm = plan.spacing_mm if plan.dimensions == 3 else (*plan.spacing_mm[:2], spacing_mm[2])
    record = SpatialRecord(
        native=volume.grid,
        canonical=grid,
        crop_start=start,
        crop_shape=shape,
        planned_shape=resampled_shape(shape, spacing_mm, planned_spacing_mm),
        planned_spacing_mm=planned_spacing_mm,
    )
    _check_size(record, len(plan.channels), volume.source)
    cropped = crop(canonical, start, shape)
    image = normalise(cropped, channels, modality)
    image = resample(image, record.planned_shape, _image_order(spacing_mm, planned_spacing_mm))
    image = np.clip(image, -1, 1).astype(np.float32, copy=False)  # cubic interpolation overshoots
    excess = beyond_bounds(cropped, channels, modality) if beyond else None
    if excess is not None:
        excess = resample(excess, record.planned_shape, (1, 1, 1))
        image = np.where(image >= 1, image + np.maximum(excess, 0), image)
        image = np.where(image <= -1, image + np.minimum(excess, 0), image)
    return with_missing(image, missing), record


def prepare_labels(labels: LabelVolume, record: SpatialRecord, plan: Plan) -> np.ndarray:
    """Distance maps (K, x, y, z) float32 in units of tau, on the planned grid of the image that ``record`` belongs to.

    Distances are computed at native spacing, where the labels are exact, and the continuous maps are resampled. Where
    the plan knows an ignore label there are (2 K, x, y, z): the largest distances that may be true, as if no such voxel
    had the label, and then the smallest, as if all had. Raises ImageError when the labels do not have the image's
    shape.
    """
    if labels.array.shape != record.native.shape:
        raise ImageError(
            f"{labels.source}: labels have shape {labels.array.shape}, the image {record.native.shape}. "
            "Both must lie on one grid: resample the labels to the image."
        )
    _check_size(record, plan.dataset.distance_maps, labels.source)
    upright, grid = to_upright(labels.array[None], labels.grid, is_label=True)
    cropped = crop(upright, record.crop_start, record.crop_shape)[0]
    count, order = len(plan.dataset.labels), _distance_order(grid.spacing_mm, record.planned_spacing_mm)
    planned = np.empty((plan.dataset.distance_maps, *record.planned_shape), dtype=np.float32)
    unknown = False if plan.dataset.ignore is None else cropped == plan.dataset.ignore
    for k in range(len(planned)):  # one at a time: native maps of many labels together may not fit
        mask = plan.dataset.labels[k % count].mask(cropped)
        native = encode_mask(mask if k < count else mask | unknown, grid.spacing_mm, plan.distance.tau_mm)
        planned[k] = resample(native[None], record.planned_shape, order)[0]
    if len(planned) > count:
        np.minimum(planned[count:], planned[:count], out=planned[count:])  # interpolated cubically, they may cross
    return np.clip(planned, -STORED_LIMIT, STORED_LIMIT, out=planned)  # cubic interpolation overshoots where maps are cut off


def restore_distances(distances: Iterable[np.ndarray], record: SpatialRecord) -> np.ndarray:
    """The inverse of the spatial steps: K maps (x, y, z) planned -> (K, X, Y, Z) float32 native; +STORED_LIMIT outside
    the crop.
    """
    native = [_to_native(one[None], record, STORED_LIMIT, STORED_LIMIT) for one in distances]
    return np.concatenate(native) if native else np.empty((0, *record.native.shape), dtype=np.float32)


def restore_image(image: np.ndarray, record: SpatialRecord, channels: Sequence[ChannelPlan]) -> np.ndarray:
    """``image`` (C, x, y, z) in [-1, 1] on the planned grid -> (C, X, Y, Z) float32 on the native one, denormalised as
    far as the plan tells; outside the crop as dark as it can be.
    """
    return denormalise(np.concatenate([_to_native(one[None], record, 1, -1) for one in image]), channels)


def restore_labels(distances: Iterable[np.ndarray], record: SpatialRecord, plan: Plan) -> np.ndarray:
    """K distance maps (x, y, z) on the planned grid -> (X, Y, Z) int32 on the native grid, in the data set's label
    values.

    Equal to decoding :func:`restore_distances`, in the memory of two labels whatever their number (of overlapping ones,
    of all values that segmentations may have).
    """
    codes = codes_of(plan.dataset.labels)
    if record.native.is_sheared:  # labels themselves cannot be interpolated
        return decode_labels(restore_distances(distances, record), codes)
    nearest = np.full(record.crop_shape, np.inf, dtype=np.float32)
    shared = np.zeros(record.crop_shape, dtype=bool)  # zero distance to more than one label: on their common face
    labels = np.zeros(record.crop_shape, dtype=np.int32)
    for value, score in zip(codes.values, _native_scores(distances, record, codes, limit=STORED_LIMIT), strict=True):
        shared |= (score == 0) & (nearest == 0)
        closer = score < nearest
        nearest[closer] = score[closer]
        labels[closer] = value
    labels[~((nearest < 0) | ((nearest == 0) & shared))] = 0
    full = uncrop(labels[None], record.crop_start, record.canonical.shape, 0)
    return from_canonical(full, record.native)[0].astype(np.int32, copy=False)


def restore_error_probability(
    distances: Iterable[np.ndarray], record: SpatialRecord, sharpness: float, plan: Plan
) -> np.ndarray:
    """K distance maps (x, y, z) on the planned grid -> (X, Y, Z) float32 native: the probability that the label of
    :func:`restore_labels` is wrong. 0 outside the crop.

    Logits are 0 for the background and ``-sharpness`` times the distance for a label (the score for a code); the one
    found has the largest.
    """
    total = np.zeros(record.crop_shape, dtype=np.float32)  # log of the sum of exponentials; so far, of the background's
    largest = np.zeros(record.crop_shape, dtype=np.float32)
    for score in _native_scores(distances, record, codes_of(plan.dataset.labels), limit=1.0):
        logit = np.float32(-sharpness) * score
        np.logaddexp(total, logit, out=total)
        np.maximum(largest, logit, out=largest)
    wrong = -np.expm1(largest - total)
    return _uncropped(wrong[None], record, 0)[0].astype(np.float32, copy=False)


def _native_scores(distances: Iterable[np.ndarray], record: SpatialRecord, codes: Codes, limit: float) -> Iterator[np.ndarray]:
    """The score (X, Y, Z) of each code on the crop, of distances that are cut off at +-``limit``."""

    def native(distance: np.ndarray) -> np.ndarray:
        found = resample(np.asarray(distance, dtype=np.float32)[None], record.crop_shape, RESTORE_ORDER)[0]
        return np.clip(found, -limit, limit)

    if codes.exclusive:
        yield from (native(one) for one in distances)
        return
    totals = np.zeros((len(codes.values), *record.crop_shape), dtype=np.float32)
    for number, distance in enumerate(distances):
        one = native(distance)
        for total, members in zip(totals, codes.members, strict=True):
            if number in members:
                total += one
    yield from totals


def restore_probabilities(distances: np.ndarray, record: SpatialRecord, sharpness: float, codes: Codes) -> np.ndarray:
    """Distance maps (K, x, y, z) on the planned grid -> (1 + V, X, Y, Z) float16 native: the probabilities of the
    background and of each of the ``codes`` (of each label, unless they overlap), by the logits of
    :func:`restore_error_probability`. Outside the crop is background.
    """
    logits = np.zeros((1 + len(codes.values), *record.crop_shape), dtype=np.float32)
    for logit, score in zip(logits[1:], _native_scores(distances, record, codes, limit=1.0), strict=True):
        np.multiply(score, np.float32(-sharpness), out=logit)
    logits -= logits.max(axis=0)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=0)
    return _native_shares(logits, record)


def restore_mean_probabilities(labels: np.ndarray, record: SpatialRecord) -> np.ndarray:
    """:func:`restore_probabilities` from those of the ``labels`` (K, x, y, z) on the planned grid, which are
    interpolated linearly: so they stay probabilities.
    """
    shares = np.empty((1 + len(labels), *record.crop_shape), dtype=np.float32)
    shares[1:] = resample(np.asarray(labels, dtype=np.float32), record.crop_shape, 1)
    shares[0] = np.clip(1 - shares[1:].sum(axis=0), 0, 1)
    return _native_shares(shares, record)


def distances_on_crop(distances: np.ndarray, record: SpatialRecord) -> Iterator[np.ndarray]:
    """Distance maps (K, x, y, z) on the planned grid, one after the other on the crop of the canonical one."""
    for distance in distances:
        yield resample(np.asarray(distance, dtype=np.float32)[None], record.crop_shape, RESTORE_ORDER)[0]


def labels_on_crop(labels: LabelVolume, record: SpatialRecord) -> np.ndarray:
    """``labels`` of a scan on the crop of its canonical grid."""
    upright, _ = to_upright(labels.array[None], labels.grid, is_label=True)
    return crop(upright, record.crop_start, record.crop_shape)[0]


def _native_shares(shares: np.ndarray, record: SpatialRecord) -> np.ndarray:
    """(1 + K, x, y, z) on the crop -> (1 + K, X, Y, Z) float16 native; around it all is the first."""
    native = np.empty((len(shares), *record.native.shape), dtype=np.float16)
    for index, share in enumerate(shares):
        native[index] = _uncropped(share[None], record, float(index == 0))[0]
    return native


def _to_native(planned: np.ndarray, record: SpatialRecord, limit: float, outside: float) -> np.ndarray:
    """(1, x, y, z) planned -> (1, X, Y, Z) native, within +-``limit``, and ``outside`` around the crop."""
    cropped = resample(np.asarray(planned, dtype=np.float32), record.crop_shape, RESTORE_ORDER)
    np.clip(cropped, -limit, limit, out=cropped)
    return _uncropped(cropped, record, outside)


def _uncropped(cropped: np.ndarray, record: SpatialRecord, outside: float) -> np.ndarray:
    """(1, x, y, z) on the crop -> (1, X, Y, Z) native, with ``outside`` around it."""
    upright = uncrop(cropped, record.crop_start, record.canonical.shape, outside)
    canonical = on_grid(upright, record.canonical, _canonical_of(record), 1, [outside])
    return from_canonical(canonical, record.native)


def _canonical_of(record: SpatialRecord) -> Grid:
    """The native grid in canonical orientation, before its axes were made perpendicular."""
    return canonical_grid(record.native) if record.native.is_sheared else record.canonical


def _image_order(spacing_mm: TripleMm, planned_spacing_mm: TripleMm) -> Triple:
    """Interpolation order per axis."""

    def coarse(spacing: TripleMm, axis: int) -> bool:
        return spacing[axis] > ANISOTROPY * min(spacing)

    x, y, z = (1 if coarse(spacing_mm, a) or coarse(planned_spacing_mm, a) else IMAGE_ORDER for a in range(3))
    return x, y, z


def _distance_order(spacing_mm: TripleMm, planned_spacing_mm: TripleMm) -> Triple:
    """Interpolation order per axis of distance maps on their way to the planned grid."""
    x, y, z = (1 if new > COARSER * old else 3 for old, new in zip(spacing_mm, planned_spacing_mm, strict=True))
    return x, y, z


def _check_size(record: SpatialRecord, channels: int, source: str) -> None:
    """ImageError for a scan that at the planned spacing does not fit into memory: its spacing is most often wrong."""
    needed = _COPIES * 4 * channels * math.prod(record.planned_shape)
    free = available_bytes()
    if free is not None and needed > free:
        found, planned = (" x ".join(str(n) for n in shape) for shape in (record.crop_shape, record.planned_shape))
        spacing = " x ".join(f"{edge:.4g}" for edge in record.canonical.spacing_mm)
        raise ImageError(
            f"{source}: {found} voxels of {spacing} mm are {planned} at the planned spacing, which takes "
            f"{needed / 1e9:.1f} GB; {free / 1e9:.1f} GB are free. If its spacing is right, crop it, or use a computer with "
            "more memory."
        )


def _check(volume: Volume, plan: Plan) -> None:
    """Channels and dimensions as planned."""
    found = volume.array.shape[0]
    if found != len(plan.channels):
        names = ", ".join(channel.name for channel in plan.channels)
        raise ImageError(
            f"{volume.source}: {found} channel(s), but the plan has {len(plan.channels)} ({names}). Give one file for each."
        )
    if plan.dimensions == 2 and volume.array.shape[3] != 1:
        raise ImageError(
            f"{volume.source}: a volume of shape {volume.array.shape[1:]}, but the plan is for two-dimensional images. "
            "Give single slices, or train on volumes."
        )
    if plan.dimensions == 3 and volume.grid.dimensions == 2:
        raise ImageError(f"{volume.source}: a two-dimensional image, but the plan is for volumes. Give the whole volume.")
