"""The fingerprint: everything the planner may know of a data set, measured in two parallel passes over its cases.

The first pass takes the geometry, intensities and label sizes of every case; the second takes spectra and symmetry of
at most fifty, since these need the spacing, normalisation and truncation distance that follow from the first.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from diffatlas_pipeline.datasets.codes import Codes, codes_of
from diffatlas_pipeline.datasets.description import CaseFiles, RawDataset
from diffatlas_pipeline.datasets.sizes import largest_bytes, reading_bytes, reading_memory, useful_workers
from diffatlas_pipeline.errors import DatasetError
from diffatlas_pipeline.parallel import run_cases
from diffatlas_pipeline.planning.fingerprint import CaseShape, Fingerprint, IntensityStatistics, LabelStatistics
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.planning.rules import plan_channels, plan_distance, plan_spacing, rounded
from diffatlas_pipeline.planning.spectrum import RadialPower, no_power, power_spectrum, radial_power
from diffatlas_pipeline.planning.symmetry import CoarseCase, mirror_axes_of_labels, sample_coarsely
from diffatlas_pipeline.volumes.crop import content_box, crop
from diffatlas_pipeline.volumes.distance import inscribed_radius_mm, signed_distance_mm
from diffatlas_pipeline.volumes.grids import Triple, TripleMm
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from diffatlas_pipeline.volumes.resample import resample, resampled_shape
from diffatlas_pipeline.volumes.upright import to_upright

INTENSITY_SAMPLES = 10_000  # foreground voxels per case and channel,
MOST_SAMPLES = 2_000_000  # and of all cases: memory is not to grow with them
MOST_SPECTRA = 50  # cases in the second pass
LONGEST_AXIS = 128  # voxels per axis of a spectrum, around the foreground
MOST_SPECTRUM_LABELS = 16  # per case


@dataclass(frozen=True)
class _FirstTask:
    files: CaseFiles
    codes: Codes
    count: int  # of labels
    ignore: int | None
    samples: int  # foreground voxels to draw, at most


@dataclass(frozen=True)
class _FirstLook:
    """One case: per channel the foreground's (samples, minimum, maximum), and all voxels' (minimum, maximum); per label
    (volume_mm3, radius_mm), None if absent.
    """

    shape: CaseShape
    dimensions: int
    intensities: tuple[tuple[np.ndarray, float, float], ...]
    ranges: tuple[tuple[float, float], ...]
    labels: tuple[tuple[float, float] | None, ...]
    reach_mm: TripleMm  # farthest foreground from its centre, per axis


@dataclass(frozen=True)
class _SecondTask:
    files: CaseFiles
    codes: Codes
    count: int
    ignore: int | None
    spacing_mm: TripleMm
    channels: tuple[ChannelPlan, ...]
    tau_mm: float
    half_extent_mm: TripleMm


@dataclass(frozen=True)
class _SecondLook:
    image: RadialPower
    distance: RadialPower
    coarse: CoarseCase | None  # None without foreground


@dataclass(frozen=True)
class _Case:
    """A case in canonical orientation, cropped to content: image (C, X, Y, Z), labels (X, Y, Z) as
    :meth:`Codes.number` has them, geometry.
    """

    image: np.ndarray
    labels: np.ndarray
    unknown: np.ndarray | None  # (X, Y, Z): voxels with the ignore label, where the data set has one
    spacing_mm: TripleMm
    full_shape: Triple
    dimensions: int


def compute_fingerprint(dataset: RawDataset, workers: int) -> Fingerprint:
    """Measure a checked data set with up to ``workers`` processes; the result does not depend on their number.

    Raises DatasetError when no training case holds any label, or a worker is lost.
    """
    description = dataset.description
    codes, count = codes_of(description.labels), len(description.labels)
    names = [files.case for files in dataset.training]
    workers, largest = useful_workers(dataset.training, workers), largest_bytes(dataset.training, reading_bytes)
    samples = max(1, min(INTENSITY_SAMPLES, MOST_SAMPLES // max(1, len(names))))
    first = [_FirstTask(files, codes, count, description.ignore, samples) for files in dataset.training]
    looks = run_cases(_first_look, first, names, workers, "Fingerprint", memory=_memory, item_bytes=largest)
    dimensions = max(look.dimensions for look in looks)
    intensities = tuple(_intensity_statistics(dataset, looks, c) for c in range(len(description.channels)))
    cases = tuple(look.shape for look in looks)
    plain = [_label_statistics(looks, dataset, index, {}) for index in range(count)]

    spacing_mm, _ = plan_spacing(cases, dimensions)
    channels, _ = plan_channels(description.channels, intensities)
    distance, _ = plan_distance(plain, spacing_mm, dimensions)
    reach = np.max([look.reach_mm for look in looks], axis=0)
    half_extent_mm = (float(reach[0]), float(reach[1]), float(reach[2]))
    chosen = _evenly(range(len(dataset.training)), MOST_SPECTRA)
    tasks = [
        _SecondTask(
            dataset.training[i], codes, count, description.ignore, spacing_mm, channels, distance.tau_mm, half_extent_mm
        )
        for i in chosen
    ]
    seconds = run_cases(_second_look, tasks, [names[i] for i in chosen], workers, "Spectra", memory=_memory, item_bytes=largest)

    coarse = [second.coarse for second in seconds if second.coarse is not None]
    mirrors = mirror_axes_of_labels(coarse, [label.name for label in description.labels], dimensions, codes)
    labels = tuple(_label_statistics(looks, dataset, index, mirrors[index]) for index in range(count))
    image_spectrum = power_spectrum(second.image for second in seconds)
    distance_spectrum = power_spectrum(second.distance for second in seconds)
    return Fingerprint(description, cases, intensities, labels, image_spectrum, distance_spectrum, dimensions)


def _memory(task: _FirstTask | _SecondTask) -> str:
    return reading_memory(task.files)


# ------------------------------------------------------------------------------------------------------ first pass
def _first_look(task: _FirstTask) -> _FirstLook:
    case = _load(task.files, task.codes, task.ignore)
    foreground = case.labels > 0
    rng = np.random.default_rng(zlib.crc32(task.files.case.encode()))
    voxels = np.flatnonzero(foreground)
    drawn = rng.choice(voxels, task.samples, replace=False) if len(voxels) > task.samples else voxels
    intensities = []
    for channel in case.image:
        inside = channel[foreground]
        lowest, highest = (float(inside.min()), float(inside.max())) if inside.size else (np.inf, -np.inf)
        intensities.append((channel.ravel()[drawn].astype(np.float32), lowest, highest))
    voxel_mm3 = float(np.prod(case.spacing_mm))
    labels: list[tuple[float, float] | None] = []
    for index in range(task.count):
        mask = task.codes.mask(case.labels, index)
        count = int(mask.sum())
        labels.append((count * voxel_mm3, _radius_mm(mask, case)) if count else None)
    x, y, z = case.image.shape[1:]
    shape = CaseShape(task.files.case, case.full_shape, case.spacing_mm, (x, y, z))
    ranges = tuple((float(channel.min()), float(channel.max())) for channel in case.image)
    return _FirstLook(shape, case.dimensions, tuple(intensities), ranges, tuple(labels), _reach_mm(foreground, case.spacing_mm))


def _radius_mm(mask: np.ndarray, case: _Case) -> float:
    """The inscribed radius of a label; only what is known to lie outside of it bounds it."""
    if case.unknown is not None and np.isfinite(radius := inscribed_radius_mm(mask | case.unknown, case.spacing_mm, mask)):
        return radius
    return inscribed_radius_mm(mask, case.spacing_mm)


def _load(files: CaseFiles, codes: Codes, ignore: int | None) -> _Case:
    assert files.label is not None  # every training case was given its label file
    volume, label_volume = read_volume(files.images), read_labels(files.label)
    image, grid = to_upright(volume.array, volume.grid)
    native, _ = to_upright(label_volume.array[None], label_volume.grid, is_label=True)
    start, shape = content_box(image)
    # Copies free the uncropped arrays.
    image, native = np.array(crop(image, start, shape)), np.array(crop(native, start, shape)[0])
    x, y, z = (rounded(edge, 5) for edge in grid.spacing_mm)
    unknown = None if ignore is None else native == ignore
    return _Case(image, codes.number(native), unknown, (x, y, z), grid.shape, grid.dimensions)


def _centre(foreground: np.ndarray) -> np.ndarray:
    """Mean position (3,) of the foreground in voxels; the middle of the volume when there is none."""
    if not foreground.any():
        return (np.array(foreground.shape) - 1) / 2
    profiles = [foreground.sum(axis=tuple(a for a in range(3) if a != axis)) for axis in range(3)]
    return np.array([float((np.arange(len(profile)) * profile).sum() / profile.sum()) for profile in profiles])


def _reach_mm(foreground: np.ndarray, spacing_mm: TripleMm) -> TripleMm:
    if not foreground.any():
        return 0.0, 0.0, 0.0
    centre, reach = _centre(foreground), []
    for axis in range(3):
        filled = np.flatnonzero(foreground.any(axis=tuple(a for a in range(3) if a != axis)))
        reach.append(float(max(filled[-1] - centre[axis], centre[axis] - filled[0]) + 0.5) * spacing_mm[axis])
    return reach[0], reach[1], reach[2]


def _intensity_statistics(dataset: RawDataset, looks: Sequence[_FirstLook], channel: int) -> IntensityStatistics:
    samples = np.concatenate([look.intensities[channel][0] for look in looks]).astype(np.float64)
    if not samples.size:
        names = ", ".join(label.name for label in dataset.description.labels)
        raise DatasetError(
            f"{dataset.folder / 'labelsTr'}: no case holds any voxel of {names}. Check the label values in dataset.json."
        )
    low, median, high = np.percentile(samples, [0.5, 50, 99.5])
    minimum = min(look.intensities[channel][1] for look in looks)
    maximum = max(look.intensities[channel][2] for look in looks)
    lowest, highest = (choose(look.ranges[channel][end] for look in looks) for end, choose in enumerate((min, max)))
    numbers = (samples.mean(), samples.std(), median, minimum, maximum, low, high, lowest, highest)
    return IntensityStatistics(*(_rounded(number) for number in numbers))


def _label_statistics(
    looks: Sequence[_FirstLook], dataset: RawDataset, index: int, mirror_axis: dict[str, str]
) -> LabelStatistics:
    label = dataset.description.labels[index]
    present = [found for look in looks if (found := look.labels[index]) is not None]
    volume = _rounded(np.median([found[0] for found in present])) if present else 0.0
    radius = _rounded(np.median([found[1] for found in present])) if present else 0.0
    return LabelStatistics(label.name, label.value, len(present), volume, radius, mirror_axis)


# ----------------------------------------------------------------------------------------------------- second pass
def _second_look(task: _SecondTask) -> _SecondLook:
    case = _load(task.files, task.codes, task.ignore)
    foreground = case.labels > 0
    centre = _centre(foreground)
    image = np.stack([_normalised(channel, plan) for channel, plan in zip(case.image, task.channels, strict=True)])
    coarse = None
    if foreground.any():
        coarse = sample_coarsely(case.labels, image[0], centre, task.half_extent_mm, case.spacing_mm)
    start, shape = _box(case, centre, task.spacing_mm)
    planned = resampled_shape(shape, case.spacing_mm, task.spacing_mm)
    boxed = resample(crop(image, start, shape), planned, 3)
    image_power = sum((radial_power(channel) for channel in boxed), start=no_power())
    labels = crop(case.labels[None], start, shape)[0]
    present = [index for index in range(task.count) if task.codes.mask(labels, index).any()]
    distance_power = no_power()
    for index in _evenly(present, MOST_SPECTRUM_LABELS):
        mask = task.codes.mask(labels, index)
        distance = signed_distance_mm(mask, case.spacing_mm, task.tau_mm)
        if case.unknown is not None:  # the middle of what may be true
            unknown = crop(case.unknown[None], start, shape)[0]
            distance = (distance + signed_distance_mm(mask | unknown, case.spacing_mm, task.tau_mm)) / 2
        distance = distance / np.float32(task.tau_mm)
        distance_power += radial_power(resample(np.clip(distance, -1, 1)[None], planned, 1)[0])
    return _SecondLook(image_power, distance_power, coarse)


def _normalised(channel: np.ndarray, plan: ChannelPlan) -> np.ndarray:
    """``channel`` (X, Y, Z) onto [-1, 1] as the plan will have it."""
    lower, upper = (plan.lower, plan.upper) if plan.scheme != "percentile" else np.percentile(channel, [plan.lower, plan.upper])
    width = max(float(upper - lower), 1e-8)
    return (np.clip((channel - lower) / width, 0, 1) * 2 - 1).astype(np.float32)


def _box(case: _Case, centre: np.ndarray, spacing_mm: TripleMm) -> tuple[Triple, Triple]:
    """Start and shape of a box of at most LONGEST_AXIS planned voxels per axis around ``centre``, inside the volume."""
    starts, sizes = [], []
    for axis in range(3):
        whole = case.labels.shape[axis]
        size = min(whole, max(1, round(LONGEST_AXIS * spacing_mm[axis] / case.spacing_mm[axis])))
        starts.append(int(np.clip(round(float(centre[axis]) - size / 2), 0, whole - size)))
        sizes.append(size)
    return (starts[0], starts[1], starts[2]), (sizes[0], sizes[1], sizes[2])


def _evenly(items: Sequence[int], most: int) -> list[int]:
    """At most ``most`` of the items, evenly spaced."""
    if len(items) <= most:
        return list(items)
    return [items[int(i)] for i in np.linspace(0, len(items) - 1, most).round()]


def _rounded(value: float) -> float:
    return float(f"{float(value):.8g}")
