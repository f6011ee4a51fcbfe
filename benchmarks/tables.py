"""Print the results files as Markdown tables, or put them into the pages that show them (--write)."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from benchmarks.comparison import DEFAULT_TIME, kept_as
from benchmarks.contrasts import TEST
from benchmarks.feature_tables import (
    fine_tuning_table,
    foreign_table,
    generated_table,
    given_slices_table,
    growth_table,
    large_field_table,
    memory_table,
    missing_channel_table,
    seen_contrasts_table,
    stages_table,
    uncertainty_table,
    utilisation_table,
)
from benchmarks.gpu_tables import gpu_checks_table, gpu_dice_table, gpu_speed_table
from benchmarks.markdown import markdown, number
from benchmarks.record import RESULTS, ROOT, read_rows
from benchmarks.seeds import KEYS, over_seeds
from diffatlas_pipeline.files import write_text_atomically

METHODS = {
    ("mean", "default"): "mean",
    ("rba", "default"): "rba",
    ("icf", "default"): "icf",
    ("icmd", "default"): "icmd",
    ("diffatlas", "default"): "diffatlas",
    ("icf", "default+atlases"): "icf+atlases",
    ("icmd", "default+atlases"): "icmd+atlases",
    ("diffatlas", "default+atlases"): "diffatlas+atlases",
    ("icf", "any-contrast"): "icf:any-contrast",
    ("icmd", "any-contrast"): "icmd:any-contrast",
    ("diffatlas", "any-contrast"): "diffatlas:any-contrast",
    ("diffatlas", "paper"): "diffatlas:paper",
    ("diffatlas", "paper-any-contrast"): "diffatlas:paper-any-contrast",
}
"""Method and recipe of a row, and what the tables call it, in their order."""
CT, MRI = "Dataset011_HeartPhantomCT", "Dataset012_HeartPhantomMRI"
HIPPOCAMPUS = {"2-shot": "2 cases", "4-shot": "4 cases", "8-shot": "8 cases", "16-shot": "16 cases", "full": "160 cases"}
HEARTS_CT = {
    "2-shot": "2 cases",
    "4-shot": "4 cases",
    "full": "40 cases",
    f"zero-shot:{MRI}": "MRI, adapted",
    f"zero-shot-unadapted:{MRI}": "MRI, as it is",
}
HEARTS_MRI = {"full": "40 cases", f"zero-shot:{CT}": "CT, adapted", f"zero-shot-unadapted:{CT}": "CT, as it is"}
LGE = "zero-shot-unadapted:Dataset032_CardiacLGE"
CARDIAC_BSSFP = {"full": "25 cases", LGE: "LGE, as it is"}
CARDIAC_LGE = {"2-shot": "2 cases", "4-shot": "4 cases", "full": "25 cases"}
SIMULATED = {f"zero-shot-unadapted:Dataset{number:03d}_{name}": title for (number, name), title in zip(
    TEST.items(), ("inverted", "V-shaped", "T2-like", "slices of 5 mm"), strict=True)}  # fmt: skip
COLUMNS: dict[str, tuple[str, dict[str, str]]] = {
    "hippocampus": ("hippocampus", HIPPOCAMPUS),
    "simulated": ("hippocampus", SIMULATED),
    "heart-ct": ("heart-ct", HEARTS_CT),
    "heart-mri": ("heart-mri", HEARTS_MRI),
    "cardiac-bssfp": ("cardiac-bssfp", CARDIAC_BSSFP),
    "cardiac-lge": ("cardiac-lge", CARDIAC_LGE),
}
"""Tables of comparisons: the protocol, its settings, and the columns they make."""
OTHER_DATA = {r"zero-shot:Dataset\d{3}_(\w+)": r"on \1, adapted", r"zero-shot-unadapted:Dataset\d{3}_(\w+)": r"on \1, as it is"}
"""Zero-shot settings of nnU-Net's results file, and what its table calls them."""
STEPS = {
    ("steps", "Dataset004_Hippocampus"): "hippocampus, true masks made noisy alone",
    ("steps_refined", "Dataset004_Hippocampus"): "hippocampus",
    ("steps_refined", CT): "generated CT hearts",
    ("steps_refined", MRI): "MRI hearts as they are, by the same model",
    ("steps_any_contrast", CT): "CT hearts, trained with any contrast",
    ("steps_any_contrast", MRI): "MRI hearts as they are, by the same model",
}
"""Names of the ablation's rows and the data that they are scored on, and what the table of steps calls them."""
SUMMARY_METHODS = {
    ("diffatlas", "default+atlases"): "joint model with atlases",
    ("icf", "default+atlases"): "feed-forward with atlases",
    ("diffatlas", "default"): "joint model",
    ("icf", "default"): "feed-forward",
    ("icmd", "default"): "mask diffusion",
    ("rba", "default"): "registration",
}
SUMMARY = (
    ("hippocampus", "default", "2-shot", "hippocampus MRI, 2 labelled cases"),
    ("hippocampus", "default", "4-shot", "hippocampus MRI, 4 labelled cases"),
    ("hippocampus", "default", "full", "hippocampus MRI, 160 labelled cases"),
    ("heart-ct", "default", "full", "generated hearts, 40 labelled CT, tested on CT"),
    ("heart-ct", "default", f"zero-shot:{MRI}", "trained on CT, tested on MRI (contrast adapted)"),
    ("heart-mri", "default", f"zero-shot:{CT}", "trained on MRI, tested on CT (contrast adapted)"),
    ("heart-ct_30m", "any-contrast", f"zero-shot-unadapted:{MRI}", "CT with `--any-contrast`, 30 minutes; MRI as it is"),
    ("heart-mri_30m", "any-contrast", f"zero-shot-unadapted:{CT}", "MRI with `--any-contrast`, 30 minutes; CT as it is"),
    ("cardiac-bssfp_30m", "any-contrast", LGE, "cardiac bSSFP with `--any-contrast`, 30 minutes; LGE as it is"),
)
"""Rows of the README's table: results file, recipe, setting, title."""
SUMMARY_FILES = tuple(dict.fromkeys(name for name, *_ in SUMMARY))
NOTHING, NO_GPU = "Not measured yet.", "Not run on a GPU yet."


# --------------------------------------------------------------------------------------------------------------- tables
def comparison_table(settings: dict[str, str], table: pd.DataFrame) -> str:
    """One row per method, one column per setting that was run: Dice, mean ± deviation over seeds; NSD in brackets; best
    bold.
    """
    scores = table.set_index(KEYS)
    best = {name: scores.loc[name]["dice_average"].max() for name in settings if name in set(table["setting"])}
    rows = []
    for key, name in METHODS.items():
        cells = []
        for setting in best:
            text = _score(scores, (setting, *key))
            is_best = bool(text) and scores.loc[(setting, *key), "dice_average"] == best[setting]
            cells.append(f"**{text}**" if is_best else text)
        if any(cells):
            rows.append([f"`{name}`", *cells])
    return markdown(["method", *(settings[name] for name in best)], rows) if rows else NOTHING


def comparison_tables(name: str, folder: Path = RESULTS) -> str:
    """The table ``name`` of :data:`COLUMNS`, and behind it those of the same protocol with other times of training."""
    protocol, settings = COLUMNS[name]
    tables = []
    for time, path in times_of(protocol, folder).items():
        title = "" if time == DEFAULT_TIME else f"After {time} of training:\n\n"
        table = comparison_table(settings, over_seeds(path))
        if table != NOTHING:
            tables.append(title + table)
    return "\n\n".join(tables) or NOTHING


def times_of(protocol: str, folder: Path = RESULTS) -> dict[str, Path]:
    """The results files of ``protocol`` by the time of training, the default time first."""
    own, stem = folder / kept_as(protocol), Path(kept_as(protocol)).stem
    found = {path.stem.removeprefix(f"{stem}_"): path for path in sorted(folder.glob(f"{stem}_*.csv"))}
    return ({DEFAULT_TIME: own} if own.is_file() else {}) | found


def seconds_table(hippocampus: pd.DataFrame, heart_ct: pd.DataFrame, heart_mri: pd.DataFrame) -> str:
    """One row per method: seconds per case, from the fastest to the slowest setting of each kind."""
    hearts = pd.concat([heart_ct, heart_mri])
    adapted = hearts["setting"].str.startswith("zero-shot:")
    kinds = {
        "hippocampus": hippocampus,
        "hearts": hearts[~hearts["setting"].str.startswith("zero-shot")],
        "hearts, other modality, adapted": hearts[adapted],
    }
    rows = []
    for (method, recipe), name in list(METHODS.items())[1:]:  # the mean atlas takes no time
        cells = []
        for table in kinds.values():
            found = table[(table["method"] == method) & (table["recipe"] == recipe)]["seconds_per_case"]
            cells.append(_range(found.min(), found.max()) if len(found) else "")
        if any(cells):
            rows.append([f"`{name}`", *cells])
    return markdown(["method", *kinds], rows)


def summary_table(*tables: pd.DataFrame) -> str:
    """The README's, of the results files that SUMMARY names, in order: mean Dice, one row per test, one column per
    method.
    """
    scores = {name: table.set_index(KEYS) for name, table in zip(SUMMARY_FILES, tables, strict=True)}
    rows = []
    for name, recipe, setting, title in SUMMARY:
        keys = [(setting, method, own.replace("default", recipe)) for method, own in SUMMARY_METHODS]
        rows.append([title, *(_score(scores[name], key, nsd=False) or "not run" for key in keys)])
    return markdown(["test", *SUMMARY_METHODS.values()], rows)


def steps_table(table: pd.DataFrame) -> str:
    """Mean Dice of validation cases over the number of sampling steps, of the ablation's rows in :data:`STEPS`."""
    rows = table.assign(steps=[re.sub(r".*steps=(\d+).*", r"\1", str(text)) for text in table["sampling"]])
    rows = rows.set_index(["name", "scored_on"])
    known = [key for key in STEPS if key in rows.index]
    steps = sorted({one for key in known for one in rows.loc[[key], "steps"]}, key=lambda one: int(one) or math.inf)
    lines = []
    for key in known:
        dice = dict(zip(rows.loc[[key], "steps"], rows.loc[[key], "dice_mean"], strict=True))
        lines.append([STEPS[key], *(f"{dice[one]:.3f}" if one in dice else "" for one in steps)])
    return markdown(["sampling steps", *("all" if one == "0" else one for one in steps)], lines)


def speed_table(table: pd.DataFrame) -> str:
    """One row per network and input; times are medians with quartiles, the ratio is to the authors' stated setting."""
    header = ["network", "input", "parameters", "GFLOP a forward", "forwards a case", "fewer FLOPs a case"]
    header += ["ms a sampling step", "ms a training step (batch)", "peak GB of training"]
    rows = []
    for _, row in table.iterrows():
        ratio = "" if pd.isna(row["flops_ratio"]) else f"{row['flops_ratio']:,.0f} times"
        training = _times(row, "training_ms")
        cells = [str(row["network"]), f"{row['input']}, {row['channels']} channels", f"{row['parameters'] / 1e6:.1f} M"]
        cells += [f"{row['forward_gflop']:,.0f}", f"{row['forwards_per_case']:.0f}", ratio, _times(row, "sampling_ms")]
        rows.append([*cells, f"{training} ({row['batch']:.0f})" if training else "", number(row["peak_training_gb"], 1)])
    return markdown(header, rows)


def nnunet_table(table: pd.DataFrame) -> str:
    """One row per row of the results file, best Dice of a test bold; memory is of the training's process."""
    test = ["protocol", "setting", "minutes", "device"]
    table = table.assign(setting=table["setting"].replace(OTHER_DATA, regex=True))
    header = ["data", "setting", "method", "minutes", "device", "Dice (NSD)", "iterations", "s an iteration", "s a case"]
    rows = []
    for _, group in table.groupby(test, sort=False):
        for _, row in group.sort_values("dice", ascending=False).iterrows():
            best = "**" if row["dice"] == group["dice"].max() else ""
            cells = [row["protocol"], row["setting"], f"`{row['method']}`", f"{row['minutes']:g}"]
            cells += [row["accelerator"] if pd.notna(row["accelerator"]) else row["device"]]
            cells += [f"{best}{row['dice']:.3f} ({row['nsd']:.3f}){best}", number(row["iterations"], 0)]
            cells += [number(row["seconds_per_iteration"], 2), number(row["seconds_per_case"], 1)]
            rows.append([*cells, number(row["peak_gb"], 1)])
    return markdown([*header, "peak GB of training"], rows)


def quickstart_table(table: pd.DataFrame) -> str:
    """The last run: minutes of everything, Dice per label of the quickstart's held-out hearts."""
    row = table.iloc[-1]
    labels = [str(name).removeprefix("dice_") for name in table if str(name).startswith("dice_")]
    cells = [str(row["cores"]), number(row["minutes"], 1), *(number(row[f"dice_{label}"], 3) for label in labels)]
    return markdown(["cores", "minutes in all", *(f"Dice {label}" for label in labels)], [cells])


COMPARISONS = ("comparison_hippocampus.csv", "comparison_heart-ct.csv", "comparison_heart-mri.csv")
TABLES: dict[str, tuple[tuple[str, ...], Callable[..., str]]] = {
    "nnunet": (("nnunet.csv",), nnunet_table),
    "seconds": (COMPARISONS, seconds_table),
    "steps": (("ablation.csv",), steps_table),
    "speed": (("speed.csv",), speed_table),
    "quickstart": (("quickstart.csv",), quickstart_table),
    "foreign": (("foreign_scans.csv",), foreign_table),
    "fine_tuning": (("fine_tuning.csv",), fine_tuning_table),
    "seen_contrasts": (("seen_contrasts.csv",), seen_contrasts_table),
    "generated": (("generated.csv",), generated_table),
    "given_slices": (("given_slices.csv",), given_slices_table),
    "missing_channel": (("missing_channel.csv",), missing_channel_table),
    "uncertainty": (("uncertainty.csv",), uncertainty_table),
    "memory": (("memory.csv",), memory_table),
    "utilisation": (("utilisation.csv",), utilisation_table),
    "growth": (("growth.csv",), growth_table),
    "stages": (("growth.csv",), stages_table),
    "large_field": (("large_field.csv",), large_field_table),
    "summary": (tuple(f"comparison_{name}.csv" for name in SUMMARY_FILES), summary_table),
    "gpu-dice": (("gpu_dice.csv",), gpu_dice_table),
    "gpu-speed": (("gpu_speed.csv",), gpu_speed_table),
    "gpu-checks": (("gpu_checks.csv",), gpu_checks_table),
}
"""Each other table's results files and how it is made of them."""
GPU_PAGE = ("gpu-dice", "gpu-speed", "gpu-checks")
FIRST_PAGE = (
    "hippocampus", "heart-ct", "heart-mri", "seconds", "steps", "quickstart", "generated", "given_slices",
    "missing_channel", "uncertainty",
)  # fmt: skip
SPEED_PAGE = ("speed", "utilisation", "growth", "stages")
ELSEWHERE = ("foreign", "memory", "large_field", *SPEED_PAGE)
PAGES = {
    ROOT / "documentation" / "benchmarks.md": FIRST_PAGE,
    ROOT / "documentation" / "benchmarks-other-contrasts.md": tuple(
        name for name in (*COLUMNS, *TABLES) if name not in (*FIRST_PAGE, *GPU_PAGE, "summary", *ELSEWHERE)
    ),
    ROOT / "documentation" / "benchmarks-gpu.md": GPU_PAGE,
    ROOT / "documentation" / "benchmarks-speed.md": SPEED_PAGE,
    ROOT / "documentation" / "how-to" / "foreign-scans.md": ("foreign",),
    ROOT / "documentation" / "how-to" / "large-scans.md": ("large_field",),
    ROOT / "documentation" / "reference" / "predict.md": ("memory",),
    ROOT / "README.md": ("summary",),
}


# ---------------------------------------------------------------------------------------------------------------- pages
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Print the benchmarks' results as Markdown tables.",
        epilog="example:\n  python -m benchmarks.tables --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--write", action="store_true", help="put all tables into the documentation and README.md")
    arguments = parser.parse_args(argv)
    if not arguments.write:
        print("\n\n".join(f"### {name}\n\n{table_of(name)}" for name in (*COLUMNS, *TABLES)))
        return
    for page in PAGES:
        write_text_atomically(page, with_tables(page))
        print(f"Written: {page}")


def table_of(name: str, folder: Path = RESULTS) -> str:
    """The table ``name`` from its CSV files in ``folder``."""
    if name in COLUMNS:
        return comparison_tables(name, folder)
    files, make = TABLES[name]
    paths = [folder / file for file in files]
    if not all(path.exists() for path in paths):
        return NO_GPU if name in GPU_PAGE else NOTHING
    return make(*(over_seeds(path) if path.name.startswith("comparison_") else read_rows(path) for path in paths))


def with_tables(page: Path) -> str:
    """The text of ``page`` with its tables as the results files have them."""
    text = page.read_text(encoding="utf-8")
    for name in PAGES[page]:
        text = put(text, name, table_of(name))
    return text


def put(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``. SystemExit if they are not there."""
    start, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"Error: the page has no markers '{start}' and '{end}'. Add them where the table belongs.")
    return pattern.sub(lambda _: f"{start}\n{text}\n{end}", page)


def _score(scores: pd.DataFrame, key: tuple[str, str, str], nsd: bool = True) -> str:
    """Dice with its spread, and NSD in brackets; '' where it was not run."""
    if key not in scores.index:
        return ""
    row = scores.loc[key]
    spread = "" if pd.isna(row["dice_average_std"]) else f" ± {row['dice_average_std']:.3f}"
    return f"{row['dice_average']:.3f}{spread}" + (f" ({row['nsd_average']:.3f})" if nsd else "")


def _range(low: float, high: float) -> str:
    digits = 1 if high < 10 else 0
    texts = dict.fromkeys(f"{value:.{digits}f}" for value in (low, high))
    return " to ".join(texts)


def _times(row: pd.Series, column: str) -> str:
    """Median (quartiles) in ms."""
    if pd.isna(row[column]):
        return ""
    return f"{row[column]:,.0f} ({row[f'{column}_low']:,.0f} to {row[f'{column}_high']:,.0f})"


if __name__ == "__main__":
    main()
