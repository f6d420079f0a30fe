"""The content of frames as bytes, for hashes of it: of many frames at once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from equimd.data.frames import Frames

#: Steps an Angstrom in which geometries are told apart.
STEPS = 1e5


def content_hashes(block: Frames) -> list[str]:
    """A hash of the geometry of each frame: elements, positions and cell to 1e-5 Angstrom, charge and multiplicity."""
    found = [""] * len(block)
    state = np.stack([block.charge, block.spin], 1)
    for rows, n in _of_one_size(block.n_atoms):
        places = [_whole(x) for x in (block.positions[rows, :n], block.cell[rows])]
        packed = _side_by_side([block.numbers[rows, :n], *places, state[rows]])
        for row, bytes_ in zip(rows.tolist(), packed, strict=True):
            found[row] = hashlib.sha256(bytes_).hexdigest()[:32]
    return found


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
