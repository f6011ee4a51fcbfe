"""What a user compares, as text: a method with a recipe, and a setting: a training situation such as 2-shot."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import known_method

FULL = "full"
ZERO_SHOT = "zero-shot:"
UNADAPTED = "zero-shot-unadapted:"  # the other data set's contrast is left as it is
WITH_ATLASES = "+atlases"
_TRAINING = r"full|[1-9]\d*-shot"
_SETTING = re.compile(rf"({_TRAINING})|({ZERO_SHOT}|{UNADAPTED})([^@].*?)(?:@({_TRAINING}))?")
_METHOD = re.compile(r"([^:+]+)(?::([^:+]+))?(\+atlases)?")
MEAN_ATLAS = "mean"  # the sanity row: what the prior alone scores, without a look at the image


@dataclass(frozen=True)
class MethodChoice:
    """A method and how it is used: ``recipe`` is a recipe's name, with "+atlases" if it predicts with atlases."""

    name: str
    recipe: str = "default"

    @property
    def trained(self) -> str:
        """The recipe that it is trained with."""
        return self.recipe.removesuffix(WITH_ATLASES)

    @property
    def with_atlases(self) -> bool:
        return self.recipe.endswith(WITH_ATLASES)

    @property
    def learned(self) -> bool:
        """Whether it has a network that is trained by gradient. UserError if there is no such method."""
        return issubclass(known_method(self.name), LearnedMethod)

    @property
    def text(self) -> str:
        base = self.name if self.trained == "default" else f"{self.name}:{self.trained}"
        return base + self.recipe.removeprefix(self.trained)

    @staticmethod
    def parse(text: str) -> MethodChoice:
        """'icf', 'diffatlas:paper', 'diffatlas+atlases'. UserError otherwise."""
        match = _METHOD.fullmatch(text)
        if match is None:
            raise UserError(
                f"`methods` {text}: write a method, method:recipe such as diffatlas:paper, or either with +atlases behind it."
            )
        name, recipe, use = match.groups(default="")
        return MethodChoice(name, (recipe or "default") + use)


def method_order(text: str) -> tuple[bool, str]:
    """Sorts methods: by name, the mean atlas last. A row stands where it did, whatever else is run later."""
    return text == MEAN_ATLAS, text


@dataclass(frozen=True)
class Setting:
    """``training`` is "full" or "K-shot"; ``dataset`` tests, None for the benchmark's own.

    ``adapted``: scans of another modality are given the training scans' contrast, as DiffAtlas_predict does by itself.
    """

    training: str
    dataset: str | None = None
    adapted: bool = True

    @property
    def text(self) -> str:
        if self.dataset is None:
            return self.training
        return f"{ZERO_SHOT if self.adapted else UNADAPTED}{self.dataset}" + (
            "" if self.training == FULL else f"@{self.training}"
        )

    @property
    def shots(self) -> int | None:
        """Number of training cases, None for all."""
        return None if self.training == FULL else int(self.training.removesuffix("-shot"))

    @property
    def order(self) -> tuple[bool, bool, str, float]:
        """Sorts settings: own data set first, few cases before many."""
        return self.dataset is not None, not self.adapted, self.dataset or "", self.shots or math.inf

    @staticmethod
    def parse(text: str) -> Setting:
        """'full', '2-shot', 'zero-shot:DATASET' or 'zero-shot:DATASET@2-shot'. UserError otherwise."""
        match = _SETTING.fullmatch(text)
        if match is None:
            raise UserError(
                f"`settings` {text}: unknown; write full, K-shot (such as 2-shot), zero-shot:DATASET, "
                "zero-shot:DATASET@2-shot, or zero-shot-unadapted:DATASET."
            )
        own, prefix, dataset, training = match.groups()
        return Setting(own or training or FULL, dataset, prefix != UNADAPTED)
