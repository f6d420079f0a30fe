"""A trained toy run (water as three springs) and frames it never saw, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from equimd.data import open_dataset
from equimd.data.dataset import Dataset
from equimd.run import Run
from equimd.tasks.calibrate.settings import CalibrationSettings
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file

FRAMES = 180


def settings(**options: object) -> CalibrationSettings:
    """A short calibration: one alarm in twenty frames, runs of 40 steps."""
    values = {"false_alarm_rate": 0.05, "run_length": 40, "blocks": 9, "temperature": 580.0}
    return CalibrationSettings(**{**values, **options})


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibration")
    data = toy_file(folder / "train.xyz", n=60)
    start(toy_config(data, num_epochs=12, splits=(50, 10, 0)), folder / "run").fit()
    toy_file(folder / "held_out.xyz", n=FRAMES, seed=5)
    toy_file(folder / "test.xyz", n=60, seed=6)
    return folder


def read(path: Path) -> Dataset:
    return open_dataset(path, energy_unit="eV")


@pytest.fixture(scope="session")
def run(folder: Path) -> Run:
    return Run.open(folder / "run")


@pytest.fixture(scope="session")
def held_out(folder: Path) -> Dataset:
    return read(folder / "held_out.xyz")


@pytest.fixture(scope="session")
def test_frames(folder: Path) -> Dataset:
    return read(folder / "test.xyz")
