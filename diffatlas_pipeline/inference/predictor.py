"""Prepare one scan, segment it with one or several trained networks, and bring the result back to the scan's own
grid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from diffatlas_pipeline.errors import ImageError, ModelError, UserError
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.inference.calibration import mean_calibrated, mean_sharpness, read_calibration
from diffatlas_pipeline.inference.familiarity import Description, Familiarity, KnownCases, described
from diffatlas_pipeline.inference.memory import Need, need_of, scratch_for
from diffatlas_pipeline.inference.padded import reconstructed_padded, segment_padded, unexplained_padded
from diffatlas_pipeline.inference.postprocessing import postprocessed
from diffatlas_pipeline.inference.probabilities import native_probabilities
from diffatlas_pipeline.inference.result import Maps, Result
from diffatlas_pipeline.inference.running_network import restored, with_room
from diffatlas_pipeline.inference.scan_warnings import of_padding, unusual
from diffatlas_pipeline.inference.seed import scan_seed
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.machine import available_bytes
from diffatlas_pipeline.methods.base import DiffusionRecipe, GeneratingMethod, PlannedSegmentation, Progress, Recipe
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.methods.segmentation_loss import SHARPNESS
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.models.postprocessing import common_steps
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.case import (
    prepare_image,
    restore_distances,
    restore_error_probability,
    restore_image,
    restore_labels,
)
from diffatlas_pipeline.preprocessing.drawing import Drawing, prepare_drawing
from diffatlas_pipeline.preprocessing.normalisation import is_out_of_domain
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.scratch import Scratch, each
from diffatlas_pipeline.volumes.channels import missing_channels
from diffatlas_pipeline.volumes.grids import LabelVolume, Volume
from diffatlas_pipeline.volumes.orientation import to_canonical

NOT_LEARNT = "a model that was not trained with `given_labels` follows slices alone, drawn from edge to edge"
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class Prepared:
    """A scan as the network sees it: ``image`` (C, x, y, z) in [-1, 1], NaN in channels that it lacks, the way back,
    the seed of its noise, what is unusual about it, what a reader has drawn of it, if anything, whence it came, and how
    a network of low resolution sees it, if there is one.
    """

    image: np.ndarray
    record: SpatialRecord
    seed: int
    warnings: tuple[str, ...] = ()
    drawing: Drawing | None = None
    source: str = "the scan"
    rough: Prepared | None = None


class Predictor:
    """Networks ready to segment: their signed distances are averaged, which makes several folds an ensemble.

    ``recipe`` says how to sample. ``precision`` "auto" uses bfloat16 where the device has instructions for
    it. ``batch_size`` None goes by the device. ``postprocessing``: at the end, do what all folds chose on validation
    cases. Raises ModelError if the folds differ in plan or method, or their weights do not fit the plan; UserError for
    more sampling steps than training steps.
    """

    looks_first = False
    """Whether structures are found at low resolution before."""

    def __init__(
        self,
        folds: Sequence[TrainedFold],
        device: torch.device,
        recipe: Recipe,
        seed: int = 0,
        precision: str = "auto",
        overlap: float = 0.5,
        batch_size: int | None = None,
        postprocessing: bool = True,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"`precision` {precision}: unknown; choose one of {', '.join(PRECISIONS)}.")
        first = folds[0]
        for other in folds[1:]:
            if other.plan != first.plan or other.method != first.method:
                raise ModelError(
                    f"{first.fold} and {other.fold} were trained with different plans or methods. Choose one with `folds`."
                )
        self.plan: Plan = first.plan
        self.folds = tuple(fold.fold for fold in folds)
        self.weights = tuple(fold.weights for fold in folds)
        self.learnt_modalities = frozenset.intersection(*(frozenset(f.metadata.get("learnt_modalities", ())) for f in folds))
        text = first.known_cases
        self.known = None if text is None else from_json(KnownCases, text, f"known cases of {first.fold}")
        labels = len(self.plan.dataset.labels)
        found = [read_calibration(f.calibration, f.fold, labels) for f in folds if f.calibration is not None]
        self.error_curves = tuple(one.errors for one in found)
        self.postprocessing = common_steps([fold.postprocessing for fold in folds]) if postprocessing else {}
        # Volumes are as far off only if they are made as those of the held-out cases were.
        as_trained = recipe == recipe_of(self.plan, first.method, first.recipe)
        as_trained &= all(common_steps([fold.postprocessing]) == self.postprocessing for fold in folds)
        self.volume_errors = VolumeErrors.joined(one.volumes for one in found if as_trained)
        self.device, self.seed = device, seed
        self.recipe = recipe
        self.method = create_method(first.method, self.plan, recipe)
        sharpness = mean_sharpness(found)
        self.knows_sharpness = sharpness is not None
        self.method.sharpness = sharpness or SHARPNESS
        most = self.plan.diffusion.training_steps
        if isinstance(recipe, DiffusionRecipe) and (steps := recipe.sampler.steps) > most:
            raise UserError(f"`steps` {steps}: the model has {most} training steps. Take at most {most}, or 0 for all.")
        self.networks: list[nn.Module] = [restored(self.method, fold, device, precision) for fold in folds]
        if batch_size is None:  # sampling keeps no activations, so more windows fit than in training
            batch_size = 2 * self.plan.training.batch_size if device.type == "cuda" else 1
        self.stitch = Stitcher(self.plan.patch_size, overlap, batch_size, device)

    @property
    def precision(self) -> str:
        """What the networks really run in."""
        return str(getattr(self.networks[0], "precision", "float32"))

    def is_out_of_domain(self, modality: str | None) -> bool:
        """Whether no scan that the networks have learnt from was of ``modality``; never if they have learnt any
        contrast.
        """
        if self.method.any_contrast:
            return False
        return is_out_of_domain(modality, self.plan.channels) and str(modality).upper() not in self.learnt_modalities

    @property
    def models_images(self) -> bool:
        """Whether the networks model images, too, so that a scan can be reconstructed."""
        return isinstance(self.method, GeneratingMethod)

    def prepare(self, volume: Volume, modality: str | None = None, drawing: LabelVolume | None = None) -> Prepared:
        """Orient, crop, resample, normalise; CPU only, so it may run in another thread.

        ``modality`` says what the scan is where that is not what the model was trained on. ``drawing`` is a part of its
        labels, 255 where nobody has looked. UserError if it does not fit the scan, or the networks take none.
        """
        image, record = prepare_image(volume, self.plan, modality)
        self._check_channels(image, volume.source)
        seed = scan_seed(self.seed, to_canonical(volume.array, volume.grid)[0])
        warnings = [*unusual(image, record, self.plan, modality), *of_padding(volume, self.plan, modality)]
        if drawing is None:
            return Prepared(image, record, seed, tuple(warnings), source=volume.source)
        prepared = prepare_drawing(drawing, record, self.plan)
        if prepared.is_complete:
            warnings = [*warnings, "every voxel of it is given, so nothing was left to segment"]
        elif not (self.method.drawn_channels or prepared.whole_slices):
            warnings = [*warnings, f"what is drawn of it is kept, but tells nothing of the rest: {NOT_LEARNT}"]
        return Prepared(image, record, seed, tuple(warnings), prepared, volume.source)

    def _check_channels(self, image: np.ndarray, source: str) -> None:
        """ImageError if the method cannot do without the channels that ``image`` (C, x, y, z) lacks."""
        lacks, help_ = missing_channels(image), self.method.needs_all_channels
        if lacks and help_:
            names = ", ".join(self.plan.channels[c].name for c in lacks)
            raise ImageError(f"{source}: channel {names} missing. {help_}")

    def prepare_stored(self, image: np.ndarray, record: SpatialRecord) -> Prepared:
        """:meth:`prepare` for an ``image`` (C, x, y, z) that has been preprocessed by the plan."""
        return Prepared(image, record, scan_seed(self.seed, image))

    def segment(self, prepared: Prepared, progress: Progress | None = None) -> PlannedSegmentation:
        """Signed distances (K, x, y, z) on the planned grid, mean over draws and folds.

        They depend on the scan, the recipe and the seed alone. ``progress`` is told (steps done, steps in all).
        """
        return self._sampled(prepared, progress)

    def _sampled(self, prepared: Prepared, progress: Progress | None, begin: torch.Tensor | None = None) -> PlannedSegmentation:
        """:meth:`segment`, which may ``begin`` with distances (K, x, y, z) that are nearly right already."""
        image = torch.from_numpy(np.ascontiguousarray(prepared.image, dtype=np.float32))
        drawing = None if prepared.drawing is None else torch.from_numpy(prepared.drawing.planned)
        self.stitch.scratch = scratch = scratch_for(self._need(prepared), prepared.source)
        parts = []
        for index, network in enumerate(self.networks):
            report = _part_of(progress, index, len(self.networks))
            parts.append(
                with_room(
                    lambda here, net=network, told=report: segment_padded(  # type: ignore[misc]
                        self.method, net, here, self.stitch, prepared.seed, told, drawing, begin
                    ),
                    image,
                    self.device,
                )
            )
        found = _ensemble(parts, scratch)
        _check_finite(found, scratch, prepared.source)
        return found

    def is_large(self, prepared: Prepared) -> bool:
        """Whether there is no room for another scan beside it."""
        free = available_bytes()
        return free is not None and 2 * self._need(prepared).in_memory > free

    def _need(self, prepared: Prepared) -> Need:
        x, y, z = prepared.image.shape[1:]
        return need_of(self.plan, self.recipe, (x, y, z), prepared.record.crop_shape)

    def describe(self, prepared: Prepared, found: PlannedSegmentation) -> Description:
        """What is compared to tell foreign scans: numbers of the image and of the segmentation that was ``found`` in
        it.

        Of a scan that lacks channels they are those of the others: what was generated is usual, whatever the scan is.
        """
        description = described(prepared.image, found.distances.numpy(), self.plan.spacing_mm)
        if missing_channels(prepared.image):
            return description
        image = torch.from_numpy(np.ascontiguousarray(prepared.image, dtype=np.float32))
        numbers = with_room(
            lambda here: unexplained_padded(self.method, self.networks[0], here, found.distances, self.stitch, prepared.seed),
            image,
            self.device,
        )
        return {**description, **numbers}

    def familiarity(self, prepared: Prepared, found: PlannedSegmentation, other_contrast: bool = False) -> Familiarity | None:
        """How far the scan lies from what the model has learnt; None if it keeps no known cases.

        A scan of an ``other_contrast`` is judged by its shapes alone, as is every scan of a model of any contrast.
        """
        if self.known is None:
            return None
        other_contrast = other_contrast or self.method.any_contrast > 0
        return self.known.compare(self.describe(prepared, found), other_contrast, bool(missing_channels(prepared.image)))

    def reconstructed(self, found: PlannedSegmentation, prepared: Prepared) -> PlannedSegmentation:
        """``found`` with the image that the first network makes of the scan and of what was found in it, for networks
        that :attr:`models_images`.
        """
        method, image = self.method, torch.from_numpy(np.array(prepared.image, dtype=np.float32))
        assert isinstance(method, GeneratingMethod)
        if found.generated is not None:
            image[list(missing_channels(prepared.image))] = found.generated
        made = with_room(
            lambda here: reconstructed_padded(method, self.networks[0], here, found.distances, self.stitch, prepared.seed),
            image,
            self.device,
        )
        return replace(found, reconstruction=made)

    def restore(self, segmentation: PlannedSegmentation, prepared: Prepared, maps: Maps | None = None) -> Result:
        """Back onto the scan's own grid; CPU only, so it may run in another thread.

        Of ``maps``, channels are there only if they were generated or reconstructed. What was drawn is kept exactly.
        """
        maps = maps or Maps()
        planned = segmentation.distances.numpy()
        labels = self._postprocessed(restore_labels(each(planned), prepared.record, self.plan), prepared)
        tau_mm = self.plan.distance.tau_mm
        near = restore_distances(each(planned), prepared.record).clip(-1, 1) * np.float32(tau_mm) if maps.distances else None
        wrong, warnings = None, list(prepared.warnings)
        if maps.uncertainty:
            wrong = mean_calibrated(
                restore_error_probability(each(planned), prepared.record, SHARPNESS, self.plan), self.error_curves
            )
        if prepared.drawing is not None:
            prepared.drawing.keep_in(labels, near, wrong)
        if not labels.any():
            warnings.append("no structure was found in it")
        result = Result(labels, near, wrong, tuple(warnings))
        if maps.probabilities:
            parts = native_probabilities(segmentation, prepared.record, self.method.sharpness, labels, self.method.codes)
            if prepared.drawing is not None:
                prepared.drawing.keep_in_probabilities(parts)
            result = replace(result, probabilities=parts)
        if maps.generated:
            result = replace(result, generated=self._generated(segmentation, prepared))
        return self._with_reconstruction(result, segmentation, prepared) if maps.reconstruction else result

    def _postprocessed(self, labels: np.ndarray, prepared: Prepared) -> np.ndarray:
        """``labels`` (X, Y, Z) as held-out cases have told; as they are where a reader has drawn, and so knows
        better.
        """
        if prepared.drawing is not None or not self.postprocessing:
            return labels
        values = {label.name: label.value for label in self.plan.dataset.labels}
        return postprocessed(labels, {values[name]: steps for name, steps in self.postprocessing.items()})

    def _generated(self, segmentation: PlannedSegmentation, prepared: Prepared) -> dict[int, np.ndarray]:
        """The channels (X, Y, Z) that were missing, by number, on the scan's own grid."""
        if segmentation.generated is None:
            return {}
        lacks = missing_channels(prepared.image)
        return self._native(segmentation.generated.numpy(), lacks, prepared.record)

    def _with_reconstruction(self, result: Result, segmentation: PlannedSegmentation, prepared: Prepared) -> Result:
        """``result`` with what was reconstructed of the channels that the scan has, and what is left of these."""
        if segmentation.reconstruction is None:
            return result
        lacks = missing_channels(prepared.image)
        has = [c for c in range(len(prepared.image)) if c not in lacks]
        made = self._native(segmentation.reconstruction.numpy()[has], has, prepared.record)
        scan = self._native(prepared.image[has], has, prepared.record)
        return replace(result, reconstruction=made, residual={c: scan[c] - made[c] for c in has})

    def _native(self, image: np.ndarray, numbers: Sequence[int], record: SpatialRecord) -> dict[int, np.ndarray]:
        """Channels ``image`` (C, x, y, z) with these ``numbers`` in the plan, by number on the scan's own grid
        (X, Y, Z).
        """
        restored = restore_image(image, record, [self.plan.channels[c] for c in numbers])
        return dict(zip(numbers, restored, strict=True))


def _ensemble(parts: Sequence[PlannedSegmentation], scratch: Scratch) -> PlannedSegmentation:
    """Mean of the parts; it takes the place of the first."""
    if len(parts) == 1:
        return parts[0]
    generated = [part.generated for part in parts if part.generated is not None]
    image = torch.stack(generated).mean(dim=0) if generated else None
    drawn = [part.probabilities for part in parts if part.probabilities is not None]
    probabilities = torch.stack(drawn).mean(dim=0) if drawn else None
    mean = parts[0].distances
    with torch.inference_mode():
        for where in scratch.slabs(mean.shape):
            mean[where] = torch.stack([part.distances[where] for part in parts]).mean(dim=0)
    return PlannedSegmentation(mean, generated=image, probabilities=probabilities)


def _check_finite(found: PlannedSegmentation, scratch: Scratch, source: str) -> None:
    """ModelError if what the networks gave is not all numbers: it would be read as background."""
    with torch.inference_mode():
        for array in (found.distances, found.generated):
            for where in scratch.slabs(array.shape) if array is not None else ():
                if array is not None and not bool(torch.isfinite(array[where]).all()):
                    raise ModelError(
                        f"{source}: the model's answer is not finite. Give `precision` float32; if that does not help, its "
                        "weights are wrong: restore the model folder, or train it again."
                    )


def _part_of(progress: Progress | None, index: int, parts: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(index * total + done, parts * total)
