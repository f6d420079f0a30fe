"""Dataset: an ordered, indexable sequence of frames, in memory or read lazily, always in eV and Angstrom."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from equimd.data.content import Hashes, content_hashes
from equimd.data.frames import Frames
from equimd.errors import DataError
from equimd.shown import Shown, span


@dataclass(frozen=True)
class Units:
    """The units a file was read in, and how they are known: ``stated``, ``inferred`` or ``unknown``.

    ``force`` is that of the forces where it is stated for itself, else they are in energy/length.
    """

    energy: str = "eV"
    length: str = "Angstrom"
    source: str = "stated"
    note: str = ""
    force: str = ""

    @property
    def forces(self) -> str:
        """The unit of the forces."""
        return self.force or f"{self.energy}/{self.length}"


@dataclass(frozen=True)
class DatasetInfo:
    """Where a data set comes from: path, format, units, and what else its file says (theory, labels, trajectory)."""

    path: str = ""
    format: str = ""
    units: Units = field(default_factory=Units)
    extra: dict[str, object] = field(default_factory=dict)


@runtime_checkable
class Dataset(Protocol):
    """What every reader returns. ``frames`` is the one way to the data; it copies, so callers may write into it."""

    info: DatasetInfo

    def __len__(self) -> int: ...

    @property
    def n_atoms(self) -> np.ndarray:
        """(len,) atoms of each frame, without reading positions."""
        ...

    @property
    def elements(self) -> tuple[int, ...]:
        """Atomic numbers that occur, ascending."""
        ...

    @property
    def trajectory(self) -> np.ndarray:
        """(len,) int, the trajectory a frame belongs to, all zeros where unknown."""
        ...

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        """The frames ``rows`` (all of them if None), in that order, as one padded block."""
        ...


def notes(data: Dataset) -> list[str]:
    """What the readers of ``data`` have to say about how it was read: columns chosen, masks, units of programs."""
    parts = data.parts if isinstance(data, ConcatDataset) else [data]
    found = [(p.info.path, str(note)) for p in parts for note in _as_list(p.info.extra.get("notes"))]
    several = len(parts) > 1
    return [f"{path}: {note}" if several else note for path, note in found]


def _as_list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


def time_index(data: Dataset) -> np.ndarray | None:
    """(len,) int, the step of its trajectory each frame was taken at; None where the data does not say.

    Steps of different trajectories are not comparable.
    """
    return getattr(data, "time_index", None)


class ListedDataset(Shown):
    """Base of data sets that say of themselves where they come from and how much they hold."""

    info: DatasetInfo

    def _shown(self) -> Mapping[str, str]:
        units = self.info.units
        found = {"path": self.info.path, "frames": f"{len(self):,}", "atoms": span(self.n_atoms)}  # type: ignore[arg-type, attr-defined]
        return {**found, "units": f"{units.energy}, {units.length} ({units.source})"}


class ArrayDataset(ListedDataset):
    """Frames held in memory."""

    def __init__(
        self,
        block: Frames,
        info: DatasetInfo | None = None,
        trajectory: np.ndarray | None = None,
        time_index: np.ndarray | None = None,
    ) -> None:
        self._block = block
        self.info = info or DatasetInfo()
        self._trajectory = np.zeros(len(block), np.int64) if trajectory is None else np.asarray(trajectory, np.int64)
        self.time_index = None if time_index is None else np.asarray(time_index, np.int64)
        for name, array in (("trajectory", self._trajectory), ("time_index", self.time_index)):
            if array is not None and array.shape != (len(block),):
                raise DataError(
                    f"{name} has shape {array.shape}, expected ({len(block)},)", where=self.info.path or None
                )

    def __len__(self) -> int:
        return len(self._block)

    @property
    def n_atoms(self) -> np.ndarray:
        return self._block.n_atoms

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(int(z) for z in np.unique(self._block.numbers) if z)

    @property
    def trajectory(self) -> np.ndarray:
        return self._trajectory

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        return self._block.take(np.arange(len(self)) if rows is None else np.asarray(rows, np.int64))


class ConcatDataset(ListedDataset):
    """Several data sets as one, in order; each part's trajectories stay apart."""

    def __init__(self, parts: Sequence[Dataset]) -> None:
        if not parts:
            raise DataError("no data sets to join")
        self.parts = list(parts)
        self.info = DatasetInfo(
            path=", ".join(p.info.path for p in parts),
            format="+".join(sorted({p.info.format for p in parts})),
            units=parts[0].info.units,
            extra=dict(parts[0].info.extra),
        )
        self._ends = np.cumsum([len(p) for p in parts])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def n_atoms(self) -> np.ndarray:
        return np.concatenate([p.n_atoms for p in self.parts])

    @property
    def elements(self) -> tuple[int, ...]:
        return tuple(sorted({z for p in self.parts for z in p.elements}))

    @property
    def trajectory(self) -> np.ndarray:
        out, start, offset = np.empty(len(self), np.int64), 0, 0
        for p in self.parts:
            t = p.trajectory
            np.add(t, offset, out=out[start : start + len(t)])
            start, offset = start + len(t), offset + int(t.max(initial=-1)) + 1
        return out

    @property
    def time_index(self) -> np.ndarray | None:
        """(len,) steps of the parts, or None unless every part knows its own."""
        times = [t for t in (time_index(p) for p in self.parts) if t is not None]
        return np.concatenate(times) if len(times) == len(self.parts) else None

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        index = np.arange(len(self)) if rows is None else np.asarray(rows, np.int64)
        if index.size and not (0 <= index.min() and index.max() < len(self)):
            raise IndexError(f"row {index.min()} or {index.max()} of {len(self)} frames")
        owner = np.searchsorted(self._ends, index, side="right")
        owners = np.unique(owner) if index.size else np.zeros(1, np.int64)
        if len(owners) == 1:
            return self._of_part(int(owners[0]), index)
        placed = ((np.flatnonzero(owner == k), self._of_part(int(k), index[owner == k])) for k in owners)
        return Frames.placed(len(index), placed)

    def _of_part(self, k: int, index: np.ndarray) -> Frames:
        return self.parts[k].frames(index - (self._ends[k] - len(self.parts[k])))


class Subset(ListedDataset):
    """Some frames of another data set, by row."""

    def __init__(self, parent: Dataset, rows: np.ndarray | Sequence[int]) -> None:
        self.parent, self.rows = parent, np.asarray(rows, np.int64)
        self.info = parent.info

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def n_atoms(self) -> np.ndarray:
        return self.parent.n_atoms[self.rows]

    @property
    def elements(self) -> tuple[int, ...]:
        found: set[int] = set()
        for block in iterate_blocks(self):
            found.update(int(z) for z in np.unique(block.numbers) if z)
        return tuple(sorted(found))

    @property
    def trajectory(self) -> np.ndarray:
        return self.parent.trajectory[self.rows]

    @property
    def time_index(self) -> np.ndarray | None:
        """(len,) steps of these frames, or None where the parent does not know."""
        times = time_index(self.parent)
        return None if times is None else times[self.rows]

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        return self.parent.frames(self.rows if rows is None else self.rows[np.asarray(rows, np.int64)])


class StatedDataset(Subset):
    """Frames whose charge and multiplicity are told for all of them, where they state none themselves."""

    def __init__(self, parent: Dataset, charge: int | None, spin: int | None) -> None:
        super().__init__(parent, np.arange(len(parent)))
        self.charge, self.spin = charge, spin

    @property
    def elements(self) -> tuple[int, ...]:
        return self.parent.elements

    def frames(self, rows: np.ndarray | Sequence[int] | None = None) -> Frames:
        return super().frames(rows).with_state(self.charge, self.spin, where=self.info.path)


def stated(data: Dataset, charge: int | None, spin: int | None) -> Dataset:
    """``data``, with charge and multiplicity of frames that state none; None leaves them open."""
    return data if charge is None and spin is None else StatedDataset(data, charge, spin)


def iterate_blocks(data: Dataset, block: int = 1024) -> Iterator[Frames]:
    """All frames in order, ``block`` at a time, so that memory does not grow with the data."""
    for start in range(0, len(data), block):
        yield data.frames(np.arange(start, min(start + block, len(data))))


def reads_at_once(data: Dataset) -> bool:
    """Whether single frames cost little to read: they are in memory, or mapped into it."""
    if isinstance(data, ConcatDataset):
        return all(reads_at_once(part) for part in data.parts)
    if isinstance(data, Subset):
        return reads_at_once(data.parent)
    return isinstance(data, ArrayDataset) or bool(getattr(data, "mapped", False))


def hashes_of(data: Dataset) -> Hashes:
    """The content hashes of all frames, in order."""
    return Hashes.joined(content_hashes(block) for block in iterate_blocks(data))
