"""The structures of a file, as ASE reads them: what to predict, or where to start from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from equimd.data.readers.images import read_images
from equimd.errors import DataError
from equimd.units import LENGTH_UNITS

if TYPE_CHECKING:
    from ase import Atoms


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file, xyz or any format ASE reads, in Angstrom.

    Raises:
        DataError: the file is missing, not understood, cut off or empty, or holds dummy atoms, positions that are not
            finite, or a cell without volume.
    """
    found = read_images(Path(path))
    factor = LENGTH_UNITS[found.length_unit or "Angstrom"]
    for atoms in found.images:
        if factor != 1.0:
            atoms.set_cell(atoms.cell * factor, scale_atoms=False)
            atoms.positions *= factor
    if not found.images:
        raise DataError("no structures in it", where=str(path))
    return found.images
