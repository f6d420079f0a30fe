"""How results are said: tables and sentences, the same whether a terminal draws them or a file takes them as text."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from equimd.shown import Shown

GAP = 2  # blanks between two columns
WORDS, WORD = 12, 24  # columns that text takes at least before it goes on in the next line; of a word, at most


@dataclass(frozen=True)
class Table:
    """Cells in columns.

    Attributes:
        rows: cells as text. head: of the columns; none of names and what belongs to them.
        left: columns of words, which stand to the left; numbers stand to the right.
    """

    rows: Sequence[Sequence[str]]
    head: Sequence[str] = ()
    left: tuple[int, ...] = (0,)

    def __str__(self) -> str:
        lines = [*([self.head] if self.head else []), *self.rows]
        return "\n".join(aligned(cells, self.widths(), self.left) for cells in lines)

    def widths(self, room: int | None = None) -> list[int]:
        """Columns that each column takes: as many as its longest cell, or fewer where ``room`` is short: then heads and
        text go on in a second line, and numbers do not."""
        cells = [self.head, *self.rows] if self.head else list(self.rows)
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        least = [self._least(k, width) for k, width in enumerate(widths)]
        while room is not None and sum(widths) + GAP * (len(widths) - 1) > room and widths != least:
            widest = max((k for k in range(len(widths)) if widths[k] > least[k]), key=lambda k: widths[k])
            widths[widest] -= 1
        return widths

    def _least(self, column: int, width: int) -> int:
        longest = max((len(word) for word in self.head[column].split()), default=0) if self.head else 0
        body = max((len(row[column]) for row in self.rows), default=0)
        if column in self.left and column:
            words = max((len(word) for row in self.rows for word in row[column].split()), default=0)
            body = min(body, max(WORDS, min(words, WORD)))
        return max(longest, body, min(width, 1))

    def beside(self, room: int) -> list[Table]:
        """Tables of as many columns as ``room`` takes, each with those that tell the rows apart, or with the first."""
        count = len(self.rows[0]) if self.rows else 0
        told = next((k for k in range(1, count) if len({tuple(row[:k]) for row in self.rows}) == len(self.rows)), 1)
        names = list(range(told))
        if any(not self._of([*names, column])._fits(room) for column in range(told, count)):
            names = [0]
        found, taken = [], list(names)
        for column in range(len(names), count):
            if len(taken) > len(names) and not self._of([*taken, column])._fits(room):
                found.append(self._of(taken))
                taken = list(names)
            taken.append(column)
        return [*found, self._of(taken)] if self.rows else []

    def _fits(self, room: int) -> bool:
        widths = self.widths(room)
        return sum(widths) + GAP * (len(widths) - 1) <= room

    def _of(self, columns: Sequence[int]) -> Table:
        left = tuple(k for k, column in enumerate(columns) if column in self.left)
        rows = [[row[k] for k in columns] for row in self.rows]
        return replace(self, rows=rows, head=[self.head[k] for k in columns] if self.head else (), left=left)


Parts: TypeAlias = Sequence[Table | str]


def facts(rows: Mapping[str, str] | Iterable[tuple[str, str]]) -> Table:
    """Names, and what belongs to each."""
    return Table([list(row) for row in (rows.items() if isinstance(rows, Mapping) else rows)], left=(0, 1))


def aligned(cells: Sequence[str], widths: Sequence[int], left: Sequence[int] = (0,)) -> str:
    """A line of a table."""
    padded = (
        f"{cell:<{w}}" if k in left else f"{cell:>{w}}" for k, (cell, w) in enumerate(zip(cells, widths, strict=True))
    )
    return (" " * GAP).join(padded).rstrip()


def as_text(parts: Parts) -> str:
    """Tables and sentences below each other, for a file or a pipe."""
    return "\n".join(map(str, parts))


def of_markdown(text: str) -> list[Table | str]:
    """The tables and the lines between them of a Markdown page."""
    parts: list[Table | str] = []
    lines: list[list[str]] = []
    for line in [*text.rstrip().splitlines(), ""]:
        if line.startswith("|"):
            lines.append([_plain(cell) for cell in line.strip().strip("|").split("|")])
            continue
        if lines:
            head, _, *rows = lines
            left = (k for k in range(len(head)) if k == 0 or any(_is_text(row[k]) for row in rows))
            parts.append(Table(rows, head, tuple(left)))
            lines = []
        parts.append(line if line.startswith("#") else _plain(line))
    return parts[:-1] if parts and parts[-1] == "" else parts


def _plain(text: str) -> str:
    """Without Markdown's marks: code, bold, links and pictures."""
    text = re.sub(r"!\[[^]]*\]\(([^)]+)\)", r"plot: \1", text)
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", text).replace("`", "").replace("**", "").strip()


def _is_text(cell: str) -> bool:
    return cell not in ("", "-") and not re.match(r"[-+]?[\d.]+", cell)


class Tabled(Shown):
    """A result with a table: :meth:`table` is its text, :meth:`parts` what a terminal draws."""

    def parts(self) -> Parts:
        """Tables and sentences about the result."""
        raise NotImplementedError

    def table(self) -> str:
        """The result as text, in a few lines."""
        return as_text(self.parts())
