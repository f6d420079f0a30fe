"""A worker: one potential in a process and an environment of its own, asked through lines of JSON.

A request is one line on standard input; its answer is the line on standard output that begins with ANSWER (packages
print to it while they are imported, and to standard error later).

    {"op": "prepare", "task": {...}}     build the model, make the first step; what it took, and what memory was held
    {"op": "measure", "seconds": 2.0}    make steps for so long: their number, CPU and wall time
    {"op": "memory", "steps": 5}         the high-water mark of resident memory, of the process and of these steps
    {"op": "stop"}

An answer that holds "error" says what went wrong. A task: ``what`` (train, md or gemm), ``data`` (an rMD17 npz file),
``molecule``, ``batch`` (frames of a training step, replicas of dynamics), ``threads``, ``cutoff`` in Angstrom,
``seconds`` of warm-up, and what the potential's own worker documents. This file and the workers beside it import
nothing of equimd but in ``run_equimd.py``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

KCAL = 0.0433641042  # eV
DT_FS, COLD_K = 0.5, 1e-4
BATCHES = 8  # different ones, prepared beforehand and cycled through
ANSWER = "answer: "
Step = Callable[[], None]
Predict = Callable[[Any], tuple[Any, Any]]
Builder = Callable[[Any, dict[str, Any]], "PeerTask"]  # frames (None without ``data``) and task


@dataclass(frozen=True)
class PeerFrames:
    """rMD17 frames in eV and Angstrom: numbers (n,), positions (F, n, 3), energies (F,), forces (F, n, 3)."""

    numbers: np.ndarray
    positions: np.ndarray
    energies: np.ndarray
    forces: np.ndarray

    @classmethod
    def read(cls, path: str) -> PeerFrames:
        """The frames of an rMD17 npz file, energies without their mean."""
        with np.load(path) as data:
            energies = data["energies"] - data["energies"].mean()
            numbers = data["nuclear_charges"].astype(int)
            return cls(numbers, data["coords"].astype(float), energies * KCAL, data["forces"] * KCAL)

    def batches(self, size: int) -> list[np.ndarray]:
        """Rows of some batches."""
        rows = np.random.default_rng(0).permutation(len(self.energies))
        return [np.take(rows, range(k * size, (k + 1) * size), mode="wrap") for k in range(BATCHES)]

    def cold_velocities(self, count: int) -> np.ndarray:
        """(count, n, 3) Angstrom/fs at ``COLD_K``: every step has new positions, and stays near the real frame."""
        from ase.data import atomic_masses

        width = np.sqrt(8.617333262e-5 * COLD_K * 0.00964853321 / atomic_masses[self.numbers])
        return np.random.default_rng(0).normal(size=(count, len(self.numbers), 3)) * width[:, None]


@dataclass(frozen=True)
class PeerTask:
    """A task ready to run.

    Attributes:
        step: does one step.
        frames: energy and force evaluations of one step.
        model: what was built, in a line.
        parameters: weights of the model.
    """

    step: Step
    frames: int
    model: str
    parameters: int = 0


def training(
    frames: PeerFrames, size: int, inputs: Callable[[np.ndarray], Any], predict: Predict, optimizer: Any
) -> Step:
    """A step on ``size`` frames, batches cycled through: prediction, squared errors, gradient, the optimiser's step.

    Args:
        inputs: positions (B, n, 3) -> what ``predict`` takes; made beforehand.
        predict: energies (B,) and forces (B n, 3), differentiable.
    """
    import torch

    batches = []
    for rows in frames.batches(size):
        energies = torch.tensor(frames.energies[rows], dtype=torch.float32)
        forces = torch.tensor(frames.forces[rows], dtype=torch.float32).reshape(-1, 3)
        batches.append((inputs(frames.positions[rows]), energies, forces))
    turn = cycle(batches)

    def step() -> None:
        given, energies, forces = next(turn)
        e, f = predict(given)
        loss = 0.01 * ((e - energies) ** 2).mean() + 0.99 * ((f - forces) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def ase_dynamics(frames: PeerFrames, calculator: Any) -> Step:
    """A step of ASE's velocity Verlet of the first frame, driven by ``calculator``."""
    from ase import Atoms, units
    from ase.md.verlet import VelocityVerlet

    atoms = Atoms(frames.numbers, positions=frames.positions[0])
    atoms.set_velocities(frames.cold_velocities(1)[0] / units.fs)
    atoms.calc = calculator
    dynamics = VelocityVerlet(atoms, timestep=DT_FS * units.fs)

    def step() -> None:
        dynamics.run(1)

    return step


def verlet(frames: PeerFrames, replicas: int, forces: Callable[[np.ndarray], np.ndarray]) -> Step:
    """A step of velocity Verlet of many replicas, for models whose own driver takes them one at a time.

    Args:
        forces: positions (R, n, 3) Angstrom -> forces (R, n, 3) eV/Angstrom.
    """
    from ase.data import atomic_masses

    inverse = 0.00964853321 / atomic_masses[frames.numbers][:, None]
    state = {"x": frames.positions[:replicas].copy(), "v": frames.cold_velocities(replicas)}
    state["f"] = forces(state["x"])

    def step() -> None:
        v = state["v"] + 0.5 * DT_FS * inverse * state["f"]
        x = state["x"] + DT_FS * v
        f = forces(x)
        state.update(x=x, v=v + 0.5 * DT_FS * inverse * f, f=f)

    return step


def gemm(task: dict[str, Any]) -> PeerTask:
    """Square float32 products, the size that ran fastest; a step is one product, and ``model`` tells its flops."""
    import torch

    best, chosen = 0.0, 512
    for size in (256, 512, 1024, 2048):
        a, b = torch.randn(size, size), torch.randn(size, size)
        a @ b
        began, count = time.perf_counter(), 0
        while (used := time.perf_counter() - began) < 0.15:
            a @ b
            count += 1
        if (rate := 2 * size**3 * count / used) > best:
            best, chosen = rate, size
    a, b, c = (torch.randn(chosen, chosen) for _ in range(3))

    def step() -> None:
        torch.mm(a, b, out=c)

    return PeerTask(step, 2 * chosen**3, f"float32 product of {chosen} x {chosen}")


def cpu_seconds() -> float:
    """CPU time of this process, all its threads, and of the compilers it has waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def resident_MiB(key: str) -> float:
    """``VmRSS`` or ``VmHWM`` of this process; the high-water mark since the start where there is no /proc."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    return int(lines[key].split()[0]) / 2**10


def _measure(step: Step, seconds: float) -> dict[str, float]:
    cpu, wall, count = time.process_time(), time.perf_counter(), 0
    while not count or time.perf_counter() - wall < seconds:
        step()
        count += 1
    return {"steps": count, "cpu_s": time.process_time() - cpu, "wall_s": time.perf_counter() - wall}


def _memory(step: Step, steps: int) -> dict[str, float]:
    whole = resident_MiB("VmHWM")
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")  # forget the high-water mark so far
    for _ in range(steps):
        step()
    steps_only = resident_MiB("VmHWM")
    return {"process_MiB": max(whole, steps_only), "steps_MiB": steps_only}


class _PeerWorker:
    def __init__(self, builders: dict[str, Builder], versions: dict[str, str]):
        self.builders, self.versions = builders, versions
        self.prepared: PeerTask | None = None

    def prepare(self, task: dict[str, Any]) -> dict[str, Any]:
        import torch

        torch.set_num_threads(task["threads"])
        torch.manual_seed(0)
        resident = resident_MiB("VmRSS")
        cpu, wall = cpu_seconds(), time.perf_counter()
        if task["what"] == "gemm":
            self.prepared = gemm(task)
        elif task["what"] not in self.builders:
            return {"error": f"cannot do '{task['what']}'"}
        else:
            frames = PeerFrames.read(task["data"]) if "data" in task else None
            self.prepared = self.builders[task["what"]](frames, task)
        self.prepared.step()
        used = {"cpu_s": cpu_seconds() - cpu, "wall_s": time.perf_counter() - wall}
        found = {**used, "resident_MiB": resident}
        if task.get("seconds"):
            _measure(self.prepared.step, task["seconds"])
        about = {"model": self.prepared.model, "parameters": self.prepared.parameters, "frames": self.prepared.frames}
        return {**found, **about, "versions": {**self.versions, "torch": torch.__version__}}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "prepare":
            return self.prepare(request["task"])
        if self.prepared is None:
            return {"error": "nothing was prepared"}
        if request["op"] == "measure":
            return _measure(self.prepared.step, request["seconds"])
        if request["op"] == "memory":
            return _memory(self.prepared.step, request["steps"])
        return {"error": f"unknown op '{request['op']}'"}


def serve(builders: dict[str, Builder], packages: tuple[str, ...]) -> None:
    """Answer requests until there are none.

    Args:
        builders: what the potential can do, by ``what``: frames and task -> a task ready to run.
        packages: distributions whose versions are told.
    """
    from importlib.metadata import version

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a package prints goes to standard error
    worker = _PeerWorker(builders, {name: version(name) for name in packages})
    for line in sys.stdin:
        request = json.loads(line)
        if request["op"] == "stop":
            break
        try:
            found = worker.answer(request)
        except Exception as error:
            traceback.print_exc()
            text = str(error).strip().splitlines() or [""]
            found = {"error": f"{type(error).__name__}: {text[0][:300]}"}
        answers.write(ANSWER + json.dumps(found) + "\n")
        answers.flush()
