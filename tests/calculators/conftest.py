"""One training and calibration of springs, for the calculator and all engines."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet

import equimd
from equimd.errors import GuardError
from tests.guard.calibrated import calibrate_run
from tests.training.test_training import start
from tests.training.toy import WATER, toy_config, toy_file, toy_frames


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A run, and the same calibrated."""
    folder = tmp_path_factory.mktemp("guard")
    start(toy_config(toy_file(folder / "train.xyz", n=40), num_epochs=10, lr=1e-2), folder / "plain").fit()
    shutil.copytree(folder / "plain", folder / "calibrated")
    calibrate_run(folder / "calibrated", toy_frames(40), toy_frames(60, seed=1))
    return {name: folder / name for name in ("plain", "calibrated")}


@pytest.fixture
def run(runs: dict[str, Path]) -> Path:
    return runs["calibrated"]


def moving(speed: float = 0.1) -> Atoms:
    """Water whose first hydrogen leaves along its bond, in Angstrom/fs."""
    atoms = Atoms([8, 1, 1], WATER)
    away = atoms.positions[1] - atoms.positions[0]
    velocities = np.zeros((3, 3))
    velocities[1] = speed / units.fs * away / np.linalg.norm(away)
    atoms.set_velocities(velocities)
    return atoms


@dataclass(frozen=True)
class Halted:
    """Where ASE's dynamics of :func:`moving` with steps of 0.5 fs ends.

    Attributes:
        step: the first one that is refused. frames: (step, n, 3) Angstrom, those before it.
    """

    step: int
    frames: np.ndarray
    error: GuardError

    def same_as(self, error: GuardError) -> None:
        """Another engine refused the same frame, and says so."""
        assert error.step == self.step and f"step {self.step}" in str(error)
        assert error.code == "force sigma" and error.score > error.threshold == self.error.threshold
        assert error.score == pytest.approx(self.error.score, rel=1e-3)
        assert f"{error.score:.4g} above {error.threshold:.4g} eV/A" in str(error) and error.atoms == self.error.atoms
        np.testing.assert_allclose(error.last_accepted, self.frames[-1], atol=1e-5)
        np.testing.assert_allclose(error.structure.positions, self.error.structure.positions, atol=1e-5)
        assert error.structure.info["step"] == self.step


@pytest.fixture
def halted(run: Path) -> Halted:
    atoms, frames = moving(), []
    atoms.calc = equimd.load(run).calculator(on_exceed="halt")
    dynamics = VelocityVerlet(atoms, 0.5 * units.fs)
    dynamics.attach(lambda: frames.append(atoms.positions.copy()))
    with pytest.raises(GuardError) as caught:
        dynamics.run(200)
    return Halted(len(frames), np.array(frames), caught.value)
