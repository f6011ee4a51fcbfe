"""Segment one scan with one or several trained networks."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor, nn

from diffatlas_pipeline.atlases.answer import ask_atlases
from diffatlas_pipeline.atlases.contrast import adapt_contrast
from diffatlas_pipeline.atlases.late_fusion import NETWORK_SHARE, fitting_share, mixed
from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.diffusion.solvers import SOLVERS
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.inference.stitched import Stitcher, is_out_of_memory
from diffatlas_pipeline.methods.base import LearnedMethod, Method, Progress, Segmentation, Stitch
from diffatlas_pipeline.methods.registry import create_method, known_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.networks.execution import faster_precision, running_in
from diffatlas_pipeline.planning.plan import Plan, Recipe
from diffatlas_pipeline.preprocessing.case import prepare_image, restore_distances, restore_labels
from diffatlas_pipeline.preprocessing.distance_maps import STORED_LIMIT
from diffatlas_pipeline.preprocessing.normalisation import is_foreign
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.registration.affine import RegistrationFailed
from diffatlas_pipeline.volumes.grids import Triple, Volume

PRECISIONS = ("auto", "float32", "bfloat16")
ADAPTATIONS = ("off", "curve", "atlases")
CURVE_REFERENCES = 4  # training scans that a contrast curve is drawn from; each costs an affine registration
STEPS_OF_DRAWS = 2
FAR_SPACING = 2.5  # a scan this many times coarser or finer than the planned spacing is unlike the training data
FEW_INSIDE = 0.01  # share of voxels within a CT model's intensity bounds below which the scan is hardly a CT


@dataclass(frozen=True)
class Prepared:
    """A scan as the network sees it: ``image`` (C, x, y, z) in [-1, 1], the way back, and what is unusual about it.

    ``atlases`` is what the training scans that the model keeps say of it by registration, if that was asked for;
    ``earlier_s`` are the seconds that this had taken, if it was done in another run, less those waited for it.
    ``adapted_from`` is the scan as it was, in [-1, 1], if ``image`` shows it as it would look among the training scans.
    """

    image: np.ndarray
    record: SpatialRecord
    warnings: tuple[str, ...]
    atlases: Segmentation | None = None
    earlier_s: float = 0.0
    adapted_from: np.ndarray | None = None


@dataclass(frozen=True)
class Result:
    """A segmentation on the scan's own grid; ``seconds`` per stage.

    ``labels`` (X, Y, Z) int32 in the data set's values. ``distances_mm`` (K, X, Y, Z) float32, negative inside, cut off at the
    plan's tau. ``uncertainty_mm`` (X, Y, Z) float32: standard deviation of the signed distance over draws, folds and
    atlases, the largest over labels.
    """

    labels: np.ndarray
    distances_mm: np.ndarray | None = None
    uncertainty_mm: np.ndarray | None = None
    warnings: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)


def settings_for(
    recipe: Recipe,
    steps: int | None = None,
    solver: str | None = None,
    draws: int | None = None,
    guidance_level: float | None = None,
) -> Recipe:
    """``recipe`` with the given sampling options instead of its own.

    Where all draws would be the same for want of a second step, several draws take one more, unless ``steps`` is given.
    UserError for a value that is not allowed, or an option that the recipe's method does not have.
    """
    if steps is not None and steps < 0:
        raise UserError(f"--steps {steps}: must be at least 1, or 0 for all training steps.")
    if solver is not None and solver not in SOLVERS:
        raise UserError(f"--solver {solver}: unknown; choose one of {', '.join(SOLVERS)}.")
    if draws is not None and draws < 1:
        raise UserError(f"--draws {draws}: must be at least 1.")
    if guidance_level is not None and not 0 <= guidance_level <= 1:
        raise UserError(f"--guidance-level {guidance_level}: must lie between 0 (clean image) and 1 (as noisy as the mask).")
    given: dict[str, Any] = {"steps": steps, "solver": solver, "draws": draws, "guidance_level": guidance_level}
    given = {name: value for name, value in given.items() if value is not None}
    silent = recipe.input_scaling == "signal" and recipe.steps == 1  # a single step from noise that the network does not hear
    if silent and steps is None and given.get("draws", 1) > 1:
        given["steps"] = STEPS_OF_DRAWS
    foreign = [name for name in given if name not in known_method(recipe.method).options]
    if foreign:
        flags = ", ".join("--" + name.replace("_", "-") for name in foreign)
        raise UserError(f"{flags}: the method {recipe.method} has no such option. Leave it out.")
    return replace(recipe, **given)


class Predictor:
    """Networks ready to segment: their signed distances are averaged, which makes several folds an ensemble.

    ``precision`` "auto" uses bfloat16 where a measurement on this machine shows it faster. ``batch_size`` None goes by
    the device. ``registrations`` is a folder for what registration finds, to be used again. Raises ModelError if the folds
    differ in plan or method, or their weights do not fit the plan; UserError for more sampling steps than training steps.
    """

    def __init__(
        self,
        folds: Sequence[TrainedFold],
        device: torch.device,
        settings: Recipe,
        seed: int = 0,
        precision: str = "auto",
        overlap: float = 0.5,
        batch_size: int | None = None,
        registrations: Path | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise UserError(f"--precision {precision}: unknown; choose one of {', '.join(PRECISIONS)}.")
        first = folds[0]
        for other in folds[1:]:
            if other.plan != first.plan or other.method != first.method:
                raise ModelError(
                    f"{first.fold} and {other.fold} were trained with different plans or methods. Choose one with -f."
                )
        self.plan: Plan = first.plan
        self.folds = tuple(fold.fold for fold in folds)
        self.references = first.references
        self.learnt_modalities = frozenset.intersection(*(frozenset(f.metadata.get("learnt_modalities", ())) for f in folds))
        self.device, self.settings, self.seed = device, settings, seed
        self.registrations = registrations
        self.method = create_method(first.method, self.plan, settings)
        most = self.plan.diffusion.training_steps
        if "steps" in self.method.options and settings.steps > most:
            raise UserError(
                f"--steps {settings.steps}: the model has {most} training steps. Take at most {most}, or 0 for all."
            )
        networks = [_restored(self.method, fold) for fold in folds]
        if isinstance(self.method, LearnedMethod):
            networks = [_Runner(network, device, precision) for network in networks]
        self.networks = networks
        if batch_size is None:  # sampling keeps no activations, so more windows fit than in training
            batch_size = 2 * self.plan.training.batch_size if device.type == "cuda" else 1
        self.stitch = Stitcher(self.plan.patch_size, overlap, batch_size, device)

    @property
    def precision(self) -> str:
        """What the networks really run in; "auto" until the first scan decides."""
        return str(getattr(self.networks[0], "precision", "float32"))

    def has_spread(self, with_atlases: bool) -> bool:
        """Whether :meth:`sample` tells how far several answers disagree: those of draws, folds or atlases."""
        return with_atlases or len(self.networks) > 1 or self.method.has_spread(self.networks[0])

    def segment_volume(
        self,
        volume: Volume,
        case: str,
        modality: str | None = None,
        distances: bool = False,
        uncertainty: bool = False,
        progress: Progress | None = None,
    ) -> Result:
        """Segment ``volume``; the result depends on the scan, the settings, the seed and the name of the case alone.

        ``distances`` and ``uncertainty`` ask for the maps of :class:`Result`. ``progress`` is told (steps done, steps in all).
        """
        start = time.perf_counter()
        prepared = self.prepare(volume, modality)
        prepared_at = time.perf_counter()
        segmentation = self.sample(prepared, case, progress)
        sampled_at = time.perf_counter()
        result = self.restore(segmentation, prepared, distances, uncertainty)
        end = time.perf_counter()
        seconds = {"prepare": prepared_at - start, "sample": sampled_at - prepared_at, "restore": end - sampled_at}
        return replace(result, seconds=seconds)

    def prepare(self, volume: Volume, modality: str | None = None, adapt: str = "off", with_atlases: bool = False) -> Prepared:
        """Orient, crop, resample, normalise; CPU only, so it may run in another thread.

        ``adapt`` gives the scan the contrast of the training scans that the first fold keeps: by a "curve" of intensities, or
        by registration of these "atlases". ``with_atlases`` registers them, too, for :meth:`sample` to use their labels.
        """
        image, record = prepare_image(volume, self.plan, modality)
        warnings = _unusual(image, record, self.plan, modality)
        return self._with_training_scans(image, record, warnings, adapt, with_atlases)

    def prepare_stored(
        self, image: np.ndarray, record: SpatialRecord, adapt: str = "off", with_atlases: bool = False
    ) -> Prepared:
        """:meth:`prepare` for an ``image`` (C, x, y, z) that has been preprocessed by the plan."""
        return self._with_training_scans(image, record, [], adapt, with_atlases)

    def is_foreign(self, modality: str | None) -> bool:
        """Whether no scan that the networks have learnt from was of ``modality``."""
        return is_foreign(modality, self.plan.channels) and str(modality).upper() not in self.learnt_modalities

    def _with_training_scans(
        self, image: np.ndarray, record: SpatialRecord, warnings: list[str], adapt: str, with_atlases: bool
    ) -> Prepared:
        if (adapt != "off" or with_atlases) and not self.references:
            raise ModelError("The model keeps no training scans to register. Train it again, or do without them.")
        scan, said, earlier_s = image, None, 0.0
        try:
            if adapt == "curve":
                images = [case.image for case in self.references[:CURVE_REFERENCES]]
                image, _ = adapt_contrast(image, images, self.plan.spacing_mm, self.seed)
            if with_atlases or adapt == "atlases":
                answer = ask_atlases(scan, self.references, self.plan, self.registrations)
                earlier_s = answer.earlier_s
                if with_atlases:
                    said = Segmentation(torch.from_numpy(answer.distances), torch.from_numpy(answer.spread))
                if adapt == "atlases":
                    image = answer.appearance
        except (RegistrationFailed, UserError) as error:
            warnings = [*warnings, f"it was segmented as it is, without the training scans: {error}"]
        return Prepared(image, record, tuple(warnings), said, earlier_s, None if image is scan else scan)

    def sample(self, prepared: Prepared, case: str, progress: Progress | None = None) -> Segmentation:
        """Signed distances (K, x, y, z) on the planned grid, mean over draws, folds and atlases, and their spread."""
        found = self.network_alone(prepared, case, progress)
        return found if prepared.atlases is None else mixed(found, prepared.atlases, self.network_share(prepared, found))

    def network_share(self, prepared: Prepared, network: Segmentation) -> float:
        """How much the network's answer counts beside the atlases of ``prepared``: a fixed share for scans of a kind that it
        has learnt, else the share that fits the scan.
        """
        if prepared.atlases is None or prepared.adapted_from is None:
            return NETWORK_SHARE
        return fitting_share(prepared.adapted_from, network, prepared.atlases, self.plan.spacing_mm, self.plan.distance.tau_mm)

    def network_alone(self, prepared: Prepared, case: str, progress: Progress | None = None) -> Segmentation:
        """What :meth:`sample` would give without atlases."""
        image = torch.from_numpy(np.ascontiguousarray(prepared.image, dtype=np.float32))
        parts = []
        for index, network in enumerate(self.networks):
            report = _part_of(progress, index, len(self.networks))
            parts.append(self._segment(network, image, case, report))
        return _ensemble(parts)

    def restore(
        self, segmentation: Segmentation, prepared: Prepared, distances: bool = False, uncertainty: bool = False
    ) -> Result:
        """Back onto the scan's own grid; CPU only, so it may run in another thread."""
        planned = segmentation.distances.numpy()
        labels = restore_labels(planned, prepared.record, self.plan)
        tau_mm = self.plan.distance.tau_mm
        maps = restore_distances(planned, prepared.record).clip(-1, 1) * np.float32(tau_mm) if distances else None
        spread, warnings = None, list(prepared.warnings)
        if uncertainty and segmentation.spread is None:
            warnings.append(
                "no uncertainty of it is known: it has a single segmentation, of one draw and one fold, without atlases"
            )
        elif uncertainty and segmentation.spread is not None:
            largest = segmentation.spread.max(dim=0, keepdim=True).values.numpy()
            # Outside the crop restore_distances puts STORED_LIMIT; there, nothing is uncertain.
            spread = (STORED_LIMIT - restore_distances(STORED_LIMIT - largest, prepared.record)[0]) * np.float32(tau_mm)
        if not labels.any():
            warnings.append("no structure was found in it")
        return Result(labels, maps, spread, tuple(warnings))

    def _segment(self, network: nn.Module, image: Tensor, case: str, progress: Progress | None) -> Segmentation:
        arguments = (case_seed(self.seed, case), progress)
        with torch.inference_mode():
            if self.device.type != "cpu":
                try:
                    return segment_padded(
                        self.method, network, image.to(self.device), self.plan.patch_size, self.stitch, *arguments
                    )
                except RuntimeError as error:
                    if not is_out_of_memory(error):
                        raise
                # The whole-volume state does not fit beside the network: keep it on the CPU, run only windows on the device.
            return segment_padded(self.method, network, image, self.plan.patch_size, self.stitch, *arguments)


def case_seed(seed: int, case: str) -> int:
    """The seed of one scan's noise, from the user's ``seed`` and the name of the case."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{case}".encode()).digest()[:4], "little")


def segment_padded(
    method: Method,
    network: nn.Module,
    image: Tensor,
    patch: Triple,
    stitch: Stitch,
    seed: int,
    progress: Progress | None = None,
) -> Segmentation:
    """``method.segment`` of ``image`` (C, X, Y, Z), which is first padded to at least ``patch`` with the image's minimum.

    Training pads small volumes in the same way, so the noise and the padding that the network sees are those it knows.
    """
    padded, inside = pad_nd_image(image, patch, "constant", {"value": IMAGE_PADDING}, return_slicer=True)
    found = method.segment(network, padded, stitch, seed, progress)
    inside = (slice(None), *inside[1:])  # as many labels as there are, whatever the number of channels
    return Segmentation(
        found.distances[inside].float().cpu(), None if found.spread is None else found.spread[inside].float().cpu()
    )


class _Runner(nn.Module):
    """A network and the precision it runs in, which is decided at its first call, on the real input."""

    def __init__(self, network: nn.Module, device: torch.device, precision: str) -> None:
        super().__init__()
        self.network = network.to(device).eval()
        self.device = device
        self.precision = precision

    def forward(self, windows: Tensor, *levels: Tensor) -> Tensor:
        if self.precision == "auto":
            self.precision = faster_precision(self.device, self.network, lambda: self.network(windows, *levels), train=False)
        with running_in(self.precision, self.device):
            return self.network(windows, *levels)


def _restored(method: Method, fold: TrainedFold) -> nn.Module:
    try:
        return method.restore(fold.state)
    except RuntimeError as error:
        raise ModelError(f"{fold.fold}: its checkpoint does not fit the plan ({error}). Restore the model folder.") from error


def _ensemble(parts: Sequence[Segmentation]) -> Segmentation:
    """Mean of the parts; their variance is the mean variance within the parts plus the variance between them."""
    if len(parts) == 1:
        return parts[0]
    means = torch.stack([part.distances for part in parts])
    within = torch.stack([torch.zeros_like(part.distances) if part.spread is None else part.spread.square() for part in parts])
    spread = (within.mean(dim=0) + means.var(dim=0, correction=0)).sqrt()
    return Segmentation(means.mean(dim=0), spread)


def _part_of(progress: Progress | None, index: int, parts: int) -> Progress | None:
    return None if progress is None else lambda done, total: progress(index * total + done, parts * total)


def _unusual(image: np.ndarray, record: SpatialRecord, plan: Plan, modality: str | None) -> list[str]:
    """What sets a scan far apart from the training data, as far as the plan tells."""
    warnings = []
    spacing_mm = record.canonical.spacing_mm
    for axis, (found, planned) in enumerate(zip(spacing_mm, record.planned_spacing_mm, strict=True)):
        if not 1 / FAR_SPACING <= found / planned <= FAR_SPACING:
            warnings.append(f"spacing of {found:.3g} mm along {'xyz'[axis]}, the model was planned for {planned:.3g} mm")
    small = [n for n, window in zip(record.planned_shape, plan.patch_size, strict=True) if 3 * n < window]
    if small:
        found_size, known = ("x".join(str(n) for n in size) for size in (record.planned_shape, plan.patch_size))
        warnings.append(f"only {found_size} voxels at the planned spacing, the model works on {known}")
    for channel, values in zip(plan.channels, image, strict=True):
        if values.min() == values.max():
            warnings.append(f"channel {channel.name} is constant")
        elif channel.scheme == "ct" and modality is None and np.mean(np.abs(values) < 1) < FEW_INSIDE:
            warnings.append(
                f"channel {channel.name}: hardly an intensity between {channel.lower:g} and {channel.upper:g}, the bounds "
                "of the training data; if it is no CT, say so with --modality MRI"
            )
    return warnings
