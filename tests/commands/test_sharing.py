"""A model is packed, installed elsewhere and used there: it segments the same, and no patient travels with it."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline import UserError, load_model
from diffatlas_pipeline.api.preparation import plan_and_preprocess
from diffatlas_pipeline.api.sharing import export_model, install_model
from diffatlas_pipeline.api.training import train
from diffatlas_pipeline.commands import export_model as export_command
from diffatlas_pipeline.commands import info, predict
from diffatlas_pipeline.commands import install_model as install_command
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.package import CARD, MANIFEST
from diffatlas_pipeline.volumes.io import read_volume
from tests.planning.raw_data import write_dataset

pytestmark = pytest.mark.slow
MODEL = Path("results") / "Dataset007_Balls" / "diffatlas__default"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a model that was really trained, for a moment, and validated."""
    place = tmp_path_factory.mktemp("home")
    write_dataset(place / "raw", cases=6)
    plan_and_preprocess(7, workspace=place, device="cpu", workers=1)
    train(7, "fold0", iterations=2, device="cpu", workers=0, workspace=place)
    return place


@pytest.fixture(scope="module")
def package(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    archive = tmp_path_factory.mktemp("package") / "model.zip"
    export_model(home / MODEL, archive, licence="CC-BY-4.0")
    return archive


def case_names(home: Path) -> list[str]:
    return [path.name.split(".")[0] for path in (home / "raw" / "Dataset007_Balls" / "labelsTr").iterdir()]


def segment(home: Path, output: Path, *words: object) -> None:
    scans = home / "raw" / "Dataset007_Balls" / "imagesTr"
    line = ["-i", scans, "-o", output, "--device", "cpu", "--precision", "float32", "--save-distance-maps", *words]
    predict.main([str(word) for word in line])


def same_files(one: Path, other: Path) -> bool:
    names = sorted(path.relative_to(one) for path in one.rglob("*.nii.gz"))
    assert len(names) == 6 * 3 and names == sorted(path.relative_to(other) for path in other.rglob("*.nii.gz"))
    return all(np.array_equal(read_volume((one / name,)).array, read_volume((other / name,)).array) for name in names)


def test_installed_elsewhere_it_segments_the_same(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """From export to prediction by the commands alone, and from the zip file itself."""
    archive, elsewhere = tmp_path / "model.zip", tmp_path / "elsewhere"
    export_command.main(["-d", "7", "-o", str(archive), "--licence", "CC-BY-4.0", "--workspace", str(home)])
    said = capsys.readouterr().out
    assert "Packed Dataset007_Balls/diffatlas__default (fold0)" in said and "no training scan" in said
    install_command.main([str(archive), "--workspace", str(elsewhere)])
    said = capsys.readouterr().out
    assert "CC-BY-4.0" in said and f"DiffAtlas_predict -i scans/ -o segmentations/ -d 007 --workspace {elsewhere}" in said
    segment(home, tmp_path / "here", "--workspace", home)
    segment(home, tmp_path / "there", "--workspace", elsewhere)
    segment(home, tmp_path / "zip", "-m", archive)
    assert same_files(tmp_path / "here", tmp_path / "there") and same_files(tmp_path / "here", tmp_path / "zip")


def test_patients_stay_behind_unless_asked_for(home: Path, package: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(package) as packed:
        content = b"".join(packed.read(name) for name in packed.namelist())
        assert not [name for name in packed.namelist() if "atlases" in name]
    assert len(case_names(home)) == 6 and not [name for name in case_names(home) if name.encode() in content]
    export_model(home / MODEL, tmp_path / "scans.zip", with_scans=True)
    with zipfile.ZipFile(tmp_path / "scans.zip") as packed:
        assert "fold0/atlases.safetensors" in packed.namelist()
    assert load_model(tmp_path / "scans.zip", "cpu")._atlases and not load_model(package, "cpu")._atlases


def test_a_model_without_scans_says_how_to_live_without(
    home: Path, package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        segment(home, tmp_path, "-m", package, "--with-atlases")
    assert "keeps no training scans to register. Leave out the option" in capsys.readouterr().err


def test_the_card_says_what_it_is(home: Path, package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    info.main([str(package)])
    packed = capsys.readouterr().out
    with zipfile.ZipFile(package) as archive:
        assert archive.read(CARD).decode() == packed.removesuffix("\n")
    validated = json.loads((home / MODEL / "fold0" / "validation" / "summary.json").read_text())
    dice = [validated["labels"][name]["dice"]["mean"] for name in ("large", "small")]
    assert "| segments | large (3), small (7) |" in packed and "| holds training scans | no" in packed
    (row,) = [line for line in packed.splitlines() if line.startswith("| fold0 |")]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    trained_on = len(ModelFolder(home / MODEL).metadata("fold0")["training_cases"])
    assert cells[1:3] == [str(trained_on), "2"] and cells[5:] == [f"{np.mean(dice):.3f}", *(f"{one:.3f}" for one in dice)]
    info.main([str(home / MODEL)])
    assert "| holds training scans | yes" in capsys.readouterr().out
    info.main(["--workspace", str(home)])
    said = capsys.readouterr().out
    assert "  Dataset007_Balls/diffatlas__default: fold0 (Dice 0." in said and said.count("Dataset007_Balls") == 3


def test_what_was_installed_can_be_packed_again(package: Path, tmp_path: Path) -> None:
    place = install_model(package, workspace=tmp_path)
    again = export_model(place, tmp_path / "again.zip")
    with zipfile.ZipFile(package) as first:
        before = json.loads(first.read(MANIFEST))
    assert again.licence == "CC-BY-4.0" and {*again.files} == {*before["files"]}
    assert (
        again.files["fold0/checkpoint_final.safetensors"].sha256
        == (before["files"]["fold0/checkpoint_final.safetensors"]["sha256"])
    )


def test_nothing_is_replaced_unless_asked_for(home: Path, package: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"model\.zip: there already.*`overwrite`"):
        export_model(home / MODEL, package)
    place = install_model(package, workspace=tmp_path)
    (place / "mine.txt").write_text("a note")
    with pytest.raises(UserError, match=r"a model is there already.*`overwrite`"):
        install_model(package, workspace=tmp_path)
    assert (place / "mine.txt").is_file()
    install_model(package, workspace=tmp_path, overwrite=True)
    assert [path.name for path in place.parent.iterdir()] == [place.name] and not (place / "mine.txt").exists()


def rewritten(package: Path, place: Path, change: Callable[[str, bytes], bytes | None], **added: bytes) -> Path:
    """A copy of ``package`` in which ``change`` gives each file's content; None leaves it out."""
    with zipfile.ZipFile(package) as before, zipfile.ZipFile(place, "w") as after:
        for name in before.namelist():
            content = change(name, before.read(name))
            if content is not None:
                after.writestr(name, content)
        for name, content in added.items():
            after.writestr(name, content)
    return place


def flipped(name: str, content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1]) if name.endswith("final.safetensors") else content


def longer(name: str, content: bytes) -> bytes:
    return content + b" " if name == "plans.json" else content


def without_card(name: str, content: bytes) -> bytes | None:
    return None if name == CARD else content


def as_it_is(name: str, content: bytes) -> bytes:
    return content


def led_outside(name: str, content: bytes) -> bytes:
    return content.replace(b'"Dataset007_Balls"', b'"Dataset007_/../../x"') if name == MANIFEST else content


@pytest.mark.parametrize(
    ("change", "added", "said"),
    [
        (flipped, {}, r"fold0/checkpoint_final\.safetensors is not what was packed"),
        (longer, {}, r"not what was packed \(plans\.json is missing, added, or of another size"),
        (without_card, {}, r"not what was packed \(MODEL_CARD\.md is missing"),
        (as_it_is, {"extra.py": b"print()"}, r"not what was packed \(extra\.py is missing, added"),
        (as_it_is, {"../outside.txt": b"x"}, r"leads out of the model's folder"),
        (led_outside, {}, r"is no name of a model"),
    ],
)
def test_a_changed_package_is_refused_and_nothing_is_touched(
    package: Path, tmp_path: Path, change: Callable[[str, bytes], bytes | None], added: dict[str, bytes], said: str
) -> None:
    changed = rewritten(package, tmp_path / "changed.zip", change, **added)
    workspace = tmp_path / "workspace"
    for use in (lambda: install_model(changed, workspace=workspace), lambda: load_model(changed, "cpu")):
        with pytest.raises(UserError, match=said):
            use()
    assert not workspace.exists() and sorted(path.name for path in tmp_path.iterdir()) == ["changed.zip"]


def test_a_zip_made_by_hand_is_used_where_it_is(home: Path, tmp_path: Path) -> None:
    by_hand = Path(shutil.make_archive(str(tmp_path / "mine"), "zip", home / MODEL))
    with pytest.raises(UserError, match=r"not made by `export_model`\. It can be used where it is"):
        install_model(by_hand, workspace=tmp_path)
    assert load_model(by_hand, "cpu").labels == {"large": 3, "small": 7}


def test_a_model_that_is_its_training_cases_is_not_packed_without_them(home: Path, tmp_path: Path) -> None:
    train(7, "fold0", method="mean", validation=False, workspace=home)
    with pytest.raises(UserError, match=r"by its training cases alone\. Give `with_scans`"):
        export_model(home / MODEL.parent / "mean__default", tmp_path / "mean.zip")
    shutil.rmtree(home / MODEL.parent / "mean__default")


def test_mistakes_are_explained(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"no such file. Give a zip file that `export_model` wrote"):
        install_model(tmp_path / "none.zip", workspace=tmp_path)
    shutil.copytree(home / MODEL, tmp_path / "my model")
    with pytest.raises(UserError, match=r"installed under the names of its folders, .*Rename"):
        export_model(tmp_path / "my model", tmp_path / "a.zip")
    (tmp_path / "text.zip").write_text("no zip")
    with pytest.raises(SystemExit) as stopped:
        install_command.main([str(tmp_path / "text.zip"), "--workspace", str(tmp_path)])
    assert stopped.value.code == 2 and "Copy it again" in capsys.readouterr().err
