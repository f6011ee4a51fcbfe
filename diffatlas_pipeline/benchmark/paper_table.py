"""The table of a benchmark in the shape of the paper's Tables 1 to 3: a data frame, and as CSV, Markdown and HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from diffatlas_pipeline.benchmark.choices import MethodChoice
from diffatlas_pipeline.benchmark.record import DONE, FAILED, Benchmark
from diffatlas_pipeline.console import duration
from diffatlas_pipeline.evaluation.summary_table import format_table
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.inference.export import read_record
from diffatlas_pipeline.models.folder import ModelFolder

METRICS = {"dice": "Dice", "nsd": "NSD"}
AVERAGE = "average"
COSTS = ("train_seconds", "iterations", "seconds_per_case")
COST_TITLES = ("training", "iterations", "s/case", "seeds", "remarks")
NAMES = ("table.csv", "table.md", "table.html")


@dataclass(frozen=True)
class Row:
    """Setting, method, scores, costs, seeds and remarks as text; ``best``: the columns in which no other is better."""

    texts: tuple[str, ...]
    best: frozenset[int]


def cells_frame(folder: Path, benchmark: Benchmark) -> pd.DataFrame:
    """One row per cell: what it is, and Dice and NSD per label and on average, from 0 to 1; NaN where it is not done.

    ``iterations`` are those that the model was trained for: in the same time, a busy machine does fewer.
    """
    told = ("setting", "method", "recipe", "seed", "status", "message", "train_seconds", "seconds_per_case")
    rows = []
    for cell in benchmark.cells:
        row = {name: getattr(cell, name) for name in told}
        done = cell.status == DONE
        scores = read_record(folder / cell.evaluation / "summary.json") if done else {}
        fold = folder / cell.model
        row["iterations"] = ModelFolder(fold.parent).remembered(fold.name).get("iterations") or None if done else None
        for metric in METRICS:
            for label in benchmark.labels:
                row[f"{metric}_{label}"] = scores.get("labels", {}).get(label, {}).get(metric, {}).get("mean")
            row[f"{metric}_{AVERAGE}"] = scores.get("mean", {}).get(metric)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=[*told, "iterations", *score_columns(benchmark.labels)])
    numbers = [*COSTS, *score_columns(benchmark.labels)]
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in numbers})


def score_columns(labels: Sequence[str]) -> list[str]:
    return [f"{metric}_{name}" for metric in METRICS for name in (AVERAGE, *labels)]


def summarise(folder: Path, benchmark: Benchmark) -> pd.DataFrame:
    """One row per setting and method: means over the seeds that are done, and their sample standard deviation (NaN for
    one).
    """
    cells, rows = cells_frame(folder, benchmark), []
    for setting in benchmark.settings:
        for choice in map(MethodChoice.parse, benchmark.methods):
            of_method = (cells["method"] == choice.name) & (cells["recipe"] == choice.recipe)
            group = cells[(cells["setting"] == setting) & of_method]
            if group.empty:
                continue
            done = group[group["status"] == DONE]
            row: dict[str, Any] = {"setting": setting, "method": choice.name, "recipe": choice.recipe, "seeds": len(done)}
            for name in (*score_columns(benchmark.labels), *COSTS):
                row |= {name: done[name].mean(), f"{name}_std": done[name].std(ddof=1)}
            rows.append({**row, "remarks": _remarks(group)})
    return pd.DataFrame(rows)


def header_of(benchmark: Benchmark) -> list[str]:
    """The titles of the columns of :func:`rows_of`."""
    scores = [f"{title} {name}" for title in METRICS.values() for name in (AVERAGE, *benchmark.labels)]
    return ["setting", "method", *scores, *COST_TITLES]


def rows_of(frame: pd.DataFrame, benchmark: Benchmark) -> list[Row]:
    """What :func:`summarise` found, as text."""
    columns = score_columns(benchmark.labels)
    rows = []
    for _, row in frame.iterrows():
        same = frame[frame["setting"] == row["setting"]]
        compared = same[columns].notna().any(axis=1).sum() > 1
        best = {index for index, name in enumerate(columns, 2) if compared and row[name] == same[name].max()}
        texts = [row["setting"], MethodChoice(row["method"], row["recipe"]).text]
        texts += [_score(row[name], row[f"{name}_std"]) for name in columns]
        texts.append("" if math.isnan(row["train_seconds"]) else duration(row["train_seconds"]))
        texts += [_number(row["iterations"], 0), _number(row["seconds_per_case"], 2), str(row["seeds"]), row["remarks"]]
        rows.append(Row(tuple(texts), frozenset(best)))
    return rows


def notes_of(benchmark: Benchmark) -> list[str]:
    """What a reader must know of the numbers."""
    notes = [
        f"Dice and NSD (tolerance {benchmark.tolerance_mm:g} mm): mean over test cases, then mean over seeds ± sample standard "
        "deviation over seeds, where there are several. Bold: best of its setting."
    ]
    limit = benchmark.max_time_s
    if limit is not None:
        notes.append(f"Every model that is trained by gradient was given {duration(limit)} of training on the same device.")
    if any(text.startswith("zero-shot") for text in benchmark.settings):
        notes.append("Zero-shot rows use the model of another setting and show its training time.")
    return [*notes, *benchmark.notes]


def write_tables(folder: Path, benchmark: Benchmark) -> tuple[Path, ...]:
    """Write table.csv, table.md and table.html of ``benchmark``, which lies in ``folder``; returns their paths."""
    frame = summarise(folder, benchmark)
    texts = (frame.to_csv(index=False, lineterminator="\n"), markdown(frame, benchmark), html_page(frame, benchmark))
    paths = tuple(folder / name for name in NAMES)
    for path, text in zip(paths, texts, strict=True):
        write_text_atomically(path, text)
    return paths


def markdown(frame: pd.DataFrame, benchmark: Benchmark) -> str:
    """The table with its notes."""
    header = header_of(benchmark)
    lines = [header, ["---", "---", *["---:"] * (len(header) - 3), "---"]]
    for row in rows_of(frame, benchmark):
        marked = [f"**{text}**" if index in row.best else text for index, text in enumerate(row.texts)]
        lines.append([text.replace("|", "\\|") for text in marked])
    table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
    return f"# {benchmark.dataset}\n\n{table}\n\n" + "".join(f"- {note}\n" for note in notes_of(benchmark))


def plain(frame: pd.DataFrame, benchmark: Benchmark) -> str:
    """The averages only, for a terminal."""
    count = len(benchmark.labels)
    first = 4 + 2 * count
    shown = [2, 3 + count, *range(first, first + len(COST_TITLES) - 1)]
    rows = [["  ".join(row.texts[:2]), *(row.texts[index] for index in shown)] for row in rows_of(frame, benchmark)]
    header = ["setting  method", "Dice", f"NSD ({benchmark.tolerance_mm:g} mm)", *COST_TITLES[:-1]]
    return format_table(header, rows)


def html_page(frame: pd.DataFrame, benchmark: Benchmark) -> str:
    """One self-contained page with the table and its notes."""
    settings: dict[str, list[Row]] = {}
    for row in rows_of(frame, benchmark):
        settings.setdefault(row.texts[0], []).append(row)
    text = Path(__file__).with_name("table.html.j2").read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(text)
    return template.render(
        title=benchmark.dataset,
        metrics=METRICS.values(),
        labels=[AVERAGE, *benchmark.labels],
        costs=COST_TITLES,
        settings=settings,
        notes=notes_of(benchmark),
    )


def _remarks(group: pd.DataFrame) -> str:
    """Why cells are missing from the means."""
    seeds: dict[str, list[str]] = {}
    for row in group[group["status"] == FAILED].itertuples():
        seeds.setdefault(str(row.message), []).append(str(row.seed))
    remarks = [f"failed with seed {', '.join(which)}: {message}" for message, which in seeds.items()]
    waiting = [str(row.seed) for row in group.itertuples() if row.status not in (DONE, FAILED)]
    if waiting:
        remarks.append(f"not run yet: seed {', '.join(waiting)}")
    return " ".join("; ".join(remarks).split())


def _score(mean: float, std: float) -> str:
    return _number(mean, 3) + ("" if math.isnan(std) else f" ± {std:.3f}")


def _number(value: float, digits: int) -> str:
    return "" if math.isnan(value) else f"{value:.{digits}f}"
