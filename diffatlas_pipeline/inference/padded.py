"""Segment a volume that may be smaller than the patch."""

from __future__ import annotations

from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.methods.base import Method, PlannedSegmentation, Progress, Stitch


def segment_padded(
    method: Method, network: nn.Module, image: Tensor, stitch: Stitch, seed: int, progress: Progress | None = None
) -> PlannedSegmentation:
    """``method.segment`` of ``image`` (C, X, Y, Z), which is first padded to at least the patch with the image's
    minimum.

    Training pads small volumes in the same way, so the noise and the padding that the network sees are those it knows.
    """
    padded, inside = pad_nd_image(image, method.plan.patch_size, "constant", {"value": IMAGE_PADDING}, return_slicer=True)
    found = method.segment(network, padded, stitch, seed, progress)
    inside = (slice(None), *inside[1:])  # as many labels as there are, whatever the number of channels
    return PlannedSegmentation(
        found.distances[inside].float().cpu(), None if found.spread is None else found.spread[inside].float().cpu()
    )
