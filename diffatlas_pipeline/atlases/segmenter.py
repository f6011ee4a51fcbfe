"""A predictor with the atlases of its model around it: contrast adapted before the network, late fusion after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from diffatlas_pipeline.atlases.contrast import adapt_contrast
from diffatlas_pipeline.atlases.late_fusion import NETWORK_SHARE, fitting_share, fused
from diffatlas_pipeline.atlases.policy import AtlasUse
from diffatlas_pipeline.atlases.registered import ask_atlases
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.inference.drawn_slices import followed
from diffatlas_pipeline.inference.familiarity import Familiarity
from diffatlas_pipeline.inference.predictor import Predictor, Prepared
from diffatlas_pipeline.inference.result import Maps, Result
from diffatlas_pipeline.inference.volume_intervals import VolumeErrors
from diffatlas_pipeline.methods.base import PlannedSegmentation, Progress
from diffatlas_pipeline.planning.plan import Plan
from diffatlas_pipeline.preprocessing.normalisation import is_out_of_domain
from diffatlas_pipeline.preprocessing.spatial import SpatialRecord
from diffatlas_pipeline.registration.affine import RegistrationFailed
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.volumes.channels import missing_channels, with_missing, without_missing
from diffatlas_pipeline.volumes.grids import LabelVolume, Volume

CURVE_ATLASES = 4  # training scans that a contrast curve is drawn from; each costs an affine registration


@dataclass(frozen=True)
class PreparedScan:
    """``shown`` is what the network sees; ``image`` (C, x, y, z) in [-1, 1] the scan as it is.

    ``atlases`` is what registered atlases say of it, None without late fusion. ``register_s``: the seconds that
    registration took; it was ``kept`` if that was in an earlier run.
    """

    shown: Prepared
    image: np.ndarray
    atlases: PlannedSegmentation | None = None
    register_s: float = 0.0
    kept: bool = False

    @property
    def is_adapted(self) -> bool:
        """Whether the network sees another contrast than the scan has."""
        return self.shown.image is not self.image


class Segmenter:
    """Segments scans of one ``modality`` with ``predictor``, using ``atlases`` as ``use`` says.

    What registration finds is kept in the folder ``registrations`` and used again. ModelError if there are no atlases
    where they are asked for.
    """

    def __init__(
        self,
        predictor: Predictor,
        atlases: Sequence[Atlas] = (),
        use: AtlasUse | None = None,
        modality: str | None = None,
        registrations: Path | None = None,
    ) -> None:
        self.predictor, self.atlases, self.use = predictor, tuple(atlases), use or AtlasUse()
        self.modality, self.registrations = modality, registrations
        if self.use.asks_for_atlases and not self.atlases:
            raise ModelError("The model keeps no training scans to register. Train it again, or do without them.")

    @property
    def plan(self) -> Plan:
        return self.predictor.plan

    def prepare(self, volume: Volume, drawing: LabelVolume | None = None) -> PreparedScan:
        """Orient, crop, resample, normalise, and ask the atlases; CPU only, so it may run in another thread.

        ``drawing`` is a part of its labels, see :meth:`Predictor.prepare`.
        """
        return self._with_atlases(self.predictor.prepare(volume, self.modality, drawing))

    def prepare_stored(self, image: np.ndarray, record: SpatialRecord) -> PreparedScan:
        """:meth:`prepare` for an ``image`` (C, x, y, z) that has been preprocessed by the plan."""
        return self._with_atlases(self.predictor.prepare_stored(image, record))

    def is_large(self, scan: PreparedScan) -> bool:
        """Whether there is no room in memory for another scan beside it."""
        return self.predictor.is_large(scan.shown)

    def segment(self, scan: PreparedScan, progress: Progress | None = None) -> PlannedSegmentation:
        """Signed distances (K, x, y, z) on the planned grid, mean over draws, folds and atlases; they follow what is
        drawn.
        """
        found = self.predictor.segment(scan.shown, progress)
        if scan.atlases is not None:
            found = fused(found, scan.atlases, self._network_share(scan, found))
        drawing = scan.shown.drawing
        return found if drawing is None else followed(found, drawing, self.plan, self.predictor.method.codes)

    def familiarity(self, segmentation: PlannedSegmentation, scan: PreparedScan) -> Familiarity | None:
        """How far ``scan`` lies from what the model has learnt, None if that is not known; see
        :class:`~diffatlas_pipeline.inference.familiarity.Familiarity`.
        """
        other = scan.is_adapted or self.predictor.is_out_of_domain(self.modality)
        return self.predictor.familiarity(scan.shown, segmentation, other)

    def volume_errors(self, segmentation: PlannedSegmentation, scan: PreparedScan) -> VolumeErrors | None:
        """How far volumes were off in cases like ``scan``; None if no held-out case was segmented as it was: by the
        network alone, without a drawing, by all channels, in the contrast that it has learnt.
        """
        other = self.modality is not None and is_out_of_domain(self.modality, self.plan.channels)
        helped = segmentation.network_share is not None or scan.shown.drawing is not None
        if other or helped or scan.is_adapted or segmentation.generated is not None:
            return None
        return self.predictor.volume_errors

    def check_reconstructs(self) -> None:
        """UserError if scans cannot be compared with what the model makes of them."""
        if not self.predictor.models_images:
            raise UserError(
                f"`save_reconstruction`: a model of {self.predictor.method.name} learns no images. Train diffatlas for it."
            )
        if self.use.adapt != "off":
            raise UserError(
                f"`save_reconstruction`: with `adapt_contrast={self.use.adapt}` the model sees another contrast than the scan "
                "has, so they cannot be compared. Give `adapt_contrast=off`, or do without the reconstruction."
            )

    def reconstructed(self, segmentation: PlannedSegmentation, scan: PreparedScan) -> PlannedSegmentation:
        """With the image that the model makes of ``scan``; see :meth:`Predictor.reconstructed`."""
        return self.predictor.reconstructed(segmentation, scan.shown)

    def restore(self, segmentation: PlannedSegmentation, scan: PreparedScan, maps: Maps | None = None) -> Result:
        """Back onto the scan's own grid; see :meth:`Predictor.restore`."""
        return self.predictor.restore(segmentation, scan.shown, maps)

    def _with_atlases(self, prepared: Prepared) -> PreparedScan:
        scan = PreparedScan(prepared, prepared.image)
        if not self.use.asks_for_atlases:
            return scan
        lacks = missing_channels(prepared.image)  # atlases are compared with what is there
        known, atlases = without_missing(prepared.image), [_without(atlas, lacks) for atlas in self.atlases]
        try:
            if self.use.adapt == "curve":
                images = [atlas.image for atlas in atlases[:CURVE_ATLASES]]
                image, _ = adapt_contrast(known, images, self.plan.spacing_mm, self.predictor.seed)
                scan = replace(scan, shown=_adapted(prepared, with_missing(image, lacks)))
            if self.use.registers:
                answer = ask_atlases(known, atlases, self.plan, self.registrations)
                scan = replace(scan, register_s=answer.register_s, kept=answer.kept)
                if self.use.adapt == "atlases":
                    scan = replace(scan, shown=_adapted(prepared, with_missing(answer.appearance, lacks)))
                if self.use.late_fusion:
                    scan = replace(scan, atlases=PlannedSegmentation(torch.from_numpy(answer.distances)))
        except (RegistrationFailed, UserError) as error:
            warning = f"it was segmented as it is, without the training scans: {error}"
            scan = replace(scan, shown=replace(scan.shown, warnings=(*prepared.warnings, warning)))
        return scan

    def _network_share(self, scan: PreparedScan, network: PlannedSegmentation) -> float:
        """How much the network counts beside atlases: a fixed share in its domain, else the share that fits the
        scan.
        """
        if scan.atlases is None or not scan.is_adapted:
            return NETWORK_SHARE
        known = without_missing(scan.image)
        return fitting_share(
            known, network, scan.atlases, self.plan.spacing_mm, self.plan.distance.tau_mm, self.predictor.method.codes
        )


def _adapted(prepared: Prepared, image: np.ndarray) -> Prepared:
    """``prepared`` with an ``image`` of another contrast; at low resolution there is none of it."""
    return replace(prepared, image=image, rough=None)


def _without(atlas: Atlas, channels: Sequence[int]) -> Atlas:
    """``atlas`` without the ``channels`` of these numbers."""
    return replace(atlas, image=np.delete(atlas.image, channels, axis=0)) if channels else atlas
