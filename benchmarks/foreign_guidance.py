"""How noisy a scan of another modality should be shown: Dice against guidance level, steps and draws, as the scan is, with
adapted contrast, and with atlases beside that.

The data set holds other subjects than the model has seen, so that the options of prediction are not chosen on test cases.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine, read_rows
from benchmarks.steps_curve import mean_dice, training_files
from benchmarks.tables import foreign_table
from diffatlas_pipeline.atlases.late_fusion import mixed
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.predictor import Predictor, settings_for
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.planning.plan import Recipe
from diffatlas_pipeline.volumes.io import read_labels, read_volume

LEVELS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
WAYS = ("as it is", "adapted", "with atlases")


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Segment scans of another modality with several sampling options; a row for each is added to a table.",
        epilog="example:\n  python -m benchmarks.foreign_guidance -m results/Dataset011_HeartPhantomCT/diffatlas__default "
        "--raw raw/Dataset022_HeartPhantomMRI --modality MRI",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-m", "--model", type=Path, required=True, metavar="FOLDER", help="model folder, .../METHOD__RECIPE")
    made.add_argument("-f", "--fold", default="all", help="trained fold (default: %(default)s)")
    made.add_argument("--raw", type=Path, required=True, metavar="FOLDER", help="raw data set of subjects new to the model")
    made.add_argument("--modality", required=True, metavar="KIND", help="what it shows, which the model has not learnt")
    made.add_argument("--cases", type=int, default=8, metavar="N", help="training cases, in order (default: %(default)s)")
    made.add_argument("--guidance-levels", nargs="+", type=float, metavar="U", help="(default: from 0 to 1)")
    made.add_argument("--steps", nargs="+", type=int, metavar="N", help="(default: the recipe's)")
    made.add_argument("--draws", nargs="+", type=int, metavar="N", help="(default: the recipe's)")
    made.add_argument("--registrations", type=Path, metavar="FOLDER", help="keep what is registered there, for other models")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument("--output", type=Path, default=RESULTS / "foreign_guidance.csv", metavar="CSV", help="rows are added")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure, add the rows and print the table. UserError for what the user has to mend."""
    fold = ModelFolder.find(Workspace.resolve(), path=arguments.model).load(arguments.fold)
    files = training_files(arguments.raw)[: arguments.cases]
    device = resolve_device(arguments.device)
    settings = wanted_settings(arguments, fold.plan.recipe(fold.recipe, fold.method))
    predictors = [Predictor([fold], device, one, registrations=arguments.registrations) for one in settings]
    first = predictors[0]
    if not first.is_foreign(arguments.modality):
        raise UserError(f"--modality {arguments.modality}: the model has learnt it. Give a data set of another modality.")
    found: list[dict[str, list[float]]] = [{way: [] for way in WAYS} for _ in settings]
    for one in tqdm(files, desc="Segmenting", unit="case", delay=1):
        volume, reference = read_volume(one.images), read_labels(one.label)  # type: ignore[arg-type]
        plain = first.prepare(volume, arguments.modality)
        adapted = first.prepare(volume, arguments.modality, "atlases", with_atlases=True)
        if adapted.atlases is None:
            raise UserError(f"{one.case}: no training case could be registered to it.")
        for predictor, scores in zip(predictors, found, strict=True):
            alone = predictor.network_alone(adapted, one.case)
            answers = {
                "as it is": predictor.network_alone(plain, one.case),
                "adapted": alone,
                "with atlases": mixed(alone, adapted.atlases, predictor.network_share(adapted, alone)),
            }
            for way, answer in answers.items():
                scores[way].append(mean_dice(predictor.restore(answer, plain).labels, reference, fold.plan.dataset.labels))
    for one_settings, scores in zip(settings, found, strict=True):
        row = {**machine(), "data": fold.plan.dataset.name, "method": fold.method, "fold": fold.fold}
        row |= {"modality": arguments.modality, "cases": len(files)}
        row |= {name: getattr(one_settings, name) for name in ("guidance_level", "steps", "draws")}
        append_row(arguments.output, row | {f"dice_{way.replace(' ', '_')}": float(np.mean(of)) for way, of in scores.items()})
    print(foreign_table(read_rows(arguments.output)))
    print(f"Written: {arguments.output}")


def wanted_settings(arguments: argparse.Namespace, recipe: Recipe) -> list[Recipe]:
    """All combinations of the options given; without any, all guidance levels if the method has one."""
    levels = arguments.guidance_levels or (LEVELS if recipe.method == "diffatlas" else [None])
    ways = itertools.product(levels, arguments.steps or [None], arguments.draws or [None])
    return [settings_for(recipe, steps=steps, draws=draws, guidance_level=level) for level, steps, draws in ways]


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
