"""DiffAtlas_plan_and_preprocess: check a raw data set, measure it, plan, and store its cases ready for training."""

from __future__ import annotations

import argparse
from pathlib import Path

from diffatlas_pipeline import console
from diffatlas_pipeline.commands._common import (
    add_scheduler,
    add_workers,
    add_workspace,
    command_parser,
    run,
    same_workspace,
    workspace_of,
)
from diffatlas_pipeline.errors import UserError

DESCRIPTION = "Check raw data sets, measure them, plan spacing, network, diffusion and training, and store their cases."
EXAMPLE = "DiffAtlas_plan_and_preprocess -d 001"


def main(argv: list[str] | None = None) -> None:
    parser = command_parser(DESCRIPTION, EXAMPLE)
    parser.add_argument(
        "-d",
        "--dataset",
        action="extend",
        nargs="+",
        required=True,
        metavar="ID",
        help="raw data set: its number, its folder name or its path; several may be given",
    )
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=8.0,
        metavar="GB",
        help="memory for training, of the device. It is not detected: give what your GPU has (default: %(default)g)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda", "mps"),
        help="kind of device that you will train on: `cpu`, `cuda` or `mps`. It need not be in this machine (default: the "
        "best one here)",
    )
    parser.add_argument(
        "--preset",
        metavar="NAME",
        help="[preset](plan.md#presets) of network size and training length: `cpu`, `gpu8`, `gpu24` or `gpu80` (default: "
        "from device and memory)",
    )
    parser.add_argument(
        "--like",
        type=Path,
        metavar="MODEL",
        help="plan the network, its patch, spacing, distance maps and diffusion as those of this model (folder or zip "
        "file), so that a training can [begin with it](../how-to/few-labels.md#begin-with-another-model) (default: all from "
        "the data)",
    )
    parser.add_argument(
        "--overwrite", action="store_true", help="replace another plan that is already there, measure again, and redo all cases"
    )
    add_workers(parser)
    add_scheduler(parser)
    add_workspace(parser)
    run(_plan_and_preprocess, parser, argv)


def _plan_and_preprocess(arguments: argparse.Namespace) -> None:
    """One data set after the other: one that cannot be used does not stop the others, but is told at the end."""
    from diffatlas_pipeline.api.preparation import budget_of, plan_of, prepare_dataset

    budget = budget_of(arguments.memory_gb, arguments.device, arguments.preset)
    like = None if arguments.like is None else plan_of(arguments.like)
    workspace = workspace_of(arguments)
    wanted = list(dict.fromkeys(arguments.dataset))
    closing: dict[Path, str] = {}
    problems: list[UserError] = []
    for identifier in wanted:
        try:
            raw = workspace.raw_dataset(identifier)
            if raw in closing:
                continue
            made = prepare_dataset(raw, workspace, budget, arguments.workers, arguments.overwrite, like)
            name = made.number if raw.parent == workspace.raw else str(raw)  # a path, if it was named by one
            following = f"DiffAtlas_train {name} fold0{same_workspace(arguments)}"
            closing[raw] = f"Wrote the plan and {made.cases} preprocessed cases to {made.folder}. Next: {following}"
        except UserError as error:
            problems.append(error)
            if len(wanted) > 1:
                console.say(f"  -d {identifier}: stopped by an error, which is listed at the end")
    if closing:
        console.say("\n".join(closing.values()))
    if len(wanted) == 1 and problems:
        raise problems[0]
    if problems:
        rest = "; the others are done" if closing else ""
        listed = "\n".join(str(problem) for problem in problems)
        raise UserError(f"{len(problems)} of {len(wanted)} data sets cannot be used{rest}.\n{listed}")


if __name__ == "__main__":
    main()
