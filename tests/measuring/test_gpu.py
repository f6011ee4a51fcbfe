"""The GPU's benchmark through its own command, on a CPU, with nothing installed but what such a machine has."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import gpu, tables
from benchmarks.gpu_folder import SITE, bring, read_folder
from benchmarks.gpu_parts import CELLS, METHOD, Bench, check, segmented, toy
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.registry import create_method, with_sampling
from diffatlas_pipeline.models.folder import TrainedFold
from tests.measuring.small_task import use_lists, write_task

THERE = ("torch", "numpy", "scipy", "scikit-image")
OWN = {"diffatlas_pipeline", "dataset_conversion", *sys.stdlib_module_names}
HIDING = """
import os, sys
from importlib.machinery import PathFinder

class OnlyBrought(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = path is None and name in os.environ["HIDDEN"].split(",")
        return super().find_spec(name, [os.environ["BROUGHT"]] if hidden else path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = OnlyBrought
"""


def hidden_modules() -> set[str]:
    """Installed modules that a machine with THERE, and what these need, does not have."""
    waiting, there = [*THERE], set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in there:
            there.add(name)
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue
            waiting += [re.split(r"[^\w.-]", need)[0] for need in needs if "extra ==" not in need]
    distributions = importlib.metadata.packages_distributions()
    of_others = {module for module, names in distributions.items() if not {n.lower().replace("_", "-") for n in names} & there}
    return {module for module in of_others if module.isidentifier() and module not in OWN and not module.startswith("_")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A packed folder of balls."""
    data = tmp_path_factory.mktemp("data")
    write_task(data / "Task04_Hippocampus")
    with pytest.MonkeyPatch.context() as patch:
        use_lists(patch, data / "Task04_Hippocampus" / "protocol.json")
        packed = tmp_path_factory.mktemp("gpu")
        gpu.main(["pack", str(packed), "--data", str(data)])
        yield packed


@pytest.mark.slow
def test_it_runs_with_what_the_folder_brings_and_keeps_no_toy(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    hidden = hidden_modules()
    assert {"SimpleITK", "matplotlib", "pandas", "blosc2", "batchgenerators"} <= hidden and not {"torch", "skimage"} & hidden
    path = os.pathsep.join([str(tmp_path), str(tables.ROOT)])
    environment = os.environ | {"PYTHONPATH": path, "HIDDEN": ",".join(hidden), "BROUGHT": str(folder / SITE)}
    words = ["run", str(folder), "--tiny", "--device", "cpu", "--minutes", "3.5", "--output", str(tmp_path)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *words], env=environment, capture_output=True, text=True)
    assert (tmp_path / "gpu.json").is_file(), done.stderr
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert not told["failures"], done.stdout + done.stderr
    assert [(row["setting"], row["recipe"], row["prediction"]) for row in told["dice"]] == [
        ("full", "default", "x0"), ("full", "paper", "x0"), ("full", "paper-noise", "epsilon"),
        ("4-shot", "default", "x0"), ("4-shot", "paper", "x0"), ("4-shot", "paper-noise", "epsilon"),
    ]  # fmt: skip
    assert all(0 <= row["dice_mean"] <= 1 and row["cases"] >= 1 and row["iterations"] >= 1 for row in told["dice"])
    assert [row["steps"] for row in told["dice"][:3]] == [2, 4, 4] and told["speed"][0]["training_share"] > 0
    assert [row["check"] for row in told["checks"]] == ["predictor", "stitcher"] * 2 + ["trainer"]
    assert done.returncode == (not all(row["passed"] for row in told["checks"]))
    with pytest.raises(SystemExit):
        gpu.main(["keep", str(tmp_path)])
    assert "toy" in capsys.readouterr().err


def test_what_a_gpu_measured_becomes_tables(tmp_path: Path) -> None:
    machine = {"date": "2026-01-02", "accelerator": "NVIDIA H100", "torch": "2.11", "device": "cuda", "commit": "47e8853"}
    dice = {"training_cases": 160, "recipe": "paper", "prediction": "x0", "train_seconds": 40.2, "iterations": 1200,
            "training_gb": 2.3, "steps": 270, "cases": 31, "dice_mean": 0.8, "seconds_per_case": 1.5}  # fmt: skip
    checks = check("predictor", "bfloat16", [np.array([0, 1, 1, 2])], [np.array([0, 1, 2, 2])], 0.01)
    speed = {"network": "planned", "input": "40 x 56 x 40", "channels": 3, "parameters": 1.29e7, "forward_gflop": 70.0,
             "product_tflops": 790.0, "sampling_ms": 8.1, "sampling_share": 0.011, "training_ms": 40.0,
             "training_batch": 5, "training_share": 0.033, "training_gb": 2.1}  # fmt: skip
    told = {"machine": machine, "tiny": False, "dice": [dice], "speed": [speed], "checks": [checks], "failures": []}
    (tmp_path / "gpu.json").write_text(json.dumps(told))
    gpu.main(["keep", str(tmp_path), "--results", str(tmp_path)])
    lines = "\n".join(tables.table_of(name, tmp_path) for name in tables.GPU_PAGE).splitlines()
    assert "NVIDIA H100, torch 2.11, 2026-01-02:" in lines
    assert "| 160 | `paper` | clean data | 0.7 | 1,200 | 2.3 | 270 | 31 | 0.800 | 1.50 |" in lines
    assert "| planned | 40 x 56 x 40, 3 channels | 12.9 M | 70 | 790 | 8.1 | 1% | 40.0 (5) | 3% | 2.1 |" in lines
    assert "| predictor | bfloat16 | 3 | 33.33% | 1.0% | **no** |" in lines
    assert tables.table_of("gpu-dice", tmp_path / "none") == tables.NO_GPU


def test_side_by_side_each_scan_is_segmented_on_its_own(folder: Path) -> None:
    packed, device = read_folder(folder), torch.device("cpu")
    plan = replace(toy(packed.plan), diffusion=packed.plan.diffusion)
    bench = Bench(packed, device, 0)
    recipe = with_sampling(bench.recipe(CELLS[0]), steps=1)  # a single step hears next to nothing of the noise
    torch.manual_seed(0)
    network = create_method(METHOD, plan, recipe).build_network()  # type: ignore[attr-defined]
    state = {name: tensor + 0.1 * torch.randn_like(tensor) for name, tensor in network.state_dict().items()}
    fold = TrainedFold(plan, METHOD, "default", "full", state, {})
    alone = Predictor([fold], device, recipe, precision="float32")
    abreast = Predictor([fold], device, recipe, precision="float32", overlap=0.0, batch_size=4)
    scans = [bench.prepared(case) for case in packed.lists["full"][:3]]
    scans[1] = replace(scans[1], image=scans[1].image[:, :19, :27, :16])
    for scan, found in zip(scans, segmented(alone, abreast, scans), strict=True):
        expected = alone.segment(scan).distances
        assert expected.std() > 0.3
        torch.testing.assert_close(found.distances, expected, rtol=0, atol=0.03)


def test_packages_are_brought_without_their_tests(tmp_path: Path) -> None:
    bring("nibabel", tmp_path, "3.99")  # pure Python: any version will do
    assert (tmp_path / "nibabel" / "orientations.py").is_file() and not (tmp_path / "nibabel" / "tests").exists()
