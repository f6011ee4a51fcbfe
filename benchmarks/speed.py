"""What the planned networks cost beside a network of the shape that the DiffAtlas authors use, counted and timed in one run."""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.authors_network import STEPS
from benchmarks.costs import Counts, Stopwatch, Subject, count, peak_memory
from benchmarks.record import RESULTS, machine
from benchmarks.tables import speed_table
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.networks.memory import training_bytes
from diffatlas_pipeline.planning.plan import Budget
from diffatlas_pipeline.planning.recipes import default_recipes
from diffatlas_pipeline.planning.topology import plan_batch_size, plan_topology
from diffatlas_pipeline.volumes.grids import Triple, TripleMm

BUDGETS = {"planned for a CPU": Budget(8, "cpu", "cpu"), "planned for an 8 GB GPU": Budget(8, "cuda", "gpu8")}
SPACING_MM: TripleMm = (1.0, 1.0, 1.0)
HIPPOCAMPUS: Triple = (35, 51, 35)  # median case of Task04_Hippocampus
HIPPOCAMPUS_CASES, HIPPOCAMPUS_CHANNELS = 160, 3  # one image, two labels
CUBE: Triple = (64, 64, 64)
CUBE_CHANNELS = 6  # one image, five labels, as the authors'
AUTHORS = "authors' shape"
CLAIMS = {"planned for a CPU": 500, "planned for an 8 GB GPU": 50}  # times fewer FLOPs per case than the authors' setting
MOST_MEMORY = 0.6  # of the machine's, for a training step of the authors' network to be timed
COUNTER = (
    "torch.utils.flop_counter.FlopCounterMode on the meta device; a multiplication and an addition count as two; only "
    "convolutions and matrix products count"
)


def main(argv: list[str] | None = None) -> None:
    arguments = parser().parse_args(argv)
    if arguments.repeats < 1:
        parser().error(f"--repeats {arguments.repeats}: at least 1 is needed")
    try:
        held = run(arguments)
    except UserError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0 if held else 1)


def run(arguments: argparse.Namespace) -> bool:
    """Count, time, print, write; whether all claims hold. UserError for a device that is not there."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    compared = subjects()
    counts = {subject: count(subject) for subject in compared}
    timed = [subject for subject in compared if is_timed(subject, arguments)]
    times = measure(timed, counts, device, min(3, arguments.repeats) if arguments.quick else arguments.repeats)
    memory = {} if arguments.quick or arguments.no_memory else measure_memory(timed, counts, device)
    rows = [row(subject, counts, times.get(subject), memory.get(subject)) for subject in compared]
    table = pd.DataFrame(rows)
    print(speed_table(table))
    print(f"\nFLOPs: {COUNTER}.")
    if arguments.output or not arguments.quick:
        for path in write(table, compared, str(device), arguments.output or RESULTS / "speed.csv"):
            print(f"Written: {path}")
    return report_claims(rows)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="FLOPs, times and memory of a sampling step and a training step of the planned networks, beside a network\n"
        "of the shape that the DiffAtlas authors use (only its shape: it is never trained).",
        epilog="example:\n  python -m benchmarks.speed --time-authors",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--quick", action="store_true", help="count everything, time only the CPU's networks, write no file")
    made.add_argument("--time-authors", action="store_true", help="also time the authors' shape (minutes on a CPU)")
    made.add_argument("--no-memory", action="store_true", help="do not measure peak memory in processes of their own")
    made.add_argument("--repeats", type=int, default=9, metavar="N", help="times each step is timed (default: %(default)s)")
    made.add_argument("--threads", type=int, metavar="N", help="threads of torch (default: its own choice)")
    made.add_argument("--device", default="cpu", help="auto, cpu, cuda, mps (default: %(default)s)")
    made.add_argument(
        "--output",
        type=Path,
        metavar="CSV",
        help="results file; a .json goes beside it (default: documentation/results/speed.csv)",
    )
    return made


def subjects() -> list[Subject]:
    """The networks in the settings that are compared: hippocampus-sized cases, and 64^3 with six channels beside the authors'.

    Topology, patch and batch are the planner's, for 160 hippocampus cases; at 64^3 all batches are 1, for comparison.
    """
    steps = forwards_per_volume()
    found = []
    for name, budget in BUDGETS.items():
        network, patch, _ = plan_topology(budget, HIPPOCAMPUS, SPACING_MM, HIPPOCAMPUS_CHANNELS, training_bytes)
        voxels = HIPPOCAMPUS_CASES * math.prod(HIPPOCAMPUS)
        batch, _ = plan_batch_size(budget, network, patch, HIPPOCAMPUS_CHANNELS, voxels, training_bytes)
        found.append(Subject(name, network, HIPPOCAMPUS_CHANNELS, HIPPOCAMPUS, patch, batch, steps))
    for name, budget in BUDGETS.items():
        network, patch, _ = plan_topology(budget, CUBE, SPACING_MM, CUBE_CHANNELS, training_bytes)
        found.append(Subject(name, network, CUBE_CHANNELS, CUBE, patch, 1, steps))
    return [*found, Subject(AUTHORS, None, CUBE_CHANNELS, CUBE, CUBE, 1, STEPS)]


def forwards_per_volume() -> int:
    """Evaluations of a window by the default recipe, all its draws and repeats included."""
    recipe = default_recipes()[0]
    if not recipe.steps:
        raise ValueError("the default recipe has no number of steps of its own")
    return recipe.steps * recipe.resampling * recipe.draws


def is_timed(subject: Subject, arguments: argparse.Namespace) -> bool:
    if subject.plan is None:
        return bool(arguments.time_authors)
    return not arguments.quick or subject.name == "planned for a CPU"


@dataclass(frozen=True)
class Times:
    """Milliseconds of single steps, in the order they were taken; ``training`` is empty where it was not timed."""

    sampling: list[float]
    training: list[float]
    precision: str


def measure(
    timed: Sequence[Subject], counts: dict[Subject, Counts], device: torch.device, repeats: int
) -> dict[Subject, Times]:
    """Time all steps in turn, ``repeats`` times around, so that what else the machine does meets all of them alike."""
    watches = {subject: Stopwatch(subject, device) for subject in timed}
    tasks: list[tuple[Callable[[], float], list[float]]] = []
    times: dict[Subject, tuple[list[float], list[float]]] = {}
    for subject, watch in watches.items():
        times[subject] = [], []
        tasks.append((watch.sampling_ms, times[subject][0]))
        if fits(counts[subject], device):
            tasks.append((watch.training_ms, times[subject][1]))
    _say(f"warming up {len(tasks)} steps")
    for task, _ in tasks:
        task()
    for repeat in range(repeats):
        _say(f"timing, round {repeat + 1} of {repeats}")
        for task, found in tasks:
            found.append(task())
    return {
        subject: Times(*times[subject], "/".join(watch.precision(train) for train in (False, True) if times[subject][train]))
        for subject, watch in watches.items()
    }


def fits(counted: Counts, device: torch.device) -> bool:
    """Whether a training step fits the device's memory well."""
    total = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else _memory_bytes()
    return counted.training_bytes < MOST_MEMORY * total


def _memory_bytes() -> float:
    """Memory that is free now; infinite where the system does not say."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError):
        return math.inf


def measure_memory(
    timed: Sequence[Subject], counts: dict[Subject, Counts], device: torch.device
) -> dict[Subject, dict[str, float]]:
    """Peak memory in GB of sampling and training, each in a process of its own, and of such a process before it began."""
    found = {}
    for subject in timed:
        _say(f"memory of {subject.name}, {_text(subject.volume)}")
        sampling, start = peak_memory(subject, False, str(device), torch.get_num_threads())
        found[subject] = {"peak_sampling_gb": sampling, "start_gb": start}
        if fits(counts[subject], device):
            found[subject]["peak_training_gb"], _ = peak_memory(subject, True, str(device), torch.get_num_threads())
    return found


def row(
    subject: Subject, counts: dict[Subject, Counts], times: Times | None, memory: dict[str, float] | None
) -> dict[str, Any]:
    """One row of the results file; what was not measured is None."""
    counted, forwards = counts[subject], subject.steps * subject.windows
    case_flops = forwards * counted.forward_flops
    sampling, training = (times.sampling, times.training) if times else ([], [])
    middle = statistics.median(sampling) if sampling else None
    return {
        "network": subject.name,
        "input": _text(subject.volume),
        "channels": subject.channels,
        "patch": _text(subject.patch),
        "windows": subject.windows,
        "steps": subject.steps,
        "forwards_per_case": forwards,
        "parameters": counted.parameters,
        "forward_gflop": counted.forward_flops / 1e9,
        "case_tflop": case_flops / 1e12,
        "flops_ratio": flops_ratio(subject, counts),
        "batch": subject.batch,
        "training_gflop": counted.training_flops / 1e9,
        "training_gb": counted.training_bytes / 1e9,
        **_spread("sampling_ms", sampling),
        "case_s": None if middle is None else forwards * middle / 1000,
        **_spread("training_ms", training),
        "repeats": len(sampling),
        "precision": times.precision if times else None,
        **{key: (memory or {}).get(key) for key in ("peak_sampling_gb", "peak_training_gb", "start_gb")},
    }


def flops_ratio(subject: Subject, counts: dict[Subject, Counts]) -> float | None:
    """How many times fewer FLOPs per case than the authors' setting on the same input; None on another input."""
    authors = next((other for other in counts if other.plan is None), None)
    if authors is None or (subject.volume, subject.channels) != (authors.volume, authors.channels):
        return None
    theirs = authors.steps * authors.windows * counts[authors].forward_flops
    return theirs / (subject.steps * subject.windows * counts[subject].forward_flops)


def report_claims(rows: Sequence[dict[str, Any]]) -> bool:
    """Print each claim and whether it holds, and by how much the times differ where they were taken; whether all hold."""
    beside = {one["network"]: one for one in rows if one["flops_ratio"] is not None}
    for name, wanted in CLAIMS.items():
        ratio = beside[name]["flops_ratio"]
        verdict = "holds" if ratio >= wanted else "FAILS"
        print(f"At least {wanted} times fewer FLOPs per case, {name}: {ratio:,.0f} times, {verdict}")
        if beside[AUTHORS]["case_s"] and beside[name]["case_s"]:
            print(
                f"Time per case on this machine, {name}: {beside[AUTHORS]['case_s'] / beside[name]['case_s']:,.0f} times less"
            )
    return all(beside[name]["flops_ratio"] >= wanted for name, wanted in CLAIMS.items())


def write(table: pd.DataFrame, compared: Sequence[Subject], device: str, path: Path) -> tuple[Path, Path]:
    """The table as CSV, each row with the machine, and all of it as JSON beside it; returns their paths."""
    made_on = {**machine(), "device": device}
    described = {"machine": made_on, "flops": COUNTER, "compared": [asdict(subject) for subject in compared]}
    rows = json.loads(table.to_json(orient="records"))
    write_text_atomically(path, table.assign(**made_on).to_csv(index=False, float_format="%.6g", lineterminator="\n"))
    write_text_atomically(path.with_suffix(".json"), json.dumps({**described, "rows": rows}, indent=2) + "\n")
    return path, path.with_suffix(".json")


def _spread(name: str, values: Sequence[float]) -> dict[str, float | None]:
    """Median and quartiles."""
    if not values:
        return {name: None, f"{name}_low": None, f"{name}_high": None}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {name: middle, f"{name}_low": low, f"{name}_high": high}


def _say(text: str) -> None:
    print(f"{text} ...", file=sys.stderr, flush=True)


def _text(shape: Triple) -> str:
    return " x ".join(str(n) for n in shape)


if __name__ == "__main__":
    main()
