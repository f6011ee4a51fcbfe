"""Files from a stranger: nothing in them is run, nothing is written elsewhere, nothing absurd is allocated."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import blosc2
import numpy as np
import pytest

from diffatlas_pipeline.errors import DatasetError, UserError
from diffatlas_pipeline.files import read_json
from diffatlas_pipeline.methods.registry import check_plan
from diffatlas_pipeline.models import archive
from diffatlas_pipeline.models.archive import UnpackedModel
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.store import StoredCase, open_case
from diffatlas_pipeline.training.checkpoints import load_checkpoint
from diffatlas_pipeline.volumes.io import read_volume
from tests.factories import make_plan, store_cases
from tests.model_files import add_fold, plan


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., None], tuple[Path]]:
        return Path.touch, (self.mark,)


def model(folder: Path) -> Path:
    ModelFolder.create(folder / "diffatlas__default", plan())
    add_fold(folder / "diffatlas__default", "fold0")
    return folder / "diffatlas__default"


@pytest.mark.parametrize(
    "name",
    ["checkpoint_final.safetensors", "checkpoint_final.json", "atlases.safetensors", "references.safetensors"],
)
def test_a_pickle_in_a_model_is_not_run(tmp_path: Path, name: str) -> None:
    folder = model(tmp_path)
    (folder / "fold0" / name).write_bytes(pickle.dumps(Trap(tmp_path / "run")))
    with pytest.raises(UserError, match="damaged"):
        ModelFolder(folder).load("fold0")
    assert not (tmp_path / "run").exists()


def test_a_pickle_in_a_checkpoint_or_an_archive_is_not_run(tmp_path: Path) -> None:
    trap = pickle.dumps(Trap(tmp_path / "run"))
    (tmp_path / "checkpoint_latest.safetensors").write_bytes(trap)
    with pytest.raises(ValueError, match="damaged"):
        load_checkpoint(tmp_path)
    folder = model(tmp_path / "packed")
    (folder / "fold0" / "checkpoint_final.safetensors").write_bytes(trap)
    shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "packed")
    unpacked = UnpackedModel(tmp_path / "model.zip")
    with pytest.raises(UserError, match="damaged"):
        unpacked.folder.load("fold0")
    assert not (tmp_path / "run").exists()


def test_a_name_in_an_archive_that_is_no_text_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "packed")
    (folder / "größe.txt").write_text("large", encoding="utf-8")
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "packed"))
    path.write_bytes(path.read_bytes().replace("ö".encode(), b"\xff\xff", 1))  # where the file lies, not in the list at the end
    with pytest.raises(UserError, match="cannot be unpacked"):
        UnpackedModel(path)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".nrrd", ".mha", ".mhd"])
def test_a_pickle_called_an_image_is_not_run(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "run")))
    with pytest.raises(UserError, match=rf"a\{ending}"):
        read_volume([path])
    assert not (tmp_path / "run").exists()


def exchanged(folder: Path, array: Callable[[str], object], kind: str = "image") -> None:
    """Put another array in the place of a stored case's image, and its checksum into the case's JSON."""
    (name,) = store_cases(folder, make_plan(), [(9, 8, 7)])
    path, described = folder / "cases" / f"{name}.{kind}.b2nd", folder / "cases" / f"{name}.json"
    path.unlink()
    array(str(path))
    facts = json.loads(described.read_text(encoding="utf-8"))
    facts[kind]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    described.write_text(json.dumps(facts), encoding="utf-8")


def test_an_expression_in_a_stored_case_is_not_evaluated(tmp_path: Path) -> None:
    operand = blosc2.asarray(np.zeros((1, 9, 8, 7), np.float16), urlpath=str(tmp_path / "operand.b2nd"))
    exchanged(tmp_path, lambda path: (operand + 1).save(path))
    with pytest.raises(DatasetError, match=r"image\.b2nd: holds more than an array of numbers.*Do not use it"):
        open_case(tmp_path, "case_000").read_image()


def test_a_stored_case_of_absurd_size_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Zeros of any number take a few bytes."""
    exchanged(tmp_path, lambda path: blosc2.zeros((1, 10**5, 10**5, 10**4), np.float16, urlpath=path, mode="w"))
    with pytest.raises(DatasetError, match="shape"):
        open_case(tmp_path, "case_000").read_image()
    described = tmp_path / "cases" / "case_000.json"
    facts = json.loads(described.read_text(encoding="utf-8"))
    facts["image"]["shape"] = [1, 10**5, 10**5, 10**4]
    described.write_text(json.dumps(facts), encoding="utf-8")
    for read in (StoredCase.read_image, StoredCase.read_stored_image):
        with pytest.raises(UserError, match="GB"):
            read(open_case(tmp_path, "case_000"))


def test_stored_distances_of_absurd_size_or_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    exchanged(tmp_path, lambda path: blosc2.zeros((2, 10**5, 10**5, 10**4), np.float16, urlpath=path, mode="w"), "distances")
    described = tmp_path / "cases" / "case_000.json"
    facts = json.loads(described.read_text(encoding="utf-8"))
    shape, facts["distances"]["shape"] = facts["distances"]["shape"], [2, 10**5, 10**5, 10**4]
    described.write_text(json.dumps(facts), encoding="utf-8")
    with pytest.raises(UserError, match="GB"):
        open_case(tmp_path, "case_000").read_distances(2)
    exchanged(tmp_path, lambda path: blosc2.full(shape, np.nan, np.float16, urlpath=path, mode="w"), "distances")
    with pytest.raises(DatasetError, match="not finite"):
        open_case(tmp_path, "case_000").read_distances(2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('"widths": [\n      8,', '"widths": [\n      1000000,'),
        ('"patch_size": [\n    16,\n    16,', '"patch_size": [\n    100000,\n    100000,'),
        ('"patch_size": [\n    16,', '"patch_size": [\n    0,'),
        ('"file_ending": ".nii.gz"', '"file_ending": "/../../../x.nii.gz"'),
        ('"training_steps": 20', '"training_steps": 100000000000000000000'),
        ('"blocks": [\n      1,', '"blocks": [\n      1000000,'),
        ('"why": {}', '"why": "as it is"'),
        ('"kernels": [\n      [\n        3,\n        3,\n        3\n      ],', '"kernels": ['),
    ],
)
def test_a_plan_that_asks_for_the_absurd_is_refused(tmp_path: Path, before: str, after: str) -> None:
    path = model(tmp_path) / "plans.json"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")
    with pytest.raises(UserError, match=r"plans\.json"):
        check_plan(read_json(Plan, path), str(path))
    with pytest.raises(UserError, match=r"plans\.json: .*(not allowed|not hold a valid Plan|no such ending)"):
        ModelFolder(path.parent).load("fold0")


def test_an_archive_that_unpacks_to_too_much_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zeros: a thousandth of what they unpack to."""
    folder = model(tmp_path / "packed")
    (folder / "fold0" / "zeros").write_bytes(bytes(20 << 20))
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", tmp_path / "packed"))
    assert path.stat().st_size < 1 << 20
    monkeypatch.setattr(archive, "MOST_BYTES", 10 << 20)
    monkeypatch.setattr(zipfile.ZipFile, "extractall", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(UserError, match=r"unpacks to more than .* Do not use it"):
        UnpackedModel(path)


def test_a_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    folder = model(tmp_path / "packed")
    path = Path(shutil.make_archive(str(tmp_path / "model"), "zip", folder.parent))
    link = zipfile.ZipInfo("diffatlas__default/fold1")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as packed:
        packed.writestr(link, str(tmp_path))
    with pytest.raises(UserError, match="fold1' leads out of the model's folder"):
        UnpackedModel(path)
