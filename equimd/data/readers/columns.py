"""Named arrays (of an npz or HDF5 file) to frames: the aliases, the shapes, the padding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from equimd.data.frames import Frames
from equimd.errors import DataError

#: What a column may be called, the first found wins; two that differ are refused.
ALIASES: dict[str, tuple[str, ...]] = {
    "numbers": ("z", "nuclear_charges", "atomic_numbers", "numbers", "Z", "atNUM", "species", "charges"),
    "positions": ("R", "coords", "positions", "coordinates", "pos", "atXYZ", "conformations", "geometries"),
    "energy": ("E", "energies", "energy", "Energy", "dft_total_energy", "ePBE0+MBD", "U0"),
    "forces": ("F", "forces", "force", "Forces", "totFOR"),
    "gradient": ("dft_total_gradient", "gradients", "gradient"),
    "count": ("N", "num_atoms", "n_atoms"),
    "cell": ("cell", "lattice", "cells"),
    "pbc": ("pbc",),
    "charge": ("charge", "total_charge"),
    "spin": ("spin", "multiplicity"),
}


@dataclass(frozen=True)
class Columns:
    """Frames and the names of the columns they came from."""

    block: Frames
    names: dict[str, str]


def find(arrays: Mapping[str, object], what: str) -> str | None:
    """The key under which ``arrays`` holds the column ``what``, or None."""
    return next((k for k in ALIASES[what] if k in arrays), None)


def pick(arrays: Mapping[str, np.ndarray], what: str, where: str) -> tuple[str, np.ndarray] | None:
    """The column ``what`` and its key.

    Raises:
        DataError: two keys hold different values for it.
    """
    keys = [k for k in ALIASES[what] if k in arrays]
    if not keys:
        return None
    first = np.asarray(arrays[keys[0]])
    for other in keys[1:]:
        if what in ("energy", "forces", "positions") and other != "U0":
            array = np.asarray(arrays[other])
            if array.size != first.size or not np.array_equal(array.ravel(), first.ravel(), equal_nan=True):
                raise DataError(
                    f"two columns could be the {what}: '{keys[0]}' and '{other}', and they differ",
                    where=where,
                    hint="remove the one that is not meant",
                )
    return keys[0], first


def to_frames(arrays: Mapping[str, np.ndarray], where: str) -> Columns:
    """Frames from named arrays, in the file's units.

    Accepts ``positions`` (frames, atoms, 3), (atoms, 3) for one frame, or (all atoms, 3) with a per-frame atom count.

    Raises:
        DataError: a column is missing, has a wrong shape or count, or holds NaN.
    """
    names: dict[str, str] = {}
    got: dict[str, np.ndarray] = {}
    for what in ALIASES:
        found = pick(arrays, what, where)
        if found is not None:
            names[what], got[what] = found
    for what in ("numbers", "positions"):
        if what not in got:
            raise DataError(
                f"no {what} in it, found: {', '.join(sorted(arrays)) or 'nothing'}",
                where=where,
                hint=f"name the array one of: {', '.join(ALIASES[what])}",
            )
    numbers, positions = _numbers(got["numbers"], where), _floats(got["positions"], names["positions"], where)
    forces = _forces(got, names, where)
    if positions.ndim == 2 and "count" in got and got["count"].ndim == 1:
        numbers, positions, forces = _unravel(numbers, positions, forces, got["count"], where)
    elif positions.ndim == 2:
        positions = positions[None]
        forces = None if forces is None or forces.ndim != 2 else forces[None]
    energy = _floats(got["energy"], names["energy"], where).reshape(-1) if "energy" in got else None
    block = Frames.build(numbers, positions, energy, forces, where=where, **_state(got, len(positions), where))
    check_labels(block, energy is not None, forces is not None, where)
    return Columns(block, names)


def check_labels(block: Frames, energy: bool, forces: bool, where: str) -> None:
    """Labels that are there must be finite.

    Raises:
        DataError: a NaN or infinite label, with its frame.
    """
    hint = "remove these frames, or label them again (equimd data label)"
    if energy and not block.has_energy.all():
        bad = np.flatnonzero(~block.has_energy)
        raise DataError(f"{len(bad)} energies are NaN or infinite", where=f"{where}, frame {bad[0]}", hint=hint)
    if forces and not block.has_forces.all():
        bad = np.flatnonzero(~block.has_forces)
        raise DataError(f"forces of {len(bad)} frames are NaN or infinite", where=f"{where}, frame {bad[0]}", hint=hint)


def _floats(array: np.ndarray, key: str, where: str) -> np.ndarray:
    try:
        return np.asarray(array, np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"'{key}' is not numeric ({array.dtype})", where=where) from error


def _numbers(array: np.ndarray, where: str) -> np.ndarray:
    """Atomic numbers, also from symbols."""
    if array.dtype.kind not in "SUO":
        return array
    from ase.data import atomic_numbers

    symbols = [s.decode() if isinstance(s, bytes) else str(s) for s in array.ravel()]
    unknown = sorted({s for s in symbols if s and s not in atomic_numbers})
    if unknown:
        raise DataError(f"unknown element symbols: {', '.join(unknown[:5])}", where=where)
    return np.array([atomic_numbers[s] if s else 0 for s in symbols], np.int64).reshape(array.shape)


def _forces(got: dict[str, np.ndarray], names: dict[str, str], where: str) -> np.ndarray | None:
    """Forces, or minus the gradient."""
    if "forces" in got:
        return _floats(got["forces"], names["forces"], where)
    if "gradient" in got:
        return -_floats(got["gradient"], names["gradient"], where)
    return None


def _state(got: dict[str, np.ndarray], n_frames: int, where: str) -> dict[str, np.ndarray]:
    """Cell, pbc, charge and spin, one value for all frames or one each."""
    out = {}
    for what, shape in (("cell", (3, 3)), ("pbc", (3,)), ("charge", ()), ("spin", ())):
        if what not in got:
            continue
        array = got[what]
        if what == "pbc":
            array = array.astype(bool)
        if what in ("charge", "spin"):
            array = array.squeeze() if array.ndim > 1 else array
            if not np.array_equal(array, np.rint(array)):
                raise DataError(f"'{what}' holds values that are not whole numbers", where=where)
        try:
            out[what] = np.broadcast_to(array, (n_frames, *shape))
        except ValueError as error:
            raise DataError(f"'{what}' has shape {array.shape}, expected {(n_frames, *shape)}", where=where) from error
    return out


def _unravel(
    numbers: np.ndarray, positions: np.ndarray, forces: np.ndarray | None, count: np.ndarray, where: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Atoms of all frames in one row, to padded frames."""
    if count.sum() != len(positions) or numbers.shape != (len(positions),):
        raise DataError(
            f"{len(positions)} positions and {numbers.size} atomic numbers for {int(count.sum())} atoms in all",
            where=where,
        )
    mask = np.arange(int(count.max(initial=0)))[None] < count[:, None]
    out_numbers = np.zeros(mask.shape, numbers.dtype)
    out_numbers[mask] = numbers
    out_positions = np.zeros((*mask.shape, 3))
    out_positions[mask] = positions
    if forces is None:
        return out_numbers, out_positions, None
    if forces.shape != positions.shape:
        raise DataError(f"forces have shape {forces.shape}, expected {positions.shape} as the positions", where=where)
    out_forces = np.zeros((*mask.shape, 3))
    out_forces[mask] = forces
    return out_numbers, out_positions, out_forces
