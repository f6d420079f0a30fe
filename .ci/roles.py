"""Docstrings as the documentation site shows them: references in Sphinx's way become links.

An extension of griffe, which mkdocstrings reads the sources with: ``:class:`~equimd.progress.Progress``` becomes a link
to the class where the site shows it, else its name as code.
"""

from __future__ import annotations

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:mod|func|class|meth|attr|data):`(~?)([\w.]+)`")
LITERAL = re.compile(r"``(.+?)``", re.DOTALL)


def linked(text: str) -> str:
    """The text with links that autorefs resolves, or leaves as code."""

    def link(found: re.Match[str]) -> str:
        short, name = found.groups()
        shown = name.rsplit(".", 1)[-1] if short else name
        return f'<autoref identifier="{name}" optional><code>{shown}</code></autoref>'

    return ROLE.sub(link, text)


class Roles(griffe.Extension):
    """Called with every object that has been read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = linked(obj.docstring.value)
