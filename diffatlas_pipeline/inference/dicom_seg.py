"""A segmentation as a DICOM object (DICOM SEG) that refers to the slices of its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline import __version__
from diffatlas_pipeline.datasets.colours import label_colours
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.inference.dicom_source import Source, character_set, series_number, text_of

if TYPE_CHECKING:
    from highdicom.seg import Segmentation, SegmentDescription

ALGORITHM, MAKER = "DiffAtlas", "The DiffAtlas pipeline contributors"
NOT_FOR_DIAGNOSIS = "Research only, not for diagnosis or treatment"
_KIND = 1


@dataclass(frozen=True)
class Author:
    """What made a segmentation: ``dataset`` names what its model has learnt, ``settings`` say how, by name.

    ``edited`` is whether a reader has changed it since.
    """

    dataset: str
    settings: dict[str, str]
    edited: bool = False

    @property
    def title(self) -> str:
        return text_of(f"{ALGORITHM} {self.dataset}{', edited' if self.edited else ''}")


def make_segmentation(source: Source, labels: np.ndarray, classes: Sequence[LabelClass], author: Author) -> Segmentation:
    """``labels`` (X, Y, Z) with the values of ``classes`` as a binary DICOM SEG on the slices of ``source``.

    Segment n is the n-th class, whether any voxel is in it or not. Slices without a segment have no frame of it.
    """
    import highdicom as hd

    pixels = _pixels(labels.T, classes)
    names = [one.name for one in classes]
    return hd.seg.Segmentation(
        source_images=source.headers,
        pixel_array=pixels,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[_described(number, one, classes, author) for number, one in enumerate(classes, start=1)],
        series_instance_uid=hd.UID(),
        series_number=series_number(source, _KIND),
        sop_instance_uid=hd.UID(),
        instance_number=1,
        manufacturer=MAKER,
        manufacturer_model_name=ALGORITHM,
        software_versions=__version__,
        device_serial_number=__version__,
        content_label="SEGMENTATION",
        content_description=NOT_FOR_DIAGNOSIS,
        series_description=author.title,
        specific_character_set=character_set(source, [*names, author.dataset]),
        omit_empty_frames=bool(pixels.any()),
    )


def _pixels(frames: np.ndarray, classes: Sequence[LabelClass]) -> np.ndarray:
    """``frames`` (slices, rows, columns) of label values as numbers of segments; as masks (slices, rows, columns,
    segments) where classes are regions, which overlap.
    """
    if any(len(one.values) > 1 for one in classes):
        return np.stack([one.mask(frames) for one in classes], axis=-1)
    numbers = np.zeros(frames.shape, np.uint8 if len(classes) < 256 else np.uint16)
    for number, one in enumerate(classes, start=1):
        numbers[one.mask(frames)] = number
    return numbers


def description_of(one: LabelClass, author: Author) -> str:
    """Which values of label files a segment or structure is."""
    numbers = ", ".join(str(value) for value in one.values)
    return text_of(f"label{'s' if len(one.values) > 1 else ''} {numbers} of {author.dataset}", 1024)


def _described(number: int, one: LabelClass, classes: Sequence[LabelClass], author: Author) -> SegmentDescription:
    """Name, colour and origin of a segment. What the structure is, no model knows: it is coded as tissue."""
    import highdicom as hd
    from pydicom.sr.codedict import codes

    kind = hd.seg.SegmentAlgorithmTypeValues.SEMIAUTOMATIC if author.edited else hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC
    made = hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=text_of(one.name),
        segmented_property_category=codes.SCT.Tissue,
        segmented_property_type=codes.SCT.Tissue,
        algorithm_type=kind,
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=ALGORITHM,
            family=codes.DCM.ArtificialIntelligence,
            version=__version__,
            source=MAKER,
            parameters={"dataset": author.dataset, **author.settings},
        ),
        display_color=hd.color.CIELabColor.from_rgb(*label_colours(len(classes))[number - 1]),
    )
    made.SegmentDescription = description_of(one, author)
    return made
