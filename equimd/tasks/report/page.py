"""The page: sections of escaped HTML, the data of plots and 3D views as JSON, and the scripts that draw them.

One file that loads nothing: scripts and styles stand in it, and its content security policy lets the browser run these
alone, by their hashes, and fetch nothing. All text that comes from files passes :func:`text`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np

from equimd.errors import EquimdError
from equimd.files import STRANGE, plain, versions

SCRIPTS = ("uPlot.iife.min.js", "3Dmol-min.js", "plot.js", "viewer.js", "report.js")
STYLES = ("uPlot.min.css", "report.css")
DIGITS = 5  # significant digits of the values of plots


def asset(name: str) -> str:
    """A file of ``page/``, which the package holds."""
    return (files("equimd.tasks.report") / "page" / name).read_text(encoding="utf-8")


def text(value: object) -> str:
    """``value`` as text in HTML."""
    return html.escape(str(value), quote=True)


def values(array: Any) -> list[float | None]:
    """Numbers for JSON, rounded to what a plot can show; None for what is not finite."""
    x = np.asarray(array, np.float64).ravel()
    return [float(f"{v:.{DIGITS}g}") if np.isfinite(v) else None for v in x]


@dataclass
class Page:
    """What is on the page: parts in order, and what its scripts draw, by the id of an element.

    Attributes:
        parts: (name, HTML) of each folder's part. data: {id: plot or 3D view}.
        left_out: sections without what they are of, and why; these stand on the page, too.
    """

    parts: list[tuple[str, str]] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def section(self, title: str, make: Callable[[], str]) -> str:
        """A titled section; where what it needs is missing or damaged, one line says so."""
        try:
            inside = make()
        except EquimdError as error:
            inside = self.missing(title, _one_line(error))
        except (OSError, *STRANGE) as error:
            inside = self.missing(title, f"cannot be read ({type(error).__name__}: {error})")
        return f"<section><h3>{text(title)}</h3>\n{inside}\n</section>\n"

    def missing(self, title: str, why: str) -> str:
        """The line of a section that cannot be had."""
        self.left_out.append(f"{title}: {why}")
        return f'<p class="missing">Left out: {text(why)}</p>'

    def plot(self, title: str, x: Mapping[str, Any], y: Mapping[str, Any], layers: Sequence[Any], **more: Any) -> str:
        """A plot: axes {label, log}, layers as :mod:`equimd.tasks.report.layers` makes them.

        ``more``: ``note`` under it, ``group`` whose cursors move together, ``view`` that a click shows a frame of.
        """
        key, note = f"plot-{len(self.data)}", more.pop("note", "")
        self.data[key] = {"title": title, "x": x, "y": y, "layers": list(layers), **more}
        under = f"<p class='note'>{text(note)}</p>" if note else ""
        return (
            f'<figure class="plot{" wide" if "group" in more else ""}"><figcaption>{text(title)}</figcaption>'
            f'<div id="{key}" class="canvas" role="img" aria-label="{text(_spoken(title, x, y, layers))}"></div>'
            f'<div class="legend" aria-hidden="true"></div>{under}</figure>\n'
        )

    def html(self, title: str) -> str:
        """The whole file."""
        scripts = [asset(name) for name in SCRIPTS]
        style = "\n".join(asset(name) for name in STYLES)
        allowed = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
        policy = f"default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src {allowed}"
        links = "".join(f'<a href="#part-{k}">{text(name)}</a>' for k, (name, _) in enumerate(self.parts))
        return asset("report.html").format_map(
            {
                "policy": policy,
                "title": text(title),
                "style": style,
                "links": links if len(self.parts) > 1 else "",
                "parts": "".join(
                    f'<article id="part-{k}"><h2>{text(name)}</h2>\n{inside}</article>\n'
                    for k, (name, inside) in enumerate(self.parts)
                ),
                "data": embedded(self.data),
                "version": text(versions()["equimd"]),
                "scripts": "\n".join(f"<script>{script}</script>" for script in scripts),
            }
        )


def embedded(data: Any) -> str:
    """JSON that may stand in a script element: nothing in it ends the element or begins a comment."""
    found = json.dumps(plain(data), allow_nan=False, separators=(",", ":"), ensure_ascii=False)
    return found.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _one_line(error: EquimdError) -> str:
    what = error.what if error.where is None else f"{error.where}: {error.what}"
    return what if error.hint is None else f"{what}; try: {error.hint}"


def _spoken(title: str, x: Mapping[str, Any], y: Mapping[str, Any], layers: Iterable[Any]) -> str:
    """What a screen reader says of a plot: axes, and what is drawn."""
    names = list(dict.fromkeys(layer["name"] for layer in layers if layer.get("name")))
    return f"{title}: {y['label']} against {x['label']}" + (f"; {', '.join(names)}" if names else "")


def prose(words: str) -> str:
    """Sentences as HTML: what stands between backticks as code, and no line that ends between a number and its unit."""
    parts = re.split(r"`([^`]*)`", words)
    return "".join(f"<code>{text(part)}</code>" if k % 2 else _with_units(part) for k, part in enumerate(parts))


def _with_units(words: str) -> str:
    return re.sub(r"(\d (?:%|m?eV\b))", r'<span class="unit">\1</span>', text(words))


def paragraph(words: str) -> str:
    """Sentences."""
    return f"<p>{prose(words)}</p>\n"


def facts(rows: Iterable[tuple[str, object]]) -> str:
    """Names and values, a line each."""
    inside = "".join(f"<dt>{text(name)}</dt><dd>{text(value)}</dd>" for name, value in rows)
    return f"<dl>{inside}</dl>\n"


def table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    """A table whose first column names the rows."""

    def whole(cell: object) -> str:
        return re.sub(r"(\([^)]*\))", r"<span>\1</span>", _with_units(str(cell)))  # units are not broken in two

    top = "".join(f'<th scope="col">{whole(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{whole(row[0])}</th>' + "".join(f"<td>{text(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    named = f"<caption>{text(caption)}</caption>" if caption else ""
    return f'<div class="scroll"><table>{named}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>\n'


def figures(*plots: str) -> str:
    """Plots beside each other where there is room."""
    return f'<div class="figures">{"".join(plots)}</div>\n'


def folded(summary: str, content: str) -> str:
    """Text as it stands in a file, shown on request."""
    return f"<details><summary>{text(summary)}</summary><pre>{text(content)}</pre></details>\n"
