"""Which frames make a batch: so many of them, or as many as have so many atoms; an order that depends on seed and epoch
alone, so that a resumed training sees the same batches.

Atoms, not edges, are what a batch is limited by: the neighbours of an atom within the cutoff are a few dozen in all
that is dense, so that edges follow from atoms, and counting them would cost a neighbour list of every frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from equimd.config import TrainConfig
from equimd.data.batch import DENSE_MAX_ATOMS
from equimd.data.split import Split
from equimd.errors import DataError
from equimd.training.compiling import padded_slots

POOL_BATCHES = 50  # mixed sizes are sorted within pools of so many batches: little padding, still random


@dataclass(frozen=True)
class Batching:
    """How the training frames are put into batches.

    Attributes:
        sizes: (N,) atoms of each frame.
        batch_size: frames of a batch, where ``max_atoms`` is None.
        max_atoms: of a batch.
        seed: of the order.
        dense: all are open and small, and each takes as many slots as the largest of its batch.
    """

    sizes: np.ndarray
    batch_size: int
    max_atoms: int | None
    seed: int
    dense: bool

    @classmethod
    def of(cls, config: TrainConfig, sizes: np.ndarray, periodic: bool) -> Batching:
        """As the settings ask for."""
        dense = not periodic and int(sizes.max(initial=0)) <= DENSE_MAX_ATOMS
        return cls(sizes, config.batch_size_train, config.max_atoms_per_batch, config.seed, dense)

    def epoch(self, number: int) -> list[np.ndarray]:
        """The batches of epoch ``number``, each the frames in it: every frame once."""
        if self.max_atoms is None:
            return shuffled_batches(self.sizes, self.batch_size, self.seed, number)
        rng = np.random.default_rng([self.seed, number])
        order = rng.permutation(len(self.sizes))
        if not self.dense:
            return [_largest_first(index, self.sizes) for index in _cut(order, self.sizes, self.max_atoms)]
        batches, slots = [], padded_slots(self.sizes)[order]
        for n in np.unique(slots):
            batches += _pieces(order[slots == n], max(1, self.max_atoms // int(n)))
        return [batches[k] for k in rng.permutation(len(batches))]


def shuffled_batches(sizes: np.ndarray, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """The batches of one epoch: every frame once, frames of like size together, all else random."""
    rng = np.random.default_rng([seed, epoch])
    order = rng.permutation(len(sizes))
    if sizes.min(initial=0) == sizes.max(initial=0):
        return _pieces(order, batch_size)
    batches = []
    for part in _pieces(order, batch_size * POOL_BATCHES):
        batches += _pieces(part[np.argsort(sizes[part], kind="stable")], batch_size)
    return [batches[k] for k in rng.permutation(len(batches))]


def sorted_batches(sizes: np.ndarray, batch_size: int, max_atoms: int | None = None) -> list[np.ndarray]:
    """All frames, smallest structures first, for evaluation: ``batch_size`` of them, or ``max_atoms`` atoms each."""
    order = np.argsort(sizes, kind="stable")
    return _pieces(order, batch_size) if max_atoms is None else _cut(order, sizes, max_atoms)


def _pieces(order: np.ndarray, length: int) -> list[np.ndarray]:
    return [order[k : k + length] for k in range(0, len(order), length)]


def _cut(order: np.ndarray, sizes: np.ndarray, max_atoms: int) -> list[np.ndarray]:
    """Pieces of ``order``, each as long as its atoms allow; a frame that is larger is a piece of its own."""
    ends, start, found = np.cumsum(sizes[order]), 0, []
    while start < len(order):
        limit = (int(ends[start - 1]) if start else 0) + max_atoms
        stop = max(start + 1, int(np.searchsorted(ends, limit, "right")))
        found.append(order[start:stop])
        start = stop
    return found


def _largest_first(index: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The order in which the parts of several processes have about as many atoms; see ``Processes.parts``."""
    return index[np.argsort(-sizes[index], kind="stable")]


def within_limit(split: Split, n_atoms: np.ndarray, config: TrainConfig, where: str) -> Split:
    """The split without the training frames that are larger than a batch may be.

    Args:
        n_atoms: of each frame that the split is of.

    Raises:
        DataError: there are such frames, and they are not to be dropped; or there are no others.
    """
    limit = config.max_atoms_per_batch
    sizes = n_atoms[split.train]
    if limit is None or int(sizes.max(initial=0)) <= limit:
        return split
    fits = sizes <= limit
    told = f"{int((~fits).sum())} of {len(sizes)} training frames have more atoms than --max-atoms-per-batch {limit}"
    if config.oversized_frames == "refuse" or not fits.any():
        hint = f"--max-atoms-per-batch {sizes.max()} takes all"
        hint += "; --oversized-frames drop leaves these out" if fits.any() else ""
        raise DataError(f"{told}, the largest {sizes.max()}", where=where, hint=hint)
    return replace(split, train=split.train[fits], warnings=[*split.warnings, f"{told}: they are left out"])
