"""Weights to begin a training with, from a model of other data: what fits is taken, the rest begins afresh.

The first and the last layer have a slice of weights for each channel and label; these are taken by name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.models.archive import opened
from diffatlas_pipeline.models.find import model_at
from diffatlas_pipeline.models.folder import WEIGHTS, ModelFolder, TrainedFold

FEWEST = 0.5  # share of the weights that has to fit: with less, the training might as well begin afresh
FIRST, LAST = "stem.", "head."


@dataclass(frozen=True)
class InitialWeights:
    """All weights of a network; the ``share`` of them that was taken, what of ``labels`` begins ``afresh``, and a
    ``digest`` of the weights that they come from.
    """

    state: dict[str, Tensor]
    share: float
    taken: tuple[str, ...]
    afresh: tuple[str, ...]
    digest: str

    @property
    def said(self) -> str:
        """What is taken, as a sentence."""
        labels = f"labels {', '.join(self.taken)}" if self.taken else "no label"
        rest = f"; {', '.join(self.afresh)} afresh" if self.afresh else ""
        return f"{self.share:.0%} of the weights are taken, with {labels}{rest}."


def read_initial_fold(path: Path) -> TrainedFold:
    """The trained fold at ``path``: a model folder or zip file with one fold, or the folder of a fold.

    UserError if there is none, or several to choose from; ModelError if it is damaged.
    """
    place = path.expanduser().resolve()
    if (place / WEIGHTS).is_file():
        return model_at(place.parent).load(place.name)
    with opened(place) as model:
        return _only_fold(model, place)


def _only_fold(model: ModelFolder, named: Path) -> TrainedFold:
    folds = model.folds()
    if len(folds) != 1:
        raise UserError(
            f"`init_from` {named}: {len(folds)} trained folds ({', '.join(folds) or 'none'}). Give the folder of one of them."
        )
    return model.load(folds[0])


def initial_weights(method: LearnedMethod, fold: TrainedFold, seed: int) -> InitialWeights:
    """What a network of ``method`` can take of the trained ``fold``. UserError if that is too little to be of use."""
    if fold.method != method.name:
        raise UserError(
            f"`init_from`: that model is of {fold.method}, this training of {method.name}. Give a model of the same method."
        )
    before = create_method(fold.method, fold.plan, recipe_of(fold.plan, fold.method, fold.recipe))
    assert isinstance(before, LearnedMethod)
    torch.manual_seed(seed)
    network = method.build_network()
    state, count = {}, 0
    for name, fresh in network.state_dict().items():
        state[name], taken = _with_what_fits(name, fresh, fold.state.get(name), network, before, method)
        count += taken
    share = count / sum(tensor.numel() for tensor in state.values())
    if share < FEWEST:
        ours, theirs = (f"widths {plan.network.widths}, strides {plan.network.strides}" for plan in (method.plan, fold.plan))
        raise UserError(
            f"`init_from`: only {share:.0%} of its weights fit this plan's network ({ours}; there {theirs}). Plan "
            "the data set with `plan_and_preprocess`, that model as `like`, and `overwrite`; or leave it out."
        )
    labels, known = ([label.name for label in plan.dataset.labels] for plan in (method.plan, fold.plan))
    digest = hashlib.sha256(b"".join(fold.state[name].contiguous().numpy().tobytes() for name in sorted(fold.state)))
    return InitialWeights(
        state,
        share,
        tuple(name for name in labels if name in known),
        tuple(name for name in labels if name not in known),
        digest.hexdigest()[:16],
    )


def _with_what_fits(
    name: str, fresh: Tensor, found: Tensor | None, network: nn.Module, before: LearnedMethod, now: LearnedMethod
) -> tuple[Tensor, int]:
    """``fresh`` weights with what can be taken of those ``found`` under the same name, and how many were taken."""
    if found is None or found.ndim != fresh.ndim:
        return fresh, 0
    axis, ours, theirs = _channels_of(name, network, now, before)
    if axis is None:
        return (found.to(fresh), fresh.numel()) if found.shape == fresh.shape else (fresh, 0)
    pairs = _matched(ours, theirs)
    into, out_of = fresh.movedim(axis, 0).clone(), found.to(fresh).movedim(axis, 0)
    if into.shape[1:] != out_of.shape[1:]:
        return fresh, 0
    for mine, other in pairs:
        into[mine] = out_of[other]
    return into.movedim(0, axis).contiguous(), len(pairs) * into[0].numel()


def _channels_of(
    name: str, network: nn.Module, now: LearnedMethod, before: LearnedMethod
) -> tuple[int | None, Sequence[str], Sequence[str]]:
    """The axis of a tensor that has one entry per channel, and what these are called now and were; None for none."""
    if name == f"{FIRST}weight":
        return 1, now.input_names, before.input_names
    if name.startswith(LAST):
        transposed = isinstance(network.get_submodule(LAST.removesuffix(".")), nn.ConvTranspose3d)
        return (1 if transposed and name.endswith("weight") else 0), now.output_names, before.output_names
    return None, (), ()


def _matched(ours: Sequence[str], theirs: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of places of the same name. A single image channel matches any other single one: CT may begin MRI."""
    ours, theirs = _anonymous(ours), _anonymous(theirs)
    return [(place, theirs.index(name)) for place, name in enumerate(ours) if name in theirs]


def _anonymous(names: Sequence[str]) -> list[str]:
    images = [name for name in names if name.startswith("image ")]
    return ["image" if len(images) == 1 and name in images else name for name in names]
