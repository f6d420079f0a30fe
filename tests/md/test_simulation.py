"""The loop: replicas that do not see each other, halts that leave no trace, restarts that change no bit."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.errors import RunError
from equimd.files import load_tensors
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md import trajectory
from equimd.md.integrators import Integrator, Langevin, NoseHoover, VelocityVerlet
from equimd.md.simulation import Output, Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.md.trajectory import read
from tests.potentials import methanol

from .runs import SAVE_EVERY, STEPS, make


def simulation_of(
    integrator: Integrator, replicas: tuple[int, ...], hot: dict[int, float] | None = None, **more: object
) -> Simulation:
    """Methanol at 300 K; the velocities of ``hot`` replicas are multiplied."""
    molecule = methanol()
    x = molecule.reference.expand(len(replicas), -1, -1).clone()
    v = maxwell_boltzmann(molecule.system, x, 300.0, seed=4, replicas=replicas, bath=False)
    for replica, factor in (hot or {}).items():
        v[replicas.index(replica)] *= factor
    return Simulation.start(molecule.system, integrator, molecule, x, v, dof=12, replicas=replicas, **more)


@pytest.mark.parametrize("name", ["nve", "langevin", "nose-hoover"])
def test_replicas_at_once_are_runs_one_after_another(name: str) -> None:
    def integrator() -> Integrator:
        if name == "nve":
            return VelocityVerlet(0.5)
        return Langevin(0.5, 300.0, 0.02, seed=4) if name == "langevin" else NoseHoover(0.5, 300.0, 12)

    together = simulation_of(integrator(), tuple(range(32)))
    together.run(70)
    for replica in range(32):
        alone = simulation_of(integrator(), (replica,))
        alone.run(70)
        torch.testing.assert_close(alone.state.positions[0], together.state.positions[replica], rtol=0, atol=1e-10)
        torch.testing.assert_close(alone.state.velocities[0], together.state.velocities[replica], rtol=0, atol=1e-11)
        for key, value in together.state.bath.items():
            torch.testing.assert_close(alone.state.bath[key][0], value[replica], rtol=1e-8, atol=1e-11)


def test_one_halts_and_the_rest_go_on_as_if_nothing_had_happened() -> None:
    molecule = methanol()
    judge = Judge(Limits.from_reference(molecule.system, molecule.reference))
    integrator = Langevin(0.5, 300.0, 0.02, seed=4)
    simulation = simulation_of(integrator, (0, 1, 2, 3), hot={1: 40.0}, judge=judge)
    last = {}

    def watch(s: Simulation) -> None:
        if s.state.active[1]:
            last["state"] = s.state

    simulation.run(100, observer=watch)
    (halt,) = simulation.suspects.halts
    assert simulation.state.active == (True, False, True, True)
    assert halt.replica == 1
    assert halt.code in ("apart", "fused")
    # the last good frame is kept bit for bit, and the refused one is elsewhere
    assert last["state"].step == halt.step - 1
    for name in ("positions", "velocities", "forces", "energy"):
        assert torch.equal(getattr(simulation.state, name)[1], getattr(last["state"], name)[1])
    assert torch.equal(simulation.state.bath["heat"][1], last["state"].bath["heat"][1])
    assert judge.limits is not None
    assert not torch.equal(halt.positions, simulation.state.positions[1])
    calm = simulation_of(integrator, (0, 2, 3))
    calm.run(100)
    torch.testing.assert_close(simulation.state.positions[[0, 2, 3]], calm.state.positions, rtol=0, atol=1e-10)


def test_the_run_ends_when_all_have_halted(tmp_path: Path) -> None:
    molecule = methanol()
    judge = Judge(Limits.from_reference(molecule.system, molecule.reference))
    output = Output(tmp_path, 10)
    simulation = simulation_of(VelocityVerlet(0.5), (0, 1), hot={0: 50.0, 1: 70.0}, judge=judge, output=output)
    simulation.run(100_000)
    assert simulation.state.active == (False, False)
    assert len(simulation.suspects.halts) == 2
    from ase.io import read as read_atoms

    assert len(read_atoms(tmp_path / "flagged.extxyz", ":")) == 2
    resumed = Simulation.resume(molecule.system, VelocityVerlet(0.5), molecule, output, dof=12, judge=judge)
    before = resumed.state.step
    resumed.run(100_000)
    assert resumed.state.step == before


def test_halt_and_flag_by_score() -> None:
    """The same score halts or flags; flagged runs go on along the same path."""

    def run(action: str) -> Simulation:
        judge = Judge(None, lambda x, extras: ((x[:, 0] - x[:, 1]).norm(dim=-1), None), 1.5, action)
        simulation = simulation_of(VelocityVerlet(0.5), (0, 1), hot={0: 3.0, 1: 0.1}, judge=judge)
        simulation.run(200)
        return simulation

    halted, flagged = run("halt"), run("flag")
    assert halted.state.active == (False, True)
    assert flagged.state.active == (True, True)
    (halt,) = halted.suspects.halts
    first = flagged.suspects.frames()[0]
    assert first.start == halt.step
    assert halt.score > 1.5
    assert float((halted.state.positions[0, 0] - halted.state.positions[0, 1]).norm()) <= 1.5
    assert flagged.suspects.flagged_steps > flagged.suspects.n_flagged >= 1


def test_a_first_frame_above_the_threshold_is_not_taken_as_true(tmp_path: Path) -> None:
    judge = Judge(None, lambda x, extras: (x[:, 0, 0] * 0 + math.nan, None), 1.5, "halt")
    simulation = simulation_of(VelocityVerlet(0.5), (0,), judge=judge, output=Output(tmp_path))
    simulation.run(10)
    assert simulation.state.step == 0
    assert simulation.suspects.halts[0].step == 0
    assert not (tmp_path / "trajectory.h5md").exists()


def test_extras_of_the_force_function_reach_the_score() -> None:
    molecule = methanol()

    def forces(positions: torch.Tensor) -> tuple:
        energy, force = molecule(positions)
        return energy, force, {"size": positions.abs().amax((1, 2))}

    seen = []

    def score(positions: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, None]:
        seen.append(torch.equal(extras["size"], positions.abs().amax((1, 2))))
        return extras["size"], None

    x = molecule.reference.expand(2, -1, -1).clone()
    judge = Judge(None, score, 1e9, "halt")
    simulation = Simulation.start(molecule.system, VelocityVerlet(0.5), forces, x, 0 * x, dof=12, judge=judge)
    simulation.run(5)
    assert seen == [True] * 6


def test_one_force_call_a_step() -> None:
    simulation = simulation_of(Langevin(0.5, 300.0), (0, 1))
    before = simulation.forces.calls
    simulation.run(20)
    assert simulation.forces.calls == before + 20


def assert_same_run(a: Path, b: Path) -> None:
    names = sorted(p.name for p in a.iterdir())
    assert sorted(p.name for p in b.iterdir() if not p.name.startswith(".")) == names
    assert len(names) >= 4
    for name in names:
        if name.endswith(".h5"):
            one, other = vars(read(a / name)), vars(read(b / name))
            for key, value in one.items():
                if isinstance(value, dict):
                    assert value.keys() == other[key].keys()
                    assert all(np.array_equal(value[k], other[key][k], equal_nan=True) for k in value), (name, key)
                else:
                    assert np.array_equal(value, other[key]), (name, key)
        elif name.endswith(".extxyz"):
            assert (a / name).read_text() == (b / name).read_text()
    tensors, meta = load_tensors(a / "restart.safetensors", "md-restart")
    others, other_meta = load_tensors(b / "restart.safetensors", "md-restart")
    assert tensors.keys() == others.keys()
    for key, value in tensors.items():
        assert torch.equal(value.nan_to_num(9.0), others[key].nan_to_num(9.0)), key
    assert meta == other_meta


@pytest.mark.parametrize("name", ["langevin", "nose-hoover", pytest.param("compiled", marks=pytest.mark.slow)])
def test_killed_and_resumed_is_bit_identical(
    tmp_path: Path, root: Path, name: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """SIGKILL between steps and around every kind of file operation; frames, flags, halts and the end are the same."""
    monkeypatch.setattr(trajectory, "BLOCK", 5)
    if name == "compiled":
        monkeypatch.setenv("EQUIMD_CACHE", str(request.getfixturevalue("artefacts")))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    reference = make(whole, name)
    reference.run(STEPS)
    assert reference.state.active == (True, True, False)
    assert reference.suspects.n_flagged > 0
    assert read(whole / "trajectory-000.h5md").step.tolist() == list(range(0, STEPS + 1, SAVE_EVERY))
    command = [sys.executable, "-m", "tests.md.runs", str(killed), name]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert_same_run(whole, killed)


def test_stopped_between_steps_and_resumed_is_bit_identical(tmp_path: Path) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    make(whole, "langevin").run(STEPS)
    first = make(stopped, "langevin")
    first.run(STEPS, stop=lambda: first.state.step == 100)
    assert first.state.step == 100
    make(stopped, "langevin").run(STEPS)
    assert_same_run(whole, stopped)


def test_a_restart_with_other_settings_is_refused(tmp_path: Path) -> None:
    molecule, output = methanol(), Output(tmp_path, 3)
    with pytest.raises(RunError, match="no such file"):
        Simulation.resume(molecule.system, VelocityVerlet(0.5), molecule, output, dof=12)
    make(tmp_path, "langevin").run(20)
    with pytest.raises(RunError, match=r"ensemble = langevin, not nve"):
        Simulation.resume(molecule.system, VelocityVerlet(0.5), molecule, output, dof=12)
    other = Langevin(0.5, 400.0, 0.02, seed=12)
    with pytest.raises(RunError, match=r"seed = 11, not 12"):
        Simulation.resume(molecule.system, other, molecule, output, dof=12)
    (tmp_path / "trajectory-001.h5md").unlink()
    with pytest.raises(RunError, match="fewer frames"):
        make(tmp_path, "langevin")
