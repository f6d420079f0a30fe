"""The command: the keys of the contract, what is saved, refusals, and that an interruption leaves nothing half done."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from equimd.cli.main import app
from equimd.guard.calibration import FOLDER, JSON_FILE
from equimd.guard.saved import load_calibration, places
from equimd.guard.wording import threshold_meaning
from equimd.run import Run
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file

runner = CliRunner()
SHORT = ["--name", "only", "--energy-unit", "eV", "--false-alarm-rate", "0.05", "--run-length", "20", "--blocks", "9"]
METRICS = {"zms", "nll", "crps", "ence", "miscalibration_area", "spearman"} | {
    f"coverage_{level}" for level in (50, 68, 90, 95)
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrate")
    data = toy_file(folder / "train.xyz", n=60)
    start(toy_config(data, num_epochs=12, splits=(50, 10, 0)), folder / "run").fit()
    toy_file(folder / "new.xyz", n=140, seed=5)
    toy_file(folder / "test.xyz", n=60, seed=6)
    return folder


def call(folder: Path, *words: str, data: str = "new.xyz") -> Any:
    return runner.invoke(
        app, ["calibrate", str(folder / "run"), "--data", str(folder / data), *SHORT, "--overwrite", *words]
    )


@pytest.fixture(scope="module")
def told(folder: Path) -> Any:
    """A whole calibration, with test frames."""
    return call(folder, "--temperature", "580", "--test-data", str(folder / "test.xyz"), "--json")


@pytest.fixture
def found(told: Any) -> dict[str, Any]:
    assert told.exit_code == 0, told.output
    return json.loads(told.stdout)


def test_json_has_the_contracts_keys(found: dict[str, Any]) -> None:
    assert {"form", "forces", "energy", "thresholds", "temperature_K"} <= set(found)
    assert set(found["forces"]) >= METRICS and set(found["energy"]) >= METRICS
    assert set(found["forces"]["per_element"]) == {"H", "O"}
    assert set(found["thresholds"]) == {"flag", "halt", "error"}
    assert found["thresholds"]["flag"]["alpha"] == 0.05
    assert found["thresholds"]["error"]["multiplier"] > 0
    assert found["temperature_K"] == 580.0
    assert found["reported_on"] == {"frames": "test", "n": 60}
    assert found["posterior_frames"] == {"used": 50, "of": 50}
    assert found["partition"]["frames"] == {"fit": 56, "select": 28, "threshold": 56}
    halt = found["thresholds"]["halt"]
    assert halt is not None or found["halt_refused"]
    if halt is not None:
        assert set(halt) >= {"value", "unit", "alpha", "run_length", "n_blocks", "n_effective", "interval"}


def test_what_is_saved_is_what_was_told(folder: Path, found: dict[str, Any], told: Any) -> None:
    saved = load_calibration(folder / "run", Run.open(folder / "run").load_model()[1]["sha256"])
    assert saved.flag.value == found["thresholds"]["flag"]["value"]
    assert saved.report["forces"]["zms"] == found["forces"]["zms"]
    assert saved.state_point.temperature_K == 580.0 and saved.compositions == ("H2O",)
    assert set(saved.data_sha256) == {"train", "calibration", "test"}
    assert found["meaning"] == threshold_meaning(saved)
    parts = json.loads((folder / "run" / FOLDER / "partition.json").read_text())
    assert {name: len(rows) for name, rows in parts["rows"].items()} == found["partition"]["frames"]
    for plot in ("sigmas.png", "thresholds.png"):
        assert (folder / "run" / FOLDER / plot).read_bytes().startswith(b"\x89PNG")
    assert "this takes about" in told.stderr


def test_thresholds_in_errors(folder: Path, found: dict[str, Any]) -> None:
    saved = load_calibration(folder / "run", Run.open(folder / "run").load_model()[1]["sha256"])
    rows = found["error_bounds"]
    assert rows == saved.report["error_bounds"] and "flag" in [row["name"] for row in rows]
    assert saved.frames is not None and saved.test_frames is not None
    assert (len(saved.frames.error), len(saved.test_frames.error)) == (56, 60)
    for row in rows:
        assert row["threshold"] * saved.error.multiplier == pytest.approx(row["bound"])
        assert row["frames"]["trials"] == 56 and (row["missed"] is None or row["missed_of"] == "test")
        assert (row["runs"] is None) == (saved.halt is None)
    flag = next(row for row in rows if row["name"] == "flag")
    assert flag["frames"]["events"] <= 0.05 * 56


def test_without_a_temperature_there_is_no_halt_threshold(folder: Path, told: Any) -> None:
    shown = call(folder, "--posterior-frames", "30")
    assert shown.exit_code == 0, shown.output
    assert "--temperature" in shown.stderr
    assert "frames: 30 of 50 training frames, drawn at random; 56 to fit" in shown.stderr
    assert "posterior: 30 of 50 training frames, drawn at random" in shown.stdout
    assert "A frame is flagged when" in shown.stdout and "A run halts" not in shown.stdout
    assert "error bound, eV/A" in shown.stdout and "threshold frames with a force error" in shown.stdout
    saved = load_calibration(folder / "run", Run.open(folder / "run").load_model()[1]["sha256"])
    assert saved.report["posterior_frames"] == {"used": 30, "of": 50}
    assert saved.halt is None and saved.state_point.temperature_K is None


def test_calibrations_stand_side_by_side(folder: Path, told: Any) -> None:
    first = {p.name: p.read_bytes() for p in (folder / "run" / FOLDER).iterdir() if p.is_file()}
    words = ["calibrate", str(folder / "run"), "--data", str(folder / "new.xyz"), *SHORT[2:], "--no-halt"]
    made = runner.invoke(app, [*words, "--temperature", "640"])
    assert made.exit_code == 0, made.output
    there = places(folder / "run")
    assert list(there) == ["only", "640K-langevin"]
    assert {p.name for p in there["640K-langevin"].iterdir()} == first.keys()
    assert {p.name: p.read_bytes() for p in there["only"].iterdir() if p.is_file()} == first
    again = runner.invoke(app, [*words, "--temperature", "640"])
    assert again.exit_code == 2 and "another --name, or --overwrite" in again.stderr
    assert runner.invoke(app, [*words, "--name", "../up"]).exit_code == 2
    shutil.rmtree(there["640K-langevin"])


def test_a_model_that_leaves_its_domain_gets_no_halt_threshold(folder: Path) -> None:
    shown = call(folder, "--temperature", "30000", "--run-length", "200")
    assert shown.exit_code == 0, shown.output
    assert "physical check failed" in shown.stderr or "does not look like" in shown.stderr
    assert "Flag and error thresholds are there all the same" in shown.stderr


@pytest.mark.parametrize(
    ("words", "data", "message"),
    [
        (["--temperature", "300", "--blocks", "8"], "new.xyz", "it takes 9, 1 more"),
        (["--false-alarm-rate", "0.001"], "new.xyz", "takes 1039"),
        ([], "train.xyz", "50 of the 60 are training frames and 10 of the 60 are validation frames"),
        (["--temperature", "-5"], "new.xyz", "a temperature of -5"),
        (["--train-data", "absent.xyz"], "new.xyz", "absent.xyz"),
    ],
)
def test_refusals(folder: Path, words: list[str], data: str, message: str) -> None:
    shown = call(folder, *words, data=data)
    assert shown.exit_code == 2
    assert message in shown.stderr
    assert shown.stdout == ""


def test_test_frames_must_not_be_calibration_frames(folder: Path) -> None:
    shown = call(folder, "--test-data", str(folder / "new.xyz"))
    assert shown.exit_code == 2
    assert "140 of the 140 are calibration frames" in shown.stderr


def test_a_model_of_energies_alone_is_refused(tmp_path: Path) -> None:
    data = toy_file(tmp_path / "train.xyz", forces=False)
    start(toy_config(data, forces_weight=0.0), tmp_path / "run").fit()
    toy_file(tmp_path / "new.xyz", n=140, seed=5)
    shown = call(tmp_path)
    assert shown.exit_code == 2
    assert "energies alone" in shown.stderr


def test_an_interruption_leaves_the_earlier_calibration(
    folder: Path, told: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in (folder / "run" / FOLDER).iterdir()}
    assert JSON_FILE in before

    def interrupted(*args: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("equimd.tasks.calibrate.task.run_own_dynamics", interrupted)
    assert call(folder, "--temperature", "580").exit_code == 130
    assert {p.name: p.read_bytes() for p in (folder / "run" / FOLDER).iterdir()} == before
