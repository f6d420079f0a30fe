"""Downloads against a local server that breaks, lies or cannot resume."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from equimd.data import fetch_omol25
from equimd.data.catalogue import RemoteFile
from equimd.data.fetch import download, fetch_files, open_url, verify_sgdml
from equimd.errors import DataError, MachineError

CONTENT = np.random.default_rng(0).bytes(700_000)


class Server(ThreadingHTTPServer):
    """Serves ``files``; the lists and flags say how it misbehaves. ``requests`` records (path, Range, token)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {"/data.bin": CONTENT}
        self.redirects: dict[str, str] = {}
        self.break_after: list[int] = []
        self.ranges = True
        self.token: str | None = None
        self.requests: list[tuple[str, str | None, str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked, self.headers.get("Authorization")))
        if self.path in self.server.redirects:
            self.send_response(302)
            self.send_header("Location", self.server.redirects[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.server.token and self.headers.get("Authorization") != f"Bearer {self.server.token}":
            self.send_error(401)
            return
        body = self.server.files.get(self.path.partition("?")[0])
        if body is None:
            self.send_error(404)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.server.ranges else 0
        if start and start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        rest = body[start:]
        if self.server.break_after:
            rest = rest[: self.server.break_after.pop(0)]
            self.close_connection = True
        self.wfile.write(rest)


@pytest.fixture
def server() -> Iterator[Server]:
    """A running server on a free port."""
    running = Server()
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()
    thread.join()


def _file(server: Server, **kwargs: object) -> RemoteFile:
    checksum = "sha256:" + hashlib.sha256(CONTENT).hexdigest()
    return RemoteFile(**{"url": server.url + "/data.bin", "name": "data.bin", "checksum": checksum, **kwargs})  # type: ignore[arg-type]


def test_downloads_once_and_reports_progress(server: Server, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    path = download(_file(server), tmp_path, progress=lambda *a: seen.append(a))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == ("data.bin", len(CONTENT), len(CONTENT))
    assert [done for _, done, _ in seen] == sorted({done for _, done, _ in seen})
    assert download(_file(server), tmp_path) == path
    assert len(server.requests) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_broken_connection_is_resumed(server: Server, tmp_path: Path) -> None:
    server.break_after = [300_000, 100_000]
    path = download(_file(server), tmp_path)
    assert path.read_bytes() == CONTENT
    assert [r[1] for r in server.requests] == [None, "bytes=300000-", "bytes=400000-"]


def test_without_range_it_starts_again(server: Server, tmp_path: Path) -> None:
    server.break_after, server.ranges = [300_000], False
    assert download(_file(server), tmp_path).read_bytes() == CONTENT
    assert len(server.requests) == 2


def test_a_connection_that_never_works_keeps_what_came(server: Server, tmp_path: Path) -> None:
    server.break_after = [250_000, 0, 0, 0]
    with pytest.raises(MachineError, match="250,000 bytes are kept"):
        download(_file(server), tmp_path, retries=3)
    assert not (tmp_path / "data.bin").exists()
    assert (tmp_path / "data.bin.part").read_bytes() == CONTENT[:250_000]
    server.requests.clear()
    assert download(_file(server), tmp_path).read_bytes() == CONTENT
    assert [r[1] for r in server.requests] == ["bytes=250000-"]


def test_a_complete_part_is_only_verified(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin.part").write_bytes(CONTENT)
    assert download(_file(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("leftover", [b"x" * 1000, b"x" * (len(CONTENT) + 5)])
def test_a_leftover_of_another_file_is_replaced(server: Server, tmp_path: Path, leftover: bytes) -> None:
    (tmp_path / "data.bin.part").write_bytes(leftover)
    assert download(_file(server), tmp_path).read_bytes() == CONTENT


def test_a_wrong_checksum_is_refused_and_nothing_is_left(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="wrong sha256"):
        download(_file(server, checksum="sha256:" + "0" * 64), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_md5_checksums_work(server: Server, tmp_path: Path) -> None:
    download(_file(server, checksum="md5:" + hashlib.md5(CONTENT).hexdigest()), tmp_path)
    with pytest.raises(DataError, match="wrong md5"):
        download(_file(server, name="other", checksum="md5:" + "0" * 32), tmp_path)


def test_a_damaged_copy_is_fetched_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.bin").write_bytes(b"damaged")
    assert download(_file(server), tmp_path).read_bytes() == CONTENT


def test_a_missing_file_is_a_users_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="404"):
        download(_file(server, url=server.url + "/nothing"), tmp_path)


def test_no_server_is_the_machines_error(tmp_path: Path) -> None:
    with pytest.raises(MachineError, match="download failed"):
        download(RemoteFile("http://127.0.0.1:9/data.bin", "data.bin"), tmp_path, retries=1)


def test_two_downloads_of_one_file_do_not_mix(server: Server, tmp_path: Path) -> None:
    import fcntl

    with open(tmp_path / "data.bin.part.lock", "wb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(MachineError, match="another process"):
            download(_file(server), tmp_path)


def _sgdml(**changes: object) -> bytes:
    arrays = {
        "z": np.array([8, 1, 1], np.uint8), "R": np.random.default_rng(1).normal(size=(4, 3, 3)),
        "E": np.arange(4.0)[:, None], "F": np.zeros((4, 3, 3)),
    }  # fmt: skip
    digests = b"".join(hashlib.md5(arrays[k].ravel().tobytes()).digest() for k in ("z", "R", "E", "F"))
    out = io.BytesIO()
    np.savez(out, **{**arrays, "md5": np.array(hashlib.md5(digests).hexdigest().encode()), **changes})  # type: ignore[arg-type]
    return out.getvalue()


def test_sgdml_files_are_checked_against_their_own_md5(server: Server, tmp_path: Path) -> None:
    server.files = {"/a.npz": _sgdml(), "/b.npz": _sgdml(E=np.ones((4, 1))), "/c.npz": _sgdml()[:-40]}
    assert download(RemoteFile(server.url + "/a.npz", "a.npz", sgdml=True), tmp_path).exists()
    for name, message in (("b", "the file says"), ("c", "not a complete npz")):
        with pytest.raises(DataError, match=message):
            download(RemoteFile(f"{server.url}/{name}.npz", f"{name}.npz", sgdml=True), tmp_path)
        assert not (tmp_path / f"{name}.npz").exists()


def test_the_published_ccsd_file_passes(shared_data: Path) -> None:
    assert verify_sgdml(shared_data / "ccsd" / "ethanol_ccsd_t-train.npz")
    assert not verify_sgdml(shared_data / "md17" / "md17_ethanol_2000.npz")  # carries none


def test_zips_are_unpacked_flat_and_verified(server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as z:
        z.writestr("deep/mol-train.npz", _sgdml())
        z.writestr("__MACOSX/._mol-train.npz", b"junk")
    server.files = {"/mol.zip": packed.getvalue()}
    file = RemoteFile(server.url + "/mol.zip", "mol.zip", sgdml=True, unpack="zip")
    paths = fetch_files((file,), tmp_path)
    assert [p.relative_to(tmp_path).as_posix() for p in paths] == ["mol/mol-train.npz"]
    assert fetch_files((file,), tmp_path) == paths


def test_tars_are_unpacked_into_a_folder(server: Server, tmp_path: Path) -> None:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:bz2") as tar:
        info = tarfile.TarInfo("molecule_1.xyz")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    server.files = {"/q.xyz.tar.bz2": packed.getvalue()}
    paths = fetch_files((RemoteFile(server.url + "/q.xyz.tar.bz2", "q.xyz.tar.bz2", unpack="tar"),), tmp_path)
    assert paths == [tmp_path / "q"]
    assert (tmp_path / "q" / "molecule_1.xyz").read_text() == "abc"


def test_a_broken_archive_leaves_no_folder(server: Server, tmp_path: Path) -> None:
    server.files = {"/q.tar": b"no archive at all"}
    with pytest.raises(DataError, match="broken archive"):
        fetch_files((RemoteFile(server.url + "/q.tar", "q.tar", unpack="tar"),), tmp_path)
    assert not (tmp_path / "q").exists()


def test_the_token_stays_with_its_host(server: Server) -> None:
    other = Server()
    thread = threading.Thread(target=other.serve_forever, daemon=True)
    thread.start()
    server.redirects = {"/away": other.url + "/data.bin", "/here": server.url + "/data.bin"}
    try:
        for path in ("/away", "/here"):
            with open_url(server.url + path, {"Authorization": "Bearer secret"}) as response:
                assert response.read() == CONTENT
    finally:
        other.shutdown()
        other.server_close()
        thread.join()
    assert other.requests == [("/data.bin", None, None)]
    assert server.requests[-1] == ("/data.bin", None, "Bearer secret")


def test_omol25_with_a_token(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = {
        "type": "file", "path": "val/part.bin", "size": len(CONTENT),
        "lfs": {"oid": hashlib.sha256(CONTENT).hexdigest()},
    }  # fmt: skip
    server.files = {
        "/api/models/facebook/OMol25/tree/main": json.dumps([entry, {"type": "directory", "path": "val"}]).encode(),
        "/facebook/OMol25/resolve/main/val/part.bin": CONTENT,
    }
    server.token = "mine"
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    monkeypatch.setenv("HF_TOKEN", "mine")
    assert fetch_omol25.fetch(["part.bin"], tmp_path)[0].read_bytes() == CONTENT
    with pytest.raises(DataError, match="no file other"):
        fetch_omol25.fetch(["other"], tmp_path)
    monkeypatch.setenv("HF_TOKEN", "wrong")
    with pytest.raises(DataError, match="refuses this token"):
        fetch_omol25.list_files("wrong")


def test_omol25_without_a_token_explains_the_gate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with pytest.raises(DataError, match=r"CC-BY-4.0[\s\S]*--from FOLDER"):
        fetch_omol25.user_token()


def test_omol25_from_a_local_folder(shared_data: Path, tmp_path: Path) -> None:
    assert fetch_omol25.local_folder(shared_data / "omol25" / "aselmdb")[1] == 23
    with pytest.raises(DataError, match=r"\.aselmdb"):
        fetch_omol25.local_folder(shared_data / "omol25")
    with pytest.raises(DataError, match="no such folder"):
        fetch_omol25.local_folder(tmp_path / "none")
