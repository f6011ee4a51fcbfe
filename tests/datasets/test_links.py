"""Links show exactly the chosen cases."""

from __future__ import annotations

from pathlib import Path

from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.links import link_cases


def test_links_show_exactly_the_chosen_cases(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in ("dataset.json", "a.nii.gz", "a_seg.nii.gz", "b.mhd", "b.raw", "b_seg.nii.gz"):
        (source / name).write_text(name)
    cases = (
        CaseFiles("a", (source / "a.nii.gz",), source / "a_seg.nii.gz"),
        CaseFiles("b", (source / "b.mhd",), source / "b_seg.nii.gz"),
    )
    place = tmp_path / "links"

    def listed() -> set[str]:
        return {path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file()}

    link_cases(cases, source / "dataset.json", place)
    images = {"imagesTs/a_0000.nii.gz", "imagesTs/b_0000.mhd", "imagesTs/b.raw"}
    assert listed() == {"dataset.json", "labelsTs/a.nii.gz", "labelsTs/b.nii.gz", *images}
    assert (place / "labelsTs" / "a.nii.gz").read_text() == "a_seg.nii.gz"
    link_cases(cases[:1], source / "dataset.json", place)
    assert listed() == {"dataset.json", "labelsTs/a.nii.gz", "imagesTs/a_0000.nii.gz"}
    assert (source / "b.raw").read_text() == "b.raw"  # links were removed, not what they point to
