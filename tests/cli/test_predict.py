"""``equimd predict``: text, JSON and extended XYZ; refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.io import read, write
from typer.testing import CliRunner

from equimd.cli.main import app
from tests.golden.saved import SAVED
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file, toy_frames

runner = CliRunner()


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    start(toy_config(toy_file(folder / "train.xyz"), num_epochs=1), folder / "run").fit()
    return folder / "run"


@pytest.fixture
def molecules(tmp_path: Path) -> Path:
    path = tmp_path / "mol.xyz"
    write(path, [Atoms(a.numbers, a.positions) for a in toy_frames(2, seed=4).to_ase()])
    return path


def test_json_and_extended_xyz_hold_the_same(run: Path, molecules: Path, tmp_path: Path) -> None:
    told = runner.invoke(app, ["predict", str(run), str(molecules), "--json", "--out", str(tmp_path / "out.extxyz")])
    assert told.exit_code == 0, told.output
    structures = json.loads(told.stdout)["structures"]
    written = read(tmp_path / "out.extxyz", ":")
    assert len(structures) == len(written) == 2
    for s, a in zip(structures, written, strict=True):
        assert set(s) == {"energy_eV", "forces_eV_per_A"}
        assert a.get_potential_energy() == pytest.approx(s["energy_eV"], abs=1e-6)
        np.testing.assert_allclose(a.get_forces(), s["forces_eV_per_A"], atol=1e-6)


def test_text_names_every_atom(run: Path, molecules: Path) -> None:
    shown = runner.invoke(app, ["predict", str(run), str(molecules)]).stdout
    assert shown.count("energy -20") == 2
    assert len([line for line in shown.splitlines() if " H " in line]) == 4


def test_minimum_has_errors_of_a_calibrated_run(tmp_path: Path) -> None:
    words = ["predict", str(SAVED / "conservative"), str(SAVED / "water.start.xyz"), "--minimum"]
    told = runner.invoke(app, [*words, "--json", "--out", str(tmp_path / "at.xyz")])
    assert told.exit_code == 0, told.output
    (entry,) = json.loads(told.stdout)["structures"]
    relaxed = read(tmp_path / "at.xyz")
    np.testing.assert_allclose(relaxed.positions, entry["positions_A"], atol=1e-7)
    assert np.abs(relaxed.get_forces()).max() < 1e-3
    assert [b["atoms"] for b in entry["bonds"]] == [[0, 1], [0, 2]] and all(b["model_A"] > 0 for b in entry["bonds"])
    assert len(entry["frequencies_per_cm"]) == len(entry["frequencies_model_per_cm"]) == 3
    told = runner.invoke(app, [*words, "--no-uncertainty"])
    assert told.exit_code == 0 and f"{entry['frequencies_per_cm'][2]:.1f}" in told.stdout, told.output
    assert "no errors of the model" in told.stdout and "±" not in told.stdout
    assert runner.invoke(app, [*words, "--out", str(tmp_path / "at.xyz")]).exit_code == 2


def test_refusals(run: Path, molecules: Path, tmp_path: Path) -> None:
    write(tmp_path / "co.xyz", Atoms("CO", [[0, 0, 0], [0, 0, 1.1]]))
    (tmp_path / "torn.xyz").write_text(molecules.read_text()[:40])
    (tmp_path / "nan.xyz").write_text("1\n\nO nan 0 0\n")
    (tmp_path / "words.txt").write_text("hello")
    for name, message in (
        ("co.xyz", "elements the model never saw: C"),
        ("torn.xyz", "torn.xyz"),
        ("nan.xyz", "NaN or infinite"),
        ("words.txt", "cannot be read as structures"),
        ("absent.xyz", "no such file"),
    ):
        told = runner.invoke(app, ["predict", str(run), str(tmp_path / name)])
        assert told.exit_code == 2, name
        assert message in told.stderr
        assert "Traceback" not in told.stderr
        assert told.stdout == ""


def test_a_damaged_model_is_refused(run: Path, molecules: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    model = copy / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-10])
    told = runner.invoke(app, ["predict", str(copy), str(molecules)])
    assert told.exit_code == 2
    assert "truncated or damaged" in told.stderr
