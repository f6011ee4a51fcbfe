"""JSON of dataclasses with versions, files that are never half written, and folders where one process works alone."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import platform
import time
import types
import typing
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

from filelock import FileLock, Timeout

from diffatlas_pipeline.errors import UserError

T = TypeVar("T")
_PLAIN = (int, float, str, bool)


def to_json(value: Any) -> str:
    """A dataclass (or nest of them) as indented JSON; equal values give equal bytes."""
    return json.dumps(dataclasses.asdict(value), indent=2, sort_keys=False, ensure_ascii=False, default=str) + "\n"


def from_json(kind: type[T], text: str, source: str = "") -> T:
    """The inverse of :func:`to_json`. Raises UserError naming ``source`` for damaged text or another version.

    A class with a static method ``migrated(raw, source)``, which turns the data of earlier versions into today's, reads
    these.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{source or kind.__name__}: not valid JSON ({error}). Make it again or restore it.") from error
    migrated = getattr(kind, "migrated", None)
    if migrated is not None and isinstance(raw, dict):
        raw = migrated(raw, source or kind.__name__)
    expected = {f.name: f.default for f in dataclasses.fields(kind)}.get("version")  # type: ignore[arg-type]
    found = raw.get("version") if isinstance(raw, Mapping) else None
    if expected is not None and found != expected:
        raise UserError(
            f"{source or kind.__name__}: format version {found}, but this release reads version {expected}. "
            "Make it again with `plan_and_preprocess`."
        )
    return from_plain(kind, raw, source)


def read_json(kind: type[T], path: Path) -> T:
    """:func:`from_json` of a file. OSError if it cannot be read, UserError if it does not hold a ``kind``."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text ({error}): it is damaged. Restore it, or make it again.") from error
    return from_json(kind, text, str(path))


def from_plain(kind: type[T], raw: Any, source: str = "") -> T:
    """A value of the dataclass ``kind`` from plain data, as JSON holds it.

    UserError naming ``source`` and the field by its path if it does not fit: "sampler.steps: expected int, found '3'".
    """
    try:
        return typing.cast(T, _build(kind, raw, ""))
    except ValueError as error:
        raise UserError(f"{source or kind.__name__}: does not hold a valid {kind.__name__} ({error}).") from error


def _build(kind: Any, raw: Any, path: str) -> Any:
    """Rebuild a value of annotated type ``kind`` from plain JSON data. ValueError names ``path`` or one below it."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return _build_dataclass(kind, raw, path)
    if origin is tuple:
        _expect(isinstance(raw, (list, tuple)), "a list", raw, path)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            if arguments[0] in _PLAIN and all(type(item) is arguments[0] for item in raw):  # thousands of voxels
                return tuple(raw)
            arguments = arguments[:1] * len(raw)
        _expect(len(arguments) == len(raw), f"{len(arguments)} values", len(raw), path)
        pairs = zip(arguments, raw, strict=True)
        return tuple(_build(argument, item, f"{path}[{index}]") for index, (argument, item) in enumerate(pairs))
    if origin is dict:
        _expect(isinstance(raw, Mapping), "named values", raw, path)
        return {key: _build(arguments[1], item, _below(path, key)) for key, item in raw.items()}
    if origin in (typing.Union, types.UnionType):
        choices = [argument for argument in arguments if argument is not type(None)]
        return None if raw is None else _build(choices[0], raw, path)
    if kind is Path:
        return Path(_build(str, raw, path))
    if kind in _PLAIN:
        allowed = (int, float) if kind is float else kind
        _expect(isinstance(raw, allowed) and isinstance(raw, bool) == (kind is bool), kind.__name__, raw, path)
        return kind(raw)
    return raw


def _build_dataclass(kind: Any, raw: Any, path: str) -> Any:
    _expect(isinstance(raw, Mapping), "named values", raw, path)
    hints = typing.get_type_hints(kind)
    if unknown := sorted(set(raw) - set(hints)):
        raise ValueError(f"{path}{': ' if path else ''}unknown fields {unknown}")
    none = dataclasses.MISSING
    needed = [one.name for one in dataclasses.fields(kind) if one.init and one.default is one.default_factory is none]
    if missing := [name for name in needed if name not in raw]:
        raise ValueError(f"{path}{': ' if path else ''}missing fields {missing}")
    return kind(**{name: _build(hints[name], raw[name], _below(path, name)) for name in raw})


def _below(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _expect(holds: bool, expected: str, found: Any, path: str) -> None:
    if not holds:
        shown = repr(found) if isinstance(found, str) else json.dumps(found, default=repr)
        raise ValueError(f"{path}{': ' if path else ''}expected {expected}, found {shown}")


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a path may hold bytes that are no text
    temporary.replace(path)


@contextmanager
def written_atomically(path: Path) -> Iterator[Path]:
    """A file to write to, which is called ``path`` once all went well: nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def drive_fault(error: OSError) -> UserError | None:
    """What a drive that is full, read-only, not ours or broken is to a user; None for an error of another kind."""
    place, reason = error.filename or "A file", error.strerror or str(error)
    if error.errno in (errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return UserError(
            f"{place}: cannot be written ({reason}). Make room there, then give the same command again: what was finished is "
            "kept."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return UserError(f"{place}: cannot be read or written ({reason}). Ask for the right to, or give another folder.")
    if error.errno in (errno.EIO, getattr(errno, "ESTALE", errno.EIO)):
        return UserError(
            f"{place}: the drive failed ({reason}). Copy the data to another one and give the same command again: what was "
            "finished is kept."
        )
    return None


@contextmanager
def alone_in(folder: Path, doing: str, mend: str, name: str = ".lock", wait_s: float = 0) -> Iterator[None]:
    """Make ``folder`` and be the only process that is ``doing`` this there ("a training"), by a lock called ``name``,
    for which it waits a while.

    The system frees the lock of a process that dies. Where a drive has no locks nobody is kept out. UserError if
    another process holds it, which names that and says how to ``mend`` it, or if nothing can be written.
    """
    lock, owner = FileLock(folder / name, fallback_to_soft=False), folder / f"{name}.owner"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _unless_there_are_no_locks():
            lock.acquire(timeout=wait_s)
    except Timeout as error:
        raise UserError(f"{folder}: {doing} is running there already ({_text_of(owner)}). {mend}") from error
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}). {mend}") from error
    try:
        since = time.strftime("%Y-%m-%d %H:%M")
        with suppress(OSError):
            owner.write_text(f"process {os.getpid()} on {platform.node() or 'this computer'} since {since}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            owner.unlink(missing_ok=True)
        with suppress(OSError):
            (folder / name).unlink(missing_ok=True)
        lock.release()


def is_held(folder: Path, name: str) -> bool:
    """Whether a process holds the lock ``name`` of :func:`alone_in`; no, where a drive has no locks."""
    if not (folder / name).exists():
        return False
    lock = FileLock(folder / name, fallback_to_soft=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


@contextmanager
def _unless_there_are_no_locks() -> Iterator[None]:
    """Pass over what some network drives answer when a lock is asked for: nobody can be kept out there."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    except NotImplementedError:  # what filelock makes of the second
        pass


def _text_of(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return "by a process that cannot be named"
