"""Paths that a user names: what is there, can be read to its end, and can be read as text."""

from __future__ import annotations

import codecs
import difflib
import glob
import os
import re
import stat
from pathlib import Path

from equimd.data.memory import free_memory
from equimd.errors import DataError
from equimd.shown import counted

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_SELECTION = re.compile(r"(.+)@(-?\d{1,15}|(?:-?\d{1,15})?:(?:-?\d{1,15})?(?::(?:-?\d{1,15})?)?)")
_KINDS = {
    stat.S_IFIFO: "a named pipe", stat.S_IFCHR: "a device", stat.S_IFBLK: "a device", stat.S_IFSOCK: "a socket",
}  # fmt: skip


def existing(path: str | Path) -> Path:
    """``path`` with ``~`` expanded, a regular file or a folder.

    Raises:
        DataError: nothing is there (with the nearest name), no permission, or a pipe, device or socket.
    """
    found = Path(path).expanduser() if str(path).startswith("~") else Path(path)
    try:
        mode = os.stat(found).st_mode
    except (FileNotFoundError, NotADirectoryError):
        raise DataError("no such file or folder", where=str(path), hint=_nearest(found) or "check the path") from None
    except (OSError, ValueError) as error:  # a name too long, a loop of links, a null byte, no permission
        text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        shown = str(path) if len(str(path)) < 300 else f"{str(path)[:120]}..."
        raise DataError(f"cannot be opened: {text}", where=shown.replace("\0", "\\0"), hint="check the path") from None
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = _KINDS.get(stat.S_IFMT(mode), "no regular file")
        raise DataError(f"is {kind}, not a file or folder", where=str(path), hint="write the data to a file first")
    return found


def in_order(path: Path) -> tuple[int, str]:
    """Sorts names that differ by a number by it."""
    return len(path.name), path.name


def matching(pattern: str | Path) -> list[Path]:
    """What a pattern with ``*``, ``?`` or ``[...]`` means, in order; nothing for a name that is one of a file, or none.

    Raises:
        DataError: a pattern that nothing matches.
    """
    text = os.path.expanduser(str(pattern))
    if not glob.has_magic(text) or os.path.lexists(text):
        return []
    found = sorted((Path(p) for p in glob.glob(text, recursive=True)), key=lambda p: (str(p.parent), *in_order(p)))
    if not found:
        raise DataError("no file matches", where=str(pattern), hint="check the pattern and the folder")
    return found


def selection(name: str | Path) -> tuple[str, slice | None]:
    """A name and the frames of it that are meant, counted from 0 as in Python: ``md/trajectory.h5md@-1``, ``a@::10``.

    A file that is called so is meant whole.

    Raises:
        DataError: steps of 0.
    """
    text = str(name)
    if (found := _SELECTION.fullmatch(text)) is None or os.path.lexists(text):
        return text, None
    path, at = found.groups()
    if ":" not in at:
        return path, slice(int(at), int(at) + 1 or None)
    parts = [int(part) if part else None for part in at.split(":")]
    if parts[2:] == [0]:
        raise DataError("frames in steps of 0", where=text, hint="such as @::10")
    return path, slice(*parts)


def selected(chosen: slice, count: int, where: str) -> range:
    """The rows of ``count`` frames that a selection means.

    Raises:
        DataError: none of them.
    """
    rows = range(count)[chosen]
    if not rows:
        what = f"has {counted(count, 'frame')}, and none of them is meant"
        raise DataError(what, where=where, hint="frames are counted from 0; the last one is @-1")
    return rows


def regular_file(path: str | Path) -> Path:
    """:func:`existing`, and a file.

    Raises:
        DataError: as :func:`existing`, or a folder.
    """
    found = existing(path)
    if found.is_dir():
        raise DataError("is a folder, not a file", where=str(path), hint="give the file in it")
    return found


def _nearest(path: Path) -> str | None:
    """The name in the same folder that is closest to a missing one."""
    try:
        if not path.parent.is_dir():
            return f"the folder {path.parent} does not exist either"
        close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    except (OSError, ValueError):
        return None
    return f"did you mean {path.parent / close[0]}?" if close else None


def read_bytes(path: str | Path) -> bytes:
    """All bytes of a regular file.

    Raises:
        DataError: it is none, or cannot be read.
    """
    found = regular_file(path)
    try:
        size, free = found.stat().st_size, free_memory()
        if size > free // 4:  # as text, words and numbers it takes several times its size
            raise DataError(
                f"has {size / 1e9:.1f} GB, and {free / 1e9:.1f} GB of memory are free", where=str(path),
                hint="convert it in parts to .h5 stores, which are read as needed",
            )  # fmt: skip
        return found.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None


def decode(data: bytes, *, where: str) -> str:
    """Text in UTF-8, UTF-16 or UTF-32 (told by a byte order mark, or by its zero bytes), else in Latin-1.

    Raises:
        DataError: zero bytes that belong to no text encoding.
    """
    encoding = next((name for mark, name in _BOMS if data.startswith(mark)), None)
    if encoding is None and b"\0" in data[:4096]:
        even, odd = data[:4096:2].count(0), data[1:4096:2].count(0)
        encoding = "utf-16-le" if odd > 4 * even else "utf-16-be" if even > 4 * odd else None
        if encoding is None:
            raise DataError("is binary, not text", where=where)
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        if encoding is not None:
            raise DataError(
                f"is not the {encoding} its first bytes say ({error.reason})", where=where, hint="save it as UTF-8"
            ) from None
    return data.decode("latin-1")  # numbers and symbols are ASCII; only a name in a comment is at stake


def read_text(path: str | Path) -> str:
    """All text of a file, see :func:`decode`."""
    return decode(read_bytes(path), where=str(path))
