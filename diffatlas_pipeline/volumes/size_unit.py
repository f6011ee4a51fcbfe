"""How large structures are told to be: in millilitres, or in square millimetres where images have two dimensions.

Inside, all sizes are volumes: a two-dimensional image counts as 1 mm thick.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SizeUnit:
    """``key`` ends the names of entries in files; ``per_ml`` of it are a millilitre."""

    quantity: str
    symbol: str
    key: str
    per_ml: float


VOLUME = SizeUnit("volume", "ml", "ml", 1.0)
AREA = SizeUnit("area", "mm²", "mm2", 1000.0)


def size_unit(dimensions: int) -> SizeUnit:
    """That of images of 2 or 3 ``dimensions``."""
    return AREA if dimensions == 2 else VOLUME
