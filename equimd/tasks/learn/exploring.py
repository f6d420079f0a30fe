"""Stages 2 and 3: the model's own guarded runs, at the target temperature and hotter, and the frames to label."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.guard.limits import Limits, squared_distances
from equimd.model.interface import Model
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.runs import Taken, evenly, guarded_runs
from equimd.tasks.audit.task import start_rows
from equimd.tasks.generate.sampling import broken_bonds
from equimd.tasks.learn.calibrating import dynamics
from equimd.tasks.learn.work import Work
from equimd.uq.selection import choose

REPLICAS, TEMPERATURES = 12, 3  # replicas at each temperature, from the target to the hottest
FRAMES_A_RUN = 12
STEPS = (100, 2000)  # of a replica, fewest and most
BEYOND = 3.0  # a replica is halted where the error bound is so many times the error that makes a frame bad
CLASH = 0.7  # of the sum of covalent radii: atoms closer than this have no business being labelled
PER_RUN = 3  # frames of one replica in a batch
BATCH_ROWS = 16  # frames whose rows are computed at once


@dataclass(frozen=True)
class Explored:
    """What the runs of a round gave.

    Attributes:
        frames: candidates (unlabelled), sound ones. run: (K,) the replica of each. kelvin: (K,) its temperature.
        halts: replicas that the score halted, by temperature. broken: those that fell apart.
        seconds, steps: what they took, for so many replica steps.
    """

    frames: Frames
    run: np.ndarray
    kelvin: np.ndarray
    halts: dict[str, int]
    broken: int
    seconds: float
    steps: int

    def summary(self) -> dict[str, Any]:
        """As plain values: ``cost`` in seconds a replica step."""
        return {"halts": self.halts, "broken": self.broken, "cost": self.seconds / max(self.steps, 1)}


def ladder(work: Work) -> list[float]:
    """The temperatures, K."""
    s = work.settings
    return [float(t) for t in np.linspace(s.temperature, s.hottest, TEMPERATURES)]


def explore(work: Work, number: int, known: Calibrated, starts: Frames, cost: float, seconds: float) -> Explored:
    """Runs from random starts at each temperature, for about so many seconds at ``cost`` seconds a replica step."""
    s = work.settings
    plan = work.journal.decide(f"explore-{number}", lambda: {"steps": _steps(seconds, cost, s.run_length)})
    kelvins, parts = ladder(work), list[Taken]()
    for k, kelvin in enumerate(kelvins):
        runs = dynamics(work, "explore", number=number, steps=plan["steps"], kelvin=kelvin)
        replicas = range(k * REPLICAS, (k + 1) * REPLICAS)
        parts.append(
            guarded_runs(
                known.model,
                starts.take(start_rows(replicas, len(starts), runs.seed)),
                replicas,
                runs,
                evenly(replicas, runs.steps, FRAMES_A_RUN),
                watch=known.watch(s.error, BEYOND),
                folder=work.folder / "runs" / f"explore-{number}",
                progress=lambda done, total, k=k: work.progress(  # type: ignore[misc]
                    "exploration", k * total + done, len(kelvins) * total
                ),
                checked=work.check_time,
            )
        )
    return _explored(work, Taken.joined(parts), kelvins, plan["steps"], starts)


def _steps(seconds: float, cost: float, longest: int) -> int:
    wanted = seconds / max(cost * REPLICAS * TEMPERATURES, 1e-9)
    return int(min(np.clip(wanted, *STEPS), longest))


def _explored(work: Work, taken: Taken, kelvins: list[float], steps: int, starts: Frames) -> Explored:
    scored = [k for k, r in enumerate(taken.halted_replica) if int(r) not in taken.broken]
    positions = np.concatenate([taken.positions, taken.halted_positions[scored]])
    run = np.concatenate([taken.replica, taken.halted_replica[scored]])
    keep = sound(starts, positions)
    halted = taken.halted_replica[scored] // REPLICAS
    return Explored(
        work.at(positions[keep]),
        run[keep],
        np.array(kelvins)[run[keep] // REPLICAS],
        {f"{t:g} K": int((halted == k).sum()) for k, t in enumerate(kelvins)},
        len(taken.broken),
        taken.seconds,
        steps * REPLICAS * TEMPERATURES - int((steps - taken.halted_step).sum()),
    )


def sound(starts: Frames, positions: np.ndarray) -> np.ndarray:
    """Rows of the positions (K, n, 3) without clashes, and with the bonds of the starts."""
    numbers = starts.numbers[0].astype(np.int64)
    system = System.build(numbers)
    limits = Limits.from_reference(system, torch.from_numpy(starts.positions[0].copy()))
    finite = np.isfinite(positions).all((1, 2))
    rows = np.flatnonzero(finite)
    if not len(rows):
        return rows
    radii = limits.radii.cpu().numpy()
    close = np.sqrt(squared_distances(limits, torch.from_numpy(positions[rows]))) < CLASH * radii
    whole = ~broken_bonds(numbers, starts.positions[0], positions[rows])
    return rows[~close.any(1) & whole]


def informative(
    model: Model,
    frames: Frames,
    covariance: Tensor,
    noise: tuple[float, float],
    count: int,
    *,
    group: Sequence[int] | np.ndarray | None = None,
    per_group: int | None = None,
) -> list[int]:
    """Rows of up to ``count`` frames that tell most about the weights, in the order they were chosen.

    Args:
        covariance: (p, p) of the weights. noise: of energies, eV, and of force components, eV/Angstrom.
    """
    rows = whitened(model, frames, noise, len(covariance))
    return list(choose(rows, covariance, count, group=group, per_group=per_group).rows)


def whitened(model: Model, frames: Frames, noise: tuple[float, float], width: int) -> list[Tensor]:
    """Energy and force rows of each frame over their noise, (1 + 3n, p)."""
    double, found = model.converted(torch.float64), list[Tensor]()
    for first in range(0, len(frames), BATCH_ROWS):
        part = frames.take(np.arange(first, min(first + BATCH_ROWS, len(frames))))
        batch = Batch.from_frames(part, model.cutoff, dtype=torch.float64)
        rows = double.rows(batch, width=width)
        forces = rows.forces[batch.real].flatten(0, 1)[:, :width] / noise[1]
        each = forces.split((3 * part.n_atoms).tolist())
        energies = rows.energy[:, :width] / noise[0]
        found += [torch.cat([e[None], f]) for e, f in zip(energies, each, strict=True)]
    return found


def next_batch(work: Work, number: int, known: Calibrated, explored: Explored, count: int) -> dict[str, Any]:
    """The frames to label after a round: {positions, run, kelvin}; a stage of its own."""

    def work_() -> dict[str, Any]:
        calibration = known.calibration
        scale = calibration.calibrated.layer.forces.scale
        noise = calibration.report["posterior"]["forces"]["sigma_noise"]
        rows = informative(
            known.model,
            explored.frames,
            scale @ scale.T,
            (float(noise[0]), float(noise[1])),
            count,
            group=explored.run,
            per_group=PER_RUN,
        )
        return {
            "positions": explored.frames.positions[rows].tolist(),
            "run": explored.run[rows].tolist(),
            "kelvin": explored.kelvin[rows].tolist(),
        }

    return work.journal.once(f"choose-{number}", work_)
