from __future__ import annotations

import pytest

from benchmarks import quickstart


def test_it_insists_on_its_own_empty_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        quickstart.main(["--workspace", "somewhere"])
    assert stop.value.code == 2
    assert "empty folder" in capsys.readouterr().err
