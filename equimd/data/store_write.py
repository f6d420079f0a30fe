"""Writing a store: arrays of all atoms and of all frames, appended as blocks come, each put into the file at the end.

An array that is not packed lies in one piece in the file, so that it can be mapped into memory.
"""

from __future__ import annotations

import errno
import hashlib
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from equimd.data.content import add_content
from equimd.data.dataset import Dataset, iterate_blocks, time_index
from equimd.data.frames import Frames
from equimd.data.hdf5 import writing
from equimd.errors import DataError, MachineError
from equimd.files import replacing

if TYPE_CHECKING:
    import h5py

FORMAT, FORMAT_VERSION = "equimd-frames", 3
#: Stores up to this size (positions and forces) are kept in memory once read, and packed if that is asked for.
MEMORY_LIMIT, ATOM_BYTES = 256 << 20, 48
PIECE = 16 << 20  # bytes that are copied at once
#: Kind of number, what holds where an array is absent (None: it never is), and the shape of one value.
Kind = tuple[type, float | None, tuple[int, ...]]
ATOMS: dict[str, Kind] = {
    "numbers": (np.uint8, None, ()),
    "positions": (np.float64, None, (3,)),
    "forces": (np.float64, np.nan, (3,)),
}
FRAMES: dict[str, Kind] = {
    "energy": (np.float64, np.nan, ()),
    "cell": (np.float64, 0, (3, 3)),
    "pbc": (np.bool_, 0, (3,)),
    "charge": (np.int64, 0, ()),
    "spin": (np.int64, 0, ()),
    "charge_stated": (np.bool_, 0, ()),
    "weight": (np.float64, 1, ()),
}


def write_store(
    path: str | Path,
    data: Dataset | Iterable[Frames],
    *,
    theory: str = "",
    license: str = "",
    citation: str = "",
    command: str = "",
    source: str = "",
    extra: Mapping[str, str | int | float] | None = None,
    trajectory: np.ndarray | None = None,
    time: np.ndarray | None = None,
    compression: str | None = None,
) -> str:
    """Write a data set, or blocks of frames as they come, to a store; the file appears only when it is complete.

    Args:
        path: where to; an existing file is replaced at the end.
        data: a data set, or an iterable of blocks (which need not fit in memory together).
        theory, license, citation, command, source: kept as attributes.
        extra: more attributes.
        trajectory, time: (N,) per frame; taken from the data set where it knows them.
        compression: ``gzip`` (lossless, smaller) of stores that are read as a whole; larger ones are not packed.

    Returns:
        the SHA-256 of the content (labels included), which does not depend on blocks or compression.

    Raises:
        DataError: no frames, or ``trajectory`` or ``time`` of another length.
        MachineError: the disk is full or cannot be written.
    """
    path = Path(path)
    if isinstance(data, Dataset):
        trajectory = data.trajectory if trajectory is None else trajectory
        time = time_index(data) if time is None else time
    blocks = iterate_blocks(data) if isinstance(data, Dataset) else data
    attributes = {"theory": theory, "license": license, "citation": citation, "command": command, "source": source}
    try:
        with replacing(path) as temporary, ExitStack() as stack:
            writer = _Writer(path.parent, stack)
            for block in blocks:
                writer.append(block)
            if not writer.n_frames:
                raise DataError("no frames to write", where=str(path))
            writer.place("trajectory", np.zeros(writer.n_frames) if trajectory is None else trajectory, str(path))
            if time is not None:
                writer.place("time", time, str(path))
            with writing(temporary, libver=("earliest", "v110")) as file:
                digest = writer.finish(file, compression)
                for key, value in {**{k: v for k, v in attributes.items() if v}, **(extra or {})}.items():
                    file.attrs[key] = _text(value) if isinstance(value, str) else value
    except (PermissionError, NotADirectoryError, IsADirectoryError) as error:
        raise DataError(f"cannot be written ({error.strerror})", where=str(path), hint="another --out") from error
    except OSError as error:
        if error.errno in (errno.EROFS, errno.ENAMETOOLONG, errno.EACCES):
            raise DataError(f"cannot be written ({error})", where=str(path), hint="another --out") from error
        raise MachineError(f"cannot write the store ({error})", where=str(path), hint="is the disk full?") from error
    return digest


def _text(value: str) -> str:
    """``value`` with what is no text (of file names in another encoding) escaped."""
    return value.encode("utf-8", "backslashreplace").decode()


class _Column:
    """An array that grows, in a file without a name; nothing is kept until a value differs from the blank."""

    def __init__(self, file: BinaryIO, dtype: type, blank: float | None, shape: tuple[int, ...]) -> None:
        self.file, self.dtype, self.blank, self.shape = file, np.dtype(dtype), blank, shape
        self.written, self.there = 0, blank is None

    def append(self, values: np.ndarray) -> None:
        if not self.there and not _is_blank(values, self.blank):
            self.there = True
            for first in range(0, self.written, PIECE):
                count = min(PIECE, self.written - first)
                np.full((count, *self.shape), self.blank, self.dtype).tofile(self.file)
        if self.there:
            np.ascontiguousarray(values, self.dtype).tofile(self.file)
        self.written += len(values)

    def store(self, group: Any, name: str, compression: str | None) -> None:
        """Move it into a file, whole."""
        if not self.there:
            return
        options = {"compression": compression, "shuffle": True} if compression else {}
        data = group.create_dataset(name, shape=(self.written, *self.shape), dtype=self.dtype, **options)
        width = int(np.prod(self.shape, dtype=int))
        rows = max(PIECE // (width * self.dtype.itemsize), 1)
        self.file.seek(0)
        for first in range(0, self.written, rows):
            count = min(rows, self.written - first)
            piece = np.fromfile(self.file, self.dtype, count * width)
            data[first : first + count] = piece.reshape(count, *self.shape)


class _Writer:
    """Appends blocks to columns."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        def column(kind: Kind) -> _Column:
            return _Column(stack.enter_context(tempfile.TemporaryFile(dir=folder)), *kind)  # type: ignore[arg-type]

        self.atoms = {name: column(kind) for name, kind in ATOMS.items()}
        self.frames = {name: column(kind) for name, kind in FRAMES.items()}
        self.sizes = column((np.int64, None, ()))
        self.listed: dict[str, np.ndarray] = {}
        self.digest, self.elements = hashlib.sha256(), np.zeros(256, bool)

    @property
    def n_frames(self) -> int:
        return self.sizes.written

    def append(self, block: Frames) -> None:
        """Add the frames of a block."""
        add_content(self.digest, block)
        real = block.numbers > 0
        self.elements[np.unique(block.numbers[real])] = True
        for name, column in self.atoms.items():
            column.append(getattr(block, name)[real])
        for name, column in self.frames.items():
            column.append(getattr(block, name))
        self.sizes.append(real.sum(1))

    def place(self, name: str, values: np.ndarray, where: str) -> None:
        """A number of each frame that is known beforehand."""
        if np.shape(values) != (self.n_frames,):
            raise DataError(f"{np.size(values)} {name} numbers for {self.n_frames} frames", where=where)
        self.listed[name] = np.asarray(values, np.int64)

    def finish(self, file: h5py.File, compression: str | None) -> str:
        """Everything but the descriptive attributes; returns the content hash."""
        file.attrs["format"], file.attrs["format_version"] = FORMAT, FORMAT_VERSION
        file.attrs["units_energy"], file.attrs["units_length"] = "eV", "Angstrom"
        n_atoms = self.atoms["numbers"].written
        packing = compression if ATOM_BYTES * n_atoms <= MEMORY_LIMIT else None
        atoms, frames = file.create_group("atoms"), file.create_group("frames")
        first = frames.create_dataset("first", (self.n_frames + 1,), np.int64)
        self.sizes.file.seek(0)
        done = end = 0
        while len(sizes := np.fromfile(self.sizes.file, np.int64, PIECE // 8)):
            ends = end + np.cumsum(sizes)
            first[done + 1 : done + 1 + len(ends)] = ends
            done, end = done + len(ends), int(ends[-1])
        for group, columns in ((atoms, self.atoms), (frames, self.frames)):
            for name, column in columns.items():
                column.store(group, name, packing)
        for name, values in self.listed.items():
            frames[name] = values
        file.attrs["elements"] = (
            np.flatnonzero(self.elements)[1:] if self.elements[0] else np.flatnonzero(self.elements)
        )
        file.attrs["n_frames"] = self.n_frames
        file.attrs["content_sha256"] = self.digest.hexdigest()
        return self.digest.hexdigest()


def _is_blank(values: np.ndarray, blank: float | None) -> bool:
    if blank is None:
        return False
    return bool((np.isnan(values) if np.isnan(blank) else values == blank).all())
