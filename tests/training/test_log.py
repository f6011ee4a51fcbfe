"""The columns of log.csv, and the picture made of them."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from diffatlas_pipeline.training.log import TrainingLog, draw_progress


def test_columns_stand_in_order_whatever_was_collected_first(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    log.collect({"loss": 3.0, "gradient_norm": 1.0, "loss_mask": 1.0, "loss_mask_band2": 0.1, "loss_image": 2.0})
    log.write_row(10, 1.0, 1e-3, {"right": 0.5, "left": 0.25})
    log.collect({"loss": 3.0, "gradient_norm": 1.0, "loss_mask": 1.0, "loss_image": 2.0, "loss_mask_band0": math.nan})
    log.collect({"loss_mask_band1": 0.2, "loss_mask_band10": 0.4, "loss_image_band3": 0.3})
    log.write_row(20, 2.0, 1e-3, {})
    table = pd.read_csv(tmp_path / "log.csv")
    assert list(table.columns) == [
        "iteration", "seconds", "learning_rate", "loss", "loss_mask", "loss_image", "loss_image_band3",
        "loss_mask_band1", "loss_mask_band2", "loss_mask_band10", "gradient_norm", "dice_right", "dice_left",
    ]  # fmt: skip
    assert table["loss_mask_band2"].tolist()[0] == 0.1 and table["dice_left"].tolist()[0] == 0.25


def test_a_resumed_log_goes_on_behind_the_checkpoint(tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, 0)
    for iteration, dice in ((10, 0.5), (20, math.nan), (30, 0.75)):
        log.collect({"loss": 1 / iteration})
        log.write_row(iteration, 1.0, 1e-3, {"left": dice} if iteration > 10 else {})
    resumed = TrainingLog(tmp_path, 20)
    resumed.write_row(40, 2.0, 1e-3, {"left": 1.0})
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines == [
        "iteration,seconds,learning_rate,loss,dice_left", "10,1,0.001,0.1,", "20,1,0.001,0.05,", "40,2,0.001,,1",
    ]  # fmt: skip


def test_the_picture_is_drawn_now_and_then_and_at_the_end(tmp_path: Path) -> None:
    """Not at once: it takes longer than the steps of a short training."""
    log, picture = TrainingLog(tmp_path, 0), tmp_path / "progress.png"
    for seconds, last, drawn in ((1.0, False, False), (21.0, False, True), (22.0, False, False), (23.0, True, True)):
        picture.unlink(missing_ok=True)
        log.collect({"loss_mask": 0.5})
        log.write_row(int(seconds), seconds, 1e-3, {}, last=last)
        assert picture.exists() == drawn, seconds


def test_the_picture_tells_what_was_trained_for_how_long_and_hides_no_curve(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "Dataset001_A_$b$_{c" / "diffatlas__default" / "fold0"
    folder.mkdir(parents=True)
    names = ["loss_image", "loss_mask", *(f"loss_mask_band{band}" for band in range(10)), "dice_left", "dice_$_{"]
    rows = [{"iteration": float(i), "seconds": 60.0 * i, "learning_rate": 1e-3, **dict.fromkeys(names, 0.5)} for i in (1, 2, 3)]
    drawn: list[Figure] = []
    save = Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *a, **named: (drawn.append(self), save(self, *a, **named))[1])
    draw_progress(rows, folder / "progress.png")
    [figure] = drawn
    assert figure.get_suptitle() == "Dataset001_A_$b$_{c, diffatlas__default, fold0: 3.0 minutes of training"
    legends = [axis.get_legend() for axis in figure.axes if axis.get_legend()]
    assert len(legends) == 3
    for axis, legend in zip(figure.axes, legends, strict=False):
        assert legend.get_window_extent().x0 >= axis.get_window_extent().x1
        assert legend.get_window_extent().x1 <= figure.bbox.x1


def test_drawing_leaves_a_notebook_its_backend_and_figures(tmp_path: Path) -> None:
    lines = [
        "import matplotlib; matplotlib.use('svg')",
        "from pathlib import Path; from matplotlib import pyplot",
        "from diffatlas_pipeline.training.log import draw_progress",
        "rate = {'learning_rate': 0.1}",
        "rows = [{'iteration': 1, **rate, 'loss_mask': 2}, {'iteration': 2, **rate, 'loss_mask': 1, 'dice_left': 1}]",
        "own = pyplot.figure()",
        f"draw_progress(rows, Path({str(tmp_path / 'progress.png')!r}))",
        "print(matplotlib.get_backend(), pyplot.get_fignums() == [own.number])",
    ]
    said = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True, check=True).stdout
    assert said == "svg True\n"
    assert (tmp_path / "progress.png").read_bytes().startswith(b"\x89PNG")
