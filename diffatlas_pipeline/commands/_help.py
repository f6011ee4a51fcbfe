"""Help of the options: written once, in Markdown for the reference pages, and shown without its marks in a terminal."""

from __future__ import annotations

import argparse
import re

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Shows help as :func:`plain` text. Descriptions and examples stay as they are."""

    def _expand_help(self, action: argparse.Action) -> str:
        return plain(super()._expand_help(action))


def plain(markdown: str) -> str:
    """Links as their text, code without backquotes."""
    return _LINK.sub(r"\1", markdown).replace("`", "")
