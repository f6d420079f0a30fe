"""HDF5 files, written to disks that may be full, and read without trust.

What a file claims is compared with what it is before it is allocated or followed.

A damaged or hostile file may claim arrays larger than memory, hold links that lead back to themselves or to other
files, or name objects of another kind than its format says.
"""

from __future__ import annotations

import functools
import io
import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.paths import regular_file
from equimd.errors import DataError

if TYPE_CHECKING:
    import h5py

#: A global heap begins so; they are looked at in so many bytes of a file.
HEAP, HEAPS_WITHIN = b"GCOL\x01\0\0\0", 256 << 20
_LOOK = 8 << 20  # bytes at once
DAMAGED = "the file is truncated or damaged: write or fetch it again"
#: Deflate packs a thousandfold at most: an array that claims more than twice that of its whole file does not exist.
MAX_RATIO, SMALL = 2000, 1 << 20
#: What h5py and NumPy raise on damaged files.
ERRORS = (
    OSError, KeyError, RuntimeError, ValueError, TypeError, AttributeError, IndexError, OverflowError, MemoryError,
)  # fmt: skip


def open_hdf5(path: Path) -> h5py.File:
    """The file, open for reading.

    Raises:
        DataError: missing, not a regular file, or not HDF5.
    """
    import h5py

    regular_file(path)
    found = path.stat()
    if not _heaps_end(path, found.st_ino, found.st_size, found.st_mtime_ns):
        raise DataError("not a readable HDF5 file (a heap of texts has no end)", where=str(path), hint=DAMAGED)
    try:
        return h5py.File(path, "r")
    except ERRORS as error:
        raise DataError(f"not a readable HDF5 file ({reason(error)})", where=str(path), hint=DAMAGED) from error


@functools.lru_cache(maxsize=256)
def _heaps_end(path: Path, inode: int, size: int, changed: int) -> bool:
    """Whether the global heaps, which hold texts of any length, consist of objects that follow each other to their end.
    HDF5 goes round for ever in one that does not (file format specification, III.E). A file is looked through once,
    however often it is opened: it is the same as long as ``inode``, ``size`` and time of change are."""
    if not size:
        return True
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        of_lengths = 14 if data[8:9] in (b"\0", b"\1") else 10  # where the superblock says how many bytes one has
        at = _next_heap(data, 0) if data[of_lengths : of_lengths + 1] == b"\x08" else -1
        while at >= 0:
            end = at + int.from_bytes(data[at + 8 : at + 16], "little")
            if end <= len(data) and not _objects_end(data, at + 16, end):
                return False
            at = _next_heap(data, at + 1)
    return True


def _next_heap(data: mmap.mmap, at: int) -> int:
    """Where the next heap begins, -1 if there is none; what was looked through does not count as memory."""
    while at < min(len(data), HEAPS_WITHIN):
        found = data.find(HEAP, at, min(at + _LOOK, HEAPS_WITHIN))
        if found >= 0:
            return found
        data.madvise(mmap.MADV_DONTNEED)
        at += _LOOK - len(HEAP) + 1
    return -1


def _objects_end(data: mmap.mmap, at: int, end: int) -> bool:
    while at + 16 <= end:
        index, size = int.from_bytes(data[at : at + 2], "little"), int.from_bytes(data[at + 8 : at + 16], "little")
        length = size if index == 0 else 16 + -(-size // 8) * 8  # object 0 is the rest, which is free
        if length < 16 or at + length > end:
            return False
        at += length
    return True


class _Disk:
    """A file for h5py. After a write that failed it takes all others for done: HDF5 would try them again in
    destructors, with a traceback for each, and crash as the program ends."""

    def __init__(self, path: Path, mode: str) -> None:
        self.file = io.FileIO(path, mode)
        self.error: OSError | None = None
        self.seek, self.tell, self.flush = self.file.seek, self.file.tell, self.file.flush
        self.read, self.readinto = self.file.read, self.file.readinto

    def write(self, data: Any) -> int:
        left = memoryview(data).cast("B")
        try:
            while self.error is None and len(left):
                left = left[self.file.write(left) :]
        except OSError as error:
            self.error = error
        return len(data)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self.file.truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0


@contextmanager
def writing(path: Path, **options: Any) -> Iterator[h5py.File]:
    """The file, open for writing, made if it is not there; ``options`` are h5py's.

    Raises:
        OSError: of the disk. What the file then holds is of no use.
    """
    import h5py

    there = path.exists()
    disk = _Disk(path, "r+" if there else "w+")
    try:
        with disk.file, h5py.File(disk, "r+" if there else "w", **options) as file:
            yield file
    except ERRORS:
        if disk.error is None:
            raise
    if disk.error is not None:
        raise disk.error


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Turn what h5py raises on damaged contents into a DataError that says ``what`` could not be read."""
    try:
        yield
    except ERRORS as error:
        raise DataError(f"{what} ({reason(error)})", where=str(path), hint=DAMAGED) from error


def reason(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip("'\" ").splitlines()
    return lines[0][:200] if lines else type(error).__name__


def dataset(group: Any, name: str) -> h5py.Dataset:
    """The array ``name`` of ``group``, which must exist, be an array, and be no larger than its file can hold.

    Raises:
        KeyError, ValueError: it is none of this; see ``ERRORS``.
    """
    import h5py

    if isinstance(group.get(name, getlink=True), h5py.ExternalLink):
        raise ValueError(f"'{name}' is a link to another file")
    found = group[name]
    if not isinstance(found, h5py.Dataset):
        raise ValueError(f"'{name}' is a {type(found).__name__.lower()}, not an array")
    if found.external or found.is_virtual:
        raise ValueError(f"'{name}' keeps its values in another file")
    if found.dtype.kind not in "iufbSO":
        raise ValueError(f"'{name}' holds {found.dtype}, not numbers")
    size = Path(found.file.filename).stat().st_size
    claimed = int(np.prod([int(n) for n in found.shape], dtype=object)) * found.dtype.itemsize if found.shape else 0
    if claimed > SMALL + MAX_RATIO * size:
        raise ValueError(f"'{name}' claims {claimed:.3g} bytes in a file of {size}")
    return found


def is_dataset(group: Any, name: str) -> bool:
    """Whether ``name`` is an array in this file, not a group, no link to another file or to nothing."""
    import h5py

    return _class(group, name) is h5py.Dataset


def _class(group: Any, name: str) -> type | None:
    """The class of an object in this file; None where a link leads out of it or to nothing."""
    import h5py

    if group.get(name, getclass=True, getlink=True) is h5py.ExternalLink:
        return None
    try:
        return group.get(name, getclass=True)
    except (KeyError, RuntimeError):  # a soft link to nothing
        return None


def groups(group: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Name and handle of the groups in ``group``, in the order of their names, each group of the file once.

    Links to other files are left out; ``seen`` holds the addresses of the groups met so far, for links that lead back.
    """
    import h5py

    for name in sorted(group):
        if _class(group, name) is not h5py.Group:
            continue
        child = group[name]
        address = hash(child.id)
        if address not in seen:
            seen.add(address)
            yield name, child


def integers(group: Any, name: str) -> np.ndarray:
    """The array ``name`` of whole numbers, int64; raises ValueError for others."""
    found = np.asarray(dataset(group, name)[()])
    if found.dtype.kind not in "iu":
        raise ValueError(f"'{name}' holds {found.dtype}, not whole numbers")
    return found.astype(np.int64)


def gather(data: Any, rows: np.ndarray) -> np.ndarray:
    """Rows (ascending, unique) of an HDF5 dataset: a slice where they are dense, which is many times faster."""
    first, last = int(rows[0]), int(rows[-1]) + 1
    if last - first <= 4 * len(rows):
        return data[first:last][rows - first]
    return data[rows]
