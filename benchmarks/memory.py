"""Memory of a prediction: what the command says before, and the peak that is measured; adds one row for each size."""

from __future__ import annotations

import argparse
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel
import numpy as np
import torch

from benchmarks.commands import main_of
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.description import DatasetDescription, LabelClass
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method, default_recipes, recipe_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import AugmentationPlan, Budget, ChannelPlan, DistancePlan, Plan, TrainingPlan
from diffatlas_pipeline.volumes.resample import resample

LABELS = 5
SAID, PEAK = re.compile(r"takes up to ([0-9.]+) GB"), re.compile(r"^peak: (\d+) bytes$", re.MULTILINE)
_CHILD = """
import atexit
from benchmarks.memory import say_peak
from diffatlas_pipeline.commands.predict import main
atexit.register(say_peak)
main()
"""


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Segment noise of several sizes with a tiny network and five labels; compare the memory said and taken.",
        epilog="example:\n  python -m benchmarks.memory --sides 128 256 512 --max-memory 6",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--sides", nargs="+", type=int, default=[128, 256], metavar="N", help="voxels along each axis")
    made.add_argument("--max-memory", type=float, metavar="GB", help="as of DiffAtlas_predict (default: all)")
    made.add_argument("--patch", type=int, default=64, metavar="N", help="voxels along each axis (default: %(default)s)")
    made.add_argument("--steps", type=int, default=2, metavar="N", help="(default: %(default)s)")
    made.add_argument("--results", type=Path, default=RESULTS / "memory.csv", metavar="FILE")
    return made


def run(sides: list[int], max_memory: float | None, patch: int, steps: int, results: Path) -> None:
    """One row for each of ``sides``. UserError if a prediction fails."""
    with tempfile.TemporaryDirectory() as folder:
        model = write_model(Path(folder) / "model", patch)
        for side in sides:
            scan = write_scan(Path(folder) / f"noise{side}.nii.gz", side)
            row = measured(model, scan, Path(folder) / "out", max_memory, steps)
            append_row(results, machine() | {"side": side, "patch": patch, "steps": steps, "labels": LABELS} | row)
            print(f"{side}: {row}", flush=True)


def plan_of(patch: int) -> Plan:
    """A plan of one channel and five labels whose network is tiny."""
    labels = tuple(LabelClass(f"label {number}", number) for number in range(1, LABELS + 1))
    return Plan(
        dataset=DatasetDescription("Noise", ("MRI",), labels, ".nii.gz"),
        budget=Budget(8, "cpu", "cpu"),
        dimensions=3,
        spacing_mm=(1.0, 1.0, 1.0),
        patch_size=(patch, patch, patch),
        channels=(ChannelPlan("MRI", "percentile", 0.5, 99.5),),
        distance=DistancePlan(3.0, 1.0),
        network=NetworkPlan((4, 8), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16),
        diffusion=DiffusionPlan("cosine", 20),
        training=TrainingPlan(10, 1, 1e-3, 0.1, 0.0, 1.0, 0.1),
        augmentation=AugmentationPlan((0, 0, 0), (1, 1), (), False),
        recipes=default_recipes(),
    )


def write_model(folder: Path, patch: int) -> Path:
    """A model folder with an untrained network."""
    plan = plan_of(patch)
    method = create_method("diffatlas", plan, recipe_of(plan, "diffatlas"))
    assert isinstance(method, LearnedMethod)
    torch.manual_seed(0)
    state = method.build_network().state_dict()
    metadata = {"method": "diffatlas", "recipe": "default", "fold": "fold0", "iterations": 0}
    ModelFolder.create(folder, plan).write_fold("fold0", state, metadata)
    return folder


def write_scan(path: Path, side: int) -> Path:
    """Smooth noise of ``side`` voxels along each axis of 1 mm."""
    coarse = np.random.default_rng(0).normal(size=(1, *[max(2, side // 16)] * 3))
    nibabel.save(nibabel.Nifti1Image((resample(coarse, (side, side, side), 1)[0] * 300).astype(np.int16), np.eye(4)), path)
    return path


def measured(model: Path, scan: Path, out: Path, max_memory: float | None, steps: int) -> dict[str, object]:
    """What the command said, the peak of its resident memory, and its seconds."""
    command = [sys.executable, "-c", _CHILD, "-m", str(model), "-i", str(scan), "-o", str(out)]
    command += ["--overwrite", "--steps", str(steps)]
    command += [] if max_memory is None else ["--max-memory", f"{max_memory:g}"]
    start = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise UserError(f"{scan}: the prediction failed:\n{done.stdout}")
    return {
        "max_memory_gb": max_memory or "",
        "in_files": "in files" in done.stdout,
        "said_gb": float(SAID.findall(done.stdout)[-1]),
        "peak_gb": round(int(PEAK.findall(done.stdout)[-1]) / 1e9, 2),
        "seconds": round(time.perf_counter() - start, 1),
    }


def say_peak() -> None:
    """Print the bytes that were resident at most. The account of resources begins with those of the parent process, so
    it is taken only where the system tells nothing else.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        (peak,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    except (OSError, ValueError):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"peak: {peak} bytes")


if __name__ == "__main__":
    main()
