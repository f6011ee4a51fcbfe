"""What a converter is to the command, and the options that several of them have."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataset_conversion.labelled_cases import CaseOptions


@dataclass(frozen=True)
class Converter:
    """One sub-command. ``convert`` returns the new data set's folder. Both functions import their module when
    called.
    """

    summary: str
    example: str
    add_arguments: Callable[[ArgumentParser], None]
    convert: Callable[[Namespace, Path], Path]


def add_source(parser: ArgumentParser, metavar: str, text: str) -> None:
    parser.add_argument("-i", "--input", dest="source", type=Path, required=True, metavar=metavar, help=text)


def source_of(arguments: Namespace) -> Path:
    return Path(arguments.source).expanduser().resolve()


def add_dataset(parser: ArgumentParser, default_name: str, needed: bool = True) -> None:
    default = "" if needed else " (default: the task's)"
    parser.add_argument(
        "-d", "--dataset-id", type=int, required=needed, metavar="ID", help=f"number of the new data set, 1 to 999{default}"
    )
    parser.add_argument("--name", help=f"its name (default: {default_name})")


def add_case_options(parser: ArgumentParser) -> None:
    """The options of :class:`~dataset_conversion.labelled_cases.CaseOptions` that all its converters have."""
    parser.add_argument(
        "--leave-out-bad",
        action="store_true",
        help="leave out what is unmatched or broken, and say what, instead of refusing all",
    )
    parser.add_argument(
        "--fix-geometry",
        action="store_true",
        help="give labels and channels that have the shape of the first channel, but lie elsewhere, its place",
    )
    parser.add_argument(
        "--copy", action="store_true", help="copy files; otherwise they are hard links where the file system allows"
    )


def case_options(arguments: Namespace) -> CaseOptions:
    from dataset_conversion.case_lists import cases_from_json
    from dataset_conversion.labelled_cases import CaseOptions

    return CaseOptions(
        leave_out_bad=arguments.leave_out_bad,
        unlabelled_to_test=getattr(arguments, "unlabelled_to_test", False),
        fix_geometry=arguments.fix_geometry,
        test_cases=cases_from_json(arguments.test_cases, "test_cases"),
        copy=arguments.copy,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )
