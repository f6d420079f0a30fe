"""What a person sees of a training: a live bar on a terminal, one line an epoch elsewhere. All of it on stderr."""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Mapping
from typing import TextIO

from equimd.training.metrics import Unit

REFRESH = 0.2  # seconds between redraws of the bar


def duration(seconds: float) -> str:
    """``41s``, ``3m12s``, ``2h05m``."""
    s = max(0, round(seconds))
    if s < 60:
        return f"{s}s"
    return f"{s // 60}m{s % 60:02d}s" if s < 3600 else f"{s // 3600}h{s % 3600 // 60:02d}m"


def describe(errors: Mapping[str, float], unit: Unit, prefix: str = "") -> str:
    """``E 1.20 F 8.10``: mean absolute errors, in ``unit``."""
    parts = []
    for letter, key in (("E", "energy_mae"), ("F", "forces_mae")):
        value = errors.get(prefix + key, math.nan)
        if math.isfinite(value):
            parts.append(f"{letter} {_short(value * unit.factor)}")
    return " ".join(parts)


def _short(value: float) -> str:
    """Three significant digits, without an exponent where that is readable."""
    if value == 0 or not 1e-3 <= abs(value) < 1e5:
        return f"{value:.2e}"
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


class ProgressBar:
    """Live errors and the time left."""

    def __init__(self, unit: Unit, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.live = self.stream.isatty()
        self.unit = unit
        self._drawn = 0.0
        self._width = 0

    def update(
        self, epoch: str, used: float, elapsed: float, running: Mapping[str, float], last: Mapping[str, float]
    ) -> None:
        """Redraw, on a terminal and not too often. ``used``: part of the budget; ``last``: row of the last epoch."""
        now = time.monotonic()
        if not self.live or now - self._drawn < REFRESH:
            return
        self._drawn = now
        bar = "#" * round(20 * used) + "-" * (20 - round(20 * used))
        left = duration(elapsed * (1 - used) / used) + " left" if used > 0.002 else "..."
        val = describe(last, self.unit, "val_")
        text = f"epoch {epoch} [{bar}] {100 * used:.0f} % {left} | train {describe(running, self.unit)}"
        text += (
            f" | val {val} {self.unit.name}, {self.unit.forces}" if val else f" {self.unit.name}, {self.unit.forces}"
        )
        self._write(text[: shutil.get_terminal_size().columns - 1])

    def _write(self, text: str) -> None:
        self.stream.write("\r" + text.ljust(self._width))
        self.stream.flush()
        self._width = len(text)

    def clear(self) -> None:
        """Take the bar away, so that a line can be printed."""
        if self.live and self._width:
            self._write("")
            self.stream.write("\r")
            self._width = 0

    def epoch(self, epoch: str, row: Mapping[str, float], used: float, note: str = "") -> None:
        """The line of a finished epoch."""
        self.clear()
        parts = [f"epoch {epoch}", f"train {describe(row, self.unit, 'train_')}"]
        if val := describe(row, self.unit, "val_"):
            parts.append(f"val {val}")
        elapsed = row["time_s"]
        left = f", {duration(elapsed * (1 - used) / used)} left" if 0.0 < used < 1.0 else ""
        parts.append(f"lr {row['lr']:.1e}")
        parts.append(f"{duration(elapsed)}{left}")
        self.line(" | ".join(parts) + note)

    def line(self, text: str) -> None:
        """Print a line beside the bar."""
        self.clear()
        print(text, file=self.stream, flush=True)
