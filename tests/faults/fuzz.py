"""Damaged files of every kind that is read: each is refused in words, or read; nothing else.

    python -m tests.faults.fuzz --count 20000

Prints how many files of each kind were refused and read, and the slowest; ends with 1 at any other exception. Every
file depends on ``--seed`` and its number alone; ``--only KIND --first N --count 1`` makes one again.
"""

from __future__ import annotations

import argparse
import io
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffatlas_pipeline.atlases import registered
from diffatlas_pipeline.atlases.registered import AtlasAnswer
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.datasets.splits import load_splits
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import from_json, to_json
from diffatlas_pipeline.inference.calibration import Calibration, Curve, read_calibration
from diffatlas_pipeline.inference.export import read_record
from diffatlas_pipeline.inference.familiarity import KnownCases
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.models.archive import UnpackedModel
from diffatlas_pipeline.models.atlas_file import write_atlases
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.postprocessing import Measured, Postprocessing
from diffatlas_pipeline.preprocessing.store import list_stored, open_case
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.training.checkpoints import TrainingStatus, load_checkpoint, save_checkpoint
from diffatlas_pipeline.training.log import TrainingLog
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import FILE_ENDINGS, VOLUME_ENDINGS, read_grid, read_labels, read_volume, write_labels
from tests.factories import make_plan, store_cases
from tests.faults.mutations import mutated
from tests.model_files import add_fold, plan
from tests.planning.raw_data import write_dataset
from tests.volumes.test_dicom import write_series

SLOWEST_S = 20.0
LABELS = np.random.default_rng(0).integers(0, 3, (7, 6, 5))


@dataclass(frozen=True)
class Kind:
    """A kind of file: ``make`` writes good ones into a folder, ``read`` reads what is there; ``damaged`` names those
    that are damaged, by pattern. ``allowed`` are the exceptions that say so in words.
    """

    make: Callable[[Path], object]
    read: Callable[[Path], object]
    damaged: str = "**/*"
    allowed: tuple[type[Exception], ...] = (UserError,)


def _image(ending: str) -> Kind:
    def read(folder: Path) -> None:
        refused = None
        for reader in (read_grid, lambda path: read_volume([path]), read_labels):
            try:
                reader(folder / f"a{ending}")
            except UserError as error:  # all three are tried: they do not read the same parts
                refused = error
        if refused is not None:
            raise refused

    labels = LABELS if ending in VOLUME_ENDINGS else LABELS[:, :, :1]
    grid = Grid.of(labels.shape, np.eye(4), 3 if ending in VOLUME_ENDINGS else 2)
    return Kind(lambda folder: write_labels(folder / f"a{ending}", labels, grid), read)


def _model(folder: Path) -> None:
    ModelFolder.create(folder / "diffatlas__default", plan())
    add_fold(folder / "diffatlas__default", "fold0")
    measured = Measured("small", "filled_holes", True, 4, 4, 0, 0.5, 0.75)
    ModelFolder(folder / "diffatlas__default").write_postprocessing("fold0", Postprocessing((measured,)))


def _knowing(folder: Path) -> None:
    """A model with all that is kept beside its weights."""
    _model(folder)
    model = ModelFolder(folder / "diffatlas__default")
    maps = np.where(LABELS == 1, -0.5, 0.5).astype(np.float32)[None].repeat(2, axis=0)
    write_atlases(model.path / "fold0", [Atlas("a", maps[:1], maps), Atlas("b", -maps[:1], maps)])
    rng = np.random.default_rng(1)
    cases = tuple("abcde")
    numbers = tuple({aspect: tuple(map(float, rng.normal(size=3))) for aspect in ("sizes", "places")} for _ in cases)
    model.write_known_cases("fold0", to_json(KnownCases(cases, True, numbers)))
    volumes = VolumeErrors(cases, tuple(tuple(map(float, rng.normal(size=2))) for _ in cases))
    model.write_calibration("fold0", to_json(Calibration(Curve((0.1, 0.5), (0.2, 0.6)), volumes, 3.0)))


def _use(folder: Path) -> None:
    fold = ModelFolder(folder / "diffatlas__default").load("fold0")
    assert fold.known_cases is not None and fold.calibration is not None
    known = from_json(KnownCases, fold.known_cases, "known cases")
    known.compare({"sizes": (0.0,) * 3, "places": (0.0,) * 3})
    calibration = read_calibration(fold.calibration, "fold0", 2)
    calibration.errors.calibrated(np.linspace(0, 1, 5))
    VolumeErrors.joined([calibration.volumes]).interval(1, 2.0, 0.9)


def _registration(folder: Path) -> None:
    registered._write(folder / "a.npz", AtlasAnswer(np.zeros((1, 3, 4, 5)), np.zeros((2, 3, 4, 5)), 1.0))


def _packed(folder: Path) -> None:
    _model(folder / "unpacked")
    shutil.make_archive(str(folder / "model"), "zip", folder / "unpacked")
    shutil.rmtree(folder / "unpacked")


def _read_packed(folder: Path) -> None:
    model = UnpackedModel(folder / "model.zip")  # kept: its temporary folder goes with it
    model.folder.load("fold0")


def _checkpoint(folder: Path) -> None:
    import torch

    for iteration in (1, 2):
        save_checkpoint(folder, {"network.weight": torch.arange(6.0)}, TrainingStatus(iteration, 1.0, {"seed": 0}))


def _stored(folder: Path) -> None:
    store_cases(folder, make_plan(), [(9, 8, 7)])


def _read_stored(folder: Path) -> None:
    for case in list_stored(folder):
        stored = open_case(folder, case)
        stored.read_image()
        assert stored.distances is not None
        stored.distances[:]


def _splits(folder: Path) -> None:
    (folder / "splits.json").write_text('{"fold0": {"train": ["a", "b"], "validation": ["c"]}}', encoding="utf-8")


def _record(folder: Path) -> None:
    text = '{"cases": {"a": {"status": "written", "seconds": {"read": 0.5}}}}'
    (folder / "prediction.json").write_text(text, encoding="utf-8")


def _log(folder: Path) -> None:
    (folder / "log.csv").write_text("iteration,seconds,loss\n1,2.5,0.5\n2,5.0,0.25\n", encoding="utf-8")


KINDS: dict[str, Kind] = {
    **{f"image{ending}": _image(ending) for ending in FILE_ENDINGS},
    "DICOM": Kind(lambda folder: write_series(folder, LABELS), lambda folder: read_volume([folder])),
    "dataset.json": Kind(
        lambda folder: write_dataset(folder, cases=2, shape=(6, 6, 6)),
        lambda folder: read_dataset(folder / "Dataset007_Balls"),
        "*/dataset.json",
    ),
    "plans.json": Kind(_model, lambda folder: ModelFolder(folder / "diffatlas__default").plan(), "*/plans.json"),
    "model": Kind(_model, lambda folder: ModelFolder(folder / "diffatlas__default").load("fold0"), "*/fold0/*"),
    "model.zip": Kind(_packed, _read_packed),
    "atlases.safetensors": Kind(_knowing, _use, "*/fold0/atlases.safetensors"),
    "known_cases.json": Kind(_knowing, _use, "*/fold0/known_cases.json"),
    "calibration.json": Kind(_knowing, _use, "*/fold0/calibration.json"),
    "kept registration": Kind(_registration, lambda folder: registered._read(folder / "a.npz")),
    "checkpoint": Kind(_checkpoint, load_checkpoint, allowed=(ValueError,)),
    "stored case": Kind(_stored, _read_stored),
    "splits.json": Kind(_splits, lambda folder: load_splits(folder / "splits.json", ["a", "b", "c"])),
    "prediction.json": Kind(_record, lambda folder: read_record(folder / "prediction.json")),
    "log.csv": Kind(_log, lambda folder: TrainingLog(folder, 1)),
}


def fuzz(kind: str, numbers: range, seed: int) -> tuple[Counter[str], list[str], float]:
    """How many of the damaged files ``numbers`` were "refused" and "read", what failed, and the slowest's seconds."""
    found, failed, slowest = Counter[str](), [], 0.0
    chosen = KINDS[kind]
    with tempfile.TemporaryDirectory() as scratch:
        good = Path(scratch) / "good"
        good.mkdir()
        chosen.make(good)
        chosen.read(good)  # else every refusal would be of something else
        files = sorted(path.relative_to(good) for path in good.glob(chosen.damaged) if path.is_file())
        for number in numbers:
            rng = np.random.default_rng((seed, number))
            folder = Path(scratch) / "damaged"
            shutil.copytree(good, folder)
            victim = files[int(rng.integers(len(files)))]
            (folder / victim).write_bytes(mutated((good / victim).read_bytes(), rng))
            start = time.perf_counter()
            try:
                with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                    chosen.read(folder)
                found["read"] += 1
            except chosen.allowed as error:
                found["refused"] += 1
                if not str(error):
                    failed.append(f"{kind} {number}: refused without a word")
            except Exception:
                failed.append(f"{kind} {number} ({victim}): {traceback.format_exc()}")
            seconds = time.perf_counter() - start
            if seconds > SLOWEST_S:
                failed.append(f"{kind} {number} ({victim}): took {seconds:.0f} s")
            slowest = max(slowest, seconds)
            shutil.rmtree(folder)
    return found, failed, slowest


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--count", type=int, default=20000, help="damaged files in all (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--only", choices=KINDS, help="one kind alone")
    parser.add_argument("--first", type=int, default=0, help="number of the first file of each kind (default: %(default)s)")
    asked = parser.parse_args()
    kinds = [asked.only] if asked.only else list(KINDS)
    all_failed, each = [], -(-asked.count // len(kinds))
    for kind in kinds:
        found, failed, slowest = fuzz(kind, range(asked.first, asked.first + each), asked.seed)
        counts = f"{each} damaged, {found['refused']} refused, {found['read']} read, {len(failed)} failed"
        print(f"{kind}: {counts}; slowest {slowest:.2f} s", flush=True)
        all_failed += failed
    print("\n".join(all_failed))
    return 1 if all_failed else 0


if __name__ == "__main__":
    sys.exit(main())
