"""What does not fit into memory lies in files: the same comes out, to the last bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from diffatlas_pipeline import scratch as scratch_module
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.inference.padded import reconstructed_padded, segment_padded, unexplained_padded
from diffatlas_pipeline.inference.stitched import Stitcher
from diffatlas_pipeline.methods.base import GeneratingMethod, LearnedMethod, PlannedSegmentation
from diffatlas_pipeline.methods.registry import create_method, recipe_of
from diffatlas_pipeline.scratch import Scratch, release
from tests.factories import with_options
from tests.model_files import plan

SHAPE = (41, 30, 24)
METHODS = {
    "default": ("diffatlas", "default", {}),
    "paper": ("diffatlas", "paper", {"steps": 3, "mask_scale": 0.5}),
    "draws beside a noisy image": ("diffatlas", "default", {"steps": 3, "draws": 3, "level": 0.4, "noise": "fixed"}),
    "second order": ("diffatlas", "default", {"steps": 3, "solver": "dpmpp_2m", "answer": "last"}),
    "drawn": ("diffatlas", "given-labels", {}),
    "icmd": ("icmd", "default", {"draws": 2}),
    "icf": ("icf", "default", {}),
}


@pytest.fixture(autouse=True)
def _small_slabs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scratch_module, "SLAB_BYTES", 50_000)
    monkeypatch.setattr(scratch_module, "_NOISE_AT_A_TIME", 1 << 12)
    monkeypatch.setattr(scratch_module.tempfile, "tempdir", str(tmp_path))


def made(name: str) -> tuple[LearnedMethod, nn.Module]:
    method_name, recipe, options = METHODS[name]
    method = create_method(method_name, plan(), with_options(recipe_of(plan(), method_name, recipe), **options))
    assert isinstance(method, LearnedMethod)
    torch.manual_seed(0)
    network = method.build_network().eval()
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.1) if parameter.ndim > 1 else None
    return method, network


def stitcher(on_disk: bool) -> Stitcher:
    stitch = Stitcher(plan().patch_size)
    stitch.scratch = Scratch(on_disk)
    return stitch


@pytest.mark.parametrize("name", METHODS)
def test_a_segmentation_is_the_same(name: str, tmp_path: Path) -> None:
    method, network = made(name)
    image = torch.rand((1, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    found: list[PlannedSegmentation] = []
    with torch.inference_mode():
        for on_disk in (False, True):
            found.append(segment_padded(method, network, image, stitcher(on_disk), 5))
            assert not list(tmp_path.iterdir())  # files have no name that could stay
    in_memory, in_files = found
    assert in_memory.distances.std() > 0.01 and torch.equal(in_memory.distances, in_files.distances)
    if in_memory.probabilities is not None:
        assert in_files.probabilities is not None and torch.equal(in_memory.probabilities, in_files.probabilities)


@pytest.mark.parametrize("lacking", [(0,), (1,), (0, 1), (0, 2), (1, 2)])
def test_generated_channels_are_the_same(lacking: tuple[int, ...]) -> None:
    three = plan(channels=3)
    recipe = with_options(recipe_of(three, "diffatlas", "default"), missing_channel=0.5)
    method = create_method("diffatlas", three, recipe)
    assert isinstance(method, LearnedMethod)
    torch.manual_seed(0)
    network = method.build_network().eval()
    image = torch.rand((3, *SHAPE), generator=torch.Generator().manual_seed(1)) * 2 - 1
    image[list(lacking)] = torch.nan
    with torch.inference_mode():
        in_memory, in_files = (segment_padded(method, network, image, stitcher(on_disk), 5) for on_disk in (False, True))
    assert in_memory.generated is not None and in_files.generated is not None
    assert len(in_memory.generated) == len(lacking) and len(in_memory.distances) == 2
    assert torch.equal(in_memory.generated, in_files.generated) and torch.equal(in_memory.distances, in_files.distances)


def test_what_is_compared_with_known_cases_is_the_same() -> None:
    method, network = made("default")
    assert isinstance(method, GeneratingMethod)
    image, distances = torch.rand((1, *SHAPE)) * 2 - 1, torch.rand((2, *SHAPE)) * 2 - 1
    with torch.inference_mode():
        errors = [unexplained_padded(method, network, image, distances, stitcher(on_disk), 5) for on_disk in (False, True)]
        images = [reconstructed_padded(method, network, image, distances, stitcher(on_disk), 5) for on_disk in (False, True)]
    assert errors[0] == errors[1] and torch.equal(*images)


@pytest.mark.parametrize("shape", [(3, 5, 7, 11), (1, 1, 1, 3), (2, 40, 41, 13), (1, 64, 64, 1), (1, 1, 1, (1 << 13) + 1)])
def test_noise_is_the_same_in_files(shape: tuple[int, ...]) -> None:
    generators = [torch.Generator().manual_seed(3) for _ in range(2)]
    drawn = [Scratch(on_disk).randn(shape, generators[on_disk]) for on_disk in (False, True)]
    assert torch.equal(*drawn)
    assert torch.equal(*[torch.rand(3, generator=one) for one in generators])  # as much was drawn


def test_slabs_cover_an_array_once() -> None:
    for on_disk in (False, True):
        count = torch.zeros(2, 37, 50, 20)
        for where in Scratch(on_disk).slabs(count.shape):
            count[where] += 1
        assert (count == 1).all()


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="the system does not tell what is resident")
def test_what_was_released_is_not_resident_and_not_lost() -> None:
    scratch = Scratch(on_disk=True)
    made = scratch.zeros((1, 64, 512, 512))
    before = resident_bytes()
    made += 1
    full = resident_bytes()
    release()
    assert full - before > 60e6 and resident_bytes() - before < 10e6
    assert float(made.sum()) == made.numel()


def test_a_full_disk_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(scratch_module.os, "posix_fallocate", full, raising=False)
    with pytest.raises(UserError, match=r"no room for 4\.0 GB .* TMPDIR"):
        Scratch(on_disk=True).empty((1000, 1000, 1000))
