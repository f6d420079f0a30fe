"""Atoms that are held fixed do not move, in any integrator, and the others share the temperature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from equimd.data.system import System
from equimd.errors import ConfigError, DataError
from equimd.md.equilibration import Equilibrated
from equimd.md.integrators import Integrator, Langevin, NoseHoover, VelocityVerlet
from equimd.md.simulation import Simulation
from equimd.md.state import degrees_of_freedom, kinetic_energy, maxwell_boltzmann, temperature
from equimd.units import KB
from tests.potentials import METHANOL, methanol

FIXED = np.array([True, False, False, True, False, False])
SYSTEM = System.build(METHANOL, fixed=FIXED)
DOF = 12


def begin(integrator: Integrator, replicas: int = 24, first_step: int = 0) -> Simulation:
    molecule = methanol()
    x = molecule.reference.expand(replicas, -1, -1).clone()
    v = maxwell_boltzmann(methanol().system, x, 400.0, seed=2, replicas=range(replicas), bath=True)  # of all atoms
    return Simulation.start(SYSTEM, integrator, molecule, x, v, dof=DOF, first_step=first_step)


INTEGRATORS: dict[str, Integrator] = {
    "nve": VelocityVerlet(0.5),
    "langevin": Langevin(0.5, 300.0, 0.02, seed=3),
    "nose-hoover": NoseHoover(0.5, 300.0, DOF),
    "equilibrated": Equilibrated(Langevin(0.5, 300.0, 0.05, seed=4), VelocityVerlet(0.5), 40),
}


@pytest.mark.parametrize("name", INTEGRATORS)
def test_they_stay_and_the_others_move(name: str) -> None:
    simulation = begin(INTEGRATORS[name], first_step=-40 if name == "equilibrated" else 0)
    first, seen = simulation.state, []
    simulation.run(
        1600 if name == "nose-hoover" else 400,
        observer=lambda s: seen.append(float(temperature(SYSTEM, s.state.velocities, DOF).mean())),
    )
    last = simulation.state
    assert torch.equal(last.positions[:, FIXED], first.positions[:, FIXED])
    assert not last.velocities[:, FIXED].any()
    assert float((last.positions - first.positions)[:, ~FIXED].abs().min()) > 1e-6
    drift = INTEGRATORS[name].conserved(SYSTEM, last) - INTEGRATORS[name].conserved(SYSTEM, first)
    if name != "equilibrated":
        assert float(drift.abs().max()) < 0.02
    if name in ("langevin", "nose-hoover"):
        assert np.mean(seen[200:]) == pytest.approx(300.0, rel=0.1)


@pytest.mark.parametrize("bath", [False, True])
def test_velocities_are_drawn_for_those_that_move(bath: bool) -> None:
    x = methanol().reference.expand(2000, -1, -1)
    v = maxwell_boltzmann(SYSTEM, x, 300.0, seed=3, replicas=range(2000), bath=bath)
    assert not v[:, FIXED].any()
    assert degrees_of_freedom(SYSTEM, x[0], bath=bath) == DOF
    assert float(kinetic_energy(SYSTEM, v).mean()) == pytest.approx(0.5 * DOF * KB * 300.0, rel=0.03)


def test_an_integrator_that_moves_them_is_refused() -> None:
    class Own(VelocityVerlet):
        name = "own"

        def _half(self, system: System) -> torch.Tensor:
            return super()._half(replace(system, fixed=None))

    with pytest.raises(ConfigError, match="own moves atoms that are held fixed"):
        begin(Own(0.5)).run(2)


def test_something_must_move() -> None:
    with pytest.raises(DataError, match="nothing can move"):
        System.build(METHANOL, fixed=[True] * 6)
    assert System.build(METHANOL, fixed=[False] * 6).fixed is None
