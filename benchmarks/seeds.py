"""Rows of a comparison: one per setting, method and seed, so that seeds may be run on different days and machines."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from benchmarks.record import machine, read_rows
from diffatlas_pipeline.files import write_text_atomically

KEYS = ["setting", "method", "recipe"]  # of a row of a table
MADE = ["date", "cpu", "cores", "torch", "commit"]  # what a row says of how it was made
MEASURED = ["dice_average", "nsd_average", "seconds_per_case"]
COSTS = ["train_seconds", "iterations", "seconds_per_case"]


def keep(cells: pd.DataFrame, kept: Path) -> None:
    """Put ``cells`` (one row each; those with a mean Dice) into ``kept``, with what they were made on.

    An unchanged row stays as it was, and so do those of other cells. A row over seeds, as earlier files hold it, gives
    way to the first row of one seed.
    """
    rows = cells[cells["dice_average"].notna()].drop(columns=["status", "message"], errors="ignore").reset_index(drop=True)
    rows = rows.round({name: 6 if name.startswith(("dice", "nsd")) else 3 for name in rows})
    rows = rows.assign(**{name: value for name, value in machine().items() if name in MADE})
    if kept.is_file():
        before = read_rows(kept)
        before = before if "seed" in before else before.assign(seed=float("nan"))
        known = {(*row[KEYS], row["seed"]): row for _, row in before.iterrows()}
        for index, row in rows.iterrows():
            old = known.get((*row[KEYS], row["seed"]))
            if old is not None and old[MEASURED].tolist() == row[MEASURED].tolist():
                rows.loc[index, MADE] = old[MADE]
        anew = {(*row[KEYS], row["seed"]) for _, row in rows.iterrows()}
        anew |= {(*row[KEYS], None) for _, row in rows.iterrows()}
        others = [(*row[KEYS], None if pd.isna(row["seed"]) else row["seed"]) not in anew for _, row in before.iterrows()]
        rows = pd.concat([before[others].dropna(axis="columns", how="all"), rows], ignore_index=True)
    write_text_atomically(kept, rows.to_csv(index=False, lineterminator="\n"))


def over_seeds(path: Path) -> pd.DataFrame:
    """One row per setting, method and recipe: ``seeds``, means over them, and sample standard deviations (``_std``)."""
    rows = read_rows(path)
    if "seed" not in rows:
        return rows
    scores = [name for name in rows if name.startswith(("dice_", "nsd_")) and not name.endswith("_std")]
    measured = [*scores, *(name for name in COSTS if name in rows)]
    of_seeds, earlier = rows[rows["seed"].notna()], rows[rows["seed"].isna()]
    means = []
    for key, group in of_seeds.groupby(KEYS, sort=False):
        row = dict(zip(KEYS, key, strict=True)) | {"seeds": len(group)}
        for name in measured:
            row |= {name: group[name].mean(), f"{name}_std": group[name].std(ddof=1)}
        means.append(row | {name: group[name].iloc[-1] for name in MADE if name in rows})
    together = [frame for frame in (earlier.drop(columns="seed"), pd.DataFrame(means)) if len(frame)]
    return pd.concat(together, ignore_index=True)
