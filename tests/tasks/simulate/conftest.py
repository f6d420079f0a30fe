"""A potential trained on water made of springs, calibrated on held-out frames of the same: all real, in seconds."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ase import Atoms
from ase.io import write

from equimd.run import Run
from equimd.tasks.simulate import plot
from equimd.tasks.simulate.settings import SimulationSettings, parse_settings
from tests.guard.calibrated import calibration
from tests.training.test_training import start
from tests.training.toy import WATER, toy_config, toy_file, toy_frames

TRAINING = {"num_epochs": 60, "lr": 1e-2, "ema_decay": 0.9, "num_features": 16, "batch_size_train": 4}


def water() -> Atoms:
    return Atoms([8, 1, 1], WATER)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, not calibrated."""
    folder = tmp_path_factory.mktemp("simulate")
    start(toy_config(toy_file(folder / "train.xyz"), **TRAINING), folder / "run").fit()
    return folder / "run"


@pytest.fixture(scope="session")
def calibrated(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a calibration."""
    folder = tmp_path_factory.mktemp("calibrated") / "run"
    shutil.copytree(trained, folder)
    model, meta = Run.open(folder).load_model()
    found = calibration(model, toy_frames(), toy_frames(60, 7), model_sha256=meta["sha256"], compositions=("H2O",))
    found.save(folder)
    return folder


@pytest.fixture
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes longer than these runs."""
    monkeypatch.setattr(plot, "simulation", lambda *_, **__: None)


@pytest.fixture
def molecule(tmp_path: Path) -> Path:
    path = tmp_path / "water.xyz"
    write(path, water())
    return path


@pytest.fixture
def settings(trained: Path, molecule: Path) -> Callable[..., SimulationSettings]:
    """Short runs of the model that is not calibrated, unless ``run`` says otherwise."""

    def make(**values: Any) -> SimulationSettings:
        defaults = {"run": str(trained), "structure": str(molecule), "steps": 40, "save_every": 2}
        return parse_settings({**defaults, **values})

    return make
