"""Which post-processing a trained fold needs: what its validation cases gain by each step, label by label.

A step is compared with its absence on the same segmentations, so no noise of training or sampling is in the
difference, however small it is; which cases were held out is what is left to chance. So a step is taken if it makes
nearly no case worse, and if the mean Dice rises even without the case that gains most: one lucky case decides nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.inference.postprocessing import bounding_box, postprocessed
from diffatlas_pipeline.models.postprocessing import FILLED, LARGEST, Measured, Postprocessing

FEWEST = 4  # cases that hold a label, below which nothing is chosen for it
WORSE = 0.1  # of these cases may become worse, at most


def chosen_postprocessing(cases: Iterable[tuple[np.ndarray, np.ndarray]], labels: Sequence[LabelClass]) -> Postprocessing:
    """What ``cases`` (labels found, true labels; both (X, Y, Z)) tell of each step for each of ``labels``.

    Holes are judged after the largest component, where that is taken.
    """
    trials: tuple[tuple[str, ...], ...] = ((), (LARGEST,), (FILLED,), (LARGEST, FILLED))
    scores: dict[tuple[str, tuple[str, ...]], list[float]] = {(label.name, trial): [] for label in labels for trial in trials}
    for found, truth in cases:
        for label in labels:
            box = bounding_box((found == label.value) | (truth == label.value))  # most labels are small
            wanted = truth[box] == label.value
            if not wanted.any():
                continue  # a label that is not there has neither components nor holes
            for trial in trials:
                made = postprocessed(found[box], {label.value: trial})
                scores[label.name, trial].append(dice(made == label.value, wanted))
    measured = []
    for label in labels:
        largest = _measured(label.name, LARGEST, scores[label.name, ()], scores[label.name, (LARGEST,)])
        before = (LARGEST,) if largest.taken else ()
        filled = _measured(label.name, FILLED, scores[label.name, before], scores[label.name, (*before, FILLED)])
        measured += [largest, filled]
    return Postprocessing(tuple(measured))


def _measured(label: str, step: str, before: Sequence[float], after: Sequence[float]) -> Measured:
    pairs = [(one, other) for one, other in zip(before, after, strict=True) if not math.isnan(one)]
    gains = sorted(other - one for one, other in pairs)
    better, worse = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    taken = len(pairs) >= FEWEST and worse <= WORSE * len(pairs) and sum(gains[:-1]) > 0
    means = [float(np.mean(column)) for column in zip(*pairs, strict=True)] if pairs else [None, None]
    return Measured(label, step, taken, len(pairs), better, worse, means[0], means[1])
