"""The fixed protocols: no test case trains or validates."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from benchmarks import protocols
from diffatlas_pipeline.errors import UserError
from tests.measuring.small_task import write_task


def test_few_shot_split_never_touches_other_settings_or_the_test(tmp_path: Path) -> None:
    protocol = protocols.read_protocol(write_task(tmp_path) / "protocol.json")
    splits = protocols.few_shot_splits(protocol, (0, 2))
    assert splits["2-shot"]["train"] == splits["2-shot-seed2"]["train"] == protocol["2-shot"]
    assert splits["2-shot"]["validation"] == ["ball_003", "ball_004", "ball_005"]
    assert {*splits} == {f"{count}-shot{seed}" for count in (2, 4, 8, 16) for seed in ("", "-seed2")}
    assert all(split["validation"] == splits["2-shot"]["validation"] for split in splits.values())


def test_at_most_sixteen_validation_cases() -> None:
    full = [f"case_{index:03d}" for index in range(160)]
    protocol = {"test": ["other"], "full": full, **{f"{k}-shot": full[:k] for k in (2, 4, 8, 16)}}
    chosen = protocols.few_shot_split(protocol, "8-shot")["validation"]
    assert len(set(chosen)) == 16 and not set(chosen) & set(full[:16])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"2-shot": ["ball_000", "ball_007"]}, "'2-shot' names ball_007, which is a test case"),
        ({"full": ["ball_000"]}, "not in 'full'"),
        ({"test": None}, "not a protocol"),
    ],
)
def test_a_protocol_that_mixes_training_and_test_is_refused(tmp_path: Path, change: dict, message: str) -> None:
    path = write_task(tmp_path) / "protocol.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError, match=message):
        protocols.read_protocol(path)


def test_the_hippocampus_protocol_is_sound() -> None:
    protocol = protocols.read_protocol(protocols.CASES)
    assert {name: len({*cases}) for name, cases in protocol.items()} == {
        "test": 40, "full": 160, "2-shot": 2, "4-shot": 4, "8-shot": 8, "16-shot": 16
    }  # fmt: skip
    split = protocols.few_shot_split(protocol, "2-shot")
    assert len(split["train"]) == 2 and len(split["validation"]) == 16
    assert not set(split["validation"]) & {*protocol["test"], *protocol["16-shot"]}


@pytest.mark.real_data
def test_the_decathlon_has_the_cases_of_the_protocol() -> None:
    data = os.environ.get("DIFFATLAS_TEST_DATA")
    if data is None:
        pytest.skip("DIFFATLAS_TEST_DATA is not set")
    cases = {path.name.removesuffix(".nii.gz") for path in (Path(data) / "Task04_Hippocampus" / "labelsTr").iterdir()}
    protocol = protocols.read_protocol(protocols.CASES)
    assert {*protocol["full"], *protocol["test"]} <= cases
