"""Put the page together."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from markupsafe import Markup

from diffatlas_pipeline.benchmark.record import FAILED, WAITING, Benchmark
from diffatlas_pipeline.datasets.colours import ERRORS
from diffatlas_pipeline.datasets.description import CaseFiles
from diffatlas_pipeline.datasets.sizes import case_bytes, largest_bytes, memory_note
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.evaluation.evaluate import Evaluation
from diffatlas_pipeline.evaluation.metrics import EMPTY_RULE
from diffatlas_pipeline.evaluation.overlays import label_colours
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.parallel import run_short_cases
from diffatlas_pipeline.report import panels, pictures, plots, viewer
from diffatlas_pipeline.report.panels import Panel
from diffatlas_pipeline.report.pictures import Picture
from diffatlas_pipeline.report.sources import CaseSource, Source
from diffatlas_pipeline.report.templating import FOLDER, environment
from diffatlas_pipeline.report.verdict import verdict_of
from diffatlas_pipeline.report.viewer import EmbeddedCase

PICTURE_SHARE = 0.4  # of the size limit, at most, for pictures
VIEWER_BYTES = 24.0  # per voxel
_LISTED = 20
Scores = dict[str, dict[str, list[float | None]]]  # case -> run -> Dice per label


@dataclass
class Content:
    """What the template shows."""

    results: list[Panel] = field(default_factory=list)
    plots: list[tuple[str, str]] = field(default_factory=list)  # (title, SVG)
    training: list[tuple[str, str]] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    details: list[tuple[str, Panel]] = field(default_factory=list)  # (title, table), folded
    notes: list[str] = field(default_factory=list)
    rules: list[str] = field(default_factory=list)
    viewer: dict[str, Any] | None = None  # what viewer.js reads; None without viewer
    blocks: list[tuple[str, str]] = field(default_factory=list)  # (id, base64)
    bundle: str = ""


def write_page(source: Source, path: Path, max_mb: float = 100.0, workers: int = 1) -> list[str]:
    """Write the report to ``path``: one HTML file of at most about ``max_mb``; returns what is left out of it or went
    wrong.

    UserError if the file cannot be written.
    """
    content = _compared(source, source.benchmark) if source.benchmark else _described(source, workers)
    content.notes[:0] = source.notes
    _limit_pictures(content, max_mb * 1e6 * PICTURE_SHARE)
    _add_viewer(source, content, max_mb * 1e6, workers)
    try:
        write_text_atomically(path, _render(source, content))
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Choose another file as `output`.") from error
    return content.notes


def _described(source: Source, workers: int) -> Content:
    """The content for a prediction folder."""
    content, run = Content(), source.runs[0]
    cases = {case.case: case for case in source.cases}
    if run.evaluation:
        content.results.append(panels.summary_panel(run.evaluation))
        content.details.append(("All cases", panels.case_panel(run.evaluation)))
        content.plots.append(("Scores per label", plots.score_plot([run], source.labels, "scores")))
        content.rules += _score_rules(run.evaluation)
        chosen = pictures.remarkable_by_score(run.evaluation)
    else:
        volumes = _volumes(source, content, workers)
        content.notes.append("No references were given, so nothing is scored. Unusual sizes are where failures show first.")
        chosen = pictures.remarkable_by_volume(volumes, source.unit)
    if source.familiarity:
        content.details.append(("Does each scan belong to the model?", panels.familiarity_panel(source.familiarity)))
    content.pictures, problems = pictures.case_pictures(cases, chosen, source.labels)
    content.notes += problems
    curve = plots.training_plot([run], "training")
    content.training += [("", curve)] if curve else []
    return content


def _volumes(source: Source, content: Content, workers: int) -> dict[str, dict[str, float]]:
    """Show the volumes of the labels of each case in the source's unit; returns them: case -> label -> volume."""
    measure, names = partial(panels.measure_volumes, labels=source.labels), [case.case for case in source.cases]
    found = run_short_cases(measure, source.cases, names, workers, "Measuring volumes", **_memory(source.cases))
    measured = dict(zip(names, found, strict=True))
    content.notes += [found for found in measured.values() if isinstance(found, str)]
    unit = source.unit
    volumes = {
        case: {label: volume * unit.per_ml for label, volume in found.items()}
        for case, found in measured.items()
        if not isinstance(found, str)
    }
    if volumes:
        summary, each = panels.volume_panels(volumes, source.labels, source.intervals, unit)
        content.results.append(summary)
        content.details.append(("All cases", each))
        values = {label.name: [found[label.name] for found in volumes.values()] for label in source.labels}
        title = f"{unit.quantity.capitalize()}s per label"
        content.plots.append((title, plots.box_plot(values, f"{unit.quantity} [{unit.symbol}]", "volumes")))
    return volumes


def _compared(source: Source, benchmark: Benchmark) -> Content:
    """The content for a benchmark."""
    content = Content(results=[panels.paper_panel(source)], details=[("All cells", panels.cell_panel(source))])
    failed = [record for record in benchmark.cells if record.status == FAILED]
    waiting = sum(record.status == WAITING for record in benchmark.cells)
    content.notes += [f"{record.title} failed: {record.message or 'no reason was recorded'}" for record in failed]
    if waiting:
        content.notes.append(f"{waiting} of {len(benchmark.cells)} cells are still waiting.")
    methods = list(dict.fromkeys(run.method for run in source.runs))
    for index, setting in enumerate(dict.fromkeys(run.setting for run in source.runs)):
        runs = [run for run in source.runs if run.setting == setting]
        scored = [run for run in runs if run.evaluation]
        if scored:
            content.plots.append((setting, plots.score_plot(scored, source.labels, f"scores{index}", methods)))
            first = {run.method: run.seed for run in sorted(scored, key=lambda run: run.seed, reverse=True)}
            content.pictures += [p for run in scored if run.seed == first[run.method] for p in pictures.drawn_pictures(run)]
        curve = plots.training_plot(runs, f"training{index}", methods)
        content.training += [(setting, curve)] if curve else []
    evaluations = [run.evaluation for run in source.runs if run.evaluation]
    content.rules += _score_rules(evaluations[0]) if evaluations else []
    content.rules.append(
        "Box plots pool the cases of all seeds of a setting. Pictures are of a method's first seed that was scored."
    )
    if content.training:
        content.rules.append(
            "Training losses of different methods are different quantities: compare their course, not their height."
        )
    return content


def _score_rules(evaluation: Evaluation) -> list[str]:
    tolerance = f"NSD: normalised surface distance at a tolerance of {evaluation.tolerance_mm:g} mm."
    return [tolerance, f"Empty masks. {EMPTY_RULE}"]


def _limit_pictures(content: Content, most_bytes: float) -> None:
    """Keep as many pictures as fit; say how many were left out."""
    sizes = itertools.accumulate(len(picture.png) for picture in content.pictures)
    kept = sum(size <= most_bytes for size in sizes)
    if kept < len(content.pictures):
        left = len(content.pictures) - kept
        content.notes.append(f"{left} of {len(content.pictures)} pictures were left out to keep the size limit (`max_mb`).")
    content.pictures = content.pictures[:kept]


def _add_viewer(source: Source, content: Content, max_bytes: float, workers: int) -> None:
    """Embed the viewer and as many cases as the limit leaves room for."""
    bundle = viewer.niivue_bundle()
    if bundle is None:
        content.notes.append(
            f"The viewer was left out: NiiVue was not found in the package {viewer.PACKAGE}. "
            "Install the package with the version in constraints.txt and make the report again."
        )
        return
    scores = _dice_of(source)
    content.bundle = bundle
    content.viewer = _viewer_data(source, [], scores, [])
    ranking = _ranking(source, scores)
    kept, problems = _embed(source, ranking, max_bytes - len(_render(source, content)), workers)
    content.notes += problems
    if not kept:
        content.viewer = None
        return
    content.viewer = _viewer_data(source, kept, scores, content.blocks)
    if any(embedded.reduced for embedded in kept):
        content.rules.append("In the viewer, large cases are shown with larger voxels than they have.")
    content.rules.append("The viewer shows the surroundings of the labels only, and images in 256 grey values.")


def _memory(cases: Sequence[CaseSource]) -> dict[str, Any]:
    """What a case takes of the memory, as :func:`run_short_cases` is told it."""

    def files(case: CaseSource) -> CaseFiles:
        paths = (case.image, case.reference, *(path for _, path in case.segmentations))
        return CaseFiles(case.case, tuple(path for path in paths if path is not None), None)

    most = largest_bytes([files(case) for case in cases], partial(case_bytes, bytes_per_voxel=VIEWER_BYTES))
    return {"memory": lambda case: memory_note(files(case), VIEWER_BYTES), "item_bytes": most}


def _embed(source: Source, ranking: Sequence[CaseSource], room: float, workers: int) -> tuple[list[EmbeddedCase], list[str]]:
    """Cases that fit into ``room`` bytes, the most telling first, in the order of ``ranking``; and those left out."""
    kept: dict[str, EmbeddedCase] = {}
    notes: list[str] = []
    order = [ranking[index] for index in spread_order(len(ranking))]
    left_out: list[CaseSource] = []
    chunk = 16 * max(1, workers)
    for part in (order[start : start + chunk] for start in range(0, len(order), chunk)):
        if left_out:
            left_out += part
            continue
        embed = partial(viewer.embed_case, labels=source.labels, ignore=_ignored(source))
        names = [case.title for case in part]
        for embedded in run_short_cases(embed, part, names, workers, "Preparing the viewer", **_memory(part)):
            notes += embedded.problems
            if embedded.image and embedded.size > room:
                left_out.append(embedded.source)
            elif embedded.image:
                room -= embedded.size
                kept[embedded.source.title] = embedded
    if left_out:
        names = [case.title for case in left_out[:_LISTED]]
        more = f" and {len(left_out) - _LISTED} more" if len(left_out) > _LISTED else ""
        notes.append(
            f"{len(left_out)} of {len(ranking)} cases are not in the viewer to keep the size limit (`max_mb`): "
            f"{', '.join(names)}{more}. The worst, the best and cases evenly spread between them were kept."
        )
    return [kept[case.title] for case in ranking if case.title in kept], notes


def _ignored(source: Source) -> int | None:
    """The value of voxels in references whose label is not known."""
    return next((run.evaluation.ignore for run in source.runs if run.evaluation), None)


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


def _ranking(source: Source, scores: Scores) -> list[CaseSource]:
    """All cases from worst to best mean Dice over labels and runs; by name where nothing is scored."""
    means = {}
    for case in source.cases:
        found = [[value for value in dice if value is not None] for dice in scores.get(case.title, {}).values()]
        means[case.title] = [statistics.fmean(dice) for dice in found if dice]
    return sorted(source.cases, key=lambda case: (statistics.fmean(means[case.title] or [math.inf]), case.title))


def _dice_of(source: Source) -> Scores:
    """The Dice per label of all that is scored, by the case's title and the run's key; None where it is not defined."""
    by_reference = {case.reference.resolve(): case for case in source.cases if case.reference}
    scores: Scores = {}
    for run in source.runs:
        if run.evaluation is None:
            continue
        dice = run.evaluation.cases.set_index(["case", "label"])["dice"].dropna().round(4).to_dict()
        for pair in run.evaluation.pairs:
            case = by_reference.get(pair.reference.resolve())
            if case:
                found = [dice.get((pair.case, label.name)) for label in source.labels]
                scores.setdefault(case.title, {})[run.key] = found
    return scores


def _viewer_data(source: Source, kept: Sequence[EmbeddedCase], scores: Scores, blocks: list[tuple[str, str]]) -> dict[str, Any]:
    """What viewer.js reads; the volumes go to ``blocks``."""

    def block(part: str) -> str:
        if part:
            blocks.append((f"volume{len(blocks)}", part))
        return blocks[-1][0] if part else ""

    cases = [
        {
            "title": embedded.source.title,
            "image": block(embedded.image),
            "hasImage": embedded.source.image is not None,
            "start": embedded.start,
            "reference": block(embedded.reference),
            "layers": {
                key: {"segmentation": block(segmentation), "uncertainty": block(uncertainty)}
                for key, (segmentation, uncertainty) in embedded.layers.items()
            },
            "dice": scores.get(embedded.source.title, {}),
        }
        for embedded in kept
    ]
    shown = {key for embedded in kept for key in embedded.layers}
    colours = [[round(255 * part) for part in colour[:3]] for colour in label_colours(len(source.labels))]
    return {
        "labels": [{"name": label.name, "colour": colour} for label, colour in zip(source.labels, colours, strict=True)],
        "errors": [{"name": name, "colour": colour} for name, colour in ERRORS],
        "cells": [{"key": run.key, "title": run.title} for run in source.runs if run.key in shown],
        "cases": cases,
    }


def _render(source: Source, content: Content) -> str:
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            source=source,
            content=content,
            verdict=verdict_of(source, len(content.notes)),
            script=Markup((FOLDER / "viewer.js").read_text(encoding="utf-8")),
            licence=(FOLDER / "niivue_licence.txt").read_text(encoding="utf-8"),
        )
    )
