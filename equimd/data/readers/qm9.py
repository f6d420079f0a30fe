"""QM9 as published: one .xyz per molecule, with the GDB-9 comment line. Energies only, Hartree, Angstrom.

Format: Ramakrishnan et al., Sci. Data 1, 140022 (2014), table 2 and 3. Lines of a file: the number of atoms n; the
property line ("gdb", index, A, B, C, mu, alpha, HOMO, LUMO, gap, R2, ZPVE, U0, U, H, G, Cv); n lines of symbol, x, y, z
and Mulliken charge, numbers with the exponent written ``*^``; frequencies; SMILES; InChI.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from equimd.data.frames import Frames
from equimd.data.readers.raw import Raw
from equimd.errors import DataError

#: Position of U0, the energy at 0 K with the zero-point energy in it, among the words of the property line.
_U0 = 12


def read_qm9(path: Path) -> Raw:
    """Read one QM9 file (with one molecule or several, one after the other) or a folder of them, in numeric order.

    Raises:
        DataError: a line that is not what the format says, or NaN.
    """
    files = sorted(path.glob("*.xyz"), key=lambda p: (len(p.name), p.name)) if path.is_dir() else [path]
    molecules = [m for file in files for m in _molecules(file)]
    width = max(len(z) for z, _, _ in molecules)
    numbers = np.zeros((len(molecules), width), np.int64)
    positions = np.zeros((len(molecules), width, 3))
    for k, (z, r, _) in enumerate(molecules):
        numbers[k, : len(z)], positions[k, : len(z)] = z, r
    block = Frames.build(numbers, positions, np.array([u0 for _, _, u0 in molecules]), where=str(path))
    extra: dict[str, object] = {
        "theory": "B3LYP/6-31G(2df,p)",
        "label": "U0, internal energy at 0 K, zero-point energy included",
        "energies_only": True,
        "license": "CC0",
    }
    return Raw(block, "qm9", str(path), energy_unit="Hartree", length_unit="Angstrom", extra=extra)


def _molecules(path: Path) -> Iterator[tuple[list[int], list[list[float]], float]]:
    """Atomic numbers, positions and U0 of each molecule in a file."""
    lines = path.read_text(errors="replace").splitlines()
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        where = f"{path}, line {start + 1}"
        count = lines[start].strip()
        if not count.isdigit() or int(count) < 1:
            raise DataError(f"'{count[:40]}' where the number of atoms should stand", where=where)
        n = int(count)
        if len(lines) < start + 2 + n:
            raise DataError(f"the file ends within a molecule of {n} atoms", where=where, hint="it is truncated")
        yield _molecule(lines[start + 1 : start + 2 + n], f"{path}, line {start + 2}")
        start += n + 5  # count, properties, atoms, frequencies, SMILES, InChI


def _molecule(lines: list[str], where: str) -> tuple[list[int], list[list[float]], float]:
    from ase.data import atomic_numbers

    words = lines[0].split()
    if len(words) <= _U0 or words[0] != "gdb":
        raise DataError("not the property line of QM9 ('gdb', index and 15 numbers)", where=where)
    numbers, positions = [], []
    try:
        u0 = _number(words[_U0])
        for line in lines[1:]:
            symbol, *rest = line.split()
            numbers.append(atomic_numbers[symbol])
            positions.append([_number(w) for w in rest[:3]])
            if len(rest) < 3:
                raise ValueError(f"'{line}' has no three coordinates")
    except (ValueError, KeyError) as error:
        raise DataError(f"a line cannot be read ({error})", where=where) from error
    if not np.isfinite(u0):
        raise DataError(f"the energy is {u0}", where=where)
    return numbers, positions, u0


def _number(word: str) -> float:
    """A number that may carry Mathematica's exponent, such as 2.1997*^-6."""
    return float(word.replace("*^", "e"))
