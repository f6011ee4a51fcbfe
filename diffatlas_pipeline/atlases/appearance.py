"""How a scan would look, had it been taken as the atlases were: their own intensities, carried to its anatomy.

A curve from intensity to intensity (contrast.py) cannot tell apart two tissues that look alike in the target and differ
in the atlases, as fat and blood do in MRI and CT. Registration goes by shape and can.
"""

from __future__ import annotations

import numpy as np

from diffatlas_pipeline.registration.register import Registered


def appearance(registered: Registered) -> np.ndarray:
    """The image (C, X, Y, Z) float32 in [-1, 1] that ``registered`` atlases make of their target.

    At each voxel it is their mean, weighted by how well each agrees with the target around there. Any contrast of the
    target will do, for the weights go by squared local correlation. Where no atlas reaches it is empty (-1).
    """
    total = np.einsum("ncxyz,nxyz->cxyz", registered.images, registered.weights, dtype=np.float32)
    return registered.on_target((total / registered.weights.sum(axis=0)).clip(-1, 1).astype(np.float32), -1)
