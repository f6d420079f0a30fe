"""A trajectory whose answers are known, and a simulation by a run that is kept with the tests."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from equimd.data.system import System
from equimd.md.trajectory import Frame, TrajectoryWriter
from equimd.tasks.generate.sampling import load_molecule
from equimd.tasks.generate.torsions import torsions, turned
from tests.golden.saved import SAVED
from tests.golden.shell import quick_layers

ANGLES = (60.0, 180.0, -60.0)  # of C-C-O-H, for TURN frames each
TURN, FRAMES, STEP = 20, 240, 4.0
SWING, PERIOD = 0.05, 12  # of C-C: Angstrom, frames


@pytest.fixture(scope="session")
def ethanol(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its O-H turns and its C-C swings; frames 30 to 39 are flagged, the others have no sigmas of atoms."""
    atoms, path = load_molecule("ethanol"), tmp_path_factory.mktemp("ethanol") / "trajectory.h5md"
    (bond,) = torsions(atoms.numbers, atoms.positions)
    axis = atoms.positions[0] - atoms.positions[1]
    writer = TrajectoryWriter(path, System.build(atoms.numbers), units={"force_sigma": "eV/A"})
    energy = np.random.default_rng(0).normal(-10.0, 0.1, FRAMES)
    for k in range(FRAMES):
        x = turned(atoms.positions, bond, np.radians(ANGLES[k // TURN % 3] - 180))
        x[0] += SWING * np.sin(2 * np.pi * k / PERIOD) * axis / np.linalg.norm(axis)
        v, flagged = np.full((9, 3), np.cos(2 * np.pi * k / PERIOD)), 30 <= k < 40
        observables = {
            "potential_energy": energy[k], "temperature": 300.0, "conserved": 9e-6 * STEP * k,
            "force_sigma": 0.5 if flagged else 0.1, "flagged": float(flagged),
        }  # fmt: skip
        sigma = np.linspace(0.1, 0.5, 9) if flagged else np.full(9, np.nan)
        writer.append(Frame(8 * k, STEP * k, x, v, 0.5 * v, observables, {"force_sigma": sigma}))
    writer.flush()
    return path


@pytest.fixture(scope="session")
def flagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulation of three replicas of water whose frames are flagged now and then."""
    import equimd

    folder = tmp_path_factory.mktemp("simulated")
    shutil.copytree(SAVED / "direct", folder / "direct")
    shutil.copy(SAVED / "water.start.xyz", folder)
    with pytest.MonkeyPatch.context() as patch, quick_layers(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.chdir(folder)
        patch.setattr("equimd.tasks.simulate.plot.simulation", lambda *_, **__: None)
        equimd.simulate(
            "direct", "water.start.xyz", temperature=1500, steps=40, uq_threshold="0.1eV/A", on_exceed="flag",
            replicas=3, save_every=5, compile="off", threads=1, out="flagged",
        )  # fmt: skip
    return folder / "flagged"
