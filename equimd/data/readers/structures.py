"""The structures of a file: what to predict, or where to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from equimd.data.paths import existing, selected, selection
from equimd.data.readers.images import read_images
from equimd.data.readers.opening import detect, open_dataset
from equimd.errors import DataError
from equimd.notices import note
from equimd.units import LENGTH_UNITS

if TYPE_CHECKING:
    from ase import Atoms

#: Formats that are read as data sets.
DATA = ("npz", "hdf5", "h5md", "store", "aselmdb", "deepmd")


#: Names that chemists use, of molecules of ASE's G2 set.
COMMON = {"ethanol": "CH3CH2OH", "benzene": "C6H6", "water": "H2O", "methanol": "CH3OH", "ammonia": "NH3"}


def named_molecule(name: str) -> Atoms | None:
    """A molecule by its name in ASE's G2 set, or a common name; None if there is none of it."""
    from ase.build import molecule

    try:
        return molecule(COMMON.get(name.lower(), name))
    except KeyError:
        return None


def read_structures(path: str | Path) -> list[Atoms]:
    """The structures of a file, in Angstrom: xyz, any format ASE reads, or a data set or trajectory; all of them, or
    those named as in ``md/trajectory.h5md@-1``. Where there is no such file, the molecule of that name.

    Raises:
        DataError: the file is missing, not understood, cut off or empty, or holds dummy atoms, positions that are not
            finite, or a cell without volume.
    """
    name, chosen = selection(path)
    if name.startswith("bundled:"):
        return open_dataset(path, labels="none").frames().to_ase()
    try:
        file = existing(name)
    except DataError:
        if chosen is not None or (named := named_molecule(name)) is None:
            raise
        note(f"{name}: no file, the molecule of that name")
        return [named]
    if _kind(file) in DATA:
        return open_dataset(path, labels="none").frames().to_ase()
    found = read_images(file)
    factor = LENGTH_UNITS[found.length_unit or "Angstrom"]
    for atoms in found.images:
        if factor != 1.0:
            atoms.set_cell(atoms.cell * factor, scale_atoms=False)
            atoms.positions *= factor
    if not found.images:
        raise DataError("no structures in it", where=str(path))
    return found.images if chosen is None else [found.images[k] for k in selected(chosen, len(found.images), name)]


def _kind(path: Path) -> str:
    """The format; of a folder that holds no data, the one of a file, whose reader then says that it is none."""
    try:
        return detect(path)
    except DataError:
        if path.is_dir():
            return "ase"
        raise
