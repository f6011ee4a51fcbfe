"""New pairs of image and segmentation into a folder, and how they compare with the training cases."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from diffatlas_pipeline import console
from diffatlas_pipeline.api.labelled_images import TrainingCases, read_pair
from diffatlas_pipeline.datasets.codes import codes_of, shown_classes
from diffatlas_pipeline.datasets.workspace import Workspace
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.likeness import nearest, probe_of
from diffatlas_pipeline.evaluation.populations import Population, compared
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.generation import (
    PairFolder,
    checked_shape,
    generate_pair,
    generating,
    generating_sampler,
    poorly_taught,
    usual_shape,
)
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.models.folder import ModelFolder
from diffatlas_pipeline.models.versions import versions
from diffatlas_pipeline.planning.plan import Plan

STATISTICS, SHEET, PAGE = "statistics.json", "contact_sheet.png", "statistics.html"
SHOWN = 8  # pairs on the contact sheet
OWN_NEIGHBOURS = 20  # training cases whose nearest other one is looked for
_DATASET = re.compile(r"Dataset(\d{3})_(.+)")


@dataclass(frozen=True)
class Generated:
    """What was generated: the raw data set ``folder`` with ``pairs`` pairs, ``made`` of them now.

    ``statistics``, ``page`` and ``sheet`` are None where the training cases are not there; ``missing`` says why.
    """

    folder: Path
    pairs: int
    made: int
    statistics: Path | None = None
    page: Path | None = None
    sheet: Path | None = None
    missing: str = ""


class FolderGeneration:
    """Pairs 0 to ``count`` - 1 of a model on their way into ``output``; everything is checked, nothing is written.

    Raises UserError.
    """

    def __init__(
        self,
        model: ModelFolder,
        predictor: Predictor,
        atlas_shapes: Sequence[Sequence[int]],
        output: Path,
        count: int,
        steps: int | None = None,
        solver: str | None = None,
        shape: Sequence[int] | None = None,
        overwrite: bool = False,
        workspace: Workspace | None = None,
    ) -> None:
        method = generating(predictor.method)
        if count < 1:
            raise UserError(f"`count` {count}: must be at least 1.")
        if len(predictor.networks) > 1:
            names = ", ".join(predictor.folds)
            raise UserError(f"One network generates pairs, but there are several folds ({names}). Choose one with `folds`.")
        plan = predictor.plan
        self._model, self._predictor, self.count = model, predictor, count
        self.sampler = generating_sampler(method, steps, solver)
        self.shape = usual_shape(plan, atlas_shapes) if shape is None else checked_shape(plan, shape)
        self.output, self._overwrite = output, overwrite
        self.pairs = PairFolder(dataset_folder(output, plan.dataset.name), plan)
        self.warnings = tuple(filter(None, [poorly_taught(method), _larger(self.shape, plan)]))
        self._workspace = workspace or Workspace.resolve()
        self._check_present()

    @property
    def steps(self) -> int:
        """Sampling steps of a pair."""
        return self.sampler.steps_of(self._predictor.plan.diffusion)

    def run(self) -> Generated:
        """Generate the pairs that are not there yet, and compare all with the training cases."""
        todo = [index for index in range(self.count) if self._overwrite or not self.pairs.has(index)]
        for case in self.pairs.beyond(self.count):
            self.pairs.remove(case)
        self.pairs.write_description(self.count, self._made_with())  # first: a later run must know how these were made
        with console.bar("Generating", max(1, len(todo)), "") as bar:
            for position, index in enumerate(todo):

                def moved(done: float, total: int, before: int = position) -> None:
                    bar.to(before + done / total, f"pair {before + 1} of {len(todo)}")

                self.pairs.write(index, generate_pair(self._predictor, index, self.shape, self.sampler, moved))
        done = Generated(self.pairs.folder, self.count, len(todo))
        try:
            training = TrainingCases.of(self._model, self._predictor.folds[0], self.pairs.plan, self._workspace)
        except UserError as error:
            return Generated(done.folder, done.pairs, done.made, missing=str(error))
        return self._compared(done, training)

    def _compared(self, done: Generated, training: TrainingCases) -> Generated:
        from diffatlas_pipeline.report.contact_sheet import contact_sheet
        from diffatlas_pipeline.report.generated_page import write_generated_page

        plan = self._predictor.plan
        population = Population(plan.dataset.labels, plan.dataset.channels, plan.spacing_mm, plan.dimensions)
        probes = []
        for index in console.each(range(self.count), "Measuring generated pairs", self.count, "pairs"):
            pair = read_pair(self.pairs, index)
            population.add(pair)
            probes.append(probe_of(pair, len(codes_of(plan.dataset.labels).values)))
        real, others = training.measured()
        found = nearest(probes, others, "Comparing with training cases")
        usual = nearest(others[:OWN_NEIGHBOURS], others, "Comparing training cases")
        statistics = {
            **compared(population, real),
            "training_cases": len(training.cases),
            "nearest": [asdict(one) for one in found],
            "nearest_of_training_cases": [asdict(one) for one in usual],
            "made_with": self._made_with(),
        }
        sheet, path, page = (self.output / name for name in (SHEET, STATISTICS, PAGE))
        try:
            write_text_atomically(path, json.dumps(statistics, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another `output`.") from error
        rows = [(read_pair(self.pairs, index), training.read(one.like)) for index, one in enumerate(found[:SHOWN])]
        contact_sheet(rows, shown_classes(plan.dataset.labels), plan.spacing_mm, sheet)
        write_generated_page(statistics, plan.dataset, sheet, page)
        return Generated(done.folder, done.pairs, done.made, path, page, sheet)

    def _made_with(self) -> dict[str, Any]:
        predictor = self._predictor
        return {
            "model": str(self._model.named),
            "method": predictor.method.name,
            "recipe": self._model.recipe,
            "fold": predictor.folds[0],
            "seed": predictor.seed,
            "sampler": {"solver": self.sampler.solver, "steps": self.steps},
            "shape": list(self.shape),
            "versions": versions(),
        }

    def _check_present(self) -> None:
        """UserError if pairs are there that these may not be mixed with."""
        made, here = self.pairs.made(), self._made_with()
        if self._overwrite or not made:
            return
        if more := self.pairs.beyond(self.count):
            raise UserError(
                f"{self.pairs.folder} holds {len(more)} pair(s) more than that. Give `count` {self.count + len(more)}, another "
                "`output`, or `overwrite` to delete them."
            )
        differ = [key for key in here if key != "versions" and made.get(key) != here[key]]
        if differ:
            raise UserError(
                f"{self.pairs.folder} holds pairs made with another {', '.join(differ)}. Give another `output`, or "
                "`overwrite` to replace them."
            )


def dataset_folder(output: Path, learnt: str) -> Path:
    """The raw data set in ``output``: itself if it is named like one, else DatasetXXX_<name>Generated in it.

    ``learnt`` is the data set that the model was trained on; 004 becomes 904.
    """
    if _DATASET.fullmatch(output.name):
        return output
    found = _DATASET.fullmatch(learnt)
    number, name = (int(found.group(1)), found.group(2)) if found else (0, re.sub(r"\W", "", learnt) or "Model")
    return output / f"Dataset{900 + number % 100:03d}_{name}Generated"


def _larger(shape: Sequence[int], plan: Plan) -> str | None:
    if all(n <= 1.5 * window for n, window in zip(shape, plan.patch_size, strict=True)):
        return None
    sizes = ["x".join(str(n) for n in triple) for triple in (shape, plan.patch_size)]
    return (
        f"the pairs have {sizes[0]} voxels, but the network sees {sizes[1]} at a time and is not told where: a structure may "
        "appear twice, or not at all. Give a smaller `shape`."
    )
