"""A toy run (water as three springs) and its calibration, made once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from equimd.benchmarks import kept, models
from equimd.data.dataset import ArrayDataset
from equimd.guard.calibration import Calibration
from equimd.model.painn.potential import Potential
from equimd.tasks.calibrate.settings import CalibrationSettings
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file, toy_frames

STEPS = 30
SETTINGS = CalibrationSettings(false_alarm_rate=0.05, run_length=STEPS, blocks=9, temperature=580.0)


@dataclass(frozen=True)
class Toy:
    """A trained and calibrated run; ``again`` is a second rate of flags."""

    folder: Path
    run: Path
    model: Potential
    held_out: ArrayDataset
    calibration: Calibration
    again: Calibration


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    folder = tmp_path_factory.mktemp("benchmarks")
    data = toy_file(folder / "train.xyz", n=60)
    start(toy_config(data, num_epochs=60, splits=(50, 10, 0), lr=1e-2, warmup_steps=10), folder / "run").fit()
    held_out = ArrayDataset(toy_frames(180, seed=5))
    found = kept.calibrations(folder / "run", held_out, SETTINGS, folder / "kept", flags=(0.1,))
    return Toy(folder, folder / "run", models.load_model(folder / "run"), held_out, *found)
