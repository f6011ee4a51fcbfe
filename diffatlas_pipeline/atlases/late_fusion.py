"""Late fusion: the distances of a network and of registered atlases, averaged: at what share, and what the mean is
unsure of.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import ndimage

from diffatlas_pipeline.datasets.codes import Codes
from diffatlas_pipeline.methods.base import PlannedSegmentation
from diffatlas_pipeline.registration.fusion import labels_of

NETWORK_SHARE = 0.4  # of the network, where the scan is of a kind that it has learnt (what-was-tried.md)
SHARES = (0.4, 0.2, 0.6)  # what is tried where it is not; the first that no other surpasses is taken
NEAR = 0.4  # in units of tau: so far about the structures the scan is looked at


def fused(network: PlannedSegmentation, atlases: PlannedSegmentation, share: float) -> PlannedSegmentation:
    """The mean after late fusion: ``share`` of ``network``, the rest of ``atlases``."""
    mean = share * network.distances + (1 - share) * atlases.distances
    return PlannedSegmentation(mean, share, network.generated, rough=network.rough)


def fitting_share(
    scan: np.ndarray,
    network: PlannedSegmentation,
    atlases: PlannedSegmentation,
    spacing_mm: Sequence[float],
    tau_mm: float,
    codes: Codes | None = None,
) -> float:
    """That of ``SHARES`` whose labels fit ``scan`` (C, x, y, z) best: they explain most of the variance of its
    intensities.

    A network that has not learnt this kind of scan may be better or worse than registration, and no label tells. But
    structures differ in intensity, whatever the contrast is, so labels in the right place leave less variance within
    them. Intensities are taken without what varies more slowly than tau, which is mostly the scanner's. Where the scan
    tells nothing, the first of ``SHARES``. Neither answer is ever left out: what each adds to the other is more than
    what the scan can tell of them (what-was-tried.md). ``codes`` tells labels that overlap.
    """
    tried = [(share * network.distances + (1 - share) * atlases.distances).numpy() for share in SHARES]
    near = np.min([one.min(axis=0) for one in tried], axis=0) < NEAR
    if not near.any():
        return SHARES[0]
    sigma = [tau_mm / spacing for spacing in spacing_mm]
    seen = np.stack([(channel - ndimage.gaussian_filter(channel, sigma))[near] for channel in scan])
    explained = [variance_explained(seen, labels_of(one if codes is None else codes.scores(one))[near]) for one in tried]
    return SHARES[int(np.argmax(explained))]


def variance_explained(values: np.ndarray, labels: np.ndarray) -> float:
    """Share of the variance of ``values`` (C, n) that the means of ``labels`` (n,) explain; mean over channels that
    vary.
    """
    shares = []
    size = np.bincount(labels)
    for channel in values.astype(np.float64):
        total = float(np.square(channel - channel.mean()).sum())
        if total > 0:
            sums = np.bincount(labels, channel - channel.mean())
            shares.append(float((sums**2 / np.maximum(size, 1)).sum()) / total)
    return float(np.mean(shares)) if shares else 0.0
