"""What a terminal or a log is shown: a bar drawn by rich or a line now and then, and results, drawn or as text."""

from __future__ import annotations

import math
import os
import re
import shutil
import sys
import textwrap
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, TextIO

from equimd.notices import at_work, doing
from equimd.progress import Progress, duration
from equimd.tables import Parts, Table, as_text

if TYPE_CHECKING:
    import rich.table
    from rich.console import Console, RenderableType
    from rich.live import Live

REFRESHES = 4  # a second; each takes about two milliseconds
BAR, NAME = 40, 28  # columns that the bar and the name of a stage take at most
GAP = 1.0  # seconds between two lines about a stage, at least, where nothing is drawn
PATIENCE = 1.0  # seconds without a word until it is said that work goes on
GLUE = "\N{NO-BREAK SPACE}"  # where no line ends: between a number and its unit
BEFORE_UNIT = re.compile(r"(?<=\d) (?=%|[munk]?eV\b|kcal\b|kJ\b|[A-Z]\b|[munpf]?s\b|[kMG]?B\b)")
COMMAND = re.compile(r"`equimd [^`]*`")  # to be copied in one piece
BRACKET = re.compile(r"\([^()]{1,20}\)")  # in a cell of a table


def draws_on(stream: TextIO) -> bool:
    """Whether ``stream`` is a terminal that can be drawn on, and whose owner did not ask for plain text; of several
    processes with one terminal (torchrun), the first one draws."""
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM", "").lower() in ("dumb", "unknown")
    return stream.isatty() and not plain and os.environ.get("RANK", "0") == "0"


def show(parts: Parts, stream: TextIO | None = None) -> None:
    """Print a result: on a terminal tables are drawn and sentences go on between words; elsewhere it is plain text.

    Args:
        stream: where to, stdout if not given.
    """
    stream = stream or sys.stdout
    if not draws_on(stream):
        print(as_text(parts), file=stream, flush=True)
        return
    console = _console(stream)
    for part in parts:
        if isinstance(part, str):
            _say_on(console, part)
        else:
            for table in part.beside(console.width):
                console.print(_drawn(table, console.width))


def show_settings(text: str) -> None:
    """Print YAML on stdout: on a terminal comments that are too long go on below, so that it can be read and copied."""
    if draws_on(sys.stdout):
        room = shutil.get_terminal_size().columns
        text = "".join(_beside(line, room) + "\n" for line in text.splitlines())
    sys.stdout.write(text)


def _beside(line: str, room: int) -> str:
    entry, mark, comment = line.partition("  # ")
    if len(line) <= room or not mark:
        return line
    parts = textwrap.wrap(comment, max(room - len(entry) - 4, 20), break_on_hyphens=False)
    return "\n".join(f"{entry if not k else ' ' * len(entry)}  # {part}" for k, part in enumerate(parts))


def say(text: str, stream: TextIO) -> None:
    """Print a note: on a terminal lines go on between words, but for those with a command, which are to be copied."""
    if Screen.above is not None and stream is sys.stderr:  # what is said while a bar is drawn stands above it
        Screen.above.print(text)
    elif draws_on(stream):
        _say_on(_console(stream), text)
    else:
        print(text, file=stream, flush=True)


def _say_on(console: Console, text: str) -> None:
    for line in text.split("\n"):
        whole = "equimd " in COMMAND.sub("", line)
        console.print(line if whole else _broken(line, console.width, COMMAND), soft_wrap=True)


def _broken(line: str, room: int, kept: re.Pattern[str]) -> str:
    """The line in several where it is long, between words; a number and its unit are one, and so is what is kept."""
    glued = kept.sub(lambda found: found[0].replace(" ", GLUE), BEFORE_UNIT.sub(GLUE, line))
    broken = textwrap.wrap(glued, room, break_on_hyphens=False, break_long_words=False)
    return "\n".join(broken).replace(GLUE, " ")


def _console(stream: TextIO) -> Console:
    from rich.console import Console

    return Console(file=stream, force_terminal=True, highlight=False, markup=False, emoji=False)


def _drawn(table: Table, room: int) -> rich.table.Table:
    """Heads and names bold, a line below the heads."""
    from rich import box
    from rich.table import Table as Drawn

    drawn = Drawn(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    drawn.show_header = bool(table.head)
    widths = table.widths(room)
    for k, width in enumerate(widths):
        style = "bold" if k == 0 and not table.head else ""
        head = table.head[k] if table.head else ""
        drawn.add_column(
            head, justify="left" if k in table.left else "right", width=width, overflow="fold", style=style
        )
    for row in table.rows:
        drawn.add_row(*(_broken(cell, width, BRACKET) for cell, width in zip(row, widths, strict=True)))
    return drawn


@dataclass(frozen=True)
class _Shown:
    """What is drawn; of no stage, what is done."""

    name: str = ""
    share: float = 0.0
    left: str = ""
    details: tuple[str, ...] = ()
    began: float = field(default_factory=lambda: time.monotonic())


class Screen:
    """A place at the end of a terminal: name, bar, share, elapsed and left of a stage, and what else there is to say.

    A thread of its own draws it, so that telling costs nothing and time goes on in a stage that says nothing. What is
    printed to stderr meanwhile stands above it.

    The cursor stays visible, so that no way to end leaves it hidden.

    Attributes:
        above: that which takes what is said on stderr.
    """

    above: ClassVar[Screen | None] = None

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._live: Live | None = None
        self._shown = _Shown()

    @property
    def started(self) -> bool:
        """Whether it is drawn."""
        return self._live is not None

    def idle(self) -> None:
        """No stage: after a moment without a word, what is done."""
        self._shown = _Shown()

    def stage(self, name: str, share: float, left: str, details: tuple[str, ...]) -> None:
        """What to draw from now on."""
        began = self._shown.began if name == self._shown.name else time.monotonic()
        doing("")
        self._shown = _Shown(name, share, left, details, began)

    def start(self) -> None:
        """Draw from now on."""
        if self._live is not None:
            return
        from rich.console import Console
        from rich.live import Live

        class Visible(Console):
            def show_cursor(self, show: bool = True) -> bool:
                return False

        redirects = self._stream is sys.stderr
        console = Visible(file=self._stream, force_terminal=True, highlight=False, markup=False, emoji=False)
        self._live = Live(
            get_renderable=self.drawn,
            console=console,
            refresh_per_second=REFRESHES,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=redirects,
        )
        self._live.start(refresh=True)
        if redirects:
            Screen.above = self

    def print(self, text: str) -> None:
        """A line that stays, above what is drawn."""
        if self._live is not None:
            _say_on(self._live.console, text)
            if not self._shown.name:
                self.idle()

    def stop(self) -> None:
        """Take it away."""
        if self._live is not None:
            self._live.stop()
            self._live = None
            Screen.above = None if Screen.above is self else Screen.above

    def drawn(self) -> RenderableType:
        """What is drawn at this moment."""
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        now = self._shown
        (what, since), idle = at_work(), not now.name
        elapsed = time.monotonic() - (max(now.began, since) if idle else now.began)
        if idle and elapsed < PATIENCE:
            return Group()
        line = Table.grid(padding=(0, 2, 0, 0))
        for width in (NAME, BAR, None, None, None):
            line.add_column(no_wrap=width != BAR, overflow="ellipsis", max_width=width)
        bar = ProgressBar(
            100.0, 100.0 * now.share, pulse=idle, complete_style="cyan", finished_style="cyan",
            pulse_style="cyan", animation_time=elapsed,
        )  # fmt: skip
        percent = "" if idle else f"{100 * now.share:3.0f} %"
        line.add_row(Text(now.name or what or "working", style="bold"), bar, percent, duration(elapsed), now.left)
        return Group(line, *(Text(f"  {text}") for text in self._broken(now.details))) if now.details else line

    def _broken(self, details: tuple[str, ...]) -> list[str]:
        """Lines that fit, of parts that stay whole."""
        room, lines = self._live.console.width - 2 if self._live else math.inf, [""]
        for part in details:
            joined = f"{lines[-1]} | {part}" if lines[-1] else part
            if len(joined) > room and lines[-1]:
                lines.append(part)
            else:
                lines[-1] = joined
        return lines


class ProgressBar:
    """Shows a stage, its share, the time elapsed and left on a terminal, and prints lines beside it.

    A stream that is no terminal, or whose owner asked for plain text (``NO_COLOR``, ``TERM=dumb``), gets the line of a
    stage once every tenth of the work. Used with ``with``, a terminal also shows that work goes on between two stages.

    Args:
        stream: where to, stderr if not given.

    Attributes:
        live: whether the stream is drawn on. screen: what is drawn.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = draws_on(self.stream)
        self.screen = Screen(self.stream)
        self._stage, self._tenth, self._told, self._stays = "", 0, -GAP, False

    def __enter__(self) -> ProgressBar:
        if self.live:
            self._stays = True
            doing("loading")
            self.screen.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stays = False
        self.clear()

    def __call__(self, event: Progress) -> None:
        if event.stage != self._stage:
            self.clear()
            self._stage = event.stage
        tenth = int(10 * event.share + 1e-9)
        if event.kind == "line":
            self.line(str(event))
        elif event.kind == "end":
            self.clear()
        elif self.live:
            head = event.head.removeprefix(event.stage).strip()
            details = tuple(part for part in (head, *event.parts) if part)
            self.screen.stage(event.stage or "progress", event.share, event.left, details)
            self.screen.start()
        elif event.kind == "step" and tenth > self._tenth and (tenth == 10 or time.monotonic() - self._told >= GAP):
            self._tenth, self._told = tenth, time.monotonic()
            self.line(str(event))

    def line(self, text: str) -> None:
        """Print a line beside the bar."""
        if self.live and self.screen.started:
            self.screen.print(text)
        else:
            say(text, self.stream)

    def clear(self) -> None:
        """Take the bar away."""
        self._stage, self._tenth, self._told = "", 0, -GAP
        self.screen.idle()
        if not self._stays:
            self.screen.stop()
