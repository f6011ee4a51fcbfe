"""Tables of what else a model is for: pairs, given slices, a missing channel, uncertainty, foreign scans."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from benchmarks.foreign_scans import KINDS
from benchmarks.markdown import markdown, number


def generated_table(table: pd.DataFrame) -> str:
    """One row per run: Dice of real test cases after training on generated pairs and on the real cases they were learnt
    from.
    """
    header = ["learnt from", "pairs", "steps a pair", "each training", "Dice, trained on pairs", "on real cases", "share"]
    header += ["nearest Dice of pairs", "of real cases"]
    rows = []
    for _, row in table.iterrows():
        cells = [f"{row['protocol']}, {row['real_cases']} cases", str(row["pairs"]), str(row["steps"]), str(row["max_time"])]
        cells += [number(row["dice_generated"], 3), number(row["dice_real"], 3)]
        cells += [f"{row['dice_generated'] / row['dice_real']:.0%}".replace("%", " %") if row["dice_real"] else ""]
        rows.append([*cells, number(row["nearest_dice"], 2), number(row["nearest_dice_of_real"], 2)])
    return markdown(header, rows)


def fine_tuning_table(table: pd.DataFrame) -> str:
    """One row per run: Dice of a model as it is, of one that began with it, and of one that began afresh."""
    header = ["learnt", "each training", "begun with", "Dice of that as it is", "trained afresh", "begun with it"]
    rows = []
    for _, row in table.iterrows():
        minutes = f"{row['before_max_time_s'] / 60:g} minutes" if pd.notna(row["before_max_time_s"]) else "as planned"
        cells = [f"{row['protocol']}, {row['training_cases']} cases", str(row["max_time"])]
        cells += [f"`{row['before']}`, {row['before_cases']} cases, {minutes}"]
        rows.append([*cells, *(number(row.get(f"dice_{way}", float("nan")), 3) for way in ("alone", "afresh", "begun"))])
    return markdown(header, rows)


def seen_contrasts_table(table: pd.DataFrame) -> str:
    """One row per run: Dice of a contrast that was learnt."""
    header = ["contrast", "cases", "each training", "iterations", "Dice, learnt in that contrast"]
    rows = [
        [row["contrast"], str(row["training_cases"]), row["max_time"], f"{row['iterations']:,}", number(row["dice_seen"], 3)]
        for _, row in table.iterrows()
    ]
    return markdown(header, rows)


def given_slices_table(table: pd.DataFrame) -> str:
    """Three rows per run: Dice of the voxels not drawn over the number of given slices; the model alone is scored on
    the same voxels.
    """
    counts = [str(name).removeprefix("dice_completed_") for name in table if str(name).startswith("dice_completed_")]
    rows = []
    for _, row in table.iterrows():
        across = "XYZ"[int(row["axis"])]
        name = row["method"] if row["recipe"] == "default" else f"{row['method']}:{row['recipe']}"
        run = f"{row['protocol']}, {row['training_cases']} cases, `{name}`, slices across {across}"
        ways = {"completed": f"{run}, completed", "alone": "the same without the drawing", "interpolated": "interpolated"}
        for way, title in ways.items():
            rows.append([title, *(number(row.get(f"dice_{way}_{count}", float("nan")), 3) for count in counts)])
    return markdown(["given slices", *counts], rows)


def missing_channel_table(table: pd.DataFrame) -> str:
    """Per run a row with all channels and one without each: Dice, and how far the generated channel is from the
    true.
    """
    rows = []
    for _, row in table.iterrows():
        run = f"{row['training_cases']} cases, {row['max_time']}, seed {row['seed']}"
        rows.append([f"{run}: all channels", number(row["dice_all"], 3), "", ""])
        for column in row.index:
            name = str(column).removeprefix("dice_without_")
            if name != column:
                errors = [number(row[f"{error}_{name}"], 2) for error in ("error", "error_of_mean")]
                rows.append([f"without {name}", number(row[column], 3), *errors])
    return markdown(["scans", "Dice", "error of the generated channel", "of the mean image"], rows)


def large_field_table(table: pd.DataFrame) -> str:
    """The last run: scores and seconds of each way to segment, and of each level to begin at."""
    row, cells = table.iloc[-1], []
    ways = [str(name).removeprefix("dice_") for name in table if str(name).startswith("dice_")]
    for way in ways:
        title = {"whole": "the whole scan", "from_1": "coarse to fine, from noise"}.get(way)
        title = title or f"coarse to fine, from level {way.removeprefix('from_')}"
        scores = [number(row[f"{score}_{way}"], digits) for score, digits in (("dice", 3), ("nsd", 3), ("hd95", 1))]
        cells.append([title, *scores, number(row[f"seconds_{way}"], 1)])
    return markdown(["sampled", "Dice", "NSD", "HD95 mm", "seconds a case"], cells)


def utilisation_table(table: pd.DataFrame) -> str:
    """One row per data set: a training step, the parts of it, and the rates of convolutions and of a matrix product."""
    header = ["plan of", "batch", "ms a step", "convolutions alone", "rest of the network", "loss, own answers"]
    header += ["optimiser, EMA", "GFLOP/s, convolutions alone", "GFLOP/s, matrix product", "network, compiled", "waiting"]
    rows = []
    for _, row in table.iterrows():
        parts = [0.0, *(row[f"{name}_ms"] for name in ("convolutions", "network", "loss", "step"))]
        shares = [
            f"{max(0.0, (after - before) / parts[-1]):.0%}".replace("%", " %") for before, after in itertools.pairwise(parts)
        ]
        rates = [number(row[f"{name}_gflops"], 0) for name in ("convolutions", "peak")]
        compiled, waiting = row.get("compiled_ms"), row.get("waiting_share")
        others = ["" if pd.isna(compiled) else f"{compiled / row['network_ms']:.2f} times as long"]
        others += ["" if pd.isna(waiting) else f"{waiting:.1%}".replace("%", " %")]
        spins = "" if pd.isna(row.get("spins")) else f", `GOMP_SPINCOUNT={int(row['spins'])}`"
        busy = f", beside {int(row['busy'])} busy" if row.get("busy", 0) > 0 else ""  # earlier rows do not tell
        cells = [f"`{row['dataset']}`, {row['precision']}{busy}{spins}", str(row["batch"]), number(row["step_ms"], 0)]
        rows.append([*cells, *shares, *rates, *others])
    return markdown(header, rows)


def growth_table(table: pd.DataFrame) -> str:
    """What grows, how much, and how many times as long a prediction takes; slopes on a double logarithmic scale."""
    usual = {
        name: table[name].min() if name == "side" else table[name].mode()[0] for name in ("side", "steps", "labels", "cases")
    }
    found = table.assign(voxels=table["side"] ** 3)
    kinds = (("voxels", "side"), ("windows", "side"), ("sampling steps", "steps"), ("labels", "labels"), ("cases", "cases"))
    rows = []
    for title, changed in kinds:
        column = {"sampling steps": "steps"}.get(title, title)
        others = [name for name in usual if name != changed]
        rows_of_kind = found[(found[others] == pd.Series(usual)[others]).all(axis=1)].sort_values(column)
        first, last = rows_of_kind.iloc[0], rows_of_kind.iloc[-1]
        slope = np.polyfit(np.log(rows_of_kind[column].astype(float)), np.log(rows_of_kind["all_s"]), 1)[0]
        ends = [f"{int(one[column]):,}" for one in (first, last)]
        factors = [number(last[column] / first[column], 1), number(last["all_s"] / first["all_s"], 1)]
        rows.append([title, *ends, *factors, number(round(float(slope), 2) + 0.0, 2)])
    return markdown(["what grows", "from", "to", "times as much", "times as long", "slope"], rows)


def stages_table(table: pd.DataFrame) -> str:
    """Share of each stage of the largest predictions of the growth benchmark."""
    stages = ("read", "prepare", "sample", "restore", "write")
    rows = []
    for _, row in table[table["side"] >= 128].iterrows():
        shares = [f"{row[f'{stage}_s'] / row['all_s']:.1%}".replace("%", " %") for stage in stages]
        rows.append([" x ".join([str(row["side"])] * 3), number(row["all_s"], 1), *shares])
    return markdown(["voxels", "seconds", *stages], rows)


def memory_table(table: pd.DataFrame) -> str:
    """One row per prediction: the memory that the command said before, and the peak that was measured."""
    rows = []
    for _, row in table.iterrows():
        where = f"limit {row['max_memory_gb']:g} GB: state in files" if row["in_files"] else "all in memory"
        cells = [" x ".join([str(row["side"])] * 3), where, number(row["said_gb"], 1), number(row["peak_gb"], 1)]
        rows.append([*cells, number(row["seconds"], 0)])
    return markdown(["voxels", "kept", "GB said", "GB at the peak", "seconds"], rows)


def uncertainty_table(table: pd.DataFrame) -> str:
    """One row per run: how often intervals hold the true volume and how wide they are, and how well errors are told."""
    header = ["model", "in 50 %", "in 90 %", "width of 90 %", "calibration error", "AUC", "AUC, near", "spread: AUC", "near"]
    names = ["auc_probability", "auc_probability_near", "auc_spread", "auc_spread_near"]
    rows = []
    for _, row in table.iterrows():
        title = f"{row['protocol']}, {row['training_cases']} + {row['validation_cases']} cases, `{row['method']}`"
        shares = [row.get(name) for name in ("held_50%", "held_90%", "width_90%", "calibration_error")]
        cells = ["" if pd.isna(share) else f"{share:.1%}".replace("%", " %") for share in shares]
        rows.append([title, *cells, *(number(row.get(name, float("nan")), 3) for name in names)])
    return markdown(header, rows)


def foreign_table(table: pd.DataFrame) -> str:
    """Per model and kind of scans: how many were warned of, of how many, and their median score."""
    rows = []
    for kind, title in KINDS.items():
        cells = []
        for _, row in table.iterrows():
            asked = pd.notna(row.get(f"{kind}_scans"))
            numbers = [row[f"{kind}_{name}"] for name in ("flagged", "scans", "score")] if asked else []
            cells.append("{:.0f} of {:.0f} ({:.1f})".format(*numbers) if asked else "")
        rows.append([title, *cells])
    names = [f"`{row['method']}`, {row['recipe']}" for _, row in table.iterrows()]
    return markdown(["scans warned of (median score)", *names], rows)
