"""Guarded runs of a model from given starts, and the frames that are taken from them, drawn beforehand or evenly.

Runs of many replicas are made in portions, one after the other; what a portion gave is a file, so that a killed task
makes only the portion it was at again. A portion depends on its starts, seeds and settings alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.files import load_tensors, save_tensors, understood
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import Rule
from equimd.md.integrators import Langevin
from equimd.md.simulation import Simulation
from equimd.md.state import degrees_of_freedom, maxwell_boltzmann
from equimd.model.interface import Model
from equimd.tasks.calibrate.dynamics import PORTION

KIND = "guarded-runs"
PHYSICAL = ("not-finite", "fused", "apart", "drift")  # codes of halts by the physical checks

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Dynamics:
    """What a run is: ``steps`` of Langevin dynamics at ``temperature`` K.

    Attributes:
        dt: fs. friction: 1/fs. seed: of velocities and noise; replicas have streams of their own.
        compile: whether the potential is compiled: said beforehand, since the two round differently.
    """

    steps: int
    temperature: float
    dt: float = 0.5
    friction: float = 0.01
    seed: int = 0
    compile: bool = False


@dataclass(frozen=True)
class Taken:
    """What runs gave.

    Attributes:
        replica, step, positions: (K,), (K,), (K, n, 3) of the frames taken, those that passed, in order.
        halted_replica, halted_step, halted_positions, halted_code: the same of the frames that were refused.
        seconds: what they took, for those made now and before.
    """

    replica: np.ndarray
    step: np.ndarray
    positions: np.ndarray
    halted_replica: np.ndarray
    halted_step: np.ndarray
    halted_positions: np.ndarray
    halted_code: tuple[str, ...]
    seconds: float

    @property
    def broken(self) -> list[int]:
        """Replicas that a physical check halted."""
        return [int(r) for r, code in zip(self.halted_replica, self.halted_code, strict=True) if code in PHYSICAL]

    @classmethod
    def joined(cls, parts: Sequence[Taken]) -> Taken:
        """Those of several portions, in order."""
        arrays = {
            name: np.concatenate([getattr(p, name) for p in parts])
            for name in ("replica", "step", "positions", "halted_replica", "halted_step", "halted_positions")
        }
        codes = tuple(code for p in parts for code in p.halted_code)
        return cls(**arrays, halted_code=codes, seconds=sum(p.seconds for p in parts))


def guarded_runs(
    model: Model,
    starts: Frames,
    replicas: Sequence[int],
    dynamics: Dynamics,
    wanted: Mapping[int, Sequence[int]],
    *,
    watch: Rule | None = None,
    folder: Path | None = None,
    progress: Progress | None = None,
    checked: Callable[[], None] | None = None,
) -> Taken:
    """Run replica k from row k of ``starts``, guarded, and take the frames that are wanted of it and pass.

    Args:
        starts: of one molecule, one a replica. replicas: their numbers, which choose their random streams.
        wanted: steps (from 1) to take of each replica number.
        watch: the score that halts, beside the physical checks; None for these alone.
        folder: where portions are kept; None keeps none.
        checked: called now and then; what it raises ends the runs.
    """
    parts = []
    for first in range(0, len(replicas), PORTION):
        rows = list(range(first, min(first + PORTION, len(replicas))))
        path = None if folder is None else folder / f"runs-{replicas[first]:05d}.safetensors"
        if path is not None and path.is_file():
            parts.append(_load(path))
            continue

        def told(done: int, first: int = first) -> None:
            if checked is not None:
                checked()
            if progress is not None:
                progress(first * dynamics.steps + done, len(replicas) * dynamics.steps)

        numbers = [int(replicas[k]) for k in rows]
        part = _portion(model, starts.take(rows), numbers, dynamics, wanted, watch, told)
        if path is not None:
            _save(path, part)
        parts.append(part)
    return Taken.joined(parts)


def _portion(
    model: Model,
    starts: Frames,
    replicas: Sequence[int],
    dynamics: Dynamics,
    wanted: Mapping[int, Sequence[int]],
    watch: Rule | None,
    told: Callable[[int], None],
) -> Taken:
    began = time.monotonic()
    simulation = _simulation(model, starts, replicas, dynamics, watch)
    due: dict[int, set[int]] = {}
    for replica in replicas:
        for step in wanted.get(replica, ()):
            due.setdefault(int(step), set()).add(replica)
    found = list[tuple[int, int, np.ndarray]]()

    def note(s: Simulation) -> None:
        state = s.state
        if state.step % 50 == 0:
            told(state.step * len(replicas))
        for replica in sorted(due.get(state.step, ())):
            row = state.replicas.index(replica)
            if state.active[row]:
                found.append((replica, state.step, state.positions[row].cpu().numpy().copy()))

    simulation.run(dynamics.steps, observer=note)
    halts = simulation.suspects.halts
    n = starts.positions.shape[1]
    return Taken(
        np.array([f[0] for f in found], np.int64),
        np.array([f[1] for f in found], np.int64),
        np.array([f[2] for f in found]).reshape(-1, n, 3),
        np.array([h.replica for h in halts], np.int64),
        np.array([h.step for h in halts], np.int64),
        np.array([h.positions.cpu().numpy() for h in halts]).reshape(-1, n, 3),
        tuple(h.code for h in halts),
        time.monotonic() - began,
    )


def _simulation(
    model: Model, starts: Frames, replicas: Sequence[int], dynamics: Dynamics, watch: Rule | None
) -> Simulation:
    """Ready for the first step."""
    charge, spin = int(starts.charge[0]), int(starts.spin[0])
    system = System.build(starts.numbers[0], device=model.device)
    positions = torch.from_numpy(starts.positions.copy()).to(system.masses.device)
    limits = Limits.from_reference(system, positions[0])
    state: Any = {"charge": charge, "spin": spin}
    judge = Judge.of(model, system, watch, limits=limits, **state)
    compile: Compile = "on" if dynamics.compile else "off"
    forces = ForceField(  # portions of all sizes share a compiled potential
        model, system, judge=judge, compile=compile, steps=dynamics.steps, replicas=PORTION, **state
    )
    numbers = tuple(int(r) for r in replicas)
    velocities = maxwell_boltzmann(
        system, positions, dynamics.temperature, seed=dynamics.seed, replicas=numbers, bath=True
    )
    integrator = Langevin(dynamics.dt, dynamics.temperature, dynamics.friction, dynamics.seed)
    dof = degrees_of_freedom(system, positions[0], bath=True)
    return Simulation.start(system, integrator, forces, positions, velocities, dof=dof, replicas=numbers)


def draws(replicas: Sequence[int], steps: int, seed: int) -> dict[int, list[int]]:
    """One step of each replica, uniform in 1..steps, known before the run: it depends on seed and number alone."""
    return {int(r): [int(np.random.default_rng([seed, int(r)]).integers(1, steps + 1))] for r in replicas}


def evenly(replicas: Sequence[int], steps: int, count: int) -> dict[int, list[int]]:
    """``count`` steps of each replica, evenly spread, the last one among them."""
    found = sorted({int(s) for s in np.linspace(steps / count, steps, count).round() if s >= 1})
    return {int(r): found for r in replicas}


def _save(path: Path, part: Taken) -> None:
    names = ("replica", "step", "positions", "halted_replica", "halted_step", "halted_positions")
    tensors = {name: torch.from_numpy(np.ascontiguousarray(getattr(part, name))) for name in names}
    save_tensors(path, tensors, {"halted_code": list(part.halted_code), "seconds": part.seconds}, KIND)


def _load(path: Path) -> Taken:
    tensors, meta = load_tensors(path, KIND)
    arrays: dict[str, Any] = {name: t.numpy() for name, t in tensors.items()}
    with understood(path):
        return Taken(**arrays, halted_code=tuple(meta["halted_code"]), seconds=float(meta["seconds"]))
