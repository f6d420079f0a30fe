"""Structures that are judged, from formulas rather than random numbers: the same wherever they are computed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io import read

from tests.golden.saved import SAVED

#: Start geometry of each run's molecule or cell.
STARTS = {
    "conservative": "water", "direct": "water", "energy-only": "water", "lmax1": "ethanol", "charged": "ion",
    "periodic": "alloy",
}  # fmt: skip


def start_of(run: str, folder: Path = SAVED) -> Atoms:
    """The geometry that the physical checks know."""
    return read(folder / f"{STARTS[run]}.start.xyz", format="extxyz")


def moved(atoms: Atoms, number: int, amplitude: float) -> np.ndarray:
    """(n, 3) Angstrom: every atom moved by up to ``amplitude`` along each axis, another way for every number."""
    k = np.arange(3 * len(atoms), dtype=np.float64).reshape(-1, 3)
    return atoms.positions + amplitude * np.sin(12.9898 * (k + 1.0) + 78.233 * (number + 1.0))


def ordinary(atoms: Atoms, count: int) -> np.ndarray:
    """(count, n, 3) positions near the start geometry, whose scores lie close to each other."""
    return np.stack([moved(atoms, 100 + k, 0.03 + 0.09 * k / (count - 1)) for k in range(count)])


def judged(atoms: Atoms, count: int) -> tuple[np.ndarray, list[tuple[int, str]]]:
    """(count, n, 3) positions from near the start geometry to far from it, and which rows are to be spoiled.

    Of every twelve frames one is fused, one flies apart, one holds NaN, one an infinity, and two have no energy or no
    forces.
    """
    x = np.stack([moved(atoms, k, 0.01 * 40.0 ** (k / (count - 1))) for k in range(count)])
    spoiled = []
    for k in range(count):
        last = len(atoms) - 1
        if k % 12 == 2:
            x[k, last] = x[k, 0] + [0.1, 0.05, -0.05]
        elif k % 12 == 4:
            x[k, last] += [0.0, 7.0, 0.0]
        elif k % 12 == 6:
            x[k, k % len(atoms), 1] = np.nan
        elif k % 12 == 8:
            x[k, 0, 2] = np.inf
        elif k % 12 in (9, 11):
            spoiled.append((k, "energy" if k % 12 == 9 else "forces"))
    return x, spoiled
