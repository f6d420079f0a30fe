"""Workers: the protocol of JSON lines, what fails and how, and a real step of equimd's own worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from equimd.benchmarks import options
from equimd.benchmarks.speed import peer_workers
from equimd.benchmarks.speed.peer_workers import Worker, WorkerError, prepared
from equimd.errors import ConfigError, DataError

TOY = """
import sys
sys.path.insert(0, {peers!r})
from worker import PeerTask, serve
print("chatter on import")

def count(frames, task):
    print("chatter on standard output")
    total = []
    def step():
        total.append(sum(range(2000)))
        if task.get("breaks") and len(total) > 1:
            raise ValueError("no more steps\\nsecond line")
    return PeerTask(step, task["batch"], f"toy of {{len(frames.numbers)}} atoms", 7)

def die(frames, task):
    import os
    os._exit(3)

serve({{"count": count, "die": die}}, ("numpy",))
"""


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """A file as rMD17 has it: five frames of three atoms."""
    rng = np.random.default_rng(0)
    positions = rng.normal(size=(5, 3, 3))
    path = tmp_path / "frames.npz"
    energies = rng.normal(size=5)
    np.savez(path, nuclear_charges=np.array([8, 1, 1]), coords=positions, energies=energies, forces=0 * positions)
    return path


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frames: Path):
    """Start the worker ``equimd`` as a script of the test's own."""
    folder = tmp_path / "peers"
    folder.mkdir()
    (folder / "run_equimd.py").write_text(TOY.format(peers=str(peer_workers.FOLDER)))
    monkeypatch.setattr(peer_workers, "FOLDER", folder)

    def task(what: str = "count", **more: object) -> dict:
        return {"worker": "equimd", "what": what, "data": str(frames), "batch": 4, "threads": 1, **more}

    return task


def test_a_worker_prepares_measures_and_keeps_quiet(toy, tmp_path: Path) -> None:
    log = tmp_path / "logs" / "toy.log"
    with Worker("equimd", 1, log) as worker:
        about = worker.ask("prepare", task=toy())
        assert (about["model"], about["parameters"], about["frames"]) == ("toy of 3 atoms", 7, 4)
        assert set(about["versions"]) == {"numpy", "torch"}
        found = worker.ask("measure", seconds=0.02)
        assert found["steps"] > 1 and found["wall_s"] >= 0.02 and 0 <= found["cpu_s"]
        memory = worker.ask("memory", steps=2)
        assert 0 < memory["steps_MiB"] <= memory["process_MiB"] + 1
    assert b"chatter" in log.read_bytes()


def test_a_worker_says_what_went_wrong_and_goes_on(toy, tmp_path: Path) -> None:
    with Worker("equimd", 1, tmp_path / "log") as worker:
        with pytest.raises(WorkerError, match="nothing was prepared"):
            worker.ask("measure", seconds=0.1)
        with pytest.raises(WorkerError, match="cannot do 'fly'"):
            worker.ask("prepare", task=toy("fly"))
        worker.ask("prepare", task=toy(breaks=True))
        with pytest.raises(WorkerError, match=r"ValueError: no more steps\n"):
            worker.ask("measure", seconds=0.1)
        assert worker.ask("prepare", task=toy())["frames"] == 4


def test_those_that_fail_are_left_out(toy, tmp_path: Path) -> None:
    listed = [("a", toy()), ("b", toy("die")), ("c", {**toy(), "worker": "mace"})]
    with prepared(listed, 1, tmp_path) as (alive, about, failed):
        assert set(alive) == {"a"} == set(about)
        assert "exit code 3" in failed["b"]
        assert alive["a"].ask("measure", seconds=0.0)["steps"] == 1


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No peers are installed."""
    monkeypatch.setenv("EQUIMD_CACHE", str(tmp_path / "cache"))


def test_peers_are_found_once_they_are_finished(tmp_path: Path) -> None:
    folder = tmp_path / "cache" / "peers" / "nequip"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    with pytest.raises(ConfigError, match="nequip is not installed"):
        options.peer_python("nequip")
    assert options.installed_peers() == ()
    (folder / "versions.txt").write_text("nequip==1\n")
    assert options.installed_peers() == ("nequip",)
    with pytest.raises(ConfigError, match="unknown peer"):
        options.peer_python("gpaw")


def test_data_files_are_found_in_folders_and_the_missing_are_named(tmp_path: Path) -> None:
    (tmp_path / "rmd17").mkdir()
    for part in ("train", "test"):
        (tmp_path / "rmd17" / f"rmd17_ethanol_{part}_03.npz").touch()
    train, test = options.rmd17_files((tmp_path,), "ethanol", "03")
    assert (train.name, test.name) == ("rmd17_ethanol_train_03.npz", "rmd17_ethanol_test_03.npz")
    with pytest.raises(DataError, match="equimd data fetch rmd17 ethanol --split 04"):
        options.rmd17_files((tmp_path,), "ethanol", "04")
    with pytest.raises(DataError, match="no such folder"):
        options.data_folders(tmp_path / "nowhere")


def test_equimd_makes_steps_of_dynamics(shared_data: Path, tmp_path: Path) -> None:
    data = shared_data / "rmd17" / "rmd17_ethanol_train_01.npz"
    task = {"worker": "equimd", "what": "md", "data": str(data), "batch": 2, "threads": 1, "compile": "off"}
    with Worker("equimd", 1, tmp_path / "log") as worker:
        about = worker.ask("prepare", task=task)
        assert about["frames"] == 2 and about["parameters"] > 1e5
        assert worker.ask("measure", seconds=0.05)["steps"] >= 1
