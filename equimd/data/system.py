"""What a molecule or cell is, apart from where its atoms are: elements, masses, cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equimd.data.cells import periodic_cells
from equimd.data.lattice import Lattice
from equimd.errors import DataError
from equimd.shown import Shown
from equimd.units import ACCELERATION, AMU_A2_PER_FS2


@dataclass(frozen=True, repr=False)
class System(Shown):
    """What does not change in a run and is the same for all replicas.

    Attributes:
        numbers: (n,) atomic numbers, int64.
        masses: (n,) amu, float64.
        cell: (3, 3) Angstrom, rows are lattice vectors, those of open directions whatever; None for an open molecule.
        pbc: periodic along each lattice vector.
        fixed: (n,) bool, atoms that never move; None where all do.
    """

    numbers: Tensor
    masses: Tensor
    cell: Tensor | None = None
    pbc: tuple[bool, bool, bool] = (False, False, False)
    fixed: Tensor | None = None

    @classmethod
    def build(
        cls,
        numbers: np.ndarray | Sequence[int],
        *,
        masses: np.ndarray | Sequence[float] | None = None,
        cell: np.ndarray | None = None,
        pbc: Sequence[bool] = (False, False, False),
        fixed: np.ndarray | Sequence[bool] | None = None,
        device: str | torch.device = "cpu",
    ) -> System:
        """A system from arrays; ``masses`` default to the standard atomic weights.

        Raises:
            DataError: masses that are not positive or do not match the atoms, periodic directions without lattice
                vectors of their own, no atom that moves.
        """
        z = np.array(numbers, dtype=np.int64).reshape(-1)
        if masses is None:
            from ase.data import atomic_masses

            masses = atomic_masses[z]
        m = np.array(masses, dtype=np.float64).reshape(-1)
        if m.shape != z.shape or not (np.isfinite(m) & (m > 0)).all():
            raise DataError(f"{len(z)} atoms need as many positive masses, not {m.tolist()}", where="system")
        flags = (bool(pbc[0]), bool(pbc[1]), bool(pbc[2]))
        box = None
        if any(flags):
            rows = np.zeros((3, 3)) if cell is None else np.array(cell, np.float64)
            periodic_cells(rows[None], np.array([flags]), "system, frame 0")
            box = torch.tensor(rows, device=device)
        held = None
        if fixed is not None and np.any(fixed):
            held = torch.tensor(np.array(fixed, bool), device=device)
            if held.shape != z.shape or bool(held.all()):
                raise DataError(f"{int(held.sum())} of {len(z)} atoms are held fixed: nothing can move", where="system")
        return cls(torch.tensor(z, device=device), torch.tensor(m, device=device), box, flags, held)

    def same(self, other: System) -> bool:
        """Whether elements and cell are those of another system; masses may differ."""
        arrays = [(self.numbers, other.numbers)]
        if self.cell is not None and other.cell is not None:
            arrays.append((self.cell, other.cell))
        return self.pbc == other.pbc and all(torch.equal(a.cpu(), b.cpu()) for a, b in arrays)

    @property
    def n_atoms(self) -> int:
        return len(self.numbers)

    @property
    def periodic(self) -> bool:
        return any(self.pbc)

    @cached_property
    def lattice(self) -> Lattice | None:
        """What nearest images are found with; None for an open molecule."""
        return None if self.cell is None else Lattice.of(self.cell.cpu().numpy(), self.pbc)

    def free(self, vectors: Tensor) -> Tensor:
        """Vectors (..., n, 3), those of fixed atoms zero."""
        return vectors if self.fixed is None else vectors.masked_fill(self.fixed[:, None], 0.0)

    @cached_property
    def acceleration(self) -> Tensor:
        """(n, 1): times a force in eV/Angstrom gives Angstrom/fs^2; zero for fixed atoms."""
        return self.free(ACCELERATION / self.masses[:, None])

    @cached_property
    def inertial_masses(self) -> Tensor:
        """(n, 1): times a squared velocity in (Angstrom/fs)^2 gives a kinetic energy in eV."""
        return (0.5 * AMU_A2_PER_FS2) * self.masses[:, None]
