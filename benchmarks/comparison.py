"""The four methods and the mean atlas on a fixed protocol, through the public commands: one table of the paper's kind.

hippocampus: real MRI; the protocol's lists say what trains in each setting and what tests. heart-ct, heart-mri: generated
hearts, trained on one modality and also tested on the other. Without --settings, --methods and --seeds it makes the cells of
documentation/benchmarks.md. It goes on after an interruption, and other methods, settings and seeds are added to the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import add_places, do, main_of
from benchmarks.hippocampus import DATASET_ID, NAME, SETTINGS, few_shot_split, read_protocol
from benchmarks.record import RESULTS, machine
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically

METHODS = ("diffatlas", "diffatlas+atlases", "icf", "icf+atlases", "icmd", "rba")
ALONE = ("diffatlas", "icf", "icmd", "rba")
HEARTS = {"heart-ct": ("CT", 11), "heart-mri": ("MRI", 12)}
HEART_CASES, HEART_TEST_CASES, HEART_SIZE = 40, 12, 48


@dataclass(frozen=True)
class Cells:
    """Every one of ``methods`` in every one of ``settings``, with every one of ``seeds``."""

    settings: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)


def _hearts(other: int) -> tuple[Cells, ...]:
    seeds = (0, 1, 2)
    unadapted = Cells((f"zero-shot-unadapted:{other}",), ("diffatlas", "icf", "icmd"), seeds)  # rba adapts nothing
    return Cells(("full",), ALONE, seeds), Cells((f"zero-shot:{other}",), (*METHODS, "icmd+atlases"), seeds), unadapted


TABLES = {
    "hippocampus": (Cells(("2-shot", "4-shot"), METHODS, (0, 1, 2)), Cells(("8-shot", "16-shot", "full"), ALONE)),
    "heart-ct": (Cells(("2-shot", "4-shot")), *_hearts(HEARTS["heart-mri"][1])),
    "heart-mri": _hearts(HEARTS["heart-ct"][1]),
}
"""The cells of documentation/benchmarks.md."""


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Compare the methods on a fixed protocol and keep the table.",
        epilog="examples:\n  python -m benchmarks.comparison hippocampus\n"
        "  python -m benchmarks.comparison hippocampus --settings 2-shot --seeds 0 1 2 --methods diffatlas icf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=("hippocampus", *HEARTS))
    made.add_argument("--methods", nargs="+", metavar="M", help=f"(default: {' '.join(METHODS)})")
    made.add_argument(
        "--settings", nargs="+", metavar="S", help="as DiffAtlas_benchmark takes them (default: all of the table)"
    )
    made.add_argument("--seeds", nargs="+", type=int, metavar="S", help="(default: 0)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="training time of each cell (default: %(default)s)")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at the same time (default: 1)")
    add_places(made)
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(default: documentation/results/)")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Make and plan the data, run the cells, copy the table. UserError for a user's mistake, Stopped if a command fails."""
    shared = ["--workspace", str(arguments.workspace)]
    wanted = wanted_cells(arguments)
    if arguments.protocol == "hippocampus":
        dataset, options = prepare_hippocampus(arguments, sorted({seed for cells in wanted for seed in cells.seeds}), shared)
    else:
        dataset, options = prepare_hearts(arguments.protocol, shared)
    place = arguments.workspace / "benchmarks" / f"{arguments.protocol}_{arguments.max_time}"
    last = ["--max-time", arguments.max_time, "--jobs", str(arguments.jobs), "-o", str(place), *options, *shared]
    try:
        for cells in wanted:
            which = ["--methods", *cells.methods, "--settings", *cells.settings, "--seeds", *map(str, cells.seeds)]
            do("benchmark", ["-d", str(dataset), *which, *last])
    finally:
        if (place / "table.md").is_file():
            keep(arguments, place)


def wanted_cells(arguments: argparse.Namespace) -> tuple[Cells, ...]:
    """The cells that are asked for; those of the documentation if none are."""
    tables = TABLES[arguments.protocol]
    if not (arguments.methods or arguments.settings or arguments.seeds):
        return tables
    settings = dict.fromkeys(setting for cells in tables for setting in cells.settings)
    return (Cells(tuple(arguments.settings or settings), tuple(arguments.methods or METHODS), tuple(arguments.seeds or (0,))),)


def prepare_hippocampus(arguments: argparse.Namespace, seeds: Sequence[int], shared: list[str]) -> tuple[int, list[str]]:
    """Number of the data set, and the options that name the protocol's splits."""
    if arguments.data is None or not (arguments.data / "protocol.json").is_file():
        raise UserError(
            f"--data {arguments.data}: no protocol.json there. Give the folder Task04_Hippocampus, or DIFFATLAS_TEST_DATA."
        )
    path = arguments.data / "protocol.json"
    cases = ["--cases-from-json", f"{path}:full", "--test-from-json", f"{path}:test"]
    do("convert", ["msd", "-i", str(arguments.data), "-d", str(DATASET_ID), "--name", NAME, *cases, *shared])
    do("plan_and_preprocess", ["-d", str(DATASET_ID), *shared])
    protocol = read_protocol(arguments.data)
    splits = {setting: few_shot_split(protocol, setting) for setting in SETTINGS if setting != "full"}
    # Every seed trains on the protocol's cases: without this, others would be drawn for seeds above 0.
    splits |= {f"{name}-seed{seed}": split for name, split in splits.items() for seed in seeds if seed}
    file = arguments.workspace / "benchmark_splits" / "comparison.json"
    write_text_atomically(file, json.dumps(splits, indent=2) + "\n")
    return DATASET_ID, ["--splits-file", str(file)]


def prepare_hearts(protocol: str, shared: list[str]) -> tuple[int, list[str]]:
    """Number of the data set, and no option; both modalities are made and planned."""
    for modality, number in HEARTS.values():
        size = ["--cases", str(HEART_CASES), "--test-cases", str(HEART_TEST_CASES), "--size", str(HEART_SIZE)]
        do("convert", ["phantom", "-d", str(number), "--modality", modality, *size, *shared])
        do("plan_and_preprocess", ["-d", str(number), *shared])
    return HEARTS[protocol][1], []


def keep(arguments: argparse.Namespace, place: Path) -> None:
    """Copy the table into the results, with what it was made on."""
    name = f"comparison_{arguments.protocol}"
    made = machine()
    command = f"python -m benchmarks.comparison {arguments.protocol} --max-time {arguments.max_time}"
    said = f"{made['date']}, {made['cpu']}, {made['cores']} cores, torch {made['torch']}, commit {made['commit']}"
    text = (place / "table.md").read_text(encoding="utf-8")
    write_text_atomically(arguments.results / f"{name}.md", f"{text}- Last made: {said}; `{command}`.\n")
    shutil.copyfile(place / "table.csv", arguments.results / f"{name}.csv")
    print(f"Copied to {arguments.results / name}.md and .csv")


if __name__ == "__main__":
    main()
