"""Two real processes that train together: the result of one, to rounding."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from equimd.errors import ConfigError
from equimd.files import load_tensors
from equimd.run import Run
from equimd.training.parallel import LAUNCHED, Processes
from tests.training.member import CUT
from tests.training.test_training import go_on, start
from tests.training.toy import option_list, toy_config, toy_file

# batches of 5 frames of 2 or 3 atoms over two processes, the last batch of 3: every part is uneven
WHOLE = {"splits": (33, 7, 0), "batch_size_train": 5, "num_epochs": 3, "lr": 1e-2, "dtype": "float64", "grad_clip": 0.3}
WHOLE |= {"weight_decay": 1e-2, "ema_decay": 0.9, "batch_size_inference": 3}
# batches of 3 and one of 1, of which the second process has no frame
COMPILED = {"splits": (7, 4, 0), "subset_size": 11, "batch_size_train": 3, "num_epochs": 2, "dtype": "float64"}
# batches of up to 13 atoms, of 4 to 6 frames
ATOMS = WHOLE | {"max_atoms_per_batch": 13}
SMALL = COMPILED | {"forces": "direct", "loss": "mse", "lr_schedule": "plateau"}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "mixed.xyz", mixed=True)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory, data: Path) -> tuple[Path, list[list[dict[str, Any]]]]:
    """The folder of runs that two processes made, and what each process said of each."""
    folder = tmp_path_factory.mktemp("two")
    trainer = start(toy_config(data, **WHOLE), folder / "begun")
    one_step = trainer._one_step

    def cut(batch: Any) -> None:
        one_step(batch)
        if trainer.progress.step == CUT:
            signal.raise_signal(signal.SIGINT)

    trainer._one_step = cut  # type: ignore[method-assign]
    assert trainer.fit() == "interrupted"
    words = ["train", "--data", str(data), "--energy-unit", "eV"]
    whole, small, compiled = option_list(**WHOLE), option_list(**SMALL), option_list(**COMPILED, compile="on")
    commands = [
        [*words, *whole, "--out", str(folder / "whole")],
        [*words, *small, "--out", str(folder / "small")],
        [*words, *compiled, "--out", str(folder / "compiled")],
        [*words, *whole, "--out", str(folder / "cut")],
        ["train", "--resume", str(folder / "begun")],
        [*words, *whole, "--out", str(folder / "whole")],
        [*words, *option_list(**ATOMS), "--out", str(folder / "atoms")],
    ]
    (folder / "commands.json").write_text(json.dumps(commands))
    run_together(folder, 2)
    return folder, [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


def run_together(folder: Path, size: int) -> None:
    """Processes with the environment that torchrun gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    try:
        for rank in range(size):
            values = dict(zip(LAUNCHED, (str(rank), str(size), "127.0.0.1", str(port)), strict=True))
            command = [sys.executable, "-m", "tests.training.member", str(folder)]
            root = Path(__file__).parents[2]
            started.append(subprocess.Popen(command, env={**os.environ, **values}, cwd=root, stderr=subprocess.PIPE))
        for process in started:
            _, err = process.communicate(timeout=1200)
            assert process.returncode == 0, err.decode()
    finally:
        for process in started:
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """The folder of the same runs by one process."""
    folder = tmp_path_factory.mktemp("one")
    for name, options in (("whole", WHOLE), ("atoms", ATOMS), ("small", SMALL), ("compiled", COMPILED)):
        assert start(toy_config(data, **options), folder / name).fit() == "completed"
    return folder


def assert_same(a: Path, b: Path) -> None:
    for name in ("model", "last"):
        first, second = (load_tensors(run / f"{name}.safetensors", "model")[0] for run in (a, b))
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-9, atol=1e-12, msg=key)


def table(run: Path) -> np.ndarray:
    with (run / "metrics.csv").open() as file:
        return np.array([[float(v or 0) for k, v in row.items() if k != "time_s"] for row in csv.DictReader(file)])


@pytest.mark.parametrize("name", ["whole", "atoms", "small", "compiled"])
def test_two_processes_end_where_one_does(told: tuple[Path, Any], alone: Path, name: str) -> None:
    folder, _ = told
    assert_same(alone / name, folder / name)
    np.testing.assert_allclose(table(folder / name), table(alone / name), rtol=1e-6)  # 7 digits are written
    a, b = (Run.open(f / name).info for f in (folder, alone))
    assert {k: a[k] for k in ("status", "epochs", "steps", "best_epoch", "data")} == {
        k: b[k] for k in ("status", "epochs", "steps", "best_epoch", "data")
    }


def test_the_first_process_alone_speaks(told: tuple[Path, Any]) -> None:
    _, (first, second) = told
    assert "eager, 2 processes" in first[0]["err"] and "compiled, 2 processes" in first[2]["err"]
    assert "epoch 3/3" in first[0]["err"]
    assert [r["out"] + r["err"] for r in second] == [""] * 7
    # a command line that cannot work is refused once, and nobody waits for ever
    assert [r["code"] for r in first] == [0, 0, 0, 130, 0, 2, 0]
    assert [r["code"] for r in second] == [0] * 7
    assert "holds another run" in first[5]["err"]


def test_a_signal_to_any_process_stops_all_and_one_alone_goes_on(
    told: tuple[Path, Any], alone: Path, tmp_path: Path
) -> None:
    folder, (first, _) = told
    assert f"equimd train --resume {folder / 'cut'}" in first[3]["err"]
    run = shutil.copytree(folder / "cut", tmp_path / "cut")
    assert Run.open(run).info["status"] == "interrupted"
    trainer = go_on(run)
    assert trainer.progress.step == CUT
    assert trainer.fit() == "completed"
    assert_same(alone / "whole", run)


def test_two_processes_go_on_with_what_one_began(told: tuple[Path, Any], alone: Path) -> None:
    folder, _ = told
    assert_same(alone / "whole", folder / "begun")
    np.testing.assert_allclose(table(folder / "begun"), table(alone / "whole"), rtol=1e-6)


def test_every_frame_is_in_one_part() -> None:
    batches = [np.arange(5), np.arange(5, 8), np.array([8])]
    found = [Processes(rank, 3).parts(batches) for rank in range(3)]
    for k, batch in enumerate(batches):
        own = [parts[k] for parts in found]
        assert sorted(np.concatenate(own)) == batch.tolist()
        assert max(map(len, own)) - min(map(len, own)) <= 1
    assert Processes().parts(batches)[1].tolist() == batches[1].tolist()


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    last = Processes(rank=3, size=4, local_rank=1, local_size=2)
    assert last.device(cpu) == cpu
    assert last.device(cuda) == torch.device("cuda", 1) == chosen[0]
    assert Processes().device(cuda) == cuda
    with pytest.raises(ConfigError, match="one GPU for 2 processes"):
        last.device(torch.device("cuda", 0))
    with pytest.raises(ConfigError, match="3 processes and 2 GPUs"):
        Processes(rank=1, size=3, local_rank=1, local_size=3).device(cuda)
