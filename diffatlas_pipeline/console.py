"""What the library says while it works: sentences, warnings and how far it has come; and a command's words for it.

Messages name parameters and functions in backquotes, as a notebook user writes them: `overwrite`, `missing="skip"`,
`train("001", "fold0")`. A command shows them as its reader types them: --overwrite, --missing skip,
DiffAtlas_train 001 fold0 (:class:`Words`).
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")

SHORT_S = 2.0  # work that is over sooner shows no progress
BETWEEN_LINES_S = 30.0  # where there is no terminal
_COUNTED = "{desc} {n:.0f} of {total:.0f} {unit} |{bar:24}| {elapsed} done, {remaining} left{postfix}"
_SHARE = "{desc} {percentage:3.0f} % |{bar:24}| {elapsed} done, {remaining} left{postfix}"
_QUOTED = re.compile(r"`([A-Za-z_][\w.]*)(?:=([^`]+)|\(([^`]*)\))?`")

_translate: Callable[[str], str] = lambda text: text  # noqa: E731  (changed by `in_words`)


def say(text: str) -> None:
    """Print ``text`` to standard output, above a progress bar if one is drawn."""
    tqdm.write(_translate(text), file=sys.stdout)
    sys.stdout.flush()


def warn(text: str) -> None:
    """Say that something was left out or is likely to be wrong, though the work goes on."""
    say(f"Warning: {text}")


def in_words(text: str) -> str:
    """``text`` as :func:`say` prints it: in the words of the command that runs, or unchanged in a notebook."""
    return _translate(text)


@contextmanager
def speaking(words: Words) -> Iterator[None]:
    """In here all threads say things in ``words``."""
    global _translate
    before, _translate = _translate, words.of
    try:
        yield
    finally:
        _translate = before


@dataclass(frozen=True)
class Words:
    """A command's words: the option of each parameter ("" for a positional argument), and the script of each function.

    ``leading`` holds options that a script needs before its positional values: {"plan_and_preprocess": "-d"}.
    """

    options: Mapping[str, str]
    scripts: Mapping[str, str]
    leading: Mapping[str, str]

    def of(self, text: str) -> str:
        """``text`` with what is in backquotes translated, if it is a parameter or function that the command knows."""
        return _QUOTED.sub(self._one, text)

    def _one(self, found: re.Match[str]) -> str:
        name, value, arguments = found.groups()
        if name in self.scripts and value is None:
            return self.scripts[name] if arguments is None else self._line(name, arguments) or found.group(0)
        if name in self.options and arguments is None:
            return self._option(name, value)
        return found.group(0)

    def _option(self, name: str, value: object) -> str:
        option = self.options.get(name, f"--{name.replace('_', '-')}")
        if value is None or value is True:
            return option or name
        if isinstance(value, str):
            value = _plain(value)
        return f"{option} {shlex.quote(str(value))}".strip()

    def _line(self, name: str, arguments: str) -> str:
        """The command line for ``name(arguments)``; "" if that is no call with plain values."""
        try:
            call = ast.parse(f"f({arguments})", mode="eval").body
            assert isinstance(call, ast.Call)
            positional = [shlex.quote(str(ast.literal_eval(value))) for value in call.args]
            named = [self._option(word.arg or "", ast.literal_eval(word.value)) for word in call.keywords]
        except (SyntaxError, ValueError):
            return ""
        leading = [self.leading[name]] if positional and name in self.leading else []
        return " ".join([self.scripts[name], *leading, *positional, *named])


def _plain(text: str) -> str:
    """The value of a Python literal such as '"skip"', or the text itself."""
    try:
        return str(ast.literal_eval(text))
    except (SyntaxError, ValueError):
        return text


class Progress:
    """How far work of ``total`` steps is: a bar on a terminal, else a line with the time left every half minute.

    ``unit`` names what is counted ("cases"); without one the share in per cent is shown. Nothing is shown in the first
    two seconds, nor if ``quiet``.
    """

    def __init__(self, title: str, total: float, unit: str = "", done: float = 0.0, quiet: bool = False) -> None:
        self.title, self.total, self.unit, self.done, self.note = title, total, unit, done, ""
        self._start = self._said = time.monotonic()
        self._first, self._quiet = done, quiet
        self._bar: tqdm | None = None
        if not quiet and sys.stderr.isatty():
            style = _COUNTED if unit else _SHARE
            self._bar = tqdm(
                total=total, initial=done, desc=title, unit=unit, bar_format=style, delay=SHORT_S, dynamic_ncols=True
            )

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.close()

    def to(self, done: float, note: str | None = None) -> None:
        """So much is done by now; ``note`` (what is being done, a number) is shown beside it."""
        self.done = done
        self.note = self.note if note is None else note
        if self._bar is not None:
            self._bar.set_postfix_str(self.note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif not self._quiet:
            self._line()

    def advance(self, steps: float = 1.0, note: str | None = None) -> None:
        self.to(self.done + steps, note)

    def _line(self) -> None:
        now = time.monotonic()
        elapsed, fresh = now - self._start, self._said == self._start
        if now - self._said < (SHORT_S if fresh else BETWEEN_LINES_S) or not self._first < self.done < self.total:
            return
        self._said = now
        left = elapsed * (self.total - self.done) / (self.done - self._first)
        share = f"{self.done:.0f} of {self.total:.0f} {self.unit}" if self.unit else f"{100 * self.done / self.total:.0f} %"
        say(", ".join(part for part in (f"{self.title} {share}", f"{clock(left)} left", self.note) if part))


def bar(title: str, total: float, unit: str = "", done: float = 0.0, quiet: bool = False) -> Progress:
    """Show how far work is; a context manager: ``with bar("training", 1.0) as progress: progress.to(0.25, "loss
    0.3")``.
    """
    return Progress(title, total, unit, done, quiet)


def each(items: Iterable[Item], title: str, total: int, unit: str, quiet: bool = False) -> Iterator[Item]:
    """``items`` one after the other, with a bar."""
    with bar(title, total, unit, quiet=quiet) as progress:
        for item in items:
            yield item
            progress.advance()


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss: 750 is 12:30."""
    whole = max(0, round(seconds))
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def duration(seconds: float) -> str:
    """Seconds in words: '45 s', '12 min', '3 h 20 min'."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
