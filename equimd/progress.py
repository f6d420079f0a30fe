"""What a person sees of work that takes its time: a bar on a terminal, a line every tenth elsewhere; on stderr."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from typing import TextIO

REFRESH = 0.2  # seconds between redraws of the bar
WIDTH = 20  # of the bar, in characters


def duration(seconds: float) -> str:
    """``41s``, ``3m12s``, ``2h05m``."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def time_left(elapsed: float, share: float) -> str:
    """``3m12s left``, if the rest goes on as the ``share`` of the work that took ``elapsed`` seconds."""
    return f"{duration(elapsed * (1 - share) / share)} left"


class ProgressBar:
    """Draws ``head [####----] part | part`` on a terminal, over and over in one line, and prints lines beside it.

    Args:
        stream: where to, stderr if not given. A stream that is no terminal gets the line without the bar, once every
            tenth of the work.

    Attributes:
        live: whether the stream is a terminal.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self._drawn, self._tenth, self._width = -REFRESH, 0, 0

    def due(self, share: float) -> bool:
        """Whether something is to be shown when this share of the work is done."""
        if self.live:
            return time.monotonic() - self._drawn >= REFRESH
        return int(10 * share + 1e-9) > self._tenth

    def show(self, share: float, head: str, parts: Sequence[str]) -> None:
        """Show where the work stands; to be asked for when it is :meth:`due`."""
        share = min(max(share, 0.0), 1.0)
        self._drawn, self._tenth = time.monotonic(), int(10 * share + 1e-9)
        if self.live:
            filled = round(WIDTH * share)
            text = f"{head} [{'#' * filled}{'-' * (WIDTH - filled)}] {' | '.join(parts)}".rstrip()
            self._write(text[: shutil.get_terminal_size().columns - 1])
        else:
            self.line(" | ".join([head, *parts]))

    def _write(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = len(text)

    def line(self, text: str) -> None:
        """Print a line beside the bar."""
        self.clear()
        print(text, file=self.stream, flush=True)

    def clear(self) -> None:
        """Take the bar away."""
        if self.live and self._width:
            self._write("")
            self.stream.write("\r")
            self._width = 0


class CountedProgress:
    """Counts pieces of work: called with how many are done and how many there are, and the name of the work.

    Args:
        unit: what is counted; ``B`` for bytes.
    """

    def __init__(self, unit: str = "", stream: TextIO | None = None) -> None:
        self._unit, self._stream = unit, stream
        self._begin("")

    def _begin(self, name: str) -> None:
        self._bar, self._name, self._started = ProgressBar(self._stream), name, time.monotonic()

    def __call__(self, done: int, total: int, name: str = "") -> None:
        if name != self._name:
            self.close()
            self._begin(name)
        share = done / total if total else 0.0
        if not self._bar.due(share):
            return
        amount = f"{done:,} of {total:,} {self._unit}".strip()
        if self._unit == "B":
            amount = f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"
        elapsed = time.monotonic() - self._started
        left = [time_left(elapsed, share)] if self._bar.live and 0.01 < share < 1.0 else []
        self._bar.show(share, f"{self._name} {amount}".strip(), left)

    def close(self) -> None:
        """Take the bar away."""
        self._bar.clear()
