"""Generated pairs and the training cases of a model, as they are compared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.atlases.bank import spread_evenly
from diffatlas_pipeline.datasets.codes import codes_of
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.likeness import Probe, probe_of
from diffatlas_pipeline.evaluation.populations import LabelledImage, Population
from diffatlas_pipeline.inference.generation import PairFolder
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.preprocessing.normalisation import renormalise
from diffatlas_pipeline.preprocessing.store import StoredCase, open_case
from diffatlas_pipeline.training.job import read_plan
from diffatlas_pipeline.volumes.io import read_labels, read_volume

MOST_BYTES = 512 * 2**20  # of the training cases that are compared with


def read_pair(pairs: PairFolder, index: int) -> LabelledImage:
    """Pair ``index`` as it was written, its image back in [-1, 1]."""
    files, plan = pairs.files(index), pairs.plan
    assert files.label is not None
    image = renormalise(read_volume(files.images).array, plan.channels)
    return LabelledImage(files.case, image, codes_of(plan.dataset.labels).number(read_labels(files.label).array))


class TrainingCases:
    """The preprocessed cases that a fold was trained on. UserError if they are not there as the model knows them."""

    def __init__(self, source: Path, cases: Sequence[str], plan: Plan) -> None:
        self.source, self.cases, self.plan = source, tuple(cases), plan

    @staticmethod
    def of(model: ModelFolder, fold: str, plan: Plan, workspace: Workspace) -> TrainingCases:
        """Those of ``fold`` of ``model``, which has ``plan``."""
        source = workspace.preprocessed / plan.dataset.name
        cases = model.remembered(fold).get("training_cases") or []
        if not cases or not source.is_dir():
            raise UserError(f"the training cases of {fold} are not in {source}")
        found = read_plan(source)
        if (found.spacing_mm, found.channels, found.distance) != (plan.spacing_mm, plan.channels, plan.distance):
            raise UserError(f"{source} has been planned anew since {fold} was trained")
        for case in cases:
            open_case(source, case)
        return TrainingCases(source, cases, plan)

    def read(self, case: str) -> LabelledImage:
        """One of them as a network sees it."""
        stored = open_case(self.source, case)
        return LabelledImage(case, stored.read_image(), self._labels(stored))

    def measured(self) -> tuple[Population, list[Probe]]:
        """Statistics of those there is memory for, evenly spread, and what generated cases are compared with."""
        plan, codes = self.plan, len(codes_of(self.plan.dataset.labels).values)
        population = Population(plan.dataset.labels, plan.dataset.channels, plan.spacing_mm, plan.dimensions)
        probes: list[Probe] = []
        size = 0
        for one in console.each(self._spread(), "Measuring training cases", len(self.cases), "cases"):
            probe = probe_of(one, codes)
            size += probe.image.nbytes + probe.labels.nbytes
            if probes and size > MOST_BYTES:
                break
            population.add(one)
            probes.append(probe)
        return population, probes

    def _spread(self) -> Iterator[LabelledImage]:
        return (self.read(case) for case in spread_evenly(self.cases))

    def _labels(self, stored: StoredCase) -> np.ndarray:
        codes = codes_of(self.plan.dataset.labels)
        return codes.number(decode_labels(stored.read_distances(codes.labels)[0], codes))
