"""Validation: Dice of a few cases while a network trains, and the whole validation fold segmented at the end."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from diffatlas_pipeline import console
from diffatlas_pipeline.atlases.bank import spread_evenly
from diffatlas_pipeline.atlases.segmenter import PreparedScan, Segmenter
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.description import CaseFiles, DatasetDescription
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation, evaluate_folders
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.evaluation.summary_table import results_table
from diffatlas_pipeline.files import to_json
from diffatlas_pipeline.inference.batch import Wanted, predict_cases
from diffatlas_pipeline.inference.calibration import Calibration, Curve, fitted_curve
from diffatlas_pipeline.inference.export import Destination, names_of
from diffatlas_pipeline.inference.familiarity import FEWEST, KnownCases
from diffatlas_pipeline.inference.padded import segment_padded
from diffatlas_pipeline.inference.postprocessing import postprocessed
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.probabilities import SharpnessEvidence
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.inference.seed import scan_seed
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.methods.base import DiffusionRecipe, LearnedMethod, Method, PlannedSegmentation, Recipe
from diffatlas_pipeline.methods.registry import create_method, known_method, recipe_of, with_sampling
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.postprocessing import Postprocessing, in_words
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import open_case
from diffatlas_pipeline.training.cases import FoldCases
from diffatlas_pipeline.training.choose_postprocessing import chosen_postprocessing
from diffatlas_pipeline.training.loop import Validation
from diffatlas_pipeline.volumes.io import read_labels, read_volume, write_labels, write_scalars

KNOWN_CASES = 24  # described at the end, at most
VALIDATED_CASES = 4  # sampled for the log; the whole fold is segmented at the end
MOST_STEPS = 20  # of the sampler, for the log: a curve does not need hours
FOLDER = "validation"  # in the folder of the fold


def sampled_dice(method: Method, source: Path, cases: Sequence[str], seed: int, device: torch.device) -> Validation:
    """A function of a network: mean Dice per label over the first few ``cases``, sampled on the planned grid.

    NaN for a label that none of them has. ``source`` is the preprocessed data set.
    """
    plan = method.plan
    sampler = create_method(method.name, plan, _with_few_steps(method.recipe, plan))
    stitch = Stitcher(plan.patch_size, device=device)
    codes = codes_of(plan.dataset.labels)

    def of_case(network: nn.Module, case: str) -> list[float]:
        stored = open_case(source, case)
        high, low = stored.read_distances(len(plan.dataset.labels))
        image = stored.read_image()
        given = torch.from_numpy(image).to(device)
        predicted = segment_padded(sampler, network, given, stitch, scan_seed(seed, image))
        found = decode_labels(predicted.distances.numpy(), codes)
        truth, known = decode_labels(high, codes), ((high < 0) == (low < 0)).all(axis=0)
        return [dice(label.mask(found) & known, label.mask(truth) & known) for label in plan.dataset.labels]

    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        with torch.inference_mode():
            scores = np.array([of_case(network, case) for case in cases[:VALIDATED_CASES]])
        network.train()
        return {label.name: _mean(scores[:, index]) for index, label in enumerate(plan.dataset.labels)}

    return validate


def keep_known_cases(
    model: ModelFolder, fold: str, cases: FoldCases, source: Path, seed: int, device: torch.device, few: int = KNOWN_CASES
) -> None:
    """Describe cases that the trained ``fold`` should know, and keep that in its folder: foreign scans are told by it.

    They are at most ``few`` of its validation cases in the preprocessed data set ``source``, or of its training cases
    where it has none. Nothing is kept for a method without a network, or of fewer cases than can tell anything.
    """
    trained = model.load(fold)
    recipe = recipe_of(trained.plan, trained.method, trained.recipe)
    held_out = len(cases.validation) >= FEWEST
    names = spread_evenly(cases.validation if held_out else cases.training)[:few]
    if not issubclass(known_method(trained.method), LearnedMethod) or len(names) < FEWEST:
        return
    predictor = Predictor([trained], device, _with_few_steps(recipe, trained.plan), seed)
    found = []
    for case in console.each(names, "Describing", len(names), "cases"):
        stored = open_case(source, case)
        prepared = predictor.prepare_stored(stored.read_image(), stored.record)
        found.append(predictor.describe(prepared, predictor.segment(prepared)))
    model.write_known_cases(fold, to_json(KnownCases(tuple(names), held_out, tuple(found))))


def _with_few_steps(recipe: Recipe, plan: Plan) -> Recipe:
    if not isinstance(recipe, DiffusionRecipe):
        return recipe
    return with_sampling(recipe, steps=min(recipe.sampler.steps_of(plan.diffusion), MOST_STEPS))


def segment_validation(
    model: ModelFolder, fold: str, cases: Sequence[str], workspace: Workspace, dataset: str, seed: int, device: torch.device
) -> None:
    """Segment the validation ``cases`` from their raw images, as a user would, and write and say their scores.

    Into the folder "validation" of the fold. What they tell of the model's errors is kept with it, and what should be
    done to its segmentations at the end. A raw data set that is gone is a warning. UserError lists cases that failed.
    """
    from diffatlas_pipeline.evaluation.overlays import find_images, write_overlays  # which draws: training needs none

    trained = model.load(fold)
    try:
        raw = read_dataset(workspace.raw_dataset(dataset))
    except UserError as error:
        console.warn(f"the validation cases were not segmented, because the raw data set cannot be read. {error}")
        return
    files = [case for case in raw.training if case.case in set(cases)]
    folder = model.path / fold / FOLDER
    shutil.rmtree(folder, ignore_errors=True)  # a run that was killed here may have put some maps right, and not others
    console.say(f"Segmenting {len(files)} validation cases")
    as_it_is = replace(trained, calibration=None, postprocessing=None)  # whatever an interrupted run left
    predictor = Predictor([as_it_is], device, recipe_of(trained.plan, trained.method, trained.recipe), seed)
    described = trained.plan.dataset
    evidence = SharpnessEvidence(len(files), described.label_set)

    def look(case: CaseFiles, found: PlannedSegmentation, scan: PreparedScan) -> None:
        assert case.label is not None
        evidence.add(found.distances.numpy(), scan.shown.record, read_labels(case.label))

    wanted = Wanted(Destination(folder, trained.plan.dataset.file_ending), Maps(uncertainty=True), look=look)
    outcomes = predict_cases(Segmenter(predictor), files, wanted)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise UserError("; ".join(f"{outcome.case}: {outcome.message}" for outcome in failed))
    model.write_postprocessing(fold, _postprocessed(files, wanted.destination, described))
    references = raw.folder / "labelsTr"
    evaluation = evaluate_folders(folder, references, described.label_set, workers=1, missing="skip")
    evaluation.write(folder)
    curve = _calibrated(files, wanted.destination, described)
    model.write_calibration(fold, to_json(Calibration(curve, _volume_errors(evaluation), evidence.sharpness())))
    write_overlays(evaluation, folder, find_images(references))
    console.say(results_table(evaluation))
    console.say(f"Validation written to {folder}")


def _postprocessed(cases: Sequence[CaseFiles], written: Destination, dataset: DatasetDescription) -> Postprocessing:
    """Choose the post-processing by what was ``written`` of labelled ``cases``, and do it there.

    Cases that are known in part tell nothing of components. Nothing is done to labels that overlap.
    """
    labels = dataset.labels
    if not codes_of(labels).exclusive:
        return Postprocessing(())

    def found_and_true() -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for files in cases:
            assert files.label is not None
            true = read_labels(files.label).array
            if dataset.ignore is None or not (true == dataset.ignore).any():
                yield read_labels(written.labels(files)).array, true

    chosen = chosen_postprocessing(found_and_true(), labels)
    if not chosen.taken:
        return chosen
    console.say(f"Post-processing from now on, since it raised the Dice of validation cases: {in_words(chosen.taken)}.")
    steps = {label.value: chosen.taken[label.name] for label in labels if label.name in chosen.taken}
    for files in cases:
        found = read_labels(written.labels(files))
        done = postprocessed(found.array, steps)
        write_labels(written.labels(files), done, found.grid, files.images[0], names_of(labels))
    return chosen


def _calibrated(cases: Sequence[CaseFiles], written: Destination, dataset: DatasetDescription) -> Curve:
    """How often the model errs where it says so, by what was ``written`` of labelled ``cases``; that is put right.

    Voxels whose label is not known tell nothing.
    """
    codes = codes_of(dataset.labels)

    def uncertainty_and_errors(files: CaseFiles) -> tuple[np.ndarray, np.ndarray]:
        assert files.label is not None
        true = read_labels(files.label).array
        wrong = codes.number(true) != codes.number(read_labels(written.labels(files)).array)
        said = read_volume((written.uncertainty(files),)).array[0]
        return (said, wrong) if dataset.ignore is None else (said[true != dataset.ignore], wrong[true != dataset.ignore])

    curve = fitted_curve(uncertainty_and_errors(files) for files in cases)
    for files in cases:
        said = read_volume((written.uncertainty(files),))
        write_scalars(written.uncertainty(files), curve.calibrated(said.array[0]), said.grid, files.images[0])
    return curve


def _volume_errors(evaluation: Evaluation) -> VolumeErrors:
    """Of all labels in all cases that were compared with a reference."""
    columns = ["volume_reference_ml", "volume_prediction_ml"]
    names = [label.name for label in evaluation.labels]
    by_case = evaluation.cases.groupby("case", sort=True)
    return VolumeErrors.of(
        {str(case): [tuple(pair) for pair in rows.set_index("label").loc[names, columns].to_numpy()] for case, rows in by_case}
    )


def _mean(values: np.ndarray) -> float:
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else float("nan")
