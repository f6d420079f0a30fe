"""ASE's SQLite databases, and those of SchNetPack, which keeps its labels and their units in them.

Read by SQLite alone: opened read-only, so that nothing is written or waited for, and without objects of any class.
SchNetPack: Schütt et al., J. Chem. Phys. 158, 144801 (2023); labels stand in ``data``, units in the metadata.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.paths import regular_file
from equimd.data.readers.atoms import atoms_to_raw
from equimd.data.readers.images import Images, check_image
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import ConfigError, DataError
from equimd.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit, force_unit

if TYPE_CHECKING:
    from ase import Atoms

_DAMAGED = "the file is truncated or damaged: fetch it again"
_COLUMNS = ("numbers", "positions", "cell", "pbc", "masses", "momenta", "tags", "constraints", "energy", "free_energy",
            "forces", "key_value_pairs", "data")  # fmt: skip
_ERRORS = (sqlite3.Error, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError, MemoryError)


def read_asedb(path: Path, options: ReadOptions) -> Raw:
    """All rows of a database, in the order of their ids.

    Raises:
        DataError: damaged, no database of ASE's, no rows, or labels of which it is not clear which are meant.
    """
    regular_file(path)
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            metadata = _metadata(connection)
            images = [_structure(row, f"{path}, frame {k}") for k, row in enumerate(_rows(connection, path))]
    except _ERRORS as error:
        raise DataError(f"not a readable database ({error})", where=str(path), hint=_DAMAGED) from error
    units = metadata.get("_property_unit_dict")
    if not isinstance(units, dict):
        return atoms_to_raw(Images(images, f"ase-{path.suffix.lstrip('.') or 'db'}"), str(path), options)
    raw = atoms_to_raw(Images(images, "schnetpack-db"), str(path), options)
    chosen = raw.extra["columns"]
    names = chosen if isinstance(chosen, dict) else {}
    raw.energy_unit = _unit(units.get(names.get("energy")), "energy", path)
    raw.length_unit = _unit(metadata.get("_distance_unit"), "length", path)
    raw.force_unit = _unit(units.get(names.get("forces")), "forces", path)
    return raw


def _unit(stated: object, what: str, path: Path) -> str | None:
    """A unit that SchNetPack's metadata state.

    Raises:
        DataError: one that is not known.
    """
    if not isinstance(stated, str) or stated in ("", "None", "1"):
        return None
    try:
        if what == "forces":
            return "/".join(force_unit(stated))
        return canonical_unit(stated, ENERGY_UNITS if what == "energy" else LENGTH_UNITS)
    except ConfigError:
        option = {"energy": "--energy-unit", "length": "--length-unit", "forces": "--force-unit"}[what]
        raise DataError(
            f"its {what} unit '{stated}' is not known", where=str(path), hint=f"convert it, or {option}"
        ) from None


def _metadata(connection: sqlite3.Connection) -> Mapping[str, Any]:
    """What SchNetPack keeps beside the rows; empty for others."""
    try:
        found = connection.execute("SELECT value FROM information WHERE name = 'metadata'").fetchone()
        out = json.loads(found[0]) if found else {}
    except (sqlite3.Error, ValueError, TypeError, RecursionError):
        return {}
    return out if isinstance(out, dict) else {}


def _rows(connection: sqlite3.Connection, path: Path) -> Iterator[dict[str, Any]]:
    """The columns that matter of each row, by name."""
    present = {row[1] for row in connection.execute("PRAGMA table_info(systems)")}
    if not {"numbers", "positions"} <= present:
        raise DataError("an SQLite file, but not one of ASE's databases: it has no table 'systems'", where=str(path))
    columns = [c for c in _COLUMNS if c in present]
    for row in connection.execute(f"SELECT {', '.join(columns)} FROM systems ORDER BY id"):
        yield dict(zip(columns, row, strict=True))


def _structure(row: Mapping[str, Any], where: str) -> Atoms:
    """One row as a structure with its labels."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    numbers = _blob(row["numbers"], np.int32, where)
    n = len(numbers)
    if n and not (0 <= numbers.min() and numbers.max() <= 118):
        raise DataError("atomic numbers outside 1..118", where=where)
    cell = row.get("cell")
    pbc = int(row.get("pbc") or 0)
    atoms = Atoms(
        numbers,
        _blob(row["positions"], np.float64, where).reshape(n, 3),
        cell=None if cell is None else _blob(cell, np.float64, where).reshape(3, 3),
        pbc=[bool(pbc & bit) for bit in (1, 2, 4)],
    )
    for name, shape in (("masses", (n,)), ("momenta", (n, 3))):
        if row.get(name) is not None:
            atoms.arrays[name] = _blob(row[name], np.float64, where).reshape(shape)
    _constrain(atoms, row.get("constraints"))
    for name, value in {**_json(row.get("key_value_pairs")), **_decoded(row.get("data"))}.items():
        if isinstance(value, np.ndarray) and value.shape[:1] == (n,) and value.ndim == 2:
            atoms.arrays[name] = value
        else:
            atoms.info[name] = value
    results = {k: float(row[k]) for k in ("energy", "free_energy") if row.get(k) is not None}
    if row.get("forces") is not None:
        results["forces"] = _blob(row["forces"], np.float64, where).reshape(n, 3)  # type: ignore[assignment]
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
    check_image(atoms, where)
    return atoms


def _blob(value: Any, dtype: type, where: str) -> np.ndarray:
    if not isinstance(value, bytes):
        raise DataError("a row lacks its arrays", where=where, hint=_DAMAGED)
    return np.frombuffer(value, np.dtype(dtype).newbyteorder("<")).astype(dtype)


def _constrain(atoms: Atoms, text: Any) -> None:
    """Fixed atoms; other constraints do not concern the labels."""
    from ase.constraints import FixAtoms

    for each in _json(text) if isinstance(text, str) else []:
        if isinstance(each, dict) and each.get("name") == "FixAtoms":
            index = np.asarray(each.get("kwargs", {}).get("indices", []), np.int64).reshape(-1)
            if len(index) and 0 <= index.min() and index.max() < len(atoms):
                atoms.set_constraint(FixAtoms(index))


def _json(text: Any) -> Any:
    return json.loads(text) if isinstance(text, str | bytes) and text else {}


def _decoded(value: Any) -> dict[str, Any]:
    """The ``data`` of a row: JSON whose arrays stand in the bytes before it, or (before version 9) JSON alone."""
    if value is None or value in ("null", b"null"):
        return {}
    if isinstance(value, str):
        found = _json(value)
        offset = 0
    else:
        offset = int(np.frombuffer(value[:8], "<i8")[0])
        found = json.loads(value[offset:].decode()) if 8 <= offset <= len(value) else {}
    if not isinstance(found, dict):
        return {}
    return {str(name): _array(entry, value) for name, entry in found.items()}


def _array(entry: Any, blob: Any) -> Any:
    """A value of ``data``; arrays as (shape, type, offset in the bytes), or as lists."""
    if not (isinstance(entry, dict) and "__ndarray__" in entry):
        return entry
    shape, name, third = entry["__ndarray__"]
    dtype = np.dtype(name)
    if dtype.hasobject:
        raise ValueError("an array of objects")
    if isinstance(third, list):
        return np.array(third, dtype).reshape(shape)
    count = int(np.prod([int(n) for n in shape], dtype=object)) if shape else 1
    if third < 8 or third + count * dtype.itemsize > len(blob):
        raise ValueError("an array outside its row")
    return np.frombuffer(blob, dtype.newbyteorder("<"), count, third).reshape(shape).astype(dtype)
