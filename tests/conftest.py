"""Tests that run side by side (``pytest -n 2``) use one thread each: more would wait for each other's cores. How long
an example takes does not matter.
"""

import os

from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")

settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")
