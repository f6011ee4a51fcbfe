"""New pairs of image and segmentation from a joint model, written as a raw data set."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.running_network import with_room
from diffatlas_pipeline.methods.base import (
    DiffusionRecipe,
    GeneratedPair,
    GeneratingMethod,
    Method,
    Progress,
    case_generator,
)
from diffatlas_pipeline.methods.drawings import showing
from diffatlas_pipeline.methods.registry import with_sampling
from diffatlas_pipeline.models.folder import dataset_json
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.normalisation import denormalise, units_after_denormalising
from diffatlas_pipeline.volumes.grids import Grid, Triple
from diffatlas_pipeline.volumes.io import write_labels, write_scalars

ENDING = ".nii.gz"
IMAGES, LABELS, DESCRIPTION = "imagesTr", "labelsTr", "dataset.json"
ENOUGH = 0.25  # share of equally noisy samples in training below which generated pairs are expected to be poor
# With a perfect denoiser of Gaussian data it keeps as much variance as all ancestral steps (tests/methods/
# test_generation.py); a denoiser that blurs a little blurs at every step, so fewer are better. A recipe's own sampler
# is chosen to segment.
USUAL = Sampler("dpmpp_2m", steps=50)


def generating(method: Method) -> GeneratingMethod:
    """``method``, if it can generate; else UserError."""
    if isinstance(method, GeneratingMethod) and method.share_for_generation > 0:
        return method
    joint = isinstance(method, GeneratingMethod)
    why = "this recipe never learnt to begin from noise in both" if joint else f"{method.name} learns no joint model"
    raise UserError(
        f"Pairs of image and segmentation cannot be generated: {why}. Train `method` diffatlas with `recipe` paper."
    )


def poorly_taught(method: GeneratingMethod) -> str | None:
    """A sentence if ``method`` has hardly learnt what generating takes."""
    if method.share_for_generation >= ENOUGH:
        return None
    return (
        f"only {method.share_for_generation:.0%} of what this recipe learns from has image and segmentation equally noisy, "
        "so generated pairs are poor; recipe paper learns from nothing else."
    )


def generating_sampler(method: Method, steps: int | None, solver: str | None) -> Sampler:
    """How pairs are sampled: with 50 steps of DPM-Solver++(2M), or all steps of another ``solver``, unless ``steps``
    are given. UserError if they are not allowed.
    """
    recipe = method.recipe
    assert isinstance(recipe, DiffusionRecipe)
    most = method.plan.diffusion.training_steps
    if steps is None:
        steps = min(USUAL.steps, most) if solver in (None, USUAL.solver) else 0
    changed = with_sampling(replace(recipe, sampler=USUAL), steps, solver)
    assert isinstance(changed, DiffusionRecipe)
    if changed.sampler.steps > most:
        raise UserError(f"`steps` {steps}: the model has {most} training steps. Take at most {most}, or 0 for all.")
    return changed.sampler


def usual_shape(plan: Plan, shapes: Sequence[Sequence[int]]) -> Triple:
    """The median per axis of the training cases' ``shapes`` on the planned grid; the patch where there is none."""
    if not shapes:
        return plan.patch_size
    x, y, z = (int(n) for n in np.median(np.asarray(shapes), axis=0))
    return x, y, z


def checked_shape(plan: Plan, shape: Sequence[int]) -> Triple:
    """``shape`` as (x, y, z), or (x, y) where the plan is of two dimensions. UserError if it is neither."""
    sizes = [int(n) for n in shape]
    if plan.dimensions == 2 and len(sizes) == 2:
        sizes.append(1)
    if len(sizes) != 3 or min(sizes) < 1 or (plan.dimensions == 2 and sizes[2] != 1):
        given = " ".join(str(n) for n in shape)
        raise UserError(f"`shape` {given}: {plan.dimensions} numbers of voxels above 0 are needed.")
    return sizes[0], sizes[1], sizes[2]


def generate_pair(
    predictor: Predictor, index: int, shape: Triple, sampler: Sampler, progress: Progress | None = None
) -> GeneratedPair:
    """Pair number ``index``: it depends on the model, the predictor's seed, ``index``, ``shape`` and ``sampler``
    alone.
    """
    method = predictor.method
    assert isinstance(method, GeneratingMethod)  # see generating
    network, stitch = showing(predictor.networks[0], predictor.stitch, method.drawn_channels, None)
    return with_room(
        lambda here: method.generate(
            network, shape, stitch, sampler, case_generator(predictor.seed, index), here.device, progress
        ),
        torch.zeros(1),
        predictor.device,
    )


@dataclass(frozen=True)
class PairFolder:
    """A raw data set of generated pairs in ``folder``."""

    folder: Path
    plan: Plan

    def files(self, index: int) -> CaseFiles:
        """Where pair ``index`` lies, whether it is there or not."""
        case = f"generated_{index:04d}"
        images = tuple(self.folder / IMAGES / f"{case}_{c:04d}{ENDING}" for c in range(len(self.plan.channels)))
        return CaseFiles(case, images, self.folder / LABELS / f"{case}{ENDING}")

    def has(self, index: int) -> bool:
        """Whether pair ``index`` is there: its labels are written last."""
        label = self.files(index).label
        return label is not None and label.is_file()

    def beyond(self, count: int) -> list[str]:
        """Cases that are here and are none of the first ``count`` pairs."""
        wanted = {self.files(index).case for index in range(count)}
        found = {path.name.removesuffix(ENDING) for path in (self.folder / LABELS).glob(f"*{ENDING}")}
        return sorted(found - wanted)

    def remove(self, case: str) -> None:
        """Delete the files of a case that is here."""
        (self.folder / LABELS / f"{case}{ENDING}").unlink()
        for path in (self.folder / IMAGES).glob(f"{case}_*{ENDING}"):
            path.unlink()

    def write(self, index: int, pair: GeneratedPair) -> None:
        """Write pair ``index`` on the planned grid, at the origin. ImageError if that is not possible."""
        files = self.files(index)
        decoded = decode_labels(pair.distances.numpy(), codes_of(self.plan.dataset.labels))
        grid = Grid.of(decoded.shape, np.diag([*self.plan.spacing_mm, 1.0]), self.plan.dimensions)
        for path, channel in zip(files.images, denormalise(pair.image.numpy(), self.plan.channels), strict=True):
            write_scalars(path, channel, grid)
        assert files.label is not None
        write_labels(files.label, decoded, grid)

    def write_description(self, count: int, made: Mapping[str, Any]) -> None:
        """Write dataset.json, which says how the ``count`` pairs were made. UserError if that is not possible."""
        description = replace(self.plan.dataset, name=self.folder.name, file_ending=ENDING, ignore=None)
        units = {channel.name: units_after_denormalising(channel) for channel in self.plan.channels}
        content = {**dataset_json(description), "numTraining": count, "intensities": units, "generated": dict(made)}
        path = self.folder / DESCRIPTION
        try:
            write_text_atomically(path, json.dumps(content, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another `output`.") from error

    def made(self) -> dict[str, Any]:
        """How the pairs that are here were made, {} if there is nothing. UserError if this is another data set."""
        path = self.folder / DESCRIPTION
        if not path.is_file():
            return {}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))["generated"]
            return dict(found)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: this data set was not generated. Give another `output`.") from error
