"""LMDB files read without the LMDB library, which maps a file into memory and trusts it: a truncated or damaged one
kills the process with a signal there, and is an error here.

Layout of version 1, 64 bit, little-endian (Howard Chu, "LMDB", and its lmdb.h and mdb.c): pages of one size. A page
begins with its number (8 bytes), 2 bytes of padding, flags (2) and the ends of its table of entries (2, 2), or, of an
overflow page, how many pages it spans (4). The first two pages are meta pages, the newer of which is valid: magic
number, version, address, map size, the free database, the main one, the last page, the transaction. A database is page
size (4), flags (2), depth (2), numbers of branch, leaf and overflow pages and of entries, and the root page. A branch
entry is the number of a page (6 bytes), the size of a key (2) and the key; a leaf entry the size of a value (4), flags
(2), the size of a key (2), the key, and the value or the number of its overflow page.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

from equimd.data.paths import regular_file
from equimd.errors import DataError

MAGIC, VERSION = 0xBEEFC0DE, 1
_BRANCH, _LEAF, _OVERFLOW, _META = 1, 2, 4, 8
_HEADER, _NODE = 16, 8
_BIG, _DUPLICATES = 1, 2 | 4
_NO_PAGE = (1 << 64) - 1
_MAX_DEPTH = 32  # LMDB's own limit
_META_FIELDS = struct.Struct("<II16x")
_DATABASE = struct.Struct("<IHH5Q")
DAMAGED = "the file is truncated or damaged: fetch it again"


class LmdbFile:
    """The main database of an LMDB file, read-only; ``count`` is how many entries it says it has.

    Raises:
        DataError: not a regular file, no LMDB file of this layout, or truncated.
    """

    def __init__(self, path: Path) -> None:
        self.path = regular_file(path)
        try:
            self._file = os.open(self.path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"cannot be read ({error.strerror})", where=str(path)) from error
        try:
            self._size = os.fstat(self._file).st_size
            self._page_size = 0
            first = self._meta(0, 4096)
            self._page_size = first[0]
            metas = [first, self._meta(1, self._page_size)]
            _, self._root, self.count, last, _ = max(metas, key=lambda meta: meta[4])
            needed = (last + 1) * self._page_size
            if self._size < needed:
                raise self._damaged(f"the file has {self._size} bytes, its pages need {needed}")
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the file."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def __del__(self) -> None:
        if getattr(self, "_file", -1) >= 0:
            self.close()

    def _damaged(self, what: str) -> DataError:
        return DataError(f"LMDB: {what}", where=str(self.path), hint=DAMAGED)

    def _read(self, start: int, size: int) -> bytes:
        if start + size > self._size:
            raise self._damaged(f"byte {start + size} of {self._size} is wanted")
        found = os.pread(self._file, size, start)
        if len(found) != size:
            raise self._damaged(f"the file ends at byte {start + len(found)}")
        return found

    def _meta(self, number: int, guess: int) -> tuple[int, int, int, int, int]:
        """Page size, root page, entries, last page and transaction that a meta page states."""
        page = self._read(number * guess, _HEADER + _META_FIELDS.size + 2 * _DATABASE.size + 16)
        flags = int.from_bytes(page[10:12], "little")
        magic, version = _META_FIELDS.unpack_from(page, _HEADER)
        if not flags & _META or magic != MAGIC:
            raise self._damaged(f"page {number} is no meta page of a little-endian file")
        if version != VERSION:
            raise self._damaged(f"version {version}, this reader knows {VERSION}")
        free = _DATABASE.unpack_from(page, _HEADER + _META_FIELDS.size)
        main = _DATABASE.unpack_from(page, _HEADER + _META_FIELDS.size + _DATABASE.size)
        last, transaction = struct.unpack_from("<2Q", page, _HEADER + _META_FIELDS.size + 2 * _DATABASE.size)
        size = free[0]
        if not (512 <= size <= 65536 and size & (size - 1) == 0):
            raise self._damaged(f"pages of {size} bytes")
        return size, main[7], main[6], last, transaction

    def _page(self, number: int) -> bytes:
        page = self._read(number * self._page_size, self._page_size)
        if int.from_bytes(page[:8], "little") != number:
            raise self._damaged(f"page {number} says it is another")
        return page

    def _places(self, page: bytes) -> list[int]:
        """Where the entries of a branch or leaf page start, in the order of their keys."""
        lower = int.from_bytes(page[12:14], "little")
        count = (lower - _HEADER) // 2
        if lower < _HEADER or lower > len(page):
            raise self._damaged("a page's table of entries is out of bounds")
        offsets = list(struct.unpack_from(f"<{count}H", page, _HEADER))
        if any(not lower <= o <= len(page) - _NODE for o in offsets):
            raise self._damaged("an entry is out of its page")
        return offsets

    def _key(self, page: bytes, at: int) -> bytes:
        size = int.from_bytes(page[at + 6 : at + 8], "little")
        if at + _NODE + size > len(page):
            raise self._damaged("a key is out of its page")
        return page[at + _NODE : at + _NODE + size]

    def _child(self, page: bytes, at: int) -> int:
        return int.from_bytes(page[at : at + 6], "little")

    def _value(self, page: bytes, at: int) -> bytes:
        size, flags, key = struct.unpack_from("<IHH", page, at)
        start = at + _NODE + key
        if flags & _DUPLICATES:
            raise self._damaged("a key with several values, or a named database")
        if flags & _BIG:
            number = int.from_bytes(page[start : start + 8], "little")
            return self._read(number * self._page_size + _HEADER, size)
        if start + size > len(page):
            raise self._damaged("a value is out of its page")
        return page[start : start + size]

    def entries(self) -> Iterator[tuple[bytes, int, int]]:
        """Key, page and place in it of all entries, in LMDB's order."""
        seen: set[int] = set()
        stack = [] if self._root == _NO_PAGE else [(self._root, 1)]
        while stack:
            number, depth = stack.pop()
            if number in seen or depth > _MAX_DEPTH:
                raise self._damaged("its tree leads back to itself")
            seen.add(number)
            page = self._page(number)
            kind = int.from_bytes(page[10:12], "little")
            if kind & _LEAF:
                yield from ((self._key(page, at), number, at) for at in self._places(page))
            elif kind & _BRANCH:
                stack += [(self._child(page, at), depth + 1) for at in reversed(self._places(page))]
            else:
                raise self._damaged(f"page {number} is neither branch nor leaf")

    def value(self, page_number: int, place: int) -> bytes:
        """The value of an entry, as :meth:`entries` gives it."""
        return self._value(self._page(page_number), place)
