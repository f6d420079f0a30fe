"""The formats of frames that are read at once: each is one entry of one table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from equimd.data.readers.raw import Raw, ReadOptions
from equimd.registry import Registry


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
        "deepmd": Reader("equimd.data.readers.deepmd:read_deepmd"),
        "asedb": Reader("equimd.data.readers.asedb:read_asedb"),
        "ase": Reader("equimd.data.readers.atoms:read_atoms"),
    },
)


def recognized(path: Path, head: bytes) -> str | None:
    """The name of the first reader that recognizes a path, None without one."""
    asked = ((name, reader.recognizes) for name, reader in READERS.items())
    return next((name for name, recognizes in asked if recognizes is not None and recognizes(path, head)), None)
