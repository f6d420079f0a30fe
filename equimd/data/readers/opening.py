"""Open any supported data by content: what the first bytes and the keys say, not what the file is called."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from equimd.data.dataset import ConcatDataset, Dataset, Subset, stated
from equimd.data.paths import decode, existing, in_order, matching, selected, selection
from equimd.data.readers.npz import Labels
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import DataError
from equimd.registry import Registry, imported

_BUNDLED = "bundled:"
_SUPPORTED = (
    "npz (MD17, MD22, rMD17), .aselmdb, QM9, equimd's HDF5 stores and trajectories, DeePMD's npy folders, ASE and "
    "SchNetPack databases, extended XYZ and what ASE reads"
)
_XYZ, _HDF5 = (".xyz", ".extxyz"), (".h5", ".hdf5")
_RUN = "run.json"  # a folder with it is a run, whose frames are training and test frames: no data set


def open_dataset(
    paths: str | Path | Sequence[str | Path],
    *,
    labels: Labels = "revised",
    energy_unit: str | None = None,
    length_unit: str | None = None,
    force_unit: str | None = None,
    energy_key: str | None = None,
    forces_key: str | None = None,
    mask_fixed: bool = False,
    charge: int | None = None,
    spin: int | None = None,
    check_units: bool = True,
) -> Dataset:
    """Open data of any supported format; several files make one data set, in the order given.

    Args:
        paths: a file, a folder (HDF5 or OMol25 shards, QM9 molecules, DeePMD systems, xyz files), a pattern such as
            ``part*.h5``, ``bundled:NAME``, or a list of these; with frames of it, such as
            ``md/trajectory.h5md@::10``, if not all are meant.
        labels: which labels of an rMD17 file, the original ones (``md17``) are there too; ``none`` reads no labels.
        energy_unit, length_unit: what the numbers in the file are in, where it does not say; forces are in
            energy_unit/length_unit. Never needed for files that state their units.
        force_unit: of the forces, where it is not energy_unit/length_unit, such as ``Hartree/Bohr``.
        energy_key, forces_key: the columns to take, where a file holds several that could be meant.
        mask_fixed: atoms that a file holds fixed have no force label, since some programs write zeros there.
        charge, spin: total charge, and multiplicity 2S+1, of frames that state none.
        check_units: refuse files whose units cannot be told. Off: such units are recorded as ``unknown``, the
            numbers are passed on unchanged, and ``info.extra['units_problem']`` says why.

    Returns:
        frames in eV and Angstrom.

    Raises:
        DataError: missing, damaged or inconsistent, or holding several labels of which it is not clear which are meant.
        UnitsError: units contradictory or not to be inferred (``code`` says which).
        ConfigError: an unknown unit name, or a column that is not there.
    """
    given = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not given:
        raise DataError("no data given", hint=f"give one or more of: {_SUPPORTED}")
    options = ReadOptions(labels, energy_unit, length_unit, force_unit, energy_key, forces_key, mask_fixed, check_units)
    from equimd.data.store import share_memory

    found = [(_open_parts(selection(name)[0], options), name) for name in given]
    share_memory(part for parts, _ in found for part in parts)
    parts = [stated(part, charge, spin) for opened, name in found for part in _chosen(opened, name)]
    return parts[0] if len(parts) == 1 else ConcatDataset(parts)


def _open_parts(path: str | Path, options: ReadOptions) -> list[Dataset]:
    """All the files that one name means."""
    return [part for each in resolve(path) for part in _open_one(each, options)]


def _chosen(parts: list[Dataset], name: str | Path) -> list[Dataset]:
    """Of the files of a name, those of their frames that it means."""
    path, chosen = selection(name)
    if chosen is None:
        return parts
    joined = parts[0] if len(parts) == 1 else ConcatDataset(parts)
    return [Subset(joined, selected(chosen, len(joined), path))]


def resolve(path: str | Path) -> list[Path]:
    """The files of a data argument: one, those that a pattern such as ``part*.h5`` means, or those of
    ``bundled:NAME``, the data shipped with equimd.

    Raises:
        DataError: nothing is there.
    """
    if str(path).startswith(_BUNDLED):
        from equimd.data.bundled import paths

        return paths(str(path)[len(_BUNDLED) :])
    return matching(path) or [existing(path)]


def detect(path: Path) -> str:
    """The format of ``path``, by content: a name of ``READERS``, ``xyz_folder``, ``shards``, store or aselmdb.

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
    if head.startswith(b"SQLite format 3\0"):
        return "asedb"
    if head.startswith(b"\x93NUMPY"):
        raise DataError("a single NumPy array, not frames", where=str(path), hint=f"supported: {_SUPPORTED}")
    return "ase"


def _detect_folder(path: Path) -> str:
    try:
        if any(path.glob("*.aselmdb")) or (path / "data.mdb").is_file():
            return "aselmdb"
        if next(path.rglob("type.raw"), None) is not None:
            return "deepmd"
        if shards(path):
            return "shards"
        first = next(iter(xyz_files(path)), None)
        if first is not None:
            return "qm9" if detect(first) == "qm9" else "xyz_folder"
        inside = sorted(p.name for p in path.iterdir())
    except OSError as error:
        raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
    listed = ", ".join(inside[:5]) + (", ..." if len(inside) > 5 else "")
    raise DataError(
        "the folder holds neither .h5 stores, nor .aselmdb shards, nor DeePMD systems (type.raw), nor .xyz or .extxyz "
        "files",
        where=str(path),
        hint=f"give the files themselves{f': {listed}' if inside else ', the folder is empty'}",
    )


def xyz_files(folder: Path) -> list[Path]:
    """The xyz files of a folder, in numeric order where names differ by a number."""
    return _of_endings(folder, _XYZ)


def shards(folder: Path) -> list[Path]:
    """The HDF5 files of a folder, which together are one data set, in the same order."""
    return [] if (folder / _RUN).exists() else _of_endings(folder, _HDF5)


def _of_endings(folder: Path, endings: Collection[str]) -> list[Path]:
    found = [p for p in folder.iterdir() if p.suffix.lower() in endings and p.is_file() and not p.name.startswith(".")]
    return sorted(found, key=in_order)


def _detect_hdf5(path: Path) -> str:
    from equimd.data.readers.h5md import is_trajectory
    from equimd.data.store import is_store

    return "store" if is_store(path) else "h5md" if is_trajectory(path) else "hdf5"


def _is_qm9(head: bytes) -> bool:
    """An atom count, then the GDB-9 comment line: 'gdb 1<tab>157.7...' with 15 numbers."""
    try:
        lines = decode(head[: len(head) // 4 * 4] if len(head) == 4096 else head, where="").splitlines()
    except DataError:
        return False
    return len(lines) > 1 and lines[0].strip().isdigit() and lines[1].split()[:1] == ["gdb"]


def _open_one(path: Path, options: ReadOptions) -> list[Dataset]:
    """One file or folder; a folder of xyz or HDF5 files is as many data sets."""
    kind = detect(path)
    if kind in ("xyz_folder", "shards"):
        files = xyz_files(path) if kind == "xyz_folder" else shards(path)
        return [part for file in files for part in _open_one(file, options)]
    if kind in ("store", "aselmdb"):
        return [_open_lazy(path, kind, options)]
    from equimd.data.readers.raw import to_dataset

    read = imported(READERS[kind].read)
    return [to_dataset(read(path, options), options)]


def _open_lazy(path: Path, kind: str, options: ReadOptions) -> Dataset:
    """Formats that define their units and labels and are read as needed."""
    from equimd.errors import ConfigError, UnitsError
    from equimd.units import energy_factor, force_factor, length_factor

    asked = (options.energy_unit, options.length_unit, options.force_unit)
    factors = (energy_factor, length_factor, force_factor)
    if any(unit is not None and factor(unit) != 1.0 for unit, factor in zip(asked, factors, strict=True)):
        error = UnitsError(
            f"this format is in eV and Angstrom by definition, not in {' and '.join(u for u in asked if u)}",
            where=str(path),
            hint="leave out --energy-unit, --length-unit and --force-unit",
        )
        error.code = "units_mismatch"
        raise error
    for key, name in ((options.energy_key, "energy"), (options.forces_key, "forces")):
        if key is not None and key != name:
            raise ConfigError(
                f"no column '{key}': this format has one energy and one set of forces", where=str(path),
                hint=f"leave out --{name}-key",
            )  # fmt: skip
    if kind == "store":
        from equimd.data.store import StoreDataset

        return StoreDataset(path)
    from equimd.data.readers.omol25 import OMolDataset

    return OMolDataset(path)


@dataclass(frozen=True)
class Reader:
    """A format.

    Attributes:
        read: the frames of a file or folder, in its own units, or DataError; or ``"module:function"``.
        recognizes: whether a path is of this format, from the path and the first 4096 bytes (none of a folder). The
            package's own are told apart in one go, by :func:`equimd.data.readers.opening.detect`.
    """

    read: Callable[[Path, ReadOptions], Raw] | str
    recognizes: Callable[[Path, bytes], bool] | None = None


READERS: Registry[Reader] = Registry(
    "reader",
    "READERS",
    {
        "npz": Reader("equimd.data.readers.npz:read_npz"),
        "qm9": Reader("equimd.data.readers.qm9:read_qm9"),
        "hdf5": Reader("equimd.data.readers.hdf5:read_hdf5"),
        "h5md": Reader("equimd.data.readers.h5md:read_h5md"),
        "deepmd": Reader("equimd.data.readers.deepmd:read_deepmd"),
        "asedb": Reader("equimd.data.readers.asedb:read_asedb"),
        "ase": Reader("equimd.data.readers.atoms:read_atoms"),
    },
)


def recognized(path: Path, head: bytes) -> str | None:
    """The name of the first reader that recognizes a path, None without one."""
    asked = ((name, reader.recognizes) for name, reader in READERS.items())
    return next((name for name, recognizes in asked if recognizes is not None and recognizes(path, head)), None)
