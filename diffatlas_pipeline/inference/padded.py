"""Segment a volume that may be smaller than the patch."""

from __future__ import annotations

from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.methods.base import GeneratingMethod, Method, PlannedSegmentation, Progress, Stitch
from diffatlas_pipeline.methods.drawings import showing, spread


def segment_padded(
    method: Method,
    network: nn.Module,
    image: Tensor,
    stitch: Stitch,
    seed: int,
    progress: Progress | None = None,
    drawing: Tensor | None = None,
    begin: Tensor | None = None,
) -> PlannedSegmentation:
    """``method.segment`` of ``image`` (C, X, Y, Z), which is first padded to at least the patch with the image's
    minimum.

    Training pads small volumes in the same way, so the noise and the padding that the network sees are those it knows.
    A network with inputs for it is shown the ``drawing`` (K, X, Y, Z), see :mod:`~diffatlas_pipeline.methods.drawings`.
    Sampling may ``begin`` with distances (K, X, Y, Z), see :meth:`~diffatlas_pipeline.methods.base.Method.segment`.
    """
    padded, inside = pad_nd_image(image, method.plan.patch_size, "constant", {"value": IMAGE_PADDING}, return_slicer=True)
    if drawing is not None:  # the rim of what is padded is as far from what was drawn as it would be in training
        drawing = pad_nd_image(drawing, method.plan.patch_size, "constant", {"value": 0})
        drawing = spread(drawing, method.plan.spacing_mm)
    network, stitch = showing(network, stitch, method.drawn_channels, drawing)
    if begin is not None:
        begin = pad_nd_image(begin, method.plan.patch_size, "constant", {"value": 1.0})
    found = method.segment(network, padded, stitch, seed, progress, begin)
    inside = (slice(None), *inside[1:])  # as many labels as there are, whatever the number of channels
    generated = None if found.generated is None else found.generated[inside].float().cpu()
    probabilities = None if found.probabilities is None else found.probabilities[inside]
    return PlannedSegmentation(found.distances[inside].float().cpu(), generated=generated, probabilities=probabilities)


def unexplained_padded(
    method: Method, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int
) -> dict[str, tuple[float, ...]]:
    """``method.unexplained`` of ``image`` (C, X, Y, Z) and ``distances`` (K, X, Y, Z), both padded as in training;
    nothing is drawn.
    """
    padded, around, _ = _padded_pair(method, image, distances)
    network, stitch = showing(network, stitch, method.drawn_channels, None)
    return method.unexplained(network, padded, around, stitch, seed)


def reconstructed_padded(
    method: GeneratingMethod, network: nn.Module, image: Tensor, distances: Tensor, stitch: Stitch, seed: int
) -> Tensor:
    """``method.reconstruct`` of ``image`` (C, X, Y, Z) and ``distances`` (K, X, Y, Z), both padded as in training;
    nothing is drawn.
    """
    padded, around, inside = _padded_pair(method, image, distances)
    network, stitch = showing(network, stitch, method.drawn_channels, None)
    return method.reconstruct(network, padded, around, stitch, seed)[inside].float().cpu()


def _padded_pair(method: Method, image: Tensor, distances: Tensor) -> tuple[Tensor, Tensor, tuple[slice, ...]]:
    """Both at least as large as the patch, and where in them the pair lies: beside it is nothing."""
    shape = method.plan.patch_size
    padded, inside = pad_nd_image(image, shape, "constant", {"value": IMAGE_PADDING}, return_slicer=True)
    around = pad_nd_image(distances, shape, "constant", {"value": 1.0})
    return padded, around.to(padded), inside
