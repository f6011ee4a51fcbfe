from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from diffatlas_pipeline.models.tensors import read_tensors, write_tensors
from diffatlas_pipeline.training.checkpoints import (
    LATEST,
    PREVIOUS,
    TrainingStatus,
    load_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "a": torch.full((3, 4), value),
        "b": torch.tensor(7),
        "c": torch.arange(5, dtype=torch.uint8),
        "d": torch.zeros(0),
        "e": torch.randn(2, 3, 4, 5, 6).to(memory_format=torch.channels_last_3d),
    }


def test_what_is_written_is_read(tmp_path: Path) -> None:
    saved = tensors(1.5)
    save_checkpoint(tmp_path, saved, TrainingStatus(12, 3.5, {"seed": 1, "training_cases": ["x"]}))
    found = load_checkpoint(tmp_path)
    assert found is not None
    loaded, progress, warning = found
    assert progress == TrainingStatus(12, 3.5, {"seed": 1, "training_cases": ["x"]})
    assert warning == ""
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[name], saved[name]) for name in saved)


def test_no_checkpoint_is_none(tmp_path: Path) -> None:
    assert load_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_a_damaged_checkpoint_gives_way_to_the_previous(tmp_path: Path, damage: str) -> None:
    save_checkpoint(tmp_path, tensors(1), TrainingStatus(1, 1.0, {}))
    save_checkpoint(tmp_path, tensors(2), TrainingStatus(2, 2.0, {}))
    content = bytearray((tmp_path / LATEST).read_bytes())
    if damage == "truncate":
        content = content[: len(content) // 2]
    else:
        content[-3] ^= 0xFF
    (tmp_path / LATEST).write_bytes(bytes(content))
    found = load_checkpoint(tmp_path)
    assert found is not None
    assert found[1].iteration == 1
    assert LATEST in found[2] and "damaged" in found[2]


def test_two_damaged_checkpoints_are_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    for name in (LATEST, PREVIOUS):
        (tmp_path / name).write_bytes(b"nothing")
    with pytest.raises(ValueError, match="`overwrite`"):
        load_checkpoint(tmp_path)


def test_changed_bytes_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.ones(100)}, {})
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match="checksum"):
        read_tensors(path)


def test_any_changed_bit_is_noticed_or_without_meaning(tmp_path: Path) -> None:
    """Also in the text beside the tensors: iteration 64 becomes 74 by one bit."""
    path, told = tmp_path / "x.safetensors", {"progress": '{"iteration": 64}'}
    saved = {"a": torch.arange(7.0), "b": torch.tensor(3)}
    write_tensors(path, saved, told)
    good, noticed = path.read_bytes(), 0
    for bit in range(8 * len(good)):
        content = bytearray(good)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bytes(content))
        try:
            found, text = read_tensors(path)
        except ValueError:
            noticed += 1
            continue
        assert text == told and set(found) == set(saved)
        assert all(torch.equal(found[name], saved[name]) for name in saved)
    assert noticed > 0.9 * 8 * len(good)


def test_files_of_earlier_releases_are_read(tmp_path: Path) -> None:
    """They have a checksum of the tensors alone."""
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(7.0)}, {"kept": "text"})
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    old = {**metadata, "checksum": metadata["checksum"].partition("-")[0]}
    save_file({"a": torch.arange(7.0)}, path, old)
    tensors_, text = read_tensors(path)
    assert torch.equal(tensors_["a"], torch.arange(7.0)) and text == {"kept": "text"}


def test_a_training_that_is_over_leaves_no_checkpoint(tmp_path: Path) -> None:
    for iteration in (1, 2):
        save_checkpoint(tmp_path, tensors(1), TrainingStatus(iteration, 1.0, {}))
    (tmp_path / "log.csv").touch()
    remove_checkpoints(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["log.csv"]
