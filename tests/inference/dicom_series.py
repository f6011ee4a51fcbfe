"""DICOM series as archives have them, and DICOM outputs read back into the patient's space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from skimage.measure import points_in_poly

from diffatlas_pipeline.volumes.grids import Grid

TURNED = np.linalg.qr(np.array([[1.0, 0.3, 0.2], [-0.2, 1.0, 0.4], [0.1, -0.3, 1.0]]))[0]  # of all axes, in space
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_ct(
    folder: Path,
    values: np.ndarray,
    directions: np.ndarray = TURNED,
    step: tuple[float, float, float] | None = None,
    reverse: bool = False,
    **elements: object,
) -> Path:
    """A CT of ``values`` (X, Y, Z), one file per slice; ``directions`` (3, 3) are columns: row, column, slice.

    ``step`` (3,) in mm leads to the next slice, if that is not straight. ``elements`` replace those of all files.
    """
    folder.mkdir(parents=True)
    step_mm = directions[:, 2] * 2.5 if step is None else np.asarray(step)
    common = {"FrameOfReferenceUID": generate_uid(), "StudyInstanceUID": generate_uid(), "SeriesInstanceUID": generate_uid()}
    common |= {"PatientName": "Test^Patient", "PatientID": "4711", "SeriesNumber": 5, "StudyID": "1", **elements}
    order = range(values.shape[2])
    for number, k in enumerate(reversed(order) if reverse else order, start=1):
        made = Dataset()
        made.SOPClassUID, made.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", generate_uid()
        made.Modality, made.InstanceNumber, made.ImageType = "CT", number, ["ORIGINAL", "PRIMARY", "AXIAL"]
        made.ImagePositionPatient = [round(float(v), 6) for v in np.array([-20.0, 30.0, 5.0]) + k * step_mm]
        made.ImageOrientationPatient = [round(float(v), 8) for v in directions[:, :2].T.ravel()]
        made.PixelSpacing, made.SliceThickness = [0.5, 0.75], 2.5
        made.Columns, made.Rows = values.shape[:2]
        made.SamplesPerPixel, made.PhotometricInterpretation, made.PixelRepresentation = 1, "MONOCHROME2", 1
        made.BitsAllocated, made.BitsStored, made.HighBit = 16, 16, 15
        made.RescaleIntercept, made.RescaleSlope = 0, 1
        made.PixelData = np.ascontiguousarray(values[:, :, k].T, np.int16).tobytes()
        for name, value in common.items():
            setattr(made, name, value)
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.save_as(folder / f"IM{number:04d}", enforce_file_format=True)
    return folder


def voxels_of_segment(path: Path, number: int, grid: Grid) -> np.ndarray:
    """A segment as a mask (X, Y, Z) on ``grid``: each pixel that is set goes to the voxel that lies where it does."""
    seg = pydicom.dcmread(path)
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    shared = seg.SharedFunctionalGroupsSequence[0]
    mask = np.zeros(grid.shape, bool)
    for frame, own in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        if own.SegmentIdentificationSequence[0].ReferencedSegmentNumber != number:
            continue
        orientation = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
        rows_mm, columns_mm = (float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing)
        position = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        row, column = np.nonzero(frame)
        places = position + column[:, None] * columns_mm * orientation[0] + row[:, None] * rows_mm * orientation[1]
        voxels = to_voxels(places, grid)
        assert np.abs(voxels - np.rint(voxels)).max(initial=0) < 0.02
        mask[tuple(np.rint(voxels).astype(int).T)] = True
    return mask


def voxels_of_structure(path: Path, number: int, grid: Grid) -> np.ndarray:
    """A structure as a mask (X, Y, Z) on ``grid``: the voxels whose centres lie within a contour of their slice."""
    made = pydicom.dcmread(path)
    (structure,) = [one for one in made.ROIContourSequence if one.ReferencedROINumber == number]
    mask = np.zeros(grid.shape, bool)
    for contour in structure.get("ContourSequence", []):
        texts = contour.get_item("ContourData").value.decode().split("\\")  # as they are in the file
        assert max(map(len, texts)) <= 16 and len(texts) == 3 * contour.NumberOfContourPoints
        voxels = to_voxels(np.array(texts, float).reshape(-1, 3), grid)
        planes = np.unique(np.rint(voxels[:, 2]).astype(int))
        assert len(planes) == 1 and np.abs(voxels[:, 2] - planes[0]).max() < 0.02, "a contour lies in its slice"
        low, high = np.ceil(voxels[:, :2].min(axis=0)).astype(int), np.floor(voxels[:, :2].max(axis=0)).astype(int)
        pixels = np.argwhere(np.ones(high - low + 1, bool)) + low
        inside = (*pixels[points_in_poly(pixels, voxels[:, :2])].T, planes[0])
        assert not mask[inside].any(), "contours do not overlap"
        mask[inside] = True
    return mask


def to_voxels(places: np.ndarray, grid: Grid) -> np.ndarray:
    """Places (points, 3) in DICOM's mm as voxels of ``grid``."""
    return (np.c_[places, np.ones(len(places))] @ np.linalg.inv(LPS @ grid.matrix).T)[:, :3]
