"""The halt threshold: how high the score rises in the model's own molecular dynamics, where it is at home.

B independent runs start from held-out reference frames with velocities of their own, under the ensemble that is
simulated later. Nothing but scores is needed of them. If the model leaves its domain in these runs, a threshold from
them would take the failure for normal: then there is none, and the reason is said. Signs of that are a physical check
that fails, and scores that differ from those of held-out reference frames (:func:`verdict`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch

from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.forces.forcefield import Compile, ForceField
from equimd.guard.judge import Judge
from equimd.guard.limits import Limits
from equimd.guard.score import Decided, StepDecision, StepScore
from equimd.guard.thresholds import HaltThreshold, ScoreMatch, block_maxima, compare_scores, halt_threshold
from equimd.md.ensembles import ENSEMBLES
from equimd.md.integrators import Integrator
from equimd.md.simulation import Simulation
from equimd.md.state import degrees_of_freedom, maxwell_boltzmann, temperature
from equimd.model.interface import Model
from equimd.tasks.calibrate.settings import CalibrationSettings

Progress = Callable[[int, int], None]
SEED_OFFSET = 1 << 40  # keeps the random numbers of these runs apart from those of a simulation with the same seed
PORTION = 24  # runs at once in an audit; what compiled blocks are chosen for, so that one compilation does for all
LATE = 64  # exact scores that are computed at a time
MEDIAN_RATIO = 1.5  # own median score over reference median, and its inverse: beyond, the dynamics is elsewhere


@dataclass(frozen=True)
class OwnRuns:
    """Scores of B runs.

    Attributes:
        scores: (B, n) of the n scored steps, eV/Angstrom; columns after a physical check failed are not filled (NaN).
        broken: reason of each run that a physical check stopped.
        exact_share: steps that need the exact covariance under the decision, 0..1.
        temperature_K: mean kinetic temperature.
        low: (B,) highest scores by the decision of a lower level, where one was asked for.
    """

    scores: np.ndarray
    broken: tuple[str, ...]
    exact_share: float
    temperature_K: float  # noqa: N815 (a unit)
    seconds: float
    low: np.ndarray | None = None

    def joined(self, other: OwnRuns) -> OwnRuns:
        """These runs and others, of the same length."""
        n, m = len(self.scores), len(other.scores)

        def mean(name: str) -> float:
            return (n * getattr(self, name) + m * getattr(other, name)) / (n + m)

        return OwnRuns(
            np.concatenate([self.scores, other.scores]),
            self.broken + other.broken,
            mean("exact_share"),
            mean("temperature_K"),
            self.seconds + other.seconds,
            None if self.low is None or other.low is None else np.concatenate([self.low, other.low]),
        )


def start_rows(n_frames: int, blocks: int) -> np.ndarray:
    """Rows of the frames that runs start from: evenly spread, each once as long as there are enough."""
    return np.linspace(0, n_frames - 1, blocks).round().astype(np.int64)


def make_integrator(settings: CalibrationSettings, temperature_K: float, dof: int) -> Integrator:
    """The integrator that is simulated with."""
    ensemble = ENSEMBLES[settings.ensemble]
    return ensemble.make(
        settings.dt, temperature=temperature_K, dof=dof, seed=settings.seed + SEED_OFFSET, settings=settings
    )


def same_system(frames: Frames) -> list[np.ndarray]:
    """Rows of frames that differ in nothing but positions."""
    keys = [
        (n.tobytes(), c.tobytes(), p.tobytes(), int(q), int(s))
        for n, c, p, q, s in zip(frames.numbers, frames.cell, frames.pbc, frames.charge, frames.spin, strict=True)
    ]
    return [np.flatnonzero([k == key for k in keys]) for key in dict.fromkeys(keys)]


@dataclass
class Molecule:
    """Runs of one molecule: its start frames (R, n, 3), and which of all runs they are."""

    model: Model
    system: System
    positions: torch.Tensor
    charge: int
    spin: int
    replicas: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, frames: Frames, rows: np.ndarray, first: int = 0) -> Molecule:
        n = int(frames.n_atoms[rows[0]])
        device = model.device
        cell, pbc = frames.cell[rows[0]], frames.pbc[rows[0]]
        system = System.build(frames.numbers[rows[0], :n], cell=cell if pbc.any() else None, pbc=pbc, device=device)
        positions = torch.from_numpy(frames.positions[rows, :n].copy()).to(device)
        charge, spin = int(frames.charge[rows[0]]), int(frames.spin[rows[0]])
        return cls(model, system, positions, charge, spin, tuple(first + int(r) for r in rows))

    def field(
        self, decision: StepDecision | None = None, steps: int | None = None, compile: Compile = "auto"
    ) -> ForceField:
        """Forces, judged by the physical checks of the first frame and scored by a decision, without a threshold; for
        many steps compiled, where that pays."""
        state: Any = {"charge": self.charge, "spin": self.spin}
        judge = None
        if decision is not None:
            limits = Limits.from_reference(self.system, self.positions[0])
            judge = Judge(limits, StepScore(decision, self.model, self.system, **state))
        return ForceField(self.model, self.system, judge=judge, compile=compile, steps=steps, replicas=PORTION, **state)

    def simulation(self, settings: CalibrationSettings, temperature_K: float, decision: StepDecision) -> Simulation:
        """Ready for the first step."""
        reference = self.positions[0]
        bath = ENSEMBLES[settings.ensemble].bath
        dof = degrees_of_freedom(self.system, reference, bath=bath)
        velocities = maxwell_boltzmann(
            self.system,
            self.positions,
            temperature_K,
            seed=settings.seed + SEED_OFFSET,
            replicas=self.replicas,
            bath=bath,
        )
        return Simulation.start(
            self.system,
            make_integrator(settings, temperature_K, dof),
            self.field(decision, settings.run_length, settings.compile),
            self.positions,
            velocities,
            dof=dof,
            replicas=self.replicas,
        )


class LateScores:
    """Scores of steps into an array, the exact ones many at a time: nothing waits for them here, and of one frame an
    exact score takes several times as long as of each of many.

    Args:
        score: of the lowest level.
        found, screens: (B, n) runs and scored steps, of the scores and of the screen. rows: those of the replicas.
        level: exact scores above it are computed apart from those below, so that the latter do not round them.
    """

    def __init__(self, score: StepScore, found: np.ndarray, screens: np.ndarray, rows: np.ndarray, level: float):
        self.score, self.found, self.screens, self.rows, self.level = score, found, screens, rows, level
        self._waiting: dict[bool, list[tuple[int, int, torch.Tensor]]] = {False: [], True: []}

    def add(self, column: int, positions: torch.Tensor, extras: Mapping[str, torch.Tensor]) -> None:
        """Of one step: positions (R, n, 3), and what the forces gave beside them."""
        values, left = self.score.screened(positions, extras)
        screens = values.cpu().numpy()
        self.found[self.rows, column] = self.screens[self.rows, column] = screens
        for k in [] if left is None else left.tolist():
            self._waiting[bool(screens[k] >= self.level)].append((int(self.rows[k]), column, positions[k].clone()))
        self.compute(LATE)

    def compute(self, least: int = 1) -> None:
        """Those that wait, where so many do."""
        for above, waiting in self._waiting.items():
            if len(waiting) >= least:
                rows, columns, positions = zip(*waiting, strict=True)
                exact = self.score.exact(torch.stack(positions)).amax(-1)
                self.found[list(rows), list(columns)] = exact.cpu().numpy()
                self._waiting[above] = []


@dataclass(frozen=True)
class Early:
    """When fewer runs than asked for are enough.

    Attributes:
        runs: how many are made first.
        enough: of their highest scores (runs,), whether no more are made.
    """

    runs: int
    enough: Callable[[np.ndarray], bool]


def run_own_dynamics(
    model: Model,
    decision: StepDecision,
    starts: Frames,
    settings: CalibrationSettings,
    temperature_K: float,
    progress: Progress | None = None,
    *,
    first: int = 0,
    early: Early | None = None,
    low: float | None = None,
) -> OwnRuns:
    """Runs of ``settings.run_length`` steps from each start frame, scored by the whole decision.

    Ends early when a physical check stops a run: there will be no threshold then.

    Args:
        first: number of the run from the first start frame; numbers choose the random numbers.
        early: the runs from the first start frames alone, if these are enough.
        low: a lower level of the screen, eV/Angstrom, whose highest scores are told, too.
    """
    if early is not None and early.runs < len(starts):

        def made(rows: np.ndarray) -> OwnRuns:
            part, number = starts.take(rows), first + int(rows[0])
            return run_own_dynamics(model, decision, part, settings, temperature_K, progress, first=number, low=low)

        found_first, rest = made(np.arange(early.runs)), np.arange(early.runs, len(starts))
        done = found_first.broken or early.enough(found_first.scores.max(1))
        return found_first if done else found_first.joined(made(rest))
    began = time.monotonic()
    every, steps = settings.score_every, settings.run_length
    lowest = decision.level if low is None else min(low, decision.level)
    found, screens = np.full((2, len(starts), steps // every), np.nan)
    heat: list[float] = []
    broken: list[str] = []
    groups = same_system(starts)
    for number, rows in enumerate(groups):
        molecule = Molecule.of(model, starts, rows, first)
        simulation = molecule.simulation(settings, temperature_K, replace(decision, level=lowest))
        scores = LateScores(cast(StepScore, simulation.judge.score), found, screens, rows, decision.level)

        def note(s: Simulation, scores=scores, number=number) -> None:  # type: ignore[no-untyped-def]
            state = s.state
            if state.step % every == 0:
                scores.add(state.step // every - 1, state.positions, state.extras)
            if state.step % 50 == 0 or state.step == steps:
                heat.append(float(temperature(s.system, state.velocities, s.dof).mean()))
                if progress is not None:
                    progress(number * steps + state.step, len(groups) * steps)

        simulation.run(steps, observer=note, stop=lambda s=simulation: not all(s.state.active))  # type: ignore[misc]
        scores.compute()
        events = simulation.suspects.frames()
        broken += [f"{e.reason} at step {e.step}" for e in events]
        if broken:
            break
    decided = Decided(screens, found, decision.level)
    share = float((~decided.quiet)[np.isfinite(screens)].mean()) if np.isfinite(screens).any() else 0.0
    kelvin, seconds = float(np.mean(heat or [np.nan])), time.monotonic() - began
    return OwnRuns(decided.score, tuple(broken), share, kelvin, seconds, None if low is None else found.max(1))


@dataclass(frozen=True)
class Verdict:
    """The halt threshold, or why there is none."""

    threshold: HaltThreshold | None
    refused: str | None
    match: ScoreMatch | None = None


def verdict(own: OwnRuns, reference: np.ndarray, level: float, settings: CalibrationSettings) -> Verdict:
    """Judge the model's own runs against scores (n,) of held-out reference frames under the same decision.

    They match unless, with 95 % confidence (runs are resampled whole), more than three times as many own scores as
    reference scores are above the 95 % quantile of the latter, or the medians differ by more than a factor of 1.5.
    """
    if own.broken:
        runs = len(own.scores)
        what = f"in {len(own.broken)} of {runs} runs of the model a physical check failed: {own.broken[0]}"
        return Verdict(None, what)
    match = compare_scores(own.scores, reference, seed=settings.seed)
    if not match.matches or match.median_ratio < 1 / MEDIAN_RATIO:
        what = (
            "the model's own dynamics does not look like the held-out frames: "
            f"{100 * match.exceedance:.1f} % of its scores (interval {100 * match.interval[0]:.1f} to "
            f"{100 * match.interval[1]:.1f} %) are above the value that {100 * (1 - match.level):.0f} % of theirs are "
            f"above, and its median is {match.median_ratio:.2f} times theirs"
        )
        return Verdict(None, what, match)
    maxima = block_maxima(own.scores, own.scores.shape[1])
    threshold = halt_threshold(maxima, settings.false_halt_rate, settings.run_length)
    # quiet frames score below the level: a threshold as high as that only halts less
    return Verdict(HaltThreshold(**{**vars(threshold), "value": max(threshold.value, level)}), None, match)
