"""Molecular dynamics of a model with every step scored, in segments that are kept, so that it can be interrupted.

The runs only record: nothing halts them but a failed physical check, and thresholds are applied to the scores
afterwards. Kept of each step are the screen and, where the screen is at or above a floor, the exact score; so the
scores of every decision whose level is not below the floor can be told from them (:meth:`ScoredRuns.scores`).
"""

from __future__ import annotations

import io
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.benchmarks.options import say
from equimd.benchmarks.pieces import fingerprint
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.files import write_atomic
from equimd.forces.forcefield import ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import Decided, StepDecision, StepScore
from equimd.md.integrators import Langevin
from equimd.md.simulation import Simulation
from equimd.md.state import maxwell_boltzmann
from equimd.model.interface import Model


@dataclass(frozen=True)
class Plan:
    """What is run.

    Attributes:
        temperature: K, of the Langevin bath and the first velocities. dt: fs. friction: 1/fs.
        score_every: steps between two scores. keep_every: steps between two frames that are kept.
        floor: of the screen, eV/Angstrom: below it no exact score is computed.
        early: another floor, and a score: that floor holds in each run up to its first score above that.
        alarm: a score above it ends the scoring of every step of that run; from then on the frames that are kept are
            scored exactly. None: never.
        mark: frames that score above it are kept, too: the first of every ``mark_gap`` steps, and that of the alarm.
        segment: steps between two savings. replicas: runs in one batch. first: number of the first of them, which
            with the seed names its random numbers.
    """

    temperature: float
    steps: int
    seed: int
    floor: float
    early: tuple[float, float] | None = None
    dt: float = 0.5
    friction: float = 0.01
    score_every: int = 1
    keep_every: int = 10
    alarm: float | None = None
    mark: float | None = None
    mark_gap: int = 200
    segment: int = 1000
    replicas: int = 25
    first: int = 0


@dataclass(frozen=True)
class ScoredRuns:
    """R runs of n scored steps.

    Attributes:
        screen, exact: (R, n) eV/Angstrom; NaN where not computed, and after a run was stopped.
        steps: (n,) number of each scored step.
        kept: (R, k, atoms, 3) Angstrom, frames at ``kept_steps`` (k,).
        marked: (m, atoms, 3) further frames, of the runs ``marked_run`` (m,) at ``marked_step`` (m,).
        stopped: run -> the step at which a physical check failed, and why.
    """

    screen: np.ndarray
    exact: np.ndarray
    steps: np.ndarray
    kept: np.ndarray
    kept_steps: np.ndarray
    marked: np.ndarray
    marked_run: np.ndarray
    marked_step: np.ndarray
    stopped: dict[int, tuple[int, str]] = field(default_factory=dict)

    def scores(self, level: float) -> np.ndarray:
        """(R, n) as the decision with this level gives them: the screen where it is below the level, else exact."""
        return Decided(self.screen, self.exact, level).score

    def first_above(self, level: float, threshold: float) -> list[int | None]:
        """The first step of each run whose score exceeds the threshold; a failed physical check counts as one."""
        over = self.scores(level) > threshold
        found: list[int | None] = []
        for run, row in enumerate(over):
            step = int(self.steps[row.argmax()]) if row.any() else None
            stop = self.stopped.get(run)
            found.append(stop[0] if step is None and stop else step)
        return found

    @staticmethod
    def concatenate(parts: list[ScoredRuns]) -> ScoredRuns:
        """One after the other."""
        stopped, offset, owner = {}, 0, []
        for part in parts:
            stopped |= {run + offset: why for run, why in part.stopped.items()}
            owner.append(part.marked_run + offset)
            offset += len(part.screen)
        names = ("screen", "exact", "kept", "marked", "marked_step")
        arrays = {name: np.concatenate([getattr(p, name) for p in parts]) for name in names}
        arrays |= {"steps": parts[0].steps, "kept_steps": parts[0].kept_steps, "marked_run": np.concatenate(owner)}
        return ScoredRuns(**arrays, stopped=stopped)


def run(model: Model, decision: StepDecision, starts: Frames, plan: Plan, folder: Path) -> ScoredRuns:
    """All runs, one from each start frame, ``plan.replicas`` at a time; what is in the folder is not made again."""
    mark = fingerprint({**asdict(plan), "starts": starts.content_hashes(), "level": decision.level})
    folder = folder / mark
    batches = [np.arange(k, min(k + plan.replicas, len(starts))) for k in range(0, len(starts), plan.replicas)]
    return ScoredRuns.concatenate([_batch(model, decision, starts.take(rows), rows, plan, folder) for rows in batches])


def _batch(
    model: Model, decision: StepDecision, starts: Frames, rows: np.ndarray, plan: Plan, folder: Path
) -> ScoredRuns:
    replicas = tuple(int(plan.first + r) for r in rows)
    system = System.build(starts.numbers[0])
    positions = torch.from_numpy(starts.positions.copy())
    velocities = maxwell_boltzmann(system, positions, plan.temperature, seed=plan.seed, replicas=replicas, bath=True)
    state: dict[str, Any] = {
        "positions": positions.numpy(),
        "velocities": velocities.numpy(),
        "stop": np.full(len(rows), -1),
        "why": np.full(len(rows), "", "U200"),
        "alarmed": np.zeros(len(rows), bool),
        "last_mark": np.full(len(rows), -plan.mark_gap),
        "early": np.full(len(rows), plan.early is not None),
    }
    limits = Limits.from_reference(system, positions[0])
    score = StepScore(replace(decision, level=0.0), model, system)  # exact whenever it is asked
    forces = ForceField(model, system, judge=Judge(limits, score), steps=plan.steps)
    parts = []
    for start in range(0, plan.steps, plan.segment):
        stop = min(start + plan.segment, plan.steps)
        path = folder / f"{replicas[0]:05d}-{start:08d}.npz"
        if not path.exists():
            say(f"{plan.temperature:g} K, runs {replicas[0]} to {replicas[-1]}, steps {start} to {stop}")
            segment = _Segment(score, plan, start, stop, state)
            found = segment.run(forces, replicas)
            memory = io.BytesIO()
            np.savez(memory, **found)
            write_atomic(path, memory.getvalue())
        with np.load(path, allow_pickle=False) as saved:
            part = {name: saved[name] for name in saved.files}
        state = {name: part[name] for name in state}
        parts.append(part)
    joined = {name: np.concatenate([p[name] for p in parts], 1) for name in ("screen", "exact", "kept")}
    names = ("steps", "kept_steps", "marked", "marked_run", "marked_step")
    times = {name: np.concatenate([p[name] for p in parts]) for name in names}
    stopped = {k: (int(s), str(state["why"][k])) for k, s in enumerate(state["stop"]) if s >= 0}
    return ScoredRuns(**joined, **times, stopped=stopped)


class _Segment:
    """Some steps of one batch of runs."""

    def __init__(self, score: StepScore, plan: Plan, start: int, stop: int, state: dict[str, Any]) -> None:
        self.score, self.plan, self.start, self.stop = score, plan, start, stop
        self.before, self.system = state, score.system
        count = len(state["stop"])
        self.steps = np.arange(start + 1, stop + 1)[(np.arange(start + 1, stop + 1) % plan.score_every) == 0]
        self.kept_steps = np.arange(start + 1, stop + 1)[(np.arange(start + 1, stop + 1) % plan.keep_every) == 0]
        self.screen, self.exact = (np.full((count, len(self.steps)), np.nan) for _ in range(2))
        self.kept = np.full((count, len(self.kept_steps), self.system.n_atoms, 3), np.nan)
        self.alarmed, self.last_mark, self.early = (state[k].copy() for k in ("alarmed", "last_mark", "early"))
        self.marks: list[tuple[int, int, np.ndarray]] = []
        self.rows = np.flatnonzero(state["stop"] < 0)

    def run(self, forces: ForceField, replicas: tuple[int, ...]) -> dict[str, np.ndarray]:
        before, plan = self.before, self.plan
        where, why = before["stop"].copy(), before["why"].copy()
        positions, velocities = before["positions"].copy(), before["velocities"].copy()
        if len(self.rows):
            simulation = Simulation.start(
                self.system,
                Langevin(plan.dt, plan.temperature, plan.friction, plan.seed),
                forces,
                torch.from_numpy(positions[self.rows]),
                torch.from_numpy(velocities[self.rows]),
                dof=3 * self.system.n_atoms,
                replicas=tuple(replicas[r] for r in self.rows),
                first_step=self.start,
            )
            simulation.run(self.stop, observer=self._note)
            positions[self.rows] = simulation.state.positions.numpy()
            velocities[self.rows] = simulation.state.velocities.numpy()
            for event in simulation.suspects.halts:
                row = replicas.index(event.replica)
                where[row], why[row] = event.step, event.reason
        arrays = {"screen": self.screen, "exact": self.exact, "kept": self.kept}
        times = {"steps": self.steps, "kept_steps": self.kept_steps}
        frames = np.array([x for _, _, x in self.marks]).reshape(-1, *positions.shape[1:])
        numbers = np.array([m[:2] for m in self.marks], np.int64).reshape(-1, 2)
        marks = {"marked": frames, "marked_run": numbers[:, 0], "marked_step": numbers[:, 1]}
        rest = {"positions": positions, "velocities": velocities, "stop": where, "why": why}
        rest |= {"alarmed": self.alarmed, "last_mark": self.last_mark, "early": self.early}
        return {**arrays, **times, **marks, **rest}

    def _note(self, simulation: Simulation) -> None:
        state, plan = simulation.state, self.plan
        step, active = state.step, np.array(state.active)
        rows = self.rows[active]
        if step % plan.keep_every == 0:
            self.kept[rows, np.searchsorted(self.kept_steps, step)] = state.positions[torch.from_numpy(active)].numpy()
        if step % plan.score_every or not len(rows):
            return
        column = int(np.searchsorted(self.steps, step))
        moving = state.moving()
        screen = moving.extras["screen"].double()
        self.screen[rows, column] = screen.numpy()
        # what is not a number is not below the floor
        wanted = ~(screen.numpy() < np.where(self.early[rows], plan.early[0] if plan.early else 0.0, plan.floor))
        if plan.alarm is not None:
            done = self.alarmed[rows]
            wanted = np.where(done, step % plan.keep_every == 0, wanted)
        if wanted.any():
            index = torch.from_numpy(np.flatnonzero(wanted))
            values = self.score(moving.positions[index], {"screen": screen[index]})[0].numpy()
            self.exact[rows[wanted], column] = values
            if plan.early:
                self.early[rows[wanted]] &= values <= plan.early[1]
            self._mark(rows[wanted], values, step, moving.positions[index].numpy())

    def _mark(self, rows: np.ndarray, values: np.ndarray, step: int, positions: np.ndarray) -> None:
        plan = self.plan
        first = np.zeros(len(rows), bool)
        if plan.alarm is not None:
            over = ~(values <= plan.alarm)
            first = over & ~self.alarmed[rows]
            self.alarmed[rows] |= over
        if plan.mark is None:
            return
        due = ~(values <= plan.mark) & (step - self.last_mark[rows] >= plan.mark_gap)
        for k in np.flatnonzero(first | due):
            self.last_mark[rows[k]] = step
            self.marks.append((int(rows[k]), step, positions[k]))
