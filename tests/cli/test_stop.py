"""A training that ends before its job does, by SIGUSR1 or the clock, and goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.config import parse_config
from equimd.errors import ConfigError
from equimd.run import Run
from equimd.training.deadline import SLURM_END, stop_time
from equimd.training.loop import Trainer
from tests.cli.test_train import SPLITS, _step
from tests.training.toy import option_list, toy_file

runner = CliRunner()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "mixed.xyz", mixed=True)


def words(data: Path, out: Path, **options: Any) -> list[str]:
    given = {**SPLITS, "num_epochs": 30, "val_interval": 5, "max_atoms_per_batch": 12, **options}
    return ["train", "--data", str(data), *option_list(**given), "--out", str(out)]


def test_sigusr1_leaves_a_checkpoint_and_a_command_that_goes_on(tmp_path: Path, mixed: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "equimd.cli",
        *words(mixed, tmp_path / "run", num_epochs=10**6, val_interval=10**6),
    ]
    command += ["--checkpoint-interval", "0.01s", "--num-workers", "1"]  # which the scheduler's signal reaches, too
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        checkpoint = Run(tmp_path / "run").checkpoint
        deadline = time.monotonic() + 300
        while _step(checkpoint) < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGUSR1)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 130, said
    assert f"go on with: equimd train --resume {tmp_path / 'run'}" in said
    assert "Traceback" not in said
    info = Run.open(tmp_path / "run").info
    assert info["status"] == "interrupted" and _step(checkpoint) == info["steps"] >= 10
    more = str(info["epochs"] + 2)
    told = runner.invoke(app, ["train", "--resume", str(tmp_path / "run"), "--num-epochs", more, "--num-workers", "0"])
    assert told.exit_code == 0, told.output
    info = Run.open(tmp_path / "run").info
    assert (info["status"], str(info["epochs"])) == ("completed", more)


def test_it_stops_before_the_job_ends(tmp_path: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step, now = Trainer._one_step, time.time

    def late(self: Trainer, batch: Any) -> None:
        one_step(self, batch)
        if self.progress.step == 4:
            monkeypatch.setattr(time, "time", lambda: now() + 3000.0)

    monkeypatch.setattr(Trainer, "_one_step", late)
    monkeypatch.setenv(SLURM_END, str(int(now()) + 3600))
    told = runner.invoke(app, words(mixed, tmp_path / "run", stop_before="10m", num_epochs=3))
    assert told.exit_code == 130, told.output
    assert "stopped before the time limit after 0 epochs; go on with: equimd train --resume" in told.stderr
    assert _step(Run(tmp_path / "run").checkpoint) == 4
    monkeypatch.undo()
    monkeypatch.delenv(SLURM_END, raising=False)
    told = runner.invoke(app, ["train", "--resume", str(tmp_path / "run")])  # elsewhere
    assert told.exit_code == 0, told.output
    assert "when this job ends is not known: --stop-before 10m00s is left out" in told.stderr
    assert Run.open(tmp_path / "run").info["epochs"] == 3


def test_an_end_that_is_not_known_is_refused_before_anything_is_written(
    tmp_path: Path, mixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SLURM_END, raising=False)
    told = runner.invoke(app, words(mixed, tmp_path / "run", stop_before="10m"))
    assert told.exit_code == 2
    assert "when the job ends is not known" in told.stderr and "--max-wall-time 24h" in told.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "slurm", "expected"),
    [
        ({}, 100.0, None),
        ({"stop_before": "10m"}, 3600.0, 3000.0),
        ({"max_wall_time": "1h"}, None, 3600.0),
        ({"max_wall_time": "1h"}, 100.0, 3600.0),
        ({"max_wall_time": "1h", "stop_before": "10m"}, None, 3000.0),
        ({"max_wall_time": "1h", "stop_before": "10m"}, 1800.0, 1200.0),
    ],
)
def test_the_sooner_end_counts(
    options: dict[str, str], slurm: float | None, expected: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.delenv(SLURM_END, raising=False)
    if slurm is not None:
        monkeypatch.setenv(SLURM_END, f"{now + slurm}")
    found = stop_time(parse_config(options).training, now)
    assert found == (None if expected is None else pytest.approx(now + expected, abs=0.01))


def test_a_job_that_is_too_short_is_refused() -> None:
    with pytest.raises(ConfigError, match="the job ends in 5m00s: nothing would be trained"):
        stop_time(parse_config({"stop_before": "10m", "max_wall_time": "5m"}).training, time.time())
