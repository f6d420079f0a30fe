"""Our own reader of LMDB files agrees with the library, and takes no damaged file's word for anything."""

from __future__ import annotations

import random
from pathlib import Path

import lmdb
import pytest

from equimd.data import open_dataset
from equimd.data.readers.lmdb_file import LmdbFile
from equimd.errors import DataError


def _write(path: Path, seed: int = 0) -> dict[bytes, bytes]:
    """A file of several transactions, with small, large and empty values, some written twice or deleted."""
    rng, kept = random.Random(seed), {}
    env = lmdb.open(str(path), subdir=False, map_size=1 << 26, lock=False)
    for _ in range(3):
        with env.begin(write=True) as txn:
            for _ in range(300):
                key, value = str(rng.randrange(2000)).encode(), rng.randbytes(rng.choice([0, 10, 300, 2500, 9000]))
                txn.put(key, value)
                kept[key] = value
            for key in rng.sample(sorted(kept), 30):
                txn.delete(key)
                del kept[key]
    env.close()
    return kept


def test_it_reads_what_the_library_wrote(tmp_path: Path) -> None:
    kept = _write(tmp_path / "a.mdb")
    file = LmdbFile(tmp_path / "a.mdb")
    found = {key: file.value(page, place) for key, page, place in file.entries()}
    assert found == kept and list(found) == sorted(kept) and file.count == len(kept)
    empty = lmdb.open(str(tmp_path / "b.mdb"), subdir=False, map_size=1 << 20, lock=False)
    empty.close()
    assert list(LmdbFile(tmp_path / "b.mdb").entries()) == []


def test_every_truncation_and_damage_is_an_error_or_other_bytes(tmp_path: Path) -> None:
    """In the library these end the process: SIGBUS beyond the end, SIGSEGV by a wrong offset."""
    kept = _write(tmp_path / "a.mdb")
    whole, path, rng = (tmp_path / "a.mdb").read_bytes(), tmp_path / "c.mdb", random.Random(1)
    pages = [0, 1, *sorted({page for _, page, _ in LmdbFile(tmp_path / "a.mdb").entries()})]
    for size in [0, 1, 100, 4096, 8192, 8193, *rng.sample(range(len(whole) - (1 << 16)), 20)]:
        path.write_bytes(whole[:size])
        with pytest.raises(DataError):
            _read(path)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        page = 4096 * rng.choice(pages)
        for _ in range(rng.choice([1, 4])):
            damaged[page + rng.randrange(40)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            found = _read(path)
            assert len(found) <= len(kept) + 5
        except DataError:
            refused += 1
    assert refused > 20


def _read(path: Path) -> dict[bytes, bytes]:
    file = LmdbFile(path)
    found = {key: file.value(page, place) for key, page, place in file.entries()}
    if len(found) != file.count:
        raise DataError("entries are missing")
    return found


def test_pickled_rows_are_named(tmp_path: Path) -> None:
    import pickle

    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "a.lmdb", tmp_path / "folder" / "data.mdb"):
        env = lmdb.open(str(path), subdir=False, map_size=1 << 20, lock=False)
        with env.begin(write=True) as txn:
            for k in range(3):
                txn.put(str(k).encode(), pickle.dumps({"pos": k}))
            txn.put(b"length", pickle.dumps(3))
        env.close()
        for name in {path, path.parent if path.name == "data.mdb" else path}:
            with pytest.raises(DataError, match="pickled Python objects"):
                open_dataset(name).frames()
