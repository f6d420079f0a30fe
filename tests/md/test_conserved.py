"""A conserved quantity or a temperature that is lost halts its replica; numbers meant in another unit are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from equimd.data.system import System
from equimd.errors import ConfigError
from equimd.md.ensembles import FRICTION, TAU, check_scale
from equimd.md.equilibration import Equilibrated
from equimd.md.integrators import ForceFunction, Integrator, Langevin, NoseHoover, VelocityVerlet
from equimd.md.simulation import Output, Simulation
from equimd.md.state import State
from tests.md.test_simulation import simulation_of
from tests.potentials import methanol


class Spoiled(VelocityVerlet):
    """From step 13 on, replica 1 conserves something else, or has no finite velocities."""

    def __init__(self, how: str) -> None:
        super().__init__(0.5)
        self.how = how

    def propose(self, system: System, state: State, forces: ForceFunction) -> State:
        new = super().propose(system, state, forces)
        v = new.velocities.clone()
        v[[r == 1 and new.step >= 13 and self.how == "temperature" for r in new.replicas]] = torch.inf
        return replace(new, velocities=v)

    def conserved(self, system: System, state: State) -> torch.Tensor:
        value = state.energy if self.how == "temperature" else super().conserved(system, state)
        if state.step >= 13:
            off = {"inf": torch.inf, "nan": torch.nan, "far": 16.0, "little": 14.0, "temperature": 0.0}[self.how]
            value = value + torch.tensor([off * (r == 1) for r in state.replicas]).nan_to_num(0.0, torch.inf)
            value[[r == 1 and self.how == "nan" for r in state.replicas]] = torch.nan
        return value


@pytest.mark.parametrize(
    ("how", "code"), [("inf", "not-finite"), ("nan", "not-finite"), ("temperature", "not-finite"), ("far", "drift")]
)
def test_what_is_lost_halts_its_replica(how: str, code: str, tmp_path: Path) -> None:
    simulation = simulation_of(Spoiled(how), (0, 1, 2), output=Output(tmp_path, 50))
    simulation.run(14)
    simulation = Simulation.resume(methanol().system, Spoiled(how), methanol(), Output(tmp_path, 50), dof=12)
    simulation.run(60)
    (halt,) = simulation.suspects.halts
    assert (halt.replica, halt.step, halt.code) == (1, 14, code)
    assert simulation.state.active == (True, False, True)
    if code == "drift":
        assert halt.score == pytest.approx(16.0, abs=0.1) and "changed by 16 eV (limit 15.5 eV)" in halt.reason


def test_what_models_drift_does_not() -> None:
    simulation = simulation_of(Spoiled("little"), (0, 1))
    simulation.run(40)
    assert not simulation.suspects.halts


@pytest.mark.parametrize("after", [VelocityVerlet(0.5), NoseHoover(0.5, 300.0, 12)])
def test_the_end_of_equilibration_is_no_loss(after: Integrator) -> None:
    molecule = methanol()
    x = molecule.reference[None].clone()
    integrator = Equilibrated(Langevin(0.5, 20000.0, 0.05, seed=4), after, 30)  # of much heat
    simulation = Simulation.start(molecule.system, integrator, molecule, x, 0 * x, dof=12, first_step=-30)
    simulation.run(20)
    assert not simulation.suspects.halts
    torch.testing.assert_close(simulation.reference, after.conserved(molecule.system, simulation.state), atol=3, rtol=0)


@pytest.mark.parametrize(
    ("dt", "options", "kelvin", "message"),
    [
        (0.5, {TAU: 0.05}, 300.0, r"tau = 0\.05 fs is less than 10 time steps of 0\.5 fs[\s\S]*in fs, not in ps"),
        (0.5, {FRICTION: 10.0}, 300.0, r"friction = 10 1/fs is a time constant of 0\.1 fs[\s\S]*not in 1/ps"),
        (0.0005, {}, 300.0, r"time step of 0\.0005 fs[\s\S]*dt is in fs"),
        (50.0, {}, None, "time step of 50 fs"),
        (0.5, {}, 0.0257, r"temperature of 0\.0257 K[\s\S]*in K"),
    ],
)
def test_other_units_are_refused(dt: float, options: dict, kelvin: float | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_scale(dt, options, kelvin)


def test_what_is_usual_is_not_refused() -> None:
    check_scale(0.5, {TAU: 5.0, FRICTION: 0.0}, 0.0)
    check_scale(1.0, {TAU: 10.0, FRICTION: 0.1}, None)
    with pytest.raises(ConfigError, match="less than 10 time steps"):
        NoseHoover(0.5, 300.0, 12, tau=0.05)
