"""What a few drawn slices are worth: Dice of the voxels not drawn, completed by a model and interpolated alone.

A model, of recipe given-labels or another, learns a few cases. Of each test case so many slices are given, evenly
spread over the structures; the model completes them. Beside it stand the same model without the drawing, on the same
voxels, and interpolation of the drawn slices without the scan.
"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import distance_transform_edt

from benchmarks.commands import add_places, do, main_of
from benchmarks.generated import check_time
from benchmarks.pictures import View, views_png
from benchmarks.protocols import PROTOCOLS, fold_of, prepare
from benchmarks.raw_data import HEARTS
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.drawing import UNKNOWN
from diffatlas_pipeline.preprocessing.normalisation import normalise
from diffatlas_pipeline.volumes.grids import LabelVolume
from diffatlas_pipeline.volumes.io import read_labels, read_volume, write_labels
from diffatlas_pipeline.volumes.orientation import to_canonical

COUNTS = (0, 1, 2, 3, 5, 9)
SHOWN = 3  # slices of the picture
RECIPES, ENDING = ("given-labels", "default"), ".nii.gz"
CASES = ("test", "validation")


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Dice of the voxels not drawn against the number of drawn slices of test cases.",
        epilog="example:\n  python -m benchmarks.given_slices hippocampus --setting 4-shot --max-time 10m",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS, nargs="?", default="hippocampus", help="(default: %(default)s)")
    made.add_argument("--setting", metavar="S", help="split that is learnt (default: 4-shot; hearts: fold0)")
    made.add_argument("--method", default="diffatlas", help="diffatlas, icf or icmd (default: %(default)s)")
    made.add_argument("--recipe", choices=RECIPES, default=RECIPES[0], help="(default: %(default)s)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="time of the training (default: %(default)s)")
    made.add_argument("--axis", type=int, choices=(0, 1, 2), default=1, help="that slices lie across (default: %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the training (default: %(default)s)")
    made.add_argument(
        "--on",
        choices=CASES,
        default="test",
        help="cases that are segmented; choose on validation ones, whose "
        "scores are printed and not kept (default: %(default)s)",
    )
    made.add_argument("--picture", type=Path, metavar="FILE", help=f"draw the first test case with {SHOWN} slices")
    add_places(made)
    made.add_argument(
        "--results", type=Path, default=RESULTS / "given_slices.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(
    protocol: str,
    setting: str | None,
    method: str,
    recipe: str,
    max_time: str,
    axis: int,
    seed: int,
    on: str,
    picture: Path | None,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Train, complete, interpolate, keep the row of test cases. UserError or CommandFailed if something is wrong."""
    prepared = prepare(protocol, data, workspace, [seed])
    split = setting or ("fold0" if protocol in HEARTS else "4-shot")
    place = Workspace.resolve(workspace)
    source = place.preprocessed_dataset(str(prepared.number)).name
    model, fold = ModelFolder.location(place, source, method, recipe), fold_of(split, seed)
    words = [str(prepared.number), split, "--method", method, "--recipe", recipe, "--max-time", max_time, "--seed", str(seed)]
    do("train", [*words, *prepared.options, "--no-validation", "--workspace", str(workspace)])
    check_time(ModelFolder(model), fold, max_time)

    raw = place.raw_dataset(str(prepared.number))
    out = workspace / "benchmarks" / f"given_slices_{protocol}_{method}_{recipe}_{fold}"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    scans, references = raw / "imagesTs", raw / "labelsTs"
    wanted = {path.name.removesuffix(ENDING) for path in references.glob(f"*{ENDING}")}
    if on == "validation":
        scans, references = out / "scans.txt", raw / "labelsTr"
        wanted = set(ModelFolder(model).metadata(fold)["validation_cases"])
        files = [path for path in sorted((raw / "imagesTr").iterdir()) if path.name.split("_0000")[0] in wanted]
        scans.write_text("\n".join(map(str, files)), encoding="utf-8")
    truths = {f"{name}{ENDING}": read_labels(references / f"{name}{ENDING}") for name in sorted(wanted)}
    about: dict[str, Any] = {"protocol": protocol, "setting": split, "method": method, "recipe": recipe, "max_time": max_time}
    about |= {"axis": axis, "seed": seed, "test_cases": len(truths)}
    about["training_cases"] = len(ModelFolder(model).metadata(fold)["training_cases"])
    scores = scored(scans, truths, model, fold, axis, out)
    if on == "validation":
        return
    append_row(results, machine() | about | scores)
    print(f"Added to {results}")
    if picture is not None:
        draw(min(truths), raw, out, ModelFolder(model).plan(), axis, picture)
        print(f"Written: {picture}")


def scored(scans: Path, truths: Mapping[str, LabelVolume], model: Path, fold: str, axis: int, out: Path) -> dict[str, float]:
    """Dice of the voxels not drawn by the number of slices and the way of segmentation, and the seconds per case.

    ``scans`` is what DiffAtlas_predict takes as input, ``truths`` are the labels by the names of their files.
    """
    values = [label.value for label in ModelFolder(model).plan().dataset.labels]
    row: dict[str, float] = {}
    for count in COUNTS:
        drawings = {name: drawn(truth.array, axis, count) for name, truth in truths.items()}
        given = out / f"given_{count}"
        for name, drawing in drawings.items() if count else ():
            write_labels(given / name, drawing, truths[name].grid)
        words = ["-i", str(scans), "-o", str(out / f"completed_{count}"), "-m", str(model), "-f", fold, "--overwrite"]
        seconds = do("predict", [*words, *(["--given-labels", str(given)] if count else [])])
        row[f"seconds_per_case_{count}"] = round(seconds / len(truths), 2)
        ways: dict[str, Callable[[str], np.ndarray]] = {
            "completed": lambda name, n=count: read_labels(out / f"completed_{n}" / name).array,  # type: ignore[misc]
            "alone": lambda name: read_labels(out / "completed_0" / name).array,
            "interpolated": lambda name, all_drawn=drawings: interpolated(  # type: ignore[misc]
                all_drawn[name], truths[name], axis, values
            ),
        }
        for way, segmentation in ways.items():
            if count or way != "interpolated":
                scores = [undrawn_dice(segmentation(name), truths[name].array, drawings[name], values) for name in truths]
                row[f"dice_{way}_{count}"] = round(float(np.nanmean(np.nanmean(scores, axis=0))), 4)
        print(", ".join(f"{way} {row.get(f'dice_{way}_{count}', '')}" for way in ways), flush=True)
    return row


def draw(name: str, raw: Path, out: Path, plan: Plan, axis: int, path: Path) -> None:
    """What was drawn of test case ``name``, what the model made of it, and the true labels, on a plane across."""
    truth = read_labels(raw / "labelsTs" / name)
    scan = normalise(read_volume([raw / "imagesTs" / name.replace(".nii.gz", "_0000.nii.gz")]).array, plan.channels)[0]
    given = read_labels(out / f"given_{SHOWN}" / name).array
    views = [
        View("drawn", scan, np.where(given == UNKNOWN, 0, given)),
        View("completed", scan, read_labels(out / f"completed_{SHOWN}" / name).array),
        View("true", scan, truth.array),
    ]
    normal = next(one for one in range(3) if one != axis)
    middle = round(float(np.nonzero(to_canonical(truth.array[None], truth.grid)[0][0])[normal].mean()))
    views_png(views, truth.grid, normal, middle, plan.dataset.labels, path)


def extent(array: np.ndarray, axis: int) -> tuple[int, int]:
    """The first slice across ``axis`` that holds a label, and the one behind the last; (0, 0) if there is none."""
    where = np.flatnonzero((array > 0).any(axis=tuple(other for other in range(3) if other != axis)))
    return (int(where[0]), int(where[-1]) + 1) if len(where) else (0, 0)


def drawn(truth: np.ndarray, axis: int, count: int) -> np.ndarray:
    """``truth`` (X, Y, Z) in the middle slice of each of ``count`` equal parts of the structures' extent, else
    UNKNOWN.
    """
    first, end = extent(truth, axis)
    array = np.full(truth.shape, UNKNOWN, dtype=np.int32)
    for part in range(count if end else 0):
        index = int(first + (part + 0.5) * (end - first) / count)
        place = tuple(slice(index, index + 1) if one == axis else slice(None) for one in range(3))
        array[place] = truth[place]
    return array


def undrawn_dice(found: np.ndarray, truth: np.ndarray, drawing: np.ndarray, values: Sequence[int]) -> list[float]:
    """Dice of each label in the voxels that were not drawn; NaN where neither has it."""
    unknown = drawing == UNKNOWN
    return [dice((found == value) & unknown, (truth == value) & unknown) for value in values]


def interpolated(drawing: np.ndarray, truth: LabelVolume, axis: int, values: Sequence[int]) -> np.ndarray:
    """The drawn slices, and between them the linear mean of their signed distances in the plane (shape-based
    interpolation: Raya and Udupa 1990, IEEE Transactions on Medical Imaging 9). A label that one of two slices lacks
    vanishes half way.

    Beyond the outermost slices these go on until the true end of the structures, which favours interpolation: it does
    not find that end itself.
    """
    slices = np.moveaxis(drawing, axis, 0)
    result = np.zeros(slices.shape, dtype=np.int32)
    known = np.flatnonzero((slices != UNKNOWN).all(axis=(1, 2)))
    if not len(known):
        return np.moveaxis(result, 0, axis)
    plane_mm = [size for one, size in enumerate(truth.grid.spacing_mm) if one != axis]
    maps = {index: _distances_mm(slices[index], values, plane_mm) for index in known}
    lookup = np.asarray(values)
    for index in range(*extent(truth.array, axis)):
        low, high = known[known <= index].max(initial=known[0]), known[known >= index].min(initial=known[-1])
        share = (index - low) / (high - low) if high > low else 0.0
        below, above = _paired(maps[low], maps[high])
        mean = (1 - share) * below + share * above
        result[index] = np.where(mean.min(axis=0) < 0, lookup[mean.argmin(axis=0)], 0)
    return np.moveaxis(result, 0, axis)


def _distances_mm(plane: np.ndarray, values: Sequence[int], spacing_mm: Sequence[float]) -> np.ndarray:
    """Signed distance in mm of each label in ``plane`` (A, B), negative inside: (K, A, B); NaN where it is absent."""
    maps = np.full((len(values), *plane.shape), np.nan)
    for one, value in zip(maps, values, strict=True):
        inside = plane == value
        if inside.any():  # half a voxel: the border lies between voxels, not in them
            half = min(spacing_mm) / 2
            outward = distance_transform_edt(~inside, spacing_mm) - half
            inward = distance_transform_edt(np.pad(inside, 1), spacing_mm)[1:-1, 1:-1] - half
            one[...] = np.where(inside, -inward, outward)
    return maps


def _paired(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both (K, A, B), with a label that one lacks as far outside as the other is deep; far outside if both lack it."""
    fills = [[1.0 if np.isnan(one).any() else -one.min() for one in other] for other in (b, a)]
    first, second = (
        np.stack([np.nan_to_num(one, nan=fill) for one, fill in zip(maps, wanted, strict=True)])
        for maps, wanted in zip((a, b), fills, strict=True)
    )
    return first, second


if __name__ == "__main__":
    main()
