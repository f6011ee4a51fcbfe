"""Put the page together."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from markupsafe import Markup, escape

import diffatlas_pipeline
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.metrics import EMPTY_RULE
from diffatlas_pipeline.evaluation.overlays import label_colours
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.parallel import run_cases
from diffatlas_pipeline.report import panels, pictures, plots, viewer
from diffatlas_pipeline.report.panels import Table
from diffatlas_pipeline.report.pictures import Picture
from diffatlas_pipeline.report.sources import CaseSource, Cell, Source
from diffatlas_pipeline.report.viewer import EmbeddedCase

Result = TypeVar("Result")
_WORTH_WORKERS_S = 10.0  # of work left, from which on other processes are worth their start
PICTURE_SHARE = 0.4  # of the size limit, at most, for pictures
_FOLDER = Path(__file__).parent / "templates"


@dataclass
class Content:
    """What the template shows."""

    results: list[Table] = field(default_factory=list)
    plots: list[tuple[str, str]] = field(default_factory=list)  # (title, SVG)
    training: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[tuple[str, Table]] = field(default_factory=list)  # (title, table), folded
    notes: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    viewer: dict[str, Any] | None = None  # what viewer.js reads; None without viewer
    blocks: list[tuple[str, str]] = field(default_factory=list)  # (id, base64)
    bundle: str = ""


def write_page(source: Source, path: Path, max_mb: float = 100.0, workers: int = 1) -> list[str]:
    """Write the report to ``path``: one HTML file of at most about ``max_mb``; returns what is left out of it or went wrong.

    UserError if the file cannot be written.
    """
    content = _compared(source) if source.benchmark else _described(source, workers)
    content.notes[:0] = source.notes
    _limit_pictures(content, max_mb * 1e6 * PICTURE_SHARE)
    _add_viewer(source, content, max_mb * 1e6, workers)
    try:
        write_text_atomically(path, _render(source, content))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another file with -o.") from error
    return content.notes


def _described(source: Source, workers: int) -> Content:
    """The content for a prediction folder."""
    content, cell = Content(), source.cells[0]
    cases = {case.case: case for case in source.cases}
    if cell.evaluation:
        content.results.append(panels.summary_table(cell.evaluation))
        content.details.append(("All cases", panels.case_table(cell.evaluation)))
        content.plots.append(("Scores per label", plots.score_plot([cell], source.labels, "scores")))
        content.rules += _score_rules(cell)
        chosen = pictures.remarkable_by_score(cell)
    else:
        measured = _run(partial(panels.measure_volumes, labels=source.labels), source.cases, workers, "Measuring volumes")
        content.notes += [found for found in measured if isinstance(found, str)]
        volumes = {case: found for case, found in zip(cases, measured, strict=True) if not isinstance(found, str)}
        if volumes:
            summary, each = panels.volume_tables(volumes, source.labels)
            content.results.append(summary)
            content.details.append(("All cases", each))
            values = {label.name: [found[label.name] for found in volumes.values()] for label in source.labels}
            content.plots.append(("Volumes per label", plots.box_plot({"all": values}, ["volume [ml]"], "volumes")))
        content.notes.append("No references were given, so nothing is scored. Unusual volumes are where failures show first.")
        chosen = pictures.remarkable_by_volume(volumes)
    content.pictures, problems = pictures.case_pictures(cases, chosen, source.labels)
    content.notes += problems
    curve = plots.training_plot([cell], "training")
    content.training += [("", curve)] if curve else []
    return content


def _compared(source: Source) -> Content:
    """The content for a benchmark."""
    assert source.benchmark is not None
    content = Content(results=panels.paper_tables(source.benchmark))
    if not content.results:
        content.notes.append(f"{source.benchmark / 'table.md'} is not there, so its table is missing here.")
    content.details.append(("All cells", panels.cell_table(source.cells)))
    failed = [cell for cell in source.cells if cell.status == "failed"]
    waiting = sum(cell.status == "waiting" for cell in source.cells)
    content.notes += [f"{cell.title} failed: {cell.message or 'no reason was recorded'}" for cell in failed]
    if waiting:
        content.notes.append(f"{waiting} of {len(source.cells)} cells are still waiting.")
    methods = list(dict.fromkeys(cell.method for cell in source.cells))
    for index, setting in enumerate(dict.fromkeys(cell.setting for cell in source.cells)):
        cells = [cell for cell in source.cells if cell.setting == setting]
        scored = [cell for cell in cells if cell.evaluation]
        if scored:
            content.plots.append((setting, plots.score_plot(scored, source.labels, f"scores{index}", methods)))
            first = {cell.method: cell.seed for cell in sorted(scored, key=lambda cell: cell.seed, reverse=True)}
            content.pictures += [p for cell in scored if cell.seed == first[cell.method] for p in pictures.drawn_pictures(cell)]
        curve = plots.training_plot(cells, f"training{index}", methods)
        content.training += [(setting, curve)] if curve else []
    scored = [cell for cell in source.cells if cell.evaluation]
    if scored:
        content.rules += _score_rules(scored[0])
    content.rules.append(
        "Box plots pool the cases of all seeds of a setting. Pictures are of a method's first seed that was scored."
    )
    if content.training:
        content.rules.append(
            "Training losses of different methods are different quantities: compare their course, not their height."
        )
    return content


def _score_rules(cell: Cell) -> list[str]:
    assert cell.evaluation is not None
    tolerance = f"NSD: normalised surface distance at a tolerance of {cell.evaluation.tolerance_mm:g} mm."
    return [tolerance, f"Empty masks. {EMPTY_RULE}"]


def _limit_pictures(content: Content, most_bytes: float) -> None:
    """Keep as many pictures as fit; say how many were left out."""
    kept: list[Picture] = []
    used = 0
    for picture in content.pictures:
        used += len(picture.png)
        if used > most_bytes:
            break
        kept.append(picture)
    if len(kept) < len(content.pictures):
        left = len(content.pictures) - len(kept)
        content.notes.append(f"{left} of {len(content.pictures)} pictures were left out to keep the size limit (--max-mb).")
    content.pictures = kept


def _add_viewer(source: Source, content: Content, max_bytes: float, workers: int) -> None:
    """Embed the viewer and as many cases as the limit leaves room for."""
    bundle = viewer.niivue_bundle()
    if bundle is None:
        content.notes.append(
            f"The viewer was left out: NiiVue was not found in the package {viewer.PACKAGE}. "
            "Install the package with the version in constraints.txt and make the report again."
        )
        return
    content.bundle = bundle
    content.viewer = _viewer_data(source, [], [])
    room = max_bytes - len(_render(source, content))
    ranking = _ranking(source)
    kept, left_out, problems = _embed(source, ranking, room, workers)
    content.notes += problems
    if left_out:
        names = ", ".join(case.title for case in left_out[:20]) + (
            f" and {len(left_out) - 20} more" if len(left_out) > 20 else ""
        )
        content.notes.append(
            f"{len(left_out)} of {len(ranking)} cases are not in the viewer to keep the size limit (--max-mb): {names}. "
            "The worst, the best and cases evenly spread between them were kept."
        )
    if not kept:
        content.viewer = None
        return
    order = {case.title: rank for rank, case in enumerate(ranking)}
    kept.sort(key=lambda embedded: order[embedded.source.title])
    content.viewer = _viewer_data(source, kept, content.blocks)
    if any(embedded.reduced for embedded in kept):
        content.rules.append("In the viewer, large cases are shown with larger voxels than they have.")
    content.rules.append("The viewer shows the surroundings of the labels only, and images in 256 grey values.")


def _embed(
    source: Source, ranking: Sequence[CaseSource], room: float, workers: int
) -> tuple[list[EmbeddedCase], list[CaseSource], list[str]]:
    """Cases that fit into ``room`` bytes, the most telling first; those that do not; and what went wrong."""
    kept: list[EmbeddedCase] = []
    left_out: list[CaseSource] = []
    problems: list[str] = []
    waiting = [ranking[index] for index in spread_order(len(ranking))]
    embed = partial(viewer.embed_case, labels=source.labels)
    chunk = 16 * max(1, workers)
    full = False
    for start in range(0, len(waiting), chunk):
        part = waiting[start : start + chunk]
        if full:
            left_out += part
            continue
        for embedded in _run(embed, part, workers, "Preparing the viewer"):
            problems += embedded.problems
            if not embedded.image:
                continue
            if embedded.size > room:
                full = True
                left_out.append(embedded.source)
                continue
            room -= embedded.size
            kept.append(embedded)
    return kept, left_out, problems


def _run(function: Callable[[CaseSource], Result], cases: Sequence[CaseSource], workers: int, title: str) -> list[Result]:
    """``function`` of each case; in this process where starting others would take longer than the work itself."""
    start = time.perf_counter()
    first, rest = [function(case) for case in cases[:1]], cases[1:]
    if (time.perf_counter() - start) * len(rest) < _WORTH_WORKERS_S:
        workers = 1
    return first + run_cases(function, rest, [case.title for case in rest], workers, title)


def spread_order(count: int) -> list[int]:
    """0 to ``count`` - 1 such that the two ends come first and every beginning of the list is spread evenly."""
    order = [0, count - 1][: min(2, count)]
    gaps = [(0, count - 1)]
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            order.append(middle)
            gaps += [(low, middle), (middle, high)]
    return order


def _ranking(source: Source) -> list[CaseSource]:
    """All cases from worst to best mean Dice over labels and cells; by name where nothing is scored."""
    scores: dict[str, list[float]] = {case.title: [] for case in source.cases}
    for case, _, dice in _dice_of(source):
        defined = [value for value in dice if not math.isnan(value)]
        if defined:
            scores[case.title].append(sum(defined) / len(defined))
    return sorted(source.cases, key=lambda case: (_mean(scores[case.title]), case.title))


def _dice_of(source: Source) -> Iterator[tuple[CaseSource, Cell, list[float]]]:
    """(case, cell, Dice per label) of all that is scored."""
    by_reference = {case.reference.resolve(): case for case in source.cases if case.reference}
    for cell in source.cells:
        if cell.evaluation is None:
            continue
        table = cell.evaluation.cases.pivot_table(index="case", columns="label", values="dice", dropna=False, aggfunc="first")
        for pair in cell.evaluation.pairs:
            case = by_reference.get(pair.reference.resolve())
            if case and pair.case in table.index:
                found = [
                    float(table.loc[pair.case, label.name]) if label.name in table else math.nan for label in source.labels
                ]
                yield case, cell, found


def _viewer_data(source: Source, kept: Sequence[EmbeddedCase], blocks: list[tuple[str, str]]) -> dict[str, Any]:
    """What viewer.js reads; the volumes go to ``blocks``."""

    def block(part: str) -> str:
        if part:
            blocks.append((f"volume{len(blocks)}", part))
        return blocks[-1][0] if part else ""

    scores: dict[str, dict[str, list[float | None]]] = {}
    for case, cell, dice in _dice_of(source):
        scores.setdefault(case.title, {})[cell.key] = [None if math.isnan(value) else round(value, 4) for value in dice]
    cases = [
        {
            "title": embedded.source.title,
            "image": block(embedded.image),
            "hasImage": embedded.source.image is not None,
            "reference": block(embedded.reference),
            "layers": {
                key: {"segmentation": block(segmentation), "uncertainty": block(uncertainty)}
                for key, (segmentation, uncertainty) in embedded.layers.items()
            },
            "uncertaintyMm": embedded.uncertainty_mm,
            "dice": scores.get(embedded.source.title, {}),
        }
        for embedded in kept
    ]
    shown = {key for embedded in kept for key in embedded.layers}
    colours = [[round(255 * part) for part in colour[:3]] for colour in label_colours(len(source.labels))]
    return {
        "labels": [{"name": label.name, "colour": colour} for label, colour in zip(source.labels, colours, strict=True)],
        "cells": [{"key": cell.key, "title": cell.title} for cell in source.cells if cell.key in shown],
        "cases": cases,
    }


def _render(source: Source, content: Content) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters["strong"] = _strong
    return environment.get_template("page.html.j2").render(
        source=source,
        content=content,
        css=Markup((_FOLDER / "page.css").read_text(encoding="utf-8")),
        script=Markup((_FOLDER / "viewer.js").read_text(encoding="utf-8")),
        licence=(_FOLDER / "niivue_licence.txt").read_text(encoding="utf-8"),
        made=date.today().isoformat(),
        version=diffatlas_pipeline.__version__,
        svg=Markup,
    )


def _strong(text: str) -> Markup:
    """Escaped text in which ``**x**`` is bold."""
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", str(escape(text))))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.inf
