"""Files: written whole or not at all, tensors and JSON in them, digests, and the folder of what can be made again."""

from __future__ import annotations

import atexit
import functools
import hashlib
import json
import logging
import math
import os
import platform
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from equimd.errors import DataError, EquimdError, RunError

if TYPE_CHECKING:
    from torch import Tensor

D = TypeVar("D")

TENSORS_VERSION = 1


def check_output(
    path: str | Path,
    overwrite: bool = False,
    *,
    made: tuple[str, str] | None = None,
    resume: str = "",
    option: str = "--out",
    reads: Iterable[str | Path] = (),
) -> None:
    """Refuse, before any work, an output that cannot be written or that would replace what another run made.

    Args:
        made: of a folder: what such a folder holds, in a word, and the file in it that tells. Another folder with
            something in it is never replaced.
        resume: the command that goes on with what is there.
        option: that names the output; empty where its place is given.
        reads: what is read to make it. A folder that holds some of it is not replaced.

    Raises:
        DataError: of a file. RunError: of a folder.
    """
    path = Path(path)
    error, what = (DataError, "the output file exists") if made is None else (RunError, f"holds another {made[0]}")
    other = f"another {option}" if option else ""
    if path.exists() and path.is_dir() != (made is not None):
        raise error(f"is a {'file, not a folder' if made else 'folder, not a file'}", where=str(path), hint=other)
    if path.exists() and (made is None or any(path.iterdir())):
        if made is not None and not (path / made[1]).exists():
            raise error("the output folder is not empty", where=str(path), hint=other)
        if not overwrite:
            ways = [way for way in (other, "--overwrite", resume and f"go on with it: {resume}") if way]
            hint = ", or ".join([", ".join(ways[:-1]), ways[-1]]) if ways[1:] else ways[0]
            raise error(what, where=str(path), hint=hint)
        if made is not None and Path.cwd().is_relative_to(path.resolve()):
            raise error("would be replaced, and is the current folder or above it", where=str(path), hint=other)
        for name in reads if made else ():
            if Path(name).resolve().is_relative_to(path.resolve()):
                raise error(f"would be replaced, and {name} is read from it", where=str(path), hint=other)
    check_writable(path if made else path.absolute().parent, error, other)


def check_writable(folder: str | Path, error: type[EquimdError] = RunError, hint: str = "") -> None:
    """Raise unless files can be written in ``folder``, or it can be made."""
    first = Path(folder).absolute()
    place = next(p for p in (first, *first.parents) if p.exists())
    if not place.is_dir():
        raise error("is a file, not a folder", where=str(place), hint=hint)
    if not os.access(place, os.W_OK | os.X_OK):
        raise error("may not be written to", where=str(place), hint=hint)


def new_folder(path: str | Path) -> Path:
    """An empty folder; what stands in it, which :func:`check_output` let pass, is removed."""
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    if there := list(path.iterdir()):
        old = _beside(path)
        old.mkdir()
        for each in there:  # the folder itself stays: it may be locked
            each.rename(old / each.name)
        shutil.rmtree(old)
    return path


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A path beside ``path`` to write a file to, which takes its place when the block ends without an error.

    A reader, or a crash, sees the old file or the new, never a part.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside ``path``, which takes its place, whatever was there, when the block ends without an error."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = _beside(path)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


_HERE = hashlib.sha256(platform.node().encode()).hexdigest()[:4]  # numbers of processes are those of one machine
_swept: set[Path] = set()


def _beside(path: Path) -> Path:
    """A name of this process alone, after what killed processes left in the folder has been removed, once."""
    folder = path.parent.absolute()
    if folder not in _swept:
        _swept.add(folder)
        for left in folder.glob(f".*.{_HERE}-*-*.part"):
            number = left.name.rsplit("-", 2)[1]
            if number.isdecimal() and not _lives(int(number)):
                shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
    return path.with_name(
        f".{os.fsdecode(os.fsencode(path.name)[:150])}.{_HERE}-{os.getpid()}-{secrets.token_hex(4)}.part"
    )


def _lives(number: int) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


@contextmanager
def locked(folder: str | Path, *, wait: bool = False) -> Iterator[None]:
    """Let one process at a time work in a folder, which it makes if need be; where the file system knows no locks, any.

    Raises:
        RunError: another process is at work there, and it is not to be waited for.
    """
    try:
        import fcntl
    except ImportError:  # not on Windows
        yield
        return
    made = not Path(folder).exists()
    Path(folder).mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)  # of the folder itself: a crash leaves nothing behind
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            what = "another process is at work in this folder"
            raise RunError(what, where=str(folder), hint="wait until it has ended, or another folder") from None
        except OSError:
            pass
        yield
    finally:
        os.close(handle)
        with suppress(OSError):
            if made:
                os.rmdir(folder)  # if nothing was done in it


def write_atomic(path: str | Path, content: bytes | str) -> None:
    """Write a file so that a reader, or a crash, sees the old content or the new, never a part."""
    with replacing(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def plain(value: Any) -> Any:
    """``value`` in JSON's own types: arrays as lists, paths as text, NaN and infinities as null.

    Raises:
        TypeError: JSON has nothing for it.
    """
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # NumPy and torch arrays and scalars
        return plain(value.tolist())
    raise TypeError(f"{type(value).__name__} cannot be written as JSON")


def write_json(path: str | Path, value: Any, indent: int | None = 2) -> None:
    """Write ``value`` as JSON, whole or not at all; what is not a finite number becomes null."""
    write_atomic(path, json.dumps(plain(value), indent=indent, allow_nan=False) + "\n")


def save_tensors(path: str | Path, tensors: Mapping[str, Tensor], meta: Mapping[str, Any], kind: str) -> str:
    """Write tensors and JSON metadata as one safetensors file; returns the sha256 of names, shapes and values."""
    from safetensors.torch import save

    stored = {name: t.detach().to("cpu").contiguous().clone() for name, t in tensors.items()}
    digest = tensor_digest(stored)
    header = {"kind": kind, "version": TENSORS_VERSION, "sha256": digest, **meta}
    write_atomic(path, save(stored, metadata={"equimd": json.dumps(header)}))
    return digest


#: What Python raises on values that are not what a file should hold.
STRANGE = (ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError, RecursionError, MemoryError)


@contextmanager
def understood(path: str | Path, *more: type[Exception], hint: str | None = None) -> Iterator[None]:
    """Turn what reading a damaged or hostile file raises into a RunError; ``more`` are further kinds of it."""
    try:
        yield
    except STRANGE + (OSError,) + more as error:
        reason = str(error).strip() or type(error).__name__
        what = f"cannot be read ({reason.splitlines()[0][:200]})"
        raise RunError(what, where=str(path), hint=hint) from None


def typed(cls: type[D], values: Mapping[str, Any]) -> D:
    """A dataclass from plain values, as JSON gives them back: each of its field's type.

    Raises:
        ValueError: one is missing, or of another type.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validate_python(dict(values))


def strictly(cls: type[D], values: Mapping[str, Any]) -> D:
    """The same without conversions, so that what a dictionary in it holds can be used as it is: "1" is no number.

    Raises:
        ValueError: a value is missing, or of another type.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(cls).validate_json(json.dumps(dict(values)), strict=True)


def check_version(found: object, newest: int, path: str | Path, what: str) -> None:
    """Raise RunError for a format version that is none, or newer than ``newest``."""
    if not isinstance(found, int) or found > newest:
        text = f"{what} has format version {str(found)[:40]}, this equimd reads up to {newest}"
        raise RunError(text, where=str(path), hint="update equimd")


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and metadata written by :func:`save_tensors`.

    Raises:
        RunError: missing, truncated or altered, of another kind, or of a newer format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise RunError("there is no such file", where=str(path))
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("equimd", "null"))
            if not isinstance(header, dict) or header.get("kind") != kind:
                raise RunError(f"is not an equimd {kind}", where=str(path))
            check_version(header["version"], TENSORS_VERSION, path, kind)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, *STRANGE) as error:
        raise RunError(
            f"{kind} is truncated or damaged ({error})", where=str(path), hint="use a copy, or train again"
        ) from None
    if tensor_digest(tensors) != header.get("sha256"):
        raise RunError(
            f"{kind} is damaged: its contents do not match its own checksum", where=str(path), hint="use a copy"
        )
    return tensors, header


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 over names, types, shapes and values."""
    import torch

    digest = hashlib.sha256()
    for name in sorted(tensors):
        t = tensors[name].detach().to("cpu").contiguous()
        digest.update(f"{name} {t.dtype} {tuple(t.shape)};".encode())
        digest.update(t.reshape(-1).view(torch.uint8).numpy().tobytes() if t.numel() else b"")
    return digest.hexdigest()


def sha256_of(parts: Iterable[bytes | str]) -> str:
    """SHA-256, in hex, of the parts one after the other."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else part)
    return digest.hexdigest()


def file_digest(path: str | Path, kind: str = "sha256") -> str:
    """Checksum of a file, in hex."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, kind).hexdigest()


def cache_folder() -> Path:
    """Where what can be fetched or made again is kept: $EQUIMD_CACHE, else equimd in $XDG_CACHE_HOME or ~/.cache."""
    own = os.environ.get("EQUIMD_CACHE")
    if own:
        return Path(own).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "equimd"


def cache_place(name: str) -> Path:
    """A folder of the cache, to read or make; where the cache may not be written to, one that ends with the program."""
    there = cache_folder() / name
    if not there.exists():
        try:
            check_writable(there)
        except RunError as error:
            return _passing_cache(f"{error.where} {error.what}") / name
    return there


@functools.cache
def _passing_cache(why: str) -> Path:
    folder = tempfile.TemporaryDirectory(prefix="equimd-cache-")
    atexit.register(folder.cleanup)
    logging.getLogger("equimd").warning("%s: what is compiled lasts as long as this program", why)
    return Path(folder.name)


def versions(packages: Iterable[str] = ("equimd", "torch", "e3nn", "numpy")) -> dict[str, str]:
    """Versions of what a result depends on, Python's first."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "unknown"
    return found
