"""Structures to ask a model about, with or without labels: any file that ASE reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from equimd.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms


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
