"""NumPy archives: MD17, MD22 and CCSD(T) (sGDML), rMD17, padded multi-composition files, QM9 exports."""

from __future__ import annotations

import ast
import hashlib
import io
import math
import struct
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Literal

import numpy as np

from equimd.data.memory import free_memory
from equimd.data.paths import read_bytes, regular_file
from equimd.data.readers.columns import to_frames
from equimd.data.readers.raw import Raw, ReadOptions
from equimd.errors import DataError

Labels = Literal["revised", "md17", "none"]
_DAMAGED = "the file is truncated or damaged: fetch it again and compare its size or checksum"
#: Deflate packs a thousandfold at most; headers that NumPy writes are far below this.
_MAX_RATIO, _MAX_HEADER = 1200, 10_000
_ERRORS = (
    zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, TypeError, KeyError, IndexError, SyntaxError,
    NotImplementedError, RuntimeError, RecursionError, MemoryError, OverflowError, struct.error, AttributeError,
    AssertionError,
)  # fmt: skip
_TEXT = ("name", "theory", "license", "citation", "type")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz, never unpickling anything, and none larger than its header and the file allow.

    Raises:
        DataError: truncated, damaged, or holding pickled objects.
    """
    arrays: dict[str, np.ndarray] = {}
    regular_file(path)
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            _check_sizes(members, path)
            for member in members:
                with archive.open(member) as stream:
                    array = _read_array(stream, member.filename, member.file_size, path)
                if array is not None:
                    arrays[member.filename.removesuffix(".npy")] = array
    except PermissionError as error:
        raise DataError("no permission to read it", where=str(path)) from error
    except _ERRORS as error:
        raise DataError(f"not a readable npz ({_reason(error)})", where=str(path), hint=_DAMAGED) from error
    if not arrays:
        raise DataError("not an npz: a zip file without arrays", where=str(path))
    return arrays


def embedded_md5(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum that an sGDML file carries of its own arrays, see :func:`sgdml_md5`; empty where there is none."""
    return _text(arrays["md5"]).removeprefix("b'").removesuffix("'") if "md5" in arrays else ""


def _check_sizes(members: list[zipfile.ZipInfo], path: Path) -> None:
    """Refuse what unpacks to more than deflate can have packed: made to fill the memory."""
    size, claimed, free = path.stat().st_size, sum(m.file_size for m in members), free_memory()
    if claimed > _MAX_RATIO * size + (1 << 20):
        raise ValueError(f"its arrays claim {claimed:.3g} bytes in a file of {size}")
    if claimed > free // 2:
        raise DataError(f"unpacks to {claimed / 1e9:.1f} GB, {free / 1e9:.1f} GB of memory are free", where=str(path))
    names = [m.filename for m in members]
    if any(name.endswith("data.pkl") for name in names):
        raise DataError(
            "a PyTorch file, which holds pickled Python objects that could run code", where=str(path),
            hint="save plain arrays instead: numpy.savez(file, E=..., F=..., R=..., z=...)",
        )  # fmt: skip
    if len(set(names)) != len(names):
        raise ValueError("two arrays of one name")


def load_array(path: Path) -> np.ndarray:
    """The array of an npy file, never unpickling anything.

    Raises:
        DataError: truncated, damaged, or holding pickled objects.
    """
    data = read_bytes(path)
    try:
        array = _read_array(io.BytesIO(data), path.name, len(data), path)
    except _ERRORS as error:
        raise DataError(f"not a readable npy ({_reason(error)})", where=str(path), hint=_DAMAGED) from error
    if array is None:
        raise DataError("not an npy file", where=str(path), hint=_DAMAGED)
    return array


def _reason(error: BaseException) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _read_array(stream: IO[bytes], name: str, size: int, path: Path) -> np.ndarray | None:
    """The array in ``size`` bytes; None where they are none, as other files in a zip are."""
    npy = np.lib.format
    if stream.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
        return None
    version = tuple(stream.read(2))
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"'{name}' has an unknown header version {version}")
    width = 2 if version == (1, 0) else 4
    length = int.from_bytes(stream.read(width), "little")
    if length > min(size, _MAX_HEADER):
        raise ValueError(f"'{name}' has a header of {length} bytes")
    shape, order, dtype = _header(stream.read(length).decode("latin-1" if version != (3, 0) else "utf-8"))
    if dtype.hasobject:
        raise DataError(
            "it holds pickled Python objects, which could run code",
            where=str(path),
            hint="save it again as plain arrays: numpy.savez(file, E=..., F=..., R=..., z=...)",
        )
    count = math.prod(shape)
    if count * dtype.itemsize != size - len(npy.MAGIC_PREFIX) - 2 - width - length:
        raise ValueError(f"'{name}' claims the shape {shape}, its data are of another size")
    flat = np.frombuffer(bytearray(stream.read(count * dtype.itemsize)), dtype, count)
    return flat.reshape(shape, order="F" if order else "C")


def _header(text: str) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Shape, Fortran order and type that the header of an array states."""
    found = ast.literal_eval(text.strip())
    if not isinstance(found, dict) or set(found) != {"descr", "fortran_order", "shape"}:
        raise ValueError("an array's header is none")
    shape, order = found["shape"], found["fortran_order"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape) or type(order) is not bool:
        raise ValueError("an array's header states no shape")
    return shape, order, np.lib.format.descr_to_dtype(found["descr"])


def sgdml_md5(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum that sGDML embeds: MD5 over the MD5 digests of raveled z, R, E, F, in this order."""
    total = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key in arrays:
            total.update(hashlib.md5(arrays[key].ravel().tobytes(), usedforsecurity=False).digest())
    return total.hexdigest()


def read_npz(path: Path, options: ReadOptions) -> Raw:
    """Read an npz of frames; ``labels`` "md17" takes the original labels that rMD17 files carry along.

    Raises:
        DataError: damaged, columns missing or inconsistent, NaN, wrong embedded checksum, or labels it lacks.
    """
    arrays, where, labels, keys = load_arrays(path), str(path), options.labels, options.keys
    extra = _texts(arrays)
    if "md5" in arrays and {"R", "z"} <= set(arrays):
        _verify(arrays, where)
        extra["md5_verified"] = True
    revised = {"nuclear_charges", "coords"} <= set(arrays)
    if labels == "md17":
        arrays = _original_labels(arrays, where)
    elif labels not in ("revised", "none"):
        raise DataError(f"unknown labels '{labels}'", where=where, hint="labels is 'revised', 'md17' or 'none'")
    if revised and "old_energies" in arrays:
        extra["labels"] = labels
    columns = to_frames(arrays, where, keys)
    extra["columns"], extra["notes"] = columns.names, list(columns.notes)
    if "pbc" not in columns.names and columns.block.pbc.any():
        extra["notes"] = [*columns.notes, f"'{columns.names['cell']}' is there: the frames are periodic"]
    return Raw(
        columns.block,
        _format(arrays, revised),
        where,
        energy_unit=_unit(arrays, "e_unit"),
        length_unit=_unit(arrays, "r_unit"),
        trajectory=_per_frame(arrays, "trajectory", len(columns.block)),
        time_index=_per_frame(arrays, "old_indices", len(columns.block)),
        extra=extra,
    )


def _format(arrays: Mapping[str, np.ndarray], revised: bool) -> str:
    if revised:
        return "npz-rmd17"
    if {"E", "R", "z"} <= set(arrays):
        return "npz-sgdml" if arrays["z"].ndim == 1 else "npz-padded"
    return "npz"


def _original_labels(arrays: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
    """``arrays`` with the old labels in place of the revised ones."""
    if "old_energies" not in arrays or "old_forces" not in arrays:
        raise DataError(
            "it has no original MD17 labels (old_energies, old_forces)",
            where=where,
            hint="leave out --labels md17: only rMD17 files carry both",
        )
    return {**arrays, "energies": arrays["old_energies"], "forces": arrays["old_forces"]}


def _verify(arrays: Mapping[str, np.ndarray], where: str) -> None:
    """Compare the embedded checksum.

    Raises:
        DataError: it differs from that of the arrays.
    """
    embedded, actual = embedded_md5(arrays), sgdml_md5(arrays)
    if embedded and embedded != actual:
        raise DataError(
            f"the embedded md5 is {embedded}, the data have {actual}",
            where=where,
            hint="the arrays were changed or damaged after the file was made: fetch it again",
        )


def _text(array: np.ndarray) -> str:
    value = np.asarray(array).ravel()[:1]
    if not value.size:
        return ""
    item = value[0]
    return item.decode(errors="replace") if isinstance(item, bytes) else str(item)


def _texts(arrays: Mapping[str, np.ndarray]) -> dict[str, object]:
    return {k: _text(arrays[k]) for k in _TEXT if k in arrays and arrays[k].dtype.kind in "SU" and arrays[k].size == 1}


def _unit(arrays: Mapping[str, np.ndarray], key: str) -> str | None:
    """A unit the archive states (sGDML's e_unit, r_unit), if it is one we know."""
    from equimd.errors import ConfigError
    from equimd.units import ENERGY_UNITS, LENGTH_UNITS, canonical_unit

    if key not in arrays:
        return None
    try:
        return canonical_unit(_text(arrays[key]), ENERGY_UNITS if key == "e_unit" else LENGTH_UNITS)
    except ConfigError:
        return None


def _per_frame(arrays: Mapping[str, np.ndarray], key: str, n_frames: int) -> np.ndarray | None:
    array = arrays.get(key)
    usable = array is not None and array.shape == (n_frames,) and array.dtype.kind in "iu"
    return array if usable else None
