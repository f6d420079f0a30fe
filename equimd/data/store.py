"""equimd's own data file: HDF5, read lazily, larger than memory.

Layout (format version 3)::

    /                     attributes: format, format_version, n_frames, elements, content_sha256, units_energy,
                          units_length, and any of theory, license, citation, command, source, created
    /atoms/               A atoms, those of each frame one after the other
        numbers    (A,) uint8
        positions  (A, 3) float64 Angstrom
        forces     (A, 3) float64 eV/Angstrom, NaN = no label (of a frame or an atom); absent where no frame has any
    /frames/              N frames
        first      (N + 1,) int64, the first atom of each, and A
        energy     (N,) float64 eV, NaN = no label; absent where no frame has one
        cell, pbc  (N, 3, 3), (N, 3); absent where all are open molecules
        charge, spin (N,) int64; absent where all are 0
        charge_stated (N,) bool, whether a charge is stated, of 0 too; absent where none is
        weight     (N,) float64, of the frame in a training loss; absent where all are 1
        trajectory, time   (N,) int64; time is absent where unknown

Arrays of stores that do not fit into memory with ease are not packed, so that they can be mapped into it. Versions 1
and 2, with a group for each composition (:mod:`equimd.data.layouts`), are read; `equimd data convert` makes this one
of them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.content import add_content
from equimd.data.dataset import Dataset, DatasetInfo, ListedDataset, Units, iterate_blocks
from equimd.data.frames import Frames
from equimd.data.hdf5 import DAMAGED, integers, open_hdf5, reading
from equimd.data.layouts import Flat, Grouped, Layout
from equimd.data.store_write import ATOM_BYTES, FORMAT, FORMAT_VERSION, MEMORY_LIMIT
from equimd.data.store_write import write_store as write_store
from equimd.errors import DataError

if TYPE_CHECKING:
    import h5py


def is_store(path: str | Path) -> bool:
    """Whether an HDF5 file carries our marker.

    Raises:
        DataError: HDF5 cannot open it.
    """
    with open_hdf5(Path(path)) as file, reading(Path(path), "its attributes cannot be read"):
        return str(file.attrs.get("format", "")) == FORMAT


def share_memory(parts: Iterable[Dataset]) -> None:
    """Stores that are opened together, as shards are, stay in memory only if all of them fit into ``MEMORY_LIMIT``."""
    stores = [part for part in parts if isinstance(part, StoreDataset) and part.memory]
    if sum(store.memory for store in stores) > MEMORY_LIMIT:
        for store in stores:
            store._layout.keep = False


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
        keep = None if in_memory == "auto" else bool(in_memory)
        with open_hdf5(self.path) as file, reading(self.path, "the store is incomplete"):
            self._layout = self._read(file, keep)

    def _read(self, file: h5py.File, keep: bool | None) -> Layout:
        """Everything small: attributes, index, the atoms of each frame."""
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
        n_frames = int(attributes["n_frames"])
        if n_frames < 0:
            raise ValueError(f"{n_frames} frames")
        self._length = n_frames
        kind, listed = (Flat, file["frames"]) if version == FORMAT_VERSION else (Grouped, file["index"])
        layout: Layout = kind(self.path, file, n_frames)
        layout.keep = int(layout.n_atoms.sum()) * ATOM_BYTES <= MEMORY_LIMIT if keep is None else keep
        self._trajectory = _lean(integers(listed, "trajectory"))
        self.time_index = integers(listed, "time") if "time" in listed else None
        for name, array in (("trajectory", self._trajectory), ("time", self.time_index)):
            if array is not None and array.shape != (n_frames,):
                raise ValueError(f"the store lists {array.size} frames ('{name}'), its header {n_frames}")
        self.content_sha256 = str(attributes["content_sha256"])
        skipped = ("format", "units_energy", "units_length", "elements")
        extra = {k: v for k, v in attributes.items() if k not in skipped}
        units = Units("eV", "Angstrom", "stated", "stated by the store")
        self.info = DatasetInfo(str(self.path), "store", units, extra)
        return layout

    @property
    def memory(self) -> int:
        """Bytes of positions and forces that stay in memory, though single frames could be read as they are needed."""
        return int(self.n_atoms.sum()) * ATOM_BYTES if self._layout.keep and not self._layout.packed else 0

    @property
    def mapped(self) -> bool:
        """Whether single frames cost little to read: all are in memory, or mapped into it."""
        return not self._layout.packed

    def __len__(self) -> int:
        return self._length

    @property
    def n_atoms(self) -> np.ndarray:
        return self._layout.n_atoms

    @property
    def elements(self) -> tuple[int, ...]:
        return self._layout.elements

    @property
    def trajectory(self) -> np.ndarray:
        return self._trajectory

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        """The frames ``rows``, in that order.

        Raises:
            DataError: the file is damaged where they stand.
        """
        wanted = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if not wanted.size:
            return Frames.build(np.zeros((0, 0), np.uint8), np.zeros((0, 0, 3)))
        if not (-len(self) <= wanted.min() and wanted.max() < len(self)):
            raise IndexError(f"row {wanted.min()} or {wanted.max()} of {len(self)} frames")
        with reading(self.path, "cannot read frames"):
            return self._layout.load(self._handle(), wanted % len(self))

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
        return {**self.__dict__, "_file": None}

    def verify(self) -> None:
        """Compare the content with the hash written beside it.

        Raises:
            DataError: they differ.
        """
        digest = hashlib.sha256()
        for block in iterate_blocks(self):
            add_content(digest, block)
        if digest.hexdigest() != self.content_sha256:
            raise DataError(
                f"the content has SHA-256 {digest.hexdigest()}, the header says {self.content_sha256}",
                where=str(self.path),
                hint=DAMAGED,
            )


def _lean(values: np.ndarray) -> np.ndarray:
    """The same numbers, which take no memory where they are all one."""
    same = len(values) > 0 and bool((values == values[0]).all())
    return np.broadcast_to(values[:1].copy(), values.shape) if same else values
