"""What sets a scan so far apart from the training data that its segmentation may be bad, as far as the plan tells."""

from __future__ import annotations

import numpy as np

from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.normalisation import goes_by_percentiles
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.volumes.channels import missing_channels
from diffatlas_pipeline.volumes.grids import Volume
from diffatlas_pipeline.volumes.padding import padding_value

FAR_SPACING = 2.5  # a scan this many times coarser or finer than the planned spacing is unlike the training data
FEW_INSIDE = 0.01  # share of voxels within a CT model's intensity bounds below which the scan is hardly a CT


def of_padding(volume: Volume, plan: Plan, modality: str | None) -> list[str]:
    """Warnings of values that pad channels of ``volume`` and were kept out of their contrast."""
    values = {
        channel.name: padding_value(array)
        for channel, array in zip(plan.channels, volume.array, strict=True)
        if goes_by_percentiles(channel, modality) and not np.isnan(array.flat[0])
    }
    return [
        f"channel {name} is padded with {value:g}, which is taken for no intensity"
        for name, value in values.items()
        if value is not None
    ]


def unusual(image: np.ndarray, record: SpatialRecord, plan: Plan, modality: str | None) -> list[str]:
    """Warnings about a prepared ``image`` (C, x, y, z) in [-1, 1], NaN in channels that it lacks, that was said to be
    of ``modality``.
    """
    warnings = []
    if record.native.is_sheared:
        warnings.append("its axes are not perpendicular, as with a tilted gantry: it was resampled so that they are")
    spacing_mm = record.canonical.spacing_mm
    for axis, (found, planned) in enumerate(zip(spacing_mm, record.planned_spacing_mm, strict=True)):
        if not 1 / FAR_SPACING <= found / planned <= FAR_SPACING:
            warnings.append(f"spacing of {found:.3g} mm along {'xyz'[axis]}, the model was planned for {planned:.3g} mm")
    small = [n for n, window in zip(record.planned_shape, plan.patch_size, strict=True) if 3 * n < window]
    if small:
        found_size, known = ("x".join(str(n) for n in size) for size in (record.planned_shape, plan.patch_size))
        warnings.append(f"only {found_size} voxels at the planned spacing, the model works on {known}")
    lacks = missing_channels(image)
    for c, (channel, values) in enumerate(zip(plan.channels, image, strict=True)):
        if c in lacks:
            warnings.append(f"channel {channel.name} is missing and was generated to fit the rest: expect a worse segmentation")
        elif values.min() == values.max():
            warnings.append(f"channel {channel.name} is constant")
        elif channel.scheme != "percentile" and modality is None and np.mean(np.abs(values) < 1) < FEW_INSIDE:
            other = "; if it is no CT, say so with `modality='MRI'`" if channel.scheme == "ct" else ""
            warnings.append(
                f"channel {channel.name}: hardly an intensity between {channel.lower:g} and {channel.upper:g}, the bounds "
                f"of the training data{other}"
            )
    return warnings
