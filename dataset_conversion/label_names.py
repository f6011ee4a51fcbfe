"""Names of labels: from a table (CSV, or the dseg.tsv of BIDS), from NAME=VALUE, or made up."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from diffatlas_pipeline.errors import DatasetError, UserError

_VALUE_COLUMNS = ("value", "index", "id", "label")
_NAME_COLUMNS = ("name", "label_name", "structure")


def named_labels(pairs: Sequence[str] | None, table: Path | None) -> dict[str, int] | None:
    """Names to values, of ``pairs`` NAME=VALUE or of the file ``table``; None if neither is given.

    Raises UserError for pairs that are none, and where both are given; DatasetError for an unreadable table.
    """
    if pairs is not None and table is not None:
        raise UserError("`label_names` and `label_table` both name the labels. Give one of them.")
    if table is not None:
        return read_label_table(table)
    if pairs is None:
        return None
    names: dict[str, int] = {}
    for pair in pairs:
        name, _, value = pair.rpartition("=")
        if not name or not _is_whole(value) or name in names:
            raise UserError(f"`label_names` {pair}: give each label once, as NAME=VALUE, such as liver=1.")
        names[name] = int(value)
    check_names(names, "`label_names`")
    return names


def read_label_table(path: Path) -> dict[str, int]:
    """Names to values of a table with one label per line, without the background, 0.

    Columns are separated by commas, semicolons or tabs. They are named (``value`` or ``index``, and ``name``), or there
    are two: the number and the name, in either order. Raises DatasetError.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}). Give a table with columns value and name.") from error
    first = text.partition("\n")[0]
    delimiter = next((sign for sign in "\t;," if sign in first), ",")
    rows = [[cell.strip() for cell in row] for row in csv.reader(text.splitlines(), delimiter=delimiter)]
    rows = [row for row in rows if any(row)]
    if not rows:
        raise DatasetError(f"{path}: is empty. Write one label per line, as value,name.")
    value_column, name_column, rows = _columns(rows, path)
    names: dict[str, int] = {}
    for row in rows:
        cells = [*row, *[""] * (max(value_column, name_column) + 1 - len(row))]
        value, name = cells[value_column], cells[name_column]
        if not _is_whole(value) or not name:
            raise DatasetError(f"{path}: '{delimiter.join(row)}' is no label; write a whole number and a name in each line.")
        if int(value) == 0:
            continue
        if name in names and names[name] != int(value):
            raise DatasetError(f"{path}: '{name}' is the name of {names[name]} and of {value}. Give each label its own name.")
        names[name] = int(value)
    check_names(names, str(path))
    return names


def _columns(rows: list[list[str]], path: Path) -> tuple[int, int, list[list[str]]]:
    """The columns of values and of names, and the rows below the heading."""
    if any(_is_whole(cell) for cell in rows[0]):
        value = 0 if _is_whole(rows[0][0]) else 1
        return value, 1 - value, rows
    heads = [cell.lower() for cell in rows[0]]
    value = next((heads.index(head) for head in _VALUE_COLUMNS if head in heads), -1)
    name = next((heads.index(head) for head in _NAME_COLUMNS if head in heads), -1)
    if value < 0 or name < 0:
        raise DatasetError(f"{path}: its columns are {', '.join(rows[0])}; needed are value (or index) and name.")
    return value, name, rows[1:]


def check_names(names: Mapping[str, int], where: str) -> None:
    """DatasetError if ``names`` cannot be those of a data set: none, a value twice, the background's name."""
    if not any(names.values()):
        raise DatasetError(f"{where}: names no label beside the background. At least one is needed.")
    seen: dict[int, str] = {}
    for name, value in names.items():
        if value in seen:
            raise DatasetError(f"{where}: value {value} is named '{seen[value]}' and '{name}'. Give each value one name.")
        seen[value] = name
        if value != 0 and name.lower() == "background":
            raise DatasetError(f"{where}: value {value} is named '{name}', but 'background' is the name of 0. Rename it.")


def numbered(values: Iterable[int]) -> dict[str, int]:
    """Names for labels that nothing names: ``label_1``, ``label_2``, ..."""
    return {f"label_{value}": value for value in values}


def _is_whole(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
