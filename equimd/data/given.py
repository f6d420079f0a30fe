"""Data and structures as they are given to a command or a function: files, bundled sets, ASE ``Atoms``, data sets."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np

from equimd.chemistry import refuse_dummies
from equimd.data.dataset import Dataset, stated
from equimd.data.state import contradiction, read_state
from equimd.errors import ConfigError, DataError
from equimd.notices import doing

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.config import ReadingSettings

BUNDLED = "bundled:"

#: Files, folders or ``bundled:NAME``, one or several; ASE ``Atoms``, one or several; or a data set.
GivenData: TypeAlias = Union[str, Path, "Atoms", Dataset, Sequence[str | Path], Sequence["Atoms"]]
#: A file of structures, or ASE ``Atoms``, one or several.
GivenStructures: TypeAlias = Union[str, Path, "Atoms", Sequence["Atoms"]]


def part_name(name: str, part: str) -> str:
    """A whole bundled set means the part of it that is made for the purpose: ``bundled:ethanol`` its calibration."""
    whole, at, frames = name.partition("@")
    return f"{whole}-{part}{at}{frames}" if name.startswith(BUNDLED) and "-" not in whole else name


def given_names(given: GivenData | None) -> tuple[str, ...] | None:
    """The names of files and bundled sets that data are given by; None for ``Atoms`` and data sets."""
    if given is None or isinstance(given, Dataset):
        return () if given is None else None
    items = _items(given)
    names = tuple(str(i) for i in items if isinstance(i, (str, os.PathLike)))
    return names if len(names) == len(items) else None


def absolute(names: Iterable[str]) -> tuple[str, ...]:
    """The same files by names that hold in any folder."""
    return tuple(n if n.startswith(BUNDLED) else str(Path(n).absolute()) for n in names)


def open_given(given: GivenData, reading: ReadingSettings | None = None, *, part: str = "") -> Dataset:
    """One data set of all that is given, in eV and Angstrom.

    Args:
        given: energies and forces of ``Atoms`` are those their calculator holds, by ASE's convention in eV and
            eV/Angstrom, as in a file of them; they are checked by the same rule.
        reading: which columns are meant, in which units; with None, geometries alone are, and no unit is asked for.
        part: of a whole bundled set, such as ``test``.

    Raises:
        DataError: missing, damaged or inconsistent data. UnitsError: units that cannot be told.
        ConfigError: something else is given.
    """
    from equimd.data.readers import open_dataset

    doing("reading the data")
    options: dict[str, Any] = {"labels": "none", "check_units": False} if reading is None else reading.model_dump()
    state: dict[str, Any] = {key: options.pop(key, None) for key in ("charge", "spin")}
    if isinstance(given, Dataset):
        return stated(given, **state)
    names = given_names(given)
    if names is None:
        return stated(_of_atoms(given, options), **state)
    return open_dataset([part_name(n, part) if part else n for n in names], **state, **options)


def structures_of(given: GivenStructures, *, charge: int | None = None, spin: int | None = None) -> list[Atoms]:
    """The structures of a file, or those given, of which copies are made.

    Args:
        charge, spin: total charge, and multiplicity 2S+1, of structures that state none, set in their ``info``.

    Raises:
        DataError: the file cannot be read, there is no structure, a position is not finite, or a structure states
            another charge or multiplicity.
        ConfigError: something else is given.
    """
    from equimd.data.readers.structures import read_structures

    if isinstance(given, (str, os.PathLike)):
        return [with_state(a, charge, spin, f"{given}, frame {k}") for k, a in enumerate(read_structures(given))]
    found = [with_state(a.copy(), charge, spin, f"structure {k}") for k, a in enumerate(_atoms(given))]
    for k, a in enumerate(found):
        if not len(a) or not np.isfinite(a.positions).all():
            raise DataError("has no atoms, or positions that are not finite", where=f"structure {k}")
    if not found:
        raise DataError("no structures")
    return found


def with_state(atoms: Atoms, charge: int | None, spin: int | None, where: str) -> Atoms:
    """``atoms``, whose ``info`` now states what is given; None leaves it as it is.

    Raises:
        DataError: they state another charge or multiplicity, or none that is a whole number.
    """
    own = read_state(atoms.info, where=where)
    stated_charge = own.charge if own.charge_stated else None
    for name, told, value in (("charge", charge, stated_charge), ("spin", spin, own.spin or None)):
        if told is not None and value not in (None, told):
            raise contradiction(name, told, value or 0, where)
        if told is not None and value is None:
            atoms.info[name] = told
    return atoms


def _items(given: object) -> list[object]:
    """What is given, as a list: one file name and one ``Atoms`` (whose iterator gives atoms) are one thing each."""
    single = isinstance(given, (str, os.PathLike)) or hasattr(given, "positions")
    return [given] if single or not isinstance(given, Iterable) else list(given)


def _atoms(given: object) -> list[Atoms]:
    from ase import Atoms

    items = _items(given)
    if strange := [i for i in items if not isinstance(i, Atoms)]:
        kind = type(strange[0]).__name__
        raise ConfigError(f"neither files nor structures: {kind}", hint="paths, bundled:NAME, or ASE Atoms")
    for k, atoms in enumerate(items):
        refuse_dummies(atoms.numbers, f"structure {k}")  # type: ignore[attr-defined]
    return items  # type: ignore[return-value]


def _of_atoms(given: object, options: Mapping[str, Any]) -> Dataset:
    from equimd.data.readers.atoms import atoms_to_raw
    from equimd.data.readers.images import Images
    from equimd.data.readers.raw import ReadOptions, to_dataset

    images, asked = _atoms(given), ReadOptions(**options)
    return to_dataset(
        atoms_to_raw(Images(images, "ase-atoms"), f"{len(images)} structures given as Atoms", asked), asked
    )
