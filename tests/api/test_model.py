"""A model in a notebook: every way to give a scan has the result of the command, bit for bit."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from diffatlas_pipeline.api.model import Model, load_model
from diffatlas_pipeline.commands import predict
from diffatlas_pipeline.errors import ImageError, ModelError, UserError
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import read_labels, write_scalars
from tests.factories import make_case
from tests.model_files import plan

SPACING = (1.0, 1.25, 2.0)


def make_model(folder: Path, channels: int = 1, dimensions: int = 3, atlases: tuple[Atlas, ...] = ()) -> Path:
    """A joint model with random weights."""
    small = plan((16, 16, 16) if dimensions == 3 else (16, 16, 1), channels, dimensions)
    method = create_method("diffatlas", small, recipe_of(small, "diffatlas", "default"))
    torch.manual_seed(0)
    weights = method.build_network().state_dict()  # type: ignore[attr-defined]
    model = ModelFolder.create(folder, small)
    model.write_fold("fold0", weights, {"method": "diffatlas", "recipe": "default"}, atlases)
    return folder


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("models") / "diffatlas__default")


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(model_folder, device="cpu", precision="float32", draws=2)


@pytest.fixture(scope="module")
def scan_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan whose axes run left, superior, posterior."""
    values = make_case((18, 14, 10), SPACING)[0].array[0]
    affine = np.zeros((4, 4))
    affine[0, 0], affine[2, 1], affine[1, 2], affine[3, 3] = -SPACING[0], SPACING[1], -SPACING[2], 1
    affine[:3, 3] = 10, -20, 30
    path = tmp_path_factory.mktemp("scans") / "any_name.nii.gz"
    write_scalars(path, values, Grid.of(values.shape, affine))
    return path


def test_every_way_to_give_a_scan_equals_the_command(model: Model, model_folder: Path, scan_file: Path, tmp_path: Path) -> None:
    words = ["-i", str(scan_file), "-o", str(tmp_path / "out"), "-m", str(model_folder), "--device", "cpu", "--draws", "2"]
    predict.main([*words, "--precision", "float32", "--save-distance-maps", "--save-uncertainty"])
    wanted = read_labels(tmp_path / "out" / scan_file.name).array
    assert len(np.unique(wanted)) == 3
    image = nib.load(scan_file)
    voxels = np.asarray(image.dataobj)
    sitk_image = sitk.ReadImage(str(scan_file))
    copy = shutil.copy(scan_file, tmp_path / "of_another_name.nii.gz")
    given = {
        "path": model.segment(scan_file),
        "text": model.segment(str(copy)),
        "list": model.segment([scan_file]),
        "array": model.segment(voxels, affine=image.affine),
        "nibabel": model.segment(image),
        "SimpleITK": model.segment(sitk_image),
    }
    maps = {label: nib.load(tmp_path / "out" / "distance_maps" / f"any_name_{label}.nii.gz") for label in model.labels}
    uncertainty = nib.load(tmp_path / "out" / "uncertainty" / "any_name.nii.gz")
    for way, found in given.items():
        np.testing.assert_array_equal(found.labels, wanted, err_msg=way)
        for label, file in maps.items():
            np.testing.assert_array_equal(found.distances_mm[label], np.asarray(file.dataobj), err_msg=way)
        np.testing.assert_array_equal(found.error_probability, np.asarray(uncertainty.dataobj), err_msg=way)
    saved = read_labels(given["SimpleITK"].save(tmp_path / "saved.mha"))
    np.testing.assert_array_equal(saved.array, wanted)
    np.testing.assert_allclose(saved.grid.matrix, image.affine, atol=1e-6)
    back = given["array"].to_sitk()
    assert back.GetSize() == sitk_image.GetSize()
    np.testing.assert_allclose(back.GetDirection(), sitk_image.GetDirection(), atol=1e-6)
    np.testing.assert_array_equal(np.asarray(given["path"].to_nibabel().dataobj), wanted)


def test_a_bare_array_needs_its_spacing_alone(model: Model) -> None:
    array = make_case((20, 18, 14), SPACING)[0].array[0]
    found = model.segment(array, spacing_mm=SPACING)
    assert found.labels.shape == array.shape and found.label_names == {2: "small", 7: "large"}
    voxel_ml = np.prod(SPACING) / 1000
    assert found.volumes_ml == pytest.approx(
        {"small": (found.labels == 2).sum() * voxel_ml, "large": (found.labels == 7).sum() * voxel_ml}
    )
    mirrored = model.segment(array, affine=np.diag([-SPACING[0], *SPACING[1:], 1]))
    assert not np.array_equal(mirrored.labels, found.labels)  # another anatomy: left is right
    same = model.segment(array[::-1], affine=np.diag([-SPACING[0], *SPACING[1:], 1]))
    np.testing.assert_array_equal(same.labels[::-1], found.labels)  # the same anatomy, stored from right to left


@pytest.mark.parametrize(
    ("image", "options", "said"),
    [
        (np.zeros((8, 8, 8)), {}, "spacing_mm"),
        (np.zeros((8, 8)), {"spacing_mm": (1, 1, 1)}, r"shape \(X, Y, Z\)"),
        (np.zeros((2, 8, 8, 8)), {"spacing_mm": (1, 1, 1)}, r"shape \(X, Y, Z\)"),
        (np.zeros((8, 8, 8)), {"spacing_mm": (1, 0, 1)}, "above 0"),
        (np.zeros((8, 8, 8)), {"spacing_mm": (1, 1, 1), "modality": "PET"}, "PET"),
        (np.zeros((8, 8, 8)), {"affine": np.zeros((4, 4))}, "invertible"),
        (np.full((8, 8, 8), np.nan), {"spacing_mm": (1, 1, 1)}, "NaN"),
        (np.zeros((8, 8, 8), complex), {"spacing_mm": (1, 1, 1)}, "complex"),
        ("nowhere.nii.gz", {}, "no such file"),
        ("nowhere.nii.gz", {"spacing_mm": (1, 1, 1)}, "go with an array"),
        (17, {}, "int"),
        ([], {}, "empty list"),
        ([np.zeros((8, 8, 8))], {"spacing_mm": (1, 1, 1)}, "list of arrays"),
        (np.zeros((8, 8, 8)), {"spacing_mm": 1.0}, "3 lengths"),
        (np.zeros((8, 8, 8)), {"spacing_mm": "111"}, "3 lengths"),
        (np.zeros((8, 8, 8)), {"affine": "x"}, "invertible"),
        (np.zeros((8, 8, 8)), {"spacing_mm": (1, 1, 1), "modality": 3}, "unknown"),
        (np.zeros((8, 8, 1)), {"spacing_mm": (1, 1, 1)}, "two-dimensional"),
        (np.ma.masked_all((8, 8, 8)), {"spacing_mm": (1, 1, 1)}, "masked"),
    ],
)
def test_what_cannot_be_segmented_is_said(model: Model, image: object, options: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        model.segment(image, **options)


def test_several_channels_and_two_dimensions(tmp_path: Path) -> None:
    two = load_model(make_model(tmp_path / "two", channels=2), "cpu", precision="float32")
    array = np.stack([make_case((16, 16, 16))[0].array[0], make_case((16, 16, 16), seed=1)[0].array[0]])
    images = [sitk.GetImageFromArray(one.T) for one in array]
    from_array = two.segment(array, affine=np.diag([-1.0, -1, 1, 1]))  # as SimpleITK's axes lie
    np.testing.assert_array_equal(two.segment(images).labels, from_array.labels)
    images[1].SetSpacing((1, 1, 2))
    with pytest.raises(ImageError, match="not on one grid"):
        two.segment(images)
    with pytest.raises(UserError, match="plan has 2"):
        two.segment(images[0])
    flat = load_model(make_model(tmp_path / "flat", dimensions=2), "cpu", precision="float32")
    slice_ = array[0, :, :, 8]
    found = flat.segment(slice_, spacing_mm=(1, 1))
    assert found.labels.shape == slice_.shape and found.distances_mm["small"].shape == slice_.shape
    assert found.to_sitk().GetDimension() == 2


def test_a_zip_of_the_folder_is_the_model(model: Model, model_folder: Path, scan_file: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "zip", model_folder.parent, model_folder.name))
    packed = load_model(archive, "cpu", precision="float32", draws=2)
    np.testing.assert_array_equal(packed.segment(scan_file).labels, model.segment(scan_file).labels)
    for name, said in (("../out.json", "leads out"), ("/out.json", "leads out")):
        with zipfile.ZipFile(tmp_path / "bad.zip", "w") as bad:
            bad.writestr(name, "{}")
        with pytest.raises(ModelError, match=said):
            load_model(tmp_path / "bad.zip")
    (tmp_path / "bad.zip").write_bytes(b"no zip")
    with pytest.raises(ModelError, match="cannot be unpacked"):
        load_model(tmp_path / "bad.zip")
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "bad.zip").write_bytes(bytes(content))
    with pytest.raises(ModelError):
        load_model(tmp_path / "bad.zip")


def test_a_zip_is_known_by_its_own_name(model_folder: Path, scan_file: Path, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "model"), "zip", model_folder))
    with zipfile.ZipFile(archive, "a") as packed:
        packed.writestr("./", "")  # as some programs write them
    first = load_model(archive, "cpu", precision="float32").segment_folder(scan_file, tmp_path / "out")
    assert json.loads(first.record.read_text())["model"] == str(archive)
    again = load_model(archive, "cpu", precision="float32").segment_folder(scan_file, tmp_path / "out")
    assert again.of("kept") and not again.kept_differ


def test_folds_are_named_or_numbered(model_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(model_folder, tmp_path / "model")
    shutil.copytree(folder / "fold0", folder / "fold1")
    assert load_model(folder, "cpu").folds == ("fold0", "fold1")
    for given in (0, "0", "fold0", [0], ["fold0"]):
        assert load_model(folder, "cpu", folds=given).folds == ("fold0",)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="not a folder"):
        load_model(folder, registrations=tmp_path / "file")


def test_a_scan_out_of_domain_is_adapted_in_a_notebook_too(tmp_path: Path, scan_file: Path) -> None:
    image, labels = make_case((20, 18, 14))
    normal = (image.array - image.array.min()) / np.ptp(image.array) * 2 - 1
    distances = np.stack([np.where(labels.array == value, -0.5, 0.5) for value in (1, 2)])
    kept = Atlas("kept", normal.astype(np.float16), distances.astype(np.float16))
    folder = make_model(tmp_path / "model", atlases=(kept,))
    model = load_model(folder, "cpu", precision="float32")
    found = model.segment(scan_file, modality="CT")
    predict.main(
        ["-i", str(scan_file), "-o", str(tmp_path / "out.mha"), "-m", str(folder), "--modality", "CT", "--precision", "float32"]
    )
    np.testing.assert_array_equal(read_labels(tmp_path / "out.mha").array, found.labels)
    assert (tmp_path / "out_prediction.json").is_file()


def test_fifty_calls_take_no_more_memory_than_five(model_folder: Path) -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("no /proc")
    model = load_model(model_folder, "cpu", precision="float32", steps=1)
    array = make_case((16, 16, 16))[0].array[0]

    def resident_after(calls: int) -> int:
        for _ in range(calls):
            model.segment(array, spacing_mm=(1, 1, 1))
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    assert -resident_after(5) + resident_after(45) < 10e6
