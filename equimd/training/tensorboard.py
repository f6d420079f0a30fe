"""TensorBoard events, where tensorboard is installed."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from equimd.training.metrics import COLUMNS, in_file_units, unit_name


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
