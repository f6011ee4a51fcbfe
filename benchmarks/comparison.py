"""The four methods and the mean atlas on a fixed protocol, through the public commands: one table of the paper's kind.

hippocampus: real MRI; the protocol's lists say what trains in each setting and what tests. heart-ct, heart-mri: generated
hearts, trained on one modality and also tested on the other. It goes on after an interruption, and other methods, settings and
seeds are added to the table.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

from benchmarks.commands import add_places, do, main_of
from benchmarks.hippocampus import DATASET_ID, NAME, SETTINGS, few_shot_split, read_protocol
from benchmarks.record import RESULTS, machine
from diffatlas_pipeline.contracts import write_text_atomically
from diffatlas_pipeline.errors import UserError

METHODS = ("diffatlas", "diffatlas+atlases", "icf", "icf+atlases", "icmd", "rba")
HEARTS = {"heart-ct": ("CT", 11), "heart-mri": ("MRI", 12)}
HEART_CASES, HEART_TEST_CASES, HEART_SIZE = 40, 12, 48


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Compare the methods on a fixed protocol and keep the table.",
        epilog="example:\n  python -m benchmarks.comparison hippocampus --settings 2-shot 4-shot --seeds 0 1 2 --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=("hippocampus", *HEARTS))
    made.add_argument("--methods", nargs="+", default=METHODS, metavar="M", help="(default: %(default)s)")
    made.add_argument("--settings", nargs="+", metavar="S", help="as DiffAtlas_benchmark takes them (default: the protocol's)")
    made.add_argument("--seeds", nargs="+", type=int, default=[0], metavar="S", help="(default: 0)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="training time of each cell (default: %(default)s)")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at the same time (default: 1)")
    add_places(made)
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(default: documentation/results/)")
    return made


def run(arguments: argparse.Namespace) -> None:
    """Make and plan the data, run the cells, copy the table. UserError for a user's mistake, Stopped if a command fails."""
    shared = ["--workspace", str(arguments.workspace)]
    if arguments.protocol == "hippocampus":
        dataset, settings, options = prepare_hippocampus(arguments, shared)
    else:
        dataset, settings, options = prepare_hearts(arguments.protocol, shared)
    place = arguments.workspace / "benchmarks" / f"{arguments.protocol}_{arguments.max_time}"
    words = ["-d", str(dataset), "--methods", *arguments.methods, "--settings", *(arguments.settings or settings)]
    words += ["--seeds", *map(str, arguments.seeds), "--max-time", arguments.max_time]
    words += ["--jobs", str(arguments.jobs), "-o", str(place), *options]
    try:
        do("benchmark", [*words, *shared])
    finally:
        if (place / "table.md").is_file():
            keep(arguments, place)


def prepare_hippocampus(arguments: argparse.Namespace, shared: list[str]) -> tuple[int, tuple[str, ...], list[str]]:
    """Number of the data set, the protocol's settings, and the options that name its splits."""
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
    splits |= {f"{name}-seed{seed}": split for name, split in splits.items() for seed in arguments.seeds if seed}
    file = arguments.workspace / "benchmark_splits" / "comparison.json"
    write_text_atomically(file, json.dumps(splits, indent=2) + "\n")
    return DATASET_ID, SETTINGS, ["--splits-file", str(file)]


def prepare_hearts(protocol: str, shared: list[str]) -> tuple[int, tuple[str, ...], list[str]]:
    """Number of the data set, its settings with the other modality's, and no option."""
    own = HEARTS[protocol][1]
    for modality, number in HEARTS.values():
        size = ["--cases", str(HEART_CASES), "--test-cases", str(HEART_TEST_CASES), "--size", str(HEART_SIZE)]
        do("convert", ["phantom", "-d", str(number), "--modality", modality, *size, *shared])
        do("plan_and_preprocess", ["-d", str(number), *shared])
    other = next(number for _, number in HEARTS.values() if number != own)
    settings = ("full", "2-shot", "4-shot", f"zero-shot:{other}", f"zero-shot-unadapted:{other}")
    return own, settings, []


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
