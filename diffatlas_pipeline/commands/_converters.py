"""The options of each converter of a public data set, and the call of its function. A new converter is one entry here
and one module there.
"""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from diffatlas_pipeline.commands import _own_data
from diffatlas_pipeline.commands._converter import Converter, add_case_options, add_dataset, add_source, case_options, source_of

if TYPE_CHECKING:
    from dataset_conversion.heart import HeartOptions


# ----------------------------------------------------------------------------------------------------------------- msd
def _msd_arguments(parser: ArgumentParser) -> None:
    add_source(parser, "TASK", "unpacked folder `TaskNN_Name`")
    add_dataset(parser, "the task's", needed=False)
    parser.add_argument(
        "--cases-from-json",
        dest="training_cases",
        metavar="FILE:KEY",
        help="train on the cases that this JSON file lists under KEY (default: all but the test cases)",
    )
    parser.add_argument(
        "--test-from-json",
        dest="test_cases",
        metavar="FILE:KEY",
        help="test on the cases listed under KEY, with their labels in `labelsTs/` (default: the task's test images)",
    )
    add_case_options(parser)


def _convert_msd(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.case_lists import cases_from_json
    from dataset_conversion.msd import convert_msd

    return convert_msd(
        source_of(arguments),
        raw_folder,
        arguments.dataset_id,
        name=arguments.name,
        training_cases=cases_from_json(arguments.training_cases, "training_cases"),
        test_cases=cases_from_json(arguments.test_cases, "test_cases"),
        options=case_options(arguments),
    )


# -------------------------------------------------------------------------------------------------------------- hearts
def _heart_arguments(parser: ArgumentParser) -> None:
    """What the converters of heart data sets share."""
    from dataset_conversion.heart import TEST_FRACTION

    parser.add_argument(
        "--test-fraction",
        type=float,
        default=TEST_FRACTION,
        metavar="F",
        help="share of the cases that become test cases, with labels in `labelsTs/`; 0 for none (default: %(default)s)",
    )
    parser.add_argument(
        "--test-from-json",
        dest="test_cases",
        metavar="FILE:KEY",
        help="test on the cases that this JSON file lists under KEY (default: drawn ones)",
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the test cases and of the few-shot splits (default: %(default)s)"
    )
    parser.add_argument(
        "--exclude",
        nargs="+",
        default=[],
        metavar="CASE",
        help="cases to leave out, for example damaged ones; several may be given",
    )
    parser.add_argument(
        "--crop-margin-mm",
        type=float,
        metavar="MM",
        help="crop each scan to the box of its labels with this margin (default: whole scans)",
    )
    parser.add_argument(
        "--copy",
        action="store_true",
        help="copy images; otherwise they are hard links where the file system allows. Cropped ones are new files",
    )


def _heart_options(arguments: Namespace) -> HeartOptions:
    from dataset_conversion.case_lists import cases_from_json
    from dataset_conversion.heart import HeartOptions

    return HeartOptions(
        test_fraction=arguments.test_fraction,
        test_cases=cases_from_json(arguments.test_cases, "test_cases"),
        seed=arguments.seed,
        exclude=tuple(arguments.exclude),
        crop_margin_mm=arguments.crop_margin_mm,
        copy=arguments.copy,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )


def _mmwhs_arguments(parser: ArgumentParser) -> None:
    from dataset_conversion.mmwhs import PREFIXES

    add_source(parser, "FOLDER", "unpacked folder with `ct_train` and `mr_train` files")
    parser.add_argument(
        "--modality",
        choices=tuple(PREFIXES),
        required=True,
        help="which scans, `CT` or `MRI`; each modality becomes a data set of its own",
    )
    add_dataset(parser, "`MMWHSCT` or `MMWHSMRI`")
    _heart_arguments(parser)


def _convert_mmwhs(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.mmwhs import convert_mmwhs

    return convert_mmwhs(
        source_of(arguments),
        raw_folder,
        arguments.dataset_id,
        modality=arguments.modality,
        name=arguments.name,
        options=_heart_options(arguments),
    )


def _totalsegmentator_arguments(parser: ArgumentParser) -> None:
    from dataset_conversion.totalsegmentator import MINIMUM_ML

    add_source(parser, "FOLDER", "unpacked folder with `s0000`, `s0001`, ... and `meta.csv`")
    parser.add_argument(
        "--masks",
        default="segmentations",
        metavar="NAME",
        help="folder of each case that holds the heart's masks (default: %(default)s)",
    )
    parser.add_argument(
        "--min-volume-ml",
        dest="minimum_ml",
        type=float,
        default=MINIMUM_ML,
        metavar="ML",
        help="take a case if each of the five structures has this volume (default: %(default)g)",
    )
    parser.add_argument(
        "--split-from-meta",
        action="store_true",
        help="test on the cases that `meta.csv` calls test cases, instead of drawn ones",
    )
    add_dataset(parser, "`TotalSegmentatorHeart`")
    _heart_arguments(parser)


def _convert_totalsegmentator(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.totalsegmentator import convert_totalsegmentator

    return convert_totalsegmentator(
        source_of(arguments),
        raw_folder,
        arguments.dataset_id,
        name=arguments.name,
        masks=arguments.masks,
        minimum_ml=arguments.minimum_ml,
        split_from_meta=arguments.split_from_meta,
        options=_heart_options(arguments),
    )


# ------------------------------------------------------------------------------------------------------------- phantom
def _phantom_arguments(parser: ArgumentParser) -> None:
    from dataset_conversion.phantom import MODALITIES

    add_dataset(parser, "`HeartPhantomCT` or `HeartPhantomMRI`")
    parser.add_argument(
        "--cases", dest="training_cases", type=int, default=24, metavar="N", help="training cases (default: %(default)s)"
    )
    parser.add_argument(
        "--test-cases", type=int, default=6, metavar="N", help="test cases, with labels in `labelsTs/` (default: %(default)s)"
    )
    parser.add_argument(
        "--size",
        type=int,
        nargs="+",
        default=[48],
        metavar="N",
        help="voxels, one number or three; the field of view stays the same (default: 48)",
    )
    parser.add_argument(
        "--modality", choices=MODALITIES, default="CT", help="what the images look like, `CT` or `MRI` (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed gives the same hearts, in either modality (default: %(default)s)"
    )


def _convert_phantom(arguments: Namespace, raw_folder: Path) -> Path:
    from dataset_conversion.phantom import write_phantom_dataset

    return write_phantom_dataset(
        raw_folder,
        arguments.dataset_id,
        name=arguments.name,
        training_cases=arguments.training_cases,
        test_cases=arguments.test_cases,
        size=arguments.size,
        modality=arguments.modality,
        seed=arguments.seed,
        workers=arguments.workers,
        overwrite=arguments.overwrite,
    )


CONVERTERS = {
    "folder": Converter(
        "a folder of images and a folder of their labels",
        "DiffAtlas_convert folder -i images -l labels -d 5 --name Liver --channels CT --label-names liver=1 tumour=2",
        _own_data.folder_arguments,
        _own_data.convert_folder,
    ),
    "bids": Converter(
        "a BIDS tree with segmentations in its derivatives",
        "DiffAtlas_convert bids -i study -d 6 --suffixes T1w FLAIR",
        _own_data.bids_arguments,
        _own_data.convert_bids,
    ),
    "msd": Converter(
        "a task of the Medical Segmentation Decathlon or of nnU-Net v1",
        "DiffAtlas_convert msd -i Task04_Hippocampus -d 4",
        _msd_arguments,
        _convert_msd,
    ),
    "mmwhs": Converter(
        "MM-WHS 2017, whole hearts in CT or MRI",
        "DiffAtlas_convert mmwhs -i MM-WHS -d 11 --modality CT",
        _mmwhs_arguments,
        _convert_mmwhs,
    ),
    "totalsegmentator": Converter(
        "the whole hearts of TotalSegmentator's CT data set",
        "DiffAtlas_convert totalsegmentator -i Totalsegmentator_dataset -d 13 --crop-margin-mm 20",
        _totalsegmentator_arguments,
        _convert_totalsegmentator,
    ),
    "phantom": Converter(
        "generated hearts with five labels, CT-like or MRI-like",
        "DiffAtlas_convert phantom -d 1 --cases 24 --test-cases 6 --size 48 --modality CT",
        _phantom_arguments,
        _convert_phantom,
    ),
}
