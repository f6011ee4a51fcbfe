"""Channels that a scan lacks: NaN in every voxel, until something is generated in their place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diffatlas_pipeline.volumes.grids import Volume


def missing_channels(image: np.ndarray) -> tuple[int, ...]:
    """The numbers of those channels of ``image`` (C, X, Y, Z) that are NaN in every voxel."""
    suspects = (c for c, channel in enumerate(image) if channel.size and np.isnan(channel.flat[0]))  # NaN is rare: look once
    return tuple(c for c in suspects if np.isnan(image[c]).all())


def without_missing(image: np.ndarray) -> np.ndarray:
    """The channels of ``image`` (C, X, Y, Z) that are there; itself where all are."""
    missing = missing_channels(image)
    return np.delete(image, missing, axis=0) if missing else image


def with_missing(image: np.ndarray, missing: Sequence[int]) -> np.ndarray:
    """The inverse of :func:`without_missing`: channels of NaN put in, so that they have the numbers ``missing``."""
    if not missing:
        return image
    whole = np.full((len(image) + len(missing), *image.shape[1:]), np.nan, dtype=image.dtype)
    whole[[c for c in range(len(whole)) if c not in missing]] = image
    return whole


def lacking(volume: Volume, missing: Sequence[int]) -> Volume:
    """``volume`` of the channels that are there, as one of all channels, of which those numbered ``missing`` are
    not.
    """
    return replace(volume, array=with_missing(volume.array, missing))
