"""Guarded runs that stop where the model is refused, and go on from the last good frames with another one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.forces.forcefield import ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.labels.label import ask
from equimd.md.integrators import Langevin
from equimd.md.simulation import Simulation
from equimd.md.state import degrees_of_freedom, maxwell_boltzmann
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.audit.runs import PHYSICAL


@dataclass(frozen=True)
class Plan:
    """What is run, and what it is judged by.

    Attributes:
        temperature: K. dt: fs. friction: 1/fs. steps: of a run. replicas: runs at once.
        error: force error on an atom, eV/Angstrom, above which a frame is bad; runs are halted where the calibrated
            bound exceeds it. share: of bad frames, at most.
        labels, minutes: that may be spent. passes: through all runs, at most.
        neighbours: frames labelled beside a refused one, of the ``spacing`` steps before it, twice that ...
        retrain_s: seconds of a warm start. judge_every: steps between two frames labelled to judge by.
        n_train, n_val, n_calibration: frames of the first model. calculator: the reference method.
    """

    temperature: float = 600.0
    dt: float = 0.5
    friction: float = 0.01
    steps: int = 2000
    replicas: int = 10
    error: float = 0.1
    share: float = 0.05
    labels: int = 200
    minutes: float = 30.0
    passes: int = 5
    neighbours: int = 2
    spacing: int = 10
    retrain_s: float = 60.0
    judge_every: int = 100
    n_train: int = 200
    n_val: int = 20
    n_calibration: int = 200
    calculator: str = "gfn2"


@dataclass
class Runs:
    """R runs on their way.

    Attributes:
        frame: one frame of the molecule. positions, velocities: (R, n, 3) where they stand. left: (R,) steps to go.
        taken: positions, and forces of the model of that time, of frames to judge. legs: how often they were started.
    """

    frame: Frames
    positions: Tensor
    velocities: Tensor
    left: np.ndarray
    seed: int
    taken: list[tuple[np.ndarray, np.ndarray]] = field(default_factory=list)
    legs: int = 0

    @classmethod
    def begin(cls, starts: Frames, plan: Plan, seed: int) -> Runs:
        """One run from each start, with velocities of its own."""
        positions = torch.from_numpy(starts.positions.copy())
        system, numbers = System.build(starts.numbers[0]), tuple(range(len(starts)))
        velocities = maxwell_boltzmann(system, positions, plan.temperature, seed=seed, replicas=numbers, bath=True)
        return cls(starts.take([0]), positions, velocities, np.full(len(starts), plan.steps), seed)

    @property
    def complete(self) -> int:
        """Runs that have come to their end."""
        return int((self.left == 0).sum())

    def advance(self, known: Calibrated, plan: Plan, *, at_once: bool = False) -> list[list[np.ndarray]]:
        """Go on until every run is halted or at its end; ``at_once``: until the first is halted.

        Returns:
            Of each halt the positions (n, 3) to label: the refused frame and neighbours, unrefused and before it. A
            frame that failed a physical check is no geometry of the molecule: the last good one stands for it.
        """
        rows, history = np.flatnonzero(self.left > 0), dict[int, Tensor]()
        left = self.left[rows]
        simulation = self._simulation(known, plan, rows)

        def note(s: Simulation) -> None:
            step = s.state.step
            history[step] = s.state.positions
            for k, steps in enumerate(left):
                if s.state.active[k] and step <= steps and (plan.steps - steps + step) % plan.judge_every == 0:
                    self.taken.append((s.state.positions[k].numpy(), s.state.forces[k].numpy()))

        def halts() -> list[Any]:
            where = {int(r): k for k, r in enumerate(rows)}
            return [h for h in simulation.suspects.halts if h.step <= left[where[h.replica]]]

        simulation.run(int(left.max()), observer=note, stop=lambda: at_once and bool(halts()))
        state, refused = simulation.state, list[list[np.ndarray]]()
        self.positions[rows], self.velocities[rows] = state.positions, state.velocities
        self.left[rows] = np.maximum(left - state.step, 0)
        for h in halts():
            k = int(np.flatnonzero(rows == h.replica)[0])
            self.left[h.replica] = left[k] - max(h.step - 1, 0)
            before = [history.get(h.step - n * plan.spacing) for n in range(1, plan.neighbours + 1)]
            own = state.positions[k] if h.code in PHYSICAL else h.positions
            refused.append([own.numpy(), *(x[k].numpy() for x in before if x is not None)])
        self.legs += 1
        return refused

    def _simulation(self, known: Calibrated, plan: Plan, rows: np.ndarray) -> Simulation:
        system, positions = System.build(self.frame.numbers[0]), self.positions[rows]
        limits = Limits.from_reference(system, torch.from_numpy(self.frame.positions[0].copy()))
        judge = Judge.of(known.model, system, known.watch(plan.error), limits=limits)
        forces = ForceField(known.model, system, judge=judge, compile="off", steps=plan.steps)
        integrator = Langevin(plan.dt, plan.temperature, plan.friction, self.seed + 1000 * self.legs)
        dof, numbers = degrees_of_freedom(system, positions[0], bath=True), tuple(rows.tolist())
        return Simulation.start(system, integrator, forces, positions, self.velocities[rows], dof=dof, replicas=numbers)

    def bad_share(self, plan: Plan) -> float | None:
        """Of the frames taken, by the reference; None without frames. A frame that it cannot label is bad."""
        if not self.taken:
            return None
        true = [ask(plan.calculator, self.at([x])) for x, _ in self.taken]
        error = [np.linalg.norm(t.forces - f, axis=1).max() for t, (_, f) in zip(true, self.taken, strict=True)]
        return float(np.mean(~(np.array(error) <= plan.error)))

    def labelled(self, positions: Sequence[np.ndarray], plan: Plan) -> Frames | None:
        """Frames with labels of the reference; those that it fails at are left out. None if it fails at all."""
        found = [(x, label) for x in positions if not (label := ask(plan.calculator, self.at([x]))).failed]
        return self.at(*zip(*((x, y.energy, y.forces) for x, y in found), strict=True)) if found else None

    def at(self, positions: Sequence[np.ndarray], energy: Any = None, forces: Any = None) -> Frames:
        """Frames of the molecule, at other positions."""
        labels = [None if x is None else np.array(x) for x in (energy, forces)]
        return Frames.build(self.frame.numbers[0], np.array(positions), *labels)
