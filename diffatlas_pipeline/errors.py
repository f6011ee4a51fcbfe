"""What a user can be told is wrong, and how to mend it.

A :class:`UserError` is the user's to mend: the commands print its one line and exit with code 2, without a traceback.
Every other exception is ours: its full traceback is shown.
"""

from __future__ import annotations


class UserError(Exception):
    """Something the user gave cannot be used. The message names what, what was found, what is allowed, how to mend
    it.
    """


class Stopped(KeyboardInterrupt):
    """The system asked this process to end (SIGTERM). The message says what is kept."""


class DatasetError(UserError):
    """The raw data set is missing, incomplete or inconsistent."""


class ImageError(UserError):
    """An image or label file cannot be read, written or used."""


class NotScalar(ImageError):
    """A file holds several values per voxel, or several volumes. ``found`` says so, without how to mend it."""

    def __init__(self, found: str) -> None:
        super().__init__(
            f"{found}, but a file must hold one scalar channel of 2 or 3 axes. Write each channel (or time point) to a file of "
            "its own (case_0000, case_0001, ...)."
        )
        self.found = found

    def __reduce__(self) -> tuple[type[NotScalar], tuple[str]]:
        """As it goes from a worker process to the one that asked."""
        return NotScalar, (self.found,)


class ModelError(UserError):
    """A trained model is missing, damaged or does not fit what was asked of it."""
