"""Cells as files mean them: which directions are periodic where a file does not say, and what is no cell.

Also nearest images in frames of many cells; those of one system are in :mod:`equimd.data.lattice`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from equimd.errors import DataError

if TYPE_CHECKING:
    from equimd.data.frames import Frames

#: Volume of a cell over the product of its edges below which its vectors are not independent.
FLAT = 1e-6
#: Angstrom: nobody means a longer vector of a cell.
LONGEST = 1e5


def periodic_cells(cell: np.ndarray, pbc: np.ndarray | None, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Cells and periodic directions of frames.

    A lattice is periodic along its vectors that are not zero, unless ``pbc`` says otherwise; one of zeros is no cell.

    Args:
        cell: (N, 3, 3) rows are lattice vectors.
        pbc: (N, 3) bool, None where the file does not say.

    Raises:
        DataError: not finite, periodic along a vector that is zero, longer than any cell, or vectors that span no
            volume.
    """
    cell, n = np.asarray(cell, np.float64), len(cell)
    bad = ~np.isfinite(cell).all((1, 2))
    if bad.any():
        raise DataError("the cell is NaN or infinite", where=_frame(where, bad))
    lengths = np.linalg.norm(cell, axis=2)
    stated = lengths > 0 if pbc is None else np.array(pbc, bool)
    bad = (stated & ~(lengths > 0)).any(1)
    if bad.any():
        raise DataError(
            "periodic (pbc), but a vector of the cell along which it is, is absent or zero", where=_frame(where, bad),
            hint='three lattice vectors, such as Lattice="..." in extended XYZ, or pbc="F F F"',
        )  # fmt: skip
    bad = (lengths > LONGEST).any(1)
    if bad.any():
        what = f"a vector of the cell is {lengths[bad].max():.3g} Angstrom long"
        raise DataError(what, where=_frame(where, bad), hint="look at the cell and its unit")
    unit = cell / np.where(lengths > 0, lengths, 1.0)[..., None]
    volume = np.ones(n)
    whole = stated.all(1)
    if whole.any():
        volume[whole] = np.abs(np.linalg.det(unit[whole]))
    for k, (one, other) in enumerate(((1, 2), (2, 0), (0, 1))):
        slab = stated[:, one] & stated[:, other] & ~stated[:, k]
        if not slab.any():
            continue
        volume[slab] = np.linalg.norm(np.cross(unit[slab, one], unit[slab, other]), axis=1)
    bad = volume < FLAT
    if bad.any():
        raise DataError("the lattice vectors are not independent: the cell has no volume", where=_frame(where, bad))
    return cell, stated


def _frame(where: str, bad: np.ndarray) -> str:
    return where if len(bad) == 1 and ", frame " in where else f"{where}, frame {int(np.argmax(bad))}"


def frame_differences(block: Frames, i: np.ndarray, j: np.ndarray) -> np.ndarray:
    """(B, P, 3) Angstrom: from atoms i to atoms j of each frame, by the nearest image in periodic ones."""
    out = block.positions[:, j] - block.positions[:, i]
    return nearest_images(out, block.cell, block.pbc)


def nearest_images(delta: np.ndarray, cell: np.ndarray, pbc: np.ndarray) -> np.ndarray:
    """The shortest images of differences (B, P, 3) in frames with cells (B, 3, 3), periodic along pbc (B, 3)."""
    rows = np.flatnonzero(pbc.any(1))
    if not len(rows):
        return delta
    from equimd.data.lattice import Lattice

    keys = np.concatenate([cell[rows].reshape(-1, 9), pbc[rows]], 1)
    kinds, which = np.unique(keys, axis=0, return_inverse=True)
    for k, kind in enumerate(kinds):
        of_kind = rows[which.reshape(-1) == k]
        lattice = Lattice.of(kind[:9].reshape(3, 3), tuple(kind[9:] > 0))
        delta[of_kind] = lattice.nearest(delta[of_kind])
    return delta
