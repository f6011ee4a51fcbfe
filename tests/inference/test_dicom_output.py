"""DICOM SEG and RTSTRUCT lie where the segmentation does, refer to their series, and say what they hold."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from skimage.color import rgb2lab

from diffatlas_pipeline.datasets.description import CaseFiles, LabelClass
from diffatlas_pipeline.errors import ImageError, UserError
from diffatlas_pipeline.inference.dicom_output import DicomOutput, Written, kinds_of
from diffatlas_pipeline.inference.dicom_seg import Author
from diffatlas_pipeline.inference.export import Destination
from diffatlas_pipeline.volumes.io import read_grid, read_volume, write_labels
from tests.inference.dicom_series import TURNED, to_voxels, voxels_of_segment, voxels_of_structure, write_ct

CLASSES = (LabelClass("small", 2), LabelClass("Größe", 7), LabelClass("absent", 8))
VALIDATOR = shutil.which("dciodvfy")
AUTHOR = Author("Dataset001_A", {"recipe": "default"})
IMAGE = np.random.default_rng(0).integers(-500, 500, size=(12, 11, 7))


def labelled(shape: Sequence[int] = IMAGE.shape) -> np.ndarray:
    """A shell with a hole around a core, nowhere symmetric."""
    x, y, z = np.indices(shape)
    distance = np.sqrt((x - 5) ** 2 + (y - 4.5) ** 2 + 4 * (z - 2) ** 2)
    labels = np.where(distance < 1.8, 7, np.where((distance > 2.5) & (distance < 4.6), 2, 0))
    labels[10:, 9:, 4:] = 2
    return labels


def written(
    tmp_path: Path, series: Path, labels: np.ndarray, classes: tuple[LabelClass, ...] = CLASSES
) -> tuple[DicomOutput, CaseFiles, Written]:
    files = CaseFiles("case", (series,), None)
    output = DicomOutput(("seg", "rtstruct"), Destination(tmp_path / "out", ".nii.gz"), classes, AUTHOR)
    output.check([files])
    write_labels(output.destination.labels(files), labels, read_grid(series), like=series)
    return output, files, output.write(files, fresh=True)


KINDS = {
    "oblique": {},
    "files from the last slice on": {"reverse": True},
    "slices from head to foot": {"directions": TURNED * [1, 1, -1]},
    "left-handed": {"directions": np.diag([1.0, -1.0, 1.0])},
    "sagittal": {"directions": np.array([[0.0, 0, 1], [1, 0, 0], [0, -1, 0]])},
    "tilted": {"directions": np.eye(3), "step": (0.0, 0.6, 2.5)},
}


@pytest.mark.parametrize("kind", KINDS)
def test_both_lie_where_the_segmentation_does(tmp_path: Path, kind: str) -> None:
    labels, series = labelled(), write_ct(tmp_path / "series", IMAGE, **KINDS[kind])  # type: ignore[arg-type]
    grid = read_grid(series)
    if np.linalg.det(KINDS[kind].get("directions", TURNED)) < 0:  # slices are sorted along their normal
        labels = labels[:, :, ::-1]
    _, _, found = written(tmp_path, series, labels)
    for number, one in enumerate(CLASSES, start=1):
        np.testing.assert_array_equal(voxels_of_segment(tmp_path / "out/dicom/case_seg.dcm", number, grid), labels == one.value)
        structure = voxels_of_structure(tmp_path / "out/dicom/case_rtstruct.dcm", number, grid)
        np.testing.assert_array_equal(structure, labels == one.value)
    assert any("tilted gantry" in warning for warning in found.warnings) == (kind == "tilted")


@pytest.mark.skipif(VALIDATOR is None, reason="dciodvfy (package dicom3tools) is not installed")
@pytest.mark.parametrize("kind", KINDS)
def test_another_program_finds_nothing_wrong(tmp_path: Path, kind: str) -> None:
    """Every element that the standard demands is there, with a value that it allows."""
    series = write_ct(tmp_path / "series", IMAGE, StudyDate="20260101", StudyTime="101010", **KINDS[kind])  # type: ignore[arg-type]
    written(tmp_path, series, labelled())
    made = sorted((tmp_path / "out" / "dicom").iterdir())
    assert len(made) == 2
    for path in made:
        told = subprocess.run([str(VALIDATOR), str(path)], capture_output=True, text=True, check=False)
        said = told.stdout + told.stderr
        assert told.returncode == 0 and not re.search("^(Error|Warning)", said, re.MULTILINE), said


def test_they_refer_to_series_patient_and_study(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "series", IMAGE, PatientName="Müller^Zoë", SpecificCharacterSet="ISO_IR 100")
    headers = [pydicom.dcmread(path) for path in series.iterdir()]
    written(tmp_path, series, labelled())
    seg = hd.seg.segread(tmp_path / "out" / "dicom" / "case_seg.dcm")
    structures = pydicom.dcmread(tmp_path / "out" / "dicom" / "case_rtstruct.dcm")
    for made in (seg, structures):
        for name in ("PatientName", "PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "StudyID"):
            assert made[name].value == headers[0][name].value and made[name].value
        assert made.SeriesInstanceUID != headers[0].SeriesInstanceUID and made.SeriesNumber in (5001, 5002)
    uids = {header.SOPInstanceUID for header in headers}
    assert {instance for _, _, instance in seg.get_source_image_uids()} == uids
    reference = structures.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
    assert reference.SeriesInstanceUID == headers[0].SeriesInstanceUID
    assert {image.ReferencedSOPInstanceUID for image in reference.ContourImageSequence} == uids
    assert (
        len({seg.SOPInstanceUID, structures.SOPInstanceUID, seg.SeriesInstanceUID, structures.SeriesInstanceUID} | uids) == 11
    )


def test_segments_and_structures_have_names_colours_and_origin(tmp_path: Path) -> None:
    written(tmp_path, write_ct(tmp_path / "series", IMAGE), labelled())
    seg = hd.seg.segread(tmp_path / "out" / "dicom" / "case_seg.dcm")
    structures = pydicom.dcmread(tmp_path / "out" / "dicom" / "case_rtstruct.dcm")
    assert [seg.get_segment_description(n).segment_label for n in (1, 2, 3)] == ["small", "Größe", "absent"]
    assert [one.ROIName for one in structures.StructureSetROISequence] == ["small", "Größe", "absent"]
    assert [list(one.ROIDisplayColor) for one in structures.ROIContourSequence] == [
        [228, 26, 28],
        [55, 126, 184],
        [77, 175, 74],
    ]
    first = seg.get_segment_description(1)
    lightness, a, b = rgb2lab(np.array([228, 26, 28]) / 255)
    expected = np.array([lightness / 100, (a + 128) / 255, (b + 128) / 255]) * 65535  # PS3.3, C.10.7.1.1
    np.testing.assert_allclose(first.RecommendedDisplayCIELabValue, expected, rtol=0.01)
    assert first.algorithm_type.value == "AUTOMATIC" and first.segmented_property_type.meaning == "Tissue"
    assert first.algorithm_identification.name == "DiffAtlas"
    assert structures.StructureSetROISequence[0].ROIGenerationAlgorithm == "AUTOMATIC"


def test_regions_are_whole_and_overlap(tmp_path: Path) -> None:
    classes = (LabelClass("whole", 2, (2, 7)), LabelClass("core", 7))
    labels, series = labelled(), write_ct(tmp_path / "series", IMAGE)
    written(tmp_path, series, labels, classes)
    for number, mask in ((1, labels > 0), (2, labels == 7)):
        for read, kind in ((voxels_of_segment, "seg"), (voxels_of_structure, "rtstruct")):
            found = read(tmp_path / "out" / "dicom" / f"case_{kind}.dcm", number, read_grid(series))
            np.testing.assert_array_equal(found, mask)


def test_a_series_in_one_file_of_frames(tmp_path: Path) -> None:
    """As enhanced CT and MR are stored; its frames may come in the other order."""
    text = dict.fromkeys(("PatientBirthDate", "PatientSex", "AccessionNumber", "ReferringPhysicianName", "Manufacturer"), "")
    times = {f"{kind}Date": "20260101" for kind in ("Study", "Series", "Acquisition", "Content")}
    times |= {f"{kind}Time": "101010" for kind in ("Study", "Series", "Acquisition", "Content")}
    single = write_ct(tmp_path / "single", IMAGE, AcquisitionNumber=1, **text, **times)
    headers = [pydicom.dcmread(path) for path in sorted(single.iterdir())]
    (tmp_path / "series").mkdir()
    enhanced = hd.legacy.LegacyConvertedEnhancedCTImage(headers, hd.UID(), 9, hd.UID(), 1)
    enhanced.save_as(tmp_path / "series" / "one.dcm")
    image, grid = read_volume([tmp_path / "series"]).array[0], read_grid(tmp_path / "series")
    first, last = (to_voxels(np.array([header.ImagePositionPatient], float), grid)[0] for header in (headers[0], headers[-1]))
    np.testing.assert_allclose(image[:, :, round(first[2])], IMAGE[:, :, 0])
    np.testing.assert_allclose(image[:, :, round(last[2])], IMAGE[:, :, -1])
    labels = labelled()
    written(tmp_path, tmp_path / "series", labels)
    segment = voxels_of_segment(tmp_path / "out/dicom/case_seg.dcm", 1, grid)
    structure = voxels_of_structure(tmp_path / "out/dicom/case_rtstruct.dcm", 1, grid)
    assert (segment == (labels == 2)).all() and (structure == (labels == 2)).all()
    made = pydicom.dcmread(tmp_path / "out" / "dicom" / "case_rtstruct.dcm")
    frames = [int(one.ContourImageSequence[0].ReferencedFrameNumber) for one in made.ROIContourSequence[0].ContourSequence]
    assert set(frames) == set(np.flatnonzero((labels == 2).any(axis=(0, 1))) + 1)


def test_an_empty_segmentation_is_written(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "series", IMAGE)
    written(tmp_path, series, np.zeros(IMAGE.shape, np.uint8))
    assert not voxels_of_segment(tmp_path / "out/dicom/case_seg.dcm", 1, read_grid(series)).any()
    assert not voxels_of_structure(tmp_path / "out/dicom/case_rtstruct.dcm", 1, read_grid(series)).any()


def test_what_is_there_is_made_again_only_where_the_segmentation_has_changed(tmp_path: Path) -> None:
    series, out = write_ct(tmp_path / "series", IMAGE), tmp_path / "out" / "dicom"
    output, files, first = written(tmp_path, series, labelled())
    path = output.destination.labels(files)
    before = {name: (out / name).read_bytes() for name in ("case_seg.dcm", "case_rtstruct.dcm")}

    def again(known: dict, fresh: bool = False) -> Written:
        return DicomOutput(output.kinds, output.destination, CLASSES, AUTHOR, known={"case": known}).write(files, fresh)

    record = {"output": first.files["seg"]["labels"], "dicom": first.files}
    assert again(record) == Written(first.files)
    write_labels(path, np.where(labelled() == 7, 2, labelled()), read_grid(series), like=series)
    changed = again(record)
    assert changed.files["seg"]["labels"] != first.files["seg"]["labels"]
    seg = hd.seg.segread(out / "case_seg.dcm")
    assert not voxels_of_segment(out / "case_seg.dcm", 2, read_grid(series)).any()
    assert seg.get_segment_description(1).algorithm_type.value == "SEMIAUTOMATIC" and "edited" in seg.SeriesDescription
    (out / "case_seg.dcm").write_bytes(before["case_seg.dcm"])  # what a reader has saved in its place
    kept = again({"output": first.files["seg"]["labels"], "dicom": changed.files})
    assert (out / "case_seg.dcm").read_bytes() == before["case_seg.dcm"] and "case_seg.dcm was changed" in kept.warnings[0]
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_written_is_refused_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="nii: unknown; choose one or both of seg, rtstruct"):
        kinds_of(["nii", "seg"])
    assert kinds_of("rtstruct") == ("rtstruct",) and kinds_of(["rtstruct", "seg"]) == ("seg", "rtstruct")
    output = DicomOutput(("seg",), Destination(tmp_path, ".nii.gz"), CLASSES, AUTHOR)
    (tmp_path / "a.nii.gz").touch()
    with pytest.raises(UserError, match=r"1 of 1 cases are no DICOM series: a\. Give DICOM series only"):
        output.check([CaseFiles("a", (tmp_path / "a.nii.gz",), None)])
    nowhere = write_ct(tmp_path / "nowhere", IMAGE, FrameOfReferenceUID="")
    with pytest.raises(UserError, match=r"1 of 1 series:\n  b: its headers have no FrameOfReferenceUID\nThese are needed"):
        output.check([CaseFiles("b", (nowhere,), None)])
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(UserError, match=r"needs highdicom(.|\n)*pip install -c constraints\.txt -e \"\.\[dicom\]\""):
        output.check([])
    DicomOutput((), output.destination, CLASSES, AUTHOR).check([CaseFiles("a", (tmp_path / "a.nii.gz",), None)])


def test_a_segmentation_that_does_not_belong_to_the_series_is_refused(tmp_path: Path) -> None:
    series = write_ct(tmp_path / "series", IMAGE)
    moved = write_ct(tmp_path / "moved", IMAGE, directions=np.eye(3))
    output, files, _ = written(tmp_path, series, labelled())
    output = DicomOutput(output.kinds, output.destination, CLASSES, AUTHOR, overwrite=True)
    for labels, like, message in (
        (labelled(), moved, "beside that of the segmentation"),
        (np.where(labelled() == 7, 99, 0), series, "holds the values 99, which the model does not name"),
    ):
        write_labels(output.destination.labels(files), labels, read_grid(like), like=like)
        with pytest.raises(ImageError, match=message):
            output.write(files, fresh=False)


def test_contours_of_any_length_come_back(tmp_path: Path) -> None:
    """A contour of more than 64 KiB of text: a comb."""
    shape = (1400, 24, 2)
    series = write_ct(tmp_path / "series", np.zeros(shape, dtype=np.int16))
    mask = np.zeros(shape, dtype=np.int32)
    mask[5:1395, 5:20] = CLASSES[0].value
    mask[8:1392:2, 8:] = 0
    written(tmp_path, series, mask)
    file = pydicom.dcmread(tmp_path / "out/dicom/case_rtstruct.dcm")
    longest = max(len(one.ContourData) for roi in file.ROIContourSequence for one in roi.get("ContourSequence", ()))
    assert longest > 3 * 2500
    found = voxels_of_structure(tmp_path / "out/dicom/case_rtstruct.dcm", 1, read_grid(series))
    np.testing.assert_array_equal(found, mask == CLASSES[0].value)
