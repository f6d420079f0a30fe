"""What a page holds, read as a browser would."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

ASSETS = {"script": "src", "img": "src", "link": "href", "iframe": "src", "object": "data", "source": "src"}


class PageReader(HTMLParser):
    """The headings and words of a page, what it loads, and its data.

    Attributes:
        headings: of all levels, in order. words: all text but scripts and styles. loads: addresses of assets.
        data: of the plots and views.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.words, self.loads, self.ids, self.data = "", list[str](), set[str](), dict[str, Any]()
        self._inside: list[tuple[str, dict[str, str | None]]] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._inside.append((tag, given))
        if (where := given.get(ASSETS.get(tag, ""))) is not None:
            self.loads.append(where)
        if given.get("id"):
            assert given["id"] not in self.ids, "an id twice"
            self.ids.add(str(given["id"]))

    def handle_endtag(self, tag: str) -> None:
        while self._inside and self._inside.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tag, given = self._inside[-1] if self._inside else ("", {})
        if given.get("id") == "data":
            self.data = json.loads(data)
        elif tag not in ("script", "style"):
            self.words += data
            if tag in ("h1", "h2", "h3", "h4"):
                self.headings.append(data)

    def layers(self, title: str) -> list[dict[str, Any]]:
        """What is drawn in the plot of a title."""
        return next(spec["layers"] for spec in self.data.values() if spec.get("title") == title)
