"""NumPy archives: MD17, MD22 and CCSD(T) (sGDML), rMD17, padded multi-composition files, QM9 exports."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from equimd.data.readers.columns import to_frames
from equimd.data.readers.raw import Raw
from equimd.errors import DataError

Labels = Literal["revised", "md17"]
_DAMAGED = "the file is truncated or damaged: fetch it again and compare its size or checksum"
_TEXT = ("name", "theory", "license", "citation", "type")


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an npz, never unpickling anything.

    Raises:
        DataError: truncated, damaged, or holding pickled objects.
    """
    arrays = {}
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if not hasattr(archive, "files"):
                raise DataError("a single array, not an archive of named arrays", where=str(path))
            for key in archive.files:
                arrays[key] = archive[key]
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise DataError(
                "it holds pickled Python objects, which could run code",
                where=str(path),
                hint="save it again as plain arrays: numpy.savez(file, E=..., F=..., R=..., z=...)",
            ) from error
        raise DataError(f"not a readable npz ({error})", where=str(path), hint=_DAMAGED) from error
    except (zipfile.BadZipFile, EOFError, zlib.error, KeyError, OSError, NotImplementedError) as error:
        if isinstance(error, PermissionError):
            raise DataError("no permission to read it", where=str(path)) from error
        raise DataError(f"not a readable npz ({error})", where=str(path), hint=_DAMAGED) from error
    return arrays


def embedded_md5(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum that an sGDML file carries of its own arrays, see :func:`sgdml_md5`; empty where there is none."""
    return _text(arrays["md5"]).removeprefix("b'").removesuffix("'") if "md5" in arrays else ""


def sgdml_md5(arrays: Mapping[str, np.ndarray]) -> str:
    """The checksum that sGDML embeds: MD5 over the MD5 digests of raveled z, R, E, F, in this order."""
    total = hashlib.md5(usedforsecurity=False)
    for key in ("z", "R", "E", "F"):
        if key in arrays:
            total.update(hashlib.md5(arrays[key].ravel().tobytes(), usedforsecurity=False).digest())
    return total.hexdigest()


def read_npz(path: Path, labels: Labels = "revised") -> Raw:
    """Read an npz of frames; ``labels='md17'`` takes the original labels that rMD17 files carry along.

    Raises:
        DataError: damaged, columns missing or inconsistent, NaN, wrong embedded checksum, or labels it lacks.
    """
    arrays, where = load_arrays(path), str(path)
    extra = _texts(arrays)
    if "md5" in arrays and {"R", "z"} <= set(arrays):
        _verify(arrays, where)
        extra["md5_verified"] = True
    revised = {"nuclear_charges", "coords"} <= set(arrays)
    if labels == "md17":
        arrays = _original_labels(arrays, where)
    elif labels != "revised":
        raise DataError(f"unknown labels '{labels}'", where=where, hint="labels is 'revised' or 'md17'")
    if revised and "old_energies" in arrays:
        extra["labels"] = labels
    columns = to_frames(arrays, where)
    extra["columns"] = columns.names
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
