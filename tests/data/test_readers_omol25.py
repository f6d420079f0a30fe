"""OMol25 shards: order, deleted rows, charge and spin, damage, worker processes."""

from __future__ import annotations

import json
import pickle
import zlib
from pathlib import Path

import lmdb
import numpy as np
import pytest

from equimd.data import open_dataset
from equimd.errors import DataError, UnitsError

from .molecules import ethanol


def _array(a: np.ndarray) -> dict:
    return {"__ndarray__": [list(a.shape), str(a.dtype), a.ravel().tolist()]}


def _shard(path: Path, n_frames: int, deleted: tuple[int, ...] = (), **change: object) -> None:
    """A shard of ethanol frames as OMol25 writes them; row k has charge k."""
    block = ethanol(n_frames)
    env = lmdb.open(str(path), subdir=False, map_size=1 << 22, lock=False)
    with env.begin(write=True) as txn:

        def put(key: str, value: object) -> None:
            txn.put(key.encode(), zlib.compress(json.dumps(value).encode()))

        for k in range(n_frames):
            row = {
                "numbers": _array(block.numbers[k].astype(np.int64)),
                "positions": _array(block.positions[k]),
                "energy": block.energy[k],
                "forces": _array(block.forces[k]),
                "cell": _array(np.zeros((3, 3))),
                "pbc": _array(np.zeros(3, bool)),
                "data": {"charge": k, "spin": 1 + k % 2, "source": "test"},
            }
            put(str(k + 1), {**row, **change})
        put("nextid", n_frames + 1)
        put("deleted_ids", list(deleted))
    env.close()


def test_numeric_order_and_deleted_rows(tmp_path: Path) -> None:
    _shard(tmp_path / "data0000.aselmdb", 12, deleted=(2, 11))
    _shard(tmp_path / "data0001.aselmdb", 3)
    data = open_dataset(tmp_path)
    assert data.frames().charge.tolist() == [0, 2, 3, 4, 5, 6, 7, 8, 9, 11, 0, 1, 2]
    assert data.frames([9, 0]).charge_spin.tolist() == [[11, 2], [0, 1]]
    assert np.array_equal(data.frames([1]).positions[0], ethanol(12).positions[2])
    assert data.elements == (1, 6, 8) and data.n_atoms.tolist() == [9] * 13
    assert data.info.units.energy == "eV" and data.info.units.source == "stated"


def test_single_shard_opens_beside_its_folder_and_after_pickling(tmp_path: Path) -> None:
    _shard(tmp_path / "data0000.aselmdb", 3)
    folder, shard = open_dataset(tmp_path), open_dataset(tmp_path / "data0000.aselmdb")
    again = pickle.loads(pickle.dumps(shard))
    for data in (folder, shard, again):
        assert data.frames([2]).charge.tolist() == [2]


def test_metadata_is_used_only_if_it_fits(tmp_path: Path) -> None:
    _shard(tmp_path / "data0000.aselmdb", 3)
    np.savez(tmp_path / "metadata.npz", natoms=np.array([9, 9, 9]), data_ids=np.array(["a"] * 3))
    assert open_dataset(tmp_path).n_atoms.tolist() == [9, 9, 9]
    np.savez(tmp_path / "metadata.npz", natoms=np.array([5, 5]))
    assert open_dataset(tmp_path).n_atoms.tolist() == [9, 9, 9]


def test_damage_is_named(tmp_path: Path) -> None:
    _shard(tmp_path / "a.aselmdb", 2, data={"charge": 0.5})
    with pytest.raises(DataError, match=r"row 1: charge is '0.5'"):
        open_dataset(tmp_path / "a.aselmdb").frames()
    env = lmdb.open(str(tmp_path / "b.aselmdb"), subdir=False, map_size=1 << 20, lock=False)
    with env.begin(write=True) as txn:
        txn.put(b"1", b"not zlib")
    env.close()
    with pytest.raises(DataError, match="row 1: a row cannot be decoded"):
        open_dataset(tmp_path / "b.aselmdb").frames()
    whole = (tmp_path / "a.aselmdb").read_bytes()
    (tmp_path / "c.aselmdb").write_bytes(whole[:5000])
    with pytest.raises(DataError, match=r"c\.aselmdb"):
        open_dataset(tmp_path / "c.aselmdb").frames()


def test_another_unit_is_refused(tmp_path: Path) -> None:
    _shard(tmp_path / "a.aselmdb", 2)
    with pytest.raises(UnitsError, match="by definition"):
        open_dataset(tmp_path / "a.aselmdb", energy_unit="kcal/mol")
    assert len(open_dataset(tmp_path / "a.aselmdb", energy_unit="eV")) == 2


def test_real_records_agree_with_their_extxyz(shared_data: Path) -> None:
    folder = shared_data / "omol25"
    shards = open_dataset(folder / "aselmdb")
    xyz = open_dataset([folder / "structs_noble_gas_compounds.xyz", folder / "SPICE_small_with_charges.xyz"])
    a, b = shards.frames(), xyz.frames()
    assert len(a) == 23 and set(a.charge) == {-1, 0, 1} and (a.spin == 1).all()
    assert np.array_equal(shards.n_atoms, a.n_atoms) and np.array_equal(a.charge_spin, b.charge_spin)
    np.testing.assert_allclose(a.positions, b.positions, atol=1e-8)
    np.testing.assert_allclose(a.energy, b.energy, atol=1e-6)
    np.testing.assert_allclose(a.forces, b.forces, atol=1e-8)
