"""HDF5 exports of others (QM9, QM7-X, SPICE, ANI and the like): any groups that hold elements and positions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.frames import Frames
from equimd.data.readers.columns import ALIASES, Columns, find, to_frames
from equimd.data.readers.raw import Raw
from equimd.data.store import _open
from equimd.errors import ConfigError, DataError
from equimd.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit


def read_hdf5(path: Path) -> Raw:
    """All groups of an HDF5 file that hold elements and positions, in the order of their names.

    Units come from the ``units`` attributes of the datasets, where they are there.

    Raises:
        DataError: no such group, columns that do not fit, NaN, or groups in different units.
    """
    blocks: list[Columns] = []
    stated: set[tuple[str | None, str | None]] = set()
    with _open(path) as file:
        try:
            for name, arrays, units in _groups(file):
                blocks.append(to_frames(arrays, f"{path}:{name}"))
                stated.add(units)
        except OSError as error:
            raise DataError(f"cannot be read ({error})", where=str(path), hint="it is truncated or damaged") from error
    if not blocks:
        raise DataError(
            "no group in it holds elements and positions",
            where=str(path),
            hint=f"elements: {', '.join(ALIASES['numbers'])}; positions: {', '.join(ALIASES['positions'])}",
        )
    if len(stated) > 1:
        raise DataError(f"its groups state different units: {sorted(map(str, stated))}", where=str(path))
    energy, length = stated.pop()
    block = Frames.concatenate([b.block for b in blocks])
    extra: dict[str, object] = {"columns": blocks[0].names, "groups": len(blocks)}
    return Raw(block, "hdf5", str(path), energy_unit=energy, length_unit=length, extra=extra)


def _groups(file: Any) -> Iterator[tuple[str, dict[str, np.ndarray], tuple[str | None, str | None]]]:
    """Name, columns and stated units of each group with positions; elements may stand in a parent group."""
    import h5py

    def walk(group: Any, inherited: dict[str, Any]) -> Iterator[tuple[str, dict[str, np.ndarray], Any]]:
        own = {k: v for k, v in group.items() if isinstance(v, h5py.Dataset)}
        columns = {**inherited, **own}
        if find(columns, "numbers") and find(own, "positions"):
            arrays = {k: np.asarray(_value(v)) for k, v in columns.items() if _wanted(k)}
            yield group.name, _per_frame(arrays), _units(columns)
        passed = {k: v for k, v in columns.items() if k in ALIASES["numbers"]}
        for child in sorted(group):
            if isinstance(group[child], h5py.Group):
                yield from walk(group[child], passed)

    yield from walk(file, {})


def _wanted(key: str) -> bool:
    return any(key in names for names in ALIASES.values())


def _value(dataset: Any) -> Any:
    value = dataset[()]
    return value.item() if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 0 else value


def _per_frame(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One molecule (positions (n, 3)) keeps only the energy of its own frame, given as a scalar or one value."""
    key = find(arrays, "forces")
    positions = arrays[find(arrays, "positions") or ""]
    if key is not None and positions.ndim == 2 and arrays[key].ndim == 3 and len(arrays[key]) == 1:
        arrays[key] = arrays[key][0]
    return arrays


def _units(columns: dict[str, Any]) -> tuple[str | None, str | None]:
    """Energy and length unit from ``units`` (or ``unit``) attributes."""
    out: list[str | None] = []
    for what, table in (("energy", ENERGY_UNITS), ("positions", LENGTH_UNITS)):
        key = find(columns, what)
        attributes = columns[key].attrs if key else {}
        text = attributes.get("units", attributes.get("unit"))
        text = text.decode() if isinstance(text, bytes) else text
        try:
            out.append(None if text is None else canonical_unit(str(text), table))
        except ConfigError:
            out.append(None)
    return out[0], out[1]
