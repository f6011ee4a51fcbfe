"""The segmentation of one scan, as a notebook gets it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffatlas_pipeline.datasets.codes import shown_classes
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.inference.volume_intervals import volumes_ml
from diffatlas_pipeline.volumes.grids import Grid
from diffatlas_pipeline.volumes.io import write_labels
from diffatlas_pipeline.volumes.size_unit import AREA, size_unit

if TYPE_CHECKING:
    from diffatlas_pipeline.atlases.segmenter import PreparedScan, Segmenter
    from diffatlas_pipeline.inference.familiarity import Familiarity
    from diffatlas_pipeline.inference.result import Result
    from diffatlas_pipeline.methods.base import PlannedSegmentation


class Segmentation:
    """A segmentation on exactly the grid of the scan.

    ``labels`` are integers in the data set's own values, 0 for background, with the axes of the scan that was given:
    (X, Y, Z), or (X, Y) for an image of two dimensions. ``label_names`` tells what each value means. ``warnings`` says
    what is unusual about the scan, and ``familiarity`` how far it lies from what the model has learnt (None for a model
    that keeps no known cases). Maps are computed when they are first asked for.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        planned: PlannedSegmentation,
        scan: PreparedScan,
        grid: Grid,
        like: Path | None,
        warnings: tuple[str, ...],
    ) -> None:
        result = segmenter.restore(planned, scan)
        self.familiarity: Familiarity | None = segmenter.familiarity(planned, scan)
        foreign = self.familiarity and self.familiarity.warning
        self._segmenter, self._planned, self._scan, self._grid, self._like = segmenter, planned, scan, grid, like
        self._labels = result.labels
        self.label_names: dict[int, str] = {one.value: one.name for one in shown_classes(segmenter.plan.dataset.labels)}
        self.warnings: tuple[str, ...] = (*warnings, *result.warnings, *([foreign] if foreign else []))

    def __repr__(self) -> str:
        unit = size_unit(self._grid.dimensions)
        sizes = ((name, volume * unit.per_ml) for name, volume in self.volumes_ml.items())
        volumes = ", ".join(f"{name} {size:.3g} {unit.symbol}" for name, size in sizes)
        return f"Segmentation {' x '.join(map(str, self.labels.shape))}: {volumes}"

    @property
    def labels(self) -> np.ndarray:
        """Integers (X, Y, Z), or (X, Y)."""
        return self._shown(self._labels)

    @property
    def affine(self) -> np.ndarray:
        """The 4x4 matrix from voxels to mm, RAS+."""
        return self._grid.matrix

    @cached_property
    def distances_mm(self) -> dict[str, np.ndarray]:
        """Signed distance in mm to the surface of each label by its name: negative inside, cut off at the plan's
        tau.
        """
        maps = self._segmenter.restore(self._planned, self._scan, Maps(distances=True)).distances_mm
        assert maps is not None
        return {name: self._shown(one) for name, one in zip(self.label_names.values(), maps, strict=True)}

    @cached_property
    def error_probability(self) -> np.ndarray:
        """How probable it is that the label of a voxel is wrong, (X, Y, Z) or (X, Y) float32."""
        found = self._segmenter.restore(self._planned, self._scan, Maps(uncertainty=True)).error_probability
        assert found is not None
        return self._shown(found)

    @cached_property
    def probabilities(self) -> np.ndarray:
        """Of the background and of each label, in the order of ``label_names``: (1 + K, X, Y, Z) or (1 + K, X, Y)
        float16. The largest is that of ``labels``.
        """
        found = self._segmenter.restore(self._planned, self._scan, Maps(probabilities=True)).probabilities
        assert found is not None
        return self._shown(found)

    @cached_property
    def generated_channels(self) -> dict[str, np.ndarray]:
        """The channels that the scan lacked, by name, as they were generated: Hounsfield units where the plan has them
        for that channel, else 0 to 1.
        """
        return self._by_name(self._segmenter.restore(self._planned, self._scan, Maps(generated=True)).generated)

    @cached_property
    def reconstruction(self) -> dict[str, np.ndarray]:
        """The scan as the model makes it, by name of the channel, in the units of :attr:`generated_channels`. UserError
        for a method that learns no images, and for adapted scans.
        """
        return self._by_name(self._reconstructed.reconstruction)

    @cached_property
    def residual(self) -> dict[str, np.ndarray]:
        """The scan, cut off at the plan's bounds, less its :attr:`reconstruction`, by name of the channel."""
        return self._by_name(self._reconstructed.residual)

    @property
    def volumes_ml(self) -> dict[str, float]:
        """Millilitres of each label by its name."""
        return volumes_ml(self._labels, self._segmenter.plan.dataset.labels, self._grid)

    @property
    def areas_mm2(self) -> dict[str, float]:
        """The area of each label of a two-dimensional image, by name. UserError for a volume."""
        if self._grid.dimensions != 2:
            raise UserError("areas_mm2: the scan is a volume. Ask for volumes_ml instead.")
        return {name: volume * AREA.per_ml for name, volume in self.volumes_ml.items()}

    def volume_intervals_ml(self, coverage: float = 0.9) -> dict[str, tuple[float, float]]:
        """By label, the millilitres between which the true volume lies with probability ``coverage``, by the errors in
        cases held out of the training.

        Without a label that was not found. Empty where held-out cases tell nothing: the model has fewer than four, the
        scan is foreign or of another modality, or it was segmented in another way, as with atlases or a drawing.
        """
        if not 0 < coverage < 1:
            raise UserError(f"coverage {coverage}: must lie between 0 and 1, such as 0.9.")
        foreign = self.familiarity is not None and self.familiarity.is_foreign
        errors = None if foreign else self._segmenter.volume_errors(self._planned, self._scan)
        if errors is None:
            return {}
        found = {name: errors.interval(k, volume, coverage) for k, (name, volume) in enumerate(self.volumes_ml.items())}
        return {name: bounds for name, bounds in found.items() if bounds is not None}

    def to_sitk(self) -> Any:
        """``labels`` as a SimpleITK image."""
        from diffatlas_pipeline.volumes.in_memory import to_sitk

        return to_sitk(_small(self._labels), self._grid)

    def to_nibabel(self) -> Any:
        """``labels`` as a nibabel image."""
        from diffatlas_pipeline.volumes.in_memory import to_nibabel

        return to_nibabel(_small(self._labels), self._grid)

    def save(self, path: str | Path) -> Path:
        """Write ``labels`` to ``path``, in the format of its ending; returns it. ImageError if it cannot be written."""
        path = Path(path).expanduser()
        write_labels(path, self._labels, self._grid, self._like, {0: "background", **self.label_names})
        return path

    @cached_property
    def _reconstructed(self) -> Result:
        self._segmenter.check_reconstructs()
        made = self._segmenter.reconstructed(self._planned, self._scan)
        return self._segmenter.restore(made, self._scan, Maps(reconstruction=True))

    def _by_name(self, channels: dict[int, np.ndarray] | None) -> dict[str, np.ndarray]:
        plan = self._segmenter.plan
        return {plan.channels[c].name: self._shown(channel) for c, channel in (channels or {}).items()}

    def _shown(self, array: np.ndarray) -> np.ndarray:
        return array[..., 0] if self._grid.dimensions == 2 else array


def _small(labels: np.ndarray) -> np.ndarray:
    """In the smallest type that holds the values."""
    fits = (np.uint8, np.int16)
    kind = next((k for k in fits if np.iinfo(k).min <= labels.min() and labels.max() <= np.iinfo(k).max), np.int32)
    return labels.astype(kind)
