"""JSON of dataclasses with versions, and files that are never half written."""

from __future__ import annotations

import dataclasses
import json
import os
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffatlas_pipeline.errors import UserError

T = TypeVar("T")


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


def from_plain(kind: type[T], raw: Any, source: str = "") -> T:
    """A value of the dataclass ``kind`` from plain data, as JSON holds it. UserError naming ``source`` if it does not
    fit.
    """
    try:
        return typing.cast(T, _build(kind, raw))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{source or kind.__name__}: does not hold a valid {kind.__name__} ({error}).") from error


def _build(kind: Any, raw: Any) -> Any:
    """Rebuild a value of annotated type ``kind`` from plain JSON data."""
    origin = typing.get_origin(kind)
    if (dataclasses.is_dataclass(kind) or origin is dict) and not isinstance(raw, Mapping):
        raise ValueError(f"expected named values, found {raw!r}")
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        unknown = set(raw) - set(hints)
        if unknown:
            raise ValueError(f"unknown fields {sorted(unknown)}")
        return kind(**{name: _build(hints[name], raw[name]) for name in raw})  # type: ignore[operator]
    if origin is tuple:
        arguments = typing.get_args(kind)
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return tuple(_build(arguments[0], item) for item in raw)
        if len(arguments) != len(raw):
            raise ValueError(f"expected {len(arguments)} values, found {len(raw)}")
        return tuple(_build(argument, item) for argument, item in zip(arguments, raw, strict=True))
    if origin is dict:
        return {key: _build(typing.get_args(kind)[1], item) for key, item in raw.items()}
    if origin in (typing.Union, types.UnionType):
        choices = [argument for argument in typing.get_args(kind) if argument is not type(None)]
        return None if raw is None else _build(choices[0], raw)
    if kind is Path:
        return Path(raw)
    if kind is float:
        return float(raw)
    if kind in (int, str, bool) and not isinstance(raw, kind):
        raise ValueError(f"expected {kind.__name__}, found {raw!r}")
    return raw


def write_text_atomically(path: Path, text: str) -> None:
    """Write ``text`` so that a reader, or a crash, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
