"""Formats from outside the package: each is one entry of one table, asked before equimd's own are told apart."""

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
        read: the frames of a file or folder, in its own units. Raises DataError for one that is damaged.
        recognizes: whether a path is of this format, from the path and the first 4096 bytes (none of a folder).
    """

    read: Callable[[Path, ReadOptions], Raw]
    recognizes: Callable[[Path, bytes], bool]


READERS: Registry[Reader] = Registry("reader", "READERS", {})


def recognized(path: Path, head: bytes) -> str | None:
    """The name of the first reader that recognizes a path, None without one."""
    return next((name for name, reader in READERS.items() if reader.recognizes(path, head)), None)
