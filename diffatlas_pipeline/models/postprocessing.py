"""What is done to a model's segmentations at the end, as it was chosen on validation cases: the file of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.files import read_json

LARGEST, FILLED = "largest_component", "filled_holes"
STEPS = {LARGEST: "largest component", FILLED: "holes filled"}  # in words, in the order in which they are done
MOST_BYTES = 1 << 20


@dataclass(frozen=True)
class Measured:
    """One ``step`` for one ``label``: whether it is ``taken``, in how many ``cases`` the label is, how many of these
    became ``better`` and ``worse`` by it, and the mean Dice before and after (None: the label is in no case).
    """

    label: str
    step: str
    taken: bool
    cases: int
    better: int
    worse: int
    dice_before: float | None
    dice_after: float | None


@dataclass(frozen=True)
class Postprocessing:
    """All that was measured of a fold."""

    measured: tuple[Measured, ...] = ()
    version: int = 1

    @property
    def taken(self) -> dict[str, tuple[str, ...]]:
        """The steps that are done, by label, for labels that have any."""
        chosen = {(one.label, one.step) for one in self.measured if one.taken}
        labels = dict.fromkeys(one.label for one in self.measured)
        steps = {label: tuple(step for step in STEPS if (label, step) in chosen) for label in labels}
        return {label: found for label, found in steps.items() if found}


def read_postprocessing(path: Path, labels: Sequence[str]) -> Postprocessing | None:
    """The file of a model with these ``labels``; None where there is none.

    ModelError if it is damaged, or names a label or a step that there is not.
    """
    if not path.is_file():
        return None
    mend = "Copy the model again, or delete this file to do without."
    if path.stat().st_size > MOST_BYTES:
        raise ModelError(f"{path}: too large to be what was chosen of {len(labels)} label(s). {mend}")
    try:
        found = read_json(Postprocessing, path)
    except (OSError, UserError, RecursionError) as error:
        raise ModelError(f"{path}: damaged ({error}). Copy the model again, or delete this file to do without.") from error
    for one in found.measured:
        if one.label not in labels:
            raise ModelError(f"{path}: '{one.label}' is no label of the model ({', '.join(labels)}). {mend}")
        if one.step not in STEPS:
            raise ModelError(f"{path}: unknown step '{one.step}'; known are {', '.join(STEPS)}. {mend}")
    return found


def common_steps(folds: Sequence[Postprocessing | None]) -> dict[str, tuple[str, ...]]:
    """By label, what all of the ``folds`` have taken: what is done to their mean."""
    first, *others = [{} if fold is None else fold.taken for fold in folds]
    steps = {
        label: tuple(one for one in taken if all(one in other.get(label, ()) for other in others))
        for label, taken in first.items()
    }
    return {label: found for label, found in steps.items() if found}


def in_words(steps: dict[str, tuple[str, ...]]) -> str:
    """ "largest component of a and b; holes filled of b"."""
    parts = []
    for step, words in STEPS.items():
        if labels := [label for label, taken in steps.items() if step in taken]:
            parts.append(f"{words} of {', '.join(labels)}")
    return "; ".join(parts)
