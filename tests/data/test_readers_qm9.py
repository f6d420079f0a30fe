"""QM9: the published text format with its Mathematica exponents, and HDF5 exports of it and its relatives."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.errors import ConfigError, DataError
from equimd.units import BOHR, HARTREE

from .molecules import ETHANOL, ethanol

# dsgdb9nsd_000001.xyz (methane) in the published layout: tabs, trailing tab, frequencies, SMILES, InChI
METHANE = (
    "5\n"
    "gdb 1\t157.7118\t157.70997\t157.70699\t0.\t13.21\t-0.3877\t0.1171\t0.5048\t35.3641\t0.044749\t-40.47893\t"
    "-40.476062\t-40.475117\t-40.498597\t6.469\t\n"
    "C\t-0.0126981359\t 1.0858041578\t 0.0080009958\t-0.535689\n"
    "H\t 2.150416*^-3\t-0.0060313176\t 1.9761204*^-3\t 0.133921\n"
    "H\t 1.0117308433\t 1.4637511618\t 2.765748*^-4\t 0.133922\n"
    "H\t-0.540815069\t 1.4475266138\t-0.8766437152\t 0.133923\n"
    "H\t-0.5238136345\t 1.4379326443\t 0.9063972942\t 0.133923\n"
    "1341.307\t1341.3284\t1341.365\t1562.6731\t1562.7453\t3038.3205\t3151.6034\t3151.6788\t3151.7078\n"
    "C\tC\t\n"
    "InChI=1S/CH4/h1H4\tInChI=1S/CH4/h1H4\n"
)
WATER = (
    "3\n"
    "gdb 3\t799.58812\t437.90386\t282.94545\t1.8511\t6.31\t-0.2928\t0.0687\t0.3615\t19.0002\t0.021375\t-76.404702\t"
    "-76.401867\t-76.400922\t-76.422349\t6.002\t\n"
    "O\t-0.0343604951\t 0.9775395708\t 0.0076015923\t-0.589706\n"
    "H\t 0.0647664923\t 0.0205721989\t 0.0015346341\t 0.294853\n"
    "H\t 0.8717903737\t 1.3007924048\t 0.0006931336\t 0.294853\n"
    "1671.4222\t3803.6305\t3907.698\n"
    "O\tO\t\n"
    "InChI=1S/H2O/h1H2\tInChI=1S/H2O/h1H2\n"
)


def test_one_molecule_with_exponents(tmp_path: Path) -> None:
    path = tmp_path / "dsgdb9nsd_000001.xyz"
    path.write_text(METHANE)
    data = open_dataset(path)
    block = data.frames()
    assert data.info.format == "qm9" and (data.info.units.energy, data.info.units.source) == ("Hartree", "stated")
    assert block.numbers.tolist() == [[6, 1, 1, 1, 1]]
    assert block.positions[0, 1].tolist() == [2.150416e-3, -0.0060313176, 1.9761204e-3]
    np.testing.assert_allclose(block.energy, -40.47893 * HARTREE, rtol=1e-14)
    assert not block.has_forces.any() and data.info.extra["energies_only"] is True


def test_a_folder_in_numeric_order_and_several_molecules_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for name, text in (("10", METHANE), ("9", WATER), ("2", METHANE)):
        (tmp_path / "many" / f"dsgdb9nsd_{name}.xyz").write_text(text)
    assert open_dataset(tmp_path / "many").n_atoms.tolist() == [5, 3, 5]
    joined = tmp_path / "all.txt"
    joined.write_text(WATER + METHANE + WATER)
    data = open_dataset(joined)
    assert data.n_atoms.tolist() == [3, 5, 3] and data.elements == (1, 6, 8)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("H\t-0.523", "Q\t-0.523", "cannot be read"),
        ("-40.47893", "none", "cannot be read"),
        ("-40.47893", "nan", "energy is nan"),
        ("\t-0.8766437152\t 0.133923", "", "coordinates"),
    ],
)
def test_broken_lines_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "a.xyz"
    path.write_text(METHANE.replace(old, new))
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert "line" in str(caught.value)


def test_truncated_molecule(tmp_path: Path) -> None:
    path = tmp_path / "a.xyz"
    path.write_text("".join(METHANE.splitlines(keepends=True)[:4]))
    with pytest.raises(DataError, match="ends within a molecule"):
        open_dataset(path)


def test_hdf5_export_with_padded_arrays(tmp_path: Path) -> None:
    path = tmp_path / "qm9.hdf5"
    with h5py.File(path, "w") as file:
        file["atomic_numbers"] = np.array([[6, 1, 1, 1, 1], [8, 1, 1, 0, 0]])
        file["positions"] = np.zeros((2, 5, 3)) + np.arange(5)[None, :, None] * 0.62
        file["U0"] = np.array([-40.47893, -76.404702])
        file["mu"] = np.zeros(2)
    data = open_dataset(path)
    assert data.info.units.energy == "Hartree" and data.info.units.source == "inferred"
    np.testing.assert_allclose(data.frames().energy, np.array([-40.47893, -76.404702]) * HARTREE)


def test_hdf5_groups_with_gradients_and_stated_units(tmp_path: Path) -> None:
    """A group a molecule, conformations in Bohr, gradients instead of forces, units as attributes."""
    path, block = tmp_path / "spice.hdf5", ethanol(5)
    with h5py.File(path, "w") as file:
        for name in ("b", "a"):
            group = file.create_group(name)
            group["atomic_numbers"] = ETHANOL
            group["conformations"] = block.positions / BOHR
            group["dft_total_energy"] = block.energy / HARTREE
            group["dft_total_gradient"] = -block.forces * BOHR / HARTREE
            group["conformations"].attrs["units"] = "bohr"
            group["dft_total_energy"].attrs["units"] = "hartree"
    data = open_dataset(path)
    assert len(data) == 10 and data.info.units.source == "stated"
    np.testing.assert_allclose(data.frames([7]).forces[0], block.forces[2], atol=1e-12)
    np.testing.assert_allclose(data.frames([2]).positions[0], block.positions[2], atol=1e-12)


def test_hdf5_one_geometry_a_group_below_its_molecule(tmp_path: Path) -> None:
    path, block = tmp_path / "qm7x.hdf5", ethanol(4)
    with h5py.File(path, "w") as file:
        for k in range(4):
            group = file.create_group(f"1/geom-{k}")
            group["atNUM"], group["atXYZ"] = ETHANOL, block.positions[k]
            group["ePBE0+MBD"], group["totFOR"] = block.energy[k : k + 1], block.forces[k]
    data = open_dataset(path)
    assert data.info.units.energy == "eV" and len(data) == 4
    np.testing.assert_allclose(data.frames().forces, block.forces)


def test_hdf5_without_frames_and_truncated(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = np.zeros(10000)
    with pytest.raises(DataError, match="no group in it"):
        open_dataset(path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(DataError, match="HDF5"):
        open_dataset(path)


def test_encodings_and_fortran_numbers(tmp_path: Path) -> None:
    expected = open_dataset(_write(tmp_path, METHANE)).frames()
    for text in (METHANE.encode("utf-8-sig"), METHANE.encode("utf-16"), METHANE.replace("*^", "D").encode()):
        (tmp_path / "b.xyz").write_bytes(text)
        data = open_dataset(tmp_path / "b.xyz")
        assert data.info.format == "qm9" and np.array_equal(data.frames().positions, expected.positions)


def test_other_energies_by_their_key(tmp_path: Path) -> None:
    path = _write(tmp_path, METHANE)
    assert open_dataset(path, energy_key="H").frames().energy[0] > open_dataset(path).frames().energy[0]
    with pytest.raises(ConfigError, match="QM9 has no energy 'gap'"):
        open_dataset(path, energy_key="gap")


def _write(folder: Path, text: str) -> Path:
    (folder / "methane.xyz").write_text(text)
    return folder / "methane.xyz"
