"""A trained model as teacher: it labels stored scans that nobody has labelled, for another training to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case, write_case
from diffatlas_pipeline.registration.atlas import Atlas


def teach(
    teacher: Predictor,
    atlases: Sequence[Atlas],
    source: Path,
    cases: Sequence[str],
    folder: Path,
    registrations: Path | None = None,
    quiet: bool = False,
) -> None:
    """Store ``cases`` of the preprocessed data set ``source`` in ``folder``, with the labels that ``teacher`` gives
    them.

    Its ``atlases`` are registered to each scan and have their say. A scan of a modality that the teacher has not learnt
    is shown to it as it would look among the training scans, but stored as it is: the student is to know its look.
    Cases that are in ``folder`` already stay as they are, so an interrupted call goes on.
    """
    labels = teacher.plan.dataset.labels
    there = set(list_stored(folder)) if folder.is_dir() else set()
    todo = [case for case in cases if case not in there]
    for case in console.each(todo, "labelling", len(todo), "scans", quiet):
        stored = open_case(source, case)
        image = np.asarray(stored.image[:], dtype=np.float32)
        modality = stored.facts.modality
        adapt = "atlases" if atlases and teacher.is_out_of_domain(modality) else "off"
        segmenter = Segmenter(teacher, atlases, AtlasUse(adapt, bool(atlases)), modality, registrations)
        found = segmenter.segment(segmenter.prepare_stored(image, stored.record))
        values = decode_labels(found.distances.numpy(), [label.value for label in labels])
        distances = encode_labels(values, labels, stored.record.planned_spacing_mm, teacher.plan.distance.tau_mm)
        write_case(folder, case, image, distances, stored.record, modality=modality)
