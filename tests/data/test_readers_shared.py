"""Every file of the reference data opens, in the right unit, with the right numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.data import fit_atomic_energies, open_dataset
from equimd.units import KCAL_PER_MOL

KCAL = "kcal/mol"
# file: format, unit of its energies, frames, atoms (min, max), forces
FILES = {
    "acac/isolated_atoms.xyz": ("extxyz", "eV", 3, (1, 1), False),
    "acac/test_MD_300K.xyz": ("extxyz", "eV", 650, (15, 15), True),
    "acac/test_MD_600K.xyz": ("extxyz", "eV", 650, (15, 15), True),
    "acac/test_dihedral.xyz": ("extxyz", "eV", 45, (15, 15), False),
    "acac/train_300K.xyz": ("extxyz", "eV", 500, (15, 15), True),
    "acac/train_600K.xyz": ("extxyz", "eV", 500, (15, 15), True),
    "ccsd/ethanol_ccsd_t-train.npz": ("npz-sgdml", KCAL, 1000, (9, 9), True),
    "ethanol_botnet/isolated_atoms.xyz": ("extxyz", "eV", 4, (1, 1), False),
    "ethanol_botnet/test_H_removal.xyz": ("extxyz", "eV", 60, (9, 9), False),
    "ethanol_botnet/test_norm_mode_3005.xyz": ("extxyz", "eV", 18, (9, 9), False),
    "md17/md17_ethanol_2000.npz": ("npz-sgdml", KCAL, 2000, (9, 9), True),
    "omol25/SPICE_small_with_charges.xyz": ("extxyz", "eV", 5, (24, 24), True),
    "omol25/structs_noble_gas_compounds.xyz": ("extxyz", "eV", 18, (4, 23), True),
    "omol25/aselmdb": ("omol25-aselmdb", "eV", 23, (4, 24), True),
    "omol25/aselmdb/spice_sample.aselmdb": ("omol25-aselmdb", "eV", 5, (24, 24), True),
    "qm7x/qm7x_250_small.npz": ("npz-padded", "eV", 2500, (4, 23), True),
    **{
        f"rmd17/rmd17_{molecule}_{part}_01.npz": ("npz-rmd17", KCAL, 1000, (n, n), True)
        for molecule, n in (("aspirin", 21), ("ethanol", 9), ("malonaldehyde", 9), ("salicylic", 16))
        for part in ("train", "test")
    },
}


def test_the_list_is_complete(shared_data: Path) -> None:
    files = [p for p in shared_data.rglob("*") if p.suffix in (".xyz", ".npz", ".aselmdb")]
    found = {str(p.relative_to(shared_data)) for p in files}
    listed = set(FILES) | {"omol25/aselmdb/metadata.npz", "omol25/aselmdb/noble_gas_sample.aselmdb"}
    assert {f for f in found if not f.startswith(("cases/", "traps/"))} <= listed


@pytest.mark.parametrize("name", FILES)
def test_opens_in_the_right_unit(shared_data: Path, name: str) -> None:
    file_format, unit, n_frames, (fewest, most), forces = FILES[name]
    data = open_dataset(shared_data / name)
    assert data.info.format == file_format and data.info.units.energy == unit
    assert data.info.units.length == "Angstrom" and data.info.units.source in ("stated", "inferred")
    assert len(data) == n_frames and (data.n_atoms.min(), data.n_atoms.max()) == (fewest, most)
    block = data.frames()
    assert block.has_energy.all() and block.has_forces.all() == forces and block.has_forces.any() == forces
    assert set(np.unique(block.numbers)) - {0} == set(data.elements)


def test_numbers_are_those_of_the_files(shared_data: Path) -> None:
    name = "md17/md17_ethanol_2000.npz"
    raw, block = np.load(shared_data / name), open_dataset(shared_data / name).frames()
    np.testing.assert_allclose(block.energy, raw["E"][:, 0] * KCAL_PER_MOL, rtol=1e-15)
    np.testing.assert_allclose(block.forces, raw["F"] * KCAL_PER_MOL, rtol=1e-14)
    assert np.array_equal(block.positions, raw["R"])

    name = "rmd17/rmd17_aspirin_test_01.npz"
    raw = np.load(shared_data / name)
    for labels, prefix in (("revised", ""), ("md17", "old_")):
        block = open_dataset(shared_data / name, labels=labels).frames()
        np.testing.assert_allclose(block.energy, raw[prefix + "energies"] * KCAL_PER_MOL, rtol=1e-15)
        np.testing.assert_allclose(block.forces, raw[prefix + "forces"] * KCAL_PER_MOL, rtol=1e-14)

    raw = np.load(shared_data / "qm7x" / "qm7x_250_small.npz")
    block = open_dataset(shared_data / "qm7x" / "qm7x_250_small.npz").frames()
    assert np.array_equal(block.energy, raw["E"][:, 0]) and np.array_equal(block.forces, raw["F"])


def test_the_published_checksum_holds(shared_data: Path) -> None:
    assert open_dataset(shared_data / "ccsd" / "ethanol_ccsd_t-train.npz").info.extra["md5_verified"] is True


def test_atomic_energies_of_many_compositions(shared_data: Path) -> None:
    """QM7-X: sums of fitted atomic energies come within the differences of binding of the total energies."""
    data = open_dataset(shared_data / "qm7x" / "qm7x_250_small.npz")
    fitted, block = fit_atomic_energies(data, np.arange(len(data))), data.frames()
    rest = (block.energy - fitted[block.numbers].sum(1)) / block.n_atoms
    assert np.sqrt((rest**2).mean()) < 0.5  # eV per atom, of 495 on average
