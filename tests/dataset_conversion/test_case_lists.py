from __future__ import annotations

import json
from pathlib import Path

import pytest

from dataset_conversion.case_lists import cases_from_json
from diffatlas_pipeline.errors import UserError


def test_case_lists_in_json(tmp_path: Path) -> None:
    path = tmp_path / "protocol.json"
    path.write_text(json.dumps({"full": ["a", "b"], "number": 3}))
    assert cases_from_json(f"{path}:full", "training_cases") == ["a", "b"]
    assert cases_from_json(None, "training_cases") is None
    for text, message in (
        (f"{path}:fall", "no list 'fall' .found: full, number"),
        (f"{path}:number", "not a list"),
        (str(path), "FILE:KEY"),
        (f"{tmp_path}/none.json:full", "cannot be read"),
    ):
        with pytest.raises(UserError, match=message):
            cases_from_json(text, "training_cases")
