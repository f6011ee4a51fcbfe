"""Random damage to files: bits, pieces, and numbers that no header should hold."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

HEADER = 400  # bytes: where most formats say what follows; half of all damage is done there
EXTREMES = (b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f", b"\0\0\x80\x7f")
WORDS = tuple(b'-1 0 1e308 NaN Infinity 99999999999999999999 "" null [] {} "../../x" true'.split())

Mutation = Callable[[bytearray, np.random.Generator], bytearray]


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """``content`` with one to three kinds of damage."""
    changed = bytearray(content)
    for _ in range(int(rng.integers(1, 4))):
        changed = MUTATIONS[int(rng.integers(len(MUTATIONS)))](changed, rng)
    return bytes(changed)


def _place(content: bytearray, rng: np.random.Generator) -> int:
    end = min(len(content), HEADER) if rng.random() < 0.5 else len(content)
    return int(rng.integers(max(end, 1)))


def _flip_bits(content: bytearray, rng: np.random.Generator) -> bytearray:
    for _ in range(int(rng.integers(1, 9)) if content else 0):
        content[_place(content, rng)] ^= 1 << int(rng.integers(8))
    return content


def _overwrite(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(content, rng)
    piece = content[start : start + int(rng.integers(1, 40))]
    content[start : start + len(piece)] = rng.bytes(len(piece))
    return content


def _extreme(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(content, rng) // 2 * 2
    content[start : start + 4] = EXTREMES[int(rng.integers(len(EXTREMES)))]
    return content


def _truncate(content: bytearray, rng: np.random.Generator) -> bytearray:
    return content[: _place(content, rng)]


def _remove(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(content, rng)
    del content[start : start + int(rng.integers(1, 60))]
    return content


def _repeat(content: bytearray, rng: np.random.Generator) -> bytearray:
    start = _place(content, rng)
    content[start:start] = content[start : start + int(rng.integers(1, 60))]
    return content


def _other_word(content: bytearray, rng: np.random.Generator) -> bytearray:
    """Another number, or something else, in place of a number or a quoted word."""
    found = list(re.finditer(rb'-?\d+(\.\d+)?|"[^"\n]{0,40}"', bytes(content)))
    if found:
        one = found[int(rng.integers(len(found)))]
        content[one.start() : one.end()] = WORDS[int(rng.integers(len(WORDS)))]
    return content


MUTATIONS: tuple[Mutation, ...] = (_flip_bits, _overwrite, _extreme, _truncate, _remove, _repeat, _other_word, _other_word)
