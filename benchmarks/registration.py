"""The deformable stage beside those of DIPY, greedy and ANTs, from the same affine maps: Dice and seconds.

Libraries that are not installed are left out. Their settings were chosen on other cases. Give validation cases only.
"""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import SimpleITK as sitk

from benchmarks.record import RESULTS, append_row, machine
from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.evaluation.metrics import dice
from diffatlas_pipeline.files import from_json
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.case import prepare_image, prepare_labels
from diffatlas_pipeline.registration import register
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.deformable import DeformableSettings, deform
from diffatlas_pipeline.registration.frame import in_common_frame
from diffatlas_pipeline.registration.fusion import labels_of
from diffatlas_pipeline.registration.warp import voxel_grid
from diffatlas_pipeline.volumes.io import read_labels, read_volume


def dipy(
    target: np.ndarray, atlas: np.ndarray, start: np.ndarray, points: np.ndarray, mm: np.ndarray, radius: int
) -> np.ndarray:
    """SyN by local correlation. Here and below: images (X, Y, Z); ``start`` (4, 4) and ``points`` (X, Y, Z, 3) in mm."""
    from dipy.align.imwarp import SymmetricDiffeomorphicRegistration
    from dipy.align.metrics import CCMetric

    optimiser = SymmetricDiffeomorphicRegistration(CCMetric(3, radius=radius), level_iters=[50, 30])
    grid, (fixed, moving) = np.diag([*mm, 1]), (one.astype(float) for one in (target, atlas))
    found = optimiser.optimize(fixed, moving, static_grid2world=grid, moving_grid2world=grid, prealign=start)
    return np.asarray(found.transform_points(points.reshape(-1, 3))).reshape(points.shape)


def greedy(
    target: np.ndarray, atlas: np.ndarray, start: np.ndarray, points: np.ndarray, mm: np.ndarray, words: str
) -> np.ndarray:
    from picsl_greedy import Greedy3D

    flip = np.diag([-1.0, -1, 1, 1])  # its first two axes point the other way than ITK's
    run, images = Greedy3D(), {"f": to_itk(target, mm), "m": to_itk(atlas, mm)}
    with tempfile.TemporaryDirectory() as folder:
        np.savetxt(f"{folder}/start.mat", flip @ start @ flip)
        run.execute(f"-i f m -it {folder}/start.mat -o w -wp 0 -threads 1 -seed 1 -V 0 {words}", **images, w=None)
    return (points + of_itk(run["w"])) @ start[:3, :3].T + start[:3, 3]


def ants(
    target: np.ndarray, atlas: np.ndarray, start: np.ndarray, points: np.ndarray, mm: np.ndarray, levels: Any
) -> np.ndarray:
    """SyN by mutual information, with the iterations of each level; by local correlation it takes a minute."""
    import ants

    fixed, moving = (ants.from_numpy(np.ascontiguousarray(one), spacing=tuple(mm)) for one in (target, atlas))
    affine = ants.create_ants_transform("AffineTransform", "float", 3, matrix=start[:3, :3], translation=start[:3, 3])
    with tempfile.TemporaryDirectory() as folder:
        ants.write_transform(affine, f"{folder}/a.mat")
        known = {"outprefix": f"{folder}/s", "random_seed": 1, "singleprecision": True, "reg_iterations": levels}
        found = ants.registration(fixed, moving, "SyNOnly", f"{folder}/a.mat", **known)["fwdtransforms"]
        return points + of_itk(sitk.ReadImage(ants.apply_transforms(fixed, moving, found, compose=f"{folder}/c")))


def to_itk(image: np.ndarray, mm: np.ndarray) -> sitk.Image:
    made = sitk.GetImageFromArray(np.ascontiguousarray(image.T))
    made.SetSpacing(mm.tolist())
    return made


def of_itk(field: sitk.Image) -> np.ndarray:
    return sitk.GetArrayFromImage(field).transpose(2, 1, 0, 3)


STAGES: dict[str, tuple[str, Callable[..., np.ndarray] | None, Any]] = {  # the module it needs, the stage, its settings
    "affine only": ("numpy", None, ""),
    "own": ("numpy", None, DeformableSettings()),
    "DIPY SyN": ("dipy", dipy, 4),
    "greedy, NCC": ("picsl_greedy", greedy, "-m NCC 2x2x2 -n 100x50"),
    "greedy, NMI": ("picsl_greedy", greedy, "-m NMI -n 100x50"),
    "ANTs SyN": ("ants", ants, (40, 20, 0)),
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", type=Path, required=True, metavar="FILE", help="plans.json of the atlases' data set")
    for one in ("atlases", "targets"):
        parser.add_argument(f"--{one}", nargs="+", required=True, metavar="WORD", help="raw data set, and its training cases")
    parser.add_argument("--modality", help="what the targets show, if not what the atlases do")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=list(STAGES), metavar="NAME", help="(default: all installed)"
    )
    parser.add_argument("--results", type=Path, default=RESULTS / "registration.csv", metavar="CSV", help="rows are added")
    given = parser.parse_args(argv)
    plan = from_json(Plan, given.plan.read_text(encoding="utf-8"), str(given.plan))
    atlases = in_common_frame(cases_of(given.atlases, plan, None), plan.spacing_mm)
    targets = cases_of(given.targets, plan, given.modality)
    stages = {name: one for name, one in STAGES.items() if name in given.stages and importlib.util.find_spec(one[0])}
    # All stages in turn on one target: a machine that is busy for a while is busy for all of them.
    found = [[measured(target, atlases, plan, *one[1:]) for one in stages.values()] for target in targets]
    for (name, (_, _, settings)), means in zip(stages.items(), np.mean(found, axis=0).round(4).tolist(), strict=True):
        row = {"data": Path(given.targets[0]).name, "stage": name, "settings": settings, "pairs": len(targets) * len(atlases)}
        append_row(given.results, row | dict(zip(("dice_pair", "dice_fused", "seconds"), means, strict=True)) | machine())


def cases_of(words: Sequence[str], plan: Plan, modality: str | None) -> list[Atlas]:
    made = []
    for one in read_dataset(Path(words[0])).training:
        if one.case in words[1:] and one.label:
            image, record = prepare_image(read_volume(one.images), plan, modality)
            made.append(Atlas(one.case, image, prepare_labels(read_labels(one.label), record, plan)))
    return made


def measured(
    target: Atlas, atlases: Sequence[Atlas], plan: Plan, stage: Callable[..., np.ndarray] | None, settings: Any
) -> list[float]:
    """Mean Dice of single atlases, Dice of the fused labels, mean processor seconds of a deformable registration."""
    mm, seconds = np.array(plan.spacing_mm), [0.0]

    def timed(fixed: np.ndarray, moving: np.ndarray, matrix: np.ndarray, spacing_mm: Any, given: Any) -> np.ndarray:
        began = time.process_time()
        if stage is None:
            coordinates = deform(fixed, moving, matrix, spacing_mm, settings)
        else:
            points = np.moveaxis(voxel_grid(fixed.shape[1:]), 0, -1) * mm
            start = np.vstack([np.column_stack([matrix[:, :3] * mm[:, None] / mm, matrix[:, 3] * mm]), [0, 0, 0, 1]])
            coordinates = np.moveaxis(stage(fixed[0], moving[0], start, points, mm, settings) / mm, -1, 0).astype(np.float32)
        seconds.append(time.process_time() - began)
        return coordinates

    how = register.AtlasSettings(registration="deformable" if settings else "affine")
    with mock.patch.object(register, "deform", timed):
        registered = register.register_atlases(target.image, atlases, plan.spacing_mm, plan.distance.tau_mm, how, workers=1)
    fused = register.fuse(registered, plan.spacing_mm, plan.distance.tau_mm, how.fusion).distances
    truth = labels_of(target.distances)
    dices = [
        np.nanmean([dice(labels_of(one) == value, truth == value) for value in range(1, truth.max() + 1)])
        for one in (*(registered.on_target(one, 1) for one in registered.distances), fused)
    ]
    print(target.name, settings or "affine", *np.round(dices, 3), round(max(seconds), 2), flush=True)
    return [float(np.mean(dices[:-1])), float(dices[-1]), sum(seconds) / max(1, len(seconds) - 1)]


if __name__ == "__main__":
    main()
