"""Lists of cases that a user keeps in a JSON file, such as a fixed protocol."""

from __future__ import annotations

import json
from pathlib import Path

from diffatlas_pipeline.errors import UserError


def cases_from_json(text: str | None, parameter: str) -> list[str] | None:
    """The case names that a JSON file lists under KEY, from 'FILE:KEY'; None for None.

    ``parameter`` is what the text was given as, for messages. Raises UserError, which names the keys that are there.
    """
    if text is None:
        return None
    file, separator, key = text.rpartition(":")
    if not separator or not file or not key:
        raise UserError(f"`{parameter}` {text}: give FILE:KEY, a JSON file and the name of a list in it.")
    try:
        content = json.loads(Path(file).expanduser().read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise UserError(f"`{parameter}`: {file} cannot be read as JSON ({error}). Correct or replace the file.") from error
    if not isinstance(content, dict) or key not in content:
        keys = ", ".join(content) if isinstance(content, dict) else "none"
        raise UserError(f"`{parameter}`: {file} has no list '{key}' (found: {keys}). Name one of these.")
    cases = content[key]
    if not isinstance(cases, list) or not all(isinstance(case, str) for case in cases):
        raise UserError(f"`{parameter}`: '{key}' in {file} is not a list of case names. Write them as text, in brackets.")
    return cases
