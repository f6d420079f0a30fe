"""How well forces come from an energy: net force and torque, drift, bonds that hold; and the time of a step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.lattice import Lattice
from equimd.data.system import System
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.md.integrators import VelocityVerlet
from equimd.md.observables import bond_stability, linear_drift
from equimd.md.simulation import Simulation
from equimd.md.state import degrees_of_freedom, maxwell_boltzmann
from equimd.md.trajectory import read
from equimd.model.interface import Model

POINTS = 200  # of a curve in a plot
MIN_FRAMES = 8  # of a drift
TURN = 10  # steps of one model before it is another's turn
#: What is not known of a replica that never began.
UNKNOWN = ("drift", "drift_error", "temperature", "temperature_ends", "curve")


def net_force_and_torque(positions: np.ndarray, forces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Norms (B,) of total force (eV/Angstrom) and torque about the centre (eV): zero for what has an energy.

    Args:
        positions, forces: (B, n, 3) Angstrom and eV/Angstrom of B frames of one open molecule.
    """
    centred = positions - positions.mean(1, keepdims=True)
    total, torque = forces.sum(1), np.cross(centred, forces).sum(1)
    return np.linalg.norm(total, axis=1), np.linalg.norm(torque, axis=1)


def rms(values: np.ndarray) -> float:
    """Root of the mean square, in thousandths of the unit."""
    return 1e3 * float(np.sqrt(np.square(values).mean()))


def step_times(
    potentials: Mapping[str, Model],
    system: System,
    positions: Tensor,
    steps: int,
    modes: Sequence[Compile],
    *,
    dt: float = 0.5,
    temperature: float = 300.0,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, dict[str, float]]:
    """Milliseconds of a step at constant energy, by mode and model: medians, the models in turns of ten steps.

    On one CPU thread it is CPU time, which other programs on the machine do not lengthen; else time on the clock.

    Args:
        positions: (R, n, 3) Angstrom, on the device of ``system``; the replicas of one batch.
        steps: of each model.
        modes: ``off`` (eager) and ``on`` (compiled).
        progress: told the steps done and their number, of all models and modes.
    """
    clock = _clock(system)
    velocities = maxwell_boltzmann(system, positions, temperature, seed=0, replicas=range(len(positions)), bath=False)
    dof = degrees_of_freedom(system, positions[0], bath=False)
    found: dict[str, dict[str, float]] = {}
    for mode in modes:
        runs = {
            name: Simulation.start(
                system,
                VelocityVerlet(dt),
                ForceField(model, system, compile=mode),
                positions,
                velocities,
                dof=dof,
                judge=Judge(Limits.from_reference(system, positions[0])),
            )
            for name, model in potentials.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        turns = max(2, steps // TURN)
        for turn in range(turns):
            for name, run in runs.items():
                began = clock()
                run.run(run.state.step + TURN)
                seconds[name].append((clock() - began) / TURN)
            if progress is not None:
                done = len(found) * turns + turn + 1
                progress(done * len(runs) * TURN, len(modes) * turns * len(runs) * TURN)
        name = "compiled" if mode == "on" else "eager"
        found[name] = {variant: 1e3 * float(np.median(s[1:])) for variant, s in seconds.items()}
    return found


def _clock(system: System) -> Callable[[], float]:
    alone = system.masses.device.type == "cpu" and torch.get_num_threads() == 1
    return time.process_time if alone else time.perf_counter


def judge_replica(
    path: Path,
    bonds: np.ndarray,
    lengths: np.ndarray,
    *,
    length_fs: float,
    stopped: str | None = None,
    lattice: Lattice | None = None,
) -> tuple[dict[str, Any], np.ndarray]:
    """What one trajectory tells, and its stable positions (T, n, 3).

    A replica is stable until a bond differs by more than 0.5 Angstrom from its reference (Fu et al. 2022), or it was
    halted. Drift, temperature and curve are of the frames until then.

    Args:
        path: H5MD file; missing if the replica broke before step 0.
        bonds, lengths: (b, 2) atoms and (b,) Angstrom.
        length_fs: of the whole run.
        stopped: why the guard halted it.
        lattice: of a periodic system.

    Returns:
        ``stable_ps``, ``stopped``, ``drift`` and ``drift_error`` (meV/atom/ps; of the conserved quantity),
        ``temperature`` (K), ``temperature_ends`` (of the first and the last tenth, K: a drift of the energy heats or
        cools, and at constant energy the mean is no state point), ``curve`` (ps, change of the conserved quantity in
        meV/atom); None where not known.
    """
    if not path.exists():
        return {"stable_ps": 0.0, "stopped": stopped, **dict.fromkeys(UNKNOWN)}, np.zeros((0, 0, 3))
    found = read(path)
    good = int(bond_stability(found.positions, bonds, lengths, lattice=lattice).stable_frames) if len(found) else 0
    whole = good == len(found) and stopped is None
    end = length_fs if whole else float(found.time[good - 1]) if good else 0.0
    n_atoms, time_ps = len(found.numbers), 1e-3 * found.time[:good]
    energy = found.observables["conserved"][:good]
    drift = linear_drift(time_ps, 1e3 * energy / n_atoms) if good >= MIN_FRAMES else None
    thin, heat, tenth = max(1, good // POINTS), found.observables["temperature"][:good], max(1, good // 10)
    told = {
        "stable_ps": 1e-3 * end,
        "stopped": stopped,
        "drift": None if drift is None else drift.slope,
        "drift_error": None if drift is None else drift.error,
        "temperature": float(heat.mean()) if good else None,
        "temperature_ends": [float(heat[:tenth].mean()), float(heat[-tenth:].mean())] if good else None,
        "curve": [time_ps[::thin], (1e3 * (energy - energy[0]) / n_atoms)[::thin]] if good else None,
    }
    return told, found.positions[:good]


def pooled(replicas: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """Mean drift of the replicas and its standard error: the larger of what single errors and their scatter give."""
    known = [r for r in replicas if r["drift"] is not None]
    if not known:
        return None
    slopes, errors = (np.array([r[key] for r in known]) for key in ("drift", "drift_error"))
    inner = float(np.sqrt(np.square(errors).sum()) / len(slopes))
    outer = float(slopes.std(ddof=1) / np.sqrt(len(slopes))) if len(slopes) > 1 else 0.0
    return {"drift": float(slopes.mean()), "error": max(inner, outer)}
