"""Molecules by file, by name, and by SMILES."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from ase.build import molecule
from ase.io import write

from equimd.errors import DataError
from equimd.tasks.learn.molecules import conformers


def test_names_and_files(tmp_path: Path) -> None:
    (ethanol,) = conformers("ethanol")
    assert ethanol.get_chemical_formula() == "C2H6O"
    write(tmp_path / "water.xyz", molecule("H2O"))
    (water,) = conformers(str(tmp_path / "water.xyz"))
    np.testing.assert_allclose(water.positions, molecule("H2O").positions, atol=1e-6)


def test_several_structures_of_a_file_are_conformers(tmp_path: Path) -> None:
    path, moved = tmp_path / "several.xyz", [molecule("H2O") for _ in range(10)]
    for k, atoms in enumerate(moved):
        atoms.positions[0, 0] += 0.01 * k
    write(path, moved[:3])
    assert [round(100 * a.positions[0, 0]) for a in conformers(str(path))] == [0, 1, 2]
    assert [round(100 * a.positions[0, 0]) for a in conformers(f"{path}@-1")] == [2]
    write(path, [*moved[:2], molecule("NH3")])
    with pytest.raises(DataError, match="structure 2: is of another molecule"):
        conformers(str(path))
    write(path, moved)
    with pytest.raises(DataError, match="holds 10 structures.*8 conformers at most"):
        conformers(str(path))


def test_smiles_give_conformers() -> None:
    pytest.importorskip("rdkit")
    found = conformers("CCC(C)O", seed=1)
    assert len(found) > 1 and all(a.get_chemical_formula() == "C4H10O" for a in found)
    again = conformers("CCC(C)O", seed=1)
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a.positions, b.positions)
    (hydroxide, *_) = conformers("[OH-]")
    assert hydroxide.info["charge"] == -1 and "spin" not in hydroxide.info
    assert [a.get_chemical_formula() for a in conformers("C")] == ["CH4"]
    (methyl, *_) = conformers("[CH3]")
    assert methyl.info["spin"] == 2


def test_what_is_none_of_them_is_refused(tmp_path: Path) -> None:
    for name in ("no such thing", str(tmp_path / "missing.xyz")):
        with pytest.raises(DataError):
            conformers(name)
    write(tmp_path / "atom.xyz", molecule("H2O")[:1])
    with pytest.raises(DataError, match="single atom"):
        conformers(str(tmp_path / "atom.xyz"))
    crystal = molecule("H2O")
    crystal.cell, crystal.pbc = np.eye(3) * 9, True
    write(tmp_path / "cell.extxyz", crystal)
    with pytest.raises(DataError, match="periodic"):
        conformers(str(tmp_path / "cell.extxyz"))
