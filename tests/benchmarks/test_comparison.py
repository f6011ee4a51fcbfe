"""The comparison's plumbing: which commands it runs with which splits, and what it keeps."""

import json
from pathlib import Path

import pytest

from benchmarks import comparison
from benchmarks.record import RESULTS, read_rows
from tests.benchmarks.small_task import write_task


class Commands:
    """Notes the commands instead of running them; the benchmark leaves a table, as the real one does."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, list[str]]] = []

    def __call__(self, command: str, words: list[str]) -> float:
        self.calls.append((command, list(words)))
        if command == "benchmark":
            place = Path(words[words.index("-o") + 1])
            place.mkdir(parents=True, exist_ok=True)
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
    own, other, unadapted = commands.words("benchmark")
    for benchmark in (own, other, unadapted):
        assert benchmark[benchmark.index("-d") + 1] == "12" and benchmark[benchmark.index("--jobs") + 1] == "3"
    assert "full" in own and "rba" in own and "diffatlas+atlases" not in own and "zero-shot-unadapted:11" in unadapted
    assert "zero-shot:11" in other and "icmd+atlases" in other


def test_what_is_named_alone_is_run_with_the_rest_of_the_defaults(tmp_path: Path, commands: Commands) -> None:
    places = ["--workspace", str(tmp_path / "w"), "--results", str(tmp_path / "r")]
    comparison.main(["heart-ct", "--methods", "icf", *places])
    (benchmark,) = commands.words("benchmark")
    at = {flag: benchmark.index(flag) for flag in ("--methods", "--settings", "--seeds", "--max-time")}
    assert benchmark[at["--methods"] + 1 : at["--settings"]] == ["icf"]
    assert benchmark[at["--settings"] + 1 : at["--seeds"]] == [
        "2-shot", "4-shot", "full", "zero-shot:12", "zero-shot-unadapted:12"
    ]  # fmt: skip
    assert benchmark[at["--seeds"] + 1 : at["--max-time"]] == ["0"]


@pytest.mark.parametrize(
    ("protocol", "files"),
    [("hippocampus", ("hippocampus_few", "hippocampus")), ("heart-ct", ("heart-ct",)), ("heart-mri", ("heart-mri",))],
)
def test_one_command_makes_each_table_of_the_documentation(protocol: str, files: tuple[str, ...]) -> None:
    asked = {
        (setting, method, len(cells.seeds) if not method.startswith("rba") else 1)
        for cells in comparison.TABLES[protocol]
        for setting in cells.settings
        for method in cells.methods
    }
    numbers = {f"Dataset{number:03d}_HeartPhantom{modality}": str(number) for modality, number in comparison.HEARTS.values()}
    kept = set()
    for file in files:
        for row in read_rows(RESULTS / f"comparison_{file}.csv").itertuples():
            kind, colon, dataset = row.setting.partition(":")
            method = row.method + "+atlases" * row.recipe.endswith("+atlases")
            if method != "mean":  # every benchmark adds it
                kept.add((kind + colon + numbers.get(dataset, dataset), method, row.seeds))
    assert kept == asked


def test_data_without_a_protocol_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparison.main(["hippocampus", "--data", str(tmp_path)])
    assert "no protocol.json there" in capsys.readouterr().err
