"""Dynamics of crystals, slabs and wires of aluminium in cells of every shape, under the guard's physical checks.

The forces are those of effective-medium theory: whatever halts such a run is a distance measured wrongly.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from equimd.data.system import System
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md.integrators import VelocityVerlet
from equimd.md.observables import distance_distribution
from equimd.md.simulation import Output, Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.md.summary import summarize

SKEW = np.array([[1, 0, 0], [5, 1, 0], [-4, 3, 1]])


def aluminium(repeats: tuple[int, int, int]) -> Atoms:
    """A crystal in the primitive cell, whose first vector is not along x, with thermal displacements."""
    atoms = bulk("Al") * repeats
    atoms.rattle(0.05, seed=1)
    return atoms


def in_cell(atoms: Atoms, change: np.ndarray, pbc: tuple[int, int, int] = (1, 1, 1)) -> Atoms:
    """The same atoms in other vectors of the lattice."""
    return Atoms(atoms.symbols, atoms.positions, cell=change @ atoms.cell.array, pbc=pbc)


def run(atoms: Atoms, steps: int, folder: Path | None = None) -> tuple[Simulation, Limits]:
    system = System.build(atoms.numbers, cell=atoms.cell.array, pbc=atoms.pbc)
    moving = atoms.copy()
    moving.calc = EMT()

    def forces(positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        moving.positions = positions[0].numpy()
        return torch.tensor([moving.get_potential_energy()]).double(), torch.tensor(moving.get_forces())[None]

    x = torch.tensor(atoms.positions)[None]
    limits = Limits.from_reference(system, x[0])
    v = maxwell_boltzmann(system, x, 600.0, seed=0, replicas=[0], bath=False)
    simulation = Simulation.start(
        system,
        VelocityVerlet(2.0),
        forces,
        x,
        v,
        dof=3 * len(atoms) - 3,
        judge=Judge(limits),
        output=None if folder is None else Output(folder),
    )
    simulation.run(steps)
    assert [h.reason for h in simulation.suspects.halts] == []
    return simulation, limits


def test_a_crystal_runs_alike_in_a_skewed_cell() -> None:
    atoms = aluminium((2, 2, 2))
    (a, limits), (b, skewed) = run(atoms, 40), run(in_cell(atoms, SKEW), 40)
    assert len(limits.bonds) == len(skewed.bonds) > 20
    torch.testing.assert_close(a.state.positions, b.state.positions, rtol=0, atol=1e-8)


CELLS = {
    "left-handed": in_cell(aluminium((2, 1, 2)), np.eye(3, dtype=int)[[1, 0, 2]]),
    "two atoms, skewed": in_cell(aluminium((2, 1, 1)), SKEW.T),
    "one atom": in_cell(aluminium((1, 1, 1)), -SKEW),
    "slab without a third vector": in_cell(
        aluminium((2, 2, 2)), np.array([[1, 0, 0], [-7, 1, 0], [0, 0, 0]]), (1, 1, 0)
    ),
    "slab in a tilted cell": in_cell(aluminium((3, 2, 1)), np.array([[0, 0, 9], [1, 3, 0], [0, 1, 0]]), (0, 1, 1)),
    "wire": in_cell(aluminium((2, 3, 2)), np.array([[0, 0, 0], [0, 0, 0], [1, 0, 0]]), (0, 0, 1)),
}


@pytest.mark.parametrize("name", CELLS)
def test_no_false_halt(name: str) -> None:
    run(CELLS[name], 15)


def test_bonds_across_boundaries_hold(tmp_path: Path) -> None:
    atoms = in_cell(aluminium((3, 3, 3)), SKEW)
    atoms.wrap()  # bonds now cross the boundaries
    _, limits = run(atoms, 20, tmp_path)
    bonds = summarize([tmp_path / "trajectory.h5md"], limits)["bonds"]
    assert bonds["n_unstable"] == 0 and bonds["replicas"][0]["largest_deviation_A"] < 0.5
    r, h = distance_distribution(atoms.positions, lattice=limits.system.lattice)
    assert r[np.flatnonzero(h)[-1]] < atoms.get_all_distances(mic=True).max() + 0.1
