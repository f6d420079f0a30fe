"""``equimd train`` as a person uses it: options, files, interruption, refusals, what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.config import config_keys
from equimd.errors import RunError
from equimd.files import load_tensors
from equimd.run import Run
from tests.training.toy import option_list, toy_file

runner = CliRunner()
SPLITS = {"splits": (24, 8, 8), "energy_unit": "eV", "batch_size_train": 8}


@pytest.fixture(scope="module")
def water(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "water.xyz")


def train(*words: object, **options: Any) -> Any:
    return runner.invoke(app, ["train", *(str(w) for w in words), *option_list(**{**SPLITS, **options})])


def test_it_leaves_a_complete_run(tmp_path: Path, water: Path) -> None:
    told = train("--data", water, "--out", tmp_path / "run", num_epochs=2)
    assert told.exit_code == 0, told.output
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {
        "config.yaml", "run.json", "model.safetensors", "last.safetensors", "metrics.csv", "split.json", "test.json",
        "train_hashes.txt", "val_hashes.txt", "curves.png", "parity.png", "checkpoint",
    }  # fmt: skip
    info = json.loads((tmp_path / "run/run.json").read_text())
    assert info["status"] == "completed"
    assert info["data"]["frames"] == {"train": 24, "val": 8, "test": 8}
    assert info["versions"]["torch"]
    assert len(info["model_sha256"]) == 64
    test = json.loads((tmp_path / "run/test.json").read_text())
    assert test["n_frames"] == 8
    assert "forces" in told.stdout
    assert "epoch 2/2 | train E" in told.stderr
    for name in ("curves.png", "parity.png"):
        assert (tmp_path / "run" / name).read_bytes().startswith(b"\x89PNG")


def test_underscores_and_yaml_and_options_over_it(tmp_path: Path, water: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {water}\nsplits: [24, 8, 8]\nnum_epochs: 5\nenergy-unit: eV\nseed: 3\n")
    words = ["train", str(config), "--num_epochs", "1", "--out", str(tmp_path / "run"), *option_list()]
    assert runner.invoke(app, words).exit_code == 0
    used = Run.open(tmp_path / "run").config
    assert (used.training.num_epochs, used.training.seed, used.model.num_features) == (1, 3, 8)


def test_every_setting_is_an_option() -> None:
    told = runner.invoke(app, ["train", "--help"])
    for key in config_keys():
        assert f"--{key.replace('_', '-')}" in told.stdout


def test_killed_at_any_moment_it_resumes_to_the_same_bits(tmp_path: Path, water: Path) -> None:
    options = option_list(**SPLITS, num_epochs=30, checkpoint_interval="0.01s", val_interval=3)
    words = ["train", "--data", str(water), *options, "--out"]
    assert runner.invoke(app, [*words, str(tmp_path / "whole")]).exit_code == 0
    command = [sys.executable, "-m", "equimd.cli", *words, str(tmp_path / "killed")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        checkpoint = Run(tmp_path / "killed").checkpoint
        deadline = time.monotonic() + 300
        while _step(checkpoint) < 10 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert 10 <= _step(checkpoint) < 90
    assert Run.open(tmp_path / "killed").info["status"] == "started"
    assert runner.invoke(app, ["train", "--resume", str(tmp_path / "killed")]).exit_code == 0
    for name in ("model", "last"):
        a, b = (load_tensors(tmp_path / r / f"{name}.safetensors", "model")[0] for r in ("whole", "killed"))
        assert all(torch.equal(a[k], b[k]) for k in a)
    assert json.loads((tmp_path / "whole/test.json").read_text()) == json.loads(
        (tmp_path / "killed/test.json").read_text()
    )
    # before its first checkpoint, and before its split was written, too
    begun = tmp_path / "begun"
    begun.mkdir()
    for name in ("run.json", "config.yaml"):
        shutil.copy(tmp_path / "killed" / name, begun)
    assert runner.invoke(app, ["train", "--resume", str(begun)]).exit_code == 0
    a, b = (load_tensors(tmp_path / r / "last.safetensors", "model")[0] for r in ("whole", "begun"))
    assert all(torch.equal(a[k], b[k]) for k in a)
    # one that was trained and has lost its checkpoint is not begun again
    shutil.rmtree(begun / "checkpoint")
    assert runner.invoke(app, ["train", "--resume", str(begun)]).exit_code == 2


def _step(checkpoint: Path) -> int:
    try:
        return int(load_tensors(checkpoint, "checkpoint")[1]["progress"]["step"])
    except RunError:
        return -1


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, water: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equimd.training.loop import Trainer

    one_step = Trainer._one_step

    def pressed(self: Trainer, batch: Any) -> None:
        one_step(self, batch)
        if self.progress.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "_one_step", pressed)
    told = train("--data", water, "--out", tmp_path / "run", num_epochs=3)
    assert told.exit_code == 130
    assert f"equimd train --resume {tmp_path / 'run'}" in told.stderr
    assert _step(Run(tmp_path / "run").checkpoint) == 4
    monkeypatch.undo()
    told = runner.invoke(app, ["train", "--resume", str(tmp_path / "run"), "--num-epochs", "2"])
    assert told.exit_code == 0
    assert Run.open(tmp_path / "run").info["epochs"] == 2


def test_what_cannot_change_on_the_way_is_refused(tmp_path: Path, water: Path) -> None:
    assert train("--data", water, "--out", tmp_path / "run", num_epochs=1).exit_code == 0
    told = runner.invoke(app, ["train", "--resume", str(tmp_path / "run"), "--lr", "0.1"])
    assert told.exit_code == 2
    assert "--lr cannot change" in told.stderr
    assert "--init" in told.stderr
    told = runner.invoke(app, ["train", "--resume", str(tmp_path / "run"), "--out", str(tmp_path / "b")])
    assert told.exit_code == 2


def test_a_random_split_of_a_trajectory_is_warned_of(tmp_path: Path, shared_data: Path) -> None:
    words = ["--data", shared_data / "md17/md17_ethanol_2000.npz", "--subset-size", 60, "--out", tmp_path / "run"]
    told = train(*words, splits=(40, 10, 10), num_epochs=1, energy_unit="kcal/mol")
    assert told.exit_code == 0, told.output
    assert "warning: " in told.stderr
    assert "rows" in told.stderr


def test_the_origins_command_line_runs(tmp_path: Path, shared_data: Path) -> None:
    data = shared_data / "md17/md17_ethanol_2000.npz"
    words = ["--data", data, "--subset-size", 2000, "--early-stopping-min-epochs", 5, "--early_stopping_patience", 3]
    words += ["--batch_size_train", 256, "--num-workers", 0, "--splits", 1600, 200, 200, "--out", tmp_path / "run"]
    told = runner.invoke(app, ["train", *map(str, words), *option_list(num_epochs=1)])
    assert told.exit_code == 0, told.output
    assert Run.open(tmp_path / "run").info["data"]["frames"] == {"train": 1600, "val": 200, "test": 200}


def test_the_published_protocol_runs(tmp_path: Path, shared_data: Path) -> None:
    folder = shared_data / "rmd17"
    words = ["--data", folder / "rmd17_ethanol_train_01.npz", "--test-data", folder / "rmd17_ethanol_test_01.npz"]
    told = train(*words, "--out", tmp_path / "run", splits=(950, 50, 0), num_epochs=1, energy_unit="kcal/mol")
    assert told.exit_code == 0, told.output
    assert json.loads((tmp_path / "run/test.json").read_text())["n_frames"] == 1000


@pytest.mark.parametrize("name", ["rmd17_aspirin_in_meV.xyz", "md17_ethanol_in_kcal_mol.xyz"])
def test_files_in_the_wrong_unit_are_refused(tmp_path: Path, shared_data: Path, name: str) -> None:
    trap = shared_data / "traps" / name
    told = runner.invoke(app, ["train", "--data", str(trap), "--out", str(tmp_path / "run"), *option_list()])
    assert told.exit_code == 2
    assert "unit" in told.stderr
    assert not (tmp_path / "run").exists()


def test_an_output_folder_with_another_run_is_left_alone(tmp_path: Path, water: Path) -> None:
    assert train("--data", water, "--out", tmp_path / "run", num_epochs=0).exit_code == 0
    before = (tmp_path / "run/model.safetensors").read_bytes()
    told = train("--data", water, "--out", tmp_path / "run", num_epochs=1)
    assert told.exit_code == 2
    assert "holds another run" in told.stderr
    assert (tmp_path / "run/model.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--data", "absent.npz"], "absent.npz"),
        ([], "no training data"),
        (["--data", "absent.npz", "--max-time", "soon"], "is not a time"),
        (["--data", "absent.npz", "--device", "abacus"], "unknown device"),
        (["--resume", "nowhere"], "no such run folder"),
        (["absent.yaml"], "absent.yaml"),
    ],
)
def test_mistakes_end_with_one_message(tmp_path: Path, options: list[str], message: str) -> None:
    told = runner.invoke(app, ["train", *options])
    assert told.exit_code == 2
    assert message in told.stderr
    assert "Traceback" not in told.stderr
