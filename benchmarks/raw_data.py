"""The raw data sets of the fixed protocols: training cases in imagesTr, test cases in imagesTs, both with labels."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np

from benchmarks.case_lists import lists_of, read_protocol
from benchmarks.commands import do
from dataset_conversion.raw_layout import (
    LayoutDescription,
    check_leftovers,
    dataset_folder,
    image_name,
    make_folders,
    place_file,
    with_temporary,
    write_description,
)
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError

HIPPOCAMPUS = "hippocampus"
HIPPOCAMPUS_ID, HIPPOCAMPUS_NAME, TASK = 4, "Hippocampus", "Task04_Hippocampus"
HEARTS = {"heart-ct": ("CT", 11), "heart-mri": ("MRI", 12)}
HEART_CASES, HEART_TEST_CASES, HEART_SIZE = 40, 12, 48
TWO_CHANNELS_NAME, TWO_CHANNELS_ID = "HeartPhantomBoth", 13
CARDIAC = {"cardiac-bssfp": ("CardiacBSSFP", 31), "cardiac-lge": ("CardiacLGE", 32)}
# The published headers of bSSFP say 1.19 to 1.25 mm in the plane. But the left ventricle of patients 1 to 25 has as
# many pixels across as in LGE (ratio 0.99 ± 0.03), where headers say 0.73 to 0.76 mm; by those of bSSFP it would be 123
# mm wide. The factor is the median over these patients of its width in mm, LGE to bSSFP (± 0.018).
IN_PLANE = {"cardiac-bssfp": 0.592}


def place_hippocampus(data: Path | None, workspace: Path) -> Path:
    """The raw data set's folder. UserError if ``data`` does not hold the Decathlon's task."""
    source = found(data, TASK)
    lists = lists_of(HIPPOCAMPUS)
    cases = ["--cases-from-json", f"{lists}:full", "--test-from-json", f"{lists}:test"]
    number = ["-d", str(HIPPOCAMPUS_ID), "--name", HIPPOCAMPUS_NAME]
    do("convert", ["msd", "-i", str(source), *number, *cases, "--workspace", str(workspace)])
    return Workspace.resolve(workspace).raw / f"Dataset{HIPPOCAMPUS_ID:03d}_{HIPPOCAMPUS_NAME}"


def place_hearts(workspace: Path) -> None:
    """Generated hearts of both modalities."""
    for modality, number in HEARTS.values():
        size = ["--cases", str(HEART_CASES), "--test-cases", str(HEART_TEST_CASES), "--size", str(HEART_SIZE)]
        do("convert", ["phantom", "-d", str(number), "--modality", modality, *size, "--workspace", str(workspace)])


def place_two_channels(workspace: Path) -> Path:
    """The generated hearts of both modalities as one data set of two channels, CT and MRI of the same person; returns
    its folder.
    """
    raw = Workspace.resolve(workspace).raw
    folders = [raw / f"Dataset{number:03d}_HeartPhantom{modality}" for modality, number in HEARTS.values()]
    folder = dataset_folder(raw, TWO_CHANNELS_ID, TWO_CHANNELS_NAME)
    described = json.loads((folders[0] / "dataset.json").read_text(encoding="utf-8"))
    ending, labels = described["file_ending"], {name: value for name, value in described["labels"].items() if value}
    make_folders(folder, ["imagesTr", "labelsTr", "imagesTs", "labelsTs"])
    for part in ("Tr", "Ts"):
        for label in sorted((folders[0] / f"labels{part}").glob(f"*{ending}")):
            place_file(label, folder / f"labels{part}" / label.name)
            case = label.name.removesuffix(ending)
            for channel, source in enumerate(folders):
                image = source / f"images{part}" / image_name(case, 0, ending)
                place_file(image, folder / f"images{part}" / image_name(case, channel, ending))
    channels = tuple(modality for modality, _ in HEARTS.values())
    write_description(folder, TWO_CHANNELS_NAME, described["numTraining"], LayoutDescription(channels, labels, ending, {}))
    return folder


def place_cardiac(protocol: str, data: Path | None, workspace: Path) -> Path:
    """Link (or copy) the cases of ``protocol`` to where they train and test, or write them with the pixel size mended;
    returns the raw data set's folder.

    The source is a data set in the raw layout whose imagesTr and labelsTr hold all patients. UserError for what is not
    there.
    """
    name, number = CARDIAC[protocol]
    source = found(data, f"Dataset{number:03d}_{name}")
    folder = dataset_folder(Workspace.resolve(workspace).raw, number, name)
    described = json.loads((source / "dataset.json").read_text(encoding="utf-8"))
    ending, channels = described["file_ending"], tuple(described["channel_names"].values())
    labels = {label: value for label, value in described["labels"].items() if value}
    lists = read_protocol(lists_of(protocol))
    places: dict[str, dict[str, Path]] = {}  # folder: file's name there: file in the source
    for part, cases in (("Tr", lists["full"]), ("Ts", lists["test"])):
        images = [image_name(case, channel, ending) for case in cases for channel in range(len(channels))]
        places[f"images{part}"] = {image: source / "imagesTr" / image for image in images}
        places[f"labels{part}"] = {case + ending: source / "labelsTr" / (case + ending) for case in cases}
    if missing := [str(path) for files in places.values() for path in files.values() if not path.is_file()]:
        raise UserError(f"{source}: {len(missing)} file(s) of the protocol are not there, such as {missing[0]}.")
    check_leftovers(folder, {part: set(files) for part, files in places.items()}, overwrite=False)
    make_folders(folder, places)
    for part, files in places.items():
        for file, path in files.items():
            if protocol in IN_PLANE:
                _place_resized(path, folder / part / file, IN_PLANE[protocol])
            else:
                place_file(path, folder / part / file)
    write_description(folder, name, len(lists["full"]), LayoutDescription(channels, labels, ending, {}))
    return folder


def _place_resized(source: Path, target: Path, factor: float) -> None:
    """Write ``source`` to ``target`` with pixels ``factor`` times as large in the plane; one that is so stays as it
    is.
    """
    image = nib.Nifti1Image.from_filename(source)
    affine = image.affine @ np.diag([factor, factor, 1, 1])
    if target.is_file() and np.allclose(nib.Nifti1Image.from_filename(target).affine, affine, rtol=1e-5):
        return
    header = image.header.copy()
    resized = nib.Nifti1Image(np.asanyarray(image.dataobj), affine, header)
    resized.set_qform(affine, 1)
    resized.set_sform(affine, 1)
    with_temporary(target, resized.to_filename)


def found(data: Path | None, folder: str) -> Path:
    """``folder`` in ``data``. UserError if it is no data set."""
    if data is None or not (data / folder / "dataset.json").is_file():
        raise UserError(f"--data {data}: no {folder}/dataset.json there. Give the folder that holds {folder}.")
    return data / folder
