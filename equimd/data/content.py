"""The content of frames as bytes, and hashes of it: of many frames at once, 16 bytes each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    from equimd.data.frames import Frames

#: Steps an Angstrom in which geometries are told apart.
STEPS = 1e5
_PIECE = 65536  # hashes that are written as text at once


class Hashes(Sequence[str]):
    """Content hashes of frames, each a text of 32 hexadecimal digits, of which 16 bytes are kept.

    Args:
        values: (N,) S16.
    """

    def __init__(self, values: np.ndarray) -> None:
        self.values = values

    @classmethod
    def joined(cls, parts: Iterable[Hashes]) -> Hashes:
        """All of several, in order."""
        return cls(np.concatenate([np.zeros(0, "S16"), *(part.values for part in parts)]))

    @classmethod
    def read(cls, text: str) -> Hashes:
        """Of a text with white space between them; raises ValueError for another."""
        return cls(np.frombuffer(bytes.fromhex(text), "S16"))

    def text(self, before: str = "", after: str = "") -> Iterator[str]:
        """All of them in pieces, each between ``before`` and ``after``."""
        for start in range(0, len(self), _PIECE):
            digits = self.values[start : start + _PIECE].tobytes().hex()
            yield before + (after + before).join([digits[k : k + 32] for k in range(0, len(digits), 32)]) + after

    def within(self, others: Hashes) -> np.ndarray:
        """(N,) bool, which of them are among ``others``."""
        return among(self.values, np.sort(others.values))

    def __len__(self) -> int:
        return len(self.values)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Hashes: ...

    def __getitem__(self, index: int | slice) -> str | Hashes:
        if isinstance(index, slice):
            return Hashes(self.values[index])
        return self.values[index : index + 1 or None].tobytes().hex()

    def __iter__(self) -> Iterator[str]:
        for piece in self.text(after=" "):
            yield from piece.split()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, Hashes):
            return np.array_equal(self.values, other.values)
        return list(self) == other


def as_json(hashes: Mapping[str, Hashes]) -> Iterator[str]:
    """What JSON makes of them, lists of texts, in pieces."""
    for k, part in enumerate(sorted(hashes)):
        yield f'{", " if k else "{"}"{part}": ['
        for n, piece in enumerate(hashes[part].text(', "', '"')):
            yield piece if n else piece[2:]
        yield "]"
    yield "}"


def among(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """(N,) bool, which of the values are among the sorted ones."""
    if not len(ordered):
        return np.zeros(len(values), bool)
    return np.asarray(ordered[np.minimum(np.searchsorted(ordered, values), len(ordered) - 1)] == values)


def content_hashes(block: Frames) -> Hashes:
    """A hash of the geometry of each frame: elements, positions and cell to 1e-5 Angstrom, charge and multiplicity."""
    found = np.zeros(len(block), "S16")
    state = np.stack([block.charge, block.spin], 1)
    for rows, n in _of_one_size(block.n_atoms):
        places = [_whole(x) for x in (block.positions[rows, :n], block.cell[rows])]
        packed = _side_by_side([block.numbers[rows, :n], *places, state[rows]])
        width, content = packed.shape[1], memoryview(packed.tobytes())
        each = [hashlib.sha256(content[k : k + width]).digest()[:16] for k in range(0, len(content), width)]
        found[rows] = np.frombuffer(b"".join(each), "S16")
    return Hashes(found)


def add_content(digest: Any, block: Frames) -> None:
    """Add all of each frame, labels and weights too, without padding, to a digest."""
    rest = np.concatenate([block.pbc, block.charge[:, None], block.spin[:, None]], 1).astype(np.int64)
    parts: list[bytes | np.ndarray] = [b""] * len(block)
    weighted = block.weight != 1
    for rows, n in _of_one_size(block.n_atoms, weighted):
        arrays = [block.numbers[rows, :n], block.positions[rows, :n], block.forces[rows, :n], block.cell[rows]]
        arrays += [block.energy[rows], rest[rows]]
        if weighted[rows[0]]:
            arrays.append(block.weight[rows])
        for row, bytes_ in zip(rows.tolist(), _side_by_side(arrays), strict=True):
            parts[row] = bytes_
    for part in parts:
        digest.update(part)


def _of_one_size(n_atoms: np.ndarray, *other: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
    """Rows of the frames of each number of atoms (and of each value of ``other``), and that number."""
    keys = np.stack([n_atoms, *other], 1)
    if len(keys) and (keys == keys[0]).all():
        yield np.arange(len(keys)), int(n_atoms[0])
        return
    unique, inverse = np.unique(keys, axis=0, return_inverse=True)
    for k, key in enumerate(unique):
        yield np.flatnonzero(inverse.reshape(-1) == k), int(key[0])


def _whole(lengths: np.ndarray) -> np.ndarray:
    return (np.rint(lengths * STEPS) + 0.0).astype(np.int64)


def _side_by_side(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """The bytes (m, ...) of the m rows of arrays, one after the other in each."""
    rows = [np.ascontiguousarray(a).reshape(len(a), -1) for a in arrays]
    return np.concatenate([a.view(np.uint8).reshape(len(a), -1) for a in rows], 1)
