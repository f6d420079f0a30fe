"""Stress: the energy's derivative by strain, in ASE's convention, through every way to ask for it."""

from __future__ import annotations

import json
import threading
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.socketio import SocketServer
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.optimize import BFGS
from typer.testing import CliRunner

import equimd
from equimd.calculators.ipi import Address, Driver, Served
from equimd.cli.main import app
from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.errors import ConformanceError, DataError, GuardError, ModelError
from equimd.model.conformance import check_model
from equimd.model.differentiable import DifferentiableModel, neighbors_within
from tests.golden.saved import SAVED

STEP = 1e-4  # strain of the differences


@pytest.fixture(scope="module")
def model() -> equimd.LoadedModel:
    """Of an alloy, conservative, in float64."""
    return equimd.LoadedModel(equimd.load(SAVED / "periodic").potential.converted(torch.float64))


@pytest.fixture
def alloy() -> Atoms:
    return read(SAVED / "alloy.start.xyz")


def by_differences(model: equimd.LoadedModel, atoms: Atoms) -> np.ndarray:
    """(3, 3) dE/d(strain) over the volume."""
    found = np.zeros((3, 3))
    for i, j in ((0, 0), (1, 1), (2, 2), (1, 2), (0, 2), (0, 1)):
        strain = np.zeros((3, 3))
        strain[i, j] += STEP / 2
        strain[j, i] += STEP / 2
        ends = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.set_cell(atoms.cell.array @ (np.eye(3) + sign * strain), scale_atoms=True)
            ends.append(model.predict(moved).energy)
        found[i, j] = found[j, i] = (ends[0] - ends[1]) / (2 * STEP * atoms.get_volume())
    return found


@pytest.mark.parametrize("kind", ["cube", "skewed", "left-handed", "slab", "wire", "far away", "large"])
def test_it_is_the_derivative_of_the_energy_by_strain(model: equimd.LoadedModel, alloy: Atoms, kind: str) -> None:
    atoms = alloy.repeat((2, 2, 3)) if kind == "large" else alloy.copy()  # summed in blocks of many edges
    atoms.rattle(0.05, seed=1)
    if kind == "skewed":
        atoms.set_cell(atoms.cell.array @ np.array([[1, 0.3, -0.2], [0, 1.1, 0.4], [0, 0, 0.9]]), scale_atoms=True)
    elif kind == "left-handed":
        atoms.set_cell(atoms.cell.array[[1, 0, 2]] @ np.diag([1, 1.1, 1]))
    elif kind in ("slab", "wire"):
        atoms.pbc = [True, kind == "slab", False]
    elif kind == "far away":
        atoms.positions += [5e3, -2e3, 1e3]
    atoms.calc = model.calculator()
    stress = atoms.get_stress(voigt=False)
    assert np.abs(stress).max() > 1e-3
    np.testing.assert_allclose(stress, by_differences(model, atoms), atol=1e-7 if kind != "far away" else 1e-6)
    if atoms.pbc.all():
        np.testing.assert_allclose(model.predict(atoms).stress, atoms.get_stress(), atol=1e-12)
    single = atoms.copy()
    single.calc = equimd.load(SAVED / "periodic").calculator()
    np.testing.assert_allclose(single.get_stress(voigt=False), stress, atol=2e-3 if kind == "far away" else 1e-5)


def test_batches_and_open_molecules(model: equimd.LoadedModel, alloy: Atoms) -> None:
    frames = []
    for k in range(3):
        frames.append(alloy.copy())
        frames[-1].rattle(0.05 * k + 0.02, seed=k)
    frames[1].pbc = False
    found = model.predict(frames)
    assert found[1].stress is None and found[1].forces is not None
    for k in (0, 2):
        alone = model.predict(frames[k])
        np.testing.assert_allclose(found[k].stress, alone.stress, atol=1e-10)
        np.testing.assert_array_equal(alone.forces, model.predict(frames[k]).forces)
    batch = Batch.from_frames(Frames.from_ase(frames[1:2]), model.potential.cutoff, dtype=torch.float64)
    assert batch.num_slots
    out = model.potential.evaluate_with_virial(batch)
    x, forces = frames[1].positions, out["forces"].numpy()
    np.testing.assert_allclose(out["virial"][0].numpy(), x.T @ forces, atol=1e-9)  # sum over atoms of r f
    np.testing.assert_array_equal(forces, model.potential.evaluate(batch)["forces"].numpy())


def test_cells_relax(model: equimd.LoadedModel, alloy: Atoms) -> None:
    atoms = alloy.copy()
    atoms.calc = model.calculator()
    atoms.set_cell(atoms.cell.array * 1.02, scale_atoms=True)
    start, pressed = atoms.get_potential_energy(), np.abs(atoms.get_stress()).max()
    with BFGS(FrechetCellFilter(atoms), logfile=None) as search:
        search.run(fmax=0.02, steps=40)
    assert atoms.get_potential_energy() < start and np.abs(atoms.get_stress()).max() < 0.2 * pressed
    volumes, energies, traces = [], [], []
    for scale in (0.999, 1.0, 1.001):
        other = atoms.copy()
        other.set_cell(atoms.cell.array * 1.01 * scale, scale_atoms=True)
        other.calc = atoms.calc
        volumes.append(other.get_volume())
        energies.append(other.get_potential_energy())
        traces.append(other.get_stress()[:3].mean())
    slope = (energies[2] - energies[0]) / (volumes[2] - volumes[0])
    assert slope == pytest.approx(traces[1], rel=1e-3)


def test_forces_do_not_pay_for_it(model: equimd.LoadedModel, alloy: Atoms, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in ("evaluate", "evaluate_with_virial"):
        plain = getattr(model.potential, name)
        monkeypatch.setattr(model.potential, name, lambda b, n=name, p=plain: calls.append(n) or p(b))
    alloy.calc = model.calculator()
    alloy.get_forces()
    assert calls == ["evaluate"]
    stress = alloy.get_stress()
    alloy.rattle(0.01)
    alloy.get_forces()
    assert not np.array_equal(alloy.get_stress(), stress)
    assert calls == ["evaluate", "evaluate_with_virial", "evaluate_with_virial"]  # from then on in one pass
    alloy.calc.reset()
    alloy.get_forces()
    assert calls[3:] == ["evaluate"]


def test_what_has_no_stress(alloy: Atoms) -> None:
    direct = equimd.load(SAVED / "direct")
    water = read(SAVED / "water.start.xyz")
    box = water.copy()
    box.set_cell([8.0, 8.0, 8.0])
    box.pbc = True
    box.calc = direct.calculator()
    assert "stress" not in box.calc.implemented_properties
    with pytest.raises(PropertyNotImplementedError, match="forces that are the energy's gradient"):
        box.get_stress()
    assert direct.predict(box).stress is None
    batch = Batch.from_frames(Frames.from_ase([box]), direct.potential.cutoff)
    with pytest.raises(ModelError, match="no virial"):
        direct.potential.evaluate_with_virial(batch)
    water.calc = equimd.load(SAVED / "conservative").calculator()
    assert np.abs(water.get_forces()).max() > 0
    with pytest.raises(PropertyNotImplementedError, match="not periodic"):
        water.get_stress()


def test_predict_tells_it(alloy: Atoms, tmp_path: Path) -> None:
    write(tmp_path / "a.xyz", alloy)
    expected = equimd.load(SAVED / "periodic").predict(alloy).stress
    words = ["predict", str(SAVED / "periodic"), str(tmp_path / "a.xyz"), "--no-uncertainty"]
    told = CliRunner().invoke(app, [*words, "--json"])
    assert told.exit_code == 0, told.output
    np.testing.assert_allclose(json.loads(told.stdout)["structures"][0]["stress_eV_per_A3"], expected, atol=1e-8)
    assert CliRunner().invoke(app, [*words, "--out", str(tmp_path / "p.xyz")]).exit_code == 0
    np.testing.assert_allclose(read(tmp_path / "p.xyz").get_stress(), expected, atol=1e-7)


def served(run: str, atoms: Atoms, cells: list[float], folder: Path) -> tuple[list[dict[str, Any]], Any]:
    """What a server, in i-PI's protocol, gets for the structure in cells scaled so; and how the driver ends."""
    name, ended = f"equimd-{uuid.uuid4().hex[:12]}", []
    driver = Driver(equimd.load(SAVED / run).calculator(), atoms, folder, folder / "flagged.xyz")

    def drive() -> None:
        try:
            ended.append(driver.run(Address(unix=name)))
        except DataError as error:
            ended.append(error)

    client, results = threading.Thread(target=drive), []
    server = SocketServer(unixsocket=name, timeout=30)
    client.start()
    try:
        for scale in cells:
            moved = atoms.copy()
            moved.set_cell((atoms.cell.array if atoms.cell.volume else 9 * np.eye(3)) * scale, scale_atoms=True)
            results.append(server.calculate(moved))
    except OSError:
        pass
    server.close()
    client.join(40)
    return results, ended[0]


def test_the_virial_that_ipi_gets(alloy: Atoms, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.calculators.ipi.PATIENCE", 1.0)
    calculator = equimd.load(SAVED / "periodic").calculator()
    results, end = served("periodic", alloy, [1.0, 1.01, 0.98], tmp_path)
    assert isinstance(end, Served) and end.count == 3
    for scale, found in zip([1.0, 1.01, 0.98], results, strict=True):
        moved = alloy.copy()
        moved.set_cell(alloy.cell.array * scale, scale_atoms=True)
        moved.calc = calculator
        expected = -moved.get_volume() * moved.get_stress(voigt=False)
        np.testing.assert_allclose(found["virial"], expected, atol=1e-4)


def test_ipi_may_not_change_a_cell_without_a_virial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("equimd.calculators.ipi.PATIENCE", 1.0)
    water = read(SAVED / "water.start.xyz")
    results, end = served("direct", water, [1.0, 1.0], tmp_path)
    assert isinstance(end, Served) and end.count == 2 and not results[0]["virial"].any()
    results, end = served("direct", water, [1.0, 1.01], tmp_path)
    assert isinstance(end, DataError) and "i-PI changes the cell" in end.what and len(results) == 1
    assert (tmp_path / "EXIT").exists()


def test_the_guard_keeps_its_reference_while_a_cell_relaxes(alloy: Atoms) -> None:
    guarded = equimd.load(SAVED / "periodic").calculator(on_exceed="halt", threshold="off")
    alloy.set_cell(alloy.cell.array + np.diag([0.0, 0.0, 14.0]))  # room to fly apart
    alloy.calc = guarded
    start = alloy.get_positions()
    for _ in range(4):
        alloy.set_cell(alloy.cell.array * 1.01, scale_atoms=True)
        alloy.get_stress()
    np.testing.assert_allclose(guarded.guard.last_accepted, alloy.positions)
    alloy.set_cell(alloy.cell.array * 1.01)
    alloy.positions[0, 2] += 9.0
    with pytest.raises(GuardError, match="apart"):
        alloy.get_forces()
    other = alloy.copy()  # as good a start as any
    other.set_cell(alloy.cell.array * 1.5)
    other.positions = 1.2 * start
    other.calc = guarded
    assert np.isfinite(other.get_forces()).all()


class Sum(DifferentiableModel):
    """Gaussians of distances, cut off smoothly."""

    def __init__(self) -> None:
        super().__init__((), 3.0)
        self.last_layer = torch.nn.Linear(2, 1, bias=False)

    def pooled(self, positions: torch.Tensor, batch: Batch) -> torch.Tensor:
        pairs = neighbors_within(positions, batch, self.cutoff)
        r = pairs.lengths[:, None]
        each = torch.exp(-r * r.new_tensor([1.0, 2.0])) * (1 - (r / self.cutoff) ** 2) ** 3
        return each.new_zeros(batch.num_structures, 2).index_add(0, batch.batch[pairs.target], each)


def test_a_model_of_ones_own_has_it_and_is_checked_for_it() -> None:
    class Deaf(Sum):
        """Its lattice shifts are of another cell than the batch's."""

        def pooled(self, positions: torch.Tensor, batch: Batch) -> torch.Tensor:
            shifts = None if batch.edge_shifts is None else batch.edge_shifts.detach()
            return super().pooled(positions, replace(batch, edge_shifts=shifts))

    assert "virial" in check_model(Sum())
    with pytest.raises(ConformanceError, match="the virial beside differences"):
        check_model(Deaf())
