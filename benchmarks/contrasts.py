"""Real hippocampus scans as other sequences might show them: raw data sets for the settings zero-shot-unadapted:41 etc.

Data sets 41 to 44 hold the protocol's test cases, 61 to 64 its training cases, to be learnt in that contrast. 50 to 54
hold its validation cases, 50 as they are: what is chosen is chosen on those, by a model of the setting 144-shot, which
trains on none of them. A comparison writes what it is asked for; this command writes all of one kind, to look at.
"""

from __future__ import annotations

import argparse
import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from scipy import ndimage

from benchmarks.case_lists import lists_of, read_protocol, validation_cases
from benchmarks.commands import add_places, main_of
from benchmarks.raw_data import HIPPOCAMPUS, place_hippocampus
from dataset_conversion.raw_layout import dataset_folder, image_name, make_folders, with_temporary
from diffatlas_pipeline.files import write_text_atomically

Pair = tuple[np.ndarray, np.ndarray]
Contrast = Callable[[np.ndarray, np.ndarray, np.random.Generator], Pair]
"""From an image (X, Y, Z) in [0, 1] and its labels to those that are shown."""
SLAB = 5  # slices averaged into a thick one
T2_LABEL, T2_CLUSTERS = 0.55, (0.85, 0.5, 0.25)  # new means: of a label; of fluid, grey and white matter
T2_JITTER = 0.03  # standard deviation of a new mean
T2_SMOOTH, PARTIAL_VOLUME = 1.0, 0.5  # sigmas in voxels: of the image that is clustered, of the border between tissues


def as_it_is(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pair:
    return image, labels


def inverted(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pair:
    return 1 - image, labels


def v_shaped(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pair:
    """What was dark and what was bright look alike: no curve of intensities leads back."""
    distance = np.abs(image - np.median(image))
    return distance / distance.max(), labels


def t2_like(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pair:
    """Each label, and the dark, middle and bright part of the rest, get another mean; the detail in them stays."""
    rest = labels == 0
    smooth = ndimage.gaussian_filter(image, T2_SMOOTH)
    centres = np.quantile(smooth[rest], (1 / 6, 1 / 2, 5 / 6))
    for _ in range(20):  # k-means
        cluster = np.abs(smooth[..., None] - centres).argmin(axis=-1)
        parts = [rest & (cluster == index) for index in range(len(centres))]
        centres = np.array([smooth[part].mean() if part.any() else old for part, old in zip(parts, centres, strict=True)])
    parts += [labels == value for value in np.unique(labels[~rest])]
    shift = np.zeros_like(image)
    for index, part in enumerate(parts):
        if part.any():
            mean = T2_CLUSTERS[index] if index < len(T2_CLUSTERS) else T2_LABEL
            shift[part] = mean + rng.normal(0, T2_JITTER) - image[part].mean()
    return image + ndimage.gaussian_filter(shift, PARTIAL_VOLUME), labels


def thick_slices(image: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Pair:
    """Means of slabs along Z. Foreground is where at least half of a slab is, with the label that most of it has."""
    values = np.unique(labels[labels > 0])
    shares = np.stack([_slabs((labels == value).astype(np.float32)) for value in values])
    shown = np.where(shares.sum(axis=0) >= 0.5, values[shares.argmax(axis=0)], 0)
    return _slabs(image), shown.astype(labels.dtype)


def _slabs(image: np.ndarray) -> np.ndarray:
    """Behind the last slice of an incomplete slab, it is repeated."""
    filled = np.pad(image, ((0, 0), (0, 0), (0, -image.shape[2] % SLAB)), mode="edge")
    return filled.reshape(*image.shape[:2], -1, SLAB).mean(axis=-1)


CONTRASTS: dict[str, Contrast] = {
    "Inverted": inverted,
    "VShaped": v_shaped,
    "T2Like": t2_like,
    "ThickSlices": thick_slices,
}
TEST = {41 + index: f"Hippocampus{name}" for index, name in enumerate(CONTRASTS)}
VALIDATION = {
    50: "HippocampusValidation",
    **{51 + index: f"HippocampusValidation{name}" for index, name in enumerate(CONTRASTS)},
}
LEARNT = {61 + index: f"Hippocampus{name}Learnt" for index, name in enumerate(CONTRASTS)}
"""Numbers and names of the data sets."""


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Write the hippocampus cases with simulated contrasts, as raw data sets 41 to 44, or 50 to 54.",
        epilog="example:\n  python -m benchmarks.contrasts --cases validation",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", choices=("test", "validation"), default="test", help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    add_places(parser)
    main_of(parser, run, argv)


def run(cases: str, seed: int, workspace: Path, data: Path | None) -> None:
    """Write all data sets with ``cases``. UserError or CommandFailed if something is wrong."""
    hippocampus = place_hippocampus(data, workspace)
    for number in TEST if cases == "test" else VALIDATION:
        print(f"Written: {write_contrast(number, hippocampus, seed)}")


def write_contrast(number: int, hippocampus: Path, seed: int = 0) -> Path:
    """Write data set ``number`` beside the raw data set ``hippocampus``, all cases as imagesTr with their labels.

    What is there already is left as it is. Returns its folder.
    """
    lists, name = read_protocol(lists_of(HIPPOCAMPUS)), (TEST | VALIDATION | LEARNT)[number]
    part = "Ts" if number in TEST else "Tr"
    cases = lists["test"] if number in TEST else lists["full"] if number in LEARNT else validation_cases(lists)
    folder = dataset_folder(hippocampus.parent, number, name)
    described = json.loads((hippocampus / "dataset.json").read_text(encoding="utf-8"))
    described |= {"name": name, "numTraining": len(cases), "simulated_with_seed": seed}
    file, text = folder / "dataset.json", json.dumps(described, indent=2) + "\n"
    if file.is_file() and file.read_text(encoding="utf-8") == text:
        return folder
    contrast = CONTRASTS.get(name.removeprefix("Hippocampus").removeprefix("Validation").removesuffix("Learnt"), as_it_is)
    make_folders(folder, ("imagesTr", "labelsTr"))
    for case in cases:
        files = {"images": image_name(case, 0, ".nii.gz"), "labels": f"{case}.nii.gz"}
        pair = [nib.load(hippocampus / f"{kind}{part}" / name) for kind, name in files.items()]
        shown = simulated(contrast, pair, np.random.default_rng([seed, zlib.crc32(case.encode())]))
        for (kind, name), image in zip(files.items(), shown, strict=True):
            with_temporary(folder / f"{kind}Tr" / name, image.to_filename)
    write_text_atomically(file, text)
    return folder


def simulated(contrast: Contrast, pair: Sequence[Any], rng: np.random.Generator) -> tuple[nib.Nifti1Image, nib.Nifti1Image]:
    """NIfTI images of a scan in ``contrast``, most of it from 0 to 1000, and of its labels; ``pair``: those it had."""
    image, labels = (np.asanyarray(one.dataobj) for one in pair)
    low, high = np.percentile(image, (0.5, 99.5))
    image, shown = contrast(np.clip((image - low) / (high - low), 0, 1), labels, rng)
    affine = pair[0].affine.copy()
    if shown.shape != labels.shape:  # the middle of the first slab is the origin
        affine[:3, 3] += affine[:3, 2] * (SLAB - 1) / 2
        affine[:3, 2] *= SLAB
    return nib.Nifti1Image(np.rint(image * 1000).astype(np.int16), affine), nib.Nifti1Image(shown, affine)


if __name__ == "__main__":
    main()
