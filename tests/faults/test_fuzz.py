"""A thousand damaged files; ``python -m tests.faults.fuzz`` makes 20,000."""

import pytest

from tests.faults.fuzz import KINDS, fuzz

EACH = -(-1000 // len(KINDS))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_read_or_refused_in_words(kind: str) -> None:
    found, failed, _ = fuzz(kind, range(EACH), seed=0)
    print(f"{kind}: {EACH} damaged, {found['refused']} refused, {found['read']} read")
    assert not failed, "\n".join(failed)
    assert sum(found.values()) == EACH
