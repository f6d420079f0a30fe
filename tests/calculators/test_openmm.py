"""A force of OpenMM: the forces and the dynamics of ASE, ended by the guard with the reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units

import equimd
from tests.training.toy import WATER

from .conftest import Halted, moving

openmm = pytest.importorskip("openmm", reason="OpenMM is not installed (pip install openmm)")
from equimd.calculators.openmm import openmm_force  # noqa: E402


def context(step: equimd.calculators.Step, atoms: Atoms) -> openmm.Context:
    """Steps of 0.5 fs."""
    system = openmm.System()
    for mass in atoms.get_masses():
        system.addParticle(mass)
    system.addForce(openmm_force(step))
    if atoms.pbc.any():
        system.setDefaultPeriodicBoxVectors(*(atoms.cell.array / 10))
    made = openmm.Context(system, openmm.VerletIntegrator(0.0005), openmm.Platform.getPlatformByName("Reference"))
    made.setPositions(atoms.positions / 10)
    return made


def test_values_are_those_of_ase(run: Path) -> None:
    atoms = Atoms([8, 1, 1], WATER)
    atoms.rattle(0.05, seed=1)
    made = context(equimd.load(run).step(atoms, on_exceed="ignore"), atoms)
    atoms.calc = equimd.load(run).calculator()
    state = made.getState(energy=True, forces=True)
    kilojoules, per_nm = openmm.unit.kilojoule_per_mole, openmm.unit.nanometer
    energy = state.getPotentialEnergy().value_in_unit(kilojoules) * units.kJ / units.mol
    forces = state.getForces(asNumpy=True).value_in_unit(kilojoules / per_nm) * units.kJ / units.mol / units.nm
    assert energy == pytest.approx(atoms.get_potential_energy(), abs=1e-3)
    np.testing.assert_allclose(forces, atoms.get_forces(), atol=1e-5)


def test_a_halt_ends_the_dynamics_with_the_reason(run: Path, halted: Halted) -> None:
    """OpenMM's leapfrog gets velocities half a step earlier, so that the positions are those of velocity Verlet."""
    atoms = moving()
    step = equimd.load(run).step(atoms)
    made = context(step, atoms)
    atoms.calc = equimd.load(run).calculator()
    backwards = atoms.get_forces() / atoms.get_masses()[:, None] * 0.25 * units.fs
    made.setVelocities((atoms.get_velocities() - backwards) * (1000 * units.fs / 10))
    with pytest.raises(openmm.OpenMMException) as caught:
        made.getIntegrator().step(200)
    assert step.halt is not None and str(caught.value) == str(step.halt)
    halted.same_as(step.halt)


def test_a_cell_that_changes_is_refused(run: Path) -> None:
    atoms = Atoms([8, 1, 1], WATER, cell=[9, 9, 9], pbc=True)
    made = context(equimd.load(run).step(atoms, threshold="off"), atoms)
    assert made.getSystem().usesPeriodicBoundaryConditions()
    made.getState(energy=True)
    made.setPeriodicBoxVectors(*(np.eye(3) * 0.91))
    with pytest.raises(openmm.OpenMMException, match="not the structure's"):
        made.getState(energy=True)
