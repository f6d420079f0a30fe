"""Sampling a molecule with a reference method: where it starts from, the integrator, and whether it holds together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.errors import DataError
from equimd.methods import Method
from equimd.units import ACCELERATION, KB

if TYPE_CHECKING:
    from ase import Atoms


def load_molecule(name: str) -> Atoms:
    """A molecule from a file ASE reads, or by a name ASE knows (its G2 set; common names of a few molecules).

    Raises:
        DataError: neither such a file nor such a name.
    """
    from ase.build import molecule
    from ase.io import read

    aliases = {"ethanol": "CH3CH2OH", "benzene": "C6H6", "water": "H2O", "methanol": "CH3OH", "ammonia": "NH3"}
    if Path(name).is_file():
        try:
            atoms = read(name, index=-1)
        except Exception as error:  # ASE's readers raise anything
            raise DataError(f"ASE cannot read a structure from it: {error}", where=name) from error
        if isinstance(atoms, list):
            atoms = atoms[-1]
    else:
        try:
            atoms = molecule(aliases.get(name.lower(), name))
        except KeyError:
            raise DataError(
                f"'{name}' is neither a file nor a molecule ASE knows",
                hint="a structure file such as mol.xyz, or a name of ASE's G2 set such as CH3CH2OH (ethanol)",
            ) from None
    atoms.set_constraint()
    atoms.calc = None
    return atoms


def relax(method: Method, positions: np.ndarray, fmax: float = 0.02, steps: int = 500) -> np.ndarray:
    """Positions (n, 3) at a nearby minimum: steepest descent with FIRE (Bitzek et al., PRL 97, 170201 (2006)).

    Raises:
        DataError: the largest force is still above ``fmax`` eV/A after ``steps`` steps.
    """
    x, v = positions.copy(), np.zeros_like(positions)
    dt, alpha, good = 0.1, 0.1, 0
    for _ in range(steps):
        _, forces = method.propagate(x)
        if np.sqrt((forces**2).sum(1).max()) < fmax:
            return x
        power = float((forces * v).sum())
        if power > 0:
            v = (1 - alpha) * v + alpha * forces * (np.linalg.norm(v) / np.linalg.norm(forces))
            good += 1
            if good > 5:
                dt, alpha = min(dt * 1.1, 0.3), alpha * 0.99
        else:
            v[:] = 0.0
            dt, alpha, good = dt * 0.5, 0.1, 0
        v += dt * forces
        move = dt * v
        x = x + move * min(1.0, 0.1 / max(np.abs(move).max(), 1e-12))
    raise DataError(f"the structure did not relax to {fmax} eV/A in {steps} steps", hint="start from a better geometry")


class Baoab:
    """Langevin dynamics with the centre of mass at rest, so 3n-3 degrees of freedom.

    One step: half kick (B), half drift (A), friction and noise (O), half drift, half kick.
    """

    def __init__(
        self,
        method: Method,
        positions: np.ndarray,
        masses: np.ndarray,
        temperature: float,
        time_step: float,
        friction: float,
        rng: np.random.Generator,
    ) -> None:
        self.method, self.rng, self.dt = method, rng, time_step
        self.mass = masses[:, None].astype(np.float64)
        self.kt = KB * temperature
        self.sigma = np.sqrt(self.kt * ACCELERATION / self.mass)
        self.keep = float(np.exp(-friction * time_step))
        self.positions = positions - self._mean(positions)
        self.velocities = self._noise()
        self.dof = 3 * len(positions) - 3
        self._accept(*method.propagate(self.positions))

    def _mean(self, values: np.ndarray) -> np.ndarray:
        return np.asarray((self.mass * values).sum(0) / self.mass.sum())

    def _noise(self) -> np.ndarray:
        """Velocities of the canonical distribution, given that the centre of mass rests."""
        v = self.sigma * self.rng.standard_normal(self.mass.shape[:1] + (3,))
        return np.asarray(v - self._mean(v))

    def _accept(self, energy: float, forces: np.ndarray) -> None:
        self.energy = energy
        a = forces * (ACCELERATION / self.mass)
        self.acceleration = a - self._mean(a)

    def step(self) -> float:
        """Move by one step; returns the kinetic temperature (K) of the velocities in its middle."""
        half = 0.5 * self.dt
        self.velocities += half * self.acceleration
        self.positions = self.positions + half * self.velocities
        self.velocities = self.keep * self.velocities + np.sqrt(1 - self.keep**2) * self._noise()
        kinetic = float((self.mass * self.velocities**2).sum()) / ACCELERATION
        self.positions = self.positions + half * self.velocities
        self._accept(*self.method.propagate(self.positions))
        self.velocities = self.velocities + half * self.acceleration
        return kinetic / (self.dof * KB)

    def metropolis(self, trial: np.ndarray) -> bool:
        """Go to ``trial`` positions (n, 3) with probability min(1, exp(-dE/kT)), velocities as they are.

        Positions the method fails on, such as clashing atoms, are refused. Returns whether it went there.
        """
        trial = trial - self._mean(trial)
        try:
            energy, forces = self.method.propagate(trial)
        except DataError:
            return False
        if not energy - self.energy <= self.kt * self.rng.standard_exponential():  # refuses nan too
            return False
        self.positions = trial
        self._accept(energy, forces)
        return True


def bonds(numbers: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(k, 2) pairs closer than 1.25 times the sum of their covalent radii."""
    from ase.data import covalent_radii

    reach = 1.25 * (covalent_radii[numbers][:, None] + covalent_radii[numbers][None])
    distance = np.linalg.norm(positions[:, None] - positions[None], axis=-1)
    return np.argwhere(np.triu(distance < reach, 1))


def broken_bonds(numbers: np.ndarray, reference: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """(T,) whether a bond of ``reference`` (n, 3) is open: longer than 1.5 times the sum of its covalent radii."""
    from ase.data import covalent_radii

    i, j = bonds(numbers, reference).T
    limit = 1.5 * (covalent_radii[numbers[i]] + covalent_radii[numbers[j]])
    return np.asarray((np.linalg.norm(positions[:, i] - positions[:, j], axis=-1) > limit).any(1))
