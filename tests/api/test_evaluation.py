from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.api.evaluation import evaluate
from diffatlas_pipeline.commands import evaluate as command
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels


def test_a_notebook_gets_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = np.zeros((12, 12, 12), np.uint8)
    truth[3:9, 3:9, 3:9] = 1
    found = np.roll(truth, 1, axis=0)
    for folder, array in (("truth", truth), ("found", found)):
        write_labels(tmp_path / folder / "a.nii.gz", array, Grid.of(array.shape, np.eye(4)))
    scored = evaluate(str(tmp_path / "found"), tmp_path / "truth", output=tmp_path / "notebook")
    assert scored.mean()["dice"] == pytest.approx(5 / 6)
    command.main(
        ["-p", str(tmp_path / "found"), "-r", str(tmp_path / "truth"), "-o", str(tmp_path / "command"), "--workers", "1"]
    )
    for name in ("summary.json", "cases.csv"):
        assert (tmp_path / "notebook" / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    write_labels(tmp_path / "truth" / "b.nii.gz", truth, Grid.of(truth.shape, np.eye(4)))
    with pytest.raises(UserError, match="b"):
        evaluate(tmp_path / "found", tmp_path / "truth")
    capsys.readouterr()
    assert evaluate(tmp_path / "found", tmp_path / "truth", missing="skip").missing == ("b",)
    assert "without prediction: left out" in capsys.readouterr().out
