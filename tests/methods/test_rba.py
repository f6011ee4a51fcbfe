"""Registration-based segmentation through the contract of a method."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from diffatlas_pipeline.fields import problems_of
from diffatlas_pipeline.methods.base import WindowFunction
from diffatlas_pipeline.methods.rba import AtlasBank, RegistrationAtlas, RegistrationRecipe, unpadded_box
from diffatlas_pipeline.methods.registry import create_method
from diffatlas_pipeline.preprocessing.distance_maps import decode_labels
from diffatlas_pipeline.registration.atlas import Atlas
from diffatlas_pipeline.registration.fusion import FUSIONS
from tests.factories import make_plan
from tests.registration.shapes import SHAPE, bend, distances, mean_dice, scan

PLAN = make_plan(patch_size=(30, 30, 30))
RECIPE = RegistrationRecipe()


def training_case(seed: int) -> tuple[Atlas, np.ndarray]:
    image, labels = scan(bend(size=2.0, seed=seed))
    return Atlas(f"case.{seed}", image, 1.5 * distances(labels)), labels


def never(run: WindowFunction, volume: torch.Tensor) -> torch.Tensor:
    raise AssertionError("registration needs no windows")


def test_memorise_write_restore_segment(tmp_path: Path) -> None:
    method = create_method("rba", PLAN, RECIPE)
    assert isinstance(method, RegistrationAtlas)
    cases = [training_case(seed)[0] for seed in (1, 2)]
    state = method.memorise(iter(cases))
    assert {name.split("/")[0]: tensor.dtype for name, tensor in state.items()} == {
        "image": torch.float16, "distances": torch.float16, "frame": torch.float64
    }  # fmt: skip
    save_file(state, tmp_path / "checkpoint.safetensors")
    network = method.restore(load_file(tmp_path / "checkpoint.safetensors"))
    assert isinstance(network, AtlasBank) and network.names == ("case.1", "case.2")
    assert all(atlas.frame is not None for atlas in network.atlases())
    image, truth = scan(bend(size=2.0, seed=7))
    margin = [(0, 0), *((((30 - n) // 2), 30 - n - (30 - n) // 2) for n in SHAPE)]
    padded = torch.from_numpy(np.pad(image, margin, constant_values=-1))
    found = method.segment(network.eval(), padded, never, seed=0)
    assert found.distances.shape == (2, 30, 30, 30) and found.distances.abs().max() <= 1
    inside = tuple(slice(before, 30 - after) for before, after in margin[1:])
    labels = decode_labels(found.distances.numpy(), (1, 2))
    assert mean_dice(labels[inside], truth) > 0.92
    labels[inside] = 0
    assert not labels.any()


def test_one_atlas_is_enough() -> None:
    case, labels = training_case(3)
    method = RegistrationAtlas(PLAN, RECIPE)
    network = method.restore(method.memorise([case]))
    found = method.segment(network, torch.from_numpy(case.image), never, 0)
    assert mean_dice(decode_labels(found.distances.numpy(), (1, 2)), labels) > 0.97


def test_the_result_does_not_depend_on_the_order_of_training_cases() -> None:
    cases = [training_case(seed)[0] for seed in (1, 2)]
    method = RegistrationAtlas(PLAN, RegistrationRecipe("affine"))
    one, two = (method.restore(method.memorise(order)) for order in (cases, cases[::-1]))
    target = torch.from_numpy(scan(bend(size=2.0, seed=7))[0])
    first, second = (method.segment(network, target, never, 0) for network in (one, two))
    assert torch.equal(first.distances, second.distances)


def test_a_checkpoint_that_does_not_fit_is_refused() -> None:
    method = RegistrationAtlas(PLAN, RECIPE)
    state = method.memorise([training_case(1)[0]])
    with pytest.raises(RuntimeError, match="no atlas"):
        method.restore({})
    with pytest.raises(RuntimeError, match=r"case\.1 is incomplete"):
        method.restore({key: value for key, value in state.items() if key.startswith("image/")})
    with pytest.raises(RuntimeError, match=r"does not have 1 channel\(s\) and 2"):
        method.restore(state | {"image/case.1": state["image/case.1"].repeat(2, 1, 1, 1)})
    with pytest.raises(RuntimeError, match=r"does not have 1 channel\(s\) and 2 label"):
        method.restore(state | {"distances/case.1": state["distances/case.1"][:1]})


def test_recipes_say_how_to_register_and_fuse() -> None:
    recipes = RegistrationAtlas.recipes
    assert [(name, one.registration, one.fusion) for name, one in recipes.items()] == [
        ("default", "deformable", "votes"),
        ("affine", "affine", "votes"),
        ("majority", "deformable", "majority"),
        ("staple", "deformable", "staple"),
    ]
    assert list(problems_of(RegistrationRecipe("rigid", "loudest", 0, 0))) == [
        "registration 'rigid'; must be one of affine, deformable",
        f"fusion 'loudest'; must be one of {', '.join(FUSIONS)}",
        "atlases 0; must be at least 1",
        "aligned 0; must be at least 1",
    ]


def test_the_recipe_s_numbers_are_used() -> None:
    """Of three atlases, two are aligned and one takes part."""
    cases = [training_case(seed)[0] for seed in (1, 2, 3)]
    method = RegistrationAtlas(PLAN, RegistrationRecipe("affine", atlases=1, aligned=2))
    told: list[tuple[int, int]] = []
    target = torch.from_numpy(scan(bend(size=2.0, seed=7))[0])
    method.segment(method.restore(method.memorise(cases)), target, never, 0, lambda *step: told.append(step))
    assert told[-1] == (3, 3)


def test_padding_is_taken_off_and_nothing_else() -> None:
    image = np.full((1, 8, 7, 6), -1, np.float32)
    image[:, 2:5, 3:7, :] = 0.5
    # axis 0: two before, three after could be padding to 8; axis 1 ends with content; axis 2 is all content
    assert unpadded_box(image, (8, 7, 6)) == (slice(2, 5), slice(0, 7), slice(0, 6))
    assert unpadded_box(image, (6, 7, 6)) == (slice(0, 8), slice(0, 7), slice(0, 6))
    both = np.concatenate([np.full_like(image, -1), image])  # content of any channel counts
    assert unpadded_box(both, (8, 7, 6)) == (slice(2, 5), slice(0, 7), slice(0, 6))
    assert unpadded_box(np.full((1, 4, 4, 4), -1.0), (4, 4, 4)) == (slice(0, 4),) * 3
