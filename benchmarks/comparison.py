"""The four methods and the mean atlas on a fixed protocol, through the public commands: one table of the paper's kind.

Without --settings, --methods and --seeds it makes the cells of documentation/benchmarks.md. It goes on after an
interruption; other methods, settings and seeds are added to the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from benchmarks.commands import add_places, do, main_of
from benchmarks.protocols import HEARTS, HIPPOCAMPUS, PROTOCOLS, prepare
from benchmarks.record import RESULTS, machine, read_rows
from diffatlas_pipeline.files import write_text_atomically

ALONE = ("diffatlas", "icf", "icmd", "rba")
METHODS = ("diffatlas", "diffatlas+atlases", "icf", "icf+atlases", "icmd", "rba")
KEYS = ["setting", "method", "recipe"]  # of a row
MADE = ["date", "cpu", "cores", "torch", "commit"]  # what a row says of how it was made


@dataclass(frozen=True)
class Cells:
    """Every one of ``methods`` in every one of ``settings``, with every one of ``seeds``."""

    settings: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)


def _hearts(other: int) -> tuple[Cells, ...]:
    seeds = (0, 1, 2)
    unadapted = Cells((f"zero-shot-unadapted:{other}",), ("diffatlas", "icf", "icmd"), seeds)  # rba adapts nothing
    return Cells(("full",), ALONE, seeds), Cells((f"zero-shot:{other}",), (*METHODS, "icmd+atlases"), seeds), unadapted


TABLES = {
    HIPPOCAMPUS: (Cells(("2-shot", "4-shot"), METHODS, (0, 1, 2)), Cells(("8-shot", "16-shot", "full"), ALONE)),
    "heart-ct": (Cells(("2-shot", "4-shot")), *_hearts(HEARTS["heart-mri"][1])),
    "heart-mri": _hearts(HEARTS["heart-ct"][1]),
}
"""The cells of documentation/benchmarks.md."""


def main(argv: list[str] | None = None) -> None:
    main_of(parser(), run, argv)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description="Compare the methods on a fixed protocol and keep the table.",
        epilog="examples:\n  python -m benchmarks.comparison hippocampus\n"
        "  python -m benchmarks.comparison hippocampus --settings 2-shot --seeds 0 1 2 --methods diffatlas icf",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("protocol", choices=PROTOCOLS)
    made.add_argument("--methods", nargs="+", metavar="M", help=f"(default: {' '.join(METHODS)})")
    made.add_argument("--settings", nargs="+", metavar="S", help="as DiffAtlas_benchmark takes them (default: the table's)")
    made.add_argument("--seeds", nargs="+", type=int, metavar="S", help="(default: 0)")
    made.add_argument("--max-time", default="10m", metavar="TIME", help="training time of each cell (default: %(default)s)")
    made.add_argument("--jobs", type=int, default=1, metavar="N", help="cells at the same time (default: 1)")
    add_places(made)
    made.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="(default: documentation/results/)")
    return made


def run(
    protocol: str,
    methods: list[str] | None,
    settings: list[str] | None,
    seeds: list[int] | None,
    max_time: str,
    jobs: int,
    workspace: Path,
    data: Path | None,
    results: Path,
) -> None:
    """Make and plan the data, run the cells, keep the table. UserError or CommandFailed if something is wrong."""
    wanted = wanted_cells(TABLES[protocol], methods, settings, seeds)
    prepared = prepare(protocol, data, workspace, sorted({seed for cells in wanted for seed in cells.seeds}))
    place = workspace / "benchmarks" / f"{protocol}_{max_time}"
    kept = results / f"comparison_{protocol}.csv"
    how = ["--max-time", max_time, "--jobs", str(jobs), "-o", str(place), *prepared.options, "--workspace", str(workspace)]
    try:
        for cells in wanted:
            do("benchmark", ["-d", str(prepared.number), *words_of(cells), *how])
    finally:
        if (place / "table.csv").is_file():
            keep(place / "table.csv", kept)
            print(f"Kept: {kept}")


def wanted_cells(
    tables: tuple[Cells, ...], methods: list[str] | None, settings: list[str] | None, seeds: list[int] | None
) -> tuple[Cells, ...]:
    """The cells that are asked for; those of the documentation, ``tables``, if none are."""
    if not (methods or settings or seeds):
        return tables
    known = dict.fromkeys(setting for cells in tables for setting in cells.settings)
    return (Cells(tuple(settings or known), tuple(methods or METHODS), tuple(seeds or (0,))),)


def words_of(cells: Cells) -> list[str]:
    """``cells`` as DiffAtlas_benchmark is asked for them."""
    return ["--methods", *cells.methods, "--settings", *cells.settings, "--seeds", *map(str, cells.seeds)]


def keep(table: Path, kept: Path) -> None:
    """Put the rows of ``table`` into ``kept``, with what they were made on; an unchanged row stays as it was."""
    rows = pd.read_csv(table)
    rows = rows[rows["seeds"] > 0].round({name: 6 if name.startswith(("dice", "nsd")) else 3 for name in rows})
    rows = rows.assign(**{name: value for name, value in machine().items() if name in MADE})
    if kept.is_file():
        before = read_rows(kept)
        measured = ["seeds", "dice_average", "nsd_average", "seconds_per_case"]
        known = {tuple(row[KEYS]): row for _, row in before.iterrows()}
        for index, row in rows.iterrows():
            old = known.pop(tuple(row[KEYS]), None)
            if old is not None and old[measured].tolist() == row[measured].tolist():
                rows.loc[index, MADE] = old[MADE]
        others = before[[tuple(row[KEYS]) in known for _, row in before.iterrows()]]
        rows = pd.concat([rows, others], ignore_index=True) if len(others) else rows
    write_text_atomically(kept, rows.to_csv(index=False, lineterminator="\n"))


if __name__ == "__main__":
    main()
