"""Small inputs that public bug reports describe (../shared/data/cases): the right number, or the cause and what to try.

One list for everything that reads them; an input that is not here fails the test that the list is complete.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.data.check import inspect
from equimd.data.dataset import notes
from equimd.data.readers.structures import read_structures
from equimd.errors import DataError
from equimd.training.survey import check_pairs
from equimd.units import HARTREE


@pytest.fixture(scope="module")
def cases(shared_data: Path) -> Path:
    folder = shared_data / "cases"
    if not folder.is_dir():
        pytest.skip(f"no cases in {folder}")
    return folder


def _frames(n: int, energy: float | None = None, **expected: Any) -> Callable[[Path], None]:
    """So many frames; the first one's energy (eV); whether they are periodic; which columns; what the notes say."""

    def check(path: Path) -> None:
        data = open_dataset(path)
        block = data.frames()
        assert len(block) == n
        if energy is not None:
            assert block.energy[0] == pytest.approx(energy, abs=1e-9)
        assert bool(block.pbc.all()) == expected.get("periodic", False)
        if "columns" in expected:
            assert data.info.extra["columns"] == expected["columns"]
        assert expected.get("note", "") in "; ".join(notes(data))
        report = inspect(open_dataset(path, check_units=False))
        assert not [p for p in report.problems if p.severity == "error" or "energy_force" in p.code]

    return check


def _refused(words: str) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        for read in (open_dataset, read_structures):
            with pytest.raises(DataError, match=words) as caught:
                read(path)
            assert str(path) in str(caught.value) and caught.value.hint

    return check


def _hartree_bohr(path: Path) -> None:
    """Inspect and train refuse it and say what to state; stated, all is well."""
    from equimd.config import parse_config

    report = inspect(open_dataset(path, check_units=False))
    assert [p.code for p in report.problems if p.severity == "error"] == ["energy_force_mismatch"]
    config = parse_config({"data": str(path)})
    with pytest.raises(DataError, match=r"--force-unit Hartree/Bohr[\s\S]*--no-check-pairs"):
        check_pairs(config, open_dataset(path))
    data = open_dataset(path, energy_unit="Hartree", force_unit="Hartree/Bohr")
    assert check_pairs(config, data) == []
    assert data.frames().energy[0] == pytest.approx(-17.1660256586 * HARTREE)
    assert inspect(data).statistics["energy_force_slope"] == pytest.approx(1, abs=0.02)


def _heavy_water(path: Path) -> None:
    (atoms,) = read_structures(path)
    assert atoms.numbers.tolist() == [8, 1, 1]
    np.testing.assert_allclose(atoms.get_masses()[1:], 2.0141, atol=1e-4)
    assert open_dataset(path).elements == (1, 8)


def _states(path: Path) -> None:
    data = open_dataset(path)
    block = data.frames()
    assert {tuple(s) for s in block.charge_spin.tolist()} == {(-1, 1), (0, 1), (0, 2), (1, 2)}
    assert block.charge_stated.all()
    report = inspect(data)
    assert [p.code for p in report.problems if p.severity != "note"] == ["mixed_charge_spin"]
    assert report.statistics["energy_force_slope"] == pytest.approx(1, abs=0.05)


def _state(charge: int, spin: int, stated: bool) -> Callable[[Path], None]:
    def check(path: Path) -> None:
        block = open_dataset(path).frames()
        assert (block.charge[0], block.spin[0], block.charge_stated[0]) == (charge, spin, stated)

    return check


def _fixed_atoms(path: Path) -> None:
    (atoms,) = read_structures(path)
    assert atoms.constraints[0].index.tolist() == [0, 1]


FREE = {"energy": "free_energy", "forces": "forces"}
CASES: dict[str, Callable[[Path], None]] = {
    "al64.extxyz": _frames(1, periodic=True),
    "al8.extxyz": _frames(1, periodic=True),
    "al8_same_crystal_skewed.extxyz": _frames(1, periodic=True),
    "atoms_with_info_energy.traj": _frames(1, -1.0),
    "blank_line_between.xyz": _frames(40, -137.94544052333694, columns=FREE, note="'free_energy' is taken"),
    "byte_order_mark.xyz": _frames(40, -137.94544052333694, columns=FREE),
    "charge_spin_not_stated.xyz": _state(0, 0, False),
    "charge_spin_stated.xyz": _state(0, 1, True),
    "charge_spin_train.xyz": _states,
    "dummy_atom_first.xyz": _refused("frame 0, atom 0: 'X' is a dummy atom"),
    "dummy_atom_last.xyz": _refused("frame 0, atom 9: 'X' is a dummy atom"),
    "energy_and_REF_forces.xyz": _frames(
        40, -137.94544052333694, columns={"energy": "REF_energy", "forces": "REF_forces"}, note="not used: energy"
    ),
    "h2o_gfn2.h5": _frames(200),
    "hartree_bohr_forces.xyz": _hartree_bohr,
    "hartree_comment.xyz": _frames(40, -17.1660256586 * HARTREE, note="CP2K: read in Hartree"),
    "lattice_no_pbc.npz": _frames(60, periodic=True, note="periodic"),
    "lower_case_lattice.xyz": _frames(60, 0.06136088, periodic=True),
    "move_mask.extxyz": _fixed_atoms,
    "slab.extxyz": lambda path: np.testing.assert_equal(open_dataset(path).frames().pbc, [[True, True, False]]),
    "symbol_D.xyz": _heavy_water,
    "upper_case_lattice.xyz": _frames(60, 0.06136088, periodic=True),
    "zero_lattice.xyz": _frames(2, -31.7),
}


@pytest.mark.parametrize("name", CASES)
def test_case(cases: Path, name: str) -> None:
    CASES[name](cases / name)


def test_every_case_is_listed(cases: Path) -> None:
    assert {p.name for p in cases.iterdir()} <= set(CASES)
