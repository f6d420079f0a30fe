"""Analytic potentials with exact forces, batched over replicas: the ground truth of the dynamics tests."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from equimd.data.system import System

WATER = np.array([8, 1, 1])
WATER_POSITIONS = np.array([[0.0, 0.0, 0.12], [0.0, 0.76, -0.47], [0.0, -0.76, -0.47]])
METHANOL = np.array([6, 8, 1, 1, 1, 1])
METHANOL_POSITIONS = np.array(
    [[-0.05, 0.66, 0.0], [-0.05, -0.76, 0.0], [0.88, -1.06, 0.0], [-1.09, 0.98, 0.0], [0.44, 1.07, 0.89],
     [0.44, 1.07, -0.89]]
)  # fmt: skip


class MorseMolecule:
    """Morse springs between all pairs: U = sum_pairs D (1 - exp(-a (d - d0)))^2, with d0 from the reference geometry.

    Anharmonic, and as a sum over distances it keeps momentum and angular momentum. Bonded pairs are stiff, others soft,
    so that it has fast and slow vibrations like a molecule.
    """

    def __init__(self, numbers: np.ndarray, positions: np.ndarray) -> None:
        self.system = System.build(numbers)
        self.reference = torch.tensor(positions, dtype=torch.float64)
        n = len(numbers)
        self.i, self.j = torch.triu_indices(n, n, 1)
        self.d0 = (self.reference[self.i] - self.reference[self.j]).norm(dim=-1)
        bonded = self.d0 < 1.45
        self.depth = torch.where(bonded, 4.5, 0.8).to(torch.float64)
        self.width = torch.where(bonded, 1.9, 1.2).to(torch.float64)
        self.calls = 0

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        self.calls += 1
        r = positions[:, self.i] - positions[:, self.j]
        d = r.norm(dim=-1)
        e = torch.exp(-self.width * (d - self.d0))
        energy = (self.depth * (1.0 - e).square()).sum(-1)
        pair = ((-2.0 * self.depth * self.width * (1.0 - e) * e) / d)[..., None] * r
        forces = torch.zeros_like(positions)
        return energy, forces.index_add(1, self.i, pair).index_add(1, self.j, -pair)


def methanol() -> MorseMolecule:
    return MorseMolecule(METHANOL, METHANOL_POSITIONS)


def water() -> MorseMolecule:
    return MorseMolecule(WATER, WATER_POSITIONS)


class Oscillators:
    """Independent harmonic oscillators: U = sum k_i x_i^2 / 2 with one k (eV/Angstrom^2) for each atom."""

    def __init__(self, stiffness: Tensor) -> None:
        self.stiffness = stiffness[:, None]

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        forces = -self.stiffness * positions
        return 0.5 * (self.stiffness * positions.square()).sum((-1, -2)), forces
