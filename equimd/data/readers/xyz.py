"""xyz and extended XYZ, read to the end of the file: every line belongs to a frame or the file is refused.

Format of a frame: the number of atoms; a comment line (:mod:`equimd.data.readers.comments`); a line per atom, with the
columns that ``Properties`` lists, else symbol (or atomic number) and position; for ADF, ``VEC`` lines. Blank lines may
stand between frames.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.chemistry import element
from equimd.data.cells import periodic_cells
from equimd.data.readers.comments import Comment, number, parse_comment
from equimd.data.readers.labels import energy_family
from equimd.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

_PLAIN = "species:S:1:pos:R:3"
_NAMES = {
    "species": "symbols", "symbols": "symbols", "symbol": "symbols", "element": "symbols", "elements": "symbols",
    "pos": "positions", "positions": "positions", "coords": "positions", "coordinates": "positions",
    "z": "numbers", "numbers": "numbers", "atomic_numbers": "numbers", "mass": "masses", "masses": "masses",
    "charge": "initial_charges", "move_mask": "move_mask", "momenta": "momenta", "tags": "tags",
}  # fmt: skip
_FLAGS = {"t": True, "f": False, "true": True, "false": False, "1": True, "0": False, ".true.": True, ".false.": False}


@dataclass
class XyzFile:
    """The frames of a file, the units its programs write in, and what is worth saying about how it was read."""

    images: list[Atoms]
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    notes: list[str] = field(default_factory=list)


def read_xyz(text: str, where: str) -> XyzFile:
    """All frames of the text of an xyz or extended XYZ file.

    Raises:
        DataError: a line that belongs to no frame, a frame that is cut off, columns that do not fit, or no element.
    """
    frames: list[tuple[Atoms, Comment]] = []
    extra: set[int] = set()
    for atoms, comment, unread in _frames(text, where):
        frames.append((atoms, comment))
        extra.add(unread)
    if not frames:
        raise DataError("no frames in it", where=where)
    out = XyzFile([atoms for atoms, _ in frames])
    labelled = [c for _, c in frames if any(energy_family(str(key)) is not None for key in c.info)]
    out.energy_unit = _one({c.energy_unit for c in labelled}, where)
    out.length_unit = _one({c.length_unit for _, c in frames}, where)
    out.force_unit = _one({c.force_unit for _, c in frames}, where)
    units = " and ".join(u for u in (out.energy_unit, out.length_unit, out.force_unit) if u)
    programs = sorted({c.program for _, c in frames if c.program})
    if programs and units:
        out.notes.append(f"comment lines of {', '.join(programs)}: read in {units}")
    if extra != {0}:
        out.notes.append(f"{max(extra)} more columns stand beside each atom and are not read: no Properties names them")
    return out


def _one(units: set[str | None], where: str) -> str | None:
    """The unit that all frames agree on."""
    if len(units) > 1:
        raise DataError(
            "comment lines of different programs, or in different units", where=where, hint="split the file"
        )
    return units.pop() if units else None


def _frames(text: str, where: str) -> Iterator[tuple[Atoms, Comment, int]]:
    """Structure, comment and number of unread columns of each frame."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    at, frame = 0, 0
    while True:
        while at < len(lines) and not lines[at].strip():
            at += 1
        if at == len(lines):
            return
        count = lines[at].strip()
        if not (count.isascii() and count.isdigit()) or int(count[:12]) == 0:
            raise DataError(
                f"line {at + 1} is '{count[:40]}' where the number of atoms of frame {frame} should stand",
                where=where,
                hint=f"{frame} whole frames stand before it: remove what follows, or correct the count of atoms",
            )
        n, place = int(count[:12]), f"{where}, frame {frame}"
        rows = lines[at + 2 : at + 2 + n]
        while rows and not rows[-1].strip():
            rows.pop()
        if len(rows) < n and at + 2 + n >= len(lines):
            raise DataError(
                f"the file ends within frame {frame}, after {len(rows)} of {n} atoms",
                where=where,
                hint="it is truncated: copy or compute it again, or remove the last frame",
            )
        comment = parse_comment(lines[at + 1], place)
        at += 2 + n
        vectors = []
        while at < len(lines) and re.match(r"\s*VEC\d\s", lines[at]):
            vectors.append(lines[at].split()[1:4])
            at += 1
        if vectors:
            comment.cell = _vectors(vectors, place)
        atoms, unread = _atoms(rows, n, comment, place, at - n - len(vectors) + 1)
        yield atoms, comment, unread
        frame += 1


def _vectors(rows: Sequence[Sequence[str]], where: str) -> np.ndarray:
    cell = np.zeros((3, 3))
    try:
        for k, row in enumerate(rows):
            cell[k] = [number(w) for w in row]
    except (ValueError, IndexError):
        raise DataError("a VEC line is no lattice vector", where=where) from None
    return cell


def _atoms(rows: list[str], n: int, comment: Comment, where: str, line: int) -> tuple[Atoms, int]:
    """The structure of a frame; ``line`` is the number of its first atom's line in the file."""
    from ase import Atoms

    try:
        columns = _columns(comment.properties or _PLAIN)
    except ValueError as error:
        raise DataError(str(error), where=where) from None
    width = sum(size for _, _, size in columns)
    words = [row.split() for row in rows]
    unread = max((len(w) for w in words), default=width) - width
    for k in range(n):
        found = len(words[k]) if k < len(words) else 0
        if found < width or (found > width and comment.properties is not None):
            raise DataError(
                f"line {line + k} has {found} values, expected {width} for an atom", where=f"{where}, atom {k}",
                hint="is the number of atoms right, and do Properties name the columns?",
            )  # fmt: skip
    arrays: dict[str, np.ndarray] = {}
    at = 0
    for name, kind, size in columns:
        block = [w[at : at + size] for w in words]
        arrays[name] = _convert(block, kind, name, where, line)
        at += size
    numbers, masses = _elements(arrays, where)
    if "positions" not in arrays or arrays["positions"].shape != (n, 3):
        raise DataError("Properties list no positions (pos:R:3)", where=where)
    cell, pbc = np.zeros((1, 3, 3)) if comment.cell is None else comment.cell[None], np.zeros((1, 3), bool)
    if comment.cell is not None or (comment.pbc is not None and any(comment.pbc)):
        cell, pbc = periodic_cells(cell, None if comment.pbc is None else np.array([comment.pbc]), where)
    atoms = Atoms(numbers, arrays.pop("positions"), cell=cell[0], pbc=pbc[0], info=comment.info)
    if masses is not None:
        atoms.set_masses(masses)
    if "initial_charges" in arrays and arrays["initial_charges"].dtype.kind != "f":
        arrays["initial_charges"] = arrays["initial_charges"].astype(float)
    _constrain(atoms, arrays.pop("move_mask", None), where)
    _attach(atoms, arrays)
    return atoms, unread


@lru_cache(256)
def _columns(text: str) -> list[tuple[str, str, int]]:
    """Name, kind (S, R, I, L) and size of the columns that ``Properties`` lists.

    Raises:
        ValueError: it lists none, or one twice.
    """
    words = text.split(":")
    out: list[tuple[str, str, int]] = []
    if len(words) % 3 == 0:
        for name, kind, size in zip(words[::3], words[1::3], words[2::3], strict=True):
            if kind.upper() in ("S", "R", "I", "L") and size.isdigit() and 0 < int(size[:6]) < 1000 and name:
                out.append((_NAMES.get(name.lower(), name), kind.upper(), int(size)))
    if len(out) * 3 != len(words):
        raise ValueError(f"Properties are '{text[:80]}', expected NAME:KIND:COLUMNS, such as {_PLAIN}")
    repeated = [name for k, (name, _, _) in enumerate(out) if name in {o[0] for o in out[:k]}]
    if repeated:
        raise ValueError(f"Properties list {repeated[0]} twice")
    return out


def _convert(block: list[list[str]], kind: str, name: str, where: str, line: int) -> np.ndarray:
    """(n,) or (n, columns) array of a property."""
    convert: Any = {"S": str, "R": number, "I": int, "L": lambda w: _FLAGS[w.lower()]}[kind]
    dtype: Any = {"S": str, "R": np.float64, "I": np.int64, "L": bool}[kind]
    try:
        array = (
            np.array(block, np.float64) if kind == "R" else np.array([[convert(w) for w in r] for r in block], dtype)
        )
    except (ValueError, KeyError, OverflowError):
        array = _slowly(block, convert, dtype, name, where, line)
    return array[:, 0] if array.shape[1] == 1 else array


def _slowly(block: list[list[str]], convert: Any, dtype: Any, name: str, where: str, line: int) -> np.ndarray:
    """Value by value, so that the one that cannot be read is named."""
    out = np.zeros((len(block), len(block[0])), dtype)
    for k, row in enumerate(block):
        for c, word in enumerate(row):
            try:
                out[k, c] = convert(word)
            except (ValueError, KeyError, OverflowError):
                raise DataError(
                    f"line {line + k}: '{word[:40]}' cannot be read as {name}", where=f"{where}, atom {k}"
                ) from None
    return out


def _elements(arrays: dict[str, np.ndarray], where: str) -> tuple[np.ndarray, np.ndarray | None]:
    """Atomic numbers, and masses where an isotope is named."""
    symbols, numbers = arrays.pop("symbols", None), arrays.pop("numbers", None)
    if symbols is None and numbers is None:
        raise DataError("Properties list no elements (species:S:1 or Z:I:1)", where=where)
    named = symbols if symbols is not None else numbers if numbers is not None else np.zeros(0)
    words = [str(w) for w in named.reshape(-1)]
    first = {w: k for k, w in reversed(list(enumerate(words)))}
    known = {w: element(w, where=f"{where}, atom {k}") for w, k in first.items()}
    found = [known[w] for w in words]
    z = np.array([f[0] for f in found], np.int64)
    if symbols is not None and numbers is not None and not np.array_equal(z, numbers.reshape(-1)):
        k = int(np.argmax(z != numbers.reshape(-1)))
        raise DataError(f"symbol {words[k]} and atomic number {numbers[k]} differ", where=f"{where}, atom {k}")
    if all(mass is None for _, mass in found):
        return z, None
    from ase.data import atomic_masses

    return z, np.array([atomic_masses[k] if mass is None else mass for k, mass in found])


def _constrain(atoms: Atoms, movable: np.ndarray | None, where: str) -> None:
    """Fixed atoms and components, as ``move_mask`` says."""
    from ase.constraints import FixAtoms, FixCartesian

    if movable is None:
        return
    movable = movable.astype(bool)
    if movable.ndim == 1:
        if not movable.all():
            atoms.set_constraint(FixAtoms(mask=~movable))
    elif movable.shape[1] == 3:
        atoms.set_constraint([FixCartesian(a, mask=~m) for a, m in enumerate(movable) if not m.all()])
    else:
        raise DataError(f"move_mask has {movable.shape[1]} columns, expected 1 or 3", where=where)


def _attach(atoms: Atoms, arrays: dict[str, np.ndarray]) -> None:
    """Columns that are left; energy and forces under their standard names go where ASE keeps them."""
    from ase.calculators.singlepoint import SinglePointCalculator

    results: dict[str, Any] = {}
    if "forces" in arrays and arrays["forces"].shape == (len(atoms), 3):
        results["forces"] = arrays.pop("forces")
    for key in ("energy", "free_energy"):
        value = atoms.info.get(key)
        if isinstance(value, int | float) and not isinstance(value, bool):
            results[key] = float(atoms.info.pop(key))
    for name, array in arrays.items():
        if name != "positions" and name != "numbers":
            atoms.arrays[name] = array
    if results:
        atoms.calc = SinglePointCalculator(atoms, **results)
