"""Why more sampling steps do not help: how far a network believes the noisy mask that it is given.

One network evaluation, with the image clean, at a row of mask noise levels. The mask that is made noisy is once the true one,
as in training, and once the network's own single-step answer, as in sampling. A network that re-reads the image would answer
its own mask as well as its first answer was; one that believes what it is given repeats, or adds to, that answer's errors.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from acvl_utils.cropping_and_padding.padding import pad_nd_image
from torch import Tensor
from tqdm import tqdm

from benchmarks.record import RESULTS, machine
from diffatlas_pipeline.data.patches import IMAGE_PADDING
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.diffusion.levels import add_noise
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.methods.base import case_generator
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.models.folder import ModelFolder, TrainedFold
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.store import open_case

LEVELS = (0.999, 0.9, 0.75, 0.5, 0.25, 0.1)


def main(argv: list[str] | None = None) -> None:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("-m", "--model", type=Path, required=True, metavar="FOLDER", help="model folder, .../diffatlas__RECIPE")
    made.add_argument(
        "-f", "--fold", default="fold0", help="trained fold whose validation cases are used (default: %(default)s)"
    )
    made.add_argument("--preprocessed", type=Path, required=True, metavar="FOLDER", help="its preprocessed data set")
    made.add_argument("--cases", type=int, default=12, metavar="N", help="validation cases (default: %(default)s)")
    made.add_argument("--output", type=Path, default=RESULTS / "steps_why.csv", metavar="CSV")
    arguments = made.parse_args(argv)
    fold = ModelFolder.find(Workspace.resolve(), path=arguments.model).load(arguments.fold)
    table = measure(fold, arguments.preprocessed, fold.metadata["validation_cases"][: arguments.cases])
    write_text_atomically(arguments.output, table.assign(**machine()).to_csv(index=False, lineterminator="\n"))
    print(table.to_string(index=False, float_format=lambda value: f"{value:.3f}"))
    print(f"Written: {arguments.output}")


@torch.inference_mode()
def measure(fold: TrainedFold, preprocessed: Path, cases: list[str]) -> pd.DataFrame:
    """One row per level: mean Dice of a single evaluation from the true noisy mask, and from the network's own."""
    method = DiffAtlas(fold.plan, fold.plan.recipe(fold.recipe))
    network = method.build_network()
    network.load_state_dict(fold.state)
    network.eval()
    rows: list[dict[str, Any]] = []
    for case in tqdm(cases, desc="Cases", delay=1):
        image, truth = padded_case(fold, preprocessed, case)
        eps = torch.randn(truth.shape, generator=case_generator(0, case, 0))
        first = answer(method, network, image, truth, eps, LEVELS[0])
        for level in LEVELS:
            row: dict[str, Any] = {"mask_level": level}
            for name, mask in (("true", truth), ("own", first)):
                found = answer(method, network, image, mask, eps, level)
                row[f"dice_from_{name}_mask"] = mean_dice(found, truth)
            rows.append(row)
    table = pd.DataFrame(rows).groupby("mask_level", as_index=False).mean().sort_values("mask_level", ascending=False)
    return table.assign(cases=len(cases))


def answer(method: DiffAtlas, network: torch.nn.Module, image: Tensor, mask: Tensor, eps: Tensor, level: float) -> Tensor:
    """Clean distances (K, X, Y, Z) that the network makes of ``mask`` at noise ``level`` beside the clean image."""
    noisy = add_noise(mask, eps, torch.tensor(level))
    state = torch.cat([image, noisy])[None]
    return method.denoise_windows(network, state, 0.0, level)[0, len(image) :].clamp(-1, 1)


def mean_dice(found: Tensor, truth: Tensor) -> float:
    values = list(range(1, len(truth) + 1))
    one, other = (decode_labels(maps.numpy(), values) for maps in (found, truth))
    return float(np.nanmean([dice(one == value, other == value) for value in values]))


def padded_case(fold: TrainedFold, preprocessed: Path, case: str) -> tuple[Tensor, Tensor]:
    """Image (C, X, Y, Z) and distances (K, X, Y, Z) of a stored case, padded to a size that the network takes."""
    stored = open_case(preprocessed, case)
    assert stored.distances is not None
    stride = fold.plan.network.total_stride
    shape = [-(-max(n, p) // s) * s for n, p, s in zip(stored.shape, fold.plan.patch_size, stride, strict=True)]
    arrays = []
    for array, filling in ((stored.image, IMAGE_PADDING), (stored.distances, 1.0)):
        values = np.asarray(array[:], dtype=np.float32).clip(-1, 1)
        arrays.append(torch.from_numpy(pad_nd_image(values, shape, "constant", {"constant_values": filling})))
    return arrays[0], arrays[1]


if __name__ == "__main__":
    main()
