"""HDF5 exports of others (QM9, QM7-X, SPICE, ANI and the like): any groups that hold elements and positions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from equimd.data.frames import Frames
from equimd.data.hdf5 import dataset, groups, is_dataset, open_hdf5, reading
from equimd.data.readers.columns import ALIASES, Columns, find, to_frames, wanted
from equimd.data.readers.labels import LabelKeys, forces_family
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import ConfigError, DataError
from equimd.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit, force_unit


def read_hdf5(path: Path, options: ReadOptions) -> Raw:
    """All groups of an HDF5 file that hold elements and positions, in the order of their names.

    Units come from the ``units`` attributes of the datasets, where they are there.

    Raises:
        DataError: no such group, columns that do not fit, NaN, or groups in different units.
    """
    keys = options.keys
    blocks: list[Columns] = []
    stated: set[tuple[str | None, str | None, str | None]] = set()
    with open_hdf5(path) as file, reading(path, "cannot be read"):
        for name, columns in _groups(file, keys):
            arrays = {k: np.asarray(_value(v)) for k, v in columns.items()}
            blocks.append(to_frames(_per_frame(arrays), f"{path}:{name}", keys))
            stated.add(_units(columns, blocks[-1].names))
    if not blocks:
        raise DataError(
            "no group in it holds elements and positions",
            where=str(path),
            hint=f"elements: {', '.join(ALIASES['numbers'])}; positions: {', '.join(ALIASES['positions'])}",
        )
    if len(stated) > 1:
        raise DataError(f"its groups state different units: {sorted(map(str, stated))}", where=str(path))
    for what in ("energy", "forces"):
        names = sorted({b.names[what] for b in blocks if what in b.names})
        if len(names) > 1:
            raise DataError(
                f"its groups hold {what} under different names: {', '.join(names)}", where=str(path),
                hint=f"say which are meant: --{what}-key NAME",
            )  # fmt: skip
    energy, length, force = stated.pop()
    block = Frames.concatenate([b.block for b in blocks])
    notes = sorted({note for b in blocks for note in b.notes})[:10]
    extra: dict[str, object] = {"columns": blocks[0].names, "groups": len(blocks), "notes": notes}
    return Raw(block, "hdf5", str(path), energy, length, force, extra=extra)


def _groups(file: Any, keys: LabelKeys) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and columns of each group with positions; elements may stand in a parent group."""

    seen = {hash(file["/"].id)}

    def walk(group: Any, inherited: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        own = {k: dataset(group, k) for k in group if wanted(k, keys) and is_dataset(group, k)}
        columns = {**inherited, **own}
        if find(columns, "numbers") and find(own, "positions"):
            yield group.name, columns
        passed = {k: v for k, v in columns.items() if k in ALIASES["numbers"]}
        for _, child in groups(group, seen):
            yield from walk(child, passed)

    yield from walk(file, {})


def _value(dataset: Any) -> Any:
    value = dataset[()]
    return value.item() if isinstance(value, np.ndarray) and value.dtype.kind == "O" and value.ndim == 0 else value


def _per_frame(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One molecule (positions (n, 3)) keeps only the energy of its own frame, given as a scalar or one value."""
    positions = arrays[find(arrays, "positions") or ""]
    for key, array in arrays.items():
        if forces_family(key) is not None and positions.ndim == 2 and array.ndim == 3 and len(array) == 1:
            arrays[key] = array[0]
    return arrays


def _units(columns: dict[str, Any], names: dict[str, str]) -> tuple[str | None, str | None, str | None]:
    """Energy, length and force unit from ``units`` (or ``unit``) attributes."""
    out: list[str | None] = []
    for what, known in (
        ("energy", lambda text: canonical_unit(text, ENERGY_UNITS)),
        ("positions", lambda text: canonical_unit(text, LENGTH_UNITS)),
        ("forces", lambda text: "/".join(force_unit(text))),
    ):
        key = names.get(what)
        attributes = columns[key].attrs if key else {}
        text = attributes.get("units", attributes.get("unit"))
        text = text.decode(errors="replace") if isinstance(text, bytes) else text
        try:
            out.append(known(text) if isinstance(text, str) else None)
        except ConfigError:
            out.append(None)
    return out[0], out[1], out[2]
