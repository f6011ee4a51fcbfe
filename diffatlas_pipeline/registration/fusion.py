"""Label fusion: one segmentation from several registered atlases.

Every rule takes the warped distance maps of N atlases, (N, K, X, Y, Z) in units of tau, negative inside, clipped to
[-1, 1], and gives (K, X, Y, Z) in the same form. Its decoding (the label of smallest distance where that is negative,
else background) is the fused segmentation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from diffatlas_pipeline.registration.grids import finest_mm
from diffatlas_pipeline.registration.similarity import local_correlation, window_of
from diffatlas_pipeline.volumes.distance import signed_distance_mm

RADIUS = 2.0  # of the windows whose similarity makes an atlas' weight, in voxels of the finest axis
POWER = 4.0  # the weight is the squared correlation to this power
LEAST = 0.05  # what is added to the squared correlation: where no atlas fits, all count alike
STAPLE_ITERATIONS = 50


def weights_of(target: np.ndarray, warped: np.ndarray, known: np.ndarray, spacing_mm: Sequence[float]) -> np.ndarray:
    """The weight of an atlas at each voxel, (X, Y, Z) float32 > 0, from its local similarity to the target.

    ``target`` and ``warped`` (C, X, Y, Z): the similarity is the squared local correlation, mean over channels, so it
    does not depend on contrast. Outside the atlas (``known`` (X, Y, Z) False) it has the least weight.
    """
    window = window_of(target.shape[1:], spacing_mm, RADIUS)
    alike = np.mean([local_correlation(t, w, window) for t, w in zip(target, warped, strict=True)], axis=0)
    return np.asarray((alike * known + LEAST) ** POWER, dtype=np.float32)


def weighted_mean(distances: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean (K, X, Y, Z) of the atlases' distances with ``weights`` (N, X, Y, Z)."""
    total = np.einsum("nkxyz,nxyz->kxyz", distances, weights, dtype=np.float32)
    return np.asarray(total / weights.sum(axis=0), dtype=np.float32)


def mean(distances: np.ndarray, weights: np.ndarray, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """:func:`weighted_mean`: smooth, but a structure that the atlases place differently shrinks in it."""
    return weighted_mean(distances, weights)


def local_votes(distances: np.ndarray, weights: np.ndarray, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """Local weighted voting: at each voxel every atlas votes for each label, with its weight there.

    A vote is the share of the voxel that the label covers, from +1 (none) over 0 (half) to -1 (all): the distance, cut
    off at half a voxel. How far away an atlas sees a surface does not count, so a single misplaced one has no more than
    its vote.
    """
    half_mm = finest_mm(distances.shape[2:], spacing_mm) / 2
    votes = weighted_mean(np.clip(distances * np.float32(tau_mm / half_mm), -1, 1), weights)
    fused = distances_of(labels_of(votes), votes.shape[0], spacing_mm, tau_mm)
    # Distances from a label map know the surface to half a voxel; right at it, the votes know it better.
    border = (np.abs(fused) <= 1.001 * half_mm / tau_mm) & (votes != 0)
    return np.where(border, votes * np.float32(half_mm / tau_mm), fused)


def majority(distances: np.ndarray, weights: np.ndarray, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """Each atlas names one label per voxel; the one named most often wins, the earlier one (background first) in a
    tie.
    """
    count = distances.shape[1]
    return distances_of(_most_named(labels_of(distances), count), count, spacing_mm, tau_mm)


def staple(distances: np.ndarray, weights: np.ndarray, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """The labels that are most likely if each atlas errs at a rate of its own (multi-label STAPLE, Rohlfing et al.
    2003).

    Voxels that STAPLE leaves undecided go to the majority. All atlases count alike.
    """
    import SimpleITK as sitk

    count = distances.shape[1]
    votes = labels_of(distances)
    images = [sitk.GetImageFromArray(one.astype(np.uint16)) for one in votes]
    undecided = count + 1
    rule = sitk.MultiLabelSTAPLEImageFilter()
    rule.SetLabelForUndecidedPixels(undecided)
    rule.SetMaximumNumberOfIterations(STAPLE_ITERATIONS)
    fused = sitk.GetArrayFromImage(rule.Execute(images)).astype(np.int64)
    if (fused == undecided).any():
        fused = np.where(fused == undecided, _most_named(votes, count), fused)
    return distances_of(fused, count, spacing_mm, tau_mm)


def labels_of(distances: np.ndarray) -> np.ndarray:
    """(..., K, X, Y, Z) -> (..., X, Y, Z) uint8 or uint16: 0 for background, else 1 + the index of the smallest
    distance. Of labels that overlap, give the scores of their codes instead.
    """
    kind = np.uint8 if distances.shape[-4] < 255 else np.uint16
    return np.where(distances.min(axis=-4) < 0, distances.argmin(axis=-4) + 1, 0).astype(kind)


def distances_of(labels: np.ndarray, count: int, spacing_mm: Sequence[float], tau_mm: float) -> np.ndarray:
    """Labels 0..``count`` (X, Y, Z) -> distances (count, X, Y, Z) in units of tau, clipped to [-1, 1]."""
    return np.stack([signed_distance_mm(labels == k + 1, spacing_mm, limit_mm=tau_mm) / tau_mm for k in range(count)])


def _most_named(labels: np.ndarray, count: int) -> np.ndarray:
    return np.stack([(labels == label).sum(axis=0) for label in range(count + 1)]).argmax(axis=0)


FUSIONS: dict[str, Callable[[np.ndarray, np.ndarray, Sequence[float], float], np.ndarray]] = {
    "votes": local_votes,
    "mean": mean,
    "majority": majority,
    "staple": staple,
}
