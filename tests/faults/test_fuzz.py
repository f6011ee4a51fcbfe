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


@pytest.mark.parametrize("number", [195, 460, 525])
def test_what_a_longer_round_has_found(number: int) -> None:
    """TIFF files that are read as if they held nothing."""
    _, failed, _ = fuzz("image.tif", range(number, number + 1), seed=0)
    assert not failed, failed
