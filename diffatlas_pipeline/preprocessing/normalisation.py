"""Intensities onto [-1, 1]."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diffatlas_pipeline.datasets.description import MODALITIES
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.volumes.padding import content_sample

DEFAULT_PERCENTILES = (0.5, 99.5)


def normalise(array: np.ndarray, channels: Sequence[ChannelPlan], modality: str | None = None) -> np.ndarray:
    """``array`` (C, X, Y, Z) -> float32 in [-1, 1], each channel by its plan.

    ``modality`` says what the scan is when that differs from what the model was trained on. Hounsfield bounds are kept
    only for a CT read by a model trained on CT; any other pair is put on the image's own percentiles. Bounds that
    dataset.json asks for are always kept. A constant channel becomes -1. Raises UserError for an unknown modality.
    """
    if modality is not None and modality.upper() not in MODALITIES:
        raise UserError(f"Unknown modality '{modality}': allowed are {', '.join(MODALITIES)}. Leave it out to follow the plan.")
    result = np.empty(array.shape, dtype=np.float32)
    for c, channel in enumerate(channels):
        lower, upper = (
            _percentiles(array[c], channel) if goes_by_percentiles(channel, modality) else (channel.lower, channel.upper)
        )
        if upper > lower:
            np.clip((array[c] - lower) * np.float32(2 / (upper - lower)) - 1, -1, 1, out=result[c])
        else:
            result[c] = -1
    return result


def denormalise(image: np.ndarray, channels: Sequence[ChannelPlan]) -> np.ndarray:
    """The inverse of :func:`normalise` as far as the plan tells: ``image`` (C, X, Y, Z) in [-1, 1] -> float32.

    A CT's channel is in Hounsfield units again, one of fixed bounds in its own. Others were put on percentiles of each
    scan, which are not known: they go from 0 to 1.
    """
    lower, upper = _written_bounds(channels)
    return lower + (image.astype(np.float32) + 1) / 2 * (upper - lower)


def renormalise(written: np.ndarray, channels: Sequence[ChannelPlan]) -> np.ndarray:
    """The inverse of :func:`denormalise`."""
    lower, upper = _written_bounds(channels)
    return (written.astype(np.float32) - lower) * 2 / (upper - lower) - 1


def _written_bounds(channels: Sequence[ChannelPlan]) -> np.ndarray:
    """What -1 and 1 are denormalised to: (2, C, 1, 1, 1)."""
    known = [channel.scheme != "percentile" and channel.upper > channel.lower for channel in channels]
    bounds = [(one.lower, one.upper) if has else (0.0, 1.0) for one, has in zip(channels, known, strict=True)]
    return np.asarray(bounds, dtype=np.float32).T[:, :, None, None, None]


def units_after_denormalising(channel: ChannelPlan) -> str:
    """What the numbers of :func:`denormalise` are."""
    if channel.scheme == "ct":
        return f"Hounsfield units, cut off at {channel.lower:g} and {channel.upper:g}"
    if channel.scheme == "fixed":
        return f"those of the scans, cut off at {channel.lower:g} and {channel.upper:g}"
    return f"0 stands for percentile {channel.lower:g} of a scan's intensities, 1 for percentile {channel.upper:g}"


def beyond_bounds(array: np.ndarray, channels: Sequence[ChannelPlan], modality: str | None = None) -> np.ndarray | None:
    """``array`` (C, X, Y, Z) -> float32: by how much :func:`normalise` cuts off the Hounsfield units of a CT,
    logarithmically; None where it cuts off none by planned bounds.

    It tells apart what looks alike within them, such as fat, lung and air in a scan planned for bright blood.
    """
    if not any(_in_hounsfield(channel, modality) for channel in channels):
        return None
    excess = np.zeros(array.shape, dtype=np.float32)
    for c, channel in enumerate(channels):
        if _in_hounsfield(channel, modality) and channel.upper > channel.lower:
            scaled = (array[c] - channel.lower) * np.float32(2 / (channel.upper - channel.lower)) - 1
            np.log(np.maximum(np.abs(scaled), 1), out=excess[c])
            np.copysign(excess[c], scaled, out=excess[c])
    return excess


def is_out_of_domain(modality: str | None, channels: Sequence[ChannelPlan]) -> bool:
    """Whether ``modality`` is not that of the training scans: CT has fixed bounds in the plan, nothing else has."""
    trained_on_ct = any(channel.scheme == "ct" for channel in channels)
    return modality is not None and (modality.upper() == "CT") != trained_on_ct


def goes_by_percentiles(channel: ChannelPlan, modality: str | None) -> bool:
    """Whether a scan of ``modality`` is put on its own percentiles in ``channel``, and not on planned bounds."""
    return channel.scheme != "fixed" and not _in_hounsfield(channel, modality)


def _in_hounsfield(channel: ChannelPlan, modality: str | None) -> bool:
    """Whether the plan's Hounsfield bounds hold for a scan of ``modality``."""
    return channel.scheme == "ct" and (modality is None or modality.upper() == "CT")


def _percentiles(image: np.ndarray, channel: ChannelPlan) -> tuple[float, float]:
    """Intensities of ``image`` that become -1 and 1 where no bounds are planned."""
    if channel.scheme not in ("ct", "percentile"):
        raise UserError(
            f"Channel '{channel.name}': unknown normalisation '{channel.scheme}'; allowed are ct, fixed and percentile."
        )
    percentiles = (channel.lower, channel.upper) if channel.scheme == "percentile" else DEFAULT_PERCENTILES
    lower, upper = np.percentile(content_sample(image), percentiles)
    return float(lower), float(upper)
