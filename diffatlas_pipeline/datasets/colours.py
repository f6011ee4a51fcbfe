"""The colour of each label, in pictures and for viewers alike. The colours are those of matplotlib's Set1 and tab20."""

from __future__ import annotations

_FEW = ("e41a1c", "377eb8", "4daf4a", "984ea3", "ff7f00", "ffff33", "a65628", "f781bf")
_MANY = (
    "1f77b4", "aec7e8", "ff7f0e", "ffbb78", "2ca02c", "98df8a", "d62728", "ff9896", "9467bd", "c5b0d5",
    "8c564b", "c49c94", "e377c2", "f7b6d2", "7f7f7f", "c7c7c7", "bcbd22", "dbdb8d", "17becf", "9edae5",
)  # fmt: skip
ERRORS = (("missed", (255, 210, 63)), ("too much", (38, 198, 218)), ("another label", (214, 92, 227)))
"""How a voxel can be wrong: name and colour, in pictures and in the viewer."""


def label_colours(count: int) -> list[tuple[int, int, int]]:
    """Red, green and blue (0 to 255) of ``count`` labels, in order; beyond twenty they repeat."""
    names = _FEW if count <= len(_FEW) else _MANY
    return [tuple(bytes.fromhex(names[index % len(names)])) for index in range(count)]  # type: ignore[misc]
