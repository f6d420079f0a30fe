"""Equilibration: steps before step 0, with random numbers of their own, that come to the temperature asked for."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from equimd.md.equilibration import Equilibrated
from equimd.md.integrators import Integrator, Langevin, NoseHoover, VelocityVerlet
from equimd.md.noise import STEPS_PER_BLOCK, BathNoise
from equimd.md.simulation import Simulation
from equimd.md.state import temperature
from tests.potentials import methanol


def begin(after: Integrator, steps: int, replicas: int = 3) -> Simulation:
    molecule = methanol()
    x = molecule.reference.expand(replicas, -1, -1).clone()
    integrator = Equilibrated(Langevin(0.5, 300.0, 0.05, seed=4), after, steps)
    return Simulation.start(molecule.system, integrator, molecule, x, 0 * x, dof=12, first_step=-steps)


def test_noise_before_step_0_is_its_own() -> None:
    noise, like = BathNoise(3), torch.empty(1, 2, 3)
    steps = range(-2 * STEPS_PER_BLOCK, 2 * STEPS_PER_BLOCK)
    drawn = np.stack([noise((0,), s, like).numpy() for s in steps])
    assert len(np.unique(drawn)) == drawn.size
    again = BathNoise(3)((0,), -5, like)
    assert torch.equal(again, torch.from_numpy(drawn[2 * STEPS_PER_BLOCK - 5]))


@pytest.mark.parametrize("after", [VelocityVerlet(0.5), NoseHoover(0.5, 300.0, 12), Langevin(0.5, 300.0)])
def test_it_is_the_first_integrator_then_the_second(after: Integrator) -> None:
    both = begin(after, 20)
    both.run(0)
    alone = begin(after, 20)
    alone.integrator = Langevin(0.5, 300.0, 0.05, seed=4)
    alone.run(0)
    torch.testing.assert_close(both.state.positions, alone.state.positions, rtol=0, atol=0)
    assert torch.equal(both.state.velocities, alone.state.velocities) == after.bath
    assert both.state.bath.keys() == after.bath_shapes().keys()
    assert not any(bool(value.any()) for value in both.state.bath.values())
    rest = begin(after, 0)
    rest.state, rest.integrator = both.state, after
    both.run(15)
    rest.run(15)
    assert torch.equal(both.state.positions, rest.state.positions)
    assert torch.equal(both.integrator.conserved(both.system, both.state), after.conserved(both.system, both.state))


def test_a_frame_that_is_not_finite_at_step_0_stays_with_the_guard() -> None:
    simulation = begin(VelocityVerlet(0.5), 1)
    broken = simulation.state.velocities.clone()
    broken[1, 0] = torch.nan
    simulation.state = simulation.state.with_velocities(broken)
    simulation.advance()
    finite = torch.isfinite(simulation.state.velocities).all(-1).all(-1)
    assert finite.tolist() == [True, False, True]


def test_it_comes_to_temperature() -> None:
    simulation = begin(VelocityVerlet(0.5), 600, replicas=100)
    simulation.run(0)
    heat = float(temperature(simulation.system, simulation.state.velocities, 12).mean())
    assert heat == pytest.approx(300.0, rel=0.12)
