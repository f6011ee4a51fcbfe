"""nnU-Net itself beside our methods: the same raw data, cases, training time, cores and evaluation, in one call.

nnU-Net is installed into a virtual environment of its own in the workspace, and uses its default plan. Its scans of
another modality are shown as they are. It goes on after an interruption.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks import nnunet_trainer
from benchmarks.commands import add_places, do, main_of
from benchmarks.comparison import Cells, words_of
from benchmarks.nnunet_environment import VERSION, call, install, place_in
from benchmarks.protocols import PROTOCOLS, Prepared, prepare
from benchmarks.record import RESULTS, machine, read_rows
from diffatlas_pipeline.benchmark.cells import safe
from diffatlas_pipeline.benchmark.choices import UNADAPTED, ZERO_SHOT, MethodChoice
from diffatlas_pipeline.benchmark.settings import PreparedSetting, TestSet, check_settings, known_splits, prepare_settings
from diffatlas_pipeline.datasets.links import link_cases
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.splits import Split
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.machine import default_workers, usable_cores
from diffatlas_pipeline.networks.execution import resolve_device
from diffatlas_pipeline.training.schedule import seconds_of

CONFIGURATION = "3d_fullres"
VARIANTS = {"nnunet": "nnUNetTrainerByTime", "nnunet-no-mirroring": "nnUNetTrainerByTimeNoMirroring"}
"""What the results call a variant, and its class in nnunet_trainer.py."""
KEYS = ["protocol", "setting", "method", "minutes", "device"]  # of a row
MEASURED = ["dice", "nsd", "iterations", "seconds_per_case"]
MOST_AUGMENTERS = 12  # nnU-Net's own number


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Train, predict and evaluate nnU-Net and our methods on a fixed protocol, and keep the rows.",
        epilog="examples:\n  python -m benchmarks.nnunet heart-ct --settings full zero-shot:12 --max-time 10m\n"
        "  python -m benchmarks.nnunet hippocampus --settings full 4-shot --variants nnunet --alone",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS)
    made.add_argument("--settings", nargs="+", default=["full"], metavar="S", help="as DiffAtlas_benchmark (default: full)")
    made.add_argument("--variants", nargs="+", choices=VARIANTS, default=[*VARIANTS], help="of nnU-Net (default: both)")
    made.add_argument("--methods", nargs="+", default=["diffatlas", "icf"], metavar="M", help="ours (default: diffatlas icf)")
    made.add_argument("--alone", action="store_true", help="leave our methods out")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="time of each training (default: %(default)s)")
    made.add_argument("--device", choices=("auto", "cpu", "cuda", "mps"), default="auto", help="(default: auto)")
    add_places(made)
    made.add_argument("--results", type=Path, default=RESULTS / "nnunet.csv", metavar="FILE", help="(default: ours)")
    return made


def run(
    protocol: str,
    settings: list[str],
    variants: list[str],
    methods: list[str],
    alone: bool,
    max_time: str,
    device: str,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Make the data, install nnU-Net, run all cells, keep their rows. UserError or CommandFailed if one fails."""
    seconds, device = seconds_of(max_time), resolve_device(device).type
    prepared = prepare(protocol, data, workspace, (0,), settings)
    asked, splits = cases_of(prepared, settings, Workspace.resolve(workspace))
    theirs = NnUnet(workspace.resolve() / "nnunet", Workspace.resolve(workspace).raw, device, seconds)
    install(theirs.environment)
    theirs.plan(prepared.number)
    common = {"protocol": protocol, "minutes": round(seconds / 60, 3), "device": device}
    for setting in asked:
        split = splits[setting.pools[0].split]
        for variant in variants:
            keep([common | theirs.row(prepared.number, setting, split, variant)], results)
    if not alone:
        place = theirs.folder / "ours" / f"{protocol}_{max_time.replace(' ', '')}_{device}"
        how = ["--max-time", max_time, "--device", device, "--no-mean-atlas", "-o", str(place)]
        words = [*words_of(Cells(tuple(settings), tuple(methods))), *how, *prepared.options, "--workspace", str(workspace)]
        do("benchmark", ["-d", str(prepared.number), *words])
        keep([common | row for row in our_rows(place / "table.csv")], results)
    print(f"Kept: {results}")


# ---------------------------------------------------------------------------------------------------------------- cases
def cases_of(prepared: Prepared, texts: Sequence[str], places: Workspace) -> tuple[list[PreparedSetting], dict[str, Split]]:
    """The settings with the cases that DiffAtlas_benchmark trains on and tests, and all splits by name.

    Every zero-shot test is one of unadapted scans, as nnU-Net adapts nothing. UserError as the benchmark.
    """
    dataset = read_dataset(places.raw_dataset(str(prepared.number)))
    values = [label.value for label in dataset.description.labels]
    if sorted(values) != [*range(1, len(values) + 1)]:
        raise UserError(f"{dataset.folder / 'dataset.json'}: labels {values}, but nnU-Net takes 1, 2, ... without a gap.")
    texts = list(dict.fromkeys(UNADAPTED + text.removeprefix(ZERO_SHOT) if ZERO_SHOT in text else text for text in texts))
    settings = check_settings(texts, dataset, lambda name: read_dataset(places.raw_dataset(name)))
    named = dict(zip(prepared.options[::2], prepared.options[1::2], strict=True))
    own = Path(named["--splits-file"]) if "--splits-file" in named else None
    planned = places.preprocessed / dataset.folder.name / "splits.json"
    splits = known_splits(planned, own, [files.case for files in dataset.training])
    return prepare_settings(settings, dataset, splits, (0,)), {name: split for name, (split, _) in splits.items()}


def as_fold(split: Split) -> list[dict[str, list[str]]]:
    """nnU-Net's ``splits_final.json``: ``split`` as its only fold.

    nnU-Net needs a validation case, though none is ever looked at: a training case where the split has none.
    """
    return [{"train": list(split.train), "val": list(split.validation or split.train[:1])}]


# -------------------------------------------------------------------------------------------------------------- nnU-Net
@dataclass(frozen=True)
class NnUnet:
    """nnU-Net, all of whose files lie in ``folder``. ``raw`` holds the data sets; ``seconds`` is a training's time."""

    folder: Path
    raw: Path
    device: str
    seconds: float

    @property
    def environment(self) -> Path:
        return self.folder / "environment"

    def plan(self, number: int) -> None:
        """nnU-Net's default plan, and the preprocessed cases, unless they are there."""
        complete = self.folder / "preprocessed" / f"complete_{number}.txt"
        if complete.is_file():
            return
        processes = str(default_workers())
        words = ["-d", str(number), "-c", CONFIGURATION, "-np", processes, "-npfp", processes]
        self._do("plan_and_preprocess", [*words, "--verify_dataset_integrity", "--clean", "--no_pbar"], self.folder)
        write_text_atomically(complete, VERSION)

    def row(self, number: int, setting: PreparedSetting, split: Split, variant: str) -> dict[str, Any]:
        """Train unless that is done, predict the test cases, evaluate: what the results file says of it."""
        name = f"{safe(setting.text)}_{number}_{self.seconds:g}s_{self.device}_{variant}"
        place = self.folder / "predictions" / name
        done = place / "row.json"
        if not done.is_file():
            training = self.train(number, setting.pools[0].split, split, variant)
            per_case = self._predict(number, setting, variant, place)
            labels = str(self._test_set(setting.test) / "labelsTs")
            do("evaluate", ["-p", str(place), "-r", labels, "-o", str(place / "evaluation")])
            mean = json.loads((place / "evaluation" / "summary.json").read_text(encoding="utf-8"))["mean"]
            scores = {"setting": setting.text, "method": variant, "dice": round(mean["dice"], 6), "nsd": round(mean["nsd"], 6)}
            row = scores | {"seconds_per_case": round(per_case, 3)} | training | {"nnunetv2": VERSION} | machine()
            write_text_atomically(done, json.dumps(row, indent=2) + "\n")
        return json.loads(done.read_text(encoding="utf-8"))

    def train(self, number: int, name: str, split: Split, variant: str) -> dict[str, Any]:
        """What the trainer says of its training on the split called ``name``, which is not repeated if it is done."""
        results, trainer = self._results(name), VARIANTS[variant]
        (planned,) = (self.folder / "preprocessed").glob(f"Dataset{number:03d}_*")
        found = results / planned.name / f"{trainer}__nnUNetPlans__{CONFIGURATION}" / "fold_0" / nnunet_trainer.SUMMARY
        if not found.is_file():
            write_text_atomically(planned / "splits_final.json", json.dumps(as_fold(split), indent=2) + "\n")
            self._do("train", [str(number), CONFIGURATION, "0", "-tr", trainer, "-device", self.device], results)
        return json.loads(found.read_text(encoding="utf-8"))

    def _predict(self, number: int, setting: PreparedSetting, variant: str, place: Path) -> float:
        """Seconds per case of predicting the test cases into ``place``."""
        shutil.rmtree(place, ignore_errors=True)
        words = ["-i", str(self._test_set(setting.test) / "imagesTs"), "-o", str(place), "-d", str(number), "-f", "0"]
        words += ["-c", CONFIGURATION, "-tr", VARIANTS[variant], "-chk", "checkpoint_final.pth", "-device", self.device]
        start = time.time()
        self._do("predict", [*words, "-npp", "1", "-nps", "1"], self._results(setting.pools[0].split))
        cases = {files.case for files in setting.test.cases}
        written = [path.stat().st_mtime for path in place.iterdir() if path.name.split(".")[0] in cases]
        return seconds_per_case(start, written)

    def _test_set(self, test: TestSet) -> Path:
        place = self.folder / "test_sets" / safe(test.dataset)
        link_cases(test.cases, test.description, place)
        return place

    def _results(self, split: str) -> Path:
        return self.folder / "trained" / f"{safe(split)}_{self.seconds:g}s_{self.device}"

    def _do(self, command: str, words: Sequence[str], results: Path) -> None:
        program = place_in(self.environment, "scripts") / f"nnUNetv2_{command}"
        call([str(program), *words], os.environ | self.variables(results))

    def variables(self, results: Path) -> dict[str, str]:
        """nnU-Net's folders, its threads (as many as ours), and a process for augmentation on each other core."""
        threads = torch.get_num_threads()
        return {
            "nnUNet_raw": str(self.raw),
            "nnUNet_preprocessed": str(self.folder / "preprocessed"),
            "nnUNet_results": str(results),
            "nnUNet_n_proc_DA": str(min(MOST_AUGMENTERS, max(1, usable_cores() - 1))),
            "nnUNet_def_n_proc": str(threads),
            nnunet_trainer.SECONDS: str(self.seconds),
            nnunet_trainer.THREADS: str(threads),
        }


def seconds_per_case(start: float, written: Iterable[float]) -> float:
    """Mean time between two written segmentations, which leaves out nnU-Net's start; from the start if there is one.

    UserError if nothing was written.
    """
    times = sorted(written)
    if not times:
        raise UserError("nnU-Net predicted no case; its messages above say why.")
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else times[0] - start


# ----------------------------------------------------------------------------------------------------------------- rows
def our_rows(table: Path) -> list[dict[str, Any]]:
    """The rows of our benchmark's ``table``, as the results file has them."""
    rows = []
    for row in pd.read_csv(table).to_dict("records"):
        if row["seeds"] == 0:  # not run
            continue
        row_of = {"setting": row["setting"], "method": MethodChoice(row["method"], row["recipe"]).text}
        row_of |= {"dice": round(row["dice_average"], 6), "nsd": round(row["nsd_average"], 6)}
        row_of["seconds_per_case"] = round(row["seconds_per_case"], 3)
        if row["iterations"] > 0:
            row_of |= {"iterations": round(row["iterations"]), "seconds": round(row["train_seconds"], 1)}
            row_of["seconds_per_iteration"] = round(row["train_seconds"] / row["iterations"], 4)
        rows.append(row_of | machine())
    return rows


def keep(rows: Iterable[dict[str, Any]], path: Path) -> None:
    """Put ``rows`` into the file ``path`` in place of those of the same key; what says the same stays as it was."""
    before = read_rows(path).to_dict("records") if path.is_file() else []
    table = {tuple(row[key] for key in KEYS): row for row in before}
    for row in rows:
        key = tuple(row[key] for key in KEYS)
        if key not in table or _measured(table[key]) != _measured(row):
            table[key] = row
    write_text_atomically(path, pd.DataFrame(table.values()).convert_dtypes().to_csv(index=False, lineterminator="\n"))


def _measured(row: dict[str, Any]) -> list[Any]:
    return [None if pd.isna(row.get(name)) else row[name] for name in MEASURED]


if __name__ == "__main__":
    main()
