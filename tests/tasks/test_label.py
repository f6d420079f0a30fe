"""Labelling frames: the right method for each frame, resumable, failures named."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from ase.calculators.calculator import Calculator, all_changes

from equimd.data import ArrayDataset, Frames, open_dataset
from equimd.data.convert import write_frames
from equimd.errors import ConfigError, DataError
from equimd.tasks.label.task import label


class Counting(Calculator):
    """Energy 7 eV per unit charge plus the sum of squared positions; fails where an atom is beyond 50 A."""

    implemented_properties = ("energy", "forces")  # type: ignore[assignment]
    calls = 0

    def calculate(self, atoms=None, properties=None, system_changes=all_changes) -> None:  # type: ignore[no-untyped-def]
        super().calculate(atoms, properties, system_changes)
        type(self).calls += 1
        if atoms.positions.max() > 50:
            raise NotImplementedError("too far")
        energy = float((atoms.positions**2).sum()) + 7.0 * atoms.info.get("charge", 0)
        self.results = {"energy": energy, "forces": -2.0 * atoms.positions}


@pytest.fixture(autouse=True)
def _module(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("some_package")
    module.Counting = Counting  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "some_package", module)
    Counting.calls = 0


def _frames(n: int = 250) -> Frames:
    x = np.random.default_rng(0).normal(size=(n, 3, 3))
    numbers = np.tile([8, 1, 1], (n, 1))
    numbers[::5, 2] = 0  # every fifth frame has two atoms
    charge = (np.arange(n) % 3 == 0).astype(np.int64)
    return Frames.build(numbers, x, np.full(n, 99.0), charge=charge)


def test_any_ase_calculator_labels_frames(tmp_path: Path) -> None:
    frames = _frames()
    data = ArrayDataset(frames, trajectory=np.arange(250) // 100)
    done = label(data, tmp_path / "out.h5", calculator="some_package:Counting")
    assert (done.frames, done.failed) == (250, ())
    assert Counting.calls == 250
    out = open_dataset(tmp_path / "out.h5")
    block = out.frames()
    np.testing.assert_allclose(block.energy, (frames.positions**2).sum((1, 2)) + 7.0 * frames.charge, atol=1e-12)
    np.testing.assert_array_equal(block.forces, -2 * frames.positions)
    np.testing.assert_array_equal(out.trajectory, data.trajectory)
    np.testing.assert_array_equal(block.charge, frames.charge)
    assert not (tmp_path / "out.h5.parts").exists()


def test_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    frames = _frames()
    frames.positions[230] += 100.0
    with pytest.raises(DataError, match="frame 230"):
        label(ArrayDataset(frames), tmp_path / "out.h5", calculator="some_package:Counting")
    assert not (tmp_path / "out.h5").exists()
    Counting.calls = 0
    done = label(ArrayDataset(frames), tmp_path / "out.h5", calculator="some_package:Counting", keep_going=True)
    assert Counting.calls == 50  # only the batch that was not done
    assert done.failed == (230,)
    block = open_dataset(tmp_path / "out.h5").frames()
    np.testing.assert_array_equal(block.positions, frames.take(np.delete(np.arange(250), 230)).positions)


def test_failing_on_every_frame_is_an_error(tmp_path: Path) -> None:
    frames = _frames(3)
    frames.positions[:] += 100.0
    with pytest.raises(DataError, match="failed on all 3"):
        label(ArrayDataset(frames), tmp_path / "o.h5", calculator="some_package:Counting", keep_going=True)


@pytest.mark.parametrize("name", ["nothing", "no_such_package:Thing", "some_package:Thing"])
def test_unknown_calculators_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="calculator"):
        label(ArrayDataset(_frames(3)), tmp_path / "o.h5", calculator=name)


def test_gfn2_agrees_with_tblites_own_ase_calculator(tmp_path: Path) -> None:
    tblite = pytest.importorskip("tblite.ase")
    from ase.build import molecule

    atoms = molecule("CH3CH2OH")
    frames = Frames.from_ase([atoms])
    done = label(ArrayDataset(frames), tmp_path / "out.xyz")
    assert done.theory == "GFN2-xTB"
    block = open_dataset(tmp_path / "out.xyz").frames()
    atoms.calc = tblite.TBLite(method="GFN2-xTB", accuracy=0.01, verbosity=0)
    assert block.energy[0] == pytest.approx(atoms.get_potential_energy(), abs=1e-4)
    np.testing.assert_allclose(block.forces[0], atoms.get_forces(), atol=1e-5)


def test_extended_xyz_round_trips_state_and_cell(tmp_path: Path) -> None:
    frames = Frames.build(
        np.array([8, 1]), np.random.default_rng(0).normal(size=(2, 2, 3)), np.array([-2000.1234567890123, np.nan]),
        cell=np.tile(np.eye(3) * 7.5, (2, 1, 1)), pbc=np.ones((2, 3), bool),
        charge=np.array([-1, 0]), spin=np.array([2, 1]),
    )  # fmt: skip
    write_frames(tmp_path / "a.xyz", ArrayDataset(frames))
    back = open_dataset(tmp_path / "a.xyz").frames()
    assert back.energy[0] == frames.energy[0]
    assert np.isnan(back.energy[1])
    assert not back.has_forces.any()
    np.testing.assert_allclose(back.positions, frames.positions, atol=1e-12)
    for name in ("cell", "pbc", "charge", "spin"):
        np.testing.assert_array_equal(getattr(back, name), getattr(frames, name))
