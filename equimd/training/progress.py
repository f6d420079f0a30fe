"""What a person sees of a training: a live bar on a terminal, one line an epoch elsewhere. All of it on stderr."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TextIO

from equimd.progress import ProgressBar, duration, time_left
from equimd.training.metrics import Unit


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


class EpochProgress(ProgressBar):
    """Live errors and the time left, and a line for each finished epoch."""

    def __init__(self, unit: Unit, stream: TextIO | None = None) -> None:
        super().__init__(stream)
        self.unit = unit

    def due(self, share: float) -> bool:
        """On a terminal alone: elsewhere the lines of the epochs say how far it is."""
        return self.live and super().due(share)

    def update(
        self, epoch: str, used: float, elapsed: float, running: Mapping[str, float], last: Mapping[str, float]
    ) -> None:
        """Redraw the bar if it is due. ``used``: part of the budget; ``last``: row of the last epoch."""
        if not self.due(used):
            return
        left = time_left(elapsed, used) if used > 0.002 else "..."
        parts = [f"{100 * used:.0f} % {left}", f"train {describe(running, self.unit)}"]
        if val := describe(last, self.unit, "val_"):
            parts.append(f"val {val}")
        parts[-1] += f" {self.unit.name}, {self.unit.forces}"
        self.show(used, f"epoch {epoch}", parts)

    def epoch(self, epoch: str, row: Mapping[str, float], used: float, note: str = "") -> None:
        """The line of a finished epoch."""
        parts = [f"epoch {epoch}", f"train {describe(row, self.unit, 'train_')}"]
        if val := describe(row, self.unit, "val_"):
            parts.append(f"val {val}")
        elapsed = row["time_s"]
        left = f", {time_left(elapsed, used)}" if 0.0 < used < 1.0 else ""
        parts.append(f"lr {row['lr']:.1e}")
        parts.append(f"{duration(elapsed)}{left}")
        self.line(" | ".join(parts) + note)
