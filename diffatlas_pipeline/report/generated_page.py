"""The page that sets generated pairs beside the training cases: sheet, sizes, intensities, spectra, nearest cases."""

from __future__ import annotations

import base64
import math
import statistics as numbers
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from diffatlas_pipeline.datasets.description import DatasetDescription
from diffatlas_pipeline.errors import UserError
from diffatlas_pipeline.files import write_text_atomically
from diffatlas_pipeline.report.panels import Panel
from diffatlas_pipeline.report.plots import COLOURS, STYLE, WIDTH, grouped_boxes, svg_of
from diffatlas_pipeline.report.templating import environment

GROUPS = {"generated": "generated", "real": "training cases"}
_RULES = (
    "Training cases are shown to the network turned, zoomed and with changed intensities (see augmentation in the plan), and "
    "it learns these changes, too: generated cases spread more widely than the training cases as they are.",
    "Distance of intensities: by how much an intensity has to be moved, on average, to make the two histograms equal, as a "
    "share of the range from black to white.",
    "Nearest training case: cases are shifted onto each other by the centroid of their structures. Copies that were turned, "
    "zoomed or mirrored, as augmentation does it, may stay unnoticed.",
    "Of sizes, cases without the label do not count.",
)


def write_generated_page(found: Mapping[str, Any], dataset: DatasetDescription, sheet: Path, path: Path) -> None:
    """Write the page of the statistics ``found`` with the picture ``sheet`` to ``path``. UserError if that fails."""
    made = found["made_with"]
    facts = [
        ("generated pairs", found["generated_cases"]),
        ("training cases", found["training_cases"]),
        ("recipe", made["recipe"]),
        ("fold", made["fold"]),
        ("sampling", f"{made['sampler']['solver']}, {made['sampler']['steps']} steps"),
        ("voxels", " x ".join(map(str, made["shape"]))),
        ("seed", made["seed"]),
    ]
    if found["real_cases"] < found["training_cases"]:
        facts.insert(2, ("compared with", f"{found['real_cases']} of these"))
    text = environment().get_template("generated.html.j2").render(
        title=f"Pairs generated from {dataset.name}",
        facts=facts,
        sheet=base64.b64encode(sheet.read_bytes()).decode(),
        planes="with labels" if "area_mm2" in found else "three planes through the centre of the structures",
        sizes=_size_panel(found),
        size_plots=[_box_plot(found[key], title, key) for key, title in _sizes(found)],
        intensities=_intensity_panel(found["intensities"]),
        intensity_plots=[
            (channel if len(found["intensities"]) > 1 else "", _histogram_plot(of_channel, f"intensities{index}"))
            for index, (channel, of_channel) in enumerate(found["intensities"].items())
        ],
        power_plot=_power_plot(found["power"]),
        nearest=_nearest_panel(found["nearest"]),
        nearest_text=nearest_text(found),
        nearest_plot=_nearest_plot(found),
        rules=_RULES,
    )  # fmt: skip
    try:
        write_text_atomically(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror or error}). Give another `output`.") from error


def _sizes(found: Mapping[str, Any]) -> tuple[tuple[str, str], tuple[str, str]]:
    """Key and title of volume and surface; of two-dimensional images of area and contour."""
    if "area_mm2" in found:
        return ("area_mm2", "area [mm²]"), ("contour_mm", "contour [mm]")
    return ("volume_ml", "volume [ml]"), ("surface_cm2", "surface [cm²]")


def nearest_text(found: Mapping[str, Any]) -> str:
    """How near generated cases lie to training cases, beside how near these lie to each other."""
    text = (
        f"Median Dice with the nearest training case {_median(found['nearest'], 'dice'):.3f}, median correlation of the image "
        f"with the most correlated one {_median(found['nearest'], 'highest_correlation'):.3f}."
    )
    own = found["nearest_of_training_cases"]
    if not own:
        return text
    return (
        f"{text} Training cases among themselves: {_median(own, 'dice'):.3f} and {_median(own, 'highest_correlation'):.3f}. "
        "A copy would lie nearer to a training case than training cases lie to each other."
    )


def _median(entries: Sequence[Mapping[str, Any]], key: str) -> float:
    return numbers.median(entry[key] for entry in entries) if entries else math.nan


def _size_panel(found: Mapping[str, Any]) -> Panel:
    rows, sizes = [], _sizes(found)
    for name in found[sizes[0][0]]:
        size, surface = (found[key][name] for key, _ in sizes)
        shown = [_mean(of[group]) for of in (size, surface) for group in GROUPS]
        missing = [f"{size[group]['missing']} of {len(size[group]['values'])}" for group in GROUPS]
        rows.append([name, *shown, *missing])
    kinds = [*(title for _, title in sizes), "without it"]
    header = ["label", *(f"{kind}: {group}" for kind in kinds for group in ("generated", "real"))]
    return Panel(header, rows, "Mean ± standard deviation over cases; and how many cases lack the label.")


def _mean(spread: Mapping[str, Any]) -> str:
    return f"{spread['mean']:.3g} ± {spread['std']:.2g}" if "mean" in spread else "–"


def _intensity_panel(found: Mapping[str, Any]) -> Panel:
    rows = []
    for channel, of_channel in found.items():
        for name, one in of_channel.items():
            middles = [(low + high) / 2 for low, high in zip(one["edges"], one["edges"][1:], strict=False)]
            means = [f"{sum(m * s for m, s in zip(middles, one[g], strict=True)):.2f}" if any(one[g]) else "–" for g in GROUPS]
            distance = "–" if one["distance"] is None else f"{one['distance'] / 2:.1%}"
            rows.append([channel, name, *means, distance])
    header = ["channel", "label", "mean: generated", "mean: real", "distance"]
    return Panel(header, rows, "Intensities as the network sees them, from -1 to 1, over all voxels of a label.", texts=(0, 1))


def _nearest_panel(entries: Sequence[Mapping[str, Any]]) -> Panel:
    rows = [
        [one["case"], one["like"], f"{one['dice']:.3f}", f"{one['correlation']:.3f}", one["most_correlated"],
         f"{one['highest_correlation']:.3f}"]
        for one in entries
    ]  # fmt: skip
    header = ["generated", "nearest segmentation", "Dice", "its image's correlation", "most correlated image", "correlation"]
    return Panel(header, rows, texts=(0, 1, 4))


def _box_plot(found: Mapping[str, Any], title: str, name: str) -> str:
    groups = {
        text: {label: [value for value in one[group]["values"] if value > 0] for label, one in found.items()}
        for group, text in GROUPS.items()
    }
    return grouped_boxes(groups, title, name)


def _nearest_plot(found: Mapping[str, Any]) -> str:
    keys = {"Dice": "dice", "image correlation": "highest_correlation"}
    entries = {"generated": found["nearest"], "training cases": found["nearest_of_training_cases"]}
    groups = {text: {title: [one[key] for one in of] for title, key in keys.items()} for text, of in entries.items()}
    return grouped_boxes(groups, "nearest training case", "nearest")


def _histogram_plot(of_channel: Mapping[str, Any], name: str) -> str:
    """One small histogram per label."""
    columns = min(3, len(of_channel))
    rows = math.ceil(len(of_channel) / columns)
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(WIDTH, 1.9 * rows + 0.4), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for axis, (label, one) in zip(axes, of_channel.items(), strict=False):
            for colour, group in zip(COLOURS, GROUPS, strict=False):
                axis.stairs(one[group], one["edges"], color=colour, linewidth=1.4)
            axis.set_title(label)
            axis.set_yticks([])
            axis.set_xticks([-1, -0.5, 0, 0.5, 1])
        for axis in axes[len(of_channel) :]:
            axis.set_axis_off()
        _legend(figure)
        return svg_of(figure, name)


def _power_plot(found: Mapping[str, Any]) -> str:
    with mpl.rc_context(fname=STYLE):
        figure = Figure(figsize=(WIDTH, 3.1), layout="constrained")
        for axis, (channel, one) in zip(figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True):
            _power(axis, one)
            axis.set_title(channel)
        _legend(figure)
        return svg_of(figure, "power")


def _power(axis: Axes, one: Mapping[str, Any]) -> None:
    for colour, group in zip(COLOURS, GROUPS, strict=False):
        frequency, power = (np.asarray(one[group][key]) for key in ("frequency", "power"))
        seen = power > 0
        axis.plot(frequency[seen], power[seen], color=colour, linewidth=1.4)
    axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel("cycles per voxel")
    axis.set_ylabel("power")
    axis.grid(True, axis="both")


def _legend(figure: Figure) -> None:
    handles = [Line2D([], [], color=c, linewidth=2, label=text) for c, text in zip(COLOURS, GROUPS.values(), strict=False)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2)
