"""The seed of a scan's noise: from what it shows, so it does not depend on how it was given or what its file is
called.
"""

from __future__ import annotations

import hashlib

import numpy as np


def scan_seed(seed: int, image: np.ndarray) -> int:
    """A seed (56 bits) that belongs to the user's ``seed`` and the voxels of ``image`` (C, X, Y, Z), whatever is done
    beside it.

    The image is to be in canonical orientation and as it was read: processing it may round differently elsewhere.
    """
    values = np.ascontiguousarray(image, dtype=np.float32)
    digest = hashlib.blake2b(f"{seed}:{values.shape}:".encode())
    digest.update(values.reshape(-1).view(np.uint8).data)
    return int.from_bytes(digest.digest()[:7], "little")
