"""DiffAtlas_convert from its arguments to its exit code."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diffatlas_pipeline.commands._converters import CONVERTERS
from diffatlas_pipeline.commands.convert import main
from diffatlas_pipeline.datasets.raw import read_dataset


def _phantom(workspace: Path, *more: str) -> None:
    base = ["phantom", "-d", "2", "--cases", "2", "--test-cases", "1", "--size", "16", "--workers", "1"]
    main([*base, "--workspace", str(workspace), *more])


def test_phantom_is_a_data_set_that_the_planner_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _phantom(tmp_path, "--modality", "MRI")
    dataset = read_dataset(tmp_path / "raw/Dataset002_HeartPhantomMRI")
    assert dataset.description.channels == ("MRI",)
    assert [label.name for label in dataset.description.labels] == ["Myo", "LV", "LA", "RA", "RV"]
    assert (len(dataset.training), len(dataset.test)) == (2, 1)
    output = capsys.readouterr().out
    assert "2 training and 1 test cases" in output
    assert f"Next: DiffAtlas_plan_and_preprocess -d 2 --workspace {tmp_path}" in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "8"], "--size 8: give one number or three, each at least 16"),
        (["--size", "32", "32"], "--size 32 32"),
        (["--cases", "0"], "--cases must be at least 1"),
        (["-d", "1000"], "1000 is not between 1 and 999"),
        (["--name", "my heart"], "'my heart' may hold only letters"),
    ],
)
def test_wrong_use_gives_one_line_and_exit_code_2(
    tmp_path: Path, more: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        _phantom(tmp_path, *more)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not list(tmp_path.rglob("*.nii.gz"))


def test_an_unwritable_workspace_is_the_users_to_mend(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "raw").write_text("a file where a folder should be")
    with pytest.raises(SystemExit) as stopped:
        _phantom(tmp_path)
    assert stopped.value.code == 2
    assert f"{tmp_path}/raw" in capsys.readouterr().err


def test_the_number_of_a_decathlon_task_is_its_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["msd", "-i", str(tmp_path / "Brain"), "--workspace", str(tmp_path)])
    assert stopped.value.code == 2
    assert "TaskNN_" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["msd", "-i", str(tmp_path / "Task01_Brain"), "--workspace", str(tmp_path)])
    assert "no such file" in capsys.readouterr().err


def test_help_lists_every_converter_and_imports_none() -> None:
    code = (
        "import sys\nfrom diffatlas_pipeline.commands.convert import main\n"
        "try: main(['-h'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'nibabel', 'scipy', 'matplotlib') if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip().endswith("[]")
    assert all(name in result.stdout for name in CONVERTERS)
