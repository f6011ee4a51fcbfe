"""DiffAtlas_check: list all that is wrong or unusual in a raw data set, and mend geometry on request."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline.commands._common import (
    add_scheduler,
    add_workers,
    add_workspace,
    command_parser,
    run,
    same_workspace,
    workspace_of,
)


def main(argv: list[str] | None = None) -> None:
    parser = command_parser("List all problems of all cases of a raw data set; nothing is changed.", "DiffAtlas_check -d 001")
    parser.add_argument(
        "-d", "--dataset", required=True, metavar="ID", help="raw data set: its number, its folder name or its path"
    )
    parser.add_argument(
        "--fix-geometry",
        type=Path,
        metavar="FOLDER",
        help="copy the data set into this new folder. Labels and channels that have the shape of their case's first channel, "
        "but another place, spacing or direction, get its geometry there. No file tells which is right: look at the "
        "copies",
    )
    add_workers(parser)
    add_scheduler(parser)
    add_workspace(parser)
    run(_check, parser, argv)


def _check(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.datasets.checks import inspect_dataset, problem_table, table
    from diffatlas_pipeline.datasets.geometry import copy_with_fixed_geometry
    from diffatlas_pipeline.datasets.raw import read_dataset
    from diffatlas_pipeline.errors import DatasetError

    raw = workspace_of(arguments).raw_dataset(arguments.dataset)
    of_files: list[tuple[str, str]] = []
    dataset = read_dataset(raw, None if arguments.fix_geometry is not None else of_files)
    if arguments.fix_geometry is not None:
        changed = copy_with_fixed_geometry(dataset, arguments.fix_geometry)
        print(f"Copied to {arguments.fix_geometry}; {len(changed)} file(s) got the geometry of their case's first channel:")
        print("\n".join(f"  {name}" for name in changed) or "  none")
        print("Look at some of them in a viewer: no file tells which geometry is right.")
        print(f"Next: DiffAtlas_check -d {arguments.fix_geometry}")
        return
    found = inspect_dataset(dataset, arguments.workers, of_files)
    cases = len(dataset.training) + len(dataset.unlabelled)
    if found.notes:
        print(table(("case", "note"), found.notes, most=len(found.notes)))
    if found.problems:
        raise DatasetError(problem_table(dataset, found.problems, most=len(found.problems)))
    print(f"{raw}: no problem in {cases} cases.")
    print(f"Next: DiffAtlas_plan_and_preprocess -d {arguments.dataset}{same_workspace(arguments)}")


if __name__ == "__main__":
    main()
