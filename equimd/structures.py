"""Structures in and predictions out, through ASE."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.errors import DataError
from equimd.run import write_atomic

if TYPE_CHECKING:
    from ase import Atoms

    from equimd.calculator import Prediction


def read_structures(path: str | Path) -> list[Atoms]:
    """All structures of a file, in any format ASE reads.

    Raises:
        DataError: the file is missing, not understood, empty, or holds positions that are not finite.
    """
    from ase.io import read

    path = Path(path)
    if not path.is_file():
        raise DataError("there is no such file", where=str(path))
    try:
        found = read(str(path), index=":")
    except MemoryError:
        raise
    except Exception as error:  # ASE's parsers raise whatever they trip over
        reason = str(error).strip().splitlines()
        raise DataError(
            f"cannot be read as structures ({type(error).__name__}: {reason[0] if reason else 'no reason given'})",
            where=str(path),
            hint="xyz, extxyz, or another format that ASE reads",
        ) from None
    structures = list(found) if isinstance(found, list) else [found]
    if not structures or not all(len(a) for a in structures):
        raise DataError("holds no structures, or one without atoms", where=str(path))
    for k, a in enumerate(structures):
        if not np.isfinite(a.positions).all():
            raise DataError("positions are NaN or infinite", where=f"{path}, structure {k}")
    return structures


def write_predictions(path: str | Path, atoms: Sequence[Atoms], predictions: Sequence[Prediction]) -> None:
    """Extended XYZ of the structures with predicted energies and forces (eV, eV/Angstrom), in ASE's usual places."""
    from ase.calculators.singlepoint import SinglePointCalculator
    from ase.io import write

    out = []
    for a, p in zip(atoms, predictions, strict=True):
        copy = a.copy()
        copy.set_constraint()
        labels = {"energy": p.energy} if p.forces is None else {"energy": p.energy, "forces": p.forces}
        copy.calc = SinglePointCalculator(copy, **labels)
        if p.energy_std is not None:
            copy.info["energy_std"] = p.energy_std
        if p.forces_std is not None:
            copy.arrays["forces_std"] = np.asarray(p.forces_std)
        out.append(copy)
    text = io.StringIO()
    write(text, out, format="extxyz")
    write_atomic(path, text.getvalue())
