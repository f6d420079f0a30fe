"""Structures of a file as ASE ``Atoms``: xyz by our own reader, other formats by ASE's, none of them unpickled."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import re
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.chemistry import ISOTOPES, refuse_dummies
from equimd.data.cells import periodic_cells
from equimd.data.paths import decode, read_bytes
from equimd.data.readers.xyz import read_xyz
from equimd.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

#: Formats that connect somewhere, run code, or are folders.
_REFUSED = ("bundletrajectory", "postgresql", "mysql", "gpw", "eon")
_PICKLE = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PickleTrajectory")
_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
#: What one packed byte may become: more is a file made to fill the memory.
_MAX_RATIO = 1200
_LAMMPS_ATOMS = re.compile(r"^ITEM: NUMBER OF ATOMS\s*?\n\s*([0-9]{1,4000})", re.MULTILINE)
#: Text formats: what starts a frame. A reader that finds fewer frames than these has stopped early.
_FRAME_STARTS = {
    "vasp-xdatcar": r"^\s*(?:Direct|Cartesian) configuration=", "vasp-out": r"TOTAL-FORCE \(eV",
    "lammps-dump-text": r"^ITEM: TIMESTEP", "dlp-history": r"^timestep\s", "sdf": r"^\$\$\$\$",
    "vasp-xml": r"<calculation>", "proteindatabank": r"^MODEL\s", "turbomole-gradient": r"^\s*cycle =",
    "xsf": r"^\s*(?:PRIMCOORD|ATOMS)\b", "castep-md": r"<-- E\s*$", "castep-geom": r"<-- E\s*$",
    "dmol-arc": r"^!DATE", "jsv": r"^asymmetric_unit_cell", "gen": r"^\s*\d+\s+[CSFcsf]\s*$",
}  # fmt: skip


@dataclass
class Images:
    """The structures of a file; units where the format or a program's comment line says them."""

    images: list[Atoms]
    format: str
    energy_unit: str | None = None
    length_unit: str | None = None
    force_unit: str | None = None
    notes: list[str] = field(default_factory=list)


def read_images(path: Path) -> Images:
    """All structures of a file, checked: elements, cells, positions.

    Raises:
        DataError: not readable, cut off, empty, dummy atoms, a cell without volume, or positions that are not finite.
    """
    data = read_bytes(path)
    if not data:
        raise DataError("the file is empty", where=str(path))
    data, name = _unpacked(data, path)
    if data.startswith(_PICKLE):
        raise DataError(
            "it holds pickled Python objects, which could run code when read", where=str(path),
            hint="write it again as extended XYZ or another plain format with the program that made it",
        )  # fmt: skip
    if _is_xyz(data):
        read = read_xyz(decode(data, where=str(path)), str(path))
        found = Images(read.images, "extxyz", read.energy_unit, read.length_unit, read.force_unit, read.notes)
    else:
        found = _by_ase(path, name, data)
    for k, atoms in enumerate(found.images):
        check_image(atoms, f"{path}, frame {k}", cell=found.format != "extxyz")
    return found


def _unpacked(data: bytes, path: Path) -> tuple[bytes, str]:
    """The bytes of a gzip, bzip2 or xz file and the name inside it; others as they are."""
    opener = next((opener for magic, opener in _PACKED.items() if data.startswith(magic)), None)
    if opener is None:
        return data, path.name
    limit = len(data) * _MAX_RATIO + (1 << 20)
    try:
        with opener(io.BytesIO(data)) as stream:
            inner = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(
            f"cannot be unpacked ({error})", where=str(path), hint="it is truncated or damaged: fetch it again"
        ) from None
    if len(inner) > limit:
        raise DataError(f"unpacks to more than {limit:,} bytes", where=str(path), hint="unpack it by hand")
    return inner, path.stem


def _is_xyz(data: bytes) -> bool:
    """Whether the first line is an atom count: xyz, whatever the file is called."""
    head = data[:256]
    if head.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in head:
        head = head.decode("utf-16", errors="ignore").encode("ascii", errors="ignore") if len(head) % 2 == 0 else b""
    head = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    return re.match(rb"\d+\s*?(?:\r|\n)", head) is not None or head.isdigit()


def _by_ase(path: Path, name: str, data: bytes) -> Images:
    """Structures by ASE's reader of the format that name and first bytes show."""
    import ase.io
    from ase.io.formats import UnknownFileTypeError, get_ioformat

    where = str(path)
    try:
        kind = _ase_format(name, data)
        reader = get_ioformat(kind)
    except (UnknownFileTypeError, ValueError) as error:
        raise _unknown_format(path, data) from error
    if kind in _REFUSED or not reader.can_read:
        raise _unknown_format(path, data)
    text = "" if reader.isbinary else decode(data, where=where)
    started = _frames_begun(kind, text)
    if reader.single and started > 1:
        raise _stops_early(1, kind, started, where)
    if kind == "lammps-dump-text":
        _enough_lines(text, where)
    source: Any = str(path)
    if reader.acceptsfd:
        source = io.BytesIO(data) if reader.isbinary else io.StringIO(text)
    try:
        found = ase.io.read(source, index=":", format=kind, do_not_split_by_at_sign=True)
    except (Exception, SystemExit) as error:  # ASE's parsers raise whatever their line splitting runs into
        raise DataError(*_reason(error, kind), where=where, hint=_hint(error, kind)) from error
    images = found if isinstance(found, list) else [found]
    if started > max(len(images), 1):
        raise _stops_early(len(images), kind, started, where)
    return Images(images, f"ase-{path.suffix.lstrip('.') or 'file'}")


def _enough_lines(text: str, where: str) -> None:
    """Refuse a LAMMPS dump that says more atoms than it has lines: ASE would go on to look for them."""
    most, lines = max(map(int, _LAMMPS_ATOMS.findall(text)), default=0), text.count("\n")
    if most > lines:
        what = f"says {most} atoms, and has {lines} lines"
        raise DataError(what, where=where, hint="the file is truncated or damaged")


def _stops_early(read: int, kind: str, started: int, where: str) -> DataError:
    return DataError(
        f"ASE reads {read} frames of {kind}, {started} begin in the file",
        where=where,
        hint="the last one is truncated, or the reader stops early: convert it to extended XYZ",
    )


def _frames_begun(kind: str, text: str) -> int:
    """How many frames begin in a file of a text format; 0 where that is not known."""
    if kind == "gromacs":  # a title, the number of atoms n, n lines, the box
        lines = [line for line in text.split("\n") if line.strip()]
        n = lines[1].split()[0] if len(lines) > 1 else ""
        return -(-len(lines) // (int(n[:9]) + 3)) if n.isascii() and n.isdigit() else 0
    return len(re.findall(_FRAME_STARTS[kind], text, re.MULTILINE)) if kind in _FRAME_STARTS else 0


def _ase_format(name: str, data: bytes) -> str:
    """The format as ASE tells it, from the name and the first bytes."""
    from ase.io.formats import filetype

    class Named(io.BytesIO):
        pass

    stream = Named(data[:100_000])
    stream.name = name  # type: ignore[attr-defined]
    return filetype(stream)  # type: ignore[arg-type]


def _unknown_format(path: Path, data: bytes) -> DataError:
    line = data[:60].split(b"\n")[0].decode("utf-8", errors="replace").rstrip("\r")
    shown = f"it begins with '{line}'" if line.isprintable() and "\ufffd" not in line else "it is binary"
    return DataError(
        f"cannot be read as structures: not a format that equimd or ASE knows ({shown})",
        where=str(path),
        hint="npz (MD17, rMD17), .aselmdb, QM9, equimd's HDF5 store, extended XYZ, or a file ase.io.read takes",
    )


def _reason(error: BaseException, kind: str) -> tuple[str]:
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyError) and str(error).strip("'\"") in (*ISOTOPES, "X"):
        return (f"ASE's reader of {kind} does not know the element {error}",)
    return (f"ASE cannot read it as {kind} ({type(error).__name__}: {lines[0][:200] if lines else 'no reason given'})",)


def _hint(error: BaseException, kind: str) -> str:
    if isinstance(error, ImportError):
        return "install what it names, or convert the file to extended XYZ"
    if isinstance(error, KeyError) and str(error).strip("'\"") in ISOTOPES:
        return "write H, or use extended XYZ, where D and T are read as hydrogen with their masses"
    if isinstance(error, EOFError | StopIteration | IndexError):
        return "it ends early, or its layout is another one: compare it with its original, or convert it"
    return f"is it {kind}? Name it by its format (.xyz, .cif, POSCAR ...), or convert it to extended XYZ"


def check_image(atoms: Atoms, where: str, *, cell: bool = True) -> None:
    """Refuse what no model can answer for; with ``cell``, also cells, which our own xyz reader has looked at.

    Raises:
        DataError: no atoms, dummy atoms, positions that are not finite, or a cell without volume.
    """
    if not len(atoms):
        raise DataError("a frame without atoms", where=where)
    refuse_dummies(atoms.numbers, where)
    bad = ~np.isfinite(atoms.positions).all(1)
    if bad.any():
        raise DataError("positions are NaN or infinite", where=f"{where}, atom {int(np.argmax(bad))}")
    if cell and (atoms.cell.any() or atoms.pbc.any()):
        periodic_cells(np.asarray(atoms.cell)[None], np.asarray(atoms.pbc)[None], where)
