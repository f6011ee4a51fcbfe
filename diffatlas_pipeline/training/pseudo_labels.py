"""A trained model as teacher: it labels stored scans that nobody has labelled, for another training to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffatlas_pipeline import console
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_labels
from diffatlas_pipeline.preprocessing.store import list_stored, open_case, write_case


def teach(teacher: Predictor, source: Path, cases: Sequence[str], folder: Path, quiet: bool = False) -> float:
    """Store ``cases`` of the preprocessed data set ``source`` in ``folder``, with the labels that ``teacher`` gives them.

    The training cases that the teacher keeps are registered to each scan and have their say. A scan of a modality that the
    teacher has not learnt is shown to it as it would look among them, but stored as it is: the student is to know its look.
    Cases that are in ``folder`` already stay as they are, so an interrupted call goes on. Returns the seconds that
    registrations had taken which the teacher has kept from an earlier run.
    """
    labels = teacher.plan.dataset.labels
    there = set(list_stored(folder)) if folder.is_dir() else set()
    todo = [case for case in cases if case not in there]
    earlier_s = 0.0
    for case in console.each(todo, "labelling", len(todo), "scans", quiet):
        stored = open_case(source, case)
        image = np.asarray(stored.image[:], dtype=np.float32)
        modality = stored.facts.modality
        adapt = "atlases" if teacher.references and teacher.is_foreign(modality) else "off"
        prepared = teacher.prepare_stored(image, stored.record, adapt, bool(teacher.references))
        earlier_s += prepared.earlier_s
        found = teacher.sample(prepared, case)
        values = decode_labels(found.distances.numpy(), [label.value for label in labels])
        distances = encode_labels(values, labels, stored.record.planned_spacing_mm, teacher.plan.distance.tau_mm)
        write_case(folder, case, image, distances, stored.record, modality=modality)
    return earlier_s
