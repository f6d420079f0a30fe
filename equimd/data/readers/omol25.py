"""OMol25: LMDB shards of zlib-compressed JSON rows (.aselmdb), read lazily, charge and spin included.

Format: Levine et al., "The Open Molecules 2025 (OMol25) Dataset, Evaluations, and Models" (2025); ASE database rows.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from equimd.chemistry import refuse_dummies
from equimd.data.dataset import DatasetInfo, ListedDataset, Units
from equimd.data.frames import Frames
from equimd.data.hdf5 import reason
from equimd.data.readers.lmdb_file import LmdbFile
from equimd.data.state import read_state
from equimd.errors import DataError

_DAMAGED = "the shard is truncated or damaged: fetch it again"
_MAX_ROW = 1 << 28  # bytes of one row unpacked: a hundred thousand atoms take a tenth
_ERRORS = (KeyError, ValueError, TypeError, IndexError, OverflowError, AttributeError)


class OMolDataset(ListedDataset):
    """A folder of ``.aselmdb`` shards, or one shard, as a data set in eV and Angstrom.

    Shards come in the order of their names, rows in the numeric order of their keys, deleted rows left out.

    Raises:
        DataError: no shards, or one that LMDB cannot open.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.shards = _shards(self.path)
        if not self.shards:
            raise DataError("no .aselmdb shards in it", where=str(path))
        self._files: dict[int, LmdbFile] = {}
        self._pid = -1
        rows = [self._rows(k) for k in range(len(self.shards))]
        self._shard = np.repeat(np.arange(len(rows)), [len(r) for r in rows])
        self._key, self._page, self._place = np.concatenate(rows).T
        if not len(self._key):
            raise DataError("no rows in it", where=str(path))
        self._n_atoms = self._metadata()
        self._elements: tuple[int, ...] | None = None
        note = "stated by the format (ASE database rows)"
        extra: dict[str, object] = {"shards": [s.name for s in self.shards], "license": "CC-BY-4.0 (OMol25)"}
        self.info = DatasetInfo(str(path), "omol25-aselmdb", Units("eV", "Angstrom", "stated", note), extra)

    def _file(self, shard: int) -> LmdbFile:
        """A shard, open in this process: handles survive neither pickling nor a fork."""
        if self._pid != os.getpid():
            self._files, self._pid = {}, os.getpid()
        if shard not in self._files:
            self._files[shard] = LmdbFile(self.shards[shard])
        return self._files[shard]

    def _rows(self, shard: int) -> np.ndarray:
        """(rows, 3) id, page and place of the rows, by ids (LMDB's own order is 1, 10, 11, 2), without deleted ones."""
        where = str(self.shards[shard])
        file = self._file(shard)
        found: dict[int, tuple[int, int]] = {}
        gone: set[int] = set()
        entries = 0
        for key, page, place in file.entries():
            entries += 1
            if key.isdigit() and len(key) < 19:
                found[int(key)] = (page, place)
            elif key == b"deleted_ids":
                ids = _decode(file.value(page, place), where)
                gone = {int(k) for k in ids} if _is_list_of_numbers(ids) else set()
        if entries != file.count:
            raise DataError(f"LMDB: {entries} entries of {file.count} are there", where=where, hint=_DAMAGED)
        rows = [(key, *found[key]) for key in sorted(set(found) - gone)]
        return np.array(rows, np.int64).reshape(-1, 3)

    def _metadata(self) -> np.ndarray | None:
        """Atoms of each row from metadata.npz, None where it is absent or of another size."""
        path = self.path / "metadata.npz"
        if not path.is_file():
            return None
        from equimd.data.readers.npz import load_arrays

        natoms = load_arrays(path).get("natoms")
        usable = natoms is not None and natoms.shape == self._key.shape and natoms.dtype.kind in "iu"
        return natoms.astype(np.int64) if natoms is not None and usable else None

    def _row(self, k: int) -> dict[str, Any]:
        shard, key = int(self._shard[k]), int(self._key[k])
        where = f"{self.shards[shard]}, row {key}"
        row = _decode(self._file(shard).value(int(self._page[k]), int(self._place[k])), where)
        if not isinstance(row, dict):
            raise DataError("the row is no table of values", where=where, hint=_DAMAGED)
        return row

    def _numbers(self, k: int) -> np.ndarray:
        return self._frame(k).numbers[0]

    def __len__(self) -> int:
        return len(self._key)

    @property
    def n_atoms(self) -> np.ndarray:
        if self._n_atoms is None:
            self._n_atoms = np.array([len(self._numbers(k)) for k in range(len(self))], np.int64)
        return self._n_atoms

    @property
    def elements(self) -> tuple[int, ...]:
        if self._elements is None:
            found: set[int] = set()
            for k in range(len(self)):
                found.update(np.unique(self._numbers(k)).tolist())
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
        data, pairs = (_table(row.get(name)) for name in ("data", "key_value_pairs"))
        state = read_state({**pairs, **data}, where=where)
        try:
            arrays = {
                k: _array(row[k]) for k in ("numbers", "positions", "cell", "pbc", "forces") if row.get(k) is not None
            }
            numbers, positions, energy = arrays["numbers"], arrays["positions"], row.get("energy")
            if numbers.dtype.kind not in "iu" or any(a.dtype.kind not in "fiub" for a in arrays.values()):
                raise ValueError("arrays that hold no numbers")
            refuse_dummies(numbers, where)
            if self._n_atoms is not None and numbers.shape != (self._n_atoms[k],):
                raise ValueError(f"it has {numbers.size} atoms, metadata.npz says {self._n_atoms[k]}")
            return Frames.build(
                numbers[None],
                positions[None],
                None if energy is None else np.array([float(energy)]),
                arrays["forces"][None] if "forces" in arrays else None,
                arrays["cell"].reshape(1, 3, 3) if "cell" in arrays else None,
                np.broadcast_to(arrays["pbc"], (1, 3)) if "pbc" in arrays else None,
                np.array([state.charge]),
                np.array([state.spin]),
                np.array([state.charge_stated]),
                where=where,
            )
        except _ERRORS as error:
            raise DataError(f"a row cannot be read ({reason(error)})", where=where, hint=_DAMAGED) from error

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_files": {}, "_pid": -1}


def _shards(path: Path) -> list[Path]:
    """One file, the .aselmdb files of a folder, or the data of a folder that LMDB keeps as one."""
    if not path.is_dir():
        return [path]
    return sorted(path.glob("*.aselmdb")) or [p for p in (path / "data.mdb",) if p.is_file()]


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _is_list_of_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(v, int | str) and str(v).isdigit() for v in value)


def _decode(value: bytes, where: str) -> Any:
    """The JSON of a row. Rows of other LMDB collections are pickled, which reading could run: they are named."""
    if value[:1] == b"\x80" or value[:2] == b"PK":
        raise DataError(
            "its rows are pickled Python objects (as OC20's LMDB files hold), which could run code when read",
            where=where,
            hint="convert it with the program that made it, to .aselmdb (JSON rows) or extended XYZ",
        )
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(value, _MAX_ROW)
        if unpacker.unconsumed_tail:
            raise ValueError(f"it unpacks to more than {_MAX_ROW:,} bytes")
        return json.loads(data)
    except (zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"a row cannot be decoded ({reason(error)})", where=where, hint=_DAMAGED) from error


def _array(value: Any) -> np.ndarray:
    """ASE's JSON form of an array: {"__ndarray__": [shape, dtype, flat list]}."""
    if isinstance(value, dict) and "__ndarray__" in value:
        shape, dtype, flat = value["__ndarray__"]
        if np.dtype(dtype).hasobject:
            raise ValueError("an array of objects")
        return np.array(flat, dtype=dtype).reshape(shape)
    return np.asarray(value)
