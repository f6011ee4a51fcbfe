"""Small heart data sets in the layouts in which MM-WHS and TotalSegmentator are published."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from dataset_conversion.mmwhs import PREFIXES
from dataset_conversion.phantom import LABELS, generate_case
from dataset_conversion.totalsegmentator import MASKS

SIZE = (24, 22, 20)
MMWHS_VALUES = {"Myo": 205, "LA": 420, "LV": 500, "RA": 550, "RV": 600}
OTHER_MASKS = ("aorta", "liver")
META_COLUMNS = "image_id;age;gender;institute;study_type;split"


def save(path: Path, array: np.ndarray, affine: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, affine)
    image.header["descrip"] = b"someone's scanner"
    image.to_filename(path)


def heart(index: int, modality: str = "CT") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image int16, labels uint8 as in LABELS, affine."""
    image, labels, affine = generate_case(0, index, SIZE, modality)
    return image.astype(np.int16), labels, affine


def mmwhs_labels(labels: np.ndarray) -> np.ndarray:
    """The same labels with MM-WHS's values, and some aorta and pulmonary artery in the background."""
    values = np.zeros(labels.shape, np.int16)
    for label, value in LABELS.items():
        values[labels == value] = MMWHS_VALUES[label]
    background = np.argwhere(labels == 0)
    values[tuple(background[:40].T)], values[tuple(background[40:60].T)] = 820, 850
    return values


def mmwhs_source(folder: Path, modality: str = "CT", cases: int = 5, flat: bool = False) -> Path:
    """``cases`` labelled scans of a modality, in a folder of their own or all in ``folder``."""
    for index in range(cases):
        image, labels, affine = heart(index, modality)
        stem = f"{PREFIXES[modality]}_{1001 + index}"
        place = folder if flat else folder / PREFIXES[modality]
        save(place / f"{stem}_image.nii.gz", image, affine)
        save(place / f"{stem}_label.nii.gz", mmwhs_labels(labels), affine)
    return folder


def totalsegmentator_source(folder: Path, cases: int = 6, masks: str = "segmentations") -> Path:
    """``cases`` scans with all masks (also of organs that are not asked for) and meta.csv; the last one has no
    heart.
    """
    rows = [META_COLUMNS]
    for index in range(cases):
        image, labels, affine = heart(index)
        case = f"s{index:04d}"
        save(folder / case / "ct.nii.gz", image, affine)
        for label, name in MASKS.items():
            inside = (labels == LABELS[label]) & (index != cases - 1)
            save(folder / case / masks / f"{name}.nii.gz", inside.astype(np.uint8), affine)
        for name in OTHER_MASKS:
            save(folder / case / "segmentations" / f"{name}.nii.gz", np.zeros(SIZE, np.uint8), affine)
        rows.append(f"{case};{60 + index};m;C;ct thorax;{('test', 'train', 'val', 'train')[index % 4]}")
    (folder / "meta.csv").write_text("\n".join(rows) + "\n", encoding="utf-8-sig")
    return folder


def load(path: Path) -> np.ndarray:
    return np.asanyarray(nib.load(path).dataobj)


def state(folder: Path) -> dict[Path, tuple[int, int]]:
    """Which file is which, and when it was written."""
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}
