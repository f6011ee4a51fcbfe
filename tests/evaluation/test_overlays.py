from __future__ import annotations

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes, find_objects, label

from diffatlas_pipeline.datasets.colours import ERRORS
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.evaluation import overlays
from diffatlas_pipeline.evaluation.evaluate import evaluate_folders
from diffatlas_pipeline.evaluation.marks import bar_length_mm
from diffatlas_pipeline.evaluation.overlays import find_images, overlay_png, write_overlays
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels, write_scalars

LABELS = (LabelClass("left", 1), LabelClass("right", 2))


def scene(shape: tuple[int, int, int] = (40, 30, 20)) -> tuple[np.ndarray, np.ndarray]:
    labels = np.zeros(shape, dtype=np.uint8)
    labels[8:16, 10:20, :] = 1
    labels[22:30, 10:20, :] = 2
    return np.random.default_rng(0).random(shape).astype(np.float32), labels


def panels(path: Path) -> list[tuple[int, int]]:
    """Widths and heights in pixels of the planes: connected regions that are not black, from left to right."""
    bright = matplotlib.image.imread(path)[..., :3].max(axis=2) > 0
    regions = find_objects(label(binary_fill_holes(bright))[0])
    large = [region for region in regions if region[0].stop - region[0].start > 60 and region[1].stop - region[1].start > 60]
    return [(across.stop - across.start, down.stop - down.start) for down, across in sorted(large, key=lambda r: r[1].start)]


def test_three_planes_have_the_aspect_ratio_of_the_spacing(tmp_path: Path) -> None:
    labels = np.zeros((60, 60, 60), dtype=np.uint8)
    labels[10:50, 20:40, 20:40] = 1  # shown with a margin of 0.35 of it: 60 (all) x 34 x 34 voxels
    image = 0.5 + 0.5 * np.random.default_rng(0).random(labels.shape).astype(np.float32)
    overlay_png(image, labels, labels, Grid.of(labels.shape, np.diag([1.0, 2.0, 0.5, 1.0])), LABELS, tmp_path / "p.png", "")
    ratios = [width / height for width, height in panels(tmp_path / "p.png")]
    assert ratios == pytest.approx([60 / 68, 60 / 17, 68 / 17, 60 / 68], rel=0.03)  # the last one shows errors


def test_patient_right_is_on_the_left_and_contours_have_the_colours_of_labels(tmp_path: Path) -> None:
    labels = np.zeros((60, 40, 30), dtype=np.uint8)
    labels[5:20, 10:30, 10:20] = 1  # RAS+: small x is the patient's left
    labels[40:55, 10:30, 10:20] = 2
    overlay_png(None, labels, labels, Grid.of(labels.shape, np.eye(4)), LABELS, tmp_path / "p.png", "")
    pixels = matplotlib.image.imread(tmp_path / "p.png")[:-80, :, :3]  # without the legend
    red = (pixels[..., 0] > 0.6) & (pixels[..., 1] < 0.3)
    blue = (pixels[..., 2] > 0.6) & (pixels[..., 0] < 0.3)
    assert np.nonzero(blue)[1].min() < np.nonzero(red)[1].min()


def test_orientation_does_not_change_the_picture(tmp_path: Path) -> None:
    image, labels = scene()
    flipped = np.diag([-1.0, 1.0, 1.0, 1.0])
    flipped[0, 3] = labels.shape[0] - 1
    overlay_png(image, labels, labels, Grid.of(labels.shape, np.eye(4)), LABELS, tmp_path / "a.png", "t")
    overlay_png(image[::-1], labels[::-1], labels[::-1], Grid.of(labels.shape, flipped), LABELS, tmp_path / "b.png", "t")
    assert np.array_equal(matplotlib.image.imread(tmp_path / "a.png"), matplotlib.image.imread(tmp_path / "b.png"))


@pytest.mark.parametrize("shape", [(40, 30, 1), (40, 30, 20)])
def test_empty_masks_and_flat_images_can_be_drawn(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    image, labels = scene(shape)
    grid = Grid.of(shape, np.eye(4), 2 if shape[2] == 1 else 3)
    empty = np.zeros_like(labels)
    for index, (prediction, reference) in enumerate([(empty, labels), (labels, empty), (empty, empty)]):
        overlay_png(image, prediction, reference, grid, LABELS, tmp_path / f"{index}.png", "t")
        assert len(panels(tmp_path / f"{index}.png")) == (2 if shape[2] == 1 else 4)
    overlay_png(image, labels, None, grid, LABELS, tmp_path / "alone.png", "t")
    assert len(panels(tmp_path / "alone.png")) == (1 if shape[2] == 1 else 3)  # nothing to be wrong about


@pytest.mark.parametrize("kind", [name for name, _ in ERRORS])
def test_the_last_panel_colours_what_is_wrong(kind: str, tmp_path: Path) -> None:
    reference = np.zeros((40, 30, 20), dtype=np.uint8)
    reference[10:30, 10:20, 5:15] = 1
    prediction = reference.copy()
    prediction[10:20, 10:20, 5:15] = {"missed": 0, "too much": 1, "another label": 2}[kind]
    if kind == "too much":
        prediction[5:10, 10:20, 5:15] = 2
    prediction[35, 25, 10] = 7  # not a label
    overlay_png(None, prediction, reference, Grid.of(reference.shape, np.eye(4)), LABELS, tmp_path / "p.png", "")
    pixels = (255 * matplotlib.image.imread(tmp_path / "p.png")[:-140, :, :3]).round().astype(int)  # without the legend
    seen = {name: (np.abs(pixels - colour).max(axis=2) <= 2) for name, colour in ERRORS}
    assert {name for name, where in seen.items() if where.sum() > 500} == {kind}
    assert np.nonzero(seen[kind])[1].min() > 0.7 * pixels.shape[1]


def test_regions_are_compared_as_they_overlap_and_what_is_not_known_is_not_wrong() -> None:
    whole, core, unknown = LabelClass("whole", 1, (1, 2)), LabelClass("core", 2, (2,)), 9
    found, wanted = np.array([[1, 2, 1, 0, 2, 1]]), np.array([[1, 1, 2, 2, 0, unknown]])
    painted = overlays._errors(found, wanted, (whole, core))[0]
    colour = dict(ERRORS)
    told = [next((name for name in colour if tuple(pixel[:3]) == colour[name] and pixel[3]), "") for pixel in painted]
    assert told == ["", "another label", "another label", "missed", "too much", ""]


@pytest.mark.parametrize(("width_mm", "length_mm"), [(170, 50), (160, 20), (35, 10), (4, 1), (0.1, 0.1)])
def test_the_bar_of_the_scale_has_a_round_length(width_mm: float, length_mm: float, tmp_path: Path) -> None:
    assert bar_length_mm(width_mm) == length_mm


def test_the_bar_is_as_long_as_it_says(tmp_path: Path) -> None:
    labels = np.zeros((60, 60, 60), dtype=np.uint8)
    labels[10:50, 10:50, 10:50] = 1  # all is shown: 120 mm
    overlay_png(None, labels, None, Grid.of(labels.shape, np.diag([2.0, 2.0, 2.0, 1.0])), LABELS, tmp_path / "p.png", "")
    pixels = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
    yellow = np.abs(pixels - np.array([0xFF, 0xD7, 0x5E]) / 255).max(axis=2) < 0.02
    row = yellow[: -int(0.1 * len(pixels))][yellow[: -int(0.1 * len(pixels))].sum(axis=1).argmax()]
    bars = [part[0] for part in find_objects(label(row)[0]) if part[0].stop - part[0].start > 50]
    assert len(bars) == 3
    starts = [bar.start for bar in bars]
    plane = (starts[2] - starts[0]) / 2 / 1.03  # from bar to bar is a plane and the space between
    assert (bars[0].stop - bars[0].start) / plane == pytest.approx(20 / 120, rel=0.05)


def test_worst_median_and_best_with_and_without_images(tmp_path: Path) -> None:
    image, labels = scene()
    grid = Grid.of(labels.shape, np.eye(4))
    for case, shift in (("a", 0), ("b", 1), ("c", 2), ("d", 3)):
        write_labels(tmp_path / "labelsTr" / f"{case}.nii.gz", labels, grid)
        write_labels(tmp_path / "predictions" / f"{case}.nii.gz", np.roll(labels, shift, axis=0), grid)
        if case != "d":
            write_scalars(tmp_path / "imagesTr" / f"{case}_0000.nii.gz", image, grid)
            write_scalars(tmp_path / "imagesTr" / f"{case}_0001.nii.gz", image, grid)
    evaluation = evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr")
    images = find_images(tmp_path / "labelsTr")
    assert images == tmp_path / "imagesTr"
    pictures, remarks = write_overlays(evaluation, tmp_path / "out", images)
    assert [path.name for path in pictures] == ["worst_d.png", "median_c.png", "best_a.png"]
    assert remarks == ["d: no image found to show"]
    assert all(path.stat().st_size > 5000 for path in pictures)
    assert find_images(tmp_path / "predictions") is None
    (tmp_path / "out" / "worst_mine.png").touch()
    write_labels(tmp_path / "predictions" / "a.nii.gz", np.roll(labels, 4, axis=0), grid)
    again, _ = write_overlays(evaluate_folders(tmp_path / "predictions", tmp_path / "labelsTr"), tmp_path / "out", None)
    assert {path.name for path in again} == {"worst_a.png", "median_d.png", "best_b.png"}
    left = {path.name for path in (tmp_path / "out").iterdir()}
    assert left == {path.name for path in again} | {"worst_mine.png"}  # none of the earlier ones, but what is not ours
