"""Extended XYZ and anything else ASE reads: the labels under whatever name they have, forces before constraints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.check_pairs import most_consistent
from equimd.data.frames import Frames, padded_shape
from equimd.data.readers.columns import check_labels
from equimd.data.readers.images import Images, read_images
from equimd.data.readers.labels import (
    Chosen,
    choose,
    energy_family,
    forces_family,
    is_gradient,
)
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.data.state import CHARGE_KEYS, SPIN_KEYS, read_state
from equimd.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

TRAJECTORY_KEYS = ("trajectory", "traj", "replica")
TIME_KEYS = ("time_index", "step", "md_step")
#: How much a frame counts in a training loss, and which atoms have a force label; in any case.
WEIGHT_KEYS = ("config_weight", "frame_weight", "weight")
MASK_KEYS = ("forces_mask", "force_mask", "mask_forces")


def read_atoms(path: Path, options: ReadOptions | None = None) -> Raw:
    """All frames of a file that our xyz reader or ASE's readers take.

    Raises:
        DataError: not readable, no frames, ambiguous or NaN labels.
    """
    return atoms_to_raw(read_images(path), str(path), options)


def atoms_to_raw(found: Images, where: str, options: ReadOptions | None = None) -> Raw:
    """Frames of ASE images, in their own units (eV and Angstrom by convention, checked later).

    Raises:
        DataError: no frames, ambiguous or NaN labels.
    """
    images = found.images
    if not images:
        raise DataError("no frames in it", where=where)
    options = options or ReadOptions()
    columns = _Columns(images, where, options)
    chosen = columns.choose()
    block = columns.block(chosen)
    masked, notes = _masked(images, block, where, options.mask_fixed)
    check_labels(
        block,
        columns.labelled(columns.energies, chosen.energy),
        columns.labelled(columns.forces, chosen.forces),
        where,
        ~masked,
    )
    block.forces[masked] = np.nan
    notes = [*found.notes, *chosen.notes, *columns.unknown(chosen), *notes]
    if np.ptp(block.weight):
        notes.append(f"frames are weighted by {block.weight.min():g} to {block.weight.max():g}")
    extra: dict[str, object] = {"columns": {"energy": chosen.energy, "forces": chosen.forces}, "notes": notes}
    return Raw(
        block,
        found.format,
        where,
        energy_unit=found.energy_unit,
        length_unit=found.length_unit,
        force_unit=found.force_unit,
        convention=True,
        trajectory=_labels(images, TRAJECTORY_KEYS),
        time_index=_integers(images, TIME_KEYS),
        extra=extra,
    )


class _Columns:
    """The numeric scalars of each frame, and the numeric (n, 3) columns of its atoms, that could be labels."""

    def __init__(self, images: Sequence[Atoms], where: str, options: ReadOptions) -> None:
        self.images, self.where, self.options = images, where, options
        self.energies: dict[str, list[float | None]] = {}
        self.forces: dict[str, list[np.ndarray | None]] = {}
        for k, atoms in enumerate(images):
            results = getattr(atoms.calc, "results", None) or {}
            for name, value in [*results.items(), *atoms.info.items()]:
                if self._may_be(name, options.energy_key, energy_family) and (number := _scalar(value)) is not None:
                    self._add(self.energies, name, k, number)
            for name, value in [*results.items(), *atoms.arrays.items()]:
                if self._may_be(name, options.forces_key, forces_family) and _is_vectors(value, len(atoms)):
                    self._add(self.forces, name, k, np.asarray(value, np.float64))

    @staticmethod
    def _may_be(name: object, asked: str | None, family: Any) -> bool:
        return isinstance(name, str) and (family(name) is not None or name.lower() == (asked or "").lower())

    def _add(self, table: dict[str, Any], name: str, k: int, value: Any) -> None:
        column = table.setdefault(name, [None] * len(self.images))
        if (
            column[k] is not None
            and not self.options.keys.ignored
            and not np.array_equal(column[k], value, equal_nan=True)
        ):
            raise DataError(
                f"'{name}' stands twice in a frame, with different values", where=f"{self.where}, frame {k}",
                hint="remove the one that is not meant: results of the calculator, or info and arrays",
            )  # fmt: skip
        column[k] = value

    def choose(self) -> Chosen:
        """The columns that are meant, see :mod:`equimd.data.readers.labels`."""
        return choose(
            list(self.energies), list(self.forces), self.options.keys,
            same=self._same, consistent=self._consistent, where=self.where,
        )  # fmt: skip

    def _same(self, one: str, other: str) -> bool:
        table: dict[str, Any] = self.energies if one in self.energies else self.forces
        if one not in table or other not in table:
            return False
        pairs = zip(table[one], table[other], strict=True)
        return all((a is None) == (b is None) and (a is None or np.array_equal(a, b, equal_nan=True)) for a, b in pairs)

    def _consistent(self, names: Sequence[str], forces: str) -> str | None:
        return most_consistent({name: self.block(Chosen(name, forces)) for name in names})

    def unknown(self, chosen: Chosen) -> list[str]:
        """What to say where no energy is found, and numbers stand under names that are not known."""
        if chosen.energy is not None or self.options.keys.ignored:
            return []
        others = (*CHARGE_KEYS, *SPIN_KEYS, *WEIGHT_KEYS, *TIME_KEYS, *TRAJECTORY_KEYS)
        info = self.images[0].info.items()
        names = [str(k) for k, v in info if _scalar(v) is not None and str(k).lower() not in others]
        listed = ", ".join(names[:8])
        return [f"no energy is found; numbers of a frame are called {listed} (--energy-key)"] if names else []

    def labelled(self, table: dict[str, Any], name: str | None) -> np.ndarray:
        """(N,) the frames that have the label."""
        found = [value is not None for value in table[name]] if name else [False] * len(self.images)
        return np.array(found, bool)

    def block(self, chosen: Chosen) -> Frames:
        """One padded block with the labels ``chosen``."""
        shape = padded_shape([len(a) for a in self.images], self.where)
        numbers, positions = np.zeros(shape, np.int64), np.zeros((*shape, 3))
        energy, forces = np.full(len(self.images), np.nan), np.full((*shape, 3), np.nan)
        sign = -1.0 if chosen.forces and is_gradient(chosen.forces) else 1.0
        for k, a in enumerate(self.images):
            n = len(a)
            numbers[k, :n], positions[k, :n] = a.numbers, a.positions
            if chosen.energy and (value := self.energies[chosen.energy][k]) is not None:
                energy[k] = value
            if chosen.forces and (label := self.forces[chosen.forces][k]) is not None:
                forces[k, :n], forces[k, n:] = sign * label, 0.0
        states = [read_state(a.info, where=f"{self.where}, frame {k}") for k, a in enumerate(self.images)]
        return Frames.build(
            numbers,
            positions,
            energy,
            forces,
            np.array([np.asarray(a.cell) * a.pbc.any() for a in self.images]),
            np.array([a.pbc for a in self.images]),
            np.array([s.charge for s in states]),
            np.array([s.spin for s in states]),
            np.array([s.charge_stated for s in states]),
            _weights(self.images, self.where),
            where=self.where,
        )


def _scalar(value: Any) -> float | None:
    """A number, None for anything else."""
    if value is None or isinstance(value, str | bool | np.bool_ | dict):
        return None
    try:
        array = np.asarray(value)
    except ValueError:
        return None
    return float(array.reshape(-1)[0]) if array.size == 1 and array.dtype.kind in "iuf" else None


def _is_vectors(value: Any, n_atoms: int) -> bool:
    return isinstance(value, np.ndarray) and value.shape == (n_atoms, 3) and value.dtype.kind in "fiu"


def _lookup(mapping: Any, keys: tuple[str, ...]) -> tuple[str, Any] | None:
    """The first of ``keys``, in any case, that a mapping has."""
    lower = {str(name).lower(): name for name in mapping}
    return next(((lower[key], mapping[lower[key]]) for key in keys if key in lower), None)


def _weights(images: Sequence[Atoms], where: str) -> np.ndarray | None:
    """(N,) weights of the frames, None where none is stated."""
    out = np.ones(len(images))
    for k, atoms in enumerate(images):
        found = _lookup(atoms.info, WEIGHT_KEYS)
        if found is None:
            continue
        weight = _scalar(found[1])
        if weight is None or not (np.isfinite(weight) and weight >= 0):
            raise DataError(f"{found[0]} is '{found[1]}', expected a number from 0", where=f"{where}, frame {k}")
        out[k] = weight
    return out


def _masked(images: Sequence[Atoms], block: Frames, where: str, mask_fixed: bool) -> tuple[np.ndarray, list[str]]:
    """(N, n) the atoms without a force label, by a mask column or, where that is asked for, because they are fixed."""
    masked, fixed = np.zeros(block.numbers.shape, bool), np.zeros(block.numbers.shape, bool)
    for k, atoms in enumerate(images):
        n = len(atoms)
        fixed[k, :n] = _fixed_atoms(atoms)
        found = _lookup(atoms.arrays, MASK_KEYS)
        if found is None:
            continue
        keep = np.asarray(found[1])
        if keep.shape != (n,) or keep.dtype.kind not in "biuf" or not np.isin(keep, (0, 1)).all():
            raise DataError(f"{found[0]} is no column of T and F", where=f"{where}, frame {k}")
        masked[k, :n] = keep == 0
    notes = [f"forces of {int(masked.sum())} atoms are masked, and not learned from"] if masked.any() else []
    zero = int((fixed & ~masked & (block.forces == 0).all(-1)).sum())
    if mask_fixed and fixed.any():
        notes.append(f"forces of {int(fixed.sum())} fixed atoms are masked, and not learned from")
        masked |= fixed
    elif zero:
        notes.append(
            f"{zero} atoms that the file holds fixed have forces of exactly 0, which are learned as they stand: "
            "--mask-fixed leaves them out"
        )
    return masked, notes


def _fixed_atoms(atoms: Atoms) -> np.ndarray:
    """(n,) the atoms that a constraint holds in all or some of their components."""
    from ase.constraints import FixAtoms, FixCartesian

    held = np.zeros(len(atoms), bool)
    for constraint in atoms.constraints:
        if isinstance(constraint, FixAtoms | FixCartesian):
            held[np.asarray(constraint.index, np.int64)] = True
    return held


def _integers(images: Sequence[Atoms], keys: tuple[str, ...]) -> np.ndarray | None:
    """An integer per frame from ``info``, None unless every frame has it."""
    for key in keys:
        values = [a.info.get(key) for a in images]
        if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) and abs(int(v)) < 2**62 for v in values):
            return np.array(values, np.int64)
    return None


def _labels(images: Sequence[Atoms], keys: tuple[str, ...]) -> np.ndarray | None:
    """A trajectory number per frame, from integers or names in ``info``, in the order they first occur."""
    for key in keys:
        values = [a.info.get(key) for a in images]
        if all(isinstance(v, (int, str, np.integer)) for v in values):
            seen: dict[object, int] = {}
            return np.array([seen.setdefault(v, len(seen)) for v in values], np.int64)
    return None
