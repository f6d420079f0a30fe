"""DeePMD's npy folders, and the databases of ASE and SchNetPack."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import ase.db
import numpy as np
import pytest
from ase import Atoms

from equimd.data import open_dataset
from equimd.data.dataset import notes
from equimd.errors import DataError
from equimd.units import KCAL_PER_MOL

from .molecules import ETHANOL, assert_same, ethanol


def _deepmd(folder: Path, sets: int = 2, **changes: np.ndarray | None) -> Path:
    """A DeePMD system of ethanol frames in a periodic box."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "type.raw").write_text("\n".join(str(t) for t in (0, 0, 1, 2, 2, 2, 2, 2, 2)))
    (folder / "type_map.raw").write_text("C\nO\nH\n")
    block = ethanol(10 * sets)
    for k in range(sets):
        rows = slice(10 * k, 10 * k + 10)
        arrays = {
            "coord": block.positions[rows].reshape(10, -1), "force": block.forces[rows].reshape(10, -1),
            "energy": block.energy[rows], "box": np.tile(np.eye(3).ravel() * 12.0, (10, 1)), **changes,
        }  # fmt: skip
        (folder / f"set.{k:03d}").mkdir(exist_ok=True)
        for name, array in arrays.items():
            path = folder / f"set.{k:03d}" / f"{name}.npy"
            path.unlink(missing_ok=True)
            if array is not None:
                np.save(path, array)
    return folder


def test_a_deepmd_system(tmp_path: Path) -> None:
    data = open_dataset(_deepmd(tmp_path / "system"))
    block = data.frames()
    assert data.info.format == "deepmd-npy" and data.info.units.source == "stated" and data.trajectory.max() == 0
    assert block.numbers[0].tolist() == ETHANOL.tolist() and block.pbc.all() and block.cell[7, 1, 1] == 12.0
    np.testing.assert_array_equal(block.forces, ethanol(20).forces)
    (tmp_path / "system" / "nopbc").touch()
    assert_same(open_dataset(tmp_path / "system").frames(), ethanol(20))


def test_several_systems_without_forces_and_with_mixed_types(tmp_path: Path) -> None:
    _deepmd(tmp_path / "a", sets=1, force=None)
    real = np.tile(np.array([0, 0, 1, 2, 2, 2, 2, -1, -1]), (10, 1))
    _deepmd(tmp_path / "b", sets=1, real_atom_types=real)
    data = open_dataset(tmp_path)
    assert data.trajectory.tolist() == [0] * 10 + [1] * 10 and data.n_atoms.tolist() == [9] * 10 + [7] * 10
    assert data.frames().has_forces.tolist() == [False] * 10 + [True] * 10


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"coord": None}, "coord.npy is missing"),
        ({"box": None}, "box.npy is missing"),
        ({"coord": np.zeros((10, 26))}, "expected (frames, 27)"),
        ({"energy": np.zeros(9)}, "expected (10, 1)"),
        ({"energy": np.full(10, np.nan)}, "10 energies are NaN"),
        ({"box": np.zeros((10, 9))}, "absent or zero"),
        ({"force": np.array([["x"] * 27] * 10)}, "not numbers"),
        ({"real_atom_types": np.full((10, 9), 7)}, "types beyond"),
    ],
)
def test_deepmd_systems_that_do_not_fit(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(DataError) as caught:
        open_dataset(_deepmd(tmp_path, 1, **changes))
    assert words in str(caught.value)


def test_deepmd_types_need_elements(tmp_path: Path) -> None:
    (_deepmd(tmp_path) / "type_map.raw").unlink()
    with pytest.raises(DataError, match="which elements"):
        open_dataset(tmp_path)
    (tmp_path / "type_map.raw").write_text("C\nA1\nH\n")
    with pytest.raises(DataError, match="'A1' is no element"):
        open_dataset(tmp_path)


def _schnetpack(path: Path, **units: str) -> Path:
    """A database as SchNetPack's ASEAtomsData writes it."""
    block = ethanol(10)
    with ase.db.connect(path) as database:
        for k in range(10):
            data = {"energy": np.array([block.energy[k] / KCAL_PER_MOL]), "forces": block.forces[k] / KCAL_PER_MOL,
                    "total_charge": np.array([0.0])}  # fmt: skip
            database.write(Atoms(ETHANOL, block.positions[k]), data=data)
    stated = {"energy": "kcal/mol", "forces": "kcal/mol/Ang", **units}
    ase.db.connect(path).metadata = {"_distance_unit": "Ang", "_property_unit_dict": stated}
    return path


def test_a_schnetpack_database(tmp_path: Path) -> None:
    data = open_dataset(_schnetpack(tmp_path / "a.db"))
    assert data.info.format == "schnetpack-db" and data.info.units.energy == "kcal/mol"
    assert data.info.units.source == "stated"
    assert_same(data.frames(), ethanol(10), rtol=1e-12)
    assert data.frames().charge_stated.all()
    renamed = (tmp_path / "a.db").rename(tmp_path / "frames.dat")
    assert len(open_dataset(renamed)) == 10
    with pytest.raises(DataError, match="energy unit 'furlong' is not known"):
        open_dataset(_schnetpack(tmp_path / "b.db", energy="furlong"))


def test_several_energies_of_a_database(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as database:
        for k in range(3):
            database.write(Atoms("H2", [[0, 0, 0], [0, 0, 0.74]]), data={"energy_U0": -31.7 - k, "energy_U": -31.0})
    data = open_dataset(tmp_path / "a.db")
    assert data.info.extra["columns"]["energy"] == "energy_U0" and notes(data)
    assert open_dataset(tmp_path / "a.db", energy_key="energy_U").frames().energy.tolist() == [-31.0] * 3


def test_databases_that_are_none(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "a.db") as connection:
        connection.execute("CREATE TABLE notes (text TEXT)")
    with pytest.raises(DataError, match="not one of ASE's databases"):
        open_dataset(tmp_path / "a.db")
    path = _schnetpack(tmp_path / "b.db")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="not a readable database"):
        open_dataset(path)
    path.write_bytes(whole)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = 'text' WHERE id = 3")
    with pytest.raises(DataError, match=r"frame 2: a row lacks its arrays"):
        open_dataset(path)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = zeroblob(216), data = ?", (json.dumps({"energy": [1]}),))
        connection.execute("UPDATE systems SET data = zeroblob(4) WHERE id = 1")
    with pytest.raises(DataError):
        open_dataset(path)
