from __future__ import annotations

import base64
import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.report import viewer
from diffatlas_pipeline.report.sources import CaseSource
from diffatlas_pipeline.report.viewer import embed_case, niivue_bundle
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels, write_scalars
from diffatlas_pipeline.volumes.nifti import nifti_bytes

LABELS = (LabelClass("one", 3), LabelClass("two", 700))


def unpack(part: str) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(part)))


def make_source(folder: Path, affine: np.ndarray, shape: tuple[int, int, int] = (60, 50, 40)) -> CaseSource:
    """A scan whose intensity tells its place, with a reference and one segmentation with uncertainty."""
    grid = Grid.of(shape, affine)
    labels = np.zeros(shape, dtype=np.int16)
    labels[20:30, 22:30, 15:22] = 3
    labels[30:34, 22:30, 15:22] = 700
    image = np.indices(shape).sum(axis=0).astype(np.float32)
    write_scalars(folder / "image.nii.gz", image, grid)
    write_labels(folder / "reference.nii.gz", labels, grid)
    write_labels(folder / "segmentation.nii.gz", np.roll(labels, 2, axis=0), grid)
    write_scalars(folder / "uncertainty.nii.gz", (labels > 0) * 0.4, grid)
    paths = {name: folder / f"{name}.nii.gz" for name in ("image", "reference", "segmentation", "uncertainty")}
    return CaseSource(
        "case", "case", paths["image"], paths["reference"],
        (("a", paths["segmentation"]),), (("a", paths["uncertainty"]),),
    )  # fmt: skip


def embed_box(embedded: viewer.EmbeddedCase, path: Path) -> np.ndarray:
    """What the file holds where the page shows ``embedded``; both lie on grids of 1 mm."""
    shown, original = unpack(embedded.image), nibabel.load(path)
    start = np.rint(np.linalg.solve(original.affine, shown.affine)[:3, 3]).astype(int)
    return original.get_fdata()[tuple(slice(a, a + n) for a, n in zip(start, shown.shape, strict=True))]


def test_header_of_embedded_files() -> None:
    array = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    affine = np.array([[0, 2.0, 0, 5], [-1.5, 0, 0, 6], [0, 0, 3.0, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image.from_bytes(nifti_bytes(array, affine, 0.5, -3.0))
    np.testing.assert_allclose(image.affine, affine)
    np.testing.assert_allclose(image.get_fdata(), array * 0.5 - 3.0)
    np.testing.assert_allclose(image.header.get_zooms(), (1.5, 2.0, 3.0))


@pytest.mark.parametrize("flip", [1.0, -1.0])
def test_a_case_is_cropped_and_stays_where_it_was(tmp_path: Path, flip: float) -> None:
    affine = np.diag([flip, 1.2, 2.0, 1.0])
    affine[:3, 3] = (9.0, -4.0, 30.0)
    embedded = embed_case(make_source(tmp_path, affine), LABELS)
    assert embedded.problems == ()
    assert not embedded.reduced
    parts = {"image": embedded.image, "reference": embedded.reference}
    parts["segmentation"], parts["uncertainty"] = embedded.layers["a"]
    shown = {name: unpack(part) for name, part in parts.items()}
    assert len({image.shape for image in shown.values()}) == 1
    assert shown["image"].shape == (36, 26, 17)  # 16 x 8 x 7 voxels and at least 10 mm on each side
    for name, image in shown.items():
        original = nibabel.load(tmp_path / f"{name}.nii.gz")
        array = image.get_fdata()
        for place in [(0, 0, 0), (12, 13, 8), (20, 10, 9), tuple(n - 1 for n in image.shape)]:
            world = image.affine @ [*place, 1]
            voxel = np.linalg.solve(original.affine, world)[:3]
            np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-3)
            value = original.get_fdata()[tuple(np.rint(voxel).astype(int))]
            expected = {3: 1, 700: 2}.get(value, value) if name in ("reference", "segmentation") else value
            tolerance = 1.0 if name == "image" else 0.01
            low, high = float(array.min()), float(array.max())
            assert abs(np.clip(expected, low, high) - array[place]) <= tolerance, (name, place)


@pytest.mark.parametrize("most_voxels", [10**6, 4000])
def test_the_viewer_begins_inside_a_structure(tmp_path: Path, most_voxels: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hollow structure, whose middle is not in it, beside a small one; the segmentation misses a part of it."""
    monkeypatch.setattr(viewer, "MOST_VOXELS", most_voxels)
    source = make_source(tmp_path, np.diag([-1.0, 1.0, 2.0, 1.0]))
    labels = np.zeros((60, 50, 40), dtype=np.int16)
    labels[5:35, 10:40, 10:30] = 3
    labels[10:30, 15:35, 10:30] = 0
    labels[50:55, 20:25, 10:14] = 700
    grid = Grid.of(labels.shape, np.diag([-1.0, 1.0, 2.0, 1.0]))
    write_labels(tmp_path / "reference.nii.gz", labels, grid)
    labels[:20] = 0
    write_labels(tmp_path / "segmentation.nii.gz", labels, grid)
    embedded = embed_case(source, LABELS)
    for part in (embedded.reference, embedded.layers["a"][0]):
        shown = unpack(part).get_fdata()
        assert shown[tuple(int(share * n) for share, n in zip(embedded.start, shown.shape, strict=True))] == 1
    write_labels(tmp_path / "segmentation.nii.gz", np.zeros_like(labels), grid)
    write_labels(tmp_path / "reference.nii.gz", np.zeros_like(labels), grid)
    assert embed_case(source, LABELS).start == (0.5, 0.5, 0.5)


def test_what_nobody_annotated_is_told_from_background_and_enlarges_nothing(tmp_path: Path) -> None:
    source = make_source(tmp_path, np.eye(4))
    whole = embed_case(source, LABELS)
    labels = nibabel.load(tmp_path / "reference.nii.gz").get_fdata().astype(np.int16)
    labels[:20], labels[25] = 9, 9
    write_labels(tmp_path / "reference.nii.gz", labels, Grid.of(labels.shape, np.eye(4)))
    embedded = embed_case(source, LABELS, ignore=9)
    before, after = unpack(whole.reference), unpack(embedded.reference)
    np.testing.assert_array_equal(before.affine, after.affine)
    known = after.get_fdata() != viewer.NOT_KNOWN
    assert 0 < np.count_nonzero(~known) < known.size
    np.testing.assert_array_equal(before.get_fdata()[known], after.get_fdata()[known])
    assert unpack(embedded.layers["a"][0]).get_fdata().max() == 2


def test_uncertainty_takes_less_of_the_page_than_the_scan(tmp_path: Path) -> None:
    """It comes once per model. It is as smooth as the distances that it is made of, but for noise in the last
    digits.
    """
    source = make_source(tmp_path, np.eye(4))
    rng = np.random.default_rng(0)
    shape = (60, 50, 40)
    grid = Grid.of(shape, np.eye(4))
    place = sum((np.indices(shape)[axis] - n / 2) ** 2 for axis, n in enumerate(shape))
    errors = 0.5 * np.exp(-place / 300) + rng.normal(0, 0.002, shape)
    write_scalars(tmp_path / "uncertainty.nii.gz", errors.clip(0, 0.5), grid)
    write_scalars(tmp_path / "image.nii.gz", 100 * np.exp(-place / 300) + rng.normal(0, 8, shape), grid)
    embedded = embed_case(source, LABELS)
    shown = embedded.layers["a"][1]
    assert len(shown) < 0.4 * len(embedded.image)
    box = embed_box(embedded, tmp_path / "uncertainty.nii.gz")
    np.testing.assert_allclose(unpack(shown).get_fdata(), box, atol=0.51 * viewer.MOST_PROBABLE / viewer.UNCERTAINTY_STEPS)


def test_large_cases_are_shown_with_larger_voxels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = make_source(tmp_path, np.eye(4))
    full = unpack(embed_case(source, LABELS).reference)
    monkeypatch.setattr(viewer, "MOST_VOXELS", 4000)
    embedded = embed_case(source, LABELS)
    small = unpack(embedded.reference)
    assert embedded.reduced
    assert np.prod(small.shape) < 5000

    def centre_mm(image: nibabel.Nifti1Image) -> np.ndarray:
        places = np.argwhere(image.get_fdata() > 0).mean(axis=0)
        return (image.affine @ [*places, 1])[:3]

    np.testing.assert_allclose(centre_mm(small), centre_mm(full), atol=0.5)
    for image in (small, full):  # the same field of view
        corner = image.affine @ [-0.5, -0.5, -0.5, 1]
        np.testing.assert_allclose(corner, full.affine @ [-0.5, -0.5, -0.5, 1], atol=1e-4)


def test_what_cannot_be_shown_is_left_out_and_named(tmp_path: Path) -> None:
    source = make_source(tmp_path, np.eye(4))
    (tmp_path / "reference.nii.gz").write_bytes(b"nothing")
    write_scalars(tmp_path / "image.nii.gz", np.zeros((5, 5, 5)), Grid.of((5, 5, 5), np.eye(4)))
    embedded = embed_case(source, LABELS)
    assert embedded.reference == ""
    assert "a" in embedded.layers
    assert len(embedded.problems) == 2
    assert any("reference.nii.gz" in problem for problem in embedded.problems)
    assert any("another shape" in problem for problem in embedded.problems)
    assert unpack(embedded.image).get_fdata().max() == 0  # black instead of the scan
    (tmp_path / "segmentation.nii.gz").unlink()
    assert embed_case(source, LABELS).image == ""


def test_no_name_of_a_file_goes_into_the_volumes(tmp_path: Path) -> None:
    embedded = embed_case(make_source(tmp_path, np.eye(4)), LABELS)
    header = gzip.decompress(base64.b64decode(embedded.image))[:352]
    assert b"case" not in header
    assert header[148:228].strip(b"\0") == b""  # descrip


def test_the_bundle_hands_over_the_viewer() -> None:
    bundle = niivue_bundle()
    assert bundle is not None
    code = gzip.decompress(base64.b64decode(bundle)).decode()
    assert "globalThis.Niivue = " in code.splitlines()[-1]
    assert "sourceMappingURL" not in code


def test_without_the_package_there_is_no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer, "PACKAGE", "no_such_package_at_all")
    assert niivue_bundle() is None
