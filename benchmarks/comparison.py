"""The four methods and the mean atlas on a fixed protocol, through the public commands: one table of the paper's kind.

Without --settings, --methods and --seeds it makes the cells of documentation/benchmarks.md. It goes on after an
interruption; other methods, settings and seeds, run on any day and machine, are added to the table.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from benchmarks.commands import add_places, do, main_of
from benchmarks.contrasts import TEST
from benchmarks.protocols import PROTOCOLS, prepare
from benchmarks.raw_data import CARDIAC, HEARTS, HIPPOCAMPUS
from benchmarks.record import RESULTS
from benchmarks.seeds import keep
from diffatlas_pipeline.benchmark.paper_table import cells_frame
from diffatlas_pipeline.benchmark.record import FILE, read_benchmark

ALONE = ("diffatlas", "icf", "icmd", "rba")
METHODS = ("diffatlas", "diffatlas+atlases", "icf", "icf+atlases", "icmd", "rba")
LEARNED = ("diffatlas", "icf", "icmd")
ANY_CONTRAST = tuple(f"{method}:any-contrast" for method in LEARNED)
PAPER, PAPER_ANY_CONTRAST = "diffatlas:paper", "diffatlas:paper-any-contrast"
SEEDS = (0, 1, 2)
DEFAULT_TIME = "10m"


@dataclass(frozen=True)
class Cells:
    """Every one of ``methods`` in every one of ``settings``, with every one of ``seeds``."""

    settings: tuple[str, ...]
    methods: tuple[str, ...] = METHODS
    seeds: tuple[int, ...] = (0,)


def _hearts(other: int) -> tuple[Cells, ...]:
    unadapted = f"zero-shot-unadapted:{other}"
    return (
        Cells(("full",), ALONE, SEEDS),
        Cells((f"zero-shot:{other}",), (*METHODS, "icmd+atlases"), SEEDS),
        Cells((unadapted,), LEARNED, SEEDS),  # rba adapts nothing
        Cells(("full", unadapted), ANY_CONTRAST, SEEDS),
        Cells(("full", unadapted), (PAPER_ANY_CONTRAST,), SEEDS),  # last: it samples hundreds of steps
    )


SIMULATED = tuple(f"zero-shot-unadapted:{number}" for number in TEST)
LGE = f"zero-shot-unadapted:{CARDIAC['cardiac-lge'][1]}"
PAPERS = (PAPER, PAPER_ANY_CONTRAST)
TABLES = {
    HIPPOCAMPUS: (
        Cells(("2-shot", "4-shot"), (*METHODS, *ANY_CONTRAST), SEEDS),
        Cells(("8-shot", "16-shot", "full"), ALONE),
        Cells(("full", *SIMULATED), (*LEARNED, *ANY_CONTRAST)),
        Cells(("full",), (PAPER,)),
    ),
    "heart-ct": (
        Cells(("2-shot", "4-shot")),
        *_hearts(HEARTS["heart-mri"][1]),
        Cells(("full", f"zero-shot-unadapted:{HEARTS['heart-mri'][1]}"), (PAPER,)),
    ),
    "heart-mri": _hearts(HEARTS["heart-ct"][1]),
    "cardiac-bssfp": (Cells(("full", LGE), (*ALONE, *ANY_CONTRAST), SEEDS), Cells(("full", LGE), PAPERS, SEEDS)),
    "cardiac-lge": (Cells(("2-shot", "4-shot"), (*ALONE, *ANY_CONTRAST)), Cells(("2-shot", "4-shot"), PAPERS)),
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
    made.add_argument(
        "--max-time", default=DEFAULT_TIME, metavar="TIME", help="training time of each cell (default: %(default)s)"
    )
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
    seen = sorted({seed for cells in wanted for seed in cells.seeds})
    prepared = prepare(protocol, data, workspace, seen, [text for cells in wanted for text in cells.settings])
    place = workspace / "benchmarks" / f"{protocol}_{max_time}"
    kept = results / kept_as(protocol, max_time)
    how = ["--max-time", max_time, "--jobs", str(jobs), "-o", str(place), *prepared.options, "--workspace", str(workspace)]
    try:
        for cells in wanted:
            do("benchmark", ["-d", str(prepared.number), *words_of(cells), *how])
    finally:
        if (place / FILE).is_file():
            keep(cells_frame(place, read_benchmark(place)), kept)
            print(f"Kept: {kept}")


def kept_as(protocol: str, max_time: str = DEFAULT_TIME) -> str:
    """The name of the results file: rows that were trained for another time are not mixed with the others."""
    return f"comparison_{protocol}{'' if max_time == DEFAULT_TIME else f'_{max_time}'}.csv"


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


if __name__ == "__main__":
    main()
