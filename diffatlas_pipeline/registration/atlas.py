"""An atlas: a labelled image that can be registered to others, and how atlases are kept in a file of named arrays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np

_IMAGE, _DISTANCES, _FRAME = "image/", "distances/", "frame/"


@dataclass(frozen=True)
class Atlas:
    """``image`` (C, x, y, z) in [-1, 1] and ``distances`` (K, x, y, z) in units of tau, negative inside; float16 or
    float32.

    ``frame`` (3, 4) maps voxels of a common frame of several atlases to its own, if that is known (frame.py).
    """

    name: str
    image: np.ndarray
    distances: np.ndarray
    frame: np.ndarray | None = None


def halved(atlas: Atlas) -> Atlas:
    """As it is kept: half precision, and distances beyond tau are cut off."""
    image, distances = (np.ascontiguousarray(one, np.float16) for one in (atlas.image, np.clip(atlas.distances, -1, 1)))
    return replace(atlas, image=image, distances=distances)


def pack(atlas: Atlas) -> dict[str, np.ndarray]:
    """Its arrays by names of their own."""
    frame = {} if atlas.frame is None else {_FRAME + atlas.name: atlas.frame}
    return {_IMAGE + atlas.name: atlas.image, _DISTANCES + atlas.name: atlas.distances, **frame}


def names_of(arrays: Iterable[str]) -> list[str]:
    """The atlases that were packed into arrays of these names, in order."""
    return sorted(name.removeprefix(_IMAGE) for name in arrays if name.startswith(_IMAGE))


def unpack(arrays: Mapping[str, np.ndarray]) -> tuple[Atlas, ...]:
    """The atlases that were packed into ``arrays``, in the order of their names. ValueError if one is incomplete."""
    atlases = []
    for name in names_of(arrays):
        image, distances = arrays[_IMAGE + name], arrays.get(_DISTANCES + name)
        if distances is None or image.ndim != 4 or distances.ndim != 4 or distances.shape[1:] != image.shape[1:]:
            raise ValueError(f"atlas {name} is incomplete, or its distances are not on the grid of its image")
        atlases.append(Atlas(name, image, distances, arrays.get(_FRAME + name)))
    return tuple(atlases)
