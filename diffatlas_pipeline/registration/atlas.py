"""An atlas: a labelled image that can be registered to others, and how atlases are kept in a file of named arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

_IMAGE, _DISTANCES = "image/", "distances/"


@dataclass(frozen=True)
class Atlas:
    """``image`` (C, x, y, z) in [-1, 1] and ``distances`` (K, x, y, z) in units of tau, negative inside; float16 or float32."""

    name: str
    image: np.ndarray
    distances: np.ndarray


def pack(atlas: Atlas) -> dict[str, np.ndarray]:
    """Its arrays by names of their own, in half precision; distances beyond tau are cut off."""
    arrays = {_IMAGE + atlas.name: atlas.image, _DISTANCES + atlas.name: np.clip(atlas.distances, -1, 1)}
    return {name: np.ascontiguousarray(array, dtype=np.float16) for name, array in arrays.items()}


def unpack(arrays: Mapping[str, np.ndarray]) -> tuple[Atlas, ...]:
    """The atlases that were packed into ``arrays``, in the order of their names. ValueError if one is incomplete."""
    names = sorted(name.removeprefix(_IMAGE) for name in arrays if name.startswith(_IMAGE))
    atlases = []
    for name in names:
        image, distances = arrays[_IMAGE + name], arrays.get(_DISTANCES + name)
        if distances is None or image.ndim != 4 or distances.ndim != 4 or distances.shape[1:] != image.shape[1:]:
            raise ValueError(f"atlas {name} is incomplete, or its distances are not on the grid of its image")
        atlases.append(Atlas(name, image, distances))
    return tuple(atlases)
