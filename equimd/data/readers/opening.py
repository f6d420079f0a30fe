"""Open any supported data by content: what the first bytes and the keys say, not what the file is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from equimd.data.dataset import ConcatDataset, Dataset
from equimd.data.readers.formats import READERS, ReadOptions, recognized
from equimd.data.readers.npz import Labels
from equimd.errors import DataError

_BUNDLED = "bundled:"
_SUPPORTED = "npz (MD17, MD22, rMD17), .aselmdb, QM9, equimd's HDF5 store, extended XYZ and what ASE reads"


def open_dataset(
    paths: str | Path | Sequence[str | Path],
    *,
    labels: Labels = "revised",
    energy_unit: str | None = None,
    length_unit: str | None = None,
    check_units: bool = True,
) -> Dataset:
    """Open data of any supported format; several files make one data set, in the order given.

    Args:
        paths: a file, a folder (OMol25 shards, QM9 molecules), ``bundled:NAME``, or a list of these.
        labels: which labels of an rMD17 file; the original ones (``md17``) are there too.
        energy_unit, length_unit: what the numbers in the file are in, where it does not say; forces are in
            energy_unit/length_unit. Never needed for files that state their units.
        check_units: refuse files whose units cannot be told. Off: such units are recorded as ``unknown``, the
            numbers are passed on unchanged, and ``info.extra['units_problem']`` says why.

    Returns:
        frames in eV and Angstrom.

    Raises:
        DataError: missing, damaged or inconsistent.
        UnitsError: units contradictory or not to be inferred (``code`` says which).
        ConfigError: an unknown unit name.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise DataError("no data given", hint=f"give one or more of: {_SUPPORTED}")
    units = {"energy_unit": energy_unit, "length_unit": length_unit, "check_units": check_units}
    parts = [_open_one(p, labels, units) for name in given for p in resolve(name)]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def resolve(path: str | Path) -> list[Path]:
    """The files of a data argument: one, or those of ``bundled:NAME``, the data shipped with equimd.

    Raises:
        DataError: nothing is there.
    """
    if str(path).startswith(_BUNDLED):
        from equimd.data.bundled import paths

        return paths(str(path)[len(_BUNDLED) :])
    found = Path(path).expanduser()
    if not found.exists():
        near = _nearest(found)
        raise DataError("no such file or folder", where=str(path), hint=near or "check the path")
    return [found]


def _nearest(path: Path) -> str | None:
    """The name in the same folder that is closest to a missing one."""
    import difflib

    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f"did you mean {path.parent / close[0]}?" if close else None


def detect(path: Path) -> str:
    """The format of ``path``: npz, store, hdf5, aselmdb, qm9 or ase, or a name of ``READERS``, by content.

    Raises:
        DataError: empty, unreadable, or a folder without data.
    """
    if path.is_dir():
        return recognized(path, b"") or _detect_folder(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(4096)
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    if not head:
        raise DataError("the file is empty", where=str(path))
    if own := recognized(path, head):
        return own
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "npz"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return _detect_hdf5(path)
    if head[16:20] in (b"\xde\xc0\xef\xbe", b"\xbe\xef\xc0\xde"):  # LMDB's magic number, after the page header
        return "aselmdb"
    if _is_qm9(head):
        return "qm9"
    if head.startswith(b"\x93NUMPY"):
        raise DataError("a single NumPy array, not frames", where=str(path), hint=f"supported: {_SUPPORTED}")
    return "ase"


def _detect_folder(path: Path) -> str:
    if any(path.glob("*.aselmdb")):
        return "aselmdb"
    if next(path.glob("*.xyz"), None) is not None:
        return "qm9"
    raise DataError(
        "the folder holds neither .aselmdb shards nor QM9 .xyz files", where=str(path), hint="give the files themselves"
    )


def _detect_hdf5(path: Path) -> str:
    from equimd.data.store import is_store

    return "store" if is_store(path) else "hdf5"


def _is_qm9(head: bytes) -> bool:
    """An atom count, then the GDB-9 comment line: 'gdb 1<tab>157.7...' with 15 numbers."""
    lines = head.splitlines()
    return len(lines) > 1 and lines[0].strip().isdigit() and lines[1].split()[:1] == [b"gdb"]


def _open_one(path: Path, labels: Labels, units: dict) -> Dataset:
    """One file or folder."""
    kind = detect(path)
    if kind in ("store", "aselmdb"):
        return _open_lazy(path, kind, units)
    from equimd.data.readers.raw import to_dataset

    if kind in READERS.added:
        raw = READERS[kind].read(path, ReadOptions(labels, **units))
    elif kind == "npz":
        from equimd.data.readers.npz import read_npz

        raw = read_npz(path, labels)
    elif kind == "qm9":
        from equimd.data.readers.qm9 import read_qm9

        raw = read_qm9(path)
    elif kind == "hdf5":
        from equimd.data.readers.hdf5 import read_hdf5

        raw = read_hdf5(path)
    else:
        from equimd.data.readers.atoms import read_atoms

        raw = read_atoms(path)
    return to_dataset(raw, **units)


def _open_lazy(path: Path, kind: str, units: dict) -> Dataset:
    """Formats that define their units and are read as needed."""
    from equimd.errors import UnitsError
    from equimd.units import energy_factor, length_factor

    asked = (units["energy_unit"], units["length_unit"])
    if (asked[0] and energy_factor(asked[0]) != 1.0) or (asked[1] and length_factor(asked[1]) != 1.0):
        error = UnitsError(
            f"this format is in eV and Angstrom by definition, not in {' and '.join(u for u in asked if u)}",
            where=str(path),
            hint="leave out --energy-unit and --length-unit",
        )
        error.code = "units_mismatch"
        raise error
    if kind == "store":
        from equimd.data.store import StoreDataset

        return StoreDataset(path)
    from equimd.data.readers.omol25 import OMolDataset

    return OMolDataset(path)
