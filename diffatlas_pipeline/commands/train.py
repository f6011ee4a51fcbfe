"""DiffAtlas_train: train one fold of a planned data set; goes on by itself after an interruption."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffatlas_pipeline import console
from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from diffatlas_pipeline.methods.base import Recipe
    from diffatlas_pipeline.planning.plan import Plan
    from diffatlas_pipeline.registration.atlas import Atlas
    from diffatlas_pipeline.training.loop import Validation

FEW_CASES = 12  # trained on so few, a network has been measured to be better with atlases beside it
VALIDATED_CASES = 4  # cases sampled for the log; the whole fold is segmented at the end


def main(argv: list[str] | None = None) -> None:
    parser = _common.command_parser(
        "Train a model on one fold of a planned data set. A training that was interrupted goes on where it stopped.",
        "DiffAtlas_train 001 fold0 --max-time 30m",
    )
    parser.add_argument("dataset", help="data set number, name or path")
    parser.add_argument("fold", nargs="?", help="fold0 ... fold4 (or 0 ... 4), all, or a split named in splits.json")
    parser.add_argument(
        "--recipe",
        default="default",
        help="default; of diffatlas and icmd also paper (as published); of rba also affine, majority, staple; or one "
        "of your own in plans.json (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default="diffatlas",
        help="diffatlas, icf (feed-forward), icmd (mask diffusion), rba (registered atlases) or mean (default: %(default)s)",
    )
    parser.add_argument(
        "--max-time", metavar="TIME", help="train for this long, e.g. 90s, 30m, 2h, instead of the planned iterations"
    )
    parser.add_argument("--iterations", type=int, metavar="N", help="train for N iterations instead of the planned number")
    parser.add_argument("--num-cases", type=int, metavar="K", help="use only K of the fold's training cases, drawn with --seed")
    parser.add_argument("--split", metavar="NAME", help="a split named in splits.json; another way to give the argument fold")
    parser.add_argument(
        "--unlabelled-from",
        metavar="NAME",
        help="the scans without labels to use: this split's training cases, as images only (default: those of imagesUn)",
    )
    parser.add_argument("--num-unlabelled", type=int, metavar="N", help="use only N of them, drawn with --seed")
    parser.add_argument(
        "--teacher", metavar="FOLD", help="let this trained fold label the scans without labels, and train on these, too"
    )
    parser.add_argument(
        "--registrations",
        type=Path,
        metavar="FOLDER",
        help="keep what the teacher's registration finds in this folder, and use what is there: for several seeds",
    )
    parser.add_argument("--splits-file", metavar="FILE", help="use the splits of this JSON file instead of the planned ones")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights, batches and noise (default: %(default)s)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--workers", type=int, default=1, metavar="N", help="processes that prepare batches (default: %(default)s)"
    )
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="auto: what is faster here (default)"
    )
    parser.add_argument("--compile", action="store_true", help="use torch.compile; falls back to eager where it fails")
    parser.add_argument("--no-validation", action="store_true", help="do not segment the validation cases")
    parser.add_argument("--overwrite", action="store_true", help="start again, deleting what this fold has")
    _common.add_workspace(parser)
    _common.run(_train, parser, argv)


def seconds_of(text: str) -> float:
    """'90s', '30m', '1.5h' or plain seconds. UserError otherwise."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh]?)", text.strip())
    if not match or float(match.group(1)) <= 0:
        raise UserError(f"--max-time {text}: not a duration. Write for example 90s, 30m or 2h.")
    return float(match.group(1)) * {"": 1, "s": 1, "m": 60, "h": 3600}[match.group(2)]


def _train(arguments: argparse.Namespace) -> None:
    import shutil

    from diffatlas_pipeline.atlases.bank import kept_atlases, spread_evenly
    from diffatlas_pipeline.commands._unlabelled import chosen_scans, remove_labels
    from diffatlas_pipeline.data.loader import training_batches
    from diffatlas_pipeline.files import from_json
    from diffatlas_pipeline.methods.base import LearnedMethod
    from diffatlas_pipeline.methods.registry import check_plan, create_method, known_method, recipe_of, training_digest
    from diffatlas_pipeline.models.folder import ModelFolder
    from diffatlas_pipeline.networks.execution import resolve_device
    from diffatlas_pipeline.planning.plan import Plan
    from diffatlas_pipeline.training.checkpoints import remove_checkpoints
    from diffatlas_pipeline.training.fit import fit
    from diffatlas_pipeline.training.loop import Run
    from diffatlas_pipeline.training.schedule import Duration

    workspace = _common.workspace_of(arguments)
    source = workspace.preprocessed_dataset(arguments.dataset)
    plan = from_json(Plan, _read(source / "plans.json"), str(source / "plans.json"))
    check_plan(plan, str(source / "plans.json"))
    known_method(arguments.method)
    recipe = recipe_of(plan, arguments.method, arguments.recipe)
    device = resolve_device(arguments.device)
    name, training_cases, validation_cases = _cases(arguments, source)
    if arguments.iterations is not None and arguments.iterations < 1:
        raise UserError(f"--iterations {arguments.iterations}: must be at least 1.")
    limit_s = seconds_of(arguments.max_time) if arguments.max_time else None
    iterations = arguments.iterations or (plan.training.iterations if limit_s is None else 10**9)
    _common.check_registrations(arguments.registrations)
    method = create_method(arguments.method, plan, recipe)
    location = ModelFolder.location(workspace, source.name, arguments.method, arguments.recipe)
    folder = location / name
    # A model folder is made when all that was asked for has been checked: one without a fold would mislead prediction.
    scans = chosen_scans(arguments, method, ModelFolder(location), source, training_cases, validation_cases)
    model = ModelFolder.create(location, plan, replacing=name if arguments.overwrite else None)
    if name in model.folds() and not arguments.overwrite:
        print(f"{folder} is trained already. Use --overwrite to train it again.\nNext: DiffAtlas_predict -i INPUT -o OUTPUT")
        return
    if arguments.overwrite and folder.exists():
        shutil.rmtree(folder)
    settings: dict[str, Any] = {
        "recipe": arguments.recipe,
        "seed": arguments.seed,
        "iterations": iterations,
        "max_time_s": limit_s,
        "training_cases": training_cases,
        **scans.settings(source),
        "plan": training_digest(plan, arguments.method, arguments.recipe),
    }
    print(
        f"Training {arguments.method} ({arguments.recipe}) on {len(training_cases)} cases of {source.name}, {name}, "
        f"on {device}; {len(validation_cases)} cases for validation."
    )
    unlabelled, teaching_s = scans.make_ready(source, folder, method, arguments.seed, device, arguments.registrations)
    if unlabelled:
        print(f"{len(unlabelled.cases)} unlabelled scans are {unlabelled.fraction:.0%} of what it sees.")
    if not validation_cases:
        print("No validation case: the log will hold no validation Dice.")
    validate = None if arguments.no_validation else _validation(plan, recipe, arguments, source, validation_cases, device)
    trained = fit(
        method,
        Run(folder, Duration(iterations, limit_s), arguments.seed, device, settings, arguments.precision, arguments.compile),
        lambda first: training_batches(
            source, training_cases, plan, arguments.seed, first, iterations, arguments.workers, unlabelled
        ),
        lambda: console.each(_whole_cases(source, training_cases), "memorising", len(training_cases), "cases"),
        validate,
    )
    described = {
        "method": arguments.method,
        "recipe": arguments.recipe,
        "fold": name,
        **settings,
        "validation_cases": validation_cases,
        "iterations": trained.iterations,
        "seconds": round(trained.seconds, 1),
        "teaching_seconds": round(teaching_s, 1),
        "precision": trained.precision,
    }
    atlases = kept_atlases(_whole_cases(source, spread_evenly(training_cases)), plan.spacing_mm)
    model.write_fold(name, trained.weights, described, atlases)
    remove_checkpoints(folder)
    remove_labels(folder)
    print(f"Model written to {folder}")
    if validation_cases and not arguments.no_validation:
        _segment_validation(arguments, workspace, model, name, validation_cases, device)
    if len(training_cases) <= FEW_CASES and isinstance(method, LearnedMethod):
        print(f"It has learnt from {len(training_cases)} cases: --with-atlases is likely to segment better, and takes longer.")
    print(f"Next: DiffAtlas_predict -i INPUT_FOLDER -o OUTPUT_FOLDER -m {model.path} -f {name}")


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"{path} is missing. Run DiffAtlas_plan_and_preprocess first.")
    return path.read_text(encoding="utf-8")


def _cases(arguments: argparse.Namespace, source: Path) -> tuple[str, list[str], list[str]]:
    """Name of the split, training cases, validation cases."""
    import random

    from diffatlas_pipeline.datasets.splits import load_splits
    from diffatlas_pipeline.preprocessing.store import list_stored

    splits = load_splits(Path(arguments.splits_file) if arguments.splits_file else source / "splits.json", list_stored(source))
    wanted = arguments.split or arguments.fold
    if wanted is None:
        raise UserError(
            f"Which fold? {source.name} has {', '.join(splits)}: DiffAtlas_train {arguments.dataset} {next(iter(splits))}"
        )
    if arguments.split and arguments.fold and arguments.split != arguments.fold:
        raise UserError(f"The argument '{arguments.fold}' and --split {arguments.split} name two splits. Give one of them.")
    name = f"fold{wanted}" if wanted.isdigit() else wanted
    if name not in splits:
        raise UserError(f"'{wanted}': no such fold or split of {source.name}. There are {', '.join(splits)}.")
    training, validation = list(splits[name].train), list(splits[name].validation)
    if arguments.num_cases is not None:
        if not 1 <= arguments.num_cases <= len(training):
            raise UserError(
                f"--num-cases {arguments.num_cases}: {name} has {len(training)} training cases; give 1 to {len(training)}."
            )
        training = sorted(random.Random(arguments.seed).sample(training, arguments.num_cases))
        name = f"{name}_{arguments.num_cases}cases"
    if arguments.seed:
        name = f"{name}_seed{arguments.seed}"  # trainings that differ in their seed alone lie side by side
    if arguments.teacher:
        name = f"{name}_taught"
    return name, training, validation


def _whole_cases(source: Path, cases: Sequence[str]) -> Iterator[Atlas]:
    """The preprocessed training cases, one after the other."""
    import numpy as np

    from diffatlas_pipeline.preprocessing.store import open_case
    from diffatlas_pipeline.registration.atlas import Atlas

    for case in cases:
        stored = open_case(source, case)
        if stored.distances is None:
            raise UserError(f"{source}: case '{case}' is unlabelled, so it cannot train. Leave it out of the split.")
        image, distances = (np.asarray(array[:], dtype=np.float32) for array in (stored.image, stored.distances))
        yield Atlas(case, image, distances)


def _validation(
    plan: Plan, recipe: Recipe, arguments: argparse.Namespace, source: Path, cases: list[str], device: Any
) -> Validation | None:
    """Dice per label of a few validation cases, sampled with the network it is given, on the planned grid."""
    if not cases:
        return None
    import numpy as np
    import torch

    from diffatlas_pipeline.evaluation.metrics import dice
    from diffatlas_pipeline.inference.padded import segment_padded
    from diffatlas_pipeline.inference.seed import scan_seed
    from diffatlas_pipeline.inference.stitched import Stitcher
    from diffatlas_pipeline.methods.registry import create_method
    from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
    from diffatlas_pipeline.preprocessing.store import open_case

    method = create_method(arguments.method, plan, _with_fewer_steps(recipe, plan))
    stitch = Stitcher(plan.patch_size, device=device)
    labels = range(1, len(plan.dataset.labels) + 1)

    def validate(network: nn.Module) -> dict[str, float]:
        network.eval()
        scores: dict[str, list[float]] = {label.name: [] for label in plan.dataset.labels}
        with torch.inference_mode():
            for case in cases[:VALIDATED_CASES]:
                stored = open_case(source, case)
                assert stored.distances is not None  # a validation case has labels
                image = np.asarray(stored.image[:], dtype=np.float32)
                seed = scan_seed(arguments.seed, image)
                predicted = segment_padded(method, network, torch.from_numpy(image).to(device), stitch, seed)
                found = decode_labels(predicted.distances.numpy(), list(labels))
                truth = decode_labels(np.asarray(stored.distances[:], dtype=np.float32), list(labels))
                for value, label in zip(labels, plan.dataset.labels, strict=True):
                    scores[label.name].append(dice(found == value, truth == value))
        network.train()
        return {
            name: float(np.nanmean(values)) if not np.all(np.isnan(values)) else float("nan") for name, values in scores.items()
        }

    return validate


def _with_fewer_steps(recipe: Recipe, plan: Plan) -> Recipe:
    """For the log's curve, not the final table: many steps cost hours."""
    from diffatlas_pipeline.methods.base import DiffusionRecipe
    from diffatlas_pipeline.methods.registry import with_sampling

    if not isinstance(recipe, DiffusionRecipe):
        return recipe
    return with_sampling(recipe, steps=min(recipe.sampler.steps_of(plan.diffusion), 20))


def _segment_validation(
    arguments: argparse.Namespace, workspace: Any, model: Any, fold: str, cases: list[str], device: Any
) -> None:
    """Segment the whole validation fold from its raw images, as DiffAtlas_predict would, and write its table."""
    from diffatlas_pipeline.atlases.segmenter import Segmenter
    from diffatlas_pipeline.datasets.raw import read_dataset
    from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
    from diffatlas_pipeline.evaluation.overlays import find_images, write_overlays
    from diffatlas_pipeline.evaluation.summary_table import results_table
    from diffatlas_pipeline.inference.batch import Wanted, predict_cases
    from diffatlas_pipeline.inference.export import Destination
    from diffatlas_pipeline.inference.predictor import Predictor
    from diffatlas_pipeline.methods.registry import recipe_of

    trained = model.load(fold)
    try:
        raw = read_dataset(workspace.raw_dataset(arguments.dataset))
    except UserError as error:
        print(f"Warning: the validation cases were not segmented, because the raw data set cannot be read. {error}")
        return
    files = [case for case in raw.training if case.case in set(cases)]
    settings = recipe_of(trained.plan, trained.method, trained.recipe)
    folder = model.path / fold / "validation"
    print(f"Segmenting {len(files)} validation cases")
    predictor = Predictor([trained], device, settings, arguments.seed)
    wanted = Wanted(Destination(folder, trained.plan.dataset.file_ending), overwrite=True)
    outcomes = predict_cases(Segmenter(predictor), files, wanted)
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        raise UserError("; ".join(f"{outcome.case}: {outcome.message}" for outcome in failed))
    references = raw.folder / "labelsTr"
    evaluation = evaluate_folders(folder, references, trained.plan.dataset.labels, workers=1, missing="skip")
    evaluation.write(folder)
    write_overlays(evaluation, folder, find_images(references))
    print(results_table(evaluation))
    print(f"Validation written to {folder}")
