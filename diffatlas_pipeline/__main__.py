"""``python -m diffatlas_pipeline COMMAND ...``: the console scripts, for where they are not on the PATH."""

from __future__ import annotations

import importlib
import pkgutil
import sys

from diffatlas_pipeline import __version__, commands
from diffatlas_pipeline.commands import _completion

PROGRAM = "python -m diffatlas_pipeline"


def names() -> list[str]:
    """The commands without their prefix ``DiffAtlas_``."""
    return sorted(module.name for module in pkgutil.iter_modules(commands.__path__) if not module.name.startswith("_"))


def overview() -> str:
    """How to call it, and what each command does."""
    width = max(len(name) for name in names())
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Each command is also there as DiffAtlas_COMMAND.", ""]
    for name in names():
        description = importlib.import_module(f"{commands.__name__}.{name}").__doc__ or ""
        lines.append(f"  {name:<{width}}  {description.splitlines()[0].partition(': ')[2]}")
    lines += ["", f"  {PROGRAM} COMMAND -h shows a command's options; --version the version."]
    return "\n".join([*lines, f"  {PROGRAM} completion bash prints what makes bash complete them; so for zsh and fish."])


def main(argv: list[str] | None = None) -> None:
    """Exits with 2 for an unknown command; else as the command does."""
    first, *rest = (sys.argv[1:] if argv is None else argv) or ["-h"]
    if first in ("-h", "--help"):
        print(overview())
    elif first == "--version":
        print(f"DiffAtlas pipeline {__version__}")
    elif first == "completion":
        _completion.main(names(), rest)
    elif (name := first.removeprefix("DiffAtlas_")) in names():
        sys.argv[0] = f"{PROGRAM} {name}"  # what the command's help calls itself
        importlib.import_module(f"{commands.__name__}.{name}").main(rest)
    else:
        print(f"Error: '{first}': no such command. There are {', '.join(names())}.", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
