"""OMol25: LMDB shards of zlib-compressed JSON rows (.aselmdb), read lazily, charge and spin included.

Format: Levine et al., "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models" (2025); ASE database rows.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.dataset import DatasetInfo, Units
from equimd.data.frames import Frames
from equimd.errors import DataError

_DAMAGED = "the shard is truncated or damaged: fetch it again"

_OPEN: weakref.WeakValueDictionary[tuple[int, str], Any] = weakref.WeakValueDictionary()


class OMolDataset:
    """A folder of ``.aselmdb`` shards, or one shard, as a data set in eV and Angstrom.

    Shards come in the order of their names, rows in the numeric order of their keys, deleted rows left out.

    Raises:
        DataError: no shards, or one that LMDB cannot open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shards = sorted(self.path.glob("*.aselmdb")) if self.path.is_dir() else [self.path]
        if not self.shards:
            raise DataError("no .aselmdb shards in it", where=str(path))
        self._envs: dict[int, Any] = {}
        self._pid = -1
        keys = [self._keys(k) for k in range(len(self.shards))]
        self._shard = np.repeat(np.arange(len(keys)), [len(k) for k in keys])
        self._key = np.concatenate([np.array(k, np.int64) for k in keys])
        if not len(self._key):
            raise DataError("no rows in it", where=str(path))
        self._n_atoms = self._metadata()
        self._elements: tuple[int, ...] | None = None
        note = "stated by the format (ASE database rows)"
        extra: dict[str, object] = {"shards": [s.name for s in self.shards], "license": "CC-BY-4.0 (OMol25)"}
        self.info = DatasetInfo(str(path), "omol25-aselmdb", Units("eV", "Angstrom", "stated", note), extra)

    def _env(self, shard: int) -> Any:
        """The LMDB environment of a shard in this process: environments survive neither pickling nor a fork."""
        if self._pid != os.getpid():
            self._envs, self._pid = {}, os.getpid()
        if shard not in self._envs:
            self._envs[shard] = _open_shard(self.shards[shard])
        return self._envs[shard]

    def _keys(self, shard: int) -> list[int]:
        """Row ids in numeric order (LMDB's own order is 1, 10, 11, 2), without deleted ones."""
        import lmdb

        try:
            with self._env(shard).begin() as txn:
                ids = {int(k) for k in txn.cursor().iternext(keys=True, values=False) if k.isdigit()}
                deleted = txn.get(b"deleted_ids")
        except lmdb.Error as error:
            raise DataError(f"LMDB cannot read it ({error})", where=str(self.shards[shard]), hint=_DAMAGED) from error
        gone = _decode(deleted, str(self.shards[shard])) if deleted else []
        return sorted(ids - {int(k) for k in gone})

    def _metadata(self) -> np.ndarray | None:
        """Atoms of each row from metadata.npz, None where it is absent or of another size."""
        path = self.path / "metadata.npz"
        if not path.is_file():
            return None
        from equimd.data.readers.npz import load_arrays

        natoms = load_arrays(path).get("natoms")
        return None if natoms is None or natoms.shape != self._key.shape else natoms.astype(np.int64)

    def _row(self, k: int) -> dict[str, Any]:
        shard, key = int(self._shard[k]), int(self._key[k])
        where = f"{self.shards[shard]}, row {key}"
        with self._env(shard).begin() as txn:
            value = txn.get(str(key).encode())
        if value is None:
            raise DataError("the row is missing", where=where, hint=_DAMAGED)
        return _decode(value, where)

    def __len__(self) -> int:
        return len(self._key)

    @property
    def n_atoms(self) -> np.ndarray:
        if self._n_atoms is None:
            self._n_atoms = np.array([len(_array(self._row(k)["numbers"])) for k in range(len(self))], np.int64)
        return self._n_atoms

    @property
    def elements(self) -> tuple[int, ...]:
        if self._elements is None:
            found: set[int] = set()
            for k in range(len(self)):
                found.update(np.unique(_array(self._row(k)["numbers"])).tolist())
            self._elements = tuple(sorted(found))
        return self._elements

    @property
    def trajectory(self) -> np.ndarray:
        """Zeros: rows are separate structures."""
        return np.zeros(len(self), np.int64)

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        """The frames ``rows``, in that order.

        Raises:
            DataError: a row is damaged, or lacks its atoms, charge or spin.
        """
        index = range(len(self)) if rows is None else np.asarray(rows, np.int64).tolist()
        blocks = [self._frame(k) for k in index]
        return Frames.concatenate(blocks) if blocks else Frames.build(np.zeros((0, 0), np.uint8), np.zeros((0, 0, 3)))

    def _frame(self, k: int) -> Frames:
        row = self._row(k)
        where = f"{self.shards[self._shard[k]]}, row {self._key[k]}"
        data = row.get("data", {})
        data = data if isinstance(data, dict) else {}
        try:
            numbers, positions = _array(row["numbers"]), _array(row["positions"])
        except KeyError as error:
            raise DataError(f"the row has no {error}", where=where, hint=_DAMAGED) from error
        energy, forces = row.get("energy"), row.get("forces")
        return Frames.build(
            numbers[None],
            positions[None],
            None if energy is None else np.array([energy], np.float64),
            None if forces is None else _array(forces)[None],
            _array(row["cell"])[None] if "cell" in row else None,
            _array(row["pbc"])[None] if "pbc" in row else None,
            np.array([_state(data, row, "charge", where)]),
            np.array([_state(data, row, "spin", where)]),
            where=where,
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_envs": {}, "_pid": -1}


def _open_shard(path: Path) -> Any:
    """The environment of a shard, the same one for all data sets of this process: LMDB opens a file only once.

    Raises:
        DataError: LMDB cannot open it.
    """
    import lmdb

    key = (os.getpid(), str(path.resolve()))
    env = _OPEN.get(key)
    if env is None:
        try:
            env = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(f"LMDB cannot open it ({error})", where=str(path), hint=_DAMAGED) from error
        # LMDB maps the file into memory: touching a page beyond its end would kill the process
        needed, size = (env.info()["last_pgno"] + 1) * env.stat()["psize"], path.stat().st_size
        if size < needed:
            env.close()
            raise DataError(f"the file has {size} bytes, its pages need {needed}", where=str(path), hint=_DAMAGED)
        _OPEN[key] = env
    return env


def _state(data: dict[str, Any], row: dict[str, Any], name: str, where: str) -> int:
    """Charge or multiplicity of a row; 0 (neutral, not stated) where the row lacks it."""
    pairs = row.get("key_value_pairs", {})
    value = data.get(name, pairs.get(name, 0) if isinstance(pairs, dict) else 0)
    if not isinstance(value, (int, float)) or value != int(value):
        raise DataError(f"{name} is {value}, expected a whole number", where=where)
    return int(value)


def _decode(value: bytes, where: str) -> Any:
    try:
        return json.loads(zlib.decompress(value))
    except (zlib.error, ValueError) as error:
        raise DataError(f"a row cannot be decoded ({error})", where=where, hint=_DAMAGED) from error


def _array(value: Any) -> np.ndarray:
    """ASE's JSON form of an array: {"__ndarray__": [shape, dtype, flat list]}."""
    if isinstance(value, dict) and "__ndarray__" in value:
        shape, dtype, flat = value["__ndarray__"]
        return np.array(flat, dtype=dtype).reshape(shape)
    return np.asarray(value)
