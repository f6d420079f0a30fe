"""A trained model at work: one by one, batched, through ASE and through the commands, all the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.io import read, write
from typer.testing import CliRunner

import equimd
from equimd.calculators import EquimdCalculator
from equimd.cli.main import app
from equimd.data.dataset import ArrayDataset
from equimd.errors import DataError, ModelError, RunError
from equimd.tasks.evaluate.measure import measure
from tests.training.test_training import start
from tests.training.toy import toy_config, toy_file, toy_frames

AGREE = 1e-6  # eV and eV/A, between all ways to ask


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calculator")
    data = toy_file(folder / "mixed.xyz", n=48, mixed=True)
    start(toy_config(data, splits=(32, 8, 8), num_epochs=2), folder / "run").fit()
    return folder / "run"


@pytest.fixture(scope="module")
def atoms() -> list[Atoms]:
    return toy_frames(7, seed=8, mixed=True).to_ase()


def test_batches_ase_and_commands_agree(run: Path, atoms: list[Atoms], tmp_path: Path) -> None:
    model = equimd.load(run)
    batched = model.predict(atoms)
    write(tmp_path / "all.xyz", [a.copy() for a in atoms], format="extxyz", plain=False)
    told = CliRunner().invoke(app, ["predict", str(run), str(tmp_path / "all.xyz"), "--json"])
    assert told.exit_code == 0, told.output
    structures = json.loads(told.stdout)["structures"]
    for a, p, s in zip(atoms, batched, structures, strict=True):
        alone = model.predict(a)
        b = a.copy()
        b.calc = model.calculator()
        for energy in (alone.energy, b.get_potential_energy(), s["energy_eV"]):
            assert energy == pytest.approx(p.energy, abs=AGREE)
        for forces in (alone.forces, b.get_forces(), s["forces_eV_per_A"]):
            np.testing.assert_allclose(forces, p.forces, atol=AGREE)
        assert p.forces.dtype == np.float64


def test_evaluate_measures_what_predict_says(run: Path) -> None:
    frames = toy_frames(9, seed=3, mixed=True)
    found = measure(equimd.load(run), ArrayDataset(frames), batch_size=4)
    predicted = equimd.load(run).predict(frames)
    wrong = np.array([p.energy for p in predicted]) - frames.energy
    true = [frames.forces[k, :n] for k, n in enumerate(frames.n_atoms)]
    forces = np.concatenate([p.forces - f for p, f in zip(predicted, true, strict=True)])
    summary = found.summary()
    assert summary["energy_mae_meV"] == pytest.approx(1e3 * np.abs(wrong).mean(), abs=1e3 * AGREE)
    assert summary["energy_mse_meV2"] == pytest.approx(1e6 * (wrong**2).mean(), rel=1e-4)
    assert summary["forces_mae_meV_per_A"] == pytest.approx(1e3 * np.abs(forces).mean(), abs=1e3 * AGREE)
    assert summary["forces_rmse_meV_per_A"] ** 2 == pytest.approx(summary["forces_mse"])
    per = summary["per_element"]
    assert set(per) == {"H", "O"}
    n = {k: v["n_atoms"] for k, v in per.items()}
    mean = sum(n[k] * per[k]["forces_mae_meV_per_A"] for k in n) / sum(n.values())
    assert mean == pytest.approx(summary["forces_mae_meV_per_A"])
    worst = summary["worst_frames"]
    norms = [np.linalg.norm(p.forces - f, axis=1).max() for p, f in zip(predicted, true, strict=True)]
    assert worst[0]["frame"] == int(np.argmax(norms))
    assert worst[0]["max_force_error_meV_per_A"] == pytest.approx(1e3 * max(norms), rel=1e-4)


def test_unknown_elements_are_refused_by_name(run: Path) -> None:
    stranger = Atoms("CO", [[0, 0, 0], [0, 0, 1.1]])
    for ask in (equimd.load(run).predict, EquimdCalculator(run).calculate):
        with pytest.raises(ModelError, match="elements the model never saw: C"):
            ask(stranger)


def test_the_calculator_computes_once_for_each_structure(
    run: Path, atoms: list[Atoms], monkeypatch: pytest.MonkeyPatch
) -> None:
    a = atoms[0].copy()
    calculator = EquimdCalculator(run)
    a.calc = calculator
    calls = []
    evaluate = calculator.model.potential.evaluate
    monkeypatch.setattr(calculator.model.potential, "evaluate", lambda b: calls.append(1) or evaluate(b))
    first = a.get_forces()
    assert a.get_potential_energy() == a.get_potential_energy(force_consistent=True)
    assert len(calls) == 1
    first[:] = 0.0  # what is handed out is the caller's own
    assert np.abs(a.get_forces()).max() > 0
    a.positions[0, 2] += 0.01
    moved = a.get_potential_energy()
    assert len(calls) == 2
    a.positions[0, 2] -= 0.01
    a.pbc, a.cell = True, [12.0, 12.0, 12.0]
    boxed = a.get_potential_energy()
    assert len(calls) == 3
    a.pbc, a.cell = False, None
    assert a.get_potential_energy() == pytest.approx(boxed, abs=1e-5)  # a box larger than the cutoff changes nothing
    assert moved != boxed
    a.numbers[:] = 1
    assert a.get_potential_energy() != pytest.approx(boxed, abs=1.0)


def test_the_calculator_moves_atoms_in_ase(run: Path, atoms: list[Atoms], tmp_path: Path) -> None:
    from ase.md.verlet import VelocityVerlet
    from ase.units import fs

    a = atoms[0].copy()
    a.calc = EquimdCalculator(run)
    start_energy = a.get_total_energy()
    VelocityVerlet(a, 0.25 * fs, trajectory=str(tmp_path / "md.traj")).run(20)
    assert a.get_total_energy() == pytest.approx(start_energy, abs=2e-3)
    assert read(tmp_path / "md.traj", "-1").get_potential_energy() == pytest.approx(a.get_potential_energy())


def test_the_calculator_refuses_what_it_does_not_have(run: Path, atoms: list[Atoms]) -> None:
    a = atoms[0].copy()
    a.calc = EquimdCalculator(run)
    with pytest.raises(PropertyNotImplementedError):
        a.get_stress()
    a.positions[0] = np.nan
    with pytest.raises(DataError, match="NaN"):
        a.get_forces()


def test_a_model_of_energies_alone_gives_no_forces(tmp_path: Path, atoms: list[Atoms]) -> None:
    data = toy_file(tmp_path / "energies.xyz", forces=False)
    start(toy_config(data, forces_weight=0, num_epochs=1), tmp_path / "run").fit()
    model = equimd.load(tmp_path / "run")
    assert model.predict(atoms[0]).forces is None
    a = atoms[0].copy()
    a.calc = model.calculator()
    assert np.isfinite(a.get_potential_energy())
    with pytest.raises(ModelError, match="trained on energies alone"):
        a.get_forces()
    summary = measure(model, ArrayDataset(toy_frames(6))).summary()
    assert summary["forces_mae_meV_per_A"] is None
    assert summary["energy_mae_meV"] is not None


def test_predicting_changes_nothing_of_the_callers(run: Path, atoms: list[Atoms]) -> None:
    a = atoms[0].copy()
    before: Any = (a.positions.copy(), a.numbers.copy())
    equimd.load(run).predict([a, a])
    assert np.array_equal(a.positions, before[0])
    assert np.array_equal(a.numbers, before[1])


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no such run folder"):
        equimd.load(tmp_path / "absent")
