"""What the atlases that a model keeps do for a scan: give it the contrast of the training scans, or vote on its
labels.
"""

from __future__ import annotations

from dataclasses import dataclass

from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.base import LearnedMethod

CHOICES = ("auto", "atlases", "curve", "off")


@dataclass(frozen=True)
class AtlasUse:
    """``adapt`` gives a scan the contrast of the training scans: "atlases" by registration, "curve" by a curve of
    intensities, "off" not at all. ``late_fusion`` averages the network's distances with those of registered atlases.
    """

    adapt: str = "off"
    late_fusion: bool = False

    @property
    def registers(self) -> bool:
        """Whether atlases are registered deformably to each scan."""
        return self.late_fusion or self.adapt == "atlases"

    @property
    def asks_for_atlases(self) -> bool:
        """Whether the model has to keep atlases."""
        return self.late_fusion or self.adapt != "off"


def choose_use(
    predictor: Predictor,
    atlases: int,
    modality: str | None = None,
    adapt_contrast: str = "auto",
    with_atlases: bool | None = None,
) -> tuple[AtlasUse, tuple[str, ...]]:
    """How a model that keeps so many ``atlases`` uses them for scans of ``modality``, and warnings.

    "auto" adapts the contrast of scans that are out of domain: of a modality that the networks have not learnt. Where
    atlases are registered for that, they also take part in the segmentation, unless ``with_atlases`` says otherwise.
    UserError if something is asked of a model that it cannot do.
    """
    if adapt_contrast not in CHOICES:
        raise UserError(f"`adapt_contrast` {adapt_contrast}: unknown; choose one of {', '.join(CHOICES)}.")
    learned = isinstance(predictor.method, LearnedMethod)
    if with_atlases and not learned:
        raise UserError(f"`with_atlases`: {predictor.method.name} has no network to average with. Leave it out.")
    if not atlases and (with_atlases or adapt_contrast in ("atlases", "curve")):
        raise UserError(
            "The model keeps no training scans to register. Leave out the option, train it again, or ask who packed it to pack "
            "them, too."
        )
    warnings: tuple[str, ...] = ()
    adapt = adapt_contrast
    if adapt == "auto":
        out_of_domain = learned and predictor.is_out_of_domain(modality)
        adapt = "atlases" if out_of_domain and atlases else "off"
        if out_of_domain and not atlases:
            warnings = ("the model has not learnt this modality and keeps no training scans to adapt the contrast by.",)
    late_fusion = learned and adapt == "atlases" if with_atlases is None else with_atlases
    return AtlasUse(adapt, late_fusion), warnings
