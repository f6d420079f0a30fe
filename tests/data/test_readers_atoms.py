"""Extended XYZ and what ASE reads: key names, raw forces, charge and spin, and files that break the convention."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.constraints import FixAtoms

from equimd.data import open_dataset
from equimd.data.dataset import time_index
from equimd.errors import DataError, UnitsError

from .molecules import assert_same, ethanol, mixed


def _write(path: Path, block, energy: str = "energy", forces: str = "forces", file_format: str = "extxyz") -> Path:
    """Frames under chosen key names."""
    images = block.to_ase()
    for atoms in images:
        results = atoms.calc.results if atoms.calc else {}
        atoms.calc = None
        if "energy" in results:
            atoms.info[energy] = results["energy"]
        if "forces" in results:
            atoms.arrays[forces] = results["forces"]
    ase.io.write(path, images, format=file_format)
    return path


@pytest.mark.parametrize(("energy", "forces"), [("energy", "forces"), ("REF_energy", "REF_forces"), ("Energy", "F")])
def test_labels_under_their_names(tmp_path: Path, energy: str, forces: str) -> None:
    data = open_dataset(_write(tmp_path / "a.xyz", mixed(), energy, forces))
    assert data.info.format == "extxyz" and data.info.extra["columns"] == {"energy": energy, "forces": forces}
    assert_same(data.frames(), mixed(), rtol=1e-7)


def test_two_energies_that_differ_need_the_standard_name(tmp_path: Path) -> None:
    images = ethanol(3).to_ase()
    for atoms in images:
        atoms.info["REF_energy"], atoms.info["dft_energy"] = atoms.get_potential_energy(), -4211.0
    ase.io.write(tmp_path / "a.xyz", images)
    assert open_dataset(tmp_path / "a.xyz").info.extra["columns"]["energy"] == "energy"
    for atoms in images:
        atoms.calc = None
    ase.io.write(tmp_path / "a.xyz", images)
    with pytest.raises(DataError, match="REF_energy, dft_energy"):
        open_dataset(tmp_path / "a.xyz")


def test_constrained_atoms_keep_their_forces(tmp_path: Path) -> None:
    images = ethanol(3).to_ase()
    for atoms in images:
        atoms.set_constraint(FixAtoms([0, 1, 2]))
    path = tmp_path / "a.traj"
    ase.io.write(path, images)
    assert np.abs(ase.io.read(path).get_forces()[:3]).max() == 0  # what a plain read would give
    data = open_dataset(path)
    assert data.info.format == "ase-traj"
    assert_same(data.frames(), ethanol(3))
    ase.io.write(tmp_path / "a.xyz", images, columns=["symbols", "positions", "move_mask", "forces"])
    np.testing.assert_allclose(open_dataset(tmp_path / "a.xyz").frames().forces, ethanol(3).forces, atol=1e-7)


def test_ase_database_and_renamed_file(tmp_path: Path) -> None:
    ase.io.write(tmp_path / "a.db", ethanol(3).to_ase())
    assert_same(open_dataset(tmp_path / "a.db").frames(), ethanol(3), rtol=1e-12)
    _write(tmp_path / "a.xyz", ethanol(3)).rename(tmp_path / "frames.dat")
    assert open_dataset(tmp_path / "frames.dat").info.format == "extxyz"


def test_charge_spin_cell_trajectory_and_time(tmp_path: Path) -> None:
    images = ethanol(4).to_ase()
    for k, atoms in enumerate(images):
        atoms.info.update(charge=-1, multiplicity=2, trajectory="ab"[k // 2], step=10 * k)
        atoms.set_cell([9.0, 9.0, 9.0])
        atoms.pbc = k < 2
    ase.io.write(tmp_path / "a.xyz", images)
    data = open_dataset(tmp_path / "a.xyz")
    block = data.frames()
    assert np.array_equal(block.charge_spin, np.tile([-1, 2], (4, 1)))
    assert block.cell[0, 0, 0] == 9.0 and not block.cell[2:].any()
    assert data.trajectory.tolist() == [0, 0, 1, 1] and time_index(data).tolist() == [0, 10, 20, 30]
    for atoms in images:
        atoms.info["charge"] = 0.5
    ase.io.write(tmp_path / "a.xyz", images)
    with pytest.raises(DataError, match=r"charge is '0\.5'"):
        open_dataset(tmp_path / "a.xyz")


@pytest.mark.parametrize("what", ["energy", "forces", "positions"])
def test_nan_is_refused(tmp_path: Path, what: str) -> None:
    block = ethanol(3)
    path = _write(tmp_path / "a.xyz", block)
    text = path.read_text()
    value = {
        "energy": f"energy={block.energy[1]}",
        "forces": f"{block.forces[1, 0, 0]:16.8f}",
        "positions": f"{block.positions[1, 0, 0]:16.8f}",
    }[what]
    assert text.count(value) == 1
    path.write_text(text.replace(value, "energy=nan" if what == "energy" else f"{'nan':>16}"))
    with pytest.raises(DataError, match="NaN") as caught:
        open_dataset(path)
    assert "frame" in str(caught.value)


def test_truncated_and_empty(tmp_path: Path) -> None:
    text = _write(tmp_path / "a.xyz", ethanol(3)).read_text()
    (tmp_path / "a.xyz").write_text(text[:-200])
    with pytest.raises(DataError, match=r"the file ends within frame 2, after 8 of 9 atoms"):
        open_dataset(tmp_path / "a.xyz")
    (tmp_path / "a.xyz").write_text("0\n\n")
    with pytest.raises(DataError):
        open_dataset(tmp_path / "a.xyz")


def test_traps_are_refused_and_open_when_stated(shared_data: Path) -> None:
    for name, unit in (("md17_ethanol_in_kcal_mol", "kcal/mol"), ("rmd17_aspirin_in_meV", "meV")):
        path = shared_data / "traps" / f"{name}.xyz"
        with pytest.raises(UnitsError, match=f"--energy-unit {unit}") as caught:
            open_dataset(path)
        assert caught.value.code == "units_mismatch"
    seen = open_dataset(path, check_units=False)
    assert seen.info.units.source == "unknown" and seen.info.extra["units_problem"]["probable_energy_unit"] == "meV"
    data = open_dataset(path, energy_unit=unit)
    assert -17618.0 < data.frames([0]).energy[0] < -17617.0
