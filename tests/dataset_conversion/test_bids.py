"""BIDS trees with segmentations in their derivatives, as the specification lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from tests.dataset_conversion.source_trees import AFFINE, check_twice, convert, image, labels, refused, same_grid, save

Captured = pytest.CaptureFixture[str]
TABLE = """index	name	abbreviation	color
0	Background	BG	#000000
1	left hippocampus	LH	#ff0000
2	right hippocampus	RH	#00ff00
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Two subjects, one with two sessions, with T1w and FLAIR, and one pipeline with dseg files and its table."""
    root = tmp_path / "study"
    for seed, (subject, session) in enumerate((("01", "a"), ("01", "b"), ("02", None))):
        place, name = _place(subject, session)
        save(root / place / "anat" / f"{name}_T1w.nii.gz", image(seed))
        (root / place / "anat" / f"{name}_T1w.json").write_text("{}")
        save(root / place / "anat" / f"{name}_FLAIR.nii.gz", image(10 + seed))
        save(root / place / "func" / f"{name}_task-rest_bold.nii.gz", np.zeros((2, 2, 2, 5), np.int16))
        save(root / "derivatives/manual" / place / "anat" / f"{name}_space-orig_dseg.nii.gz", labels(seed))
    (root / "derivatives/manual/dseg.tsv").write_text(TABLE + "7\tpons\tP\t#0000ff\n", encoding="utf-8")
    (root / "derivatives/fmriprep/logs").mkdir(parents=True)
    (root / "dataset_description.json").write_text('{"Name": "Memory study 2", "BIDSVersion": "1.10.0"}')
    (root / "participants.tsv").write_text("participant_id\nsub-01\nsub-02\n")
    return root


def _place(subject: str, session: str | None) -> tuple[Path, str]:
    place = Path(f"sub-{subject}") / (f"ses-{session}" if session else "")
    return place, f"sub-{subject}" + (f"_ses-{session}" if session else "")


def words(source: Path, *more: str) -> list[str]:
    return ["bids", "-i", str(source), "-d", "6", *more]


def test_suffixes_become_channels_and_the_table_names_the_labels(tmp_path: Path, source: Path, capsys: Captured) -> None:
    message = refused(tmp_path, capsys, *words(source))
    assert "suffixes FLAIR, T1w. Choose with --suffixes" in message
    said = check_twice(tmp_path, capsys, *words(source, "--suffixes", "T1w", "FLAIR"))
    assert "1 of 3 named labels are in no case" in said and "dseg.tsv" in said
    dataset = read_dataset(tmp_path / "raw/Dataset006_Memorystudy2")
    assert dataset.description.channels == ("T1w", "FLAIR")
    assert [(label.name, label.value) for label in dataset.description.labels] == [
        ("left hippocampus", 1),
        ("right hippocampus", 2),
    ]
    assert [files.case for files in dataset.training] == ["sub-01_ses-a", "sub-01_ses-b", "sub-02"]
    for seed, files in enumerate(dataset.training):
        assert files.label is not None and same_grid(files.label) and same_grid(files.images[1])
        assert files.images[0].samefile(next(source.glob(f"sub-*/**/{files.case}_T1w.nii.gz")))
        np.testing.assert_array_equal(read_volume(files.images).array, [image(seed), image(10 + seed)])
        np.testing.assert_array_equal(read_labels(files.label).array, labels(seed))


def test_one_suffix_of_anat_needs_no_option_and_a_nearer_table_wins(tmp_path: Path, source: Path, capsys: Captured) -> None:
    for path in source.rglob("*_FLAIR.nii.gz"):
        path.unlink()
    (source / "derivatives/manual/space-orig_dseg.tsv").write_text(TABLE.replace("hippocampus", "amygdala"))
    (source / "derivatives/manual/space-MNI_dseg.tsv").write_text(TABLE.replace("hippocampus", "elsewhere"))
    check_twice(tmp_path, capsys, *words(source, "--name", "Brain"))
    dataset = read_dataset(tmp_path / "raw/Dataset006_Brain")
    assert dataset.description.channels == ("T1w",)
    assert [label.name for label in dataset.description.labels] == ["left amygdala", "right amygdala"]


def test_without_a_table_labels_are_numbered_or_given(tmp_path: Path, source: Path, capsys: Captured) -> None:
    (source / "derivatives/manual/dseg.tsv").unlink()
    convert(tmp_path, *words(source, "--suffixes", "T1w"))
    assert "label_1, label_2" in capsys.readouterr().out
    convert(tmp_path, *words(source, "--suffixes", "T1w", "--label-names", "left=1", "right=2", "--overwrite"))
    dataset = read_dataset(tmp_path / "raw/Dataset006_Memorystudy2")
    assert [label.name for label in dataset.description.labels] == ["left", "right"]


def test_everything_unmatched_and_ambiguous_is_listed(tmp_path: Path, source: Path, capsys: Captured) -> None:
    manual = source / "derivatives/manual"
    save(source / "sub-03/anat/sub-03_T1w.nii.gz", image(20))  # no segmentation
    save(manual / "sub-04/anat/sub-04_dseg.nii.gz", labels(21))  # no image
    for acquisition in ("hi", "lo"):
        save(source / f"sub-05/anat/sub-05_acq-{acquisition}_T1w.nii.gz", image(22))
    save(manual / "sub-05/anat/sub-05_dseg.nii.gz", labels(22))
    save(source / "sub-06/anat/sub-06_T1w.nii.gz", image(23))
    for space in ("orig", "MNI"):
        save(manual / f"sub-06/anat/sub-06_space-{space}_dseg.nii.gz", labels(23))
    save(manual / "sub-02/anat/sub-02_space-orig_dseg.nii.gz", labels(2, (1, 9)))
    message = refused(tmp_path, capsys, *words(source, "--suffixes", "T1w"))
    assert "5 problem(s)" in message
    for case, problem in {
        "sub-02": "label value(s) 9, which have no name",
        "sub-03": "no labels for sub-03_T1w.nii.gz (--unlabelled-to-test",
        "sub-04": "sub-04_dseg.nii.gz has no image with suffix T1w",
        "sub-05": "several images with one suffix (--image-with chooses): sub-05_acq-hi_T1w.nii.gz, sub-05_acq-lo",
        "sub-06": "several segmentations (--labels-with chooses): sub-06_space-MNI_dseg.nii.gz",
    }.items():
        assert any(line.startswith(f"  {case}  ") and problem in line for line in message.splitlines()), (case, message)
    said = check_twice(tmp_path, capsys, *words(source, "--suffixes", "T1w", "--leave-out-bad", "--unlabelled-to-test"))
    assert "4 case(s) or file(s) are left out" in said
    dataset = read_dataset(tmp_path / "raw/Dataset006_Memorystudy2")
    assert [files.case for files in dataset.test] == ["sub-03"]
    assert "sub-06" not in {files.case for files in dataset.training}


def test_entities_choose(tmp_path: Path, source: Path) -> None:
    """A segmentation that names the acquisition it was made of needs no option; entities choose the others."""
    manual = source / "derivatives/manual"
    for seed, acquisition in enumerate(("hi", "lo")):
        for run in ("1", "2"):
            save(source / f"sub-05/anat/sub-05_acq-{acquisition}_run-{run}_T1w.nii.gz", image(40 + seed))
    for run in ("1", "2"):
        save(manual / f"sub-05/anat/sub-05_acq-lo_run-{run}_space-orig_dseg.nii.gz", labels(41))
        save(manual / f"sub-05/anat/sub-05_acq-lo_run-{run}_space-MNI_dseg.nii.gz", labels(42))
    convert(tmp_path, *words(source, "--suffixes", "T1w", "--labels-with", "space-orig"))
    folder = tmp_path / "raw/Dataset006_Memorystudy2"
    for run in ("1", "2"):
        np.testing.assert_array_equal(read_volume([folder / f"imagesTr/sub-05_run-{run}_0000.nii.gz"]).array[0], image(41))
        np.testing.assert_array_equal(read_labels(folder / f"labelsTr/sub-05_run-{run}.nii.gz").array, labels(41))


def test_masks_of_labels_become_one_map(tmp_path: Path, source: Path, capsys: Captured) -> None:
    masks = source / "derivatives/lesions"
    for seed, (subject, session) in enumerate((("01", "a"), ("01", "b"), ("02", None))):
        place, name = _place(subject, session)
        for value, label in enumerate(("core", "penumbra"), start=1):
            mask = (labels(seed) == value).astype(np.uint8)
            save(masks / place / "anat" / f"{name}_space-orig_label-{label}_mask.nii.gz", mask)
        save(masks / place / "anat" / f"{name}_desc-brain_mask.nii.gz", np.ones((3, 3, 3), np.uint8))
    message = refused(tmp_path, capsys, *words(source, "--suffixes", "T1w"))
    assert "2 folders hold segmentations (lesions, manual)" in message
    chosen = words(source, "--suffixes", "T1w", "--derivatives", "lesions")
    assert "core 1, penumbra 2" in check_twice(tmp_path, capsys, *chosen)
    dataset = read_dataset(tmp_path / "raw/Dataset006_Memorystudy2")
    assert [(label.name, label.value) for label in dataset.description.labels] == [("core", 1), ("penumbra", 2)]
    for seed, files in enumerate(dataset.training):
        assert files.label is not None and same_grid(files.label, AFFINE)
        np.testing.assert_array_equal(read_labels(files.label).array, labels(seed))
    # made from changed masks, they are made again; without one, or where two overlap, they are refused
    core = masks / "sub-02/anat/sub-02_space-orig_label-core_mask.nii.gz"
    save(core, np.zeros(labels(2).shape, np.uint8))
    convert(tmp_path, *chosen)
    np.testing.assert_array_equal(read_labels(tmp_path / "raw/Dataset006_Memorystudy2/labelsTr/sub-02.nii.gz").array == 1, 0)
    save(core, np.ones(labels(2).shape, np.uint8))
    (masks / "sub-01/ses-a/anat/sub-01_ses-a_space-orig_label-core_mask.nii.gz").unlink()
    message = refused(tmp_path, capsys, *chosen)
    assert "sub-01_ses-a  no mask of label core" in message and "voxels are in another mask" in message


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--suffixes", "T2w"], "images with suffix T2w are not there. Known suffixes are FLAIR, T1w, bold"),
        (["--derivatives", "nothing"], "In {}/derivatives there are: fmriprep, manual"),
        (["--derivatives", "fmriprep"], "holds no ..._dseg.nii.gz"),
        (["--labels-with", "orig"], "--labels-with orig: give entities"),
        (["--labels-with", "space-x"], "with the entities in --labels-with"),
    ],
)
def test_choices_that_do_not_fit(tmp_path: Path, source: Path, more: list[str], message: str, capsys: Captured) -> None:
    suffixes = [] if "--suffixes" in more else ["--suffixes", "T1w"]
    assert message.format(source) in refused(tmp_path, capsys, *words(source, *suffixes, *more))


def test_broken_trees(tmp_path: Path, source: Path, capsys: Captured) -> None:
    assert "Give the root of a BIDS data set" in refused(tmp_path, capsys, *words(source / "derivatives"))
    anat = source / "sub-02/anat"
    save(anat / "sub-01_T1w.nii.gz", image(0))
    assert "lies in sub-02, but its name" in refused(tmp_path, capsys, *words(source, "--suffixes", "T1w"))
    (anat / "sub-01_T1w.nii.gz").unlink()
    table = source / "derivatives/manual/sub-02/anat/sub-02_dseg.tsv"
    table.write_text(TABLE.replace("1\tleft", "3\tleft"))
    assert "Make them agree" in refused(tmp_path, capsys, *words(source, "--suffixes", "T1w"))
