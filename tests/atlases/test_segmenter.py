from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from diffatlas_pipeline.atlases.late_fusion import NETWORK_SHARE, SHARES
from diffatlas_pipeline.atlases.policy import AtlasUse, choose_use
from diffatlas_pipeline.atlases.segmenter import Segmenter
from diffatlas_pipeline.errors import ModelError, UserError
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.inference.result import Maps
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.volumes.grids import Grid, Volume
from tests.inference.closed_form import fold, ready, scan
from tests.inference.conftest import brightness

__all__ = ["brightness"]


def training_case(image: np.ndarray, labels: np.ndarray, predictor: Predictor) -> Atlas:
    """A scan with its labels as a model keeps it."""
    prepared = predictor.prepare(Volume(image[None], Grid.of(image.shape, np.eye(4)))).image
    distances = np.stack([np.where(labels == label.value, -0.5, 0.5) for label in predictor.plan.dataset.labels])
    assert prepared.shape[1:] == distances.shape[1:]
    return Atlas("kept", prepared.astype(np.float16), distances.astype(np.float16))


@pytest.mark.parametrize("adapt", ["curve", "atlases"])
def test_contrast_is_adapted_to_the_training_scans(adapt: str) -> None:
    """The method in closed form finds what is bright: of an inverted scan it finds nothing right until that is
    adapted.
    """
    image, labels = scan()
    predictor = ready()
    kept = training_case(image, labels, predictor)
    inverted = Volume((image.max() - image)[None], Grid.of(image.shape, np.eye(4)))

    def found(adapt: str) -> float:
        used = Segmenter(predictor, [kept], AtlasUse(adapt))
        prepared = used.prepare(inverted)
        result = used.restore(used.segment(prepared), prepared)
        return float(((result.labels > 0) == (labels > 0)).mean())

    assert found("off") < 0.5
    assert found(adapt) > 0.9
    with pytest.raises(ModelError, match="keeps no training scans"):
        Segmenter(predictor, (), AtlasUse(adapt))


def test_atlases_have_their_share_of_the_answer() -> None:
    """The atlas is the scan itself, with other labels than the network finds: the answer lies between them, and is less
    sure than the network alone.
    """
    image, labels = scan()
    predictor = ready()
    swapped = np.where(labels == 2, 7, np.where(labels == 7, 2, 0))
    late = Segmenter(predictor, [training_case(image, swapped, predictor)], AtlasUse(late_fusion=True))
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    alone = predictor.segment(predictor.prepare(volume))
    prepared = late.prepare(volume)
    both = late.segment(prepared)
    assert prepared.atlases is not None and both.network_share == NETWORK_SHARE
    wanted = NETWORK_SHARE * alone.distances + (1 - NETWORK_SHARE) * prepared.atlases.distances
    assert torch.allclose(both.distances, wanted)
    unsure, sure = (late.restore(one, prepared, Maps(uncertainty=True)).error_probability for one in (both, alone))
    assert unsure is not None and sure is not None and unsure[labels > 0].mean() > sure[labels > 0].mean()


def test_an_adapted_scan_says_itself_how_much_the_network_counts() -> None:
    """A network that has learnt nothing, beside an atlas that is the scan: the scan takes the atlas' side."""
    image, labels = scan()
    nothing = replace(fold(), state={"weight": torch.zeros(2, 1, 1, 1, 1), "bias": torch.ones(2)})
    predictor = ready(folds=[nothing])
    kept = [training_case(image, labels, predictor)]
    volume = Volume(image[None], Grid.of(image.shape, np.eye(4)))
    shares = {}
    for adapt in ("off", "atlases"):
        late = Segmenter(predictor, kept, AtlasUse(adapt, late_fusion=True))
        prepared = late.prepare(volume)
        assert prepared.is_adapted == (adapt == "atlases")
        np.testing.assert_array_equal(prepared.image, predictor.prepare(volume).image)
        shares[adapt] = late.segment(prepared).network_share
    assert shares == {"off": NETWORK_SHARE, "atlases": min(SHARES)}


def test_a_scan_that_cannot_be_registered_is_segmented_as_it_is() -> None:
    image, labels = scan()
    predictor = ready()
    late = Segmenter(predictor, [training_case(image, labels, predictor)], AtlasUse(late_fusion=True))
    prepared = late.prepare(Volume(np.zeros_like(image)[None], Grid.of(image.shape, np.eye(4))))
    assert prepared.atlases is None and late.segment(prepared).network_share is None
    assert any("without the training scans" in warning for warning in prepared.shown.warnings)


def test_who_decides_on_adaptation_and_late_fusion() -> None:
    predictor = ready()  # learnt on MRI
    assert choose_use(predictor, 3) == (AtlasUse(), ())
    assert choose_use(predictor, 3, "MRI") == (AtlasUse(), ())
    assert choose_use(predictor, 3, "CT") == (AtlasUse("atlases", True), ())
    assert choose_use(predictor, 3, "CT", with_atlases=False) == (AtlasUse("atlases", False), ())
    assert choose_use(predictor, 3, "CT", "off") == (AtlasUse(), ())
    assert choose_use(predictor, 3, None, "curve", True) == (AtlasUse("curve", True), ())
    use, (warning,) = choose_use(predictor, 0, "CT")
    assert use == AtlasUse() and "keeps no training scans" in warning
    for asked in ({"with_atlases": True}, {"adapt_contrast": "curve"}, {"adapt_contrast": "atlases"}):
        with pytest.raises(UserError, match="keeps no training scans"):
            choose_use(predictor, 0, **asked)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="adapt_contrast"):
        choose_use(predictor, 3, adapt_contrast="guess")


def test_a_student_of_that_modality_is_in_its_domain() -> None:
    student = replace(fold(), metadata={"learnt_modalities": ["CT"]})
    assert choose_use(ready(folds=[student]), 3, "CT") == (AtlasUse(), ())
