"""An evaluation as a table to read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from diffatlas_pipeline.evaluation.evaluate import SIZES, Evaluation


def results_table(evaluation: Evaluation) -> str:
    """One line per label and one for their mean: mean and standard deviation over cases of every metric."""
    header, rows = results_rows(evaluation)
    return format_table(header, rows, rule_before=len(rows) - 1)


def results_rows(evaluation: Evaluation) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of :func:`results_table`; the last row is the mean."""
    unit = evaluation.unit
    sizes = [f"{unit.quantity} [{unit.symbol}]", f"reference [{unit.symbol}]"]
    header = ["label", "Dice", f"NSD ({evaluation.tolerance_mm:g} mm)", "HD95 [mm]", *sizes, "cases"]
    rows = []
    for name, metrics in evaluation.per_label().items():
        rows.append(
            [
                name,
                _spread(metrics["dice"], 3),
                _spread(metrics["nsd"], 3),
                _spread(metrics["hd95_mm"], 2),
                *(_spread({key: value * unit.per_ml for key, value in metrics[one].items()}, 2) for one in SIZES),
                f"{metrics['dice']['count']:g}",
            ]
        )
    mean = evaluation.mean()
    total = str(len(evaluation.pairs))
    rows.append(["mean", _number(mean["dice"], 3), _number(mean["nsd"], 3), _number(mean["hd95_mm"], 2), "", "", total])
    return header, rows


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], rule_before: int | None = None) -> str:
    """Aligned columns, the first one to the left and the others to the right; a rule under the header and before one
    row.
    """
    widths = [max(len(row[column]) for row in [header, *rows]) for column in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    rule = "-" * (sum(widths) + 2 * (len(widths) - 1))
    lines = [line(header), rule]
    for index, row in enumerate(rows):
        if index == rule_before:
            lines.append(rule)
        lines.append(line(row))
    return "\n".join(lines)


def _number(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _spread(statistics: Mapping[str, float], digits: int) -> str:
    mean, std = statistics["mean"], statistics["std"]
    return _number(mean, digits) if math.isnan(std) else f"{mean:.{digits}f} ± {std:.{digits}f}"
