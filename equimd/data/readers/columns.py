"""Named arrays (of an npz or HDF5 file) to frames: the aliases, the shapes, the padding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from equimd.chemistry import element
from equimd.data.cells import periodic_cells
from equimd.data.check_pairs import most_consistent
from equimd.data.frames import Frames, padded_shape
from equimd.data.readers.labels import Chosen, LabelKeys, choose, energy_family, forces_family, is_gradient
from equimd.data.state import whole_numbers
from equimd.errors import DataError

#: What a column may be called, in any case, the first found wins; two that differ are refused.
ALIASES: dict[str, tuple[str, ...]] = {
    "numbers": ("z", "nuclear_charges", "atomic_numbers", "numbers", "Z", "atNUM", "species", "charges"),
    "positions": ("R", "coords", "positions", "coordinates", "pos", "atXYZ", "conformations", "geometries"),
    "count": ("N", "num_atoms", "n_atoms"),
    "cell": ("cell", "lattice", "cells", "box", "unit_cell", "cell_vectors", "lattice_vectors"),
    "pbc": ("pbc",),
    "charge": ("charge", "total_charge"),
    "spin": ("spin", "multiplicity"),
    "mask": ("forces_mask", "force_mask", "mask_forces"),
    "weight": ("config_weight", "frame_weight", "weight", "weights"),
}
Spread = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Columns:
    """Frames, the names of the columns they came from, and what is worth saying about it."""

    block: Frames
    names: dict[str, str]
    notes: list[str] = field(default_factory=list)


def find(arrays: Mapping[str, object], what: str) -> str | None:
    """The key under which ``arrays`` holds the column ``what``, or None."""
    found = next((k for k in ALIASES[what] if k in arrays), None)
    if found is not None:
        return found
    lower = {k.lower(): k for k in arrays}
    return next((lower[k.lower()] for k in ALIASES[what] if k.lower() in lower), None)


def wanted(key: str, keys: LabelKeys) -> bool:
    """Whether a column of this name may be read at all."""
    names = {name.lower() for group in ALIASES.values() for name in group}
    asked = {name.lower() for name in (keys.energy, keys.forces) if name}
    return key.lower() in names | asked or energy_family(key) is not None or forces_family(key) is not None


def _pick(arrays: Mapping[str, np.ndarray], what: str, where: str) -> tuple[str, np.ndarray] | None:
    """The column ``what`` and its key.

    Raises:
        DataError: two keys hold different positions.
    """
    key = find(arrays, what)
    if key is None:
        return None
    first = np.asarray(arrays[key])
    for other in ALIASES[what] if what == "positions" else ():
        if other in arrays and not _equal(first, np.asarray(arrays[other])):
            raise DataError(
                f"two columns could be the {what}: '{key}' and '{other}', and they differ",
                where=where,
                hint="remove the one that is not meant",
            )
    return key, first


def _equal(one: np.ndarray, other: np.ndarray) -> bool:
    if one.size != other.size:
        return False
    numeric = one.dtype.kind in "fiu" and other.dtype.kind in "fiu"
    return bool(np.array_equal(one.ravel(), other.ravel(), equal_nan=numeric))


def to_frames(arrays: Mapping[str, np.ndarray], where: str, keys: LabelKeys | None = None) -> Columns:
    """Frames from named arrays, in the file's units.

    Accepts ``positions`` (frames, atoms, 3), (atoms, 3) for one frame, or (all atoms, 3) with a per-frame atom count.

    Raises:
        DataError: a column is missing, has a wrong shape or count, or holds NaN; labels of which it is not clear
            which are meant.
    """
    got = {what: found for what in ALIASES if (found := _pick(arrays, what, where)) is not None}
    for what in ("numbers", "positions"):
        if what not in got:
            raise DataError(
                f"no {what} in it, found: {', '.join(sorted(arrays)) or 'nothing'}",
                where=where,
                hint=f"name the array one of: {', '.join(ALIASES[what])}",
            )
    numbers, positions = _numbers(got["numbers"][1], where), _floats(got["positions"], where)
    labels = _Labels(arrays, where, keys or LabelKeys())
    count = got["count"][1] if "count" in got else np.zeros(0)
    spread: Spread = np.asarray
    if positions.ndim == 2 and count.ndim == 1 and count.size:
        spread = _ragged(numbers, positions, count, where)
        numbers, positions = spread(numbers), spread(positions)
    elif positions.ndim == 2:
        spread = _one_frame(len(positions))
        positions = spread(positions)
    if positions.ndim != 3 or positions.shape[2] != 3:
        raise DataError(f"positions have shape {positions.shape}, expected (frames, atoms, 3)", where=where)
    _refuse_dummies(numbers, positions, where)
    labels.shape(spread)
    frame = Frames.build(numbers, positions, where=where, **_state(got, len(positions), where))
    chosen = labels.choose(frame)
    block = labels.attach(frame, chosen)
    keep = _mask(got, block, spread, where)
    n = len(block)
    check_labels(block, np.full(n, bool(chosen.energy)), np.full(n, bool(chosen.forces)), where, keep)
    notes = list(chosen.notes)
    if keep is not None:
        block.forces[~keep & (block.numbers > 0)] = np.nan
        notes.append(f"forces of {int((~keep & (block.numbers > 0)).sum())} atoms are masked, and not learned from")
    if np.ptp(block.weight):
        notes.append(f"frames are weighted by {block.weight.min():g} to {block.weight.max():g}")
    names = {what: key for what, (key, _) in got.items()}
    names |= {k: v for k, v in (("energy", chosen.energy), ("forces", chosen.forces)) if v}
    return Columns(block, names, notes)


class _Labels:
    """The columns that could be energies or forces."""

    def __init__(self, arrays: Mapping[str, np.ndarray], where: str, keys: LabelKeys) -> None:
        self.where, self.keys = where, keys
        asked = {what: (name or "").lower() for what, name in (("energy", keys.energy), ("forces", keys.forces))}
        self.energies = {
            k: _floats((k, np.asarray(v)), where)
            for k, v in arrays.items()
            if energy_family(k) is not None or k.lower() == asked["energy"]
        }
        self.forces = {
            k: _floats((k, np.asarray(v)), where)
            for k, v in arrays.items()
            if forces_family(k) is not None or k.lower() == asked["forces"]
        }

    def shape(self, spread: Spread) -> None:
        """Energies (N,), forces (N, n, 3)."""
        self.energies = {k: v.reshape(-1) for k, v in self.energies.items()}
        self.forces = {k: spread(v) for k, v in self.forces.items()}

    def choose(self, frame: Frames) -> Chosen:
        """The columns that are meant."""
        return choose(
            list(self.energies), list(self.forces), self.keys, same=self._same, where=self.where,
            consistent=lambda names, forces: most_consistent(
                {name: self.attach(frame, Chosen(name, forces)) for name in names}
            ),
        )  # fmt: skip

    def _same(self, one: str, other: str) -> bool:
        table = self.energies if one in self.energies else self.forces
        return one in table and other in table and _equal(table[one], table[other])

    def attach(self, frame: Frames, chosen: Chosen) -> Frames:
        """``frame`` with these labels."""
        energy = self.energies[chosen.energy] if chosen.energy else None
        forces = self.forces[chosen.forces] if chosen.forces else None
        if forces is not None and is_gradient(chosen.forces or ""):
            forces = -forces
        built = Frames.build(frame.numbers, frame.positions, energy, forces, where=self.where)
        return replace(frame, energy=built.energy, forces=built.forces)


def check_labels(
    block: Frames, energy: np.ndarray, forces: np.ndarray, where: str, keep: np.ndarray | None = None
) -> None:
    """Labels that are there must be finite.

    Args:
        energy, forces: (B,) which frames have the label.
        keep: (B, n) which atoms have a force label; None is all.

    Raises:
        DataError: a NaN or infinite label, with its frame.
    """
    hint = "remove these frames, or label them again (equimd data label)"
    bad = np.flatnonzero(energy & ~block.has_energy)
    if len(bad):
        raise DataError(f"{len(bad)} energies are NaN or infinite", where=f"{where}, frame {bad[0]}", hint=hint)
    finite = np.isfinite(block.forces).all(-1) | (block.numbers == 0)
    if keep is not None:
        finite |= ~keep
    bad = np.flatnonzero(forces & ~finite.all(1))
    if len(bad):
        raise DataError(f"forces of {len(bad)} frames are NaN or infinite", where=f"{where}, frame {bad[0]}", hint=hint)


def _floats(column: tuple[str, np.ndarray], where: str) -> np.ndarray:
    key, array = column
    if array.dtype.kind not in "fiu":
        raise DataError(f"'{key}' is not numeric ({array.dtype})", where=where)
    return np.asarray(array, np.float64)


def _numbers(array: np.ndarray, where: str) -> np.ndarray:
    """Atomic numbers, also from symbols; 0 (or an empty symbol) is padding."""
    if array.dtype.kind in "fiu":
        return array
    if array.dtype.kind not in "SUO":
        raise DataError(f"atomic numbers are not numeric ({array.dtype})", where=where)
    words = [s.decode("ascii", errors="replace") if isinstance(s, bytes) else str(s) for s in array.ravel()]
    known = {w: element(w, where=where)[0] if w.strip() else 0 for w in set(words)}
    return np.array([known[w] for w in words], np.int64).reshape(array.shape)


def _state(got: dict[str, tuple[str, np.ndarray]], n_frames: int, where: str) -> dict[str, np.ndarray]:
    """Cell, pbc, charge, spin and weight, one value for all frames or one each."""
    out: dict[str, np.ndarray] = {}
    for what, shape in (("cell", (3, 3)), ("pbc", (3,)), ("charge", ()), ("spin", ()), ("weight", ())):
        if what not in got:
            continue
        key, array = got[what]
        if what == "pbc" and (array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all()):
            raise DataError(f"'{key}' holds what is neither true nor false", where=where)
        if what in ("cell", "weight"):
            array = _floats((key, array), where)
        if what == "cell" and array.shape[-1:] == (9,):
            array = array.reshape(*array.shape[:-1], 3, 3)
        if what == "cell" and array.shape == (3,):  # edges of a box
            array = np.diag(array)
        if what in ("charge", "spin"):
            array = whole_numbers(what, array, where)
        if what in ("charge", "spin", "weight") and array.ndim > 1:
            array = array.squeeze()
        try:
            out[what] = np.broadcast_to(array, (n_frames, *shape))
        except ValueError as error:
            raise DataError(f"'{key}' has shape {array.shape}, expected {(n_frames, *shape)}", where=where) from error
    if "cell" in out or ("pbc" in out and out["pbc"].any()):
        cell = out.get("cell", np.zeros((n_frames, 3, 3)))
        out["cell"], out["pbc"] = periodic_cells(cell, out.get("pbc"), where)
    return out


def _mask(got: dict[str, tuple[str, np.ndarray]], block: Frames, spread: Spread, where: str) -> np.ndarray | None:
    """(B, n) which atoms have a force label, None where the file does not say."""
    if "mask" not in got:
        return None
    key, array = got["mask"]
    array = spread(array)
    if array.shape[-1:] == (3,) and array.ndim == 3:
        array = np.asarray(array.all(-1))
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        raise DataError(f"'{key}' holds what is neither true nor false", where=where)
    try:
        return np.broadcast_to(array.astype(bool), block.numbers.shape)
    except ValueError as error:
        raise DataError(f"'{key}' has shape {array.shape}, expected {block.numbers.shape}", where=where) from error


def _refuse_dummies(numbers: np.ndarray, positions: np.ndarray, where: str) -> None:
    """Atomic number 0 is padding, where some frames are smaller than others; where none has an atom, it is a dummy."""
    z = numbers[None] if numbers.ndim == 1 else numbers
    if z.ndim != 2 or positions.ndim != 3 or z.shape[1] != positions.shape[1] or not len(positions):
        return  # shapes are refused later, with what they are
    empty = (z == 0).all(0)
    for k in np.flatnonzero(empty):
        if positions[:, k].any() and np.isfinite(positions[:, k]).all():
            raise DataError(
                f"atom {k} of every frame has the atomic number 0, and a position: a dummy atom", where=where,
                hint="remove it from the arrays",
            )  # fmt: skip


def _one_frame(n_atoms: int) -> Spread:
    """Values of the atoms of one frame, as those of a list of one frame."""
    return lambda array: array[None] if array.ndim in (1, 2) and len(array) == n_atoms else array


def _ragged(numbers: np.ndarray, positions: np.ndarray, count: np.ndarray, where: str) -> Spread:
    """Values of the atoms of all frames in one row, to padded frames; other shapes are passed on."""
    if count.dtype.kind not in "iu" or (count < 1).any():
        raise DataError("the numbers of atoms of the frames are not whole numbers from 1", where=where)
    total = sum(int(c) for c in count)
    if total != len(positions) or numbers.shape != (len(positions),):
        raise DataError(
            f"{len(positions)} positions and {numbers.size} atomic numbers for {total} atoms in all",
            where=where,
        )
    _, width = padded_shape(count.tolist(), where)
    mask = np.arange(width)[None] < count.astype(np.int64)[:, None]

    def spread(array: np.ndarray) -> np.ndarray:
        if array.ndim not in (1, 2) or len(array) != total:
            return array
        out = np.zeros((*mask.shape, *array.shape[1:]), array.dtype)
        out[mask] = array
        return out

    return spread
