from __future__ import annotations

from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.report import panels, pictures
from diffatlas_pipeline.volumes.size_unit import AREA


def test_sizes_of_two_dimensional_images_are_areas() -> None:
    summary, each = panels.volume_panels({"a": {"disc": 250.0}}, [LabelClass("disc", 1)], {"a": {"disc": (200.0, 300.0)}}, AREA)
    assert summary.header[1] == "mean [mm²]" and "Areas" in summary.caption and each.header == ["case", "disc [mm²]"]
    assert each.rows[0][1].startswith("250.00 (200.00 to 300.00")
    assert pictures.remarkable_by_volume({"a": {"disc": 250.0}}, AREA) == [("a", "smallest area: a, 250.00 mm²")]
