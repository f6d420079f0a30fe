"""DeePMD-kit's npy folders: systems of frames of one composition, or of mixed types. eV and Angstrom by definition.

A system is a folder with ``type.raw`` (a number for each atom), ``type_map.raw`` (the element of each number), an empty
file ``nopbc`` where it is not periodic, and folders ``set.*`` with ``coord.npy`` (frames, 3 n), ``box.npy``
(frames, 9), ``energy.npy``, ``force.npy`` and, of mixed types, ``real_atom_types.npy`` (frames, n), -1 for padding.
Format: DeePMD-kit documentation, "System".
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from equimd.chemistry import element
from equimd.data.cells import periodic_cells
from equimd.data.frames import Frames
from equimd.data.paths import read_text
from equimd.data.readers.columns import check_labels
from equimd.data.readers.npz import load_array
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import DataError


def read_deepmd(path: Path, options: ReadOptions) -> Raw:
    """All systems in a folder, in the order of their names; each is a trajectory.

    Raises:
        DataError: a file is missing, damaged or of another shape, or types without elements.
    """
    systems = sorted({p.parent for p in path.rglob("type.raw") if p.is_file()})
    blocks = [_system(folder) for folder in systems]
    block = Frames.concatenate(blocks)
    trajectory = np.repeat(np.arange(len(blocks)), [len(b) for b in blocks])
    extra: dict[str, object] = {"systems": len(blocks)}
    return Raw(block, "deepmd-npy", str(path), "eV", "Angstrom", trajectory=trajectory, extra=extra)


def _system(folder: Path) -> Frames:
    """The frames of all sets of a system."""
    sets = sorted(p for p in folder.glob("set.*") if p.is_dir())
    if not sets:
        raise DataError("a DeePMD system without sets (set.000/coord.npy)", where=str(folder))
    types = _integers(folder / "type.raw")
    names = folder / "type_map.raw"
    if not names.is_file():
        raise DataError(
            "no type_map.raw, so that nothing says which elements the types are", where=str(folder),
            hint="write one: the element of type 0, of type 1, ..., a line each",
        )  # fmt: skip
    elements = np.array([element(w, where=str(names))[0] for w in read_text(names).split()], np.int64)
    return Frames.concatenate([_set(each, types, elements, (folder / "nopbc").exists()) for each in sets])


def _set(folder: Path, types: np.ndarray, elements: np.ndarray, open_: bool) -> Frames:
    n = len(types)
    coord = _array(folder, "coord", 3 * n)
    if coord is None:
        raise DataError("coord.npy is missing", where=str(folder))
    frames = len(coord)
    real = _array(folder, "real_atom_types", n, frames)
    kinds = np.broadcast_to(types, (frames, n)) if real is None else real.astype(np.int64)
    if kinds.min(initial=0) < -1 or kinds.max(initial=-1) >= len(elements) or (real is None and (kinds < 0).any()):
        raise DataError(f"types beyond the {len(elements)} of type_map.raw", where=str(folder))
    numbers = np.where(kinds < 0, 0, elements[np.maximum(kinds, 0)]) if len(elements) else np.zeros_like(kinds)
    energy, force, box = _array(folder, "energy", 1, frames), _array(folder, "force", 3 * n, frames), None
    cells: dict[str, np.ndarray] = {}
    if not open_:
        box = _array(folder, "box", 9, frames)
        if box is None:
            raise DataError(
                "box.npy is missing: periodic, or a file nopbc beside type.raw?", where=str(folder),
                hint="an empty file nopbc says that the system is not periodic",
            )  # fmt: skip
        cell, pbc = periodic_cells(box.reshape(frames, 3, 3), np.ones((frames, 3), bool), str(folder))
        cells = {"cell": cell, "pbc": pbc}
    block = Frames.build(
        numbers,
        coord.reshape(frames, n, 3),
        None if energy is None else energy.reshape(-1),
        None if force is None else force.reshape(frames, n, 3),
        where=str(folder),
        **cells,
    )
    present = np.full(frames, True)
    check_labels(block, present & (energy is not None), present & (force is not None), str(folder))
    return block


def _array(folder: Path, name: str, width: int, frames: int | None = None) -> np.ndarray | None:
    """(frames, width) of a file of a set, None where it is absent."""
    path = folder / f"{name}.npy"
    if not path.is_file():
        return None
    array = load_array(path)
    if array.dtype.kind not in "fiu":
        raise DataError(f"holds {array.dtype}, not numbers", where=str(path))
    rows = array.reshape(len(array), -1) if array.ndim and len(array) else np.zeros((0, 0))
    if rows.shape[1] != width or frames not in (None, len(rows)):
        raise DataError(f"has shape {array.shape}, expected ({frames or 'frames'}, {width})", where=str(path))
    return rows


def _integers(path: Path) -> np.ndarray:
    words = read_text(path).split()
    if not words or not all(w.isascii() and w.isdigit() and len(w) < 10 for w in words):
        raise DataError("holds no whole numbers, one for each atom", where=str(path))
    return np.array([int(w) for w in words], np.int64)
