"""The environments of the peers: exact versions, one failure does not stop the others, nothing finished is redone."""

from __future__ import annotations

import importlib
import re
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """The script, which imports the set-up script beside it."""
    monkeypatch.syspath_prepend(str(ROOT / ".ci"))
    for name in ("peers", "setup"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    module = importlib.import_module("peers")
    for name in ("peers", "setup"):
        monkeypatch.delitem(sys.modules, name)
    return module


def test_every_peer_pins_every_version_and_leaves_torch_to_make(peers: types.ModuleType) -> None:
    from equimd.benchmarks.options import PEERS

    assert set(peers.CHECKS) == set(PEERS)
    for name in PEERS:
        lines = (peers.REQUIREMENTS / f"{name}.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert len(pins) > 20
        assert all(re.fullmatch(r"[\w.-]+==[\w.]+", pin) for pin in pins), name
        names = {peers.setup.distribution(pin) for pin in pins}
        assert "torch" not in names and not names & set(peers.setup.NEVER)
        assert {"schnetpack": "schnetpack", "nequip": "nequip", "mace": "mace-torch"}[name] in names
        assert (ROOT / "benchmarks" / "peers" / f"run_{name}.py").is_file()


def test_a_failure_is_told_and_the_others_are_made(
    peers: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = []

    def install(peer: str, cache: Path, torch: str, build: str) -> None:
        if peer == "nequip":
            raise peers.setup.SetupError("no route")
        made.append((peer, cache, torch, build))

    monkeypatch.setattr(peers, "install", install)
    monkeypatch.setattr(sys, "argv", ["peers.py", "--cache", str(tmp_path), "--torch", "torch==2.13.0"])
    assert peers.main() == 1
    assert [m[0] for m in made] == ["schnetpack", "mace"] and made[0][1:] == (tmp_path, "torch==2.13.0", "cpu")
    assert "nequip failed: no route" in capsys.readouterr().err
    made.clear()
    monkeypatch.setattr(sys, "argv", ["peers.py", "--cache", str(tmp_path), "mace"])
    assert peers.main() == 0
    assert [m[0] for m in made] == ["mace"]


def test_an_environment_is_finished_only_when_its_versions_are_written(
    peers: types.ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, ...]] = []

    def pip(env: object, *args: str, **_: object) -> None:
        calls.append(args)

    def create(folder: Path, **_: object) -> None:
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").touch()

    monkeypatch.setattr(peers.setup.venv, "create", create)
    monkeypatch.setattr(peers.setup.Environment, "pip", pip)
    monkeypatch.setattr(peers.setup.Environment, "call", lambda *args, **kwargs: None)
    monkeypatch.setattr(
        peers.setup.Environment, "ask", lambda env, code: "b==2\nA==1" if "distributions" in code else ""
    )
    peers.install("mace", tmp_path, "torch==2.13.0", "cpu")
    folder = tmp_path / "peers" / "mace"
    assert (folder / "versions.txt").read_text() == "A==1\nb==2\n"
    assert any("--no-deps" in args and str(peers.REQUIREMENTS / "mace.txt") in args for args in calls)
    calls.clear()
    peers.install("mace", tmp_path, "torch==2.13.0", "cpu")
    assert calls == []
    peers.install("mace", tmp_path, "torch==2.14.0", "cpu")  # another torch: made again
    assert calls != []
