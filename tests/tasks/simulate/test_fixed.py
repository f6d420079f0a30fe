"""Fixed atoms by the command: of ``move_mask``, in every ensemble, relaxed, and gone on with; others refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase.constraints import FixAtoms, FixBondLength
from ase.io import read as read_atoms
from ase.io import write

from equimd.md.ensembles import ENSEMBLES
from equimd.md.trajectory import read
from tests.tasks.simulate.conftest import water
from tests.tasks.simulate.test_simulate import simulate

pytestmark = pytest.mark.usefixtures("no_plot")


@pytest.fixture
def held(tmp_path: Path) -> Path:
    """Water, stretched, with its oxygen and one hydrogen atom fixed."""
    atoms = water()
    atoms.positions[2] *= 1.03
    rows = [f"{a.symbol} {a.x} {a.y} {a.z} {'FFT'[a.index]}" for a in atoms]
    path = tmp_path / "held.extxyz"
    path.write_text('3\nProperties=species:S:1:pos:R:3:move_mask:L:1 pbc="F F F"\n' + "\n".join(rows) + "\n")
    return path


@pytest.mark.parametrize("ensemble", [*ENSEMBLES, "relaxed", "equilibrated"])
def test_they_do_not_move(trained: Path, held: Path, tmp_path: Path, ensemble: str) -> None:
    more = {"relaxed": ("--relax",), "equilibrated": ("--ensemble", "nve", "--equilibrate", "10fs")}
    chosen = more.get(ensemble, ("--ensemble", ensemble))
    out, common = tmp_path / "out", ("--save-every", 2, "--extxyz", *chosen)
    assert simulate(trained, held, "--steps", 10, "--out", out, *common).exit_code == 0
    told = simulate("--resume", out, "--steps", 20, "--json")
    assert told.exit_code == 0, told.stderr
    assert json.loads(told.stdout)["degrees_of_freedom"] == 3
    start, frames = read_atoms(held).positions, read(out / "trajectory.h5md")
    assert len(frames) == 11
    np.testing.assert_allclose(frames.positions[:, :2], np.broadcast_to(start[:2], (11, 2, 3)), rtol=0, atol=1e-12)
    assert not frames.velocities[:, :2].any()
    assert np.abs(frames.positions[-1, 2] - start[2]).max() > 1e-3
    kinetic, heat = frames.observables["kinetic_energy"], frames.observables["temperature"]
    np.testing.assert_allclose(heat, 2 * kinetic / (3 * 8.617333262e-5), rtol=1e-6)
    (constraint,) = read_atoms(out / "trajectory.extxyz").constraints
    assert constraint.index.tolist() == [0, 1]


def test_other_constraints_are_refused(trained: Path, tmp_path: Path) -> None:
    atoms = water()
    atoms.set_constraint([FixAtoms([0]), FixBondLength(0, 1)])
    write(tmp_path / "bond.traj", atoms)
    told = simulate(trained, tmp_path / "bond.traj", "--steps", 2, "--out", tmp_path / "out")
    assert told.exit_code == 2 and "FixBondLength" in told.stderr.replace("FixBondLengths", "FixBondLength")
    assert not (tmp_path / "out").exists()
