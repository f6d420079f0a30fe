"""The file of predictions: constraints stay, labels of the structures make room."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.constraints import FixAtoms, FixCartesian

from equimd.calculators import Prediction
from equimd.data.readers.structures import read_structures
from equimd.tasks.predict import write_predictions

FORCES = np.arange(6.0).reshape(2, 3)


def _predicted() -> Prediction:
    return Prediction(energy=-31.5, forces=FORCES)


@pytest.mark.parametrize("constraint", [FixAtoms([1]), FixCartesian(1, mask=(True, False, True))])
def test_constraints_stay(tmp_path: Path, constraint: object) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], constraint=constraint)
    write_predictions(tmp_path / "p.xyz", [atoms], [_predicted()])
    (again,) = read_structures(tmp_path / "p.xyz")
    assert [c.todict() for c in again.constraints] == [c.todict() for c in atoms.constraints]
    assert again.calc.results["energy"] == -31.5
    np.testing.assert_array_equal(again.calc.results["forces"], FORCES)  # those of fixed atoms, too


@pytest.mark.parametrize("keep", [False, True])
def test_labels_in_info_and_arrays_make_room(tmp_path: Path, keep: bool) -> None:
    atoms = Atoms("H2", [[0, 0, 0], [0, 0, 0.74]], info={"energy": -1.0, "note": "a"})
    atoms.arrays["forces"] = np.ones((2, 3))
    write_predictions(tmp_path / "p.xyz", [atoms], [_predicted()], keep_labels=keep)
    again = ase.io.read(tmp_path / "p.xyz")
    assert again.get_potential_energy() == -31.5 and again.info["note"] == "a"
    assert again.info.get("energy_ref") == (-1.0 if keep else None) and ("forces_ref" in again.arrays) == keep
    assert atoms.info["energy"] == -1.0 and not atoms.calc  # the caller's structure is left alone
