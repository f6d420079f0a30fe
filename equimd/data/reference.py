"""Atomic reference energies: fitted to a data set in float64, or read from a file of isolated atoms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from equimd.data.dataset import Dataset, Subset, iterate_blocks
from equimd.data.frames import Frames
from equimd.errors import DataError

N_ELEMENTS = 119


def fit_atomic_energies(data: Dataset, rows: np.ndarray | Sequence[int] | None = None) -> np.ndarray:
    """One energy per element such that their sums fit the total energies best: least squares, least norm.

    Frames of one composition enter by their mean, weighted by their number, which gives the same solution as all
    frames would, without squaring the condition number and without holding the data in memory. Where compositions
    do not determine every element (one molecule alone), the solution of least norm is taken: its sums fit as well.

    Args:
        data: frames; those without an energy are left out.
        rows: which of them, usually the training set; None is all.

    Returns:
        (119,) float64 eV, indexed by atomic number, 0 for elements that do not occur.

    Raises:
        DataError: no frame has an energy.
    """
    means = CompositionMeans()
    for block in iterate_blocks(data if rows is None else Subset(data, rows)):
        means.add(block)
    return means.fit(data.info.path)


class CompositionMeans:
    """Mean energy and number of the frames of each composition, as blocks of frames come."""

    def __init__(self) -> None:
        self._found: dict[bytes, list[float]] = {}

    def add(self, block: Frames) -> None:
        """Those of its frames that have an energy."""
        labelled = block.has_energy
        for composition, energy in by_composition(block.numbers[labelled], block.energy[labelled]):
            entry = self._found.setdefault(composition, [0.0, 0.0])
            n = entry[0] + len(energy)
            entry[1] += (float(energy.mean()) - entry[1]) * len(energy) / n  # running mean keeps the digits
            entry[0] = n

    def fit(self, where: str = "") -> np.ndarray:
        """The energies of :func:`fit_atomic_energies`."""
        if not self._found:
            raise DataError(
                "no frame has an energy to fit atomic energies to", where=where or None, hint="are labels missing?"
            )
        counts = _counts(list(self._found))
        present = np.flatnonzero(counts.any(0))
        weight = np.sqrt(np.array([n for n, _ in self._found.values()]))
        means = np.array([mean for _, mean in self._found.values()])
        solution = np.linalg.lstsq(counts[:, present] * weight[:, None], means * weight, rcond=None)[0]
        out = np.zeros(N_ELEMENTS)
        out[present] = solution
        return out


def by_composition(numbers: np.ndarray, energy: np.ndarray) -> Iterator[tuple[bytes, np.ndarray]]:
    """Energies of the frames of each composition, which is the sorted atomic numbers (B, n) without padding."""
    if not len(numbers):
        return
    if (numbers == numbers[0]).all():
        yield np.sort(numbers[0]).tobytes().lstrip(b"\0"), energy
        return
    ordered = np.sort(numbers, axis=1)
    keys = np.ascontiguousarray(ordered).view(np.dtype((np.void, ordered.shape[1]))).reshape(-1)
    unique, inverse = np.unique(keys, return_inverse=True)
    rows = np.argsort(inverse.reshape(-1), kind="stable")
    parts = np.split(energy[rows], np.cumsum(np.bincount(inverse.reshape(-1)))[:-1])
    for key, part in zip(unique, parts, strict=True):
        yield key.tobytes().lstrip(b"\0"), part


def _counts(compositions: Sequence[bytes]) -> np.ndarray:
    """(M, 119) how many atoms of each element, float32: they are small whole numbers."""
    sizes = np.array([len(key) for key in compositions])
    row, numbers = np.repeat(np.arange(len(sizes)), sizes), np.frombuffer(b"".join(compositions), np.uint8)
    found = np.bincount(row * N_ELEMENTS + numbers, minlength=len(sizes) * N_ELEMENTS)
    return found.reshape(len(sizes), N_ELEMENTS).astype(np.float32)


def isolated_atom_energies(path: str | Path, **options: str | bool | None) -> np.ndarray:
    """Energies of isolated atoms, from the one-atom frames of any file that ``open_dataset`` reads.

    Args:
        path: the file; frames with more atoms are passed over. The lowest energy of an element counts.
        options: passed to :func:`equimd.data.open_dataset`, such as ``energy_unit``.

    Returns:
        (119,) float64 eV, indexed by atomic number, NaN for elements the file does not have.

    Raises:
        DataError: no one-atom frame with an energy in it.
    """
    from equimd.data.readers import open_dataset

    data = open_dataset(path, **options)  # type: ignore[arg-type]
    rows = np.flatnonzero(data.n_atoms == 1)
    out = np.full(N_ELEMENTS, np.nan)
    if rows.size:
        block = data.frames(rows)
        for z, energy in zip(block.numbers[:, 0].tolist(), block.energy.tolist(), strict=True):
            out[z] = np.fmin(out[z], energy)
    if not np.isfinite(out).any():
        raise DataError(
            "no isolated atom with an energy in it", where=str(path), hint="it should hold frames of one atom each"
        )
    return out
