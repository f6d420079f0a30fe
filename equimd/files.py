"""Files: written whole or not at all, tensors and JSON in them, digests, and the folder of what can be made again."""

from __future__ import annotations

import hashlib
import json
import math
import os
import platform
import secrets
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from equimd.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

TENSORS_VERSION = 1


@contextmanager
def replacing(path: str | Path, *, alone: bool = False) -> Iterator[Path]:
    """A path beside ``path`` to write a file to, which takes its place when the block ends without an error.

    A reader, or a crash, sees the old file or the new, never a part.

    Args:
        alone: nobody else writes this file. What a crash leaves behind then has the same name each time, and is
            removed by the next call.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{'part' if alone else secrets.token_hex(4)}")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def replacing_folder(path: str | Path) -> Iterator[Path]:
    """A new folder beside ``path``, which takes its place, whatever was there, when the block ends without an error."""
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


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
            if header["version"] > TENSORS_VERSION:
                raise RunError(
                    f"{kind} has format version {header['version']}, this equimd reads up to {TENSORS_VERSION}",
                    where=str(path),
                    hint="update equimd",
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, ValueError, KeyError, OSError) as error:
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
