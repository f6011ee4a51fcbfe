"""The tables of what was measured on a GPU."""

from __future__ import annotations

import pandas as pd

from benchmarks.markdown import markdown


def gpu_dice_table(table: pd.DataFrame) -> str:
    """One row per training on a GPU: mean Dice of the test cases that were scored."""
    header = ["training cases", "recipe", "output", "minutes", "iterations", "GB", "steps", "test cases", "Dice", "s a case"]
    outputs = {"x0": "clean data", "epsilon": "noise"}
    rows = []
    for _, row in table.iterrows():
        cells = [str(row["training_cases"]), f"`{row['recipe']}`", outputs.get(row["prediction"], row["prediction"])]
        cells += [f"{row['train_seconds'] / 60:.1f}", f"{row['iterations']:,}", f"{row['training_gb']:.1f}"]
        cells += [str(row["steps"]), str(row["cases"]), f"{row['dice_mean']:.3f}", f"{row['seconds_per_case']:.2f}"]
        rows.append(cells)
    first = table.iloc[0]
    return f"{first['accelerator']}, torch {first['torch']}, {first['date']}:\n\n" + markdown(header, rows)


def gpu_speed_table(table: pd.DataFrame) -> str:
    """One row per network: milliseconds of a step, and its share of what a product of matrices reaches."""
    header = ["network", "input", "parameters", "GFLOP a forward", "TFLOP/s of a product"]
    header += ["ms a sampling step", "of that", "ms a training step (batch)", "of that", "GB of training"]
    rows = []
    for _, row in table.iterrows():
        cells = [row["network"], f"{row['input']}, {row['channels']} channels", f"{row['parameters'] / 1e6:.1f} M"]
        cells += [f"{row['forward_gflop']:.0f}", f"{row['product_tflops']:.0f}"]
        cells += [f"{row['sampling_ms']:.1f}", f"{row['sampling_share']:.0%}"]
        cells += [f"{row['training_ms']:.1f} ({row['training_batch']})", f"{row['training_share']:.0%}"]
        rows.append([*cells, f"{row['training_gb']:.1f}"])
    return markdown(header, rows)


def gpu_checks_table(table: pd.DataFrame) -> str:
    """One row per comparison of a GPU's labels with the CPU's: the share of labelled voxels that differ."""
    rows = []
    for _, row in table.iterrows():
        verdict = "yes" if row["passed"] else "**no**"
        rows.append(
            [row["check"], row["precision"], f"{row['voxels']:,}", f"{row['differing']:.2%}", f"{row['limit']:.1%}", verdict]
        )
    return markdown(["of", "precision", "voxels", "other labels", "allowed", "holds"], rows)
