"""Injects every fault of :mod:`tests.faults.promises` and writes the table of documentation/explanation/reliability.md.

DIFFATLAS_TEST_KILLS=3 python -m tests.faults.page --fuzz 1200
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.fuzz import KINDS, fuzz
from tests.faults.promises import PROMISES
from tests.faults.test_kills import KILLS

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "documentation" / "explanation" / "reliability.md"
FUZZED = "## Random damage, by kind of file"
BEGIN, END = "<!-- written by python -m tests.faults.page -->", "<!-- end -->"


class Outcomes:
    """A plugin of pytest that counts what became of each test function."""

    def __init__(self) -> None:
        self.counts: defaultdict[str, Counter[str]] = defaultdict(Counter)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":
            file, _, function = report.nodeid.partition("[")[0].partition("::")
            self.counts[f"{file.removeprefix('tests/').removesuffix('.py')}::{function}"][report.outcome] += 1


def head() -> str:
    today = datetime.datetime.now(tz=datetime.UTC).date()
    return f"Run on {today}, {platform.system()}, Python {platform.python_version()}; each command killed {KILLS} times."


def lines(first: str, rows: dict[str, str], fuzzed: list[str]) -> Iterator[str]:
    """The page's lines between its marks; ``rows`` by fault."""
    yield first
    for promise in PROMISES:
        yield from ("", f"## {promise.name}", "", promise.text, "", "| fault | test | result |", "|---|---|---|")
        yield from (rows[fault] for fault in promise.faults)
    yield from ("", FUZZED, "")
    yield from ("| kind | damaged | refused in words | read | failed |", "|---|---|---|---|---|")
    yield from fuzzed


def row(fault: str, test: str, counts: dict[str, Counter[str]]) -> str:
    file, _, function = test.partition("::")
    result = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counts[test].items())) or "not run"
    return f"| {fault} | `{function}` in `{file}` | {result} |"


def fuzz_lines(count: int, known: dict[str, str]) -> Iterator[str]:
    """A row for each kind; those that are ``known`` are kept."""
    each, total = -(-count // len(KINDS)), [0] * 4
    for kind in KINDS:
        if kind not in known:
            found, failed, _ = fuzz(kind, range(each), seed=0)
            known[kind] = f"| {kind} | {each} | {found['refused']} | {found['read']} | {len(failed)} |"
            print(f"{kind}: {len(failed)} failed of {each}", *failed, sep="\n", flush=True)
        yield known[kind]
        total = [a + int(b) for a, b in zip(total, known[kind].split("|")[2:-1], strict=True)]
    yield f"| all | {' | '.join(map(str, total))} |"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--fuzz", type=int, default=1200, metavar="N", help="damaged files (default: %(default)s)")
    parser.add_argument(
        "--only", nargs="+", metavar="TEST", help="run these tests alone, and kinds without a row; keep the rest"
    )
    asked = parser.parse_args()
    os.chdir(ROOT)
    outcomes = Outcomes()
    faults = {fault: test for promise in PROMISES for fault, test in promise.faults.items()}
    wanted = [test for test in faults.values() if not asked.only or test in asked.only]
    failed = pytest.main(
        ["-q", "-p", "no:cacheprovider", *(f"tests/{test.replace('::', '.py::')}" for test in wanted)], plugins=[outcomes]
    )
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    written, _, after = rest.partition(END)
    rows = {fault: row(fault, test, outcomes.counts) for fault, test in faults.items()}
    if asked.only:
        of_before = {line.split(" | ")[0].removeprefix("| "): line for line in written.splitlines()}
        rows = {fault: now if faults[fault] in wanted else of_before.get(fault, now) for fault, now in rows.items()}
        fuzzed = {line.split(" | ")[0].removeprefix("| "): line for line in written.partition(FUZZED)[2].splitlines()}
        written = "\n".join(lines(written.split("\n\n")[1], rows, list(fuzz_lines(asked.fuzz, fuzzed))))
    else:
        written = "\n".join(lines(head(), rows, list(fuzz_lines(asked.fuzz, {}))))
    PAGE.write_text(f"{before}{BEGIN}\n\n{written}\n\n{END}{after}", encoding="utf-8")
    print(f"Written to {PAGE}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
