"""A signal to end that waits for the end of a step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def until_told_to_stop() -> Iterator[Callable[[], bool]]:
    """In here SIGTERM does not end the process, but makes the function that is given say True.

    In the middle of a step, weights and optimiser do not fit each other. Only the main thread hears signals.
    """
    told = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield told.is_set
        return
    before = signal.signal(signal.SIGTERM, lambda *_: told.set())
    try:
        yield told.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
