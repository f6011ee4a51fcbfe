"""Which atlases are registered, and whether they lead one another: what that does to the labels that they make together.

The training cases of a split are the atlases, its validation cases the targets, in the same data set or in another one of the
same anatomies (the two modalities of the generated hearts). Test cases are not touched, and no network takes part.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine, read_rows
from benchmarks.tables import choice_table
from diffatlas_pipeline.atlases.bank import spread_evenly
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.frame import in_common_frame
from diffatlas_pipeline.registration.fusion import labels_of
from diffatlas_pipeline.registration.register import AtlasSettings, fuse, register_atlases

FEW = 12  # as many as are registered deformably
ASTRAY = 0.5  # an atlas whose own labels have a smaller Dice than this lies in a wrong place
WAYS = {
    (led, chosen): f"{'led' if led else 'alone'}, {'most alike' if chosen else 'fixed'}" for chosen in (0, 1) for led in (0, 1)
}


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Register the training cases of a split to its validation cases, in four ways.",
        epilog="example:\n  python -m benchmarks.atlas_choice --atlases preprocessed/Dataset012_HeartPhantomMRI "
        "--targets preprocessed/Dataset011_HeartPhantomCT",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--atlases", type=Path, required=True, metavar="FOLDER", help="preprocessed data set")
    made.add_argument(
        "--targets", type=Path, metavar="FOLDER", help="preprocessed data set of the same cases (default: the same)"
    )
    made.add_argument("--split", default="fold0", help="with validation cases (default: %(default)s)")
    made.add_argument("--cases", type=int, default=4, metavar="N", help="validation cases, in order (default: %(default)s)")
    made.add_argument("--output", type=Path, default=RESULTS / "atlas_choice.csv", metavar="CSV", help="rows are added to it")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Measure, add one row per way and print them. UserError for what the user has to mend."""
    source, shown = arguments.atlases, arguments.targets or arguments.atlases
    plan, targets_plan = (
        from_json(Plan, (one / "plans.json").read_text(encoding="utf-8"), str(one)) for one in (source, shown)
    )
    if plan.spacing_mm != targets_plan.spacing_mm:
        raise UserError(
            f"{source.name} is on a grid of {plan.spacing_mm} mm, {shown.name} on one of {targets_plan.spacing_mm} mm."
        )
    splits = load_splits(source / "splits.json", list_stored(source))
    if arguments.split not in splits or not splits[arguments.split].validation:
        raise UserError(f"{source.name}: '{arguments.split}' is no split with validation cases; there are {', '.join(splits)}.")
    split = splits[arguments.split]
    atlases = in_common_frame([case_of(source, name) for name in split.train], plan.spacing_mm, quiet=False)
    fixed = set(spread_evenly(split.train)[:FEW])
    rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS.values()}
    cases = split.validation[: arguments.cases]
    bar = tqdm(total=len(cases) * len(WAYS), desc="Registering", unit="target", delay=1)
    for name in cases:
        target = case_of(shown, name)
        for (led, chosen), way in WAYS.items():
            offered = [one for one in atlases if chosen or one.name in fixed]
            rows[way].append(measured(target, offered if led else [replace(one, frame=None) for one in offered], plan))
            bar.update()
    for way, found in rows.items():
        means = {key: float(np.mean([one[key] for one in found])) for key in found[0]}
        about = {"atlases": source.name, "targets": shown.name, "split": arguments.split, "cases": len(cases), "way": way}
        append_row(
            arguments.output, {**machine(), **about, "offered": len(split.train) if "alike" in way else len(fixed), **means}
        )
    print(choice_table(read_rows(arguments.output)))
    print(f"Written: {arguments.output}")


def case_of(folder: Path, name: str) -> Atlas:
    stored = open_case(folder, name)
    if stored.distances is None:
        raise UserError(f"{folder.name}: case '{name}' has no labels.")
    return Atlas(name, *(np.asarray(array[:], dtype=np.float32) for array in (stored.image, stored.distances)))


def measured(target: Atlas, atlases: list[Atlas], plan: Plan) -> dict[str, float]:
    """Of the atlases that were chosen: share astray, mean Dice of each one's own labels, Dice of the labels fused."""
    start = time.perf_counter()
    tau_mm, settings = plan.distance.tau_mm, AtlasSettings()
    registered = register_atlases(target.image, atlases, plan.spacing_mm, tau_mm, settings)
    seconds = time.perf_counter() - start
    truth = labels_of(target.distances)
    singles = [_score(labels_of(registered.on_target(one, 1)), truth) for one in registered.distances]
    found: dict[str, Any] = {"astray": np.mean([one < ASTRAY for one in singles]), "single": np.mean(singles)}
    for fusion in ("mean", "votes"):
        found[fusion] = _score(labels_of(fuse(registered, plan.spacing_mm, tau_mm, fusion).distances), truth)
    return {**found, "seconds": seconds}


def _score(found: np.ndarray, truth: np.ndarray) -> float:
    return float(np.nanmean([dice(found == value, truth == value) for value in range(1, int(truth.max()) + 1)]))


if __name__ == "__main__":
    main()
