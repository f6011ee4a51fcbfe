"""Labels that overlap: which values stand for which, and that distances decode to the values that made them."""

from __future__ import annotations

import numpy as np
import torch

from diffatlas_pipeline.datasets.codes import codes_of, shown_classes
from diffatlas_pipeline.datasets.description import LabelClass
from diffatlas_pipeline.methods.segmentation_loss import label_logits, margins, segmentation_loss
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels, encode_labels
from diffatlas_pipeline.report.viewer import _indices

TUMOUR = (LabelClass("whole", 2, (1, 2, 3)), LabelClass("core", 1, (1, 3)), LabelClass("enhancing", 3))
CROSSING = (LabelClass("a", 1, (1, 2)), LabelClass("b", 3, (2, 3)))


def nested(size: int = 15) -> np.ndarray:
    """Oedema (2) around a necrosis (1) with an enhancing part (3)."""
    x, y, z = np.meshgrid(*(np.arange(size) - size // 2,) * 3, indexing="ij")
    radius = np.sqrt(x**2 + y**2 + z**2)
    labels = np.where(radius < 6, 2, 0)
    labels[radius < 4] = 1
    labels[(radius < 4) & (x > 1)] = 3
    return labels.astype(np.int32)


def test_labels_that_do_not_overlap_are_their_own_codes() -> None:
    codes = codes_of((LabelClass("a", 3), LabelClass("b", 7)))
    assert codes.exclusive and codes.values == (3, 7) and codes.members == ((0,), (1,))
    assert np.array_equal(codes.number(np.array([0, 7, 3, 9])), [0, 2, 1, 0])
    assert np.array_equal(codes.number(np.array([-5, 7, 3, 2**30])), [0, 2, 1, 0])
    assert (
        np.array_equal(codes.number(np.array([-(2**15), 7, 2**15 - 1], dtype=np.int16)), [0, 2, 0])
        and codes.number(np.zeros(0, int)).size == 0
    )
    distances = np.zeros((2, 1, 1, 1))
    assert codes.scores(distances) is distances


def test_regions_are_told_by_the_values_that_are_in_them() -> None:
    codes = codes_of(TUMOUR)
    assert codes.values == (2, 1, 3) and codes.members == ((0,), (0, 1), (0, 1, 2)) and not codes.exclusive
    numbers = codes.number(nested())
    for number, label in enumerate(TUMOUR):
        assert np.array_equal(codes.mask(numbers, number), label.mask(nested()))


def test_values_that_stand_for_the_same_regions_are_one_code() -> None:
    codes = codes_of((LabelClass("whole", 2, (1, 2, 4)), LabelClass("core", 4, (4,))))
    assert codes.values == (2, 4) and codes.spellings == ((1, 2), (4,))
    assert np.array_equal(codes.number(np.array([0, 1, 2, 4])), [0, 1, 1, 2])


def test_regions_come_back_from_their_distances() -> None:
    for labels, array in ((TUMOUR, nested()), (CROSSING, np.array([0, 2, 1, 3])[nested()])):
        codes = codes_of(labels)
        maps = encode_labels(array, labels, (1.0, 1.0, 1.0), 3.0)
        assert np.array_equal(decode_labels(maps, codes), array)
        logits = label_logits(torch.from_numpy(maps)[None], codes)
        assert np.array_equal(logits.argmax(dim=1)[0].numpy(), codes.number(array))
        assert float(segmentation_loss(logits, torch.from_numpy(maps)[None], codes)) < 0.3
        swapped = label_logits(torch.from_numpy(-maps)[None], codes)
        assert float(segmentation_loss(swapped, torch.from_numpy(maps)[None], codes)) > 1


def test_any_logits_of_codes_become_distances_that_decode_to_the_largest() -> None:
    for labels in (TUMOUR, CROSSING, (LabelClass("a", 1), LabelClass("b", 2))):
        codes = codes_of(labels)
        logits = 8 * torch.randn((1 + len(codes.values), 6, 6, 6), generator=torch.Generator().manual_seed(3))
        found = decode_labels(margins(logits, codes).numpy(), codes)
        assert np.array_equal(codes.number(found), logits.argmax(dim=0).numpy())


def test_an_undecided_inner_region_never_hides_the_outer_one() -> None:
    distances = np.array([-0.5, 0.2, -0.1], dtype=np.float32).reshape(3, 1, 1, 1)
    assert decode_labels(distances, codes_of(TUMOUR)).item() == 2  # enhancing, but not core: the sum of both is outside


def test_pictures_show_each_value_once() -> None:
    assert [(one.name, one.value) for one in shown_classes(TUMOUR)] == [("whole", 2), ("core", 1), ("enhancing", 3)]
    assert [(one.name, one.value) for one in shown_classes(CROSSING)] == [("a", 1), ("b", 3), ("a and b", 2)]
    assert shown_classes((LabelClass("a", 3),)) == (LabelClass("a", 3),)
    for labels in (TUMOUR, TUMOUR[::-1]):
        order = [label.name for label in labels]
        found = _indices(np.array([0, 2, 1, 3]), labels)
        assert [order[number - 1] for number in found[1:]] == ["whole", "core", "enhancing"]
