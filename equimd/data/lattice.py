"""Nearest images: the one home of distances in periodic cells, whatever their shape.

Rounding fractional coordinates finds the nearest image in cells that are not skewed, and in any cell where it is nearer
than half the smallest height. Here the cell is reduced first (Minkowski; Semaev 2001, as in ASE), once, and where
rounding may still be wrong all 27 neighbouring cells are tried: in a reduced cell the nearest image is one of those.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

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

    cell: Tensor
    pbc: Tensor
    shifts: Tensor

    @classmethod
    def of(cls, cell: Tensor, pbc: tuple[bool, ...]) -> Lattice:
        """The lattice of a cell (3, 3), rows lattice vectors; those of open directions mean nothing.

        Raises:
            DataError: a cell that cannot be reduced.
        """
        from ase.geometry import complete_cell, minkowski_reduce

        flags = np.array(pbc, bool)
        given = complete_cell(np.where(flags[:, None], cell.cpu().numpy(), 0.0))
        try:
            found = np.array(minkowski_reduce(given, flags)[0])
        except RuntimeError as error:
            raise DataError(f"the cell cannot be reduced ({error}): {cell.tolist()}", where="system") from None
        kept = np.square(given).sum() <= np.square(found).sum() * (1 + 1e-9)
        reduced = torch.from_numpy(np.array(given if kept else found)).to(cell.device)
        grid = torch.cartesian_prod(*(torch.arange(-int(p), int(p) + 1) for p in flags))
        return cls(reduced, torch.tensor(flags).to(reduced), grid.to(reduced) @ reduced)

    @cached_property
    def _inverse(self) -> Tensor:
        return torch.linalg.inv(self.cell)

    @cached_property
    def _heights(self) -> Tensor:
        """(3,) Angstrom, between opposite faces of the reduced cell; infinite along open directions."""
        return torch.where(self.pbc > 0, 1.0 / self._inverse.norm(dim=0), torch.inf)

    @cached_property
    def shortest(self) -> float:
        """Angstrom, the shortest translation."""
        lengths = self.shifts.norm(dim=1)
        return float(lengths[lengths > 0].min())

    def nearest(self, delta: Tensor, reach: float = float("inf")) -> Tensor:
        """The shortest of the images of differences (..., 3) of positions, Angstrom.

        Args:
            reach: Angstrom: what is shorter is exact, and other differences are ``reach`` long at least. Asking for
                little more than half the cell costs least.
        """
        fractional = delta @ self._inverse
        whole = fractional.round() * self.pbc
        near = delta - whole @ self.cell
        half = 0.5 * float(self._heights.min()) * (1 - 1e-9)  # nothing is nearer than what rounding finds below it
        if reach <= half:
            return near
        # another image is at |1 - f| heights of a face at least, f the fractional coordinate
        edge = 1.0 - min(reach, 1e9) / self._heights
        doubtful = ((fractional - whole).abs() > edge) & (self.pbc > 0)
        far = (near.square().sum(-1) >= half * half) & doubtful.any(-1)
        if bool(far.any()):
            near[far] = torch.cat([self._tried(part) for part in near[far].split(BLOCK)])
        return near

    def standard(self, cell: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """The reduced cell as lengths and angles alone tell it, and how to turn vectors into it: rows (3, 3) with the
        first along x, the second in the xy plane, right-handed; and the rotation (3, 3), of ``vectors @ rotation``.

        Open directions are as high as in ``cell``, or ``OPEN`` where that has none.
        """
        rows = self.cell.cpu().numpy()
        heights = np.abs((rows * cell.cpu().numpy()).sum(1))
        rows = np.where(self.pbc.cpu().numpy()[:, None] > 0, rows, rows * np.where(heights > 0, heights, OPEN)[:, None])
        if np.allclose(rows, np.tril(rows)) and (np.diag(rows) > 0).all():
            return rows, np.eye(3)
        rows[2] *= np.sign(np.linalg.det(rows))
        q, r = np.linalg.qr(rows.T)
        rotation = q * np.sign(np.diag(r))
        return np.tril(rows @ rotation), rotation

    def _tried(self, delta: Tensor) -> Tensor:
        images = delta[:, None] + self.shifts
        best = images.square().sum(-1).argmin(1)
        return images.gather(1, best[:, None, None].expand(-1, 1, 3))[:, 0]
