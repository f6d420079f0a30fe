"""Atomic reference energies: fitted to a data set in float64, or read from a file of isolated atoms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from equimd.data.dataset import Dataset, Subset, iterate_blocks
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
    total: dict[bytes, list[float]] = {}
    for block in iterate_blocks(data if rows is None else Subset(data, rows)):
        labelled = block.has_energy
        numbers, energy = block.numbers[labelled], block.energy[labelled]
        counts = np.zeros((len(numbers), N_ELEMENTS), np.int64)
        np.add.at(counts, (np.arange(len(numbers))[:, None], numbers), 1)
        counts[:, 0] = 0
        unique, inverse = np.unique(counts, axis=0, return_inverse=True)
        for k, composition in enumerate(unique):
            chosen = energy[inverse.reshape(-1) == k]
            entry = total.setdefault(composition.tobytes(), [0.0, 0.0])
            n = entry[0] + len(chosen)
            entry[1] += (float(chosen.mean()) - entry[1]) * len(chosen) / n  # running mean keeps the digits
            entry[0] = n
    if not total:
        raise DataError(
            "no frame has an energy to fit atomic energies to", where=data.info.path or None, hint="are labels missing?"
        )
    counts = np.array([np.frombuffer(key, np.int64) for key in total], np.float64)
    weight = np.sqrt(np.array([n for n, _ in total.values()]))
    means = np.array([mean for _, mean in total.values()])
    present = counts.any(0)
    solution = np.linalg.lstsq(counts[:, present] * weight[:, None], means * weight, rcond=None)[0]
    out = np.zeros(N_ELEMENTS)
    out[present] = solution
    return out


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
