"""Stopped by Ctrl-C or killed with SIGKILL, a simulation goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

import equimd
from equimd import files
from equimd.cli.main import app
from equimd.errors import ConfigError, RunError, UncertaintyError
from equimd.md.simulation import RESTART_FILE
from equimd.md.trajectory import read, trajectory_files
from equimd.tasks.simulate import progress, session
from equimd.tasks.simulate import task as workflow
from equimd.tasks.simulate.settings import SimulationSettings
from tests.md.test_simulation import assert_same_run

pytestmark = pytest.mark.usefixtures("no_plot")
runner = CliRunner()
OF_THE_CLOCK = ("ns_per_day", "ns_per_day_total", "uncertainty")


def assert_same_summary(a: Path, b: Path) -> None:
    one, other = (json.loads((folder / "summary.json").read_text()) for folder in (a, b))
    assert {k: v for k, v in one.items() if k not in OF_THE_CLOCK} == {
        k: v for k, v in other.items() if k not in OF_THE_CLOCK
    }


def simulate(*arguments: str | Path) -> tuple[int, str]:
    told = runner.invoke(app, ["simulate", *map(str, arguments)])
    return told.exit_code, told.stderr


def test_killed_at_random_moments(calibrated: Path, molecule: Path, tmp_path: Path, root: Path) -> None:
    command = [sys.executable, "-m", "tests.tasks.simulate.killed", str(calibrated), str(molecule), str(tmp_path)]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert_same_run(whole, killed)
    assert_same_summary(whole, killed)
    assert (whole / "simulation.png").read_bytes().startswith(b"\x89PNG")
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["n_flagged"] > 0
    assert read(whole / "trajectory-000.h5md").step.tolist() == list(range(0, 201, 3))


def test_ctrl_c(trained: Path, molecule: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = ("--steps", "60", "--save-every", "4", "--equilibrate", "10fs")
    assert simulate(trained, molecule, *options, "--out", whole)[0] == 0
    before = progress.SimulationProgress.__call__

    def press(self: progress.SimulationProgress, simulation: object) -> None:
        before(self, simulation)
        if simulation.state.step == 30:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(progress.SimulationProgress, "__call__", press)
        code, told = simulate(trained, molecule, *options, "--out", stopped)
    assert code == 130
    assert told.splitlines()[-1] == (f"interrupted after 0.015 ps; go on with: equimd simulate --resume {stopped}")
    assert json.loads((stopped / "summary.json").read_text())["status"] == "interrupted"
    assert simulate("--resume", stopped)[0] == 0
    assert_same_run(whole, stopped)
    assert_same_summary(whole, stopped)


def begun(settings: SimulationSettings, folder: Path) -> dict:
    ready = session.prepare(settings)
    return workflow.execute(ready, lambda: session.begin(ready, folder), folder)


def gone_on(folder: Path, **given: object) -> dict:
    ready = session.reopen(folder, given)
    return workflow.execute(ready, lambda: session.resume(ready, folder), folder)


def test_a_finished_run_can_be_made_longer(settings: Callable[..., SimulationSettings], tmp_path: Path) -> None:
    begun(settings(steps=60), tmp_path / "whole")
    assert begun(settings(steps=20), tmp_path / "grown")["steps"] == 20
    assert gone_on(tmp_path / "grown", time="30fs")["steps"] == 60
    assert_same_run(tmp_path / "whole", tmp_path / "grown")
    again = gone_on(tmp_path / "grown")
    assert (again["steps"], again["ns_per_day"], again["status"]) == (60, None, "completed")


def test_a_run_whose_trajectory_has_the_former_name_goes_on_in_it(
    settings: Callable[..., SimulationSettings], tmp_path: Path
) -> None:
    whole, old = tmp_path / "whole", tmp_path / "old"
    begun(settings(steps=60), whole)
    begun(settings(steps=20), old)
    (old / "trajectory.h5md").rename(old / "traj.h5")
    summary = gone_on(old, steps=60)
    assert trajectory_files(old) == [old / "traj.h5"]
    assert read(old / "traj.h5").positions.tolist() == read(whole / "trajectory.h5md").positions.tolist()
    assert summary["n_frames"] == 31 and equimd.SimulationResult(old, summary, "").trajectory().step[-1] == 60
    (old / RESTART_FILE).unlink()  # killed before it was there: what was begun is begun anew, under today's name
    gone_on(old)
    assert trajectory_files(old) == [old / "trajectory.h5md"]


def test_killed_before_the_first_restart_file(settings: Callable[..., SimulationSettings], tmp_path: Path) -> None:
    begun(settings(), tmp_path / "whole")
    begun(settings(), tmp_path / "killed")
    (tmp_path / "killed" / RESTART_FILE).unlink()
    left = tmp_path / "killed" / f".trajectory.h5md.{files._HERE}-{2**22}-00.part"  # of a process that is gone
    left.write_bytes(b"half a file")
    files._swept.clear()  # another process
    gone_on(tmp_path / "killed")
    assert not left.exists()
    assert_same_run(tmp_path / "whole", tmp_path / "killed")


def test_what_cannot_be_gone_on_with(
    settings: Callable[..., SimulationSettings], calibrated: Path, tmp_path: Path
) -> None:
    folder, copy = tmp_path / "run", tmp_path / "model"
    with pytest.raises(RunError, match="not a simulation"):
        session.reopen(folder, {})
    shutil.copytree(calibrated, copy)
    begun(settings(run=str(copy), steps=4, uq_threshold="flag"), folder)
    with pytest.raises(ConfigError, match="--temperature cannot change"):
        session.reopen(folder, {"temperature": 400.0})
    described = copy / "calibration" / "calibration.json"
    described.write_text(described.read_text() + "\n")
    with pytest.raises(RunError, match="the calibration has changed"):
        session.reopen(folder, {})
    # the same model elsewhere
    assert gone_on(folder, run=str(calibrated))["status"] == "completed"
    model = session.Run.open(copy).load_model()[0]
    weights = {k: v + 0.1 if k.startswith("last") else v for k, v in model.state_dict().items()}
    from equimd.run import save_model

    save_model(copy / "model.safetensors", model.config, weights)
    with pytest.raises((RunError, UncertaintyError), match="changed"):
        session.reopen(folder, {"run": str(copy)})
