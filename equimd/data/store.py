"""equimd's own data file: HDF5, one group a composition, read lazily, larger than memory.

Layout (format version 1, or 2 where frames have weights, which earlier readers would pass over)::

    /                     attributes: format, format_version, n_frames, content_sha256, units_energy, units_length,
                          and any of theory, license, citation, command, source, created
    /composition/<name>/  frames with the same atomic numbers in the same order
        numbers    (n,) uint8
        positions  (m, n, 3) float64 Angstrom, chunked
        energy     (m,) float64 eV, NaN = no label
        forces     (m, n, 3) float64 eV/Angstrom, NaN = no label (of a frame or an atom); absent where no frame has any
        cell, pbc  (m, 3, 3), (m, 3); absent where all are open molecules
        charge, spin (m,) int64; absent where all are 0
        charge_stated (m,) bool, whether a charge is stated, of 0 too; absent where none is
        weight     (m,) float64, of the frame in a training loss; absent where all are 1
    /index/group, /index/row   (N,) which group and which row of it frame k is: the order of frames is kept
    /index/trajectory, /index/time   (N,) int64; time is absent where unknown
"""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.chemistry import formula
from equimd.data.dataset import ArrayDataset, Dataset, DatasetInfo, ListedDataset, Units, iterate_blocks, time_index
from equimd.data.frames import Frames
from equimd.data.hdf5 import DAMAGED, dataset, gather, integers, open_hdf5, reading, writing
from equimd.errors import DataError, MachineError
from equimd.files import replacing

if TYPE_CHECKING:
    import h5py

FORMAT = "equimd-frames"
FORMAT_VERSION = 2
#: Chunks hold about this many bytes: small enough to read one frame, large enough to stream.
CHUNK_BYTES = 1 << 14
#: Stores up to this size (positions and forces) are kept in memory once read.
MEMORY_LIMIT = 256 << 20
_BLANK: dict[str, float] = {
    "forces": np.nan, "cell": 0, "pbc": 0, "charge": 0, "spin": 0, "charge_stated": 0, "weight": 1,
}  # fmt: skip
_BLOCK_FIELDS = ("positions", "energy", *_BLANK)


def is_store(path: str | Path) -> bool:
    """Whether an HDF5 file carries our marker.

    Raises:
        DataError: HDF5 cannot open it.
    """
    with open_hdf5(Path(path)) as file, reading(Path(path), "its attributes cannot be read"):
        return str(file.attrs.get("format", "")) == FORMAT


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
        compression: ``gzip`` (lossless, smaller, slower to read), or None.

    Returns:
        the SHA-256 of the content (labels included), which does not depend on chunks or compression.

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
        with replacing(path) as temporary, writing(temporary, libver=("earliest", "v110")) as file:
            digest = _write(file, blocks, trajectory, time, compression, str(path))
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


def _write(
    file: h5py.File,
    blocks: Iterable[Frames],
    trajectory: np.ndarray | None,
    time: np.ndarray | None,
    compression: str | None,
    where: str,
) -> str:
    """Everything but the descriptive attributes; returns the content hash."""
    file.attrs["format"], file.attrs["format_version"] = FORMAT, 1
    file.attrs["units_energy"], file.attrs["units_length"] = "eV", "Angstrom"
    writer = _Writer(file, compression)
    for block in blocks:
        writer.append(block)
    n_frames = len(writer.rows)
    if any("weight" in handle for handle in writer.handles):
        file.attrs["format_version"] = 2
    if not n_frames:
        raise DataError("no frames to write", where=where)
    index = file.create_group("index")
    index["group"], index["row"] = np.array(writer.groups, np.int32), np.array(writer.rows, np.int64)
    for name, array in (("trajectory", np.zeros(n_frames) if trajectory is None else trajectory), ("time", time)):
        if array is None:
            continue
        if np.shape(array) != (n_frames,):
            raise DataError(f"{np.size(array)} {name} numbers for {n_frames} frames", where=where)
        index[name] = np.asarray(array, np.int64)
    file.attrs["n_frames"] = n_frames
    file.attrs["content_sha256"] = writer.digest.hexdigest()
    return writer.digest.hexdigest()


class _Writer:
    """Appends blocks to the groups of a store."""

    def __init__(self, file: h5py.File, compression: str | None) -> None:
        self.file, self.compression = file, compression
        self.root = file.create_group("composition", track_order=True)
        self.known: dict[bytes, int] = {}
        self.sizes: list[int] = []
        self.handles: list[Any] = []
        self.groups: list[int] = []
        self.rows: list[int] = []
        self.digest = hashlib.sha256()

    def append(self, block: Frames) -> None:
        """Add the frames of ``block`` at the end of their groups."""
        _digest(self.digest, block)
        n_atoms = block.n_atoms
        keys = [block.numbers[k, :n].tobytes() for k, n in enumerate(n_atoms)]
        members: dict[bytes, list[int]] = {}
        for k, key in enumerate(keys):
            group = self._group(key)
            members.setdefault(key, []).append(k)
            self.groups.append(group)
            self.rows.append(self.sizes[group] + len(members[key]) - 1)
        for key, chosen in members.items():
            self._extend(self.known[key], block.take(np.array(chosen)))

    def _group(self, key: bytes) -> int:
        if key not in self.known:
            self.known[key] = len(self.known)
            self.sizes.append(0)
            numbers = np.frombuffer(key, np.uint8)
            handle = self.root.create_group(f"{len(self.handles):06d}_{formula(numbers)}")
            handle["numbers"] = numbers
            self.handles.append(handle)
        return self.known[key]

    def _extend(self, group: int, part: Frames) -> None:
        handle, old = self.handles[group], self.sizes[group]
        new = old + len(part)
        for name in _BLOCK_FIELDS:
            values = getattr(part, name)
            blank = _BLANK.get(name, np.nan)
            if name in _BLANK and name not in handle and _is_blank(values, blank):
                continue
            if name not in handle:
                self._create(handle, name, values, blank)
            data = handle[name]
            data.resize(new, axis=0)
            data[old:new] = values
        self.sizes[group] = new

    def _create(self, handle: Any, name: str, values: np.ndarray, blank: float) -> None:
        frame = max(1, values[0].nbytes) if values.ndim > 1 else values.itemsize
        rows = min(max(16, len(values)), max(1, CHUNK_BYTES // frame))  # rare compositions take small chunks
        chunk = (rows, *values.shape[1:])
        handle.create_dataset(
            name,
            shape=(0, *values.shape[1:]),
            maxshape=(None, *values.shape[1:]),
            dtype=values.dtype,
            chunks=chunk,
            fillvalue=blank,  # frames written before the first label of this kind
            compression=self.compression,
            shuffle=self.compression is not None,
        )


def _is_blank(values: np.ndarray, blank: float) -> bool:
    return bool((np.isnan(values) if np.isnan(blank) else values == blank).all())


def _digest(digest: Any, block: Frames) -> None:
    """Add the content of each frame, without padding, to ``digest``."""
    for k, n in enumerate(block.n_atoms):
        for array in (block.numbers[k, :n], block.positions[k, :n], block.forces[k, :n], block.cell[k]):
            digest.update(np.ascontiguousarray(array).tobytes())
        digest.update(np.array([block.energy[k]], np.float64).tobytes())
        digest.update(np.array([*block.pbc[k], block.charge[k], block.spin[k]], np.int64).tobytes())
        if block.weight[k] != 1:
            digest.update(np.array([block.weight[k]], np.float64).tobytes())


class StoreDataset(ListedDataset):
    """A store as a data set. The file is opened when first needed, and again in each worker process.

    Args:
        path: the store.
        in_memory: keep the frames in memory after the first read; ``auto`` does so up to ``MEMORY_LIMIT`` bytes.

    Raises:
        DataError: missing, truncated, not a store, or written by a newer version.
    """

    def __init__(self, path: str | Path, *, in_memory: bool | str = "auto") -> None:
        self.path = Path(path)
        self._file: h5py.File | None = None
        self._pid = -1
        self._memory: ArrayDataset | None = None
        with open_hdf5(self.path) as file, reading(self.path, "the store is incomplete"):
            self._read_index(file)
        size = int((self._group_atoms[self._group].astype(np.int64) * 48).sum())
        self._keep = size <= MEMORY_LIMIT if in_memory == "auto" else bool(in_memory)

    def _read_index(self, file: h5py.File) -> None:
        """Everything small: attributes, index, the atoms of each group."""
        attributes = {k: v.item() if isinstance(v, np.generic) else v for k, v in file.attrs.items()}
        if attributes.get("format") != FORMAT:
            raise DataError("not an equimd store", where=str(self.path), hint="open it with equimd.data.open_dataset")
        version = int(attributes.get("format_version", 0))
        if version > FORMAT_VERSION:
            raise DataError(
                f"written in format version {version}, this equimd reads up to {FORMAT_VERSION}",
                where=str(self.path),
                hint="update equimd, or convert the data again with this version",
            )
        self._read_compositions(file["composition"])
        index = file["index"]
        self._group, self._row = integers(index, "group"), integers(index, "row")
        self._trajectory = integers(index, "trajectory")
        self.time_index = integers(index, "time") if "time" in index else None
        self._check_index(int(attributes["n_frames"]))
        self.content_sha256 = str(attributes["content_sha256"])
        extra = {k: v for k, v in attributes.items() if k not in ("format", "units_energy", "units_length")}
        units = Units("eV", "Angstrom", "stated", "stated by the store")
        self.info = DatasetInfo(str(self.path), "store", units, extra)

    def _read_compositions(self, root: Any) -> None:
        """The atoms of each group, how many frames it has, and whether charges are stated."""
        order = sorted((int(name.split("_")[0]), name) for name in root)
        if [number for number, _ in order] != list(range(len(order))):
            raise ValueError("compositions are missing")
        self._names = [name for _, name in order]
        self._numbers, sizes, fields = [], [], set()
        for name in self._names:
            group = root[name]
            self._numbers.append(_numbers(group))
            sizes.append(len(dataset(group, "energy")))
            fields.update(group)
        self._group_atoms = np.array([len(z) for z in self._numbers], np.int64)
        self._group_frames = np.array(sizes, np.int64)
        # stores written before charges could be stated as 0 hold them where any differs from 0
        self._states_charges = "charge" in fields and "charge_stated" not in fields

    def _check_index(self, n_frames: int) -> None:
        """Every entry of the index must name a frame that is there: arrays would take a negative row for another."""
        for name, array in (("group", self._group), ("row", self._row), ("trajectory", self._trajectory)):
            if array.shape != (n_frames,):
                raise ValueError(f"the index lists {array.size} frames ('{name}'), the header {n_frames}")
        if n_frames and not (0 <= self._group.min() and self._group.max() < len(self._names)):
            raise ValueError("the index names a composition that is not there")
        if not ((self._row >= 0) & (self._row < self._group_frames[self._group])).all():
            raise ValueError("the index names a frame that is not there")

    def __len__(self) -> int:
        return len(self._row)

    @property
    def n_atoms(self) -> np.ndarray:
        return self._group_atoms[self._group]

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(sorted({int(z) for numbers in self._numbers for z in numbers}))

    @property
    def trajectory(self) -> np.ndarray:
        return self._trajectory

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        """The frames ``rows``, in that order.

        Raises:
            DataError: the file is damaged where they stand.
        """
        if self._memory is None and self._keep:
            self._memory = ArrayDataset(self._load(np.arange(len(self))), self.info, self._trajectory)
        if self._memory is not None:
            return self._memory.frames(rows)
        return self._load(np.arange(len(self)) if rows is None else np.asarray(rows, np.int64))

    def _load(self, rows: np.ndarray) -> Frames:
        """Read frames from the file, one read per group and field."""
        if not rows.size:
            return Frames.build(np.zeros((0, 0), np.uint8), np.zeros((0, 0, 3)))
        groups, blocks, places = self._group[rows], [], []
        with reading(self.path, "cannot read frames"):
            for group in np.unique(groups):
                place = np.flatnonzero(groups == group)
                blocks.append(self._load_group(int(group), self._row[rows[place]]))
                places.append(place)
        return Frames.concatenate(blocks).take(np.argsort(np.concatenate(places), kind="stable"))

    def _load_group(self, group: int, rows: np.ndarray) -> Frames:
        handle = self._handle()["composition"][self._names[group]]
        unique, inverse = np.unique(rows, return_inverse=True)
        got: dict[str, np.ndarray] = {}
        for name in _BLOCK_FIELDS:
            if name in handle:
                got[name] = gather(dataset(handle, name), unique)[inverse]
        positions = got.pop("positions")
        if self._states_charges:
            got["charge_stated"] = np.ones(len(rows), bool)
        elif "charge_stated" not in got:
            got["charge_stated"] = np.zeros(len(rows), bool)
        return Frames.build(self._numbers[group], positions, where=str(self.path), **got)

    def _handle(self) -> h5py.File:
        """The open file of this process; HDF5 handles survive neither pickling nor a fork."""
        if self._file is None or self._pid != os.getpid():
            self._file, self._pid = open_hdf5(self.path), os.getpid()
        return self._file

    def close(self) -> None:
        """Close the file; it opens again when needed."""
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_memory": None}

    def verify(self) -> None:
        """Compare the content with the hash written beside it.

        Raises:
            DataError: they differ.
        """
        digest = hashlib.sha256()
        for block in iterate_blocks(self):
            _digest(digest, block)
        if digest.hexdigest() != self.content_sha256:
            raise DataError(
                f"the content has SHA-256 {digest.hexdigest()}, the header says {self.content_sha256}",
                where=str(self.path),
                hint=DAMAGED,
            )


def _numbers(group: Any) -> np.ndarray:
    """The atomic numbers of a composition."""
    found = np.asarray(dataset(group, "numbers")[()])
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or not (0 < found.min() <= found.max() < 119):
        raise ValueError(f"'{group.name}' has no atomic numbers")
    return found.astype(np.uint8)
