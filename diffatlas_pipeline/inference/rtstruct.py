"""A segmentation as contours in the planes of its series (DICOM RTSTRUCT)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from diffatlas_pipeline import __version__
from diffatlas_pipeline.datasets.colours import label_colours
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.inference.contours import outlines
from diffatlas_pipeline.inference.dicom_seg import ALGORITHM, MAKER, NOT_FOR_DIAGNOSIS, Author, description_of
from diffatlas_pipeline.inference.dicom_source import (
    PATIENT_AND_STUDY,
    Plane,
    Source,
    character_set,
    series_number,
    text_of,
)

if TYPE_CHECKING:
    from pydicom import Dataset

_CLASS, _STUDY_CLASS = "1.2.840.10008.5.1.4.1.1.481.3", "1.2.840.10008.3.1.2.3.1"
_KIND = 2
_CONTOUR_DATA = 0x30060050
_DECIMALS = 4  # of a coordinate in mm: DICOM allows 16 characters


def make_structures(source: Source, labels: np.ndarray, classes: Sequence[LabelClass], author: Author) -> Dataset:
    """``labels`` (X, Y, Z) with the values of ``classes`` as an RTSTRUCT: closed contours per slice, in mm.

    Structure n is the n-th class, with no contour if no voxel is in it. Holes are joined to the outline around them
    (:func:`~diffatlas_pipeline.inference.contours.outlines`).
    """
    made = _object(source, author, [one.name for one in classes])
    made.ReferencedFrameOfReferenceSequence = [_reference(source)]
    made.StructureSetROISequence, made.ROIContourSequence, made.RTROIObservationsSequence = [], [], []
    for number, (one, colour) in enumerate(zip(classes, label_colours(len(classes)), strict=True), start=1):
        made.StructureSetROISequence.append(
            _item(
                ROINumber=number,
                ReferencedFrameOfReferenceUID=source.first.FrameOfReferenceUID,
                ROIName=text_of(one.name),
                ROIDescription=description_of(one, author),
                ROIGenerationAlgorithm="SEMIAUTOMATIC" if author.edited else "AUTOMATIC",
                ROIGenerationDescription=text_of(f"{ALGORITHM} {__version__}"),
            )
        )
        contours = [contour for k, plane in enumerate(source.planes) for contour in _contours(plane, one.mask(labels[:, :, k]))]
        structure = _item(ROIDisplayColor=list(colour), ReferencedROINumber=number)
        if contours:
            structure.ContourSequence = contours
        made.ROIContourSequence.append(structure)
        made.RTROIObservationsSequence.append(
            _item(ObservationNumber=number, ReferencedROINumber=number, RTROIInterpretedType="", ROIInterpreter="")
        )
    return made


def _object(source: Source, author: Author, names: Sequence[str]) -> Dataset:
    """An RTSTRUCT of the patient and study of ``source``, without structures."""
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ImplicitVRLittleEndian, generate_uid

    now = datetime.datetime.now()
    date, time = now.strftime("%Y%m%d"), now.strftime("%H%M%S")
    made = _item(
        SpecificCharacterSet=character_set(source, [*names, author.dataset]),
        InstanceCreationDate=date,
        InstanceCreationTime=time,
        SOPClassUID=_CLASS,
        SOPInstanceUID=generate_uid(),
        Modality="RTSTRUCT",
        Manufacturer=MAKER,
        ManufacturerModelName=ALGORITHM,
        SoftwareVersions=__version__,
        SeriesDescription=author.title,
        OperatorsName="",
        StudyInstanceUID=source.first.StudyInstanceUID,
        SeriesInstanceUID=generate_uid(),
        SeriesNumber=series_number(source, _KIND),
        InstanceNumber=1,
        FrameOfReferenceUID=source.first.FrameOfReferenceUID,
        PositionReferenceIndicator=source.first.get("PositionReferenceIndicator") or "",
        StructureSetLabel=ALGORITHM,
        StructureSetName=author.title,
        StructureSetDescription=NOT_FOR_DIAGNOSIS,
        StructureSetDate=date,
        StructureSetTime=time,
        ApprovalStatus="UNAPPROVED",
    )
    for name in PATIENT_AND_STUDY:
        setattr(made, name, source.first.get(name))
    made.file_meta = FileMetaDataset()
    made.file_meta.MediaStorageSOPClassUID = UID(_CLASS)
    made.file_meta.MediaStorageSOPInstanceUID = made.SOPInstanceUID
    made.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # explicit VR holds no contour of more than 64 KiB
    return made


def _reference(source: Source) -> Dataset:
    """The frame of reference, and in it the study and the series with all its slices."""
    series = _item(
        SeriesInstanceUID=source.first.SeriesInstanceUID, ContourImageSequence=[_image(plane) for plane in source.planes]
    )
    study = _item(
        ReferencedSOPClassUID=_STUDY_CLASS,
        ReferencedSOPInstanceUID=source.first.StudyInstanceUID,
        RTReferencedSeriesSequence=[series],
    )
    return _item(FrameOfReferenceUID=source.first.FrameOfReferenceUID, RTReferencedStudySequence=[study])


def _image(plane: Plane) -> Dataset:
    item = _item(ReferencedSOPClassUID=plane.header.SOPClassUID, ReferencedSOPInstanceUID=plane.header.SOPInstanceUID)
    if plane.frame is not None:
        item.ReferencedFrameNumber = plane.frame
    return item


def _contours(plane: Plane, mask: np.ndarray) -> list[Dataset]:
    """The contours of a ``mask`` (X, Y) in its plane."""
    from pydicom import DataElement

    contours = []
    for outline in outlines(mask) if mask.any() else ():
        contour = _item(
            ContourImageSequence=[_image(plane)], ContourGeometricType="CLOSED_PLANAR", NumberOfContourPoints=len(outline)
        )
        texts = [f"{value:.{_DECIMALS}f}" for value in plane.points(outline).ravel()]
        contour.add(DataElement(_CONTOUR_DATA, "DS", texts, already_converted=True))  # converting takes most of the time
        contours.append(contour)
    return contours


def _item(**elements: object) -> Dataset:
    from pydicom import Dataset

    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item
