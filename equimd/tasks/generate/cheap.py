"""Frames by a cheap method, to pretrain on: trajectories of some molecules at some temperatures, side by side.

They have heavy hydrogens and steps of 2.5 fs: positions are distributed as with any masses. Bonds that turn are turned
by Monte Carlo moves, so that conformers come by their weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.convert import write_frames
from equimd.data.dataset import ArrayDataset, DatasetInfo
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.errors import DataError
from equimd.methods import make_method
from equimd.tasks.generate.sampling import Sampler, relax
from equimd.tasks.generate.settings import GenerationSettings
from equimd.tasks.generate.trajectory import Trajectory, load_trajectory, run_trajectory, save_trajectory
from equimd.workers import run_all

if TYPE_CHECKING:
    from ase import Atoms

STEP, INTERVAL, EQUILIBRATION, HYDROGEN = 2.5, 25.0, 1000.0, 5.0  # fs, fs, fs, u
FEWEST, MOST = 80, 4000  # frames
PROBE = 20  # steps that are timed


@dataclass(frozen=True)
class CheapRuns:
    """Trajectories of cheap frames.

    Attributes:
        method: as :func:`equimd.methods.make_method` names it.
        molecules: structures to start from. states: of each, charge and multiplicity; None and 0 where not stated.
        temperatures: K. Trajectory k has ``temperatures[k % T]`` and is of ``molecules[k // T % M]``.
        trajectories, frames: how many; frames in all.
        source: what they are for, in messages.
    """

    method: str
    molecules: Sequence[Atoms]
    states: Sequence[tuple[int | None, int]]
    temperatures: Sequence[float]
    trajectories: int
    frames: int
    seed: int
    source: str

    def molecule(self, trajectory: int) -> int:
        """Which one it is of."""
        return trajectory // len(self.temperatures) % len(self.molecules)

    def settings(self, trajectory: int) -> GenerationSettings:
        """Of one trajectory."""
        charge, spin = self.states[self.molecule(trajectory)]
        return GenerationSettings(
            molecule=self.source,
            temperature=self.temperatures[trajectory % len(self.temperatures)],
            frames=self.frames // self.trajectories * self.trajectories,
            trajectories=self.trajectories,
            interval=INTERVAL,
            time_step=STEP,
            equilibration=EQUILIBRATION,
            seed=self.seed,
            calculator=self.method,
            charge=charge or 0,
            spin=spin,
            torsion_interval=INTERVAL,
            hydrogen_mass=HYDROGEN,
        )


def step_seconds(method: str, atoms: Atoms, charge: int, spin: int, kelvin: float) -> float:
    """What a step of dynamics takes."""
    found = make_method(method, atoms, charge, spin)
    system = System.build(atoms.numbers, masses=atoms.get_masses())
    md = Sampler(found, system, relax(found, atoms.positions), kelvin, 1.0, 0.01, seed=0)
    began = time.perf_counter()
    for _ in range(PROBE):
        md.step()
    return (time.perf_counter() - began) / PROBE


def measured_step(pool: Executor | None, jobs: int, *probe: Any) -> float:
    """The mean of :func:`step_seconds` in so many processes at once, as they are used later."""
    measured = list[float]()
    run_all(pool, step_seconds, dict.fromkeys(range(jobs), probe), lambda _, seconds: measured.append(seconds))
    return float(np.mean(measured))


def frames_within(seconds: float, per_step: float, jobs: int, trajectories: int) -> tuple[int, int]:
    """How many trajectories, and frames in all, some time gives: as many frames from each, at most MOST; fewer
    trajectories where there is no time for the equilibration of so many.

    Returns:
        trajectories, an even number; frames.
    """
    steps, start = seconds * jobs / per_step, EQUILIBRATION / STEP
    count = int(np.clip(steps / (2 * start), 2, trajectories)) // 2 * 2
    frames = int(np.clip((steps - count * start) / (INTERVAL / STEP + 1), FEWEST, MOST))
    return count, max(frames // count, 1) * count


def making_seconds(frames: int, trajectories: int, per_step: float, jobs: int) -> float:
    """What so many frames take."""
    return (trajectories * EQUILIBRATION / STEP + frames * (INTERVAL / STEP + 1)) * per_step / jobs


def make_frames(
    runs: CheapRuns,
    path: Path,
    pool: Executor | None,
    tell: Callable[[int, int], None],
    *,
    source: str,
    may_fail: bool = False,
) -> tuple[ArrayDataset, str, list[str]]:
    """Run the trajectories and write their frames as the store ``path``; killed and called again, it goes on.

    Args:
        path: trajectories that are finished wait in its folder.
        tell: called with (trajectories done, of all); what it raises ends the work.
        source: the command that makes them. may_fail: trajectories that fail are left out.

    Returns:
        The frames, the method in words, and why trajectories failed.

    Raises:
        DataError: a trajectory fails, or none gives a frame.
    """
    found, failed = _trajectories(runs, path.parent, pool, tell, may_fail)
    data = _joined(runs, found, path, failed)
    theory = next(t.theory for t in found if t is not None)
    write_frames(path, data, theory=theory, source=source)
    return data, theory, failed


def make_trajectory(config: GenerationSettings, atoms: Atoms, index: int, path: Path, may_fail: bool) -> str | None:
    """One trajectory into a file; the reason if it ``may_fail`` and does. In a process of its own."""
    try:
        save_trajectory(path, run_trajectory(config, atoms, index, must_turn=False))
    except DataError as error:
        if not may_fail:
            raise
        return error.what
    return None


def _trajectories(
    runs: CheapRuns,
    folder: Path,
    pool: Executor | None,
    tell: Callable[[int, int], None],
    may_fail: bool,
) -> tuple[list[Trajectory | None], list[str]]:
    """Those that are not in ``folder`` yet are made; of those that failed, why."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{k:03d}.npz" for k in range(runs.trajectories)]
    missing = [k for k, path in enumerate(paths) if not path.is_file()]
    tasks = {k: (runs.settings(k), runs.molecules[runs.molecule(k)], k, paths[k], may_fail) for k in missing}
    done, failed = len(paths) - len(missing), list[str]()

    def finished(_: int, reason: str | None) -> None:
        nonlocal done
        done += 1
        failed.extend([reason] if reason else [])
        tell(done, len(paths))

    run_all(pool, make_trajectory, tasks, finished)
    return [load_trajectory(path) if path.is_file() else None for path in paths], failed


def _joined(runs: CheapRuns, found: Sequence[Trajectory | None], path: Path, failed: list[str]) -> ArrayDataset:
    """The frames of trajectories in which no bond is open, with the numbers of their trajectories; ``path`` names them.

    Raises:
        DataError: there is none.
    """
    blocks, owner = [], []
    for k, t in enumerate(found):
        if t is None or t.broken.all():
            continue
        rows = np.flatnonzero(~t.broken)
        charge, spin = runs.states[runs.molecule(k)]
        charges = None if charge is None else np.full(len(rows), charge)
        labels = t.energy[rows], t.forces[rows]
        spins = np.full(len(rows), spin)
        blocks.append(Frames.build(t.numbers, t.positions[rows], *labels, charge=charges, spin=spins))
        owner += [k] * len(rows)
    if not blocks:
        why = f": {failed[0]}" if failed else ""
        raise DataError(f"{runs.method} gave no frame in which all bonds hold{why}", where=runs.source)
    return ArrayDataset(Frames.concatenate(blocks), DatasetInfo(str(path), "generated"), np.array(owner))
