"""Print the results files as the Markdown tables of documentation/benchmarks.md and README.md, or put them there (--write)."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd

from benchmarks.record import RESULTS, ROOT, read_rows
from diffatlas_pipeline.benchmark.settings import MethodChoice
from diffatlas_pipeline.files import write_text_atomically

PAGE = ROOT / "documentation" / "benchmarks.md"
README = ROOT / "README.md"
NOTHING = "Not measured yet."


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description="Print the benchmarks' results as Markdown tables.",
        epilog="example:\n  python -m benchmarks.tables --write",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(TABLES)} (default: all)")
    parser.add_argument("--results", type=Path, default=RESULTS, metavar="FOLDER", help="folder of the results files")
    parser.add_argument(
        "--write",
        nargs="?",
        const=PAGE,
        type=Path,
        metavar="FILE",
        help=f"put the tables between the markers of FILE instead of printing them (default: {PAGE.name} and {README.name})",
    )
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.names if name not in TABLES]
    if unknown:
        parser.error(f"unknown table {', '.join(unknown)}; choose from {', '.join(TABLES)}")
    texts = {name: table_of(name, arguments.results) for name in arguments.names or TABLES}
    if arguments.write is None:
        print("\n\n".join(f"### {name}\n\n{text}" for name, text in texts.items()))
        return
    page = arguments.write.read_text(encoding="utf-8")
    for name, text in texts.items():
        page = put(page, name, text)
    write_text_atomically(arguments.write, page)
    print(f"Written: {arguments.write}")
    if arguments.write == PAGE:
        write_text_atomically(README, put(README.read_text(encoding="utf-8"), "summary", summary_table(arguments.results)))
        print(f"Written: {README}")


def table_of(name: str, folder: Path = RESULTS) -> str:
    """The table ``name`` from its CSV file in ``folder``."""
    file, make = TABLES[name]
    path = folder / file
    return make(read_rows(path)) if path.exists() else NOTHING


def put(page: str, name: str, text: str) -> str:
    """``page`` with ``text`` between the markers of ``name``. SystemExit if they are not there."""
    start, end = f"<!-- table {name} -->", f"<!-- end {name} -->"
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        sys.exit(f"Error: the page has no markers '{start}' and '{end}'. Add them where the table belongs.")
    return pattern.sub(lambda _: f"{start}\n{text}\n{end}", page)


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, rule, *rows))


def hippocampus_table(table: pd.DataFrame) -> str:
    """Setting, recipe, sampling; Dice per label and mean, NSD, HD95, time; one row per run, in order of the file."""
    labels = _labels(table)
    header = ["setting (split)", "recipe", "seed", "training", "sampling", *(f"Dice {label}" for label in labels)]
    header += ["Dice mean", "NSD", "HD95 [mm]", "s/case", "commit"]
    rows = []
    for _, row in table.iterrows():
        iterations = _number(row["iterations"], 0)
        setting = row["setting"] if row["split"] == row["setting"] else f"{row['setting']} ({row['split']})"
        cells = [str(setting), str(row["recipe"]), str(row["seed"])]
        cells += [f"{_number(row['train_seconds'] / 60, 1)} min, {iterations} iterations", _sampling(row)]
        cells += [_with_spread(row, f"dice_{label}", 3) for label in labels]
        cells += [_with_spread(row, "dice_mean", 3), _with_spread(row, "nsd_mean", 3), _with_spread(row, "hd95_mm_mean", 2)]
        cells += [_number(row["seconds_per_case"], 2), str(row["commit"])]
        rows.append(cells)
    return markdown(header, rows)


def steps_table(table: pd.DataFrame) -> str:
    """Mean Dice of the validation cases: one row per number of steps, one column per solver, guidance level and draws."""
    table = table.assign(
        way=[
            f"{row.solver}, image at {row.guidance_level:g}" + (f", {row.draws} draws" if row.draws > 1 else "")
            for row in table.itertuples()
        ]
    )
    wide = table.pivot_table(index="steps", columns="way", values="dice_mean", sort=True)
    header = ["steps", *map(str, wide.columns)]
    rows = [
        [str(steps), *(_number(value, 3) for value in values)] for steps, values in zip(wide.index, wide.values, strict=True)
    ]
    return markdown(header, rows)


def why_table(table: pd.DataFrame) -> str:
    """Dice of one evaluation from the true noisy mask and from the network's own, one row per noise level of the mask."""
    header = ["noise level of the mask", "Dice from the true mask, made noisy", "Dice from its own first answer, made noisy"]
    rows = [
        [f"{row.mask_level:g}", _number(row.dice_from_true_mask, 3), _number(row.dice_from_own_mask, 3)]
        for row in table.itertuples()
    ]
    return markdown(header, rows)


def speed_table(table: pd.DataFrame) -> str:
    """One row per network and input; times are medians with quartiles, ratios are to the authors' setting at the same input."""
    header = ["network", "input", "parameters", "forwards/case", "GFLOP/forward", "TFLOP/case", "fewer FLOPs"]
    header += [
        "ms/sampling step",
        "s/case",
        "ms/training step (batch)",
        "GB counted for training",
        "peak GB sampling",
        "peak GB training",
    ]
    rows = []
    for _, row in table.iterrows():
        ratio = "" if pd.isna(row["flops_ratio"]) else f"{row['flops_ratio']:,.0f} x"
        training = _times(row, "training_ms")
        cells = [str(row["network"]), f"{row['input']}, {row['channels']} ch", f"{row['parameters'] / 1e6:.1f} M"]
        cells += [str(row["forwards_per_case"]), f"{row['forward_gflop']:,.1f}", f"{row['case_tflop']:,.3f}", ratio]
        cells += [_times(row, "sampling_ms"), _number(row["case_s"], 2), f"{training} ({row['batch']})" if training else ""]
        cells += [f"{row['training_gb']:.2f}", _number(row["peak_sampling_gb"], 2), _number(row["peak_training_gb"], 2)]
        rows.append(cells)
    return markdown(header, rows)


def quickstart_table(table: pd.DataFrame) -> str:
    """Dice per label of the quickstart's held-out phantom hearts and the minutes it took."""
    labels = _labels(table)
    header = ["cores", "minutes", *labels, "mean Dice", "commit"]
    rows = [
        [
            str(row["cores"]),
            _number(row["minutes"], 1),
            *(_number(row[f"dice_{label}"], 3) for label in labels),
            _number(row["dice_mean"], 3),
            str(row["commit"]),
        ]
        for _, row in table.iterrows()
    ]
    return markdown(header, rows)


def shares_table(table: pd.DataFrame) -> str:
    """The network's share beside registered atlases against mean Dice; the mean over models of several seeds."""
    columns = [str(column) for column in table if str(column).startswith("share_")]
    header = ["model", "scans", "atlases", "cases", *(column.removeprefix("share_") for column in columns), "models", "commit"]
    split = table["fold"].str.replace(r"(-seed\d+)?(_seed\d+)?$", "", regex=True)
    alike = ["data", split, "method", "modality", "atlases", "cases", "commit"]
    rows = []
    for (data, fold, method, modality, atlases, cases, commit), models in table.groupby(alike, sort=False, dropna=False):
        about = [f"{data}, {fold}, {method}", modality if isinstance(modality, str) else "its own", str(atlases), str(cases)]
        rows.append([*about, *(_number(models[column].mean(), 3) for column in columns), str(len(models)), str(commit)])
    return markdown(header, rows)


def foreign_table(table: pd.DataFrame) -> str:
    """Sampling options against mean Dice of scans of another modality, mean ± sample deviation over models of other seeds."""
    ways = {"dice_as_it_is": "as it is", "dice_adapted": "adapted", "dice_with_atlases": "with atlases"}
    header = ["trained on", "method", "scans", "image at", "steps", "draws", *ways.values(), "models", "commit"]
    alike = ["data", "method", "modality", "cases", "guidance_level", "steps", "draws", "commit"]
    rows = []
    for key, runs in table.groupby(alike):
        data, method, modality, cases, level, steps, draws, commit = map(str, key)
        scores = [_mean_and_spread(runs[column]) for column in ways]
        rows.append([data, method, f"{cases} {modality}", level, steps, draws, *scores, str(len(runs)), commit])
    return markdown(header, rows)


def choice_table(table: pd.DataFrame) -> str:
    """How atlases were chosen and aligned against what became of them; one row per way and pair of data sets."""
    header = [
        "atlases",
        "targets",
        "aligned, chosen",
        "of",
        "targets tried",
        "astray",
        "Dice of one",
        "mean",
        "votes",
        "s/case",
        "commit",
    ]
    rows = []
    for _, row in table.iterrows():
        scores = [_number(100 * row[column], 1) for column in ("single", "mean", "votes")]
        about = [str(row["atlases"]), str(row["targets"]), str(row["way"]), str(row["offered"]), str(row["cases"])]
        rows.append([*about, f"{row['astray']:.0%}", *scores, _number(row["seconds"], 0), str(row["commit"])])
    return markdown(header, rows)


def ablation_table(table: pd.DataFrame) -> str:
    """What was changed and how it was sampled against mean Dice of validation cases, mean ± sample deviation over seeds.

    One row per change, in order of the file; runs on other machines or of other commits are not averaged.
    """
    header = ["trained on", "method", "options changed", "sampling", "iterations", "scored on", "mean Dice", "seeds", "commit"]
    alike = ["data", "split", "training_cases", "method", "options", "elastic", "sampling", "iterations"]
    alike = [column for column in (*alike, "scored_on", "cases", "commit", "cpu") if column in table]
    rows = []
    for _, runs in table.groupby(alike, sort=False, dropna=False):
        row = runs.iloc[0]
        options = [str(row["options"])] if isinstance(row["options"], str) else []
        options += [f"elastic={row['elastic']:g}"] if (row.get("elastic") or 0) > 0 else []
        rows.append(
            [
                f"{row['data']}, {row['split']} ({row['training_cases']} cases)",
                str(row["method"]),
                ", ".join(options) or "none",
                str(row["sampling"]) if isinstance(row["sampling"], str) else "the recipe's",
                str(row["iterations"]),
                f"{row['cases']} of {row['scored_on']}",
                _mean_and_spread(runs["dice_mean"]),
                ", ".join(str(seed) for seed in runs["seed"]),
                str(row["commit"]),
            ]
        )
    return markdown(header, rows)


def comparison_table(table: pd.DataFrame) -> str:
    """Setting and method against Dice and NSD in percent over test cases, mean and spread over seeds; what was run only."""
    labels = [*_compared_labels(table), "average"]
    header = ["setting", "method", *(f"Dice {label}" for label in labels), "NSD", "training", "iterations", "s/case", "seeds"]
    rows = []
    for setting, group in table[table["seeds"] > 0].groupby("setting", sort=False):
        best = group["dice_average"].idxmax()
        for index, row in group.iterrows():
            scores = [_percent(row, f"dice_{label}") for label in labels] + [_percent(row, "nsd_average")]
            scores[-2] = f"**{scores[-2]}**" if index == best else scores[-2]
            method = MethodChoice(str(row["method"]), str(row["recipe"])).text
            rest = [f"{row['train_seconds'] / 60:.0f} min", _number(row.get("iterations", float("nan")), 0)]
            rest += [_number(row["seconds_per_case"], 2), str(row["seeds"])]
            rows.append([str(setting), method, *scores, *rest])
    return markdown(header, rows)


def summary_table(folder: Path = RESULTS) -> str:
    """Mean Dice of every comparison in percent, one column per method."""
    header = ["test", *SUMMARY_METHODS.values()]
    rows = []
    for file, tests in SUMMARY.items():
        table = read_rows(folder / f"comparison_{file}.csv").set_index(["setting", "method", "recipe"])
        for setting, title in tests.items():
            cells = [title]
            for method, recipe in SUMMARY_METHODS:
                key = (setting, method, recipe)
                cells.append(_percent(table.loc[key], "dice_average") if key in table.index else "not run")
            rows.append(cells)
    return markdown(header, rows)


def unlabelled_table(table: pd.DataFrame) -> str:
    """What was learnt from against mean Dice of the test cases in percent, mean and spread over seeds."""
    header = [
        "setting",
        "method",
        "learnt from",
        "atlases beside it",
        "mean Dice",
        "NSD",
        "training",
        "iterations",
        "in all",
        "s/case",
        "seeds",
    ]
    rows = []
    keys = ["setting", "method", "learnt_from", "with_atlases", "unlabelled_cases", "commit"]
    for (setting, method, learnt_from, with_atlases, *_), group in table.groupby(keys, sort=False):
        one = group.iloc[0]
        scans = (
            f" ({one['labelled_cases']} + {one['unlabelled_cases']})"
            if one["unlabelled_cases"]
            else f" ({one['labelled_cases']})"
        )
        scores = [_mean_percent(group["dice_mean"]), _mean_percent(group["nsd_mean"])]
        training, in_all = (f"{group[column].mean() / 60:.0f} min" for column in ("train_seconds", "seconds_in_all"))
        rest = [training, _number(group["iterations"].mean(), 0), in_all, _number(group["seconds_per_case"].mean(), 2)]
        rows.append([setting, method, learnt_from + scans, "yes" if with_atlases else "no", *scores, *rest, str(len(group))])
    return markdown(header, rows)


def _mean_percent(values: pd.Series) -> str:
    return f"{100 * values.mean():.1f}" + (f" ± {100 * values.std():.1f}" if len(values) > 1 else "")


def _compared_labels(table: pd.DataFrame) -> list[str]:
    names = [str(column)[len("dice_") :] for column in table if str(column).startswith("dice_")]
    return [name for name in names if name != "average" and not name.endswith("_std")]


def _percent(row: pd.Series, column: str) -> str:
    spread = row[f"{column}_std"]
    return f"{100 * row[column]:.1f}" + ("" if pd.isna(spread) else f" ± {100 * spread:.1f}")


SUMMARY_METHODS = {
    ("diffatlas", "default+atlases"): "joint model with atlases",
    ("icf", "default+atlases"): "feed-forward with atlases",
    ("diffatlas", "default"): "joint model",
    ("icf", "default"): "feed-forward",
    ("icmd", "default"): "mask diffusion",
    ("rba", "default"): "registration",
}
SUMMARY = {
    "hippocampus_few": {f"{count}-shot": f"hippocampus, {count} labelled cases" for count in (2, 4)},
    "hippocampus": {
        "8-shot": "hippocampus, 8 labelled cases",
        "16-shot": "hippocampus, 16 labelled cases",
        "full": "hippocampus, 160 labelled cases",
    },
    "heart-ct": {
        "2-shot": "generated hearts, 2 labelled CT",
        "4-shot": "generated hearts, 4 labelled CT",
        "full": "generated hearts, 40 labelled CT",
        "zero-shot:Dataset012_HeartPhantomMRI": "generated hearts, learnt on 40 CT, tested on MRI",
    },
    "heart-mri": {
        "full": "generated hearts, 40 labelled MRI",
        "zero-shot:Dataset011_HeartPhantomCT": "generated hearts, learnt on 40 MRI, tested on CT",
    },
}
"""Settings of the comparisons that the README shows, by results file."""

TABLES: dict[str, tuple[str, Callable[[pd.DataFrame], str]]] = {
    "hippocampus": ("hippocampus.csv", hippocampus_table),
    "comparison_hippocampus": ("comparison_hippocampus.csv", comparison_table),
    "comparison_hippocampus_few": ("comparison_hippocampus_few.csv", comparison_table),
    "comparison_heart-ct": ("comparison_heart-ct.csv", comparison_table),
    "comparison_heart-mri": ("comparison_heart-mri.csv", comparison_table),
    "steps": ("steps_curve.csv", steps_table),
    "why": ("steps_why.csv", why_table),
    "atlas_share": ("atlas_share.csv", shares_table),
    "foreign_guidance": ("foreign_guidance.csv", foreign_table),
    "atlas_choice": ("atlas_choice.csv", choice_table),
    "unlabelled": ("unlabelled.csv", unlabelled_table),
    "ablation": ("ablation.csv", ablation_table),
    "speed": ("speed.csv", speed_table),
    "quickstart": ("quickstart.csv", quickstart_table),
}


def _labels(table: pd.DataFrame) -> list[str]:
    names = [str(column)[len("dice_") :] for column in table if str(column).startswith("dice_")]
    return [name for name in names if name != "mean" and not name.endswith("_std")]


def _sampling(row: pd.Series) -> str:
    draws = f", {row['draws']} draws" if row["draws"] > 1 else ""
    return f"{row['solver']}, {row['steps']} steps, image at {row['guidance_level']:g}{draws}"


def _number(value: float, digits: int) -> str:
    return "" if pd.isna(value) else f"{value:.{digits}f}"


def _mean_and_spread(values: pd.Series) -> str:
    return f"{values.mean():.3f}" + (f" ± {values.std():.3f}" if len(values) > 1 else "")


def _with_spread(row: pd.Series, column: str, digits: int) -> str:
    spread = _number(row.get(f"{column}_std", float("nan")), digits)
    return _number(row[column], digits) + (f" ± {spread}" if spread else "")


def _times(row: pd.Series, column: str) -> str:
    """Median (quartiles) in ms."""
    if pd.isna(row[column]):
        return ""
    return f"{row[column]:,.0f} ({row[f'{column}_low']:,.0f} to {row[f'{column}_high']:,.0f})"


if __name__ == "__main__":
    main()
