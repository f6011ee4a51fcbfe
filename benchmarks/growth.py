"""How the seconds of a prediction grow with voxels, sampling steps, labels and cases, stage by stage.

The network is the one planned for a processor, untrained: what it finds does not change what it costs. The scans are
smooth noise. Each row is one size; the table tells slopes on a double logarithmic scale.
"""

from __future__ import annotations

import argparse
import dataclasses
import shutil
import statistics
import tempfile
from pathlib import Path

import torch

from benchmarks.commands import main_of
from benchmarks.memory import plan_of, write_scan
from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline import load_model
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.tiling import windows
from diffatlas_pipeline.methods.base import LearnedMethod
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.topology import plan_topology

STAGES = ("read", "prepare", "sample", "restore", "write")
USUAL = {"side": 64, "steps": 2, "labels": 5, "cases": 1}
GROWING = {"side": (64, 96, 128, 160), "steps": (1, 4, 8), "labels": (1, 10, 20), "cases": (2, 4)}


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Seconds of each stage of a prediction against voxels, steps, labels and cases.",
        epilog="example:\n  python -m benchmarks.growth --repeats 3",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--patch", type=int, default=32, metavar="N", help="voxels along each axis (default: %(default)s)")
    made.add_argument("--repeats", type=int, default=3, metavar="N", help="the median counts (default: %(default)s)")
    made.add_argument("--quick", action="store_true", help="two small sides alone")
    made.add_argument(
        "--results", type=Path, default=RESULTS / "growth.csv", metavar="FILE", help="(default: documentation/results/)"
    )
    return made


def run(patch: int, repeats: int, quick: bool, results: Path) -> None:
    """Time all sizes in turn, ``repeats`` times; replace the results file. UserError for less than one."""
    import pandas as pd

    if repeats < 1:
        raise UserError(f"--repeats {repeats}: at least 1 is needed.")
    sizes = [USUAL | {"side": side} for side in (patch, 2 * patch)] if quick else all_sizes()
    times: list[list[dict[str, float]]] = [[] for _ in sizes]
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(repeats):
            for size, found in zip(sizes, times, strict=True):
                found.append(seconds_of(Path(folder), patch, **size))
                print(f"round {repeat + 1}: {size} {found[-1]}", flush=True)
    rows: list[dict[str, object]] = []
    for size, found in zip(sizes, times, strict=True):
        stages = {f"{stage}_s": round(statistics.median(one[stage] for one in found), 4) for stage in found[0]}
        count = len(windows((size["side"],) * 3, (patch,) * 3))
        rows.append({**machine(), **size, "patch": patch, "windows": count, "repeats": repeats, **stages})
    results.unlink(missing_ok=True)
    for row in rows:
        append_row(results, row)
    print(pd.DataFrame(rows).to_string())
    print(f"Written: {results}")


def all_sizes() -> list[dict[str, int]]:
    """The usual one, and those in which one number is another."""
    return [USUAL] + [USUAL | {name: value} for name, values in GROWING.items() for value in values if value != USUAL[name]]


def seconds_of(folder: Path, patch: int, side: int, steps: int, labels: int, cases: int) -> dict[str, float]:
    """Seconds of each stage, of all cases, in a prediction of ``cases`` scans of ``side`` voxels along each axis."""
    model = folder / f"model_{labels}"
    if not model.exists():
        write_model(model, patch, labels)
    scans, output = folder / f"scans_{side}_{cases}", folder / "out"
    if not scans.exists():
        scans.mkdir()
        for number in range(cases):
            write_scan(scans / f"noise_{number}.nii.gz", side)
    shutil.rmtree(output, ignore_errors=True)
    found = load_model(model, "cpu", steps=steps, precision="float32").segment_folder(scans, output)
    totals = {stage: sum(one.seconds[stage] for one in found.outcomes) for stage in STAGES}
    return {**totals, "all": sum(totals.values())}


def write_model(folder: Path, patch: int, labels: int) -> None:
    """A model folder with an untrained network, as planned for a processor."""
    tiny = plan_of(patch)
    network, size, _ = plan_topology(tiny.budget, (patch,) * 3, tiny.spacing_mm, 1 + labels, training_bytes)
    classes = tuple(LabelClass(f"label {number}", number) for number in range(1, labels + 1))
    described = dataclasses.replace(tiny.dataset, labels=classes)
    plan = dataclasses.replace(tiny, network=network, patch_size=size, dataset=described)
    method = create_method("diffatlas", plan, recipe_of(plan, "diffatlas"))
    assert isinstance(method, LearnedMethod)
    torch.manual_seed(0)
    metadata = {"method": "diffatlas", "recipe": "default", "fold": "fold0", "iterations": 0}
    ModelFolder.create(folder, plan).write_fold("fold0", method.build_network().state_dict(), metadata)


if __name__ == "__main__":
    main()
