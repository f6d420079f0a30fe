"""At the edges of ASE and torch: dummy atoms, ASE's own list of properties, modes, devices and threads."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write
from typer.testing import CliRunner

import equimd
from equimd.calculators import EquimdCalculator
from equimd.cli.main import app
from equimd.errors import ConfigError, DataError
from tests.golden.saved import SAVED

WATER = read(SAVED / "water.start.xyz")


@pytest.fixture(scope="module")
def model() -> equimd.LoadedModel:
    """A calibrated one, whose sigmas are taken in forward mode."""
    return equimd.load(SAVED / "conservative")


def displaced(count: int) -> list[Atoms]:
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        found.append(WATER.copy())
        found[-1].positions += rng.normal(0, 0.03, WATER.positions.shape)
    return found


@pytest.mark.parametrize("place", [0, 3])
def test_dummy_atoms_are_refused(model: equimd.LoadedModel, tmp_path: Path, place: int) -> None:
    symbols, x = list("OHH"), WATER.positions.tolist()
    symbols.insert(place, "X")
    x.insert(place, [4.0, 4.0, 4.0])
    atoms = Atoms(symbols, x)
    atoms.calc = SinglePointCalculator(atoms, energy=-1.0, forces=np.zeros((4, 3)))
    write(tmp_path / "x.xyz", atoms)
    dummy = atoms.copy()
    dummy.calc = model.calculator()
    calls: list[Callable[[], Any]] = [
        dummy.get_forces, lambda: model.predict(atoms), lambda: equimd.predict(model, atoms),
        lambda: equimd.evaluate(model, [atoms]), lambda: equimd.train([atoms] * 20, out=tmp_path / "run"),
        lambda: equimd.label(atoms, tmp_path / "l.h5", calculator="emt"),
        lambda: equimd.simulate(SAVED / "conservative", atoms, out=tmp_path / "md"),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(DataError, match=f"atom {place} is X, a dummy atom"):
            call()
    assert [p.name for p in tmp_path.iterdir()] == ["x.xyz"]
    for command in (["predict"], ["simulate"], ["evaluate", "--data"]):
        told = CliRunner().invoke(app, [command[0], str(SAVED / "conservative"), *command[1:], str(tmp_path / "x.xyz")])
        assert told.exit_code == 2 and "'X' is a dummy atom" in told.output, told.output


def test_a_trajectory_with_an_energy_in_info_is_predicted(tmp_path: Path) -> None:
    atoms = WATER.copy()
    atoms.info.update(energy=-1.0, stress=np.zeros(6))
    atoms.arrays["forces"] = np.ones((3, 3))
    atoms.calc = SinglePointCalculator(atoms, energy=-2.0, forces=np.zeros((3, 3)))
    write(tmp_path / "a.traj", atoms)
    arguments = ["predict", str(SAVED / "conservative"), str(tmp_path / "a.traj"), "--out", str(tmp_path / "p.xyz")]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert read(tmp_path / "p.xyz").get_potential_energy() < -2000


def test_uncertainties_beside_the_properties_that_ase_knows(model: equimd.LoadedModel) -> None:
    atoms = WATER.copy()
    atoms.calc = model.calculator(uncertainty=True)
    forces = atoms.get_forces()
    results = atoms.calc.results
    assert set(results.keys()) == set({**results}) == set(dict(results)) == {"energy", "free_energy", "forces"}
    assert set(results) == {*results.keys(), "energy_std", "forces_std", "atom_forces_std"}
    kept = SinglePointCalculator(atoms, **results)
    np.testing.assert_array_equal(kept.get_forces(atoms), forces)
    for found in (results, atoms.get_properties(["energy", "forces_std"]), atoms.calc.export_properties()):
        assert "forces_std" in found
        np.testing.assert_array_equal(found["forces_std"], atoms.calc.get_property("forces_std", atoms))
    assert results.get("energy_std") > 0 and results.get("stress") is None
    for other in (copy.deepcopy(atoms.calc), pickle.loads(pickle.dumps(atoms.calc))):
        assert other.get_property("energy_std", atoms) == results["energy_std"]


def test_reset_and_what_was_computed(model: equimd.LoadedModel) -> None:
    atoms, calculator = WATER.copy(), model.calculator()
    assert calculator.calculation_required(atoms, ["energy"])
    energy = calculator.get_property("energy", atoms)
    assert not calculator.calculation_required(atoms, ["energy", "forces"])
    assert calculator.calculation_required(atoms, ["forces_std"]) and calculator.check_state(atoms) == []
    calculator.reset()
    assert calculator.calculation_required(atoms, ["energy"]) and calculator.check_state(atoms)
    assert calculator.get_property("energy", atoms, allow_calculation=False) is None
    assert calculator.get_property("energy", atoms) == energy


def test_inference_mode() -> None:
    """Whatever is loaded, made or asked there is as it is elsewhere, and stays usable."""
    outside = {run: equimd.load(SAVED / run) for run in ("conservative", "periodic")}
    start = {"conservative": WATER, "periodic": read(SAVED / "alloy.start.xyz")}
    for run, atoms in start.items():
        right = outside[run].predict(atoms)
        with torch.inference_mode():
            inside = equimd.load(SAVED / run)
            found = [inside.predict(atoms), outside[run].predict(atoms)]
            moved = atoms.copy()
            moved.calc = inside.calculator(uncertainty=True)
            np.testing.assert_allclose(moved.get_forces(), right.forces, atol=1e-5)
        for p in (*found, inside.predict(atoms)):
            np.testing.assert_allclose(p.forces, right.forces, atol=1e-5)
            np.testing.assert_allclose(p.forces_std, right.forces_std, rtol=1e-3)


def test_devices_that_are_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    for call in (equimd.load, EquimdCalculator):
        for device, words in (("cuda", "no device 'cuda' here"), ("mps", "not supported"), ("gpu", "unknown device")):
            with pytest.raises(ConfigError, match=words):
                call(SAVED / "direct", device=device)
    with pytest.raises(ConfigError, match="no weights 'newest'"):
        equimd.load(SAVED / "direct", which="newest")


def test_threads_share_a_model_and_a_calculator(model: equimd.LoadedModel) -> None:
    """Forward mode has levels that all threads share, and a calculator has one structure at a time."""
    frames = displaced(6)
    weights = cast("torch.nn.Module", model.potential).parameters()
    assert not any(w.requires_grad for w in weights), "torch may block threads that share weights with gradients"
    right = [model.predict(a) for a in frames]
    shared = model.calculator()

    def predicted(k: int) -> bool:
        p, r = model.predict(frames[k % 6]), right[k % 6]
        return np.allclose(p.forces_std, r.forces_std, rtol=1e-3) and np.allclose(p.forces, r.forces, atol=1e-5)

    def calculated(k: int) -> bool:
        atoms = frames[k % 6].copy()
        atoms.calc = shared
        same = np.allclose(atoms.get_forces(), right[k % 6].forces, atol=1e-5)
        return same and abs(atoms.get_potential_energy() - right[k % 6].energy) < 1e-5

    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(predicted if k % 6 == 0 else calculated, k // 2) for k in range(72)]
        assert all(each.result() for each in asked)
