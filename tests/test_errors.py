"""What a user is told: every error of his names what is wrong, and what to do or what is allowed."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from diffatlas_pipeline import errors

ROOT = Path(errors.__file__).parents[1]
PACKAGES = ("diffatlas_pipeline", "dataset_conversion")
KINDS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.UserError)}
ALLOWED = re.compile(
    r"\b(must|needed|needs|allowed|choose|choose one|write|give|known|known are|use one of|keep one|go with|tell their own|"
    r"cannot stand for)\b",
    re.IGNORECASE,
)
# Put into the sentences of others, which say the rest; or made of messages that are complete.
PARTS = {
    "api/best_configuration.py": 1,
    "api/labelled_images.py": 2,
    "benchmark/job.py": 2,
    "commands/check.py": 1,
    "dataset_conversion/bids_files.py": 1,
    "dataset_conversion/case_files.py": 1,
    "dataset_conversion/heart.py": 2,
    "dataset_conversion/mmwhs.py": 1,
    "dataset_conversion/source_cases.py": 9,
    "dataset_conversion/totalsegmentator.py": 3,
    "datasets/cases.py": 2,
    "datasets/checks.py": 1,
    "datasets/raw.py": 3,
    "datasets/workspace.py": 1,
    "evaluation/evaluate.py": 2,
    "evaluation/overlays.py": 1,
    "files.py": 1,
    "methods/registry.py": 2,
    "networks/execution.py": 1,
    "parallel.py": 1,
    "planning/migration.py": 1,
    "preprocessing/run.py": 1,
    "training/loop.py": 1,
    "training/validation.py": 1,
    "volumes/itk.py": 1,
    "volumes/nifti.py": 1,
    "volumes/pictures.py": 1,
}


def text_of(node: ast.expr) -> str:
    """A message as far as it stands in the code; what is filled in as {}."""
    match node:
        case ast.Constant(value=str(value)):
            return value
        case ast.JoinedStr(values=values):
            return "".join(text_of(value) for value in values)
        case ast.BinOp(left=left, right=right):
            return text_of(left) + text_of(right)
        case ast.IfExp(body=body):
            return text_of(body)
    return "{}"


def raised() -> Iterator[tuple[str, int, str]]:
    """File, line and message of every error of the user that is made here."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in KINDS and node.args:
                yield path.relative_to(ROOT).as_posix().removeprefix("diffatlas_pipeline/"), node.lineno, text_of(node.args[0])


def says_what_to_do(message: str) -> bool:
    sentences = [sentence for sentence in re.split(r"(?<=[.?])\s+", message) if sentence]
    return len(sentences) > 1 or bool(ALLOWED.search(message))


def test_every_error_says_what_to_do_or_what_is_allowed() -> None:
    found = list(raised())
    assert len(found) > 250
    missing: dict[str, list[str]] = {}
    for file, line, message in found:
        if not says_what_to_do(message):
            missing.setdefault(file, []).append(f"{file}:{line}: {message}")
    beyond = [line for file, lines in missing.items() if len(lines) > PARTS.get(file, 0) for line in lines]
    assert not beyond, "\n".join(beyond)


@pytest.mark.parametrize("kind", sorted(KINDS - {"NotScalar"}))
def test_errors_of_the_user_are_of_one_family(kind: str) -> None:
    """So the commands need one place to show them, and scripts one name to catch."""
    assert issubclass(getattr(errors, kind), errors.UserError)
