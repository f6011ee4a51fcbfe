"""A trained model, loaded once, that segments scans however they are given."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.api.folder_prediction import FolderPrediction, FolderResult
from diffatlas_pipeline.api.given_labels import drawing_of
from diffatlas_pipeline.api.segmentation import Segmentation
from diffatlas_pipeline.atlases.policy import choose_use
from diffatlas_pipeline.atlases.registered import registrations_folder
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.datasets.description import MODALITIES, CaseFiles
from diffatlas_pipeline.datasets.header_modality import believed_modality
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import ImageError, ModelError, UserError
from diffatlas_pipeline.inference.coarse_to_fine import CoarseToFine
from diffatlas_pipeline.inference.dicom_output import kinds_of
from diffatlas_pipeline.inference.inputs import check_apart, find_scans, passed_over
from diffatlas_pipeline.inference.parts import Part
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.machine import limit_memory
from diffatlas_pipeline.methods.base import DiffusionRecipe
from diffatlas_pipeline.methods.registry import recipe_of, with_sampling
from diffatlas_pipeline.models.archive import UnpackedModel
from diffatlas_pipeline.models.find import model_at
from diffatlas_pipeline.models.folder import ModelFolder, TrainedFold
from diffatlas_pipeline.models.postprocessing import in_words
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.volumes.channels import lacking
from diffatlas_pipeline.volumes.grids import Volume
from diffatlas_pipeline.volumes.in_memory import is_image, volume_of_array, volume_of_images
from diffatlas_pipeline.volumes.io import read_volume

if TYPE_CHECKING:
    import torch

    from diffatlas_pipeline.api.generation import FolderGeneration, Generated


def load_model(
    model: str | Path | ModelFolder,
    device: Any = "auto",
    *,
    folds: str | int | Sequence[str | int] | None = None,
    steps: int | None = None,
    solver: str | None = None,
    draws: int | None = None,
    guidance_level: float | None = None,
    seed: int = 0,
    precision: str = "auto",
    registrations: str | Path | None = None,
    postprocessing: bool = True,
    max_memory: float | None = None,
    low_resolution: bool = True,
) -> Model:
    """Load a trained model from its folder, or from a zip file of that folder.

    ``device`` is "auto", "cpu", "cuda", "cuda:1" or "mps". ``folds`` names those to use; several are averaged (default:
    the only one, or all of a cross-validation). ``steps``, ``solver``, ``draws`` and ``guidance_level`` sample
    otherwise than the model's recipe says. ``seed`` is that of the noise. ``precision`` is "float32", "bfloat16", or
    "auto": bfloat16 where the device has instructions for it. ``registrations`` is a folder in which what registration
    finds is kept. ``postprocessing`` does at the end what was chosen on validation cases. This process is to take at
    most ``max_memory`` GB: what does not fit is kept in files. ``low_resolution``: look for the structures at low
    resolution first, if the model has learnt that. Raises UserError.
    """
    if max_memory is not None and not max_memory > 0:
        raise UserError(f"`max_memory` {max_memory:g}: must be above 0, in GB, such as 8.")
    limit_memory(None if max_memory is None else round(max_memory * 1e9))
    unpacked = None
    if not isinstance(model, ModelFolder):
        path = Path(model).expanduser().resolve()
        unpacked = UnpackedModel(path) if path.is_file() else None
        model = model_at(path) if unpacked is None else unpacked.folder
    kept = None if registrations is None else registrations_folder(registrations)
    where = resolve_device(str(device))
    trained = [model.load(fold) for fold in model.choose_folds(_listed(folds))]
    first = trained[0]
    recipe = with_sampling(recipe_of(first.plan, first.method, first.recipe), steps, solver, draws, guidance_level)
    finder = _finder(model, trained, where, seed, precision) if low_resolution else None
    options: dict[str, Any] = {"precision": precision, "postprocessing": postprocessing}
    made = Predictor if finder is None else functools.partial(CoarseToFine, finder)
    predictor = made(trained, where, recipe, seed, **options)
    return Model(model, predictor, first.atlases, kept, unpacked)


class Model:
    """A trained model; made by :func:`load_model`."""

    def __init__(
        self,
        folder: ModelFolder,
        predictor: Predictor,
        atlases: Sequence[Any] = (),
        registrations: Path | None = None,
        unpacked: UnpackedModel | None = None,
    ) -> None:
        self._folder, self._predictor, self._atlases = folder, predictor, tuple(atlases)
        self._registrations, self._unpacked = registrations, unpacked  # an unpacked zip lives as long as its model

    def __repr__(self) -> str:
        return f"Model {self.path} ({', '.join(self.folds)}) on {self.device}: {', '.join(self.labels)}"

    @property
    def path(self) -> Path:
        """The model's folder, or the zip file of it."""
        return self._folder.named

    @property
    def plan(self) -> Plan:
        return self._predictor.plan

    @property
    def folds(self) -> tuple[str, ...]:
        return self._predictor.folds

    @property
    def device(self) -> str:
        return str(self._predictor.device)

    @property
    def sampling(self) -> str:
        """How it samples, in words; "" for a method that does not."""
        recipe = self._predictor.recipe
        if not isinstance(recipe, DiffusionRecipe):
            return ""
        sampler = recipe.sampler
        return f"{sampler.solver} with {sampler.steps_of(self.plan.diffusion)} step(s), {sampler.draws} draw(s)"

    @property
    def postprocessing(self) -> str:
        """What is done to its segmentations at the end, in words; "" for nothing."""
        return in_words(self._predictor.postprocessing)

    @property
    def labels(self) -> dict[str, int]:
        """The value of each label by its name."""
        return {label.name: label.value for label in self.plan.dataset.labels}

    @property
    def channels(self) -> tuple[str, ...]:
        """What the channels of a scan are, in order."""
        return self.plan.dataset.channels

    def segment(
        self,
        image: Any,
        modality: str | None = None,
        *,
        spacing_mm: Sequence[float] | None = None,
        affine: np.ndarray | None = None,
        adapt_contrast: str = "auto",
        with_atlases: bool | None = None,
        given_labels: Any = None,
    ) -> Segmentation:
        """Segment one scan; the result is that of DiffAtlas_predict, bit for bit.

        ``image`` is a path (a file, or a folder with a DICOM series), an image of SimpleITK or nibabel, a list of these
        with one entry per channel, or an array (X, Y, Z), with several channels (C, X, Y, Z). An array needs
        ``spacing_mm`` (X, Y, Z), or ``affine``, its 4x4 voxel-to-world matrix in mm (RAS+). A channel that is missing
        is None in a list, and NaN throughout in an array: it is generated, if the model has learnt to.

        ``modality`` ("CT" or "MRI") says what the scan is, where that is not what the model was trained on.
        ``adapt_contrast`` is how such a scan is given the contrast of the training scans: by registered "atlases", by a
        "curve" of intensities, "off", or "auto". ``with_atlases`` averages the network with registered training cases.
        ``given_labels`` is what a reader has drawn of it, to be kept and completed: a path, an image, or an array on
        the scan's grid, with the data set's values, 0 for background, and 255 where nobody has looked. Raises
        UserError.
        """
        volume, like = self._volume(image, spacing_mm, affine)
        named = [CaseFiles("the scan", (like,), None)] if like is not None else []
        modality, said = self._believed(named, modality)
        segmenter, warnings = self.segmenter(modality, adapt_contrast, with_atlases)
        scan = segmenter.prepare(volume, None if given_labels is None else drawing_of(given_labels, volume.grid))
        warnings = (*said, *warnings)
        return Segmentation(segmenter, segmenter.segment(scan), scan, volume.grid, like, warnings)

    def segment_folder(self, source: str | Path | Sequence[str | Path], output: str | Path, **options: Any) -> FolderResult:
        """Segment folders of scans, files or lists of these into ``output``; see :meth:`prepare_folder`."""
        return self.prepare_folder(source, output, **options).run()

    def prepare_folder(
        self,
        source: str | Path | Sequence[str | Path],
        output: str | Path,
        *,
        modality: str | None = None,
        adapt_contrast: str = "auto",
        with_atlases: bool | None = None,
        save_distance_maps: bool = False,
        save_uncertainty: bool = False,
        save_generated_channels: bool = False,
        save_reconstruction: bool = False,
        statistics: bool = False,
        overwrite: bool = False,
        given_labels: str | Path | None = None,
        dicom: str | Sequence[str] | None = None,
        save_probabilities: bool = False,
        num_parts: int = 1,
        part_id: int = 0,
    ) -> FolderPrediction:
        """Find the cases of ``source`` and check that they can be segmented into ``output``; nothing is segmented yet.

        ``source`` is a folder, a file, a list of files (.txt, .csv), or several of them.
        Cases whose segmentation is there already are kept unless ``overwrite``. Channels that a case lacks are
        generated, if the model has learnt to, and with ``save_generated_channels`` written. ``save_reconstruction``
        writes the scan as the model makes it, and what is left of it; ``statistics`` a table of all volumes;
        ``save_probabilities`` those of all labels. Of ``num_parts`` equal parts of the cases, number ``part_id`` (from
        0) is segmented; several processes may segment theirs into one folder.
        ``given_labels`` is a folder of what a reader has drawn of some of the cases, in files named as these, or such a
        file of a single case. ``dicom`` ("seg", "rtstruct" or both) also writes the segmentations of DICOM series as
        DICOM objects that refer to these. Raises UserError.
        """
        kinds = kinds_of(dicom)
        sources = [Path(one).expanduser() for one in ([source] if isinstance(source, (str, os.PathLike)) else source)]
        output = Path(output).expanduser()
        check_apart(sources, output)
        drawings = None if given_labels is None else Path(given_labels).expanduser()
        needs_all, flat = self._predictor.method.needs_all_channels, self.plan.dimensions == 2
        scans = find_scans(sources, len(self.channels), needs_all, flat)
        cases = scans.cases
        modality, said = self._believed(cases, modality)
        segmenter, warnings = self.segmenter(modality, adapt_contrast, with_atlases)
        maps = Maps(save_distance_maps, save_uncertainty, save_generated_channels, save_reconstruction, save_probabilities)
        said, part = (*said, *passed_over(sources, scans), *warnings), Part.chosen(num_parts, part_id)
        options = (overwrite, said, drawings, statistics, kinds, scans.skipped, part)
        return FolderPrediction(self._folder, segmenter, cases, output, maps, *options)

    def generate(self, output: str | Path, count: int = 20, **options: Any) -> Generated:
        """Generate ``count`` new pairs into ``output``; see :meth:`prepare_generation` for ``options``."""
        return self.prepare_generation(output, count, **options).run()

    def prepare_generation(
        self,
        output: str | Path,
        count: int,
        *,
        steps: int | None = None,
        solver: str | None = None,
        shape: Sequence[int] | None = None,
        overwrite: bool = False,
        workspace: str | Path | None = None,
    ) -> FolderGeneration:
        """Check that ``count`` new pairs of image and segmentation can be generated into ``output``.

        They are sampled with ``steps`` (default: 50, all for another solver) of ``solver`` (default: "dpmpp_2m"), have
        ``shape`` voxels (default: the median of the training cases that the model keeps), and are compared with the
        training cases, if these lie in ``workspace``. Pairs that are there are kept unless ``overwrite``. Raises
        UserError.
        """
        from diffatlas_pipeline.api.generation import FolderGeneration

        shapes = [atlas.image.shape[1:] for atlas in self._atlases]
        where, place = Path(output).expanduser(), Workspace.resolve(workspace)
        options = (steps, solver, shape, overwrite, place)
        return FolderGeneration(self._folder, self._predictor, shapes, where, count, *options)

    def segmenter(
        self, modality: str | None = None, adapt_contrast: str = "auto", with_atlases: bool | None = None
    ) -> tuple[Segmenter, tuple[str, ...]]:
        """What segments scans of ``modality``, and warnings."""
        if modality is not None and str(modality).upper() not in MODALITIES:
            raise UserError(f"`modality` {modality}: unknown; choose one of {', '.join(MODALITIES)}, or leave it out.")
        use, warnings = choose_use(self._predictor, len(self._atlases), modality, adapt_contrast, with_atlases)
        return Segmenter(self._predictor, self._atlases, use, modality, self._registrations), warnings

    def _believed(self, cases: Sequence[CaseFiles], modality: str | None) -> tuple[str | None, tuple[str, ...]]:
        """What the scans are taken for, by ``modality`` or by their headers, and warnings."""
        return believed_modality(cases, [channel.scheme == "ct" for channel in self.plan.channels], modality)

    def _volume(self, image: Any, spacing_mm: Sequence[float] | None, affine: np.ndarray | None) -> tuple[Volume, Path | None]:
        """``image`` as a volume, and the file that its segmentation is to resemble."""
        if isinstance(image, np.ndarray):
            return volume_of_array(image, spacing_mm, affine, self.plan.dimensions, len(self.channels)), None
        whole = list(image) if isinstance(image, (list, tuple)) else [image]
        parts = [part for part in whole if part is not None]
        lacks = [index for index, part in enumerate(whole) if part is None]
        if any(isinstance(part, np.ndarray) for part in parts):
            raise ImageError("image: a list of arrays. Stack its channels along a new first axis: (C, X, Y, Z).")
        if spacing_mm is not None or affine is not None:
            raise ImageError("spacing_mm and affine go with an array: files and images tell their own geometry.")
        if parts and all(isinstance(part, (str, os.PathLike)) for part in parts):
            paths = [Path(part).expanduser() for part in parts]
            return lacking(read_volume(paths), lacks), paths[0]
        if parts and all(is_image(part) for part in parts):
            return lacking(volume_of_images(parts), lacks), None
        kinds = ", ".join(dict.fromkeys(type(part).__name__ for part in parts)) or ("no channel" if whole else "an empty list")
        raise ImageError(
            f"image: found {kinds}. Give a path, an array, an image of SimpleITK or nibabel, or a list of one kind."
        )


def _finder(
    model: ModelFolder, trained: Sequence[TrainedFold], device: torch.device, seed: int, precision: str
) -> Predictor | None:
    """What looks for structures at low resolution: the same folds of ``model``, None if none was trained so."""
    within = model.low_resolution
    lacks = [one.fold for one in trained if not within.is_trained(one.fold)]
    if lacks:
        if len(lacks) < len(trained):
            console.warn(f"{', '.join(lacks)} of {within.path} is not trained, so scans are segmented as a whole.")
        return None
    rough = [within.load(one.fold) for one in trained]
    if rough[0].plan.dataset.labels != trained[0].plan.dataset.labels:
        raise ModelError(f"{within.path}: was trained on other labels than {model.path}. Train it again, or remove it.")
    recipe = recipe_of(rough[0].plan, rough[0].method, rough[0].recipe)
    recipe = with_sampling(recipe, draws=1) if isinstance(recipe, DiffusionRecipe) else recipe
    return Predictor(rough, device, recipe, seed, precision, postprocessing=False)


def _listed(folds: str | int | Sequence[str | int] | None) -> list[str] | None:
    """One fold or several, by name or number, as names."""
    if folds is None:
        return None
    return [str(fold) for fold in ([folds] if isinstance(folds, (str, int)) else folds)]
