"""Sampling a molecule with a reference method: where it starts from, its dynamics, and whether it holds together."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from equimd.data.paths import selection
from equimd.data.readers.structures import named_molecule, read_structures
from equimd.data.system import System
from equimd.errors import DataError
from equimd.md.integrators import Langevin
from equimd.md.state import initial_state, maxwell_boltzmann
from equimd.methods import Method
from equimd.notices import note
from equimd.units import ACCELERATION, KB

if TYPE_CHECKING:
    from ase import Atoms


def load_molecule(name: str) -> Atoms:
    """A molecule from a file, or by a name ASE knows (its G2 set; common names of a few molecules).

    Of several structures in a file the last one is taken, which is said. A folder that happens to have the name of a
    molecule is not meant.

    Raises:
        DataError: neither such a file nor such a name.
    """
    is_file = os.path.isfile(selection(name)[0])
    named = None if is_file else named_molecule(name)
    if named is None and not is_file and not os.path.exists(name):
        raise DataError(
            f"'{name}' is neither a file nor a molecule ASE knows",
            hint="a structure file such as mol.xyz, or a name of ASE's G2 set such as CH3CH2OH (ethanol)",
        )
    found = read_structures(name) if named is None else [named]
    if len(found) > 1:
        note(f"{name}: the last of its {len(found)} structures is taken")
    atoms = found[-1]
    atoms.calc = None
    return unconstrained(atoms, name)


def unconstrained(atoms: Atoms, where: str) -> Atoms:
    """The same atoms; refuses those of which some are to be held in place."""
    if atoms.constraints:
        what = "holds atoms fixed (move_mask or another constraint), and here all atoms move"
        raise DataError(what, where=where, hint="the structure without its constraints")
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


class Sampler:
    """Langevin dynamics of one open molecule by a reference method, seen from its centre of mass.

    The integrator moves the centre of mass, too; nothing else depends on it, and what is left has 3n-3 degrees of
    freedom.

    Args:
        system: of n atoms. positions: (n, 3) Angstrom.
        temperature: K. time_step: fs. friction: 1/fs.
        seed, replica: which random numbers.
    """

    def __init__(
        self,
        method: Method,
        system: System,
        positions: np.ndarray,
        temperature: float,
        time_step: float,
        friction: float,
        *,
        seed: int,
        replica: int = 0,
    ) -> None:
        self.method, self.system = method, system
        self.rng = np.random.default_rng([seed, replica])
        self.dof, self._kt = 3 * system.n_atoms - 3, KB * temperature
        self._masses = system.masses.numpy()
        self._half = 0.5 * time_step * ACCELERATION / self._masses[:, None]
        self._integrator = Langevin(time_step, temperature, friction, seed)
        x = torch.from_numpy(self._from_centre(positions))[None]
        v = maxwell_boltzmann(system, x, temperature, seed=seed, replicas=[replica], bath=True)
        self._state = self._integrator.begin(system, initial_state(x, v, *self._forces(x), [replica]))

    def _forces(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        energy, forces = self.method.propagate(positions.numpy()[0])
        return torch.from_numpy(np.array([energy], np.float64)), torch.from_numpy(np.array(forces[None], np.float64))

    def _from_centre(self, values: np.ndarray) -> np.ndarray:
        """Positions or velocities (n, 3), less those of the centre of mass."""
        return values - self._masses @ values / self._masses.sum()

    @property
    def positions(self) -> np.ndarray:
        """(n, 3) Angstrom."""
        return self._from_centre(self._state.positions.numpy()[0])

    @property
    def velocities(self) -> np.ndarray:
        """(n, 3) Angstrom/fs."""
        return self._from_centre(self._state.velocities.numpy()[0])

    @property
    def energy(self) -> float:
        """eV."""
        return float(self._state.energy)

    def step(self) -> float:
        """Move by one step; returns the kinetic temperature (K) of the velocities in its middle, which has no bias."""
        self._state = self._integrator.propose(self.system, self._state, self._forces)
        middle = self._state.velocities.numpy()[0] - self._half * self._state.forces.numpy()[0]
        momentum = self._masses @ middle
        twice = float(self._masses @ (middle * middle).sum(1) - momentum @ momentum / self._masses.sum())
        return twice / (ACCELERATION * self.dof * KB)

    def metropolis(self, trial: np.ndarray) -> bool:
        """Go to ``trial`` positions (n, 3) with probability min(1, exp(-dE/kT)), velocities as they are.

        Positions the method fails on, such as clashing atoms, are refused. Returns whether it went there.
        """
        x = torch.from_numpy(self._from_centre(trial))[None]
        try:
            energy, forces = self._forces(x)
        except DataError:
            return False
        if not float(energy) - self.energy <= self._kt * self.rng.standard_exponential():  # refuses nan too
            return False
        self._state = replace(self._state, positions=x, energy=energy, forces=forces)
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
