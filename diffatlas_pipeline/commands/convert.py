"""DiffAtlas_convert: bring a data set of your own, a public or a generated one, into the raw layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from diffatlas_pipeline.commands import _common
from diffatlas_pipeline.commands._converters import CONVERTERS
from diffatlas_pipeline.commands._help import HelpFormatter
from diffatlas_pipeline.datasets.workspace import Workspace


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    _common.run(_convert, _parser(argv), argv)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser; only the chosen converter's module is imported, so that help stays quick."""
    examples = "\n  ".join(converter.example for converter in CONVERTERS.values())
    parser = _common.command_parser(
        "Bring a data set into the raw layout DatasetXXX_Name. The source is never changed.", examples
    )
    commands = parser.add_subparsers(dest="converter", required=True, metavar="SOURCE")
    for name, converter in CONVERTERS.items():
        sub = commands.add_parser(
            name,
            help=converter.summary,
            description=f"Convert {converter.summary} into the raw layout.",
            epilog=f"example:\n  {converter.example}",
            formatter_class=HelpFormatter,
        )
        if name in argv:
            converter.add_arguments(sub)
        _common.add_workspace(sub)
        _common.add_workers(sub)
        sub.add_argument(
            "--overwrite", action="store_true", help="replace what the data set's folder holds from another conversion"
        )
    return parser


def _convert(arguments: argparse.Namespace) -> None:
    from diffatlas_pipeline.datasets.raw import read_dataset

    raw = Workspace.resolve(arguments.workspace, writes_raw=True).raw
    before = _times(raw)
    folder = CONVERTERS[arguments.converter].convert(arguments, raw)
    dataset = read_dataset(folder)
    cases = f"{len(dataset.training)} training and {len(dataset.test)} test cases"
    if _times(raw) == before:
        print(f"Nothing changed: {folder} holds these {cases} already")
    else:
        print(f"Wrote {cases} to {folder}")
    number = int(folder.name.removeprefix("Dataset")[:3])
    print(f"Next: DiffAtlas_plan_and_preprocess -d {number}{_common.same_workspace(arguments)}")


def _times(raw: Path) -> dict[Path, int]:
    """When each folder of the raw data sets was last changed: by every file that is put there or taken away."""
    folders = [path for pattern in ("Dataset*_*", "Dataset*_*/*") for path in raw.glob(pattern) if path.is_dir()]
    return {folder: folder.stat().st_mtime_ns for folder in folders}
