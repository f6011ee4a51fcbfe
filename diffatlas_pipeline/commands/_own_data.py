"""The options of the converters of data as a laboratory keeps them, and the calls of their functions."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

from diffatlas_pipeline.commands._converter import add_case_options, add_dataset, add_source, case_options, source_of


def folder_arguments(parser: ArgumentParser) -> None:
    add_source(parser, "IMAGES", "folder of images; several channels by the ends of their names, or one sub-folder for each")
    parser.add_argument(
        "-l", "--labels", type=Path, required=True, metavar="LABELS", help="folder of label files of the same names"
    )
    parser.add_argument(
        "-d", "--dataset-id", type=int, required=True, metavar="ID", help="number of the new data set, 1 to 999"
    )
    parser.add_argument("--name", required=True, help="its name")
    parser.add_argument(
        "--test-images", type=Path, metavar="IMAGES", help="folder of images that are not trained on, for `imagesTs/`"
    )
    parser.add_argument("--test-labels", type=Path, metavar="LABELS", help="folder of their labels, for `labelsTs/`")
    parser.add_argument(
        "--channels",
        nargs="+",
        metavar="NAME",
        help="what the images are: `CT` (Hounsfield units), `MRI`, or one name for each channel (default: as names or DICOM "
        "headers tell)",
    )
    _add_labels(parser, "`label_1` and so on, which is said")
    _add_parts(parser)
    add_case_options(parser)


def convert_folder(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.folder import convert_folder

    return convert_folder(
        source_of(arguments),
        raw_folder,
        arguments.dataset_id,
        name=arguments.name,
        labels=arguments.labels.expanduser().resolve(),
        test_images=_resolved(arguments.test_images),
        test_labels=_resolved(arguments.test_labels),
        channels=arguments.channels,
        label_names=arguments.label_names,
        label_table=_resolved(arguments.label_table),
        options=case_options(arguments),
    )


def bids_arguments(parser: ArgumentParser) -> None:
    add_source(parser, "FOLDER", "root of the BIDS data set, with `sub-01` and so on")
    add_dataset(parser, "`Name` in `dataset_description.json`")
    parser.add_argument(
        "--derivatives",
        metavar="NAME",
        help="folder in `derivatives/`, or any path, with the segmentations (default: the only one that has some)",
    )
    parser.add_argument(
        "--suffixes",
        nargs="+",
        metavar="SUFFIX",
        help="images to take, each a channel: `T1w FLAIR` (default: the only one there)",
    )
    parser.add_argument(
        "--image-with",
        nargs="+",
        metavar="ENTITY",
        help="take images only whose names have these entities, such as `acq-mprage` (default: all)",
    )
    parser.add_argument(
        "--labels-with",
        nargs="+",
        metavar="ENTITY",
        help="take segmentations only whose names have these entities, such as `space-orig desc-manual` (default: all)",
    )
    _add_labels(parser, "as `dseg.tsv` names them, else `label_1` and so on")
    _add_parts(parser)
    add_case_options(parser)


def convert_bids(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.bids import convert_bids

    return convert_bids(
        source_of(arguments),
        raw_folder,
        arguments.dataset_id,
        name=arguments.name,
        derivatives=arguments.derivatives,
        suffixes=arguments.suffixes,
        image_with=arguments.image_with,
        labels_with=arguments.labels_with,
        label_names=arguments.label_names,
        label_table=_resolved(arguments.label_table),
        options=case_options(arguments),
    )


def _add_labels(parser: ArgumentParser, default: str) -> None:
    parser.add_argument(
        "--label-names", nargs="+", metavar="NAME=VALUE", help=f"names of the labels: `liver=1 tumour=2` (default: {default})"
    )
    parser.add_argument(
        "--label-table",
        type=Path,
        metavar="FILE",
        help="CSV or TSV file instead, with columns `value` (or `index`) and `name`; without a heading two columns",
    )


def _add_parts(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--unlabelled-to-test", action="store_true", help="make images without labels test cases, instead of refusing them"
    )
    parser.add_argument(
        "--test-from-json",
        dest="test_cases",
        metavar="FILE:KEY",
        help="test on the labelled cases that this JSON file lists under KEY",
    )


def _resolved(path: Path | None) -> Path | None:
    return None if path is None else path.expanduser().resolve()
