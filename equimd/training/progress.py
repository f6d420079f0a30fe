"""What is told of a training: errors and the time left while an epoch lasts, and each finished epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimd.progress import Callback, Teller, duration, time_left
from equimd.shown import digits
from equimd.training.metrics import COLUMNS, Unit, in_file_units, unit_name


def describe(errors: Mapping[str, float], unit: Unit, prefix: str = "") -> str:
    """``E 1.20 F 8.10``: mean absolute errors, in ``unit``."""
    parts = []
    for letter, key in (("E", "energy_mae"), ("F", "forces_mae")):
        value = errors.get(prefix + key, math.nan)
        if math.isfinite(value):
            parts.append(f"{letter} {digits(value * unit.factor)}")
    return " ".join(parts)


class EpochProgress(Teller):
    """Live errors and the time left, and a line for each finished epoch."""

    def __init__(self, callback: Callback | None, unit: Unit) -> None:
        super().__init__(callback, "training", "live")
        self.unit = unit

    def update(
        self,
        epoch: str,
        used: float,
        elapsed: float,
        running: Mapping[str, float],
        last: Mapping[str, float],
        pace: float = 0.0,
    ) -> None:
        """Where the epoch stands. ``used``: part of the budget; ``last``: row of the last epoch; ``pace``: atoms/s."""
        left = time_left(elapsed, used) if used > 0.002 else ""
        parts = [f"train {describe(running, self.unit)}"]
        if val := describe(last, self.unit, "val_"):
            parts.append(f"val {val}")
        parts[-1] += f" {self.unit.name}, {self.unit.forces}"
        parts += [f"{pace:,.0f} atoms/s"] if pace else []
        values = {**{f"train_{key}": x for key, x in running.items()}, "atoms_per_second": pace}
        self.step(used, f"epoch {epoch}", *parts, left=left, values=values)

    def epoch(self, epoch: str, row: Mapping[str, float], used: float, note: str = "") -> None:
        """The line of a finished epoch; its values are a row of metrics.csv, in eV."""
        self.share = used
        parts = [f"train {describe(row, self.unit, 'train_')}"]
        if val := describe(row, self.unit, "val_"):
            parts.append(f"val {val}")
        elapsed = row["time_s"]
        left = f", {time_left(elapsed, used)}" if 0.0 < used < 1.0 else ""
        self.line(f"epoch {epoch}", *parts, f"lr {row['lr']:.1e}", f"{duration(elapsed)}{left}{note}", values=row)


class EventWriter:
    """Writes each line of the metrics as TensorBoard scalars; without tensorboard it warns once and does nothing."""

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            warnings.warn("tensorboard is not installed: no events are written (pip install tensorboard)", stacklevel=2)
            return
        self._writer = SummaryWriter(str(folder), purge_step=step)

    def write(self, row: Mapping[str, float]) -> None:
        """Scalars of one epoch, in the units of metrics.csv."""
        if self._writer is None:
            return
        for column in COLUMNS[3:]:
            value = row.get(column, math.nan)
            if math.isfinite(value):
                part, _, rest = unit_name(column).partition("_")
                tag = f"{part}/{rest}" if part in ("train", "val") else column
                self._writer.add_scalar(tag, in_file_units(column, value), int(row["step"]))

    def close(self) -> None:
        """Flush what is left."""
        if self._writer is not None:
            self._writer.close()
