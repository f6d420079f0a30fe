"""How frames lie in a store: flat (format version 3), or a group for each composition (versions 1 and 2, read only)."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from equimd.data.frames import Frames
from equimd.data.hdf5 import dataset, gather, integers
from equimd.data.store_write import ATOMS, FRAMES, Kind


class Layout(Protocol):
    """Frames of an open store by row."""

    elements: tuple[int, ...]
    keep: bool  # whether its frames stay in memory once they are read
    packed: bool  # whether single frames are costly to read

    @property
    def n_atoms(self) -> np.ndarray:
        """(N,) of each frame."""
        ...

    def load(self, file: Any, rows: np.ndarray) -> Frames:
        """The frames ``rows`` of the file; raises what h5py raises on damage."""
        ...


class Flat:
    """Atoms one after the other, and where each frame begins.

    An array that lies in one piece in its file is mapped into memory: what a batch reads is what it holds. Others,
    which are packed, are read in stretches.
    """

    def __init__(self, path: Path, file: Any, n_frames: int) -> None:
        self.path, self.keep = path, False
        atoms, frames = file["atoms"], file["frames"]
        self.first = integers(frames, "first")
        if self.first.shape != (n_frames + 1,) or (n_frames and (self.first[0] or (np.diff(self.first) < 1).any())):
            raise ValueError("the frames do not follow each other")
        total = int(self.first[-1])
        self.columns = _columns(atoms, ATOMS, total) | _columns(frames, FRAMES, n_frames)
        self.packed = atoms["positions"].chunks is not None
        self.elements = tuple(sorted(int(z) for z in np.asarray(file.attrs["elements"]).reshape(-1)))
        if not all(0 < z < 119 for z in self.elements):
            raise ValueError("its elements are none")
        self._arrays: dict[str, np.ndarray] | None = None

    @property
    def n_atoms(self) -> np.ndarray:
        return np.diff(self.first)

    def load(self, file: Any, rows: np.ndarray) -> Frames:
        counts = self.first[rows + 1] - self.first[rows]
        width = int(counts.max(initial=0))
        slots = np.arange(width) < counts[:, None]
        atoms = (self.first[rows][:, None] + np.arange(width))[slots]
        found: dict[str, np.ndarray] = {}
        for name, (dtype, blank, shape) in ATOMS.items():
            if f"/atoms/{name}" not in self.columns:
                continue
            found[name] = np.full((len(rows), width, *shape), 0 if blank is None else blank, dtype)
            found[name][slots] = self._values(file, f"/atoms/{name}", atoms)
        if not np.isin(found["numbers"][slots], self.elements).all():
            raise ValueError("an atom is of no element that the header lists")
        for name in FRAMES:
            if f"/frames/{name}" in self.columns:
                found[name] = self._values(file, f"/frames/{name}", rows)
        found.setdefault("charge_stated", np.zeros(len(rows), bool))
        return Frames.build(found.pop("numbers"), found.pop("positions"), where=str(self.path), **found)

    def _values(self, file: Any, name: str, rows: np.ndarray) -> np.ndarray:
        if self._arrays is None:
            self._arrays = {}
        if name not in self._arrays:
            data = dataset(file, name)
            if self.keep:
                self._arrays[name] = data[()]
            elif (offset := data.id.get_offset()) is not None and not data.chunks:
                self._arrays[name] = np.memmap(self.path, data.dtype, "r", offset, data.shape)
            else:
                return _stretches(data, rows)
        array = self._arrays[name]
        found = array[rows]
        if isinstance(array, np.memmap):  # what was read stays in the cache of the disk, and does not count as memory
            array._mmap.madvise(mmap.MADV_DONTNEED)  # type: ignore[attr-defined]
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_arrays": None}


def _columns(group: Any, kinds: Mapping[str, Kind], count: int) -> set[str]:
    """Names in the file of the columns of a group that are there, each with a value of its shape for every atom or
    frame; raises what h5py raises else."""
    found = set()
    for name, (dtype, blank, shape) in kinds.items():
        if name not in group and blank is not None:
            continue
        column = dataset(group, name)
        if column.shape != (count, *shape):
            raise ValueError(f"'{name}' has shape {column.shape}, not {(count, *shape)}")
        if np.dtype(dtype).kind != column.dtype.kind:
            raise ValueError(f"'{name}' holds {column.dtype}, not {np.dtype(dtype)}")
        found.add(f"{group.name}/{name}")
    return found


def _stretches(data: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of a packed dataset, read in stretches of neighbours."""
    unique, inverse = np.unique(rows, return_inverse=True)
    if not len(unique):
        return data[:0]
    ends = np.flatnonzero(np.diff(unique) > 1)
    starts = unique[np.concatenate([[0], ends + 1])]
    stops = unique[np.concatenate([ends, [len(unique) - 1]])] + 1
    return np.concatenate([data[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)])[
        inverse.reshape(-1)
    ]


class Grouped:
    """A group of frames for each composition, and an index of which frame is which row of which group."""

    FIELDS = ("positions", "energy", "forces", "cell", "pbc", "charge", "spin", "charge_stated", "weight")

    def __init__(self, path: Path, file: Any, n_frames: int) -> None:
        self.path, self.keep, self.packed = path, False, True
        self._memory: Frames | None = None
        self._read_compositions(file["composition"])
        self._group, self._row = integers(file["index"], "group"), integers(file["index"], "row")
        self._check_index(n_frames)
        self.elements = tuple(sorted({int(z) for numbers in self._numbers for z in numbers}))

    def _read_compositions(self, root: Any) -> None:
        """The atoms of each group, how many frames it has, and whether charges are stated."""
        order = sorted((int(name.split("_")[0]), name) for name in root)
        if [number for number, _ in order] != list(range(len(order))):
            raise ValueError("compositions are missing")
        self._names = [name for _, name in order]
        self._numbers, sizes, found = [], [], set()
        for name in self._names:
            group = root[name]
            self._numbers.append(_numbers(group))
            sizes.append(len(dataset(group, "energy")))
            found.update(group)
        self._group_atoms = np.array([len(z) for z in self._numbers], np.int64)
        self._group_frames = np.array(sizes, np.int64)
        # stores written before charges could be stated as 0 hold them where any differs from 0
        self._states_charges = "charge" in found and "charge_stated" not in found

    def _check_index(self, n_frames: int) -> None:
        """Every entry of the index must name a frame that is there: arrays would take a negative row for another."""
        for name, array in (("group", self._group), ("row", self._row)):
            if array.shape != (n_frames,):
                raise ValueError(f"the index lists {array.size} frames ('{name}'), the header {n_frames}")
        if n_frames and not (0 <= self._group.min() and self._group.max() < len(self._names)):
            raise ValueError("the index names a composition that is not there")
        if not ((self._row >= 0) & (self._row < self._group_frames[self._group])).all():
            raise ValueError("the index names a frame that is not there")

    @property
    def n_atoms(self) -> np.ndarray:
        return self._group_atoms[self._group]

    def load(self, file: Any, rows: np.ndarray) -> Frames:
        if not self.keep:
            return self._read(file, rows)
        if self._memory is None:
            self._memory = self._read(file, np.arange(len(self._row)))
        return self._memory.take(rows)

    def _read(self, file: Any, rows: np.ndarray) -> Frames:
        """One read for each group and field."""
        groups, blocks, places = self._group[rows], [], []
        for group in np.unique(groups):
            place = np.flatnonzero(groups == group)
            blocks.append(self._load_group(file, int(group), self._row[rows[place]]))
            places.append(place)
        return Frames.concatenate(blocks).take(np.argsort(np.concatenate(places), kind="stable"))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_memory": None}

    def _load_group(self, file: Any, group: int, rows: np.ndarray) -> Frames:
        handle = file["composition"][self._names[group]]
        unique, inverse = np.unique(rows, return_inverse=True)
        got: dict[str, np.ndarray] = {}
        for name in self.FIELDS:
            if name in handle:
                got[name] = gather(dataset(handle, name), unique)[inverse]
        positions = got.pop("positions")
        if self._states_charges:
            got["charge_stated"] = np.ones(len(rows), bool)
        elif "charge_stated" not in got:
            got["charge_stated"] = np.zeros(len(rows), bool)
        return Frames.build(self._numbers[group], positions, where=str(self.path), **got)


def _numbers(group: Any) -> np.ndarray:
    """The atomic numbers of a composition."""
    found = np.asarray(dataset(group, "numbers")[()])
    if found.ndim != 1 or not found.size or found.dtype.kind not in "iu" or not (0 < found.min() <= found.max() < 119):
        raise ValueError(f"'{group.name}' has no atomic numbers")
    return found.astype(np.uint8)
