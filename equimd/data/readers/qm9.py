"""QM9 as published: one .xyz per molecule, with the GDB-9 comment line. Energies only, Hartree, Angstrom.

Format: Ramakrishnan et al., Sci. Data 1, 140022 (2014), table 2 and 3. Lines of a file: the number of atoms n; the
property line ("gdb", index, A, B, C, mu, alpha, HOMO, LUMO, gap, R2, ZPVE, U0, U, H, G, Cv); n lines of symbol, x, y, z
and Mulliken charge, numbers with the exponent written ``*^``; frequencies; SMILES; InChI.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from equimd.chemistry import element
from equimd.data.frames import Frames, padded_shape
from equimd.data.paths import read_text
from equimd.data.readers.comments import number
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import ConfigError, DataError

#: Positions among the words of the property line of the energies: U0 is that at 0 K with the zero-point energy in it.
_ENERGIES = {"U0": 12, "U": 13, "H": 14, "G": 15}


def read_qm9(path: Path, options: ReadOptions) -> Raw:
    """Read one QM9 file (with one molecule or several, one after the other) or a folder of them, in numeric order.

    Args:
        options: ``energy_key`` is one of U0 (the default), U, H and G.

    Raises:
        DataError: a line that is not what the format says, or NaN.
        ConfigError: another energy.
    """
    key = options.energy_key or "U0"
    if key not in _ENERGIES:
        raise ConfigError(f"QM9 has no energy '{key}'", where=str(path), hint=", ".join(_ENERGIES))
    files = sorted(path.glob("*.xyz"), key=lambda p: (len(p.name), p.name)) if path.is_dir() else [path]
    molecules = [m for file in files for m in _molecules(file, _ENERGIES[key])]
    if not molecules:
        raise DataError("no molecules in it", where=str(path))
    shape = padded_shape([len(z) for z, _, _ in molecules], str(path))
    numbers, positions = np.zeros(shape, np.int64), np.zeros((*shape, 3))
    for k, (z, r, _) in enumerate(molecules):
        numbers[k, : len(z)], positions[k, : len(z)] = z, r
    block = Frames.build(numbers, positions, np.array([e for _, _, e in molecules]), where=str(path))
    extra: dict[str, object] = {
        "theory": "B3LYP/6-31G(2df,p)",
        "label": "U0, internal energy at 0 K, zero-point energy included" if key == "U0" else key,
        "energies_only": True,
        "license": "CC0",
    }
    return Raw(block, "qm9", str(path), energy_unit="Hartree", length_unit="Angstrom", extra=extra)


def _molecules(path: Path, word: int) -> Iterator[tuple[list[int], list[list[float]], float]]:
    """Atomic numbers, positions and energy of each molecule in a file."""
    lines = read_text(path).replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        if not lines[start].strip():
            start += 1
            continue
        where = f"{path}, line {start + 1}"
        count = lines[start].strip()
        if not (count.isascii() and count.isdigit()) or int(count[:12]) < 1:
            raise DataError(f"'{count[:40]}' where the number of atoms should stand", where=where)
        n = int(count[:12])
        if len(lines) < start + 2 + n:
            raise DataError(f"the file ends within a molecule of {n} atoms", where=where, hint="it is truncated")
        yield _molecule(lines[start + 1 : start + 2 + n], f"{path}, line {start + 2}", word)
        start += n + 5  # count, properties, atoms, frequencies, SMILES, InChI


def _molecule(lines: list[str], where: str, word: int) -> tuple[list[int], list[list[float]], float]:
    words = lines[0].split()
    if len(words) <= max(_ENERGIES.values()) or words[0] != "gdb":
        raise DataError("not the property line of QM9 ('gdb', index and 15 numbers)", where=where)
    numbers, positions = [], []
    try:
        energy = _number(words[word])
        for k, line in enumerate(lines[1:]):
            symbol, *rest = line.split() or [""]
            numbers.append(element(symbol, where=f"{where}, atom {k}")[0])
            positions.append([_number(w) for w in rest[:3]])
            if len(rest) < 3:
                raise ValueError(f"'{line}' has no three coordinates")
    except (ValueError, DataError) as error:
        what = error.what if isinstance(error, DataError) else error
        raise DataError(f"a line cannot be read ({what})", where=where) from error
    if not np.isfinite(energy):
        raise DataError(f"the energy is {energy}", where=where)
    return numbers, positions, energy


def _number(word: str) -> float:
    """A number that may carry Mathematica's exponent, such as 2.1997*^-6."""
    return number(word.replace("*^", "e"))
