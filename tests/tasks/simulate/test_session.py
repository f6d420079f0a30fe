"""A session: relaxed starts, velocities, equilibration, and replicas that are the same alone and together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.io import write
from ase.units import fs

from equimd.data.system import System
from equimd.md.simulation import Simulation
from equimd.md.state import inertia, temperature
from equimd.md.trajectory import Frame, TrajectoryWriter, read
from equimd.tasks.simulate import checks, session
from equimd.tasks.simulate.settings import SimulationSettings

from .conftest import water

Settings = Callable[..., SimulationSettings]


def momenta(system: System, x: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    m = system.masses[:, None]
    r, _ = inertia(system, x)
    return (m * v).sum(-2), (m * torch.linalg.cross(r, v)).sum(-2)


def test_32_replicas_are_32_runs_one_after_another(settings: Settings, calibrated: Path) -> None:
    watch = {"run": str(calibrated), "uq_threshold": "0.28", "on_exceed": "flag", "temperature": 600.0}
    together = session.prepare(settings(replicas=32, **watch))
    runs, scores = [], []
    for replicas in (range(32), *([k] for k in range(32))):
        ready = together
        if len(replicas) == 1:
            ready = (
                session.prepare(settings(first_replica=replicas[0], **watch)) if replicas[0] in (0, 31) else together
            )
        alone = ready is not together
        rows = slice(None) if alone else list(replicas)
        assert ready.start.velocities is not None
        run = Simulation.start(
            ready.system, ready.integrator, ready.forces, ready.start.positions[rows], ready.start.velocities[rows],
            dof=ready.dof, replicas=tuple(replicas),
        )  # fmt: skip
        run.run(6)
        runs.append(run.state)
        scores.append(run.decision.scores)
    for k in range(32):
        torch.testing.assert_close(runs[1 + k].positions[0], runs[0].positions[k], rtol=0, atol=2e-5)
        torch.testing.assert_close(runs[1 + k].velocities[0], runs[0].velocities[k], rtol=0, atol=2e-5)
        torch.testing.assert_close(scores[1 + k][0], scores[0][k], rtol=2e-3, atol=0)


def test_relaxed_to_a_minimum(settings: Settings, tmp_path: Path) -> None:
    stretched = water()
    stretched.positions[1] *= 1.05
    write(tmp_path / "stretched.xyz", stretched)
    ready = session.prepare(settings(structure=str(tmp_path / "stretched.xyz"), relax=True, dtype="float64"))
    _, forces, _ = ready.forces(ready.start.positions)
    assert float(forces.norm(dim=-1).max()) < 0.01
    assert not ready.warnings[:-1]  # none but of the missing calibration


@pytest.mark.parametrize("ensemble", ["nve", "nose-hoover"])
def test_velocities_of_the_file_without_their_momenta(settings: Settings, tmp_path: Path, ensemble: str) -> None:
    moving = water()
    v = np.array([[0.01, 0.0, 0.0], [0.02, 0.01, 0.0], [0.0, 0.0, 0.03]])
    moving.set_velocities(v / fs)
    write(tmp_path / "moving.extxyz", moving)
    file = {"structure": str(tmp_path / "moving.extxyz")}
    kept = session.prepare(settings(**file))
    assert kept.start.velocities is not None
    np.testing.assert_allclose(kept.start.velocities[0], v, atol=1e-8)
    assert "velocities: from the file" in kept.notes
    still = session.prepare(settings(**file, ensemble=ensemble))
    assert still.start.velocities is not None
    for momentum in momenta(still.system, still.start.positions, still.start.velocities):
        assert float(momentum.abs().max()) < 1e-12
    assert "velocities: from the file, without their total and angular momentum" in still.notes


@pytest.mark.parametrize(("ensemble", "dof"), [("langevin", 9), ("nve", 3), ("nose-hoover", 3)])
def test_degrees_of_freedom(settings: Settings, ensemble: str, dof: int) -> None:
    assert session.prepare(settings(ensemble=ensemble)).dof == dof


@pytest.mark.parametrize("ensemble", ["nve", "nose-hoover", "langevin"])
def test_equilibration_ends_without_momentum_and_is_not_recorded(
    settings: Settings, tmp_path: Path, ensemble: str
) -> None:
    ready = session.prepare(settings(ensemble=ensemble, equilibrate=0.02, relax=True, replicas=4, temperature=500.0))
    out = tmp_path / "out"
    simulation = session.begin(ready, out)
    assert simulation.state.step == -40
    assert simulation.state.bath.keys() == {"heat"}
    simulation.run(0)
    assert simulation.state.bath.keys() == ready.integrator.after.bath_shapes().keys()
    assert all(not bool(v.any()) for v in simulation.state.bath.values())
    linear, angular = momenta(ready.system, simulation.state.positions, simulation.state.velocities)
    still = max(float(linear.abs().max()), float(angular.abs().max())) < 1e-10
    assert still == (ensemble != "langevin")
    simulation.run(4)
    assert [read(p).step.tolist() for p in sorted(out.glob("trajectory-*.h5md"))] == [[0, 2, 4]] * 4


def test_starts_of_their_own(settings: Settings, tmp_path: Path) -> None:
    two = [water(), water()]
    two[1].positions += 0.01 * np.random.default_rng(0).normal(size=(3, 3))
    write(tmp_path / "two.xyz", two)
    ready = session.prepare(settings(structure=str(tmp_path / "two.xyz"), replicas=2))
    np.testing.assert_allclose(ready.start.positions.numpy(), [a.positions for a in two], atol=1e-8)


def test_start_velocities_have_the_temperature(settings: Settings) -> None:
    ready = session.prepare(settings(replicas=2000, temperature=450.0, ensemble="nve"))
    heat = temperature(ready.system, ready.start.velocities, ready.dof)
    assert float(heat.mean()) == pytest.approx(450.0, rel=0.06)


def test_periods_of_hydrogen_stretches() -> None:
    """3700/cm is 9.02 fs; deuterium is slower by the square root of the masses; no hydrogen, no warning."""
    assert checks.fastest_period(System.build([8, 1, 1])) == pytest.approx(9.015, abs=0.01)
    assert checks.fastest_period(System.build([6, 1, 1, 1, 1])) == pytest.approx(10.76, abs=0.01)
    heavy = checks.fastest_period(System.build([8, 1, 1], masses=[16, 2.014, 2.014]))
    assert heavy == pytest.approx(9.015 * 2.014**0.5 / 1.008**0.5, abs=0.01)
    assert checks.fastest_period(System.build([6, 8])) is None
    assert checks.time_step_warning(System.build([8, 1, 1]), 0.5) is None
    assert "12 % too low" in str(checks.time_step_warning(System.build([8, 1, 1]), 1.0))
    assert "more than the largest stable one" in str(checks.time_step_warning(System.build([8, 1, 1]), 3.0))


def test_disk_needed_is_what_is_written(settings: Settings, tmp_path: Path) -> None:
    system, x = System.build([8, 1, 1]), np.zeros((3, 3))
    writer = TrajectoryWriter(tmp_path / "trajectory.h5md", system)
    names = ("potential_energy", "kinetic_energy", "conserved", "temperature")
    for step in range(2001):
        writer.append(Frame(step, 0.5 * step, x, x, x, dict.fromkeys(names, 1.0)))
    writer.flush()
    needed = checks.disk_needed(settings(steps=2000, save_every=1), 3, watched=False)
    assert needed == pytest.approx((tmp_path / "trajectory.h5md").stat().st_size, rel=0.2)
