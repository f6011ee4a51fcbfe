"""Pairs as they are written: units, grid, layout, for one and several channels, two and three dimensions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from diffatlas_pipeline.datasets.raw import read_dataset
from diffatlas_pipeline.diffusion.plan import DiffusionPlan
from diffatlas_pipeline.diffusion.solvers import Sampler
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.generation import (
    PairFolder,
    checked_shape,
    generate_pair,
    generating_sampler,
    poorly_taught,
    usual_shape,
)
from diffatlas_pipeline.inference.predictor import Predictor
from diffatlas_pipeline.methods.base import GeneratedPair
from diffatlas_pipeline.methods.diffatlas import DiffAtlas
from diffatlas_pipeline.methods.joint_recipe import DEFAULT, PAPER
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.models.folder import TrainedFold
from diffatlas_pipeline.planning.plan import ChannelPlan
from diffatlas_pipeline.preprocessing.normalisation import denormalise, normalise, renormalise
from diffatlas_pipeline.volumes.io import read_labels, read_volume
from tests.model_files import plan, recipe

CHANNELS = (ChannelPlan("CT", "ct", -100.0, 300.0), ChannelPlan("MRI", "percentile", 0.5, 99.5))


def test_intensities_of_a_ct_are_hounsfield_units_again() -> None:
    image = np.linspace(-99, 299, 2 * 27, dtype=np.float32).reshape(2, 3, 3, 3)
    seen = normalise(image, CHANNELS)
    back = denormalise(seen, CHANNELS)
    np.testing.assert_allclose(back[0], image[0], atol=1e-3)
    assert back[1].min() == 0 and back[1].max() == 1  # percentiles of each scan: its units are not known
    np.testing.assert_allclose(renormalise(back, CHANNELS), seen, atol=1e-6)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_pairs_are_read_as_a_raw_data_set(tmp_path: Path, dimensions: int) -> None:
    made = plan(patch=(16, 16, 16 if dimensions == 3 else 1), channels=2, dimensions=dimensions)
    made = replace(made, channels=CHANNELS, dataset=replace(made.dataset, channels=("CT", "MRI")), spacing_mm=(1.5, 1.0, 2.0))
    torch.manual_seed(0)
    state = create_method("diffatlas", made, recipe()).build_network().state_dict()
    fold = TrainedFold(made, "diffatlas", "default", "fold0", state, {})
    predictor = Predictor([fold], torch.device("cpu"), recipe(), precision="float32")
    shape = checked_shape(made, (12, 20) if dimensions == 2 else (12, 20, 14))
    pair = generate_pair(predictor, 4, shape, generating_sampler(predictor.method, 3, None))
    assert pair.image.shape == (2, *shape) and pair.distances.shape == (2, *shape)

    folder = PairFolder(tmp_path / "Dataset900_Pairs", made)
    folder.write(4, pair)
    folder.write_description(1, {"seed": 0})
    (case,) = read_dataset(folder.folder).training
    volume = read_volume(case.images)
    assert case.case == "generated_0004" and case.label is not None
    assert volume.grid.spacing_mm[:dimensions] == pytest.approx(made.spacing_mm[:dimensions])
    assert volume.grid.dimensions == dimensions
    np.testing.assert_allclose(renormalise(volume.array, CHANNELS), pair.image, atol=1e-5)
    labels = read_labels(case.label).array
    inside = pair.distances.numpy().min(axis=0) < 0
    assert np.array_equal(labels > 0, inside) and set(np.unique(labels)) <= {0, 2, 7}


def test_what_is_written_decodes_to_the_smallest_distance(tmp_path: Path) -> None:
    distances = torch.tensor([[-0.5, -0.1, 0.2, 0.3], [0.5, -0.3, -0.1, 0.9]]).reshape(2, 4, 1, 1)
    folder = PairFolder(tmp_path, plan())
    folder.write(0, GeneratedPair(torch.zeros(1, 4, 1, 1), distances))
    label = folder.files(0).label
    assert label is not None and read_labels(label).array.ravel().tolist() == [2, 7, 7, 0]


def test_the_shape_is_the_median_of_the_training_cases() -> None:
    assert usual_shape(plan(), [(10, 20, 30), (14, 18, 30), (12, 40, 31)]) == (12, 20, 30)
    assert usual_shape(plan(), []) == plan().patch_size
    with pytest.raises(UserError, match="`shape` 4 0 4: 3 numbers of voxels above 0"):
        checked_shape(plan(), (4, 0, 4))


def test_all_ancestral_steps_are_taken_where_they_are_asked_for() -> None:
    method = DiffAtlas(replace(plan(), diffusion=DiffusionPlan("cosine", 270)), DEFAULT)
    assert generating_sampler(method, None, None) == Sampler("dpmpp_2m", steps=50)
    assert generating_sampler(method, None, "ddpm") == Sampler("ddpm", steps=0)
    assert generating_sampler(method, 5, "ddim") == Sampler("ddim", steps=5)
    assert generating_sampler(DiffAtlas(plan(), DEFAULT), None, None).steps == plan().diffusion.training_steps
    with pytest.raises(UserError, match="`solver` euler: unknown"):
        generating_sampler(method, None, "euler")


def test_a_recipe_that_hardly_saw_noisy_images_is_told() -> None:
    assert "only 6%" in (poorly_taught(DiffAtlas(plan(), DEFAULT)) or "")
    assert poorly_taught(DiffAtlas(plan(), PAPER)) is None
