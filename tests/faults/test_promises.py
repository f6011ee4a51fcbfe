"""The page of promises names tests that exist, and says that they held."""

import re
from pathlib import Path

import pytest

from tests.faults.page import BEGIN, END, PAGE
from tests.faults.promises import PROMISES

TESTS = Path(__file__).parents[1]
NAMED = [(fault, test) for promise in PROMISES for fault, test in promise.faults.items()]


@pytest.mark.parametrize(("fault", "test"), NAMED)
def test_the_test_of_a_promise_exists_and_held_when_the_page_was_written(fault: str, test: str) -> None:
    file, _, function = test.partition("::")
    assert re.search(rf"^def {function}\(", (TESTS / f"{file}.py").read_text(encoding="utf-8"), re.MULTILINE)
    written = PAGE.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    (row,) = [line for line in written.splitlines() if line.startswith(f"| {fault} | `{function}`")]
    assert re.fullmatch(r"\| .* \| \d+ passed(, \d+ skipped)? \|", row), row
