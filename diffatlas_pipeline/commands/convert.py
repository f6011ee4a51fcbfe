"""DiffAtlas_convert: bring a public data set, or a generated one, into the raw layout."""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
from dataclasses import dataclass

from diffatlas_pipeline.commands._common import add_workers, add_workspace, command_parser, run, workspace_of


@dataclass(frozen=True)
class Converter:
    """One sub-command. ``module`` offers ``add_arguments(parser)`` and ``convert(arguments, raw_folder) -> Path``."""

    module: str
    summary: str
    example: str


# A new converter is one module in dataset_conversion/ and one entry here.
CONVERTERS = {
    "msd": Converter(
        "dataset_conversion.msd",
        "a task of the Medical Segmentation Decathlon",
        "DiffAtlas_convert msd -i Task04_Hippocampus -d 4",
    ),
    "mmwhs": Converter(
        "dataset_conversion.mmwhs",
        "MM-WHS 2017, whole hearts in CT or MRI",
        "DiffAtlas_convert mmwhs -i MM-WHS -d 11 --modality CT",
    ),
    "totalsegmentator": Converter(
        "dataset_conversion.totalsegmentator",
        "the whole hearts of TotalSegmentator's CT data set",
        "DiffAtlas_convert totalsegmentator -i Totalsegmentator_dataset -d 13 --crop-margin-mm 20",
    ),
    "phantom": Converter(
        "dataset_conversion.phantom",
        "generated hearts with five labels, CT-like or MRI-like",
        "DiffAtlas_convert phantom -d 1 --cases 24 --test-cases 6 --size 48 --modality CT",
    ),
}


def main(argv: list[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    run(_convert, _parser(argv), argv)


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    """The parser; only the chosen converter's module is imported, so that help stays quick."""
    examples = "\n  ".join(converter.example for converter in CONVERTERS.values())
    parser = command_parser("Bring a data set into the raw layout DatasetXXX_Name. The source is never changed.", examples)
    commands = parser.add_subparsers(dest="converter", required=True, metavar="SOURCE")
    for name, converter in CONVERTERS.items():
        sub = commands.add_parser(
            name,
            help=converter.summary,
            description=f"Convert {converter.summary} into the raw layout.",
            epilog=f"example:\n  {converter.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in argv:
            importlib.import_module(converter.module).add_arguments(sub)
        add_workspace(sub)
        add_workers(sub)
        sub.add_argument(
            "--overwrite", action="store_true", help="replace what the data set's folder holds from another conversion"
        )
    return parser


def _convert(arguments: argparse.Namespace) -> None:
    converter = importlib.import_module(CONVERTERS[arguments.converter].module)
    folder = converter.convert(arguments, workspace_of(arguments).raw)
    description = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    channels = len(description["channel_names"])
    tests = len(list((folder / "imagesTs").glob("*" + description["file_ending"]))) // channels
    print(f"Wrote {description['numTraining']} training and {tests} test cases to {folder}")
    number = int(folder.name[len("Dataset") :][:3])
    option = f" --workspace {shlex.quote(arguments.workspace)}" if arguments.workspace else ""
    print(f"Next: DiffAtlas_plan_and_preprocess -d {number}{option}")


if __name__ == "__main__":
    main()
