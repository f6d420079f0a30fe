"""What a reference geometry allows: which pairs of atoms may come how close, and which atoms hang together.

Covalent radii: Cordero et al. 2008, as in ASE.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System
from equimd.errors import DataError
from equimd.shown import Shown

BONDED = 1.3  # times the sum of covalent radii: bonds of the reference geometry
CLOSE = 0.5  # closer than this, atoms have fused: 0.31 Angstrom for H-H, 0.54 for C-H, 0.76 for C-C
FAR = 2.0  # contacts longer than this do not hold a molecule together: 2.1 Angstrom for C-H, 3.0 for C-C


@dataclass(frozen=True, repr=False)
class Limits(Shown):
    """What the reference geometry allows: for P pairs i < j.

    Attributes:
        first, second: (P,) atom indices.
        radii: (P,) sums of covalent radii, Angstrom.
        lower2, upper2: (P,) bounds on squared distances; a frame within them is well. Only bonds have an upper
            bound that is not huge, and one beyond it calls for a closer look, not for a halt.
        bonds: (b, 2) of the reference geometry.
        bond_lengths: (b,) Angstrom, in the reference geometry.
        molecules: (n,) which molecule of the reference geometry each atom belongs to.
    """

    first: Tensor
    second: Tensor
    radii: Tensor
    lower2: Tensor
    upper2: Tensor
    bonds: np.ndarray
    bond_lengths: np.ndarray
    molecules: np.ndarray
    system: System

    @cached_property
    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """``first`` and ``second`` as arrays."""
        return self.first.cpu().numpy(), self.second.cpu().numpy()

    @cached_property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """``lower2`` and ``upper2`` as arrays."""
        return self.lower2.cpu().numpy(), self.upper2.cpu().numpy()

    @cached_property
    def reach(self) -> float:
        """Angstrom: the longest contact."""
        return _reach(self.radii)

    @classmethod
    def from_reference(cls, system: System, positions: Tensor) -> Limits:
        """Limits from a reference geometry (n, 3).

        Raises:
            DataError: atoms overlap in it.
        """
        from ase.data import covalent_radii

        n, device = system.n_atoms, system.masses.device
        first, second = torch.triu_indices(n, n, 1, device=device)
        radius = torch.tensor(covalent_radii[system.numbers.cpu().numpy()], device=device)
        radii = radius[first] + radius[second]
        squared = _squared(system, positions[None], (first.cpu().numpy(), second.cpu().numpy()), _reach(radii))
        distance = radii.new_tensor(squared[0]).sqrt()
        overlap = distance < CLOSE * radii
        if bool(overlap.any()):
            worst = int(torch.argmin(distance / radii))
            i, j, d = int(first[worst]), int(second[worst]), float(distance[worst])
            raise DataError(f"atoms {i} and {j} overlap: they are {d:.2f} Angstrom apart", where="start geometry")
        if system.lattice is not None and (d := system.lattice.shortest) < CLOSE * 2.0 * float(radius.max()):
            k = int(radius.argmax())
            what = f"atom {k} overlaps with its own image: they are {d:.2f} Angstrom apart"
            raise DataError(what, where="start geometry", hint="a cell in Angstrom")
        bonded = distance < BONDED * radii
        # the largest finite number, so that NaN and infinite distances fail the comparison too
        upper2 = torch.where(bonded, (FAR * radii).square(), torch.finfo(torch.float64).max)
        bonds = torch.stack([first[bonded], second[bonded]], 1).cpu().numpy()
        lengths = distance[bonded].cpu().numpy()
        molecules = components(n, bonds)
        return cls(first, second, radii, (CLOSE * radii).square(), upper2, bonds, lengths, molecules, system)


def _reach(radii: Tensor) -> float:
    return FAR * float(radii.max()) if len(radii) else 0.0


def squared_distances(limits: Limits, positions: Tensor, *, exact: bool = False) -> np.ndarray:
    """(A, P) Angstrom^2. In every step, of few numbers: in numpy, whose calls cost a fraction of torch's.

    In periodic cells only contacts (``FAR``) are exact, and others longer than those, unless all are to be ``exact``.
    """
    return _squared(limits.system, positions, limits.pairs, float("inf") if exact else limits.reach)


def _squared(system: System, positions: Tensor, pairs: tuple[np.ndarray, np.ndarray], reach: float) -> np.ndarray:
    """(A, P) Angstrom^2, by the nearest image in periodic cells, exact as far as ``reach``."""
    x = positions.detach().cpu().numpy()
    delta = x.take(pairs[0], 1) - x.take(pairs[1], 1)
    if system.lattice is not None:
        delta = system.lattice.nearest(delta, reach)
    return np.einsum("apk,apk->ap", delta, delta)


def components(n: int, edges: np.ndarray) -> np.ndarray:
    """(n,) label of the connected component of each of n vertices, the labels counted from 0."""
    label = np.arange(n)
    for i, j in edges:
        if label[i] != label[j]:
            label[label == label[j]] = label[i]
    return np.unique(label, return_inverse=True)[1]
