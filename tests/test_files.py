"""Files on the ground floor: whole or not at all, what JSON takes, digests, the cache folder."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path

import numpy as np
import pytest
import torch

from equimd.errors import RunError
from equimd.files import (
    cache_folder,
    file_digest,
    locked,
    plain,
    replacing,
    replacing_folder,
    sha256_of,
    tensor_digest,
    write_atomic,
    write_json,
)


def test_an_interrupted_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.json"
    write_atomic(path, json.dumps([1]))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, json.dumps([2]))
    assert json.loads(path.read_text()) == [1]
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def _interrupted(writing: AbstractContextManager[Path], inside: str = "") -> None:
    with writing as temporary:
        (temporary / inside).write_text("half")
        raise KeyboardInterrupt


def test_a_file_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with replacing(path) as temporary:
        temporary.write_text("old")
        assert not path.exists()
    with pytest.raises(KeyboardInterrupt):
        _interrupted(replacing(path))
    assert path.read_text() == "old"
    assert os.listdir(path.parent) == ["a.txt"]
    os.umask(mask := os.umask(0))
    assert path.stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("made", ["replacing", "replacing_folder"])
def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path: Path, made: str) -> None:
    code = (
        f"import os, signal\nfrom equimd.files import {made}\n"
        f"with {made}({str(tmp_path / 'a')!r}) as left:\n"
        "    (left / 'x' if left.is_dir() else left).write_text('half')\n    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] != []
    (tmp_path / ".b.part").write_text("of a user")
    write_atomic(tmp_path / "c", "next")
    assert sorted(os.listdir(tmp_path)) == [".b.part", "c"]


def test_one_process_at_a_time_works_in_a_folder(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "run"),
        pytest.raises(RunError, match="another process is at work"),
        locked(tmp_path / "run"),
    ):
        pass
    with locked(tmp_path / "run"):
        assert not os.listdir(tmp_path / "run")


def test_two_writers_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with replacing(path) as first, replacing(path) as second:
        first.write_text("first")
        second.write_text("second")
    assert (path.read_text(), os.listdir(tmp_path)) == ("first", ["a.txt"])


def test_a_folder_takes_the_place_of_another_when_it_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with replacing_folder(path) as made:
        (made / "a").write_text("old")
    with pytest.raises(KeyboardInterrupt):
        _interrupted(replacing_folder(path), "b")
    assert os.listdir(path) == ["a"]
    with replacing_folder(path) as made:
        (made / "b").write_text("new")
    assert (os.listdir(path), os.listdir(tmp_path)) == (["b"], ["folder"])


def test_json_takes_arrays_and_paths_and_no_nan(tmp_path: Path) -> None:
    content = {
        1: (np.float32(1.5), np.array([np.nan, 2.0])),
        "p": tmp_path,
        "t": torch.tensor([1, 2]),
        "i": float("inf"),
    }
    assert plain(content) == {"1": [1.5, [None, 2.0]], "p": str(tmp_path), "t": [1, 2], "i": None}
    write_json(tmp_path / "a.json", content)
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == plain(content)
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        plain([object()])


def test_digests_of_parts_and_of_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256_of(["a", b"bc"]) == file_digest(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()
    assert file_digest(tmp_path / "a", "md5") == hashlib.md5(b"abc").hexdigest()


def test_the_checksum_sees_names_types_and_values() -> None:
    base = {"a": torch.arange(4.0), "b": torch.zeros(())}
    digests = {
        tensor_digest(base),
        tensor_digest({**base, "a": torch.arange(4.0).reshape(2, 2)}),
        tensor_digest({**base, "a": torch.from_numpy(np.arange(4))}),
        tensor_digest({**base, "b": torch.ones(())}),
        tensor_digest({"a": base["a"], "c": base["b"]}),
    }
    assert len(digests) == 5


def test_the_cache_folder_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("EQUIMD_CACHE", raising=False)
    assert cache_folder() == tmp_path / "equimd"
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"
