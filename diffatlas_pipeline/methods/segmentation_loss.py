"""Cross-entropy and soft Dice of labels, and the logits that signed distances stand for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from diffatlas_pipeline.datasets.codes import Codes

SHARPNESS = 10.0  # logits per tau: at tau = 3 voxels, a voxel centre just inside a border gets a probability of 0.84
_SMOOTH = 1e-5


def label_logits(distances: Tensor, codes: Codes | None = None) -> Tensor:
    """Signed distances (B, K, ...) in units of tau -> logits (B, 1 + K, ...), background first at 0; of labels that
    overlap (B, 1 + V, ...), one for each of the ``codes``.

    Their argmax is the decoding rule: the label of smallest distance where that is negative, else background.
    """
    scores = _scores(distances, codes)
    return torch.cat([torch.zeros_like(scores[:, :1]), -SHARPNESS * scores], dim=1)


def _scores(distances: Tensor, codes: Codes | None) -> Tensor:
    """:meth:`Codes.scores` of (B, K, ...)."""
    if codes is None or codes.exclusive:
        return distances
    return torch.stack([distances[:, list(members)].sum(dim=1) for members in codes.members], dim=1)


def label_probabilities(distances: Tensor, sharpness: float, codes: Codes | None = None) -> Tensor:
    """Signed distances (K, ...) in units of tau -> probabilities (K, ...) of the labels; the background has the rest.

    The softmax of :func:`label_logits` with another ``sharpness``; of labels that overlap (V, ...), one for each of the
    ``codes``.
    """
    logits = label_logits(distances[None], codes)[0] * (sharpness / SHARPNESS)
    return logits.softmax(dim=0)[1:]


def margins(logits: Tensor, codes: Codes | None = None) -> Tensor:
    """Logits (1 + K, ...), background first -> numbers (K, ...) in [-1, 1] that decode to the label of the largest
    logit. Of labels that overlap the logits are those of the ``codes`` (1 + V, ...).

    Each is how far the best of the other logits is above this one (or the best of those with this label), in the scale
    of distances. Negative are the labels of the largest logit alone, so cutting them off at -1 makes no ties.
    """
    if codes is not None and not codes.exclusive:
        of_code = [set[int](), *(set(members) for members in codes.members)]
        best_with, best_without = (
            torch.stack([logits[[(k in one) == wanted for one in of_code]].max(dim=0).values for k in range(codes.labels)])
            for wanted in (True, False)
        )
        return ((best_without - best_with) / SHARPNESS).clamp(-1, 1)
    best, found = logits.topk(2, dim=0)
    label = torch.arange(len(logits), device=logits.device).reshape(-1, *[1] * (logits.ndim - 1))
    others = torch.where(label == found[:1], best[1:2], best[:1])
    return ((others - logits)[1:] / SHARPNESS).clamp(-1, 1)


def segmentation_loss(logits: Tensor, reference: Tensor, codes: Codes | None = None, known: Tensor | None = None) -> Tensor:
    """Cross-entropy + 1 - soft Dice (foreground labels, over the batch) of logits (B, 1 + K, X, Y, Z); one scalar.

    ``reference`` (B, K, X, Y, Z) are the signed distances whose labels are true. Of labels that overlap, the logits are
    those of the ``codes``; the Dice is that of the labels, a voxel's probability of one that of all codes with it. Only
    voxels that are ``known`` (B, X, Y, Z) count; without any, the loss is 0.
    """
    labels = label_logits(reference, codes).max(dim=1).indices  # argmax takes eight times as long
    logits = logits.float()
    if known is None:
        entropy = functional.cross_entropy(logits, labels)
    else:
        each = functional.cross_entropy(logits, labels, reduction="none")
        entropy = (each * known).sum() / known.sum().clamp_min(1)
    probability = logits.softmax(dim=1)[:, 1:]
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability)
    if codes is not None and not codes.exclusive:
        probability, truth = (_of_labels(one, codes) for one in (probability, truth))
    if known is not None:
        probability, truth = (one * known[:, None] for one in (probability, truth))
    axes = (0, *range(2, probability.ndim))
    overlap = (probability * truth).sum(axes)
    size = probability.sum(axes) + truth.sum(axes)
    return entropy + 1 - ((2 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()


def _of_labels(of_codes: Tensor, codes: Codes) -> Tensor:
    """(B, V, ...) -> (B, K, ...): the sum over the codes with a label."""
    having = [[v for v, members in enumerate(codes.members) if k in members] for k in range(codes.labels)]
    return torch.stack([of_codes[:, one].sum(dim=1) for one in having], dim=1)
