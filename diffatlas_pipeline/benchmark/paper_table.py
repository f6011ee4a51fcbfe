"""The table of a benchmark in the shape of the paper's Tables 1 to 3: CSV, Markdown and HTML."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from diffatlas_pipeline.benchmark.cells import DONE, FAILED, METADATA
from diffatlas_pipeline.benchmark.settings import MethodChoice
from diffatlas_pipeline.benchmark.time_left import duration
from diffatlas_pipeline.evaluation.summary_table import format_table
from diffatlas_pipeline.files import write_text_atomically

METRICS = {"dice": "Dice", "nsd": "NSD"}
AVERAGE = "average"
COSTS = ("train_seconds", "iterations", "seconds_per_case")
COST_TITLES = ("training", "iterations", "s/case", "seeds")
NAMES = ("table.csv", "table.md", "table.html")


def cells_frame(folder: Path, content: Mapping[str, Any]) -> pd.DataFrame:
    """One row per cell: what it is, and Dice and NSD per label and on average, as fractions; NaN where it is not done.

    ``iterations`` are those that the model was trained for: in the same time, a busy machine does fewer.
    """
    rows = []
    for entry in content["cells"]:
        told = ("setting", "method", "recipe", "seed", "status", "message", "train_seconds", "seconds_per_case")
        row = {key: entry[key] for key in told}
        done = entry["status"] == DONE
        row["iterations"] = _iterations(folder / entry["model"]) if done else None
        scores = json.loads((folder / entry["evaluation"] / "summary.json").read_text(encoding="utf-8")) if done else {}
        for metric in METRICS:
            for label in content["labels"]:
                row[f"{metric}_{label}"] = scores.get("labels", {}).get(label, {}).get(metric, {}).get("mean")
            row[f"{metric}_{AVERAGE}"] = scores.get("mean", {}).get(metric)
        rows.append(row)
    frame = pd.DataFrame(rows)
    numbers = [*COSTS, *score_columns(content["labels"])]
    return frame.assign(**{name: pd.to_numeric(frame[name], errors="coerce") for name in numbers})


def score_columns(labels: Sequence[str]) -> list[str]:
    return [f"{metric}_{name}" for metric in METRICS for name in (*labels, AVERAGE)]


def summarise(cells: pd.DataFrame, content: Mapping[str, Any]) -> pd.DataFrame:
    """One row per setting and method: means over the seeds that are done, and their sample standard deviation (NaN for one)."""
    numbers = [*score_columns(content["labels"]), *COSTS]
    rows = []
    for setting in content["settings"]:
        for text in content["methods"]:
            choice = MethodChoice.parse(text)
            of_method = (cells["method"] == choice.name) & (cells["recipe"] == choice.recipe)
            group = cells[(cells["setting"] == setting) & of_method]
            if group.empty:
                continue
            done = group[group["status"] == DONE]
            row: dict[str, Any] = {"setting": setting, "method": choice.name, "recipe": choice.recipe, "seeds": len(done)}
            for name in numbers:
                row |= {name: done[name].mean(), f"{name}_std": done[name].std(ddof=1)}
            rows.append({**row, "remarks": _remarks(group)})
    return pd.DataFrame(rows)


def write_tables(folder: Path, content: Mapping[str, Any]) -> tuple[Path, ...]:
    """Write table.csv, table.md and table.html from benchmark.json's ``content``; returns their paths."""
    frame = summarise(cells_frame(folder, content), content)
    texts = (frame.to_csv(index=False, lineterminator="\n"), markdown(frame, content), html_page(frame, content))
    paths = tuple(folder / name for name in NAMES)
    for path, text in zip(paths, texts, strict=True):
        write_text_atomically(path, text)
    return paths


def markdown(frame: pd.DataFrame, content: Mapping[str, Any]) -> str:
    """The table with its notes."""
    header = ["setting", "method", *(_title(column) for column in score_columns(content["labels"]))]
    header += [*COST_TITLES, "remarks"]
    rows = [header, ["---", "---", *["---:"] * (len(header) - 3), "---"]]
    for cells, best in _body(frame, content):
        marked = [f"**{text}**" if index in best else text for index, text in enumerate(cells)]
        rows.append([text.replace("|", "\\|") for text in marked])
    table = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    notes = "\n".join(f"- {note}" for note in notes_of(content))
    return f"# {content['dataset']}\n\n{table}\n\n{notes}\n"


def plain(frame: pd.DataFrame, content: Mapping[str, Any]) -> str:
    """The averages only, for a terminal."""
    count = len(content["labels"])
    first = 4 + 2 * count
    chosen = [0, 1, 2 + count, 3 + 2 * count, *range(first, first + len(COST_TITLES))]
    rows = [[cells[index] for index in chosen] for cells, _ in _body(frame, content)]
    labels = [f"{setting}  {method}" for setting, method, *_ in rows]
    header = ["setting  method", "Dice", f"NSD ({content['tolerance_mm']:g} mm)", *COST_TITLES]
    return format_table(header, [[label, *row[2:]] for label, row in zip(labels, rows, strict=True)])


def html_page(frame: pd.DataFrame, content: Mapping[str, Any]) -> str:
    """One self-contained page with the table and its notes."""
    labels = [*content["labels"], AVERAGE]
    span = len(labels)
    groups = "".join(f'<th colspan="{span}">{name}</th>' for name in METRICS.values())
    names = "".join(f"<th>{html.escape(name)}</th>" for _ in METRICS for name in labels)
    body = []
    counts = frame["setting"].value_counts() if len(frame) else {}
    previous = None
    for cells, best in _body(frame, content):
        setting, *others = cells
        first = setting != previous
        head = f'<th rowspan="{counts[setting]}">{html.escape(setting)}</th>' if first else ""
        tags = [
            f"<td><b>{html.escape(text)}</b></td>" if index in best else f"<td>{html.escape(text)}</td>"
            for index, text in enumerate(others, 1)
        ]
        body.append(f"<tr{' class=first' if first else ''}>{head}{''.join(tags)}</tr>")
        previous = setting
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in notes_of(content))
    title = html.escape(str(content["dataset"]))
    costs = "".join(f'<th rowspan="2">{name}</th>' for name in (*COST_TITLES, "remarks"))
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style></head>\n'
        f"<body><h1>{title}</h1>\n<table>\n<thead>\n"
        f'<tr><th rowspan="2">setting</th><th rowspan="2">method</th>{groups}{costs}</tr>\n<tr>{names}</tr>\n</thead>\n'
        + "<tbody>\n"
        + "\n".join(body)
        + f"\n</tbody></table>\n<ul>{notes}</ul>\n</body></html>\n"
    )


_STYLE = (
    "body{font:15px/1.4 system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse}"
    "th,td{padding:.25em .7em;text-align:right;white-space:nowrap}thead th{text-align:center;border-bottom:1px solid #888}"
    "tbody th,td:nth-of-type(1){text-align:left;vertical-align:top}tr.first>*{border-top:1px solid #888}"
    "td:last-child{text-align:left;white-space:normal;min-width:12em}li{max-width:60em}"
)


def notes_of(content: Mapping[str, Any]) -> list[str]:
    """What a reader must know of the numbers."""
    notes = [
        f"Dice and NSD (tolerance {content['tolerance_mm']:g} mm): mean over test cases, then mean over seeds ± "
        "sample standard deviation over seeds, where there are several. Bold: best of its setting."
    ]
    limit = content["max_time_s"]
    if limit is not None:
        notes.append(f"Every model that is trained by gradient was given {duration(limit)} of training on the same device.")
    notes.append("Zero-shot rows use the model of another setting and show its training time.")
    if not any(text.startswith("zero-shot") for text in content["settings"]):
        notes.pop()
    return [*notes, *content.get("notes", [])]


def _body(frame: pd.DataFrame, content: Mapping[str, Any]) -> list[tuple[list[str], set[int]]]:
    """Cells of every row as text, and the columns in which the row is the best of its setting."""
    columns = score_columns(content["labels"])
    rows = []
    for _, row in frame.iterrows():
        same = frame[frame["setting"] == row["setting"]]
        compared = same[columns].notna().any(axis=1).sum() > 1
        best = {
            index
            for index, name in enumerate(columns, 2)
            if compared and not math.isnan(row[name]) and row[name] == same[name].max()
        }
        cells = [str(row["setting"]), MethodChoice(str(row["method"]), str(row["recipe"])).text]
        cells += [_score(row[name], row[f"{name}_std"]) for name in columns]
        training = row["train_seconds"]
        cells += ["" if math.isnan(training) else duration(training), _whole(row["iterations"])]
        cells.append(_seconds(row["seconds_per_case"]))
        rows.append(([*cells, str(row["seeds"]), str(row["remarks"])], best))
    return rows


def _remarks(group: pd.DataFrame) -> str:
    """Why cells are missing from the means."""
    seeds: dict[str, list[str]] = {}
    for row in group[group["status"] == FAILED].itertuples():
        seeds.setdefault(str(row.message), []).append(str(row.seed))
    failed = [f"failed with seed {', '.join(which)}: {message}" for message, which in seeds.items()]
    waiting = [str(row.seed) for row in group.itertuples() if row.status not in (DONE, FAILED)]
    if waiting:
        failed.append(f"not run yet: seed {', '.join(waiting)}")
    return " ".join("; ".join(failed).split())


def _title(column: str) -> str:
    metric, _, name = column.partition("_")
    return f"{METRICS[metric]} {name}"


def _score(mean: float, std: float) -> str:
    if math.isnan(mean):
        return ""
    return f"{mean:.3f}" + ("" if math.isnan(std) else f" ± {std:.3f}")


def _whole(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.0f}"


def _iterations(fold: Path) -> int | None:
    """How many iterations a model was trained for; None for one that learns nothing by iterating."""
    try:
        known = json.loads((fold / METADATA).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return int(known.get("iterations") or 0) or None


def _seconds(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"
