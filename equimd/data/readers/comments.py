"""The second line of an xyz frame: extended XYZ's keys and values, or what CP2K, ORCA, xtb and i-PI write there.

Extended XYZ as ASE reads and writes it, except that the names of keys are taken in any case and that a line without a
single ``key=value`` is text: "no charge or spin stated" states nothing.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from equimd.errors import ConfigError, DataError
from equimd.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit, force_unit

_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eEdD][+-]?\d+)?"
_CP2K = re.compile(rf"(?:^|[,\s])E\s*=\s*(?P<energy>{_NUMBER})\s*(?:,|$)")
_CP2K_WHOLE = re.compile(rf"\s*(?:\w+\s*=\s*{_NUMBER}\s*(?:,|$)\s*)+")
_ORCA = re.compile(rf"^\s*Coordinates from ORCA-job .*\sE\s+(?P<energy>{_NUMBER})\s*$")
_XTB = re.compile(rf"^\s*energy:\s*(?P<energy>{_NUMBER})\s+gnorm:.*\bxtb:")
_IPI = re.compile(rf"^\s*#\s*CELL\(abcABC\):\s*(?P<cell>(?:{_NUMBER}\s+){{5}}{_NUMBER})(?P<rest>.*)$")
_IPI_UNITS = {"angstrom": "Angstrom", "atomic_unit": "Bohr", "automatic": "Bohr", "": "Bohr"}
_CELLS = ("lattice", "cell", "box", "unit_cell", "cell_vectors", "lattice_vectors", "supercell")
_ENERGY_UNIT_KEYS = ("energy_unit", "energy_units", "units_energy", "e_unit")
_LENGTH_UNIT_KEYS = ("length_unit", "length_units", "units_length", "r_unit", "distance_unit", "pos_unit")
_FORCE_UNIT_KEYS = ("force_unit", "force_units", "forces_unit", "forces_units", "units_forces", "units_force")
_UNIT_WORDS = {"hartree": "Hartree", "ha": "Hartree", "eh": "Hartree", "a.u.": "Hartree", "au": "Hartree",
               "kcal/mol": "kcal/mol", "kj/mol": "kJ/mol", "mev": "meV", "ev": "eV"}  # fmt: skip
#: Comment lines of programs are short; patterns are not tried on long ones, where they could take for ever.
_SHORT, _LONGEST = 500, 1_000_000
_QUOTES = {'"': '"', "'": "'", "{": "}", "[": "]"}
#: Runs of letters that mean themselves: outside quotes, by what ends a word besides spaces; within, by what ends that.
_PLAIN = {stop: re.compile(rf"[^\s\"'{{\[\\{stop}]+") for stop in ("=,", "")}
_WITHIN = {close: re.compile(rf"[^\\{re.escape(close)}]+") for close in _QUOTES.values()}
_WORDS = {"T": True, "F": False, "true": True, "false": False, "True": True, "False": False, "TRUE": True,
          "FALSE": False}  # fmt: skip


@dataclass
class Comment:
    """What the comment line of a frame says.

    Attributes:
        info: keys as they stand and their values, without the four below.
        properties: the columns of the atoms' lines, as they stand.
        cell: (3, 3) rows are lattice vectors, in the file's length unit.
        pbc: periodic along each vector, where it is stated.
        energy_unit, length_unit, force_unit: what it says, or what a program's own format is in.
        program: whose format it is, or the line's own word, for the message.
    """

    info: dict[str, Any] = field(default_factory=dict)
    properties: str | None = None
    cell: np.ndarray | None = None
    pbc: tuple[bool, bool, bool] | None = None
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    program: str | None = None


def parse_comment(line: str, where: str) -> Comment:
    """Read one comment line.

    Raises:
        DataError: a key that matters (the lattice, pbc) twice or with a value that is none.
    """
    line = line.strip()
    if not line:
        return Comment()
    if len(line) > _LONGEST:
        raise DataError(f"a comment line of {len(line):,} characters", where=where, hint="is it an xyz file?")
    known = _of_a_program(line, where) if len(line) < _SHORT else None
    if known is not None:
        return known
    pairs = _pairs(line)
    if not any(value is not None for _, value in pairs):
        return Comment(info={"comment": line})
    out, seen = Comment(), dict[str, str | None]()
    lattice = next((name for name in _CELLS if name in {key.lower() for key, value in pairs if value}), None)
    for key, text in pairs:
        name = key.lower()
        known_as = name if name in (*_CELLS, "properties", "pbc") else key
        if text is not None and seen.get(known_as) not in (None, text):
            raise DataError(f"'{key}' stands twice in the comment line, with different values", where=where)
        seen[known_as] = text
        if name == lattice and (name == "lattice" or len(re.findall(r"[^\s,]+", text or "")) == 9):
            out.cell = _lattice(key, text, where)
        elif name == "properties" and text:
            out.properties = text
        elif name == "pbc":
            out.pbc = _flags(text, where)
        else:
            out.info[key] = True if text is None else _value(text)
            _note_unit(out, name, text, where)
    return out


def _note_unit(out: Comment, name: str, text: str | None, where: str) -> None:
    """Units that a key states (energy_unit=Hartree), or a word beside a number (energy = -76.4 Hartree)."""
    if text is None:
        if name in _UNIT_WORDS:
            out.energy_unit, out.program = _UNIT_WORDS[name], f"the word '{name}'"
        return
    for keys, attribute, known in (
        (_ENERGY_UNIT_KEYS, "energy_unit", lambda t: canonical_unit(t, ENERGY_UNITS)),
        (_LENGTH_UNIT_KEYS, "length_unit", lambda t: canonical_unit(t, LENGTH_UNITS)),
        (_FORCE_UNIT_KEYS, "force_unit", lambda t: "/".join(force_unit(t))),
    ):
        if name in keys:
            try:
                setattr(out, attribute, known(text))
            except ConfigError as error:
                raise DataError(f"{name} is '{text[:40]}', which is not known", where=where, hint=error.hint) from None
            out.program = f"'{name}'"


def _of_a_program(line: str, where: str) -> Comment | None:
    """The formats of programs that state no keys of extended XYZ, and whose units are theirs."""
    if "roperties=" not in line and "attice=" not in line:
        found = _CP2K.search(line)
        if found and _CP2K_WHOLE.fullmatch(line) and re.search(r"\s=|=\s|\bi=\d+,|\btime=[^,]*,", line):
            info = {k: _value(v) for k, v in re.findall(rf"(\w+)\s*=\s*({_NUMBER})", line)}
            return Comment(info, energy_unit="Hartree", length_unit="Angstrom", program="CP2K")
    for pattern, program in ((_ORCA, "ORCA"), (_XTB, "xtb")):
        found = pattern.search(line)
        if found:
            info = {"energy": _value(found["energy"]), "comment": line}
            return Comment(info, energy_unit="Hartree", length_unit="Angstrom", program=program)
    found = _IPI.match(line)
    if found:
        return _of_ipi(found, where)
    if line.startswith("#") and "CELL" in line[:12].upper():
        raise DataError("a cell in another form of i-PI's", where=where, hint="write it with cell_units and abcABC")
    return None


def _of_ipi(found: re.Match[str], where: str) -> Comment:
    """i-PI: lengths and angles of the cell, and the units of positions and cell."""
    from ase.geometry import cellpar_to_cell

    units = {name: unit.lower() for name, unit in re.findall(r"(\w+)\{(\w*)\}", found["rest"])}
    what = [name for name in units if name != "cell"]
    if what and what[0] not in ("positions", "x_centroid"):
        raise DataError(f"it holds {what[0]}, not positions", where=where, hint="give i-PI's positions file")
    names = (units.get(what[0] if what else "positions", ""), units.get("cell", ""))
    if any(name not in _IPI_UNITS for name in names):
        raise DataError(f"i-PI's units {names} are not known", where=where, hint="write positions{angstrom}")
    length, box = (_IPI_UNITS[name] for name in names)
    try:
        with np.errstate(all="ignore"):
            cell = cellpar_to_cell([number(x) for x in found["cell"].split()])
        if not np.isfinite(cell).all():
            raise ValueError
    except (AssertionError, ValueError):  # angles that no three vectors have
        raise DataError(f"'{found['cell'].strip()}' are no edges and angles of a cell", where=where) from None
    cell[:] *= LENGTH_UNITS[box] / LENGTH_UNITS[length]
    return Comment({"comment": found.string.strip()}, cell=cell, length_unit=length, program="i-PI")


def _pairs(line: str) -> list[tuple[str, str | None]]:
    """Keys and values in order; a word without a value has None."""
    out: list[tuple[str, str | None]] = []
    at = 0
    while at < len(line):
        if line[at].isspace() or line[at] == ",":
            at += 1
            continue
        key, at = _word(line, at, stop="=,")
        after = at
        while after < len(line) and line[after].isspace():
            after += 1
        if after < len(line) and line[after] == "=" and key:
            at = after + 1
            while at < len(line) and line[at].isspace():
                at += 1
            value, at = _word(line, at, stop="")
            out.append((key, value.rstrip(",") if value.endswith(",") else value))
        elif key:
            out.append((key, None))
        else:
            at += 1
    return out


def _word(line: str, at: int, stop: str) -> tuple[str, int]:
    """The text from ``at`` to the next space, without its quotes or brackets, and where it ends."""
    out: list[str] = []
    plain, close = _PLAIN[stop], ""
    while at < len(line):
        run = (_WITHIN[close] if close else plain).match(line, at)
        if run is not None and run.end() > at:
            out.append(run[0])
            at = run.end()
            continue
        letter = line[at]
        if letter == "\\" and at + 1 < len(line):
            at += 1
            out.append(line[at])
        elif close and letter == close:
            close = ""
        elif not close and letter in _QUOTES:
            close = _QUOTES[letter]
        elif not close and (letter.isspace() or letter in stop):
            break
        else:
            out.append(letter)
        at += 1
    return "".join(out), at


def number(word: str) -> float:
    """A number, with Fortran's exponents too (1.0D-3).

    Raises:
        ValueError: it is none.
    """
    try:
        return float(word)
    except ValueError:
        return float(re.sub(r"[dD]", "e", word, count=1))


def _value(text: str) -> Any:
    """A whole number, a number, a flag or text, or an array of the first three; JSON where ASE wrote it."""
    if text.startswith("_JSON "):
        try:
            return json.loads(text[6:])
        except (ValueError, RecursionError):
            return text
    words = re.findall(r"[^\s,]+", text)
    if not words:
        return text
    for convert in (int, number, _WORDS.__getitem__):
        try:
            values = [convert(w) for w in words]
        except (ValueError, KeyError):
            continue
        if len(values) == 1:
            return values[0]
        try:
            return np.array(values)
        except OverflowError:
            return text
    return text


def _lattice(key: str, text: str | None, where: str) -> np.ndarray:
    try:
        values = [number(w) for w in re.findall(r"[^\s,]+", text or "")]
    except ValueError:
        values = []
    if len(values) not in (3, 9) or not np.isfinite(values).all():
        raise DataError(f"{key} is '{(text or '')[:60]}', expected nine numbers (three lattice vectors)", where=where)
    return np.diag(values) if len(values) == 3 else np.array(values).reshape(3, 3)


def _flags(text: str | None, where: str) -> tuple[bool, bool, bool]:
    words = re.findall(r"[^\s,]+", text or "")
    known = {"t": True, "f": False, "true": True, "false": False, "1": True, "0": False}
    flags = [known.get(w.lower()) for w in words]
    if len(flags) == 1:
        flags = flags * 3
    if len(flags) != 3 or None in flags:
        raise DataError(f"pbc is '{(text or '')[:30]}', expected three of T and F", where=where)
    return bool(flags[0]), bool(flags[1]), bool(flags[2])
