"""The comparison's plumbing: which commands it runs with which splits, and what it keeps."""

import json
from pathlib import Path

import pytest

from benchmarks import comparison
from tests.benchmarks.small_task import write_task


class Commands:
    """Notes the commands instead of running them; the benchmark leaves a table, as the real one does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, command: str, words: list[str]) -> float:
        self.calls.append((command, list(words)))
        if command == "benchmark":
            place = Path(words[words.index("-o") + 1])
            place.mkdir(parents=True)
            (place / "table.md").write_text("# table\n\n- a note\n")
            (place / "table.csv").write_text("setting,method\n")
        return 0.0

    def words(self, command: str) -> list[list[str]]:
        return [words for name, words in self.calls if name == command]


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(comparison, "do", made)
    return made


def test_hippocampus_trains_on_the_protocol_s_cases_with_every_seed(tmp_path: Path, commands: Commands) -> None:
    data = write_task(tmp_path / "Task04_Hippocampus")
    options = ["--workspace", str(tmp_path / "w"), "--results", str(tmp_path / "r"), "--data", str(data)]
    comparison.main(["hippocampus", "--settings", "2-shot", "--seeds", "0", "1", "--max-time", "5s", *options])
    (benchmark,) = commands.words("benchmark")
    assert benchmark[benchmark.index("--settings") + 1] == "2-shot"
    splits = json.loads(Path(benchmark[benchmark.index("--splits-file") + 1]).read_text())
    protocol = json.loads((data / "protocol.json").read_text())
    assert splits["2-shot"]["train"] == splits["2-shot-seed1"]["train"] == protocol["2-shot"]
    kept = (tmp_path / "r" / "comparison_hippocampus.md").read_text()
    assert kept.startswith("# table") and "python -m benchmarks.comparison hippocampus --max-time 5s" in kept
    assert (tmp_path / "r" / "comparison_hippocampus.csv").is_file()


def test_hearts_are_tested_on_the_other_modality(tmp_path: Path, commands: Commands) -> None:
    comparison.main(["heart-mri", "--jobs", "3", "--workspace", str(tmp_path / "w"), "--results", str(tmp_path / "r")])
    assert [words[words.index("--modality") + 1] for words in commands.words("convert")] == ["CT", "MRI"]
    (benchmark,) = commands.words("benchmark")
    assert benchmark[benchmark.index("-d") + 1] == "12" and "zero-shot:11" in benchmark
    assert benchmark[benchmark.index("--jobs") + 1] == "3"


def test_data_without_a_protocol_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparison.main(["hippocampus", "--data", str(tmp_path)])
    assert "no protocol.json there" in capsys.readouterr().err
