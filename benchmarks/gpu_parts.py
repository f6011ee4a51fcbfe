"""What is measured on a GPU: times of steps, Dice of the test cases, and whether its labels are those of the CPU."""

from __future__ import annotations

import json
import os
import random
import tempfile
import time
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image

from benchmarks.gpu import PARTS
from benchmarks.gpu_folder import SETTINGS, Packed
from benchmarks.record import machine
from benchmarks.speed import GPU, Stopwatch, Subject, cube, forward_flops
from diffatlas_pipeline.data.loader import training_batches
from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.predictor import Predictor, Prepared
from diffatlas_pipeline.inference.seed import scan_seed
from diffatlas_pipeline.methods.base import LearnedMethod, PlannedSegmentation, Recipe
from diffatlas_pipeline.methods.joint_recipe import JointRecipe
from diffatlas_pipeline.methods.registry import create_method, recipe_of, with_sampling
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.networks.plan import NetworkPlan
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import open_case
from diffatlas_pipeline.training.loop import Run, Trained, train
from diffatlas_pipeline.training.schedule import Duration

METHOD = "diffatlas"
TRAINING, CHECKS = 0.5, 0.12  # shares of the time: all trainings, alike; and what the checks may take
WORKERS = 12  # processes that make batches, if there are so many cores
WINDOWS = 10  # that run at once when cases are segmented side by side
REPEATS = 15  # of a timed step
PRODUCT = 8192  # rows of the matrices whose product tells what the device can do
CHECKED_CASES, CHECKED_STEPS, CHECKED_ITERATIONS = 4, 4, 60
LIMITS = {"float32": 0.005, "bfloat16": 0.01}  # share of the foreground's voxels that may have other labels
TOY_CASES, TOY_TRAINING, TOY_ITERATIONS = 3, 0.05, 10  # of each list, share of the time, of the trainer's check
TRAINER_LIMIT = 0.01  # errors of rounding grow while training goes on


@dataclass(frozen=True)
class Cell:
    """A training: the setting's cases, and the recipe."""

    setting: str
    recipe: str


CELLS = tuple(Cell(setting, recipe) for setting in SETTINGS for recipe in ("default", "paper", "paper-noise"))


@dataclass(frozen=True)
class Clock:
    """The time that everything together may take."""

    started_s: float
    seconds: float

    def left(self) -> float:
        return self.seconds - (time.monotonic() - self.started_s)


class Results:
    """Rows by part, written after each row: a run that is cut off leaves what was done."""

    def __init__(self, path: Path, commit: str, device: torch.device, minutes: float, tiny: bool) -> None:
        self.path = path
        about = machine() | {"commit": commit, "device": str(device), "minutes": minutes}
        self.told: dict[str, Any] = {"machine": about, "tiny": tiny, **{part: [] for part in PARTS}, "failures": []}

    def take(self, part: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write each of ``rows`` as it comes; a part that fails is noted, and the others go on."""
        try:
            for row in rows:
                self.told[part].append(dict(row))
                self._write()
                print(f"{part}: " + ", ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        except Exception:  # whatever it is: time on a GPU is short
            self.fail(part, traceback.format_exc())

    def fail(self, part: str, error: str) -> None:
        print(f"{part}: {error}", flush=True)
        self.told["failures"].append({"part": part, "error": error})
        self._write()

    def bad(self) -> bool:
        return bool(self.told["failures"]) or not all(row["passed"] for row in self.told["checks"])

    def _write(self) -> None:
        write_text_atomically(self.path, json.dumps(self.told, indent=2) + "\n")


def measure(packed: Packed, device: torch.device, clock: Clock, results: Results, tiny: bool) -> None:
    """All parts within the time of ``clock``: times of steps, the trainings, and after the first of them the checks."""
    if tiny:
        few = {name: cases[:TOY_CASES] for name, cases in packed.lists.items()}
        packed = replace(packed, plan=toy(packed.plan), lists=few)
    bench = Bench(packed, device, 0 if tiny else max(1, min(WORKERS, (os.cpu_count() or 1) - 2)))
    results.take("speed", speed_rows(packed.plan, device, tiny))
    training_s = (TOY_TRAINING if tiny else TRAINING) * clock.seconds / len(CELLS)
    for number, cell in enumerate(CELLS):
        if clock.left() < training_s:
            results.fail("dice", f"No time was left for {len(CELLS) - number} of {len(CELLS)} trainings.")
            return
        folds: list[TrainedFold] = []
        results.take("dice", dice_rows(bench, cell, training_s, clock, len(CELLS) - number - 1, folds))
        if number == 0 and folds:
            results.take("checks", check_rows(bench, folds[0], TOY_ITERATIONS if tiny else CHECKED_ITERATIONS))


def toy(plan: Plan) -> Plan:
    """``plan`` with a network and a number of diffusion steps that a CPU is done with in seconds."""
    network = NetworkPlan((4, 8), ((1, 1, 1), (2, 2, 2)), ((3, 3, 3),) * 2, (1, 1), (False, False), 16)
    training, diffusion = replace(plan.training, batch_size=2), replace(plan.diffusion, training_steps=4)
    return replace(plan, network=network, training=training, diffusion=diffusion)


# ---------------------------------------------------------------------------------------------------------------- speed
def speed_rows(plan: Plan, device: torch.device, tiny: bool) -> Iterator[dict[str, Any]]:
    """Of the planned network, and of the one planned for the authors' setting: milliseconds and peak GB of a step, and
    its share of what a product of large matrices reaches in bfloat16 on the device.
    """
    product = product_tflops(device, PRODUCT if device.type == "cuda" else 256)
    channels = len(plan.channels) + len(plan.dataset.labels)
    planned = Subject(
        "planned for the data", plan.network, channels, plan.patch_size, plan.patch_size, plan.training.batch_size
    )
    for subject in [planned] if tiny else [planned, cube(GPU)]:
        flops, parameters = forward_flops(subject)
        watch = Stopwatch(subject, device)
        row = {"network": subject.name, "input": " x ".join(map(str, subject.patch)), "channels": subject.channels,
               "parameters": parameters, "forward_gflop": flops / 1e9, "product_tflops": product}  # fmt: skip
        # Backward costs twice what forward does.
        for step, time_ms, size, passes in (
            ("sampling", watch.sampling_ms, 1, 1), ("training", watch.training_ms, subject.batch, 3),
        ):  # fmt: skip
            reset_memory(device)
            milliseconds = float(np.median([time_ms() for _ in range(3 + (2 if tiny else REPEATS))][3:]))
            share = flops * size * passes / (milliseconds / 1e3) / (product * 1e12)
            row |= {f"{step}_ms": milliseconds, f"{step}_batch": size, f"{step}_precision": watch.precision[passes == 3],
                    f"{step}_gb": peak_gb(device), f"{step}_share": share}  # fmt: skip
        yield row


def product_tflops(device: torch.device, rows: int) -> float:
    """10^12 FLOPs a second in the product of two square bfloat16 matrices: the best of five times ten products."""
    one, other = (torch.randn(rows, rows, device=device, dtype=torch.bfloat16) for _ in range(2))

    def seconds() -> float:
        (one @ other)[0, 0].item()  # which waits for the device
        start = time.perf_counter()
        for _ in range(9):
            one @ other
        (one @ other)[0, 0].item()
        return (time.perf_counter() - start) / 10

    return 2 * rows**3 / min(seconds() for _ in range(5)) / 1e12


def reset_memory(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_gb(device: torch.device) -> float | None:
    """What torch had taken of a GPU at most; None for a CPU."""
    return torch.cuda.max_memory_allocated(device) / 1e9 if device.type == "cuda" else None


# ----------------------------------------------------------------------------------------------------------------- dice
def dice_rows(
    bench: Bench, cell: Cell, training_s: float, clock: Clock, later: int, folds: list[TrainedFold]
) -> Iterator[dict[str, Any]]:
    """The one row of ``cell``, which is trained as long as the ``later`` ones; what is left of the time, scoring shares
    with them. The trained model goes into ``folds``.
    """
    recipe = bench.recipe(cell)
    reset_memory(bench.device)
    fold, trained = bench.train(cell, recipe, Duration(10**9, training_s))
    folds.append(fold)
    training_gb = peak_gb(bench.device)
    checks_s = CHECKS * clock.seconds if later == len(CELLS) - 1 else 0.0
    scores = bench.score(fold, recipe, (clock.left() - checks_s - later * training_s) / (later + 1))
    yield {
        "setting": cell.setting,
        "training_cases": len(bench.packed.lists[cell.setting]),
        "recipe": cell.recipe,
        "prediction": recipe.objective.prediction,
        "train_seconds": trained.seconds,
        "iterations": trained.iterations,
        "precision": trained.precision,
        "training_gb": training_gb,
        "steps": recipe.sampler.steps_of(bench.packed.plan.diffusion),
        **scores,
    }


@dataclass(frozen=True)
class Bench:
    """What a training and a segmentation are made with."""

    packed: Packed
    device: torch.device
    workers: int

    def recipe(self, cell: Cell) -> JointRecipe:
        recipe = recipe_of(self.packed.plan, METHOD, cell.recipe)
        assert isinstance(recipe, JointRecipe)
        return recipe

    def train(
        self, cell: Cell, recipe: JointRecipe, duration: Duration, plan: Plan | None = None, precision: str = "auto"
    ) -> tuple[TrainedFold, Trained]:
        """By the trainer and the loader of the pipeline, without validation and checkpoints."""
        plan = plan or self.packed.plan
        method = create_method(METHOD, plan, recipe)
        assert isinstance(method, LearnedMethod)
        source, cases, last = self.packed.cases, self.packed.lists[cell.setting], duration.iterations
        with tempfile.TemporaryDirectory() as scratch:
            run = Run(Path(scratch), duration, 0, self.device, {}, precision, quiet=True, checkpoints=False)
            share = method.any_contrast
            batches = partial(
                training_batches, source, cases, plan, 0, last_iteration=last, workers=self.workers, any_contrast=share
            )
            trained = train(method, run, batches, None)
        weights = {name: tensor.cpu() for name, tensor in trained.weights.items()}
        return TrainedFold(plan, METHOD, cell.recipe, cell.setting, weights, {}), trained

    def prepared(self, case: str) -> Prepared:
        stored = open_case(self.packed.cases, case)
        image = stored.read_image()
        return Prepared(image, stored.record, scan_seed(0, image))

    def score(self, fold: TrainedFold, recipe: JointRecipe, seconds: float) -> dict[str, Any]:
        """Mean Dice on the scans' own grids of as many test cases as ``seconds`` allow, in a fixed random order."""
        predictor, start = Predictor([fold], self.device, recipe), time.monotonic()
        abreast = Predictor([fold], self.device, recipe, overlap=0.0, batch_size=WINDOWS)
        labels, references = self.packed.plan.dataset.labels, self.packed.references()
        found: list[list[float]] = []
        longest = 0.0
        for cases in self._groups():
            before = time.monotonic()
            if found and before - start + longest > seconds:
                break
            scans = [self.prepared(case) for case in cases]
            for case, scan, maps in zip(cases, scans, segmented(predictor, abreast, scans), strict=True):
                ours, truth = predictor.restore(maps, scan).labels, references[case]
                found.append([dice(ours == label.value, truth == label.value) for label in labels])
            longest = max(longest, time.monotonic() - before)
        means = np.nanmean(found, axis=0)
        row: dict[str, Any] = {"cases": len(found), "test_cases": len(references), "dice_mean": float(means.mean())}
        row |= {f"dice_{label.name}": float(mean) for label, mean in zip(labels, means, strict=True)}
        return row | {"seconds_per_case": (time.monotonic() - start) / len(found)}

    def _groups(self) -> Iterator[list[str]]:
        """The test cases, those that fit into the patch in groups that are segmented side by side."""
        cases = list(self.packed.lists["test"])
        random.Random(0).shuffle(cases)
        group: list[str] = []
        for case in cases:
            shape = open_case(self.packed.cases, case).shape
            if any(size > most for size, most in zip(shape, self.packed.plan.patch_size, strict=True)):
                yield [case]
                continue
            group.append(case)
            if len(group) == WINDOWS:
                yield group
                group = []
        if group:
            yield group


def segmented(predictor: Predictor, abreast: Predictor, scans: Sequence[Prepared]) -> list[PlannedSegmentation]:
    """Each of ``scans``. Several are padded to the patch and lie side by side in one volume, whose windows are the
    scans: a step takes one call of the network for all of them, where each alone would leave the device idle.
    """
    if len(scans) == 1:
        return [predictor.segment(scans[0])]
    patch = predictor.plan.patch_size
    padded = [pad_nd_image(s.image, patch, "constant", {"constant_values": IMAGE_PADDING}, return_slicer=True) for s in scans]
    row = replace(scans[0], image=np.concatenate([image for image, _ in padded], axis=1))
    pieces = abreast.segment(row).distances.split(patch[0], dim=1)
    return [PlannedSegmentation(one[(slice(None), *box[1:])]) for one, (_, box) in zip(pieces, padded, strict=True)]


# --------------------------------------------------------------------------------------------------------------- checks
def check_rows(bench: Bench, fold: TrainedFold, iterations: int) -> Iterator[dict[str, Any]]:
    """Labels by the device beside those of the CPU in float32: of single scans, of one of several windows, and of a
    network that was trained on each for ``iterations``.
    """
    cases = bench.packed.lists["test"][:CHECKED_CASES]
    scans = [bench.prepared(case) for case in cases]
    two = np.concatenate([scan.image for scan in (scans[0], scans[0])], axis=1)
    recipe = with_sampling(bench.recipe(CELLS[0]), steps=CHECKED_STEPS)
    asked = {"predictor": scans, "stitcher": [replace(scans[0], image=two)]}
    here = {what: planned_labels(fold, recipe, given, torch.device("cpu"), "float32") for what, given in asked.items()}
    for precision, limit in LIMITS.items():
        for what, given in asked.items():
            there = planned_labels(fold, recipe, given, bench.device, precision)
            yield check(what, precision, here[what], there, limit)
    network = bench.packed.plan.network
    network = replace(network, widths=tuple(max(4, width // 4) for width in network.widths))
    plan = replace(bench.packed.plan, network=network, training=replace(bench.packed.plan.training, batch_size=2))
    found, once = [], bench.recipe(CELLS[0])
    for device in (torch.device("cpu"), bench.device):
        trained, _ = replace(bench, device=device).train(CELLS[0], once, Duration(iterations, None), plan, "float32")
        found.append(planned_labels(trained, once, scans, torch.device("cpu"), "float32"))
    here_trained, there_trained = found
    yield check("trainer", "float32", here_trained, there_trained, TRAINER_LIMIT)


def planned_labels(
    fold: TrainedFold, recipe: Recipe, scans: Sequence[Prepared], device: torch.device, precision: str
) -> list[np.ndarray]:
    """Labels on the planned grid."""
    predictor = Predictor([fold], device, recipe, precision=precision)
    values = list(range(1, len(fold.plan.dataset.labels) + 1))
    return [decode_labels(predictor.segment(scan).distances.numpy(), values) for scan in scans]


def check(what: str, precision: str, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray], limit: float) -> dict[str, Any]:
    """The share of the voxels labelled by either that are not labelled alike; without any there is nothing to check."""
    either = [(one > 0) | (other > 0) for one, other in zip(ours, theirs, strict=True)]
    voxels = int(sum(inside.sum() for inside in either))
    other = int(sum((a != b).sum() for a, b in zip(ours, theirs, strict=True)))
    share = other / voxels if voxels else float("nan")
    return {
        "check": what,
        "precision": precision,
        "voxels": voxels,
        "differing": share,
        "limit": limit,
        "passed": share <= limit,
    }
