"""Which columns are the labels: one family, the energy that goes with the forces, or a refusal; masks and weights."""

from __future__ import annotations

from pathlib import Path

import ase.io
import h5py
import numpy as np
import pytest
from ase.constraints import FixAtoms

from equimd.data import open_dataset
from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset, notes
from equimd.errors import ConfigError, DataError
from equimd.units import BOHR, HARTREE

from .molecules import ETHANOL, assert_same, ethanol, save_md17


def _write(path: Path, **columns: str) -> Path:
    """Ethanol frames whose energies and forces stand under each of these names; ``other_*`` are of another method."""
    images = ethanol(30).to_ase()
    for k, atoms in enumerate(images):
        results = atoms.calc.results
        atoms.calc = None
        for kind, names in columns.items():
            for name in names.split():
                if kind == "energy":
                    atoms.info[name] = results["energy"]
                elif kind == "other_energy":
                    atoms.info[name] = results["energy"] * 1.1 + 0.3 * np.sin(k)
                else:
                    atoms.arrays[name] = results["forces"] * (1.0 if kind == "forces" else 1.3)
    ase.io.write(path, images, format="extxyz")
    return path


@pytest.mark.parametrize(
    ("columns", "chosen"),
    [
        ({"other_energy": "energy", "energy": "REF_energy", "forces": "REF_forces"}, ("REF_energy", "REF_forces")),
        ({"energy": "mace_energy", "forces": "mace_forces", "other_energy": "energy"}, ("mace_energy", "mace_forces")),
        ({"energy": "dft_energy", "forces": "dft_forces"}, ("dft_energy", "dft_forces")),
        ({"energy": "energy_pbe", "forces": "forces_pbe", "other_energy": "energy"}, ("energy_pbe", "forces_pbe")),
        ({"energy": "energy", "forces": "forces", "other_energy": "REF_energy", "other_forces": "REF_forces"},
         ("energy", "forces")),
        ({"energy": "Energy", "forces": "force"}, ("Energy", "force")),
        ({"energy": "TOTAL_ENERGY", "forces": "Forces"}, ("TOTAL_ENERGY", "Forces")),
        ({"energy": "energy", "forces": "forces", "other_energy": "formation_energy kinetic_energy energy_std"},
         ("energy", "forces")),
        ({"energy": "free_energy", "other_energy": "energy", "forces": "forces"}, ("free_energy", "forces")),
        ({"energy": "energy", "other_energy": "free_energy", "forces": "forces"}, ("energy", "forces")),
    ],
)  # fmt: skip
def test_one_family_is_taken(tmp_path: Path, columns: dict[str, str], chosen: tuple[str, str]) -> None:
    data = open_dataset(_write(tmp_path / "a.xyz", **columns))
    assert data.info.extra["columns"] == {"energy": chosen[0], "forces": chosen[1]}
    assert_same(data.frames(), ethanol(30), rtol=1e-7)
    standard = chosen[0].lower() == "energy" and "REF_energy" not in str(columns) and "free" not in str(columns)
    assert (not notes(data)) if standard else any(chosen[0] in note for note in notes(data))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"energy": "energy", "other_forces": "REF_forces"}, "'energy' and the forces 'REF_forces'"),
        ({"energy": "REF_energy", "forces": "forces"}, "'REF_energy' and the forces 'forces'"),
        ({"energy": "a_energy", "forces": "a_forces", "other_energy": "b_energy", "other_forces": "b_forces"},
         "several columns could be the labels"),
        ({"energy": "energy", "other_energy": "Energy", "forces": "forces"}, "'Energy' and 'energy', and they differ"),
        ({"energy": "energy", "forces": "forces", "other_forces": "force"}, "two columns could be the forces"),
    ],
)  # fmt: skip
def test_labels_of_two_methods_are_refused(tmp_path: Path, columns: dict[str, str], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        open_dataset(_write(tmp_path / "a.xyz", **columns))
    assert "-key" in str(caught.value)


def test_keys_that_are_asked_for(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.xyz", energy="mine", forces="theirs", other_energy="energy", other_forces="forces")
    data = open_dataset(path, energy_key="mine", forces_key="THEIRS")
    assert data.info.extra["columns"] == {"energy": "mine", "forces": "theirs"}
    assert_same(data.frames(), ethanol(30), rtol=1e-7)
    with pytest.raises(ConfigError, match=r"no column 'hers'[\s\S]*energy"):
        open_dataset(path, energy_key="hers")
    path = _write(tmp_path / "b.xyz", energy="REF_energy", forces="REF_forces", other_forces="forces")
    assert open_dataset(path, energy_key="REF_energy").info.extra["columns"]["forces"] == "REF_forces"
    with pytest.raises(DataError, match="no energy of the same method as 'forces'"):
        open_dataset(path, forces_key="forces")
    assert not open_dataset(path, labels="none").frames().has_energy.any()
    stored = tmp_path / "a.h5"
    write_frames(stored, ArrayDataset(ethanol(3)))
    with pytest.raises(ConfigError, match="no column 'REF_energy'"):
        open_dataset(stored, energy_key="REF_energy")


def test_named_arrays_have_families_too(tmp_path: Path) -> None:
    block = ethanol(30)
    arrays = {
        "coordinates": block.positions, "atomic_numbers": ETHANOL, "wb97x_dz.energy": block.energy,
        "wb97x_dz.forces": block.forces, "ccsd_cbs.energy": block.energy + 1.0, "hf_dz.energy": block.energy + 2.0,
    }  # fmt: skip
    np.savez(tmp_path / "a.npz", **arrays)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, array in arrays.items():
            file.create_group("m") if "m" not in file else None
            file["m"][name] = array
    for path in (tmp_path / "a.npz", tmp_path / "a.h5"):
        data = open_dataset(path)
        assert data.info.extra["columns"]["energy"] == "wb97x_dz.energy"
        assert_same(data.frames(), block)
        assert open_dataset(path, energy_key="ccsd_cbs.energy", forces_key="wb97x_dz.forces").frames().energy[
            0
        ] == pytest.approx(block.energy[0] + 1.0)
    np.savez(tmp_path / "b.npz", **{k.upper(): v for k, v in arrays.items() if "wb97x" not in k}, E=block.energy)
    assert np.array_equal(open_dataset(tmp_path / "b.npz").frames().energy, block.energy)


def test_force_units_of_their_own(tmp_path: Path) -> None:
    block = ethanol(30)
    hartree = save_md17(tmp_path / "a.npz", block)
    np.savez(
        tmp_path / "b.npz", E=block.energy / HARTREE, F=block.forces * BOHR / HARTREE, R=block.positions, z=ETHANOL
    )
    data = open_dataset(tmp_path / "b.npz", energy_unit="Hartree", force_unit="Hartree/Bohr")
    assert_same(data.frames(), open_dataset(hartree).frames(), rtol=1e-12)
    assert data.info.units.forces == "Hartree/Bohr" and data.info.units.length == "Angstrom"
    with h5py.File(tmp_path / "c.h5", "w") as file:
        columns = (
            ("energy", block.energy / HARTREE, "hartree"), ("positions", block.positions, "angstrom"),
            ("forces", block.forces * BOHR / HARTREE, "Hartree/Bohr"), ("numbers", ETHANOL, ""),
        )  # fmt: skip
        for name, array, unit in columns:
            file[name] = array
            file[name].attrs["units"] = unit
    assert_same(open_dataset(tmp_path / "c.h5").frames(), block, rtol=1e-12)
    with pytest.raises(ConfigError, match="an energy over a length"):
        open_dataset(hartree, force_unit="Hartree")


def test_lattices_of_arrays_mean_periodic(tmp_path: Path) -> None:
    block = ethanol(5)
    for cell in (np.eye(3) * 12.0, np.tile(np.eye(3) * 12.0, (5, 1, 1)), np.tile(np.eye(3).ravel() * 12.0, (5, 1))):
        found = open_dataset(save_md17(tmp_path / "a.npz", block, Lattice=cell))
        assert found.frames().pbc.all() and found.frames().cell[4].tolist() == (np.eye(3) * 12).tolist()
        assert "periodic" in notes(found)[0]
    assert not open_dataset(save_md17(tmp_path / "a.npz", block, cell=np.zeros((3, 3)))).frames().pbc.any()
    assert not open_dataset(save_md17(tmp_path / "a.npz", block, cell=np.eye(3), pbc=False)).frames().pbc.any()
    with pytest.raises(DataError, match="absent or zero"):
        open_dataset(save_md17(tmp_path / "a.npz", block, cell=np.zeros((3, 3)), pbc=True))


def test_dummy_atoms_of_arrays_are_refused(tmp_path: Path) -> None:
    block = ethanol(5)
    for z in (np.where(np.arange(9) == 8, 0, ETHANOL), np.tile(np.where(np.arange(9) == 8, 0, ETHANOL), (5, 1))):
        np.savez(tmp_path / "a.npz", E=block.energy, F=block.forces, R=block.positions, z=z)
        with pytest.raises(DataError, match="atom 8 of every frame"):
            open_dataset(tmp_path / "a.npz")


def test_masks_and_weights_are_read_and_kept(tmp_path: Path) -> None:
    images = ethanol(4).to_ase()
    keep = np.ones(9, bool)
    keep[[0, 3]] = False
    for k, atoms in enumerate(images):
        atoms.arrays["forces_mask"] = keep if k % 2 else np.ones(9, bool)
        atoms.info["config_weight"] = 0.5 + k
        atoms.calc.results["forces"][~atoms.arrays["forces_mask"]] = np.nan
    ase.io.write(tmp_path / "a.xyz", images)
    data = open_dataset(tmp_path / "a.xyz")
    block = data.frames()
    assert np.array_equal(block.force_mask, [[True] * 9, keep] * 2) and block.weight.tolist() == [0.5, 1.5, 2.5, 3.5]
    assert block.has_forces.tolist() == [True, False, True, False] and len(notes(data)) == 2
    for name in ("b.h5", "b.xyz"):
        write_frames(tmp_path / name, data)
        again = open_dataset(tmp_path / name).frames()
        assert np.array_equal(again.force_mask, block.force_mask) and np.array_equal(again.weight, block.weight)
        np.testing.assert_allclose(again.forces, block.forces, atol=1e-11)
    with h5py.File(tmp_path / "b.h5") as file:
        assert file.attrs["format_version"] == 3  # earlier readers would take frames for equals
    np.savez(tmp_path / "c.npz", E=block.energy, F=np.nan_to_num(block.forces), R=block.positions, z=ETHANOL,
             force_mask=block.force_mask, weights=block.weight)  # fmt: skip
    again = open_dataset(tmp_path / "c.npz").frames()
    assert np.array_equal(again.force_mask, block.force_mask) and np.array_equal(again.weight, block.weight)
    for bad in ({"force_mask": np.full((4, 9), 2)}, {"force_mask": np.ones((4, 8))}, {"weights": -block.weight}):
        np.savez(tmp_path / "c.npz", **{**dict(np.load(tmp_path / "c.npz")), **bad})
        with pytest.raises(DataError):
            open_dataset(tmp_path / "c.npz")


def test_fixed_atoms_are_spoken_of_and_masked_when_asked(tmp_path: Path) -> None:
    images = ethanol(3).to_ase()
    for atoms in images:
        atoms.calc.results["forces"][:2] = 0.0
        atoms.set_constraint(FixAtoms([0, 1]))
    for name in ("a.traj", "a.xyz", "a.db"):
        ase.io.write(tmp_path / name, images)
        data = open_dataset(tmp_path / name)
        assert any("6 atoms that the file holds fixed" in note and "--mask-fixed" in note for note in notes(data)), name
        assert data.frames().has_forces.all()
        masked = open_dataset(tmp_path / name, mask_fixed=True).frames()
        assert masked.force_mask[:, 2:].all() and not masked.force_mask[:, :2].any(), name
