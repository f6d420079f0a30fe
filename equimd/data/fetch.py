"""Download data sets: resumed where a connection broke, verified, and never half-written under their own name."""

from __future__ import annotations

import http.client
import os
import shutil
import socket
import tarfile
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from email.message import Message
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from equimd.data.catalogue import RemoteFile
from equimd.data.readers.npz import embedded_md5, load_arrays, sgdml_md5
from equimd.errors import DataError, MachineError
from equimd.files import file_digest, replacing_folder

Progress = Callable[[str, int, int], None]
_CHUNK = 1 << 18
OFFLINE = ", or a machine with a network and its folder copied here (--to); frames of `bundled` need none"


def said(error: object) -> str:
    """Why there is no answer, in words."""
    reason = getattr(error, "reason", error)
    if isinstance(reason, socket.gaierror):
        return f"no network, or no such host ({reason.strerror})"
    return str(getattr(reason, "strerror", None) or reason)


class _KeepTokenHome(urllib.request.HTTPRedirectHandler):
    """Follow redirects, but send the user's token to no other host than the one it is meant for."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        if new is not None and urlsplit(newurl)[:2] != urlsplit(req.full_url)[:2]:
            new.remove_header("Authorization")
        return new


def open_url(url: str, headers: dict[str, str] | None = None, timeout: float = 30.0) -> http.client.HTTPResponse:
    """Open ``url``. Raises what urllib raises; a token in ``headers`` stays with the host it was sent to."""
    request = urllib.request.Request(url, headers={"User-Agent": "equimd", **(headers or {})})
    response: http.client.HTTPResponse = urllib.request.build_opener(_KeepTokenHome).open(request, timeout=timeout)
    return response


def download(
    file: RemoteFile,
    folder: Path,
    *,
    token: str | None = None,
    progress: Progress | None = None,
    retries: int = 4,
    timeout: float = 30.0,
) -> Path:
    """Download one file into ``folder``; a file that is there already and verifies is not fetched again.

    The data is written to ``NAME.part`` and renamed when complete and verified. A broken connection is taken up
    where it broke, here ``retries`` times in a row without progress, later by calling again.

    Args:
        progress: called with (name, bytes so far, bytes in all or 0 where the server does not say).

    Raises:
        MachineError: the network failed; what was downloaded is kept.
        DataError: the server has no such file or refuses it, or what came is not what the checksum says.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / file.name
    if target.exists():
        try:
            verify(file, target)
            return target
        except DataError:
            pass  # an older or damaged copy: fetched again and replaced
    part = target.with_name(target.name + ".part")
    resumed = part.exists() and part.stat().st_size > 0
    with _Lock(part):
        _fill(file, part, token, progress, retries, timeout)
        try:
            verify(file, part)
        except DataError:
            part.unlink()
            if not resumed:
                raise
            _fill(file, part, token, progress, retries, timeout)  # the leftover may be of another version of the file
            try:
                verify(file, part)
            except DataError:
                part.unlink()
                raise
        os.replace(part, target)
    return target


class _Lock:
    """Keep two processes from writing to one part file; the lock goes with the process that holds it."""

    def __init__(self, part: Path) -> None:
        self._path = part.with_name(part.name + ".lock")
        self._handle: IO[bytes] | None = None

    def __enter__(self) -> None:
        import fcntl

        self._handle = open(self._path, "wb")
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._handle.close()
            raise MachineError("another process is downloading this file", where=str(self._path)) from None

    def __exit__(self, *_: object) -> None:
        self._path.unlink(missing_ok=True)
        if self._handle is not None:
            self._handle.close()


def _fill(
    file: RemoteFile, part: Path, token: str | None, progress: Progress | None, retries: int, timeout: float
) -> None:
    """Bring ``part`` to the full length the server states."""
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            if _transfer(file, part, before, token, progress, timeout):
                return
            reason: object = "the connection closed early"
        except urllib.error.HTTPError as error:
            if error.code == 416 and before:  # the part is as long as the file, or longer than it
                if _total_of(error.headers) == before:
                    return
                part.unlink()
                continue
            if error.code < 500 and error.code not in (408, 429):
                raise _refused(file, error) from error
            reason = f"HTTP {error.code} {error.reason}"
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.filename is not None:  # the disk, not the network
                raise
            reason = error
        now = part.stat().st_size if part.exists() else 0
        failures = 0 if now > before else failures + 1
        if failures >= retries:
            kept = f"; {now:,} bytes are kept" if now else ""
            hint = "the same command later" + (": it goes on where it stopped" if now else OFFLINE)
            raise MachineError(f"download failed: {said(reason)}{kept}", where=file.url, hint=hint)


def _transfer(
    file: RemoteFile, part: Path, have: int, token: str | None, progress: Progress | None, timeout: float
) -> bool:
    """One request, from byte ``have`` on if the server can. True when all bytes the server announced have arrived."""
    headers = {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    with open_url(file.url, headers, timeout) as response:
        resumed = response.status == 206 and _start_of(response.headers) == have
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else file.size
        done = start
        with _open_part(part, "ab" if resumed else "wb") as out:
            while chunk := response.read(_CHUNK):
                out.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(file.name, done, total)
    return done >= total if total else True


def _open_part(part: Path, mode: str) -> IO[bytes]:
    return open(part, mode)


def _start_of(headers: Message) -> int:
    """First byte of a `Content-Range: bytes 5-9/10`, -1 if absent."""
    text = headers.get("Content-Range", "")
    try:
        return int(text.split()[1].split("-")[0])
    except (IndexError, ValueError):
        return -1


def _total_of(headers: Message) -> int:
    tail = headers.get("Content-Range", "").rpartition("/")[2]
    return int(tail) if tail.isdigit() else -1


def _refused(file: RemoteFile, error: urllib.error.HTTPError) -> DataError:
    hint = None
    if error.code in (401, 403):
        hint = "a token that may read it (HF_TOKEN for Hugging Face), once its terms are accepted on its page"
    return DataError(f"the server answered {error.code} {error.reason}", where=file.url, hint=hint)


def verify(file: RemoteFile, path: Path) -> None:
    """Check a downloaded file against its checksum, or the MD5 that sGDML files carry.

    Raises:
        DataError: it is not the file that was published.
    """
    if file.checksum:
        kind, _, expected = file.checksum.partition(":")
        found = file_digest(path, kind)
        if found != expected:
            raise DataError(
                f"wrong {kind}: {found}, published is {expected}",
                where=file.url,
                hint="fetch again; if it repeats, the file on the server has changed or the connection alters it",
            )
    if file.unpack == "zip" and not zipfile.is_zipfile(path):
        raise DataError("not a zip archive", where=file.url)
    if file.sgdml and not file.unpack:
        verify_sgdml(path)


def verify_sgdml(path: Path) -> bool:
    """Check the MD5 an sGDML npz carries of its own arrays (z, R, E, F). False where it carries none.

    Raises:
        DataError: not an npz file, or the arrays are not those the MD5 was made of.
    """
    try:
        arrays = load_arrays(path)
    except DataError as error:
        raise DataError(f"not a complete npz file: {error.what}", where=str(path)) from error
    expected, found = embedded_md5(arrays), sgdml_md5(arrays)
    if not expected:
        return False
    if found != expected:
        raise DataError(f"its arrays have MD5 {found}, the file says {expected}", where=str(path))
    return True


def unpack(file: RemoteFile, archive: Path) -> Path:
    """Unpack an archive beside it, into a folder of its name without endings; done once.

    Raises:
        DataError: the archive is broken, or an sGDML file in it is.
    """
    folder = archive.with_name(archive.name.split(".")[0])
    if folder.is_dir():
        return folder
    try:
        with replacing_folder(folder) as work:
            if file.unpack == "zip":
                _unzip(archive, work)
            else:
                with tarfile.open(archive) as tar:
                    _untar(tar, work)
            if file.sgdml:
                for path in sorted(work.rglob("*.npz")):
                    verify_sgdml(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"broken archive: {error}", where=str(archive), hint="delete it and fetch again") from error
    return folder


def _untar(tar: tarfile.TarFile, work: Path) -> None:
    """All of it, nothing outside ``work``.

    Raises:
        tarfile.TarError: a member that would be.
    """
    if hasattr(tarfile, "data_filter"):
        tar.extractall(work, filter="data")
        return
    # Python before 3.11.4 has no filters: plain files and folders below the work folder, nothing else
    for member in tar.getmembers():
        inside = work.resolve() in (work / member.name).resolve().parents or member.name in (".", "./")
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"'{member.name}' does not belong in an archive of data")
    tar.extractall(work)


def _unzip(archive: Path, work: Path) -> None:
    """The npz files of a zip, flat: published zips also hold what a Mac puts into them."""
    with zipfile.ZipFile(archive) as zipped:
        for member in zipped.infolist():
            name = Path(member.filename).name
            if member.filename.startswith("__MACOSX") or not name.endswith(".npz"):
                continue
            with zipped.open(member) as source, open(work / name, "wb") as out:
                shutil.copyfileobj(source, out)


def fetch_files(
    files: tuple[RemoteFile, ...], folder: Path, *, token: str | None = None, progress: Progress | None = None
) -> list[Path]:
    """Download and unpack ``files``; returns what to open: the files, or the folders of the archives' contents."""
    out = []
    for file in files:
        path = download(file, folder, token=token, progress=progress)
        if not file.unpack:
            out.append(path)
            continue
        unpacked = unpack(file, path)
        out.extend(sorted(unpacked.glob("*.npz")) or [unpacked])
    return out
