"""What the headers of scans say that they are, and what follows for a model of CT, or of anything else."""

from __future__ import annotations

from collections.abc import Sequence

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.volumes.io import modality_in_header

_LISTED = 5


def believed_modality(
    cases: Sequence[CaseFiles], channels_of_ct: Sequence[bool], modality: str | None = None
) -> tuple[str | None, tuple[str, ...]]:
    """What ``cases`` are to be taken for by a model whose channels are of CT or of something else, and warnings.

    A given ``modality`` counts. Without it the headers are believed where they name one (DICOM), those of the first
    channel that a case has: None if they do not differ from what the model has learnt. UserError if they differ for
    some of the cases only.
    """
    named = {files.case: said for files in cases if (said := modality_in_header(files.images[0]))}
    first = {files.case: next(c for c in range(len(channels_of_ct)) if c not in files.missing) for files in cases}
    if modality is not None:
        other = [case for case, said in named.items() if (said == "CT") != (modality.upper() == "CT")]
        said = f"`modality` is {modality}, but the headers say {_kinds(named, other)}: {_listed(other)}. `modality` counts."
        return modality, (said,) if other else ()
    other = [case for case, said in named.items() if (said == "CT") != channels_of_ct[first[case]]]
    if not other:
        return None, ()
    learnt_ct = channels_of_ct[first[other[0]]]
    learnt = "CT" if learnt_ct else "no CT"
    if len(other) < len(cases):
        raise UserError(
            f"The headers of {len(other)} of {len(cases)} scans say {_kinds(named, other)}, and the model has learnt "
            f"{learnt}: {_listed(other)}. Put these into a folder of their own, or say what all scans are by `modality`."
        )
    taken = "MRI" if learnt_ct else "CT"
    return taken, (
        f"the headers say {_kinds(named, other)}, and the model has learnt {learnt}: the scans are segmented as with "
        f"`modality` {taken}.",
    )


def _kinds(named: dict[str, str], cases: Sequence[str]) -> str:
    return " and ".join(sorted({named[case] for case in cases}))


def _listed(cases: Sequence[str]) -> str:
    more = len(cases) - _LISTED
    return ", ".join(cases[:_LISTED]) + (f" and {more} more" if more > 0 else "")
