"""Frames as batches of tensors, prepared here or in other processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, reads_at_once
from equimd.data.frames import Frames
from equimd.interrupts import leave_to_parent, unreached

MEMORY_LIMIT = 2**31  # bytes of frames kept in memory; larger sets are read batch by batch
FEW = 2**26  # bytes that are kept even where single frames cost little to read

PADDING = 2  # times the atoms themselves: frames that take more places in memory than that are read batch by batch


class FrameSource:
    """Some rows of a data set as batches; kept in memory where they fit and are costly to read.

    Args:
        data: any data set.
        rows: of ``data``; None takes all.
        cutoff: of the model, Angstrom.
        dtype: of positions and forces.
        mean_weight: of the training frames, where labels are missing or frames are weighted; see
            :meth:`equimd.data.batch.Batch.from_frames`.
    """

    def __init__(
        self, data: Dataset, rows: np.ndarray | None, cutoff: float, dtype: torch.dtype, *, memory: int = MEMORY_LIMIT,
        mean_weight: float | None = None,
    ) -> None:  # fmt: skip
        self.data, self.cutoff, self.dtype, self.mean_weight = data, cutoff, dtype, mean_weight
        self.rows = np.arange(len(data)) if rows is None else np.asarray(rows, np.int64)
        self.sizes = data.n_atoms[self.rows]
        width = int(self.sizes.max(initial=0))
        limit = min(memory, FEW) if reads_at_once(data) else memory
        held = len(self) * (width * 49 + 120) < limit and len(self) * width <= PADDING * int(self.sizes.sum())
        self._block: Frames | None = data.frames(self.rows) if held else None

    def __len__(self) -> int:
        return len(self.rows)

    def frames(self, index: np.ndarray) -> Frames:
        """The frames ``index``, counted within this source."""
        return self._block.take(index) if self._block is not None else self.data.frames(self.rows[index])

    def batch(self, index: np.ndarray) -> Batch:
        """The same frames as tensors on the CPU."""
        return Batch.from_frames(self.frames(index), self.cutoff, dtype=self.dtype, mean_weight=self.mean_weight)


class Loader:
    """Batches of a source, prepared here or, with ``num_workers``, in other processes; the order is the same."""

    def __init__(self, source: FrameSource, num_workers: int = 0) -> None:
        self.source, self.num_workers = source, num_workers
        self._order: list[np.ndarray] = []
        self._workers: Any = None

    def __call__(self, order: Sequence[np.ndarray]) -> Iterator[Batch]:
        """The batches whose frames ``order`` names."""
        if not self.num_workers:
            yield from (self.source.batch(index) for index in order)
            return
        if self._workers is None:
            self._workers = torch.utils.data.DataLoader(
                _Batches(self.source),
                batch_size=None,
                sampler=_Order(self),  # type: ignore[arg-type]
                num_workers=self.num_workers,
                multiprocessing_context="spawn",  # a fork would share open file handles and locked thread pools
                persistent_workers=True,
                worker_init_fn=_quiet_worker,
            )
        self._order = list(order)
        with unreached():
            batches = iter(self._workers)
        yield from batches


class _Batches(torch.utils.data.Dataset):
    """What a worker holds: the source, indexed by the rows of a batch."""

    def __init__(self, source: FrameSource) -> None:
        self.source = source

    def __getitem__(self, index: np.ndarray) -> Batch:  # type: ignore[override]
        return self.source.batch(index)


class _Order:
    """A sampler that yields whatever batches its loader is at."""

    def __init__(self, loader: Loader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.loader._order)

    def __len__(self) -> int:
        return len(self.loader._order)


def _quiet_worker(_: int) -> None:
    leave_to_parent()
    torch.set_num_threads(1)
