"""Begin a training with another model's weights: one row that sets this beside a training that begins afresh.

Both have the plan that --like makes, learn the same few cases for the same time, and segment the protocol's test cases.
So does the other model as it is, where it has the same labels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmarks.commands import add_places, do, main_of
from benchmarks.generated import check_time, scores, tested
from benchmarks.protocols import PROTOCOLS, fold_of, prepare
from benchmarks.raw_data import HEARTS
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.models.folder import ModelFolder

RECIPE = "default"


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train on a few cases, beginning with another model's weights and afresh; test both.",
        epilog="example:\n  python -m benchmarks.comparison cardiac-bssfp --settings full --methods diffatlas --max-time 30m"
        " --workspace W\n  python -m benchmarks.fine_tuning cardiac-lge --setting 4-shot --max-time 10m --workspace W \\\n"
        "      --init-from W/benchmarks/cardiac-bssfp_30m/models/Dataset031_CardiacBSSFP/diffatlas__default",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS, help="of the cases that are learnt")
    made.add_argument("--init-from", type=Path, required=True, metavar="MODEL", help="model folder, with one trained fold")
    made.add_argument("--setting", metavar="S", help="split that is learnt (default: 4-shot; hearts: fold0)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="of each training (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of both trainings (default: %(default)s)")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "fine_tuning.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    protocol: str,
    init_from: Path,
    setting: str | None,
    max_time: str,
    seed: int,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Train twice, test three times, keep the row. UserError or CommandFailed if something is wrong."""
    before, fold_before = _model(init_from)
    split = setting or ("fold0" if protocol in HEARTS else "4-shot")
    fold = fold_of(split, seed)
    out = workspace / "benchmarks" / f"fine_tuning_{protocol}_{before.dataset}_{before.method}_{fold}_{max_time}"
    found: dict[str, dict[str, float]] = {}
    for way, words in (("afresh", []), ("begun", ["--init-from", str(before.path / fold_before)])):
        place = out / way  # a workspace for each: both models have the same name
        prepared = prepare(protocol, data, place, [seed], planning=["--like", str(before.path)])
        training = [str(prepared.number), split, "--method", before.method, *prepared.options, *words, "--max-time", max_time]
        do("train", [*training, "--seed", str(seed), "--no-validation", "--workspace", str(place)])
        folders = Workspace.resolve(place)
        raw, source = folders.raw_dataset(str(prepared.number)), folders.preprocessed_dataset(str(prepared.number)).name
        model = ModelFolder(ModelFolder.location(folders, source, before.method, RECIPE))
        check_time(model, fold, max_time)
        found[way] = scores(tested(raw, model.path, fold, place / "segmentations"), way)
    cases = len(model.metadata(fold)["training_cases"])
    if _labels(model) == _labels(before):
        found["alone"] = scores(tested(raw, before.path, fold_before, out / "alone"), "alone")
    about = {
        "protocol": protocol,
        "setting": split,
        "method": before.method,
        "training_cases": cases,
        "max_time": max_time,
        "seed": seed,
        "before": before.dataset,
        "before_cases": len(before.metadata(fold_before)["training_cases"]),
        "before_max_time_s": before.metadata(fold_before)["max_time_s"],
    }
    append_row(results, {**machine(), **about, **{name: score for one in found.values() for name, score in one.items()}})
    print(f"Dice {found['begun']['dice_begun']:.3f}; begun afresh {found['afresh']['dice_afresh']:.3f}")
    print(f"Added to {results}")


def _model(path: Path) -> tuple[ModelFolder, str]:
    """The model at ``path`` and its one fold. UserError if it has another number of them."""
    model = ModelFolder(path.expanduser().resolve())
    folds = model.folds()
    if len(folds) != 1:
        raise UserError(f"--init-from {path}: {len(folds)} trained folds there; give a model folder with one.")
    return model, folds[0]


def _labels(model: ModelFolder) -> list[tuple[str, Any]]:
    return [(label.name, label.value) for label in model.plan().dataset.labels]


if __name__ == "__main__":
    main()
