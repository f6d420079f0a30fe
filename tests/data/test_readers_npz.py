"""npz files: MD17, MD22, CCSD(T), rMD17, padded and ragged ones, and every way they can be broken."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from equimd.data import ConcatDataset, open_dataset
from equimd.data.dataset import time_index
from equimd.errors import DataError
from equimd.units import HARTREE, KCAL_PER_MOL

from .molecules import ETHANOL, assert_same, ethanol, mixed, save_md17


def _md5(arrays: dict) -> str:
    """The published recipe, written out."""
    total = hashlib.md5()
    for key in ("z", "R", "E", "F"):
        total.update(hashlib.md5(np.ascontiguousarray(arrays[key]).tobytes()).digest())
    return total.hexdigest()


def test_md22_file_with_its_metadata_and_checksum(tmp_path: Path) -> None:
    block = ethanol()
    arrays = {"E": block.energy[:, None] / KCAL_PER_MOL, "F": block.forces / KCAL_PER_MOL, "R": block.positions,
              "z": ETHANOL.astype(np.uint8)}  # fmt: skip
    more = {"name": np.array(b"Ac-Ala3-NHMe"), "type": np.array(b"d"), "theory": np.array(b"PBE+MBD")}
    path = tmp_path / "md22.npz"
    np.savez(path, **arrays, **more, md5=np.array(_md5(arrays).encode()))
    data = open_dataset(path)
    assert data.info.format == "npz-sgdml" and data.info.units.energy == "kcal/mol"
    assert data.info.extra["theory"] == "PBE+MBD" and data.info.extra["md5_verified"] is True
    assert_same(data.frames(), block, rtol=1e-12)

    arrays["F"][0, 0, 0] += 1e-9
    np.savez(path, **arrays, md5=np.array("0" * 32))
    with pytest.raises(DataError, match="embedded md5"):
        open_dataset(path)


def test_rmd17_labels_and_time(tmp_path: Path) -> None:
    block = ethanol(20)
    path = tmp_path / "anything.bin"
    with open(path, "wb") as stream:  # the name says nothing
        np.savez(
            stream,
            nuclear_charges=ETHANOL.astype(np.uint8),
            coords=block.positions,
            energies=block.energy / KCAL_PER_MOL,
            forces=block.forces / KCAL_PER_MOL,
            old_indices=np.arange(20)[::-1],
            old_energies=(block.energy - 5.0) / KCAL_PER_MOL,
            old_forces=block.forces * 1.01 / KCAL_PER_MOL,
        )
    revised, old = open_dataset(path), open_dataset(path, labels="md17")
    assert revised.info.format == "npz-rmd17" and old.info.extra["labels"] == "md17"
    assert time_index(revised).tolist() == list(range(20))[::-1]
    np.testing.assert_allclose(old.frames().energy, block.energy - 5.0, atol=1e-9)
    np.testing.assert_allclose(old.frames().forces, block.forces * 1.01, atol=1e-12)
    with pytest.raises(DataError, match="no original MD17 labels"):
        open_dataset(save_md17(tmp_path / "b.npz", block), labels="md17")
    with pytest.raises(DataError, match="unknown labels"):
        open_dataset(path, labels="new")


def test_padded_compositions(tmp_path: Path) -> None:
    block = mixed(20)
    keep = np.flatnonzero(block.has_energy & block.has_forces & (block.charge == 0))
    block = block.take(keep)
    data = open_dataset(save_md17(tmp_path / "a.npz", block))
    assert data.info.format == "npz-padded" and set(data.n_atoms) == {3, 9}
    np.testing.assert_allclose(data.frames().forces, block.forces)


def test_other_key_names_and_ragged_atoms(tmp_path: Path) -> None:
    block = ethanol(10)
    path = tmp_path / "a.npz"
    np.savez(path, energy=block.energy, atomic_numbers=ETHANOL, positions=block.positions, forces=block.forces,
             charge=np.full(10, -1), spin=2)  # fmt: skip
    data = open_dataset(path)
    assert data.info.extra["columns"]["energy"] == "energy"
    assert np.array_equal(data.frames().charge_spin, np.tile([-1, 2], (10, 1)))
    assert_same(data.frames().__class__.build(ETHANOL, block.positions, block.energy, block.forces,
                                              charge=np.full(10, -1), spin=np.full(10, 2)), data.frames())  # fmt: skip

    water = mixed(20).take(np.arange(0, 20, 2))
    rows = [0, 2, 1, 4]
    parts = [block.take([0]), water.take([0]), block.take([1]), water.take([1])]
    np.savez(
        path,
        N=np.array([9, 3, 9, 3]),
        Z=np.concatenate([p.numbers[0] for p in parts]),
        R=np.concatenate([p.positions[0] for p in parts]),
        U0=np.array([p.energy[0] for p in parts]) / HARTREE,
        U=np.zeros(4),
    )
    data = open_dataset(path)
    assert len(rows) == len(data) and data.n_atoms.tolist() == [9, 3, 9, 3]
    assert data.info.units.energy == "Hartree" and not data.frames().has_forces.any()
    np.testing.assert_allclose(data.frames([1]).positions, parts[1].positions)


def test_several_files_are_one_data_set(tmp_path: Path) -> None:
    paths = [save_md17(tmp_path / f"{k}.npz", ethanol(10, seed=k), KCAL_PER_MOL if k else 1.0) for k in range(3)]
    data = open_dataset(paths)
    assert isinstance(data, ConcatDataset) and len(data) == 30
    np.testing.assert_allclose(data.frames([25]).energy, ethanol(10, seed=2).energy[5:6], rtol=1e-12)
    assert data.trajectory.tolist() == [0] * 10 + [1] * 10 + [2] * 10


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"R": None}, "no positions in it"),
        ({"z": None}, "no numbers in it"),
        ({"E": np.zeros((59, 1))}, "59 energies for 60 frames"),
        ({"F": np.zeros((60, 8, 3))}, "forces of shape"),
        ({"R": np.full((60, 9, 3), np.nan)}, "NaN"),
        ({"E": np.full((60, 1), np.nan)}, "60 energies are NaN"),
        ({"F": np.full((60, 9, 3), np.inf)}, "forces of 60 frames are NaN or infinite"),
        ({"energy": np.zeros(60)}, "'E' and 'energy', and they differ"),
        ({"R": np.array(["a", "b"])}, "not numeric"),
        ({"z": np.ones(9) * 1.5}, "not whole"),
        ({"charge": np.full(7, 1)}, "'charge' has shape"),
        ({"E": np.array([object()] * 60)}, "pickled"),
    ],
)
def test_inconsistent_arrays_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    block = ethanol()
    arrays = {"E": block.energy[:, None], "F": block.forces, "R": block.positions, "z": ETHANOL, **change}
    path = tmp_path / "bad.npz"
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
    with pytest.raises(DataError, match=message) as caught:
        open_dataset(path)
    assert str(path) in str(caught.value)


def test_truncated_empty_missing_and_foreign_files(tmp_path: Path) -> None:
    whole = save_md17(tmp_path / "whole.npz", ethanol()).read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 30):
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(DataError, match="npz"):
            open_dataset(tmp_path / "cut.npz")
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    (tmp_path / "flipped.npz").write_bytes(flipped)
    with pytest.raises(DataError, match="npz"):
        open_dataset(tmp_path / "flipped.npz")
    (tmp_path / "empty.npz").touch()
    with pytest.raises(DataError, match="empty"):
        open_dataset(tmp_path / "empty.npz")
    with pytest.raises(DataError, match=r"did you mean .*whole\.npz"):
        open_dataset(tmp_path / "whole.npy")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(DataError, match="single NumPy array"):
        open_dataset(tmp_path / "one.npy")
    (tmp_path / "noise").write_bytes(bytes(range(200)))
    with pytest.raises(DataError, match="ASE"):
        open_dataset(tmp_path / "noise")
    with pytest.raises(DataError, match="no data given"):
        open_dataset([])
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match="neither"):
        open_dataset(tmp_path / "folder")
