"""Extended XYZ and anything else ASE reads: the labels under whatever name they have, forces before constraints."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.frames import CHARGE_KEYS, SPIN_KEYS, Frames
from equimd.data.readers.columns import check_labels
from equimd.data.readers.raw import Raw
from equimd.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

#: Standard names first; where several names hold different values and none is standard, the file is refused.
ENERGY_KEYS = ("energy", "Energy", "REF_energy", "ref_energy", "dft_energy", "DFT_energy", "total_energy",
               "TotEnergy", "potential_energy", "energies", "E", "free_energy")  # fmt: skip
FORCES_KEYS = ("forces", "Forces", "REF_forces", "ref_forces", "dft_forces", "DFT_forces", "force", "F")
TRAJECTORY_KEYS = ("trajectory", "traj", "replica")
TIME_KEYS = ("time_index", "step", "md_step")


def read_atoms(path: Path) -> Raw:
    """All frames that ASE finds in ``path``.

    Raises:
        DataError: ASE cannot read it, no frames, ambiguous or NaN labels.
    """
    import ase.io
    from ase.io.formats import UnknownFileTypeError

    where = str(path)
    try:
        images = ase.io.read(path, index=":", format="extxyz" if _is_xyz(path) else None)
    except UnknownFileTypeError as error:
        raise DataError(
            "not a format that equimd or ASE knows",
            where=where,
            hint="npz (MD17, rMD17), .aselmdb, QM9, equimd's HDF5 store, extended XYZ, or a file ase.io.read takes",
        ) from error
    except PermissionError as error:
        raise DataError("no permission to read it", where=where) from error
    except Exception as error:  # ASE's parsers raise whatever their line splitting runs into
        raise DataError(
            f"ASE cannot read it ({type(error).__name__}: {error})",
            where=where,
            hint="is it truncated? compare its size",
        ) from error
    images = images if isinstance(images, list) else [images]
    return atoms_to_raw(images, where, "extxyz" if _is_xyz(path) else f"ase-{path.suffix.lstrip('.') or 'file'}")


def _is_xyz(path: Path) -> bool:
    """Whether the first line is an atom count: xyz, whatever the file is called."""
    with open(path, "rb") as stream:
        return stream.readline(64).strip().isdigit()


def atoms_to_raw(images: Sequence[Atoms], where: str, file_format: str) -> Raw:
    """Frames of ASE ``images``, in their own units (eV and Angstrom by convention, checked later).

    Raises:
        DataError: no frames, ambiguous or NaN labels.
    """
    if not images:
        raise DataError("no frames in it", where=where)
    energy_key = _choose(images, ENERGY_KEYS, _energy, "energy", where)
    forces_key = _choose(images, FORCES_KEYS, _forces, "forces", where)
    energies = [None if energy_key is None else _energy(a, energy_key) for a in images]
    forces = [None if forces_key is None else _forces(a, forces_key) for a in images]
    block = _pad(images, energies, forces, where)
    check_labels(block.take(np.flatnonzero([e is not None for e in energies])), True, False, where)
    check_labels(block.take(np.flatnonzero([f is not None for f in forces])), False, True, where)
    extra: dict[str, object] = {"columns": {"energy": energy_key, "forces": forces_key}}
    return Raw(
        block,
        file_format,
        where,
        convention=True,
        trajectory=_labels(images, TRAJECTORY_KEYS),
        time_index=_integers(images, TIME_KEYS),
        extra=extra,
    )


def _energy(atoms: Atoms, key: str) -> float | None:
    """The energy called ``key``, from the calculator's results or ``info``."""
    results = getattr(atoms.calc, "results", {}) or {}
    value: Any = results.get(key, atoms.info.get(key))
    if value is None or isinstance(value, (str, bool)):
        return None
    array = np.asarray(value, np.float64).reshape(-1)
    return float(array[0]) if array.size == 1 else None


def _forces(atoms: Atoms, key: str) -> np.ndarray | None:
    """The forces called ``key`` as stored: constraints do not zero them (``Atoms.get_forces`` would)."""
    results = getattr(atoms.calc, "results", {}) or {}
    value = results.get(key, atoms.arrays.get(key))
    if value is None:
        return None
    array = np.asarray(value)
    return array.astype(np.float64) if array.shape == (len(atoms), 3) and array.dtype.kind in "fiu" else None


def _choose(images: Sequence[Atoms], keys: tuple[str, ...], read: Any, what: str, where: str) -> str | None:
    """The label's key: the standard one where it exists, else the only one.

    Raises:
        DataError: several non-standard keys hold different values.
    """
    present = [key for key in keys if any(read(a, key) is not None for a in images)]
    if not present or present[0] == keys[0]:
        return present[0] if present else None
    for other in present[1:]:
        for k, a in enumerate(images):
            one, two = read(a, present[0]), read(a, other)
            if (one is None) != (two is None) or (one is not None and not np.array_equal(one, two, equal_nan=True)):
                raise DataError(
                    f"several keys could be the {what} and differ: {', '.join(present)}",
                    where=f"{where}, frame {k}",
                    hint=f"rename the one that is meant to '{keys[0]}'",
                )
    return present[0]


def _pad(images: Sequence[Atoms], energies: list[float | None], forces: list[np.ndarray | None], where: str) -> Frames:
    """One padded block."""
    width = max(len(a) for a in images)
    n_frames = len(images)
    numbers = np.zeros((n_frames, width), np.int64)
    positions = np.zeros((n_frames, width, 3))
    padded = np.full((n_frames, width, 3), np.nan)
    for k, a in enumerate(images):
        n = len(a)
        numbers[k, :n], positions[k, :n] = a.numbers, a.positions
        if forces[k] is not None:
            padded[k, :n], padded[k, n:] = forces[k], 0.0
    return Frames.build(
        numbers,
        positions,
        np.array([np.nan if e is None else e for e in energies]),
        padded,
        np.array([np.asarray(a.cell) * a.pbc.any() for a in images]),
        np.array([a.pbc for a in images]),
        _whole(images, CHARGE_KEYS, where),
        _whole(images, SPIN_KEYS, where),
        where=where,
    )


def _whole(images: Sequence[Atoms], keys: tuple[str, ...], where: str) -> np.ndarray:
    """A whole number per frame from ``info``, 0 where it is absent.

    Raises:
        DataError: a value that is not a whole number.
    """
    out = np.zeros(len(images), np.int64)
    for k, a in enumerate(images):
        value = next((a.info[key] for key in keys if key in a.info), 0)
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not number.is_integer():
            raise DataError(f"{keys[0]} is '{value}', expected a whole number", where=f"{where}, frame {k}")
        out[k] = int(number)
    return out


def _integers(images: Sequence[Atoms], keys: tuple[str, ...]) -> np.ndarray | None:
    """An integer per frame from ``info``, None unless every frame has it."""
    for key in keys:
        values = [a.info.get(key) for a in images]
        if all(isinstance(v, (int, np.integer)) and not isinstance(v, bool) for v in values):
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
