"""DiffAtlas_predict: segment new scans with a trained model."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from diffatlas_pipeline.inference.batch import CaseOutcome
    from diffatlas_pipeline.inference.predictor import Predictor
    from diffatlas_pipeline.models.folder import ModelFolder

# What a kept output must have been made with, too.
_SETTINGS = ("model", "folds", "settings", "seed", "adapt_contrast", "with_atlases")


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Segment scans with a trained model. The segmentations lie on exactly the scans' own grids, named as the cases.\n"
        "Cases whose output is there already are kept.",
        "DiffAtlas_predict -i scans/ -o segmentations/",
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        required=True,
        help="folder of scans named case.nii.gz or case_0000.nii.gz (several channels: _0000, _0001, ...), or one file",
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for the segmentations")
    choice = parser.add_argument_group("which model (not needed if there is only one)")
    choice.add_argument("-d", "--dataset", help="number or name of the data set it was trained on")
    choice.add_argument("-m", "--model", type=Path, metavar="FOLDER", help="a model folder anywhere")
    choice.add_argument("--method", help="method it was trained with, such as diffatlas")
    choice.add_argument("--recipe", help="recipe it was trained with, such as default or paper")
    choice.add_argument(
        "-f", "--folds", nargs="+", metavar="FOLD", help="fold to use; several are averaged (default: all that are trained)"
    )
    sampling = parser.add_argument_group("how to sample (default: as the recipe says)")
    sampling.add_argument("--steps", type=int, metavar="N", help="sampling steps; 0 = all training steps")
    sampling.add_argument("--solver", help="ddpm, ddim or dpmpp_2m")
    sampling.add_argument("--draws", type=int, metavar="N", help="segmentations to average")
    sampling.add_argument("--guidance-level", type=float, metavar="U", help="noise on the given image at most: 0 clean, 1 all")
    sampling.add_argument("--seed", type=int, default=0, help="seed of the noise (default: %(default)s)")
    parser.add_argument("--modality", metavar="CT|MRI", help="what the scans are, if not what the model was trained on")
    parser.add_argument(
        "--adapt-contrast",
        choices=("auto", "atlases", "curve", "off"),
        default="auto",
        help="give the scans the contrast of training scans, by registering these as atlases, or by a curve of intensities; "
        "auto: by atlases if the model has learnt no scan of --modality (default)",
    )
    parser.add_argument(
        "--with-atlases",
        action=argparse.BooleanOptionalAction,
        help="average the network's answer with that of training scans registered to the scan: better with few labels, slower "
        "(default: if they are registered anyway, to adapt the contrast)",
    )
    parser.add_argument(
        "--registrations",
        type=Path,
        metavar="FOLDER",
        help="keep what registration finds in this folder, and use what is there: for several models of one training set",
    )
    parser.add_argument(
        "--save-distance-maps", action="store_true", help="also write the signed distances in mm, one file per label"
    )
    parser.add_argument(
        "--save-uncertainty", action="store_true", help="also write the spread over draws, folds and atlases in mm"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--precision", default="auto", help="float32, bfloat16, or auto: the faster one, as measured (default: %(default)s)"
    )
    parser.add_argument("--overwrite", action="store_true", help="segment cases again whose output is there already")
    _common.add_workspace(parser)
    _common.run(_predict, parser, argv)


def _predict(arguments: argparse.Namespace) -> None:
    if not arguments.input.exists():
        raise UserError(f"{arguments.input}: no such file or folder. Give scans with -i.")
    _check_modality(arguments.modality)
    _common.check_registrations(arguments.registrations)

    from diffatlas_pipeline.inference.batch import Wanted, predict_cases, timing_table
    from diffatlas_pipeline.inference.export import check_output, find_cases, read_record, write_record

    model, predictor = _load(arguments)
    adapt, with_atlases = _use_of_training_scans(arguments, predictor)
    uncertainty = arguments.save_uncertainty and _has_spread(predictor, with_atlases)
    plan = predictor.plan
    cases = find_cases(arguments.input, len(plan.channels))
    check_output(arguments.output, cases, plan.dataset.file_ending)
    sampling = f", {_sampling(predictor)}" if predictor.method.options else ""
    print(f"{len(cases)} case(s), model {model.path} ({', '.join(predictor.folds)}){sampling}, on {predictor.device}")
    before = read_record(arguments.output)
    start = time.perf_counter()
    if adapt != "off":
        print(f"The scans are given the contrast of the training scans (--adapt-contrast {adapt}).")
    if with_atlases:
        print(f"Training scans are registered to each scan, the most alike of {len(predictor.references)} (--with-atlases).")
    wanted = Wanted(
        arguments.output,
        arguments.overwrite,
        arguments.save_distance_maps,
        uncertainty,
        arguments.modality,
        adapt,
        with_atlases,
    )
    outcomes = predict_cases(predictor, cases, wanted)
    record = _record(model, predictor, arguments, outcomes, before, time.perf_counter() - start)
    record |= {"adapt_contrast": adapt, "with_atlases": with_atlases}
    path = write_record(arguments.output, record)
    table = timing_table(outcomes)
    if table:
        print(table)
    _report(outcomes, record, before, path)


def _has_spread(predictor: Predictor, with_atlases: bool) -> bool:
    """Whether there is an uncertainty to be saved. UserError if there could be one by other options."""
    from diffatlas_pipeline.methods.base import LearnedMethod

    if predictor.has_spread(with_atlases):
        return True
    if isinstance(predictor.method, LearnedMethod):
        raise UserError(
            "--save-uncertainty needs several segmentations: add --draws 5, several folds with -f 0 1 2, or --with-atlases."
        )
    print(f"Warning: {predictor.method.name} with a single answer tells no uncertainty: none is written.")
    return False


def _check_modality(modality: str | None) -> None:
    from diffatlas_pipeline.datasets.description import MODALITIES

    if modality is not None and modality.upper() not in MODALITIES:
        raise UserError(f"--modality {modality}: unknown; choose one of {', '.join(MODALITIES)}, or leave it out.")


def _use_of_training_scans(arguments: argparse.Namespace, predictor: Predictor) -> tuple[str, bool]:
    """How the contrast of the scans is adapted, and whether atlases have a share in the answer.

    UserError if that is asked of a model that cannot.
    """
    from diffatlas_pipeline.methods.base import LearnedMethod

    learned = isinstance(predictor.method, LearnedMethod)
    if arguments.with_atlases and not learned:
        raise UserError(f"--with-atlases: {predictor.method.name} has no network to average with. Leave it out.")
    if not predictor.references and (arguments.with_atlases or arguments.adapt_contrast in ("atlases", "curve")):
        raise UserError("The model keeps no training scans to register. Train it again, or leave out the option.")
    adapt = str(arguments.adapt_contrast)
    if adapt == "auto":
        foreign = learned and predictor.is_foreign(arguments.modality)
        adapt = "atlases" if foreign and predictor.references else "off"
        if foreign and not predictor.references:
            print("Warning: the model has not learnt this modality and keeps no training scans to adapt the contrast by.")
    asked = arguments.with_atlases
    return adapt, learned and adapt == "atlases" if asked is None else bool(asked)


def _load(arguments: argparse.Namespace) -> tuple[ModelFolder, Predictor]:
    from diffatlas_pipeline.inference.predictor import Predictor, settings_for
    from diffatlas_pipeline.models.folder import ModelFolder
    from diffatlas_pipeline.networks.execution import resolve_device

    device = resolve_device(arguments.device)
    workspace = _common.workspace_of(arguments)
    model = ModelFolder.find(workspace, arguments.dataset, arguments.method, arguments.recipe, arguments.model)
    folds = [model.load(fold) for fold in model.choose_folds(arguments.folds)]
    recipe = folds[0].plan.recipe(folds[0].recipe, folds[0].method)
    settings = settings_for(recipe, arguments.steps, arguments.solver, arguments.draws, arguments.guidance_level)
    return model, Predictor(folds, device, settings, arguments.seed, arguments.precision, registrations=arguments.registrations)


def _sampling(predictor: Predictor) -> str:
    settings = predictor.settings
    steps = settings.steps or predictor.plan.diffusion.training_steps
    return f"{settings.solver} with {steps} step(s), {settings.draws} draw(s)"


def _record(
    model: ModelFolder,
    predictor: Predictor,
    arguments: argparse.Namespace,
    outcomes: Sequence[CaseOutcome],
    before: dict[str, Any],
    wall_s: float,
) -> dict[str, Any]:
    """What prediction.json says; kept cases keep what the earlier run said of them."""
    from dataclasses import asdict

    from diffatlas_pipeline.models.folder import versions

    old = before.get("cases", {})
    kept = {outcome.case for outcome in outcomes if outcome.status == "kept"}
    made = {outcome.case: {key: value for key, value in asdict(outcome).items() if key != "case"} for outcome in outcomes}
    return {
        "model": str(model.path),
        "dataset": predictor.plan.dataset.name,
        "labels": {"background": 0, **{label.name: label.value for label in predictor.plan.dataset.labels}},
        "folds": list(predictor.folds),
        "settings": asdict(predictor.settings),
        "seed": arguments.seed,
        "modality": arguments.modality,
        "device": str(predictor.device),
        "precision": predictor.precision,
        "versions": versions(),
        "wall_s": wall_s,
        "cases": {**old, **{case: old.get(case, entry) if case in kept else entry for case, entry in made.items()}},
    }


def _report(outcomes: Sequence[CaseOutcome], record: dict[str, Any], before: dict[str, Any], path: Path) -> None:
    """Warnings, kept and failed cases, the last line; exits with 1 if a case failed."""
    for outcome in outcomes:
        for warning in outcome.warnings:
            print(f"Warning: {outcome.case}: {warning}")
    kept = [outcome.case for outcome in outcomes if outcome.status == "kept"]
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    done = len(outcomes) - len(kept) - len(failed)
    if kept:
        print(f"{len(kept)} case(s) were there already and were kept (--overwrite segments them again).")
    if kept and before and any(before.get(key) != _as_json(record[key]) for key in _SETTINGS):
        print("Warning: the kept ones were made with another model or other settings.")
    if failed:
        print(f"Error: {len(failed)} of {len(outcomes)} case(s) failed:", file=sys.stderr)
        for outcome in failed:
            print(f"  {outcome.case}: {outcome.message}", file=sys.stderr)
    print(f"{done} segmentation(s) written to {path.parent}, details in {path}")
    if failed:
        sys.exit(1)
    print(f"Next: DiffAtlas_evaluate -p {path.parent} -r REFERENCE_FOLDER")


def _as_json(value: Any) -> Any:
    """As it reads back from a file: tuples become lists."""
    import json

    return json.loads(json.dumps(value))
