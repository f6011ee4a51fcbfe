"""Cross-entropy and soft Dice of labels, and the logits that signed distances stand for."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

SHARPNESS = 10.0  # logits per tau: at tau = 3 voxels, a voxel centre just inside a border gets a probability of 0.84
_SMOOTH = 1e-5


def label_logits(distances: Tensor) -> Tensor:
    """Signed distances (B, K, ...) in units of tau -> logits (B, 1 + K, ...), background first at 0.

    Their argmax is the decoding rule: the label of smallest distance where that is negative, else background.
    """
    return torch.cat([torch.zeros_like(distances[:, :1]), -SHARPNESS * distances], dim=1)


def label_probabilities(distances: Tensor, sharpness: float) -> Tensor:
    """Signed distances (K, ...) in units of tau -> probabilities (K, ...) of the labels; the background has the rest.

    The softmax of :func:`label_logits` with another ``sharpness``.
    """
    logits = torch.cat([torch.zeros_like(distances[:1]), -sharpness * distances])
    return logits.softmax(dim=0)[1:]


def margins(logits: Tensor) -> Tensor:
    """Logits (1 + K, ...), background first -> numbers (K, ...) in [-1, 1] that decode to the label of the largest
    logit.

    Each is how far the best of the other logits is above this one, in the scale of distances: at most one is negative,
    so cutting them off at -1 makes no ties.
    """
    best, found = logits.topk(2, dim=0)
    label = torch.arange(len(logits), device=logits.device).reshape(-1, *[1] * (logits.ndim - 1))
    others = torch.where(label == found[:1], best[1:2], best[:1])
    return ((others - logits)[1:] / SHARPNESS).clamp(-1, 1)


def segmentation_loss(logits: Tensor, reference: Tensor) -> Tensor:
    """Cross-entropy + 1 - soft Dice (foreground labels, over the batch) of logits (B, 1 + K, X, Y, Z); one scalar.

    ``reference`` (B, K, X, Y, Z) are the signed distances whose labels are true.
    """
    labels = label_logits(reference).max(dim=1).indices  # argmax takes eight times as long
    logits = logits.float()
    entropy = functional.cross_entropy(logits, labels)
    probability = logits.softmax(dim=1)[:, 1:]
    truth = functional.one_hot(labels, logits.shape[1]).movedim(-1, 1)[:, 1:].to(probability)
    axes = (0, *range(2, probability.ndim))
    overlap = (probability * truth).sum(axes)
    size = probability.sum(axes) + truth.sum(axes)
    return entropy + 1 - ((2 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()
