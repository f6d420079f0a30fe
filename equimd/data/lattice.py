"""Nearest images: the one home of distances in periodic cells, whatever their shape.

Rounding fractional coordinates finds the nearest image in cells that are not skewed, and in any cell where it is nearer
than half the smallest height. Here the cell is reduced first (Minkowski; Semaev 2001, as in ASE), once, and where
rounding may still be wrong all 27 neighbouring cells are tried: in a reduced cell the nearest image is one of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from equimd.errors import DataError

BLOCK = 1 << 15  # differences whose images are tried at once
OPEN = 1000.0  # Angstrom; longer than anything in an open direction


@dataclass(frozen=True)
class Lattice:
    """The translations that map a crystal, a slab or a wire onto itself.

    Attributes:
        cell: (3, 3) float64, Angstrom: the given cell if it is reduced, else a reduced one of the same lattice; open
            rows are unit vectors across the rest.
        pbc: (3,) 1 along periodic directions, else 0.
        shifts: (3^k, 3) Angstrom: from a cell to its neighbours along the k periodic directions, and to itself.
    """

    cell: np.ndarray
    pbc: np.ndarray
    shifts: np.ndarray

    @classmethod
    def of(cls, cell: np.ndarray, pbc: tuple[bool, ...]) -> Lattice:
        """The lattice of a cell (3, 3), rows lattice vectors; those of open directions mean nothing.

        Raises:
            DataError: a cell that cannot be reduced.
        """
        from ase.geometry import complete_cell, minkowski_reduce

        flags = np.array(pbc, bool)
        given = complete_cell(np.where(flags[:, None], cell, 0.0))
        try:
            found = np.array(minkowski_reduce(given, flags)[0])
        except RuntimeError as error:
            raise DataError(f"the cell cannot be reduced ({error}): {cell.tolist()}", where="system") from None
        kept = np.square(given).sum() <= np.square(found).sum() * (1 + 1e-9)
        reduced = np.array(given if kept else found)
        grid = np.stack(np.meshgrid(*(np.arange(-int(p), int(p) + 1) for p in flags), indexing="ij"), -1)
        return cls(reduced, flags.astype(np.float64), grid.reshape(-1, 3) @ reduced)

    @cached_property
    def _inverse(self) -> np.ndarray:
        return np.linalg.inv(self.cell)

    @cached_property
    def _heights(self) -> np.ndarray:
        """(3,) Angstrom, between opposite faces of the reduced cell; infinite along open directions."""
        return np.where(self.pbc > 0, 1.0 / np.linalg.norm(self._inverse, axis=0), np.inf)

    @cached_property
    def _half(self) -> float:
        """Angstrom: nothing is nearer than what rounding finds below it."""
        return 0.5 * float(self._heights.min()) * (1 - 1e-9)

    @cached_property
    def shortest(self) -> float:
        """Angstrom, the shortest translation."""
        lengths = np.linalg.norm(self.shifts, axis=1)
        return float(lengths[lengths > 0].min())

    def nearest(self, delta: np.ndarray, reach: float = float("inf")) -> np.ndarray:
        """The shortest of the images of differences (..., 3) of positions, Angstrom.

        Args:
            reach: Angstrom: what is shorter is exact, and other differences are ``reach`` long at least. Asking for
                little more than half the cell costs least.
        """
        with np.errstate(invalid="ignore"):  # what is not finite stays so
            fractional = delta @ self._inverse
            whole = np.rint(fractional) * self.pbc
            near: np.ndarray = delta - whole @ self.cell
            if reach <= self._half:
                return near
            # another image is at |1 - f| heights of a face at least, f the fractional coordinate
            edge = np.where(self.pbc > 0, 1.0 - min(reach, 1e9) / self._heights, np.inf)
            doubtful = (np.abs(fractional - whole) > edge).any(-1)
            far = doubtful & (np.einsum("...k,...k->...", near, near) >= self._half**2)
        if far.any():
            parts = near[far]
            near[far] = np.concatenate([self._tried(parts[k : k + BLOCK]) for k in range(0, len(parts), BLOCK)])
        return near

    def standard(self, cell: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The reduced cell as lengths and angles alone tell it, and how to turn vectors into it: rows (3, 3) with the
        first along x, the second in the xy plane, right-handed; and the rotation (3, 3), of ``vectors @ rotation``.

        Open directions are as high as in ``cell``, or ``OPEN`` where that has none.
        """
        rows = self.cell
        heights = np.abs((rows * cell).sum(1))
        rows = np.where(self.pbc[:, None] > 0, rows, rows * np.where(heights > 0, heights, OPEN)[:, None])
        if np.allclose(rows, np.tril(rows)) and (np.diag(rows) > 0).all():
            return rows, np.eye(3)
        rows[2] *= np.sign(np.linalg.det(rows))
        q, r = np.linalg.qr(rows.T)
        rotation = q * np.sign(np.diag(r))
        return np.tril(rows @ rotation), rotation

    def _tried(self, delta: np.ndarray) -> np.ndarray:
        images = delta[:, None] + self.shifts
        best = np.einsum("mik,mik->mi", images, images).argmin(1)
        return np.take_along_axis(images, best[:, None, None], 1)[:, 0]
