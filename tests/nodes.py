"""``python -m tests.nodes [--out FOLDER]``: a training on two machines of two processes each, one of which is lost.

The machines are network namespaces with a cable between them, so it takes root and ``ip`` (iproute2); some six minutes.

1. 21 steps in float64 by four processes on two machines: the losses and weights of one process, but for rounding.
2. One machine is killed in the middle of a longer training: the other one ends by itself; one process, and three on two
   machines, go on from the checkpoint to the weights of a training that was left alone.
3. A process is stopped (SIGSTOP): within minutes it is named, with its machine; let go on, all end as if nothing was.
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from equimd.files import load_tensors
from equimd.run import Run
from equimd.training.stalls import PATIENCE
from tests.kills.harness import ROOT, Trial
from tests.kills.table import save
from tests.training.toy import option_list, toy_file

HOSTS = {"equimd-a": "10.77.0.1", "equimd-b": "10.77.0.2"}
A, B = HOSTS
PORT, LIMIT = 29511, 600.0
ENDS = 60.0  # seconds in which a machine ends that has lost another
SAME, NEAR = 1e-9, 1e-6  # relative, of weights after 21 and after 280 steps
SETTINGS = {
    "splits": (33, 7, 0), "batch_size_train": 5, "num_epochs": 3, "lr": 1e-2, "dtype": "float64", "ema_decay": 0.9,
    "checkpoint_interval": 1.0,
}  # fmt: skip
LONG = SETTINGS | {"num_epochs": 40, "lr": 1e-3}  # what rounding does grows tenfold in ten epochs


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True)


@contextmanager
def two_machines() -> Iterator[None]:
    """Two network namespaces that see each other and nothing else."""
    made = []
    try:
        for name in HOSTS:
            _ip(f"netns add {name}")
            made.append(name)
        _ip(f"link add cable netns {A} type veth peer name cable netns {B}")
        for name, address in HOSTS.items():
            _ip(f"-n {name} addr add {address}/24 dev cable")
            for device in ("cable", "lo"):
                _ip(f"-n {name} link set {device} up")
        yield
    finally:
        for name in made:
            for pid in pids(name):
                os.kill(pid, signal.SIGKILL)
            _ip(f"netns del {name}")


def pids(name: str) -> list[int]:
    """Of all processes on a machine."""
    found = subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True, check=True)
    return [int(word) for word in found.stdout.split()]


class Together:
    """``equimd WORDS`` by torchrun on both machines."""

    def __init__(self, words: Sequence[str], folder: Path, sizes: tuple[int, int] = (2, 2)) -> None:
        self.logs = [folder / f"{name}.log" for name in HOSTS]
        self.started = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "cable", "PYTHONPATH": str(ROOT)}
        for rank, (name, size, log) in enumerate(zip(HOSTS, sizes, self.logs, strict=True)):
            launch = (
                f"--nnodes 2 --node-rank {rank} --nproc-per-node {size} --master-addr {HOSTS[A]} --master-port {PORT}"
            )
            command = ["ip", "netns", "exec", name, sys.executable, "-m", "torch.distributed.run", *launch.split()]
            with log.open("w") as file:
                self.started.append(
                    subprocess.Popen([*command, "-m", "equimd.cli", *words], cwd=folder, env=environment, stderr=file)
                )

    def ended(self, limit: float = LIMIT) -> list[int]:
        return [process.wait(timeout=limit) for process in self.started]

    @property
    def said(self) -> str:
        """By both machines."""
        return "".join(log.read_text() for log in self.logs)


def alone(words: Sequence[str], folder: Path) -> int:
    """``equimd WORDS`` in one process; returns its exit code."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "equimd.cli", *words]
    return subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL, env=environment).returncode


def difference(a: Path, b: Path) -> float:
    """The largest of all weights of two runs, relative to the largest weight of its tensor."""
    if Run.open(a).info["status"] != "completed":
        return float("inf")
    first, second = (load_tensors(run / "model.safetensors", "model")[0] for run in (a, b))
    pairs = [(first[k], x) for k, x in second.items() if torch.is_floating_point(x) and x.numel()]
    return max(float((y - x).abs().max() / x.abs().max().clamp(min=1e-30)) for y, x in pairs)


def losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def until(condition: Callable[[], bool], what: str, limit: float = LIMIT) -> float:
    """Wait; returns the seconds that took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > limit:
            raise TimeoutError(what)
        time.sleep(0.2)
    return time.monotonic() - began


def epochs(run: Path) -> int:
    """Written down so far."""
    path = run / "metrics.csv"
    begun = path.is_file() and (run / "checkpoint").is_dir() and any((run / "checkpoint").iterdir())
    return len(path.read_text().splitlines()) - 1 if begun else 0


def same_steps(folder: Path, words: list[str]) -> Trial:
    told = [*words, *option_list(**SETTINGS)]
    trial = Trial("nodes", "train", 0)
    if alone([*told, "--out", "one"], folder) or any(Together([*told, "--out", "four"], folder).ended()):
        trial.wrong.append("a training failed")
        return trial
    apart = difference(folder / "four", folder / "one")
    rows = max(abs(x / y - 1) for x, y in zip(losses(folder / "four"), losses(folder / "one"), strict=True))
    print(f"two machines of two processes against one process: losses {rows:.1e}, weights {apart:.1e}, relative")
    if apart > SAME or rows > 1e-6:  # seven digits are written
        trial.wrong.append(f"weights differ by {apart:.1e}, losses by {rows:.1e}")
    return trial


def lost_machine(folder: Path, words: list[str]) -> Trial:
    told, trial = [*words, *option_list(**LONG)], Trial("node", "train", 0)
    alone([*told, "--out", "long"], folder)
    both = Together([*told, "--out", "cut"], folder)
    until(lambda: epochs(folder / "cut") >= 15, "epochs")
    for pid in pids(B):
        os.kill(pid, signal.SIGKILL)
    trial.moment = until(lambda: both.started[0].poll() is not None, "the end of the other machine")
    code = both.started[0].returncode
    done = epochs(folder / "cut")
    print(f"one machine lost after {done} epochs: the other ended {trial.moment:.1f} s later, exit code {code}")
    if trial.moment > ENDS or code == 0:
        trial.wrong.append(f"ended after {trial.moment:.0f} s with exit code {code}")
    if "another process of this training ended" not in both.said:
        trial.wrong.append("it did not say why")
    for name in ("by-one", "by-three"):
        shutil.copytree(folder / "cut", folder / name)
    codes = [alone(["train", "--resume", "by-one"], folder)]
    codes += Together(["train", "--resume", "by-three"], folder, (2, 1)).ended()
    apart = [difference(folder / name, folder / "long") for name in ("by-one", "by-three")]
    print(f"gone on with by one process, and by three on two machines: weights {apart[0]:.1e}, {apart[1]:.1e} apart")
    if any(codes) or max(apart) > NEAR:
        trial.wrong.append(f"exit codes {codes}, weights {apart} apart")
    return trial


def stopped_process(folder: Path, words: list[str]) -> Trial:
    trial = Trial("stall", "train", 0)
    both = Together([*words, *option_list(**LONG), "--out", "stalled"], folder)
    until(lambda: epochs(folder / "stalled") >= 15, "epochs")
    last = pids(B)[-1]
    os.kill(last, signal.SIGSTOP)
    trial.moment = until(lambda: "this training has waited" in both.said, "a word on the process that was stopped")
    sentence = next(line for line in both.said.splitlines() if "this training has waited" in line)
    print(f"a stopped process was named after {trial.moment:.0f} s: {sentence}")
    if trial.moment > 2 * PATIENCE or "stopped or out of reach" not in both.said:
        trial.wrong.append(f"named after {trial.moment:.0f} s")
    os.kill(last, signal.SIGCONT)
    codes, apart = both.ended(), difference(folder / "stalled", folder / "long")
    print(f"let go on: exit codes {codes}, weights {apart:.1e} apart")
    if any(codes) or apart > NEAR:
        trial.wrong.append(f"exit codes {codes}, weights {apart:.1e} apart")
    return trial


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.nodes", description=__doc__)
    parser.add_argument("--out", type=Path, help="folder of reliability.json, which takes the counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="equimd-nodes-") as made, two_machines():
        folder = Path(made)
        words = ["train", "--data", str(toy_file(folder / "mixed.xyz", mixed=True)), "--energy-unit", "eV"]
        trials = [trial(folder, words) for trial in (same_steps, lost_machine, stopped_process)]
    if options.out:
        save(trials, options.out, "python -m tests.nodes")
    for t in trials:
        for wrong in t.wrong:
            print(f"{t.fault}: {wrong}")
    return 1 if any(t.wrong for t in trials) else 0


if __name__ == "__main__":
    sys.exit(main())
