"""Values that no run, no file of settings and no machine should have: refused with what is wrong, found by the fuzz."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from equimd import files
from equimd.cli.main import app
from equimd.errors import ConfigError, RunError
from equimd.plots import read_metrics
from equimd.run import Run
from equimd.tasks import doctor
from equimd.training.checkpoint import load_checkpoint
from tests.fuzz import runs
from tests.golden.saved import SAVED

YAML = {
    "preset: [a]": "unknown preset",
    "data: " + "[" * 1000 + "]" * 1000: "recursion",
    "max_time: .inf": "finite",
    "seed: 1e23": "seed",
    "seed: 100000000000000000000000": "seed",
    "splits: [1e300, 1, 1]": "no number is that large",
    "num_readout: 10000000000000000000": "num_readout",
    "seed: 2001-13-45": "is not YAML",
    "lr: .nan": "finite",
}


@pytest.mark.parametrize("text", list(YAML))
def test_settings_that_cannot_be(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=YAML[text]):
        runs.read_settings(path.rename(tmp_path / "train.yaml"))
    told = CliRunner().invoke(app, ["config", "check", str(tmp_path / "train.yaml")])
    assert (told.exit_code, told.stdout) == (2, "")


def _header(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the metadata of a file of tensors; its checksum is of the tensors."""
    data = path.read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8 : 8 + size])
    meta = json.loads(head["__metadata__"]["equimd"])
    change(meta)
    head["__metadata__"]["equimd"] = json.dumps(meta)
    text = json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + size :])


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(SAVED / "lmax1", tmp_path / "run")


@pytest.mark.parametrize("version", [[1], None, "1", 99, 1e400])
def test_versions_that_are_none(version: object, run: Path) -> None:
    _header(run / "model.safetensors", lambda meta: meta.update(version=version))
    with pytest.raises(RunError, match="has format version"):
        Run.open(run).load_model()
    (run / "run.json").write_text(json.dumps({"version": version}))
    with pytest.raises(RunError, match="has format version"):
        Run.open(run)


@pytest.mark.parametrize("config", [{"num_readout": 10**19}, {"num_features": 10**6}, {"elements": "HO"}, [1], None])
def test_models_that_cannot_be(config: Any, run: Path) -> None:
    def change(meta: dict[str, Any]) -> None:
        meta["config"] = {**meta["config"], **config} if isinstance(config, dict) else config

    _header(run / "model.safetensors", change)
    with pytest.raises(RunError, match="does not fit"):
        Run.open(run).load_model()


@pytest.mark.parametrize("progress", [None, {}, {"epoch": "x"}, {"schedule": 3}, [], {"rows": [1]}])
def test_checkpoints_that_cannot_be(progress: Any, run: Path) -> None:
    path = run / "checkpoint" / "latest.safetensors"
    identity = str(runs.run_identity(path))
    assert load_checkpoint(path, identity).progress.step
    _header(path, lambda meta: meta.update(progress=progress) if progress != {} else meta.pop("progress"))
    with pytest.raises(RunError, match="cannot be read"):
        load_checkpoint(path, identity)


def test_texts_that_are_none(run: Path) -> None:
    (run / "train_hashes.txt").write_bytes(b"\xff\xfe")
    (run / "run.json").write_text("[1]")
    (run / "metrics.csv").write_text("epoch,lr\n1\n2,3,4,,\nx,y\n")
    with pytest.raises(RunError, match="cannot be read"):
        Run(run).hashes("train")
    with pytest.raises(RunError, match="cannot be read"):
        Run.open(run)
    with pytest.raises(Exception, match=r"metrics\.csv"):
        read_metrics(run / "metrics.csv")


@pytest.mark.parametrize(
    "words", ["train --data {}", "train --data {}.xyz --out {}", "simulate {} a.xyz", "predict . {}", "config check {}",
              "data convert bundled:ethanol-test --out {}.h5", "simulate --resume {}", "train --resume {}"],
)  # fmt: skip
def test_names_that_are_too_long(words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, words.format("n" * 300, "n" * 300).split())
    assert told.exit_code == 2 and isinstance(told.exception, SystemExit), told.output


def test_a_cache_that_may_not_be_written_to_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path / "cache"))
    files._passing_cache.cache_clear()
    assert files.cache_place("compiled/a") == tmp_path / "cache" / "compiled" / "a"
    (tmp_path / "cache" / "compiled" / "there").mkdir(parents=True)
    monkeypatch.setattr(os, "access", lambda *_: False)
    first, second = files.cache_place("compiled/a"), files.cache_place("compiled/a")
    assert first == second and not first.is_relative_to(tmp_path)
    assert files.cache_place("compiled/there").is_dir()  # what is there is read
    assert [r.message for r in caplog.records] == [
        f"{tmp_path / 'cache' / 'compiled'} may not be written to: what is compiled lasts as long as this program"
    ]


def test_doctor_says_what_works_and_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "OPTIONAL", {"no_such_package": ("equimd[none]", "nothing")})
    monkeypatch.setattr("equimd.machine.has_compiler", lambda: False)
    told = CliRunner().invoke(app, ["doctor", "--json"])
    found = json.loads(told.stdout)
    states = {part["name"]: part["status"] for part in found["parts"]}
    assert told.exit_code == 0 and found["works"] and found["versions"]["torch"]
    assert states == {
        "system": "ok", "versions": "ok", "threads": "ok", "cpu": "ok", "model": "ok", "laplace": "ok", "files": "ok",
        "cache": "ok", "compiler": "absent", "no_such_package": "absent",
    } | {name: "ok" for name in states if name.startswith("cuda")}  # fmt: skip

    def broken() -> str:
        raise RuntimeError("no such file\nin line 3")

    monkeypatch.setattr(doctor, "_model", broken)
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 1 and "RuntimeError: no such file\n" in told.stdout
