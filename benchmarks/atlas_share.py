"""Dice against the network's share beside registered training cases (--with-atlases), on a model's own validation cases.

The share that predictions use is chosen here, never on test cases.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine, read_rows
from benchmarks.steps_curve import mean_dice, raw_folder, training_files, validation_files
from benchmarks.tables import shares_table
from diffatlas_pipeline.atlases.late_fusion import fitting_share, mixed
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.volumes.io import read_labels, read_volume

SHARES = (0.0, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
FITTING = "fitting"  # chosen for each case by what fits the scan
CASES = 16


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Segment a model's validation cases by network and atlases, mixed at several shares.",
        epilog="example:\n  python -m benchmarks.atlas_share -m results/Dataset004_Hippocampus/diffatlas__default -f 4-shot",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("-m", "--model", type=Path, required=True, metavar="FOLDER", help="model folder, .../METHOD__RECIPE")
    made.add_argument("-f", "--fold", default="fold0", help="trained fold with validation cases (default: %(default)s)")
    made.add_argument(
        "--raw", type=Path, metavar="FOLDER", help="raw data set (default: that of the workspace that the model lies in)"
    )
    made.add_argument(
        "--modality", metavar="KIND", help="the raw data set shows this modality, which the model has not learnt: adapt it"
    )
    made.add_argument(
        "--unseen", action="store_true", help="all subjects of the raw data set are new to the model: score its training cases"
    )
    made.add_argument("--cases", type=int, default=CASES, metavar="N", help="cases, in order (default: %(default)s)")
    made.add_argument("--shares", nargs="+", type=float, default=list(SHARES), metavar="S", help="(default: %(default)s)")
    made.add_argument("--registrations", type=Path, metavar="FOLDER", help="keep what is registered there, for other models")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument("--output", type=Path, default=RESULTS / "atlas_share.csv", metavar="CSV", help="a row is added to it")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure, add the row and print it. UserError for what the user has to mend."""
    fold = ModelFolder.find(Workspace.resolve(), path=arguments.model).load(arguments.fold)
    if not fold.references:
        raise UserError(f"{arguments.model}: the model keeps no training cases to register. Train it again.")
    raw = arguments.raw or raw_folder(arguments.model)
    files = training_files(raw)[: arguments.cases] if arguments.unseen else validation_files(fold, raw, arguments.cases)
    recipe = fold.plan.recipe(fold.recipe, fold.method)
    predictor = Predictor([fold], resolve_device(arguments.device), recipe, registrations=arguments.registrations)
    scores: dict[str, list[float]] = {share: [] for share in (*(f"{share:g}" for share in arguments.shares), FITTING)}
    for one in tqdm(files, desc="Registering", unit="case", delay=1):
        volume, reference = read_volume(one.images), read_labels(one.label)  # type: ignore[arg-type]
        adapt = "atlases" if predictor.is_foreign(arguments.modality) else "off"
        prepared = predictor.prepare(volume, arguments.modality, adapt, with_atlases=True)
        if prepared.atlases is None:
            raise UserError(f"{one.case}: no training case could be registered to it.")
        network = predictor.network_alone(prepared, one.case)
        scan = prepared.image if prepared.adapted_from is None else prepared.adapted_from
        fitting = fitting_share(scan, network, prepared.atlases, fold.plan.spacing_mm, fold.plan.distance.tau_mm)
        for share, found in scores.items():
            mixture = mixed(network, prepared.atlases, fitting if share == FITTING else float(share))
            found.append(mean_dice(predictor.restore(mixture, prepared).labels, reference, fold.plan.dataset.labels))
    row: dict[str, Any] = {**machine(), "data": fold.plan.dataset.name, "method": fold.method, "fold": fold.fold}
    row |= {"atlases": len(fold.references), "modality": arguments.modality or ""}
    row |= {"cases": len(files)} | {f"share_{share}": float(np.mean(found)) for share, found in scores.items()}
    append_row(arguments.output, row)
    print(shares_table(read_rows(arguments.output)))
    print(f"Written: {arguments.output}")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
