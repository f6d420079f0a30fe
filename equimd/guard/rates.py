"""Thresholds in errors: how often a bound on the force error speaks, and what it misses, as a calibration counted it.

Of a bound tau (``--uq-threshold 0.1eV/A``), whose threshold on the score is tau / q:

- *frames*: ordinary frames that score above it, of those that the flag and error thresholds are from;
- *runs*: of the model's own runs, those in which any frame does. Of a threshold below the lowest level of the screen
  that they were scored at, or where not every step was scored, such runs are at least so many;
- *missed*: of held-out frames with a force error above tau, those that do not score above it.

Intervals are those of Clopper and Pearson, of frames by how many independent ones they are worth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from equimd.guard.calibration import Calibration, ScoredFrames
from equimd.guard.score import Decided, StepDecision
from equimd.guard.thresholds import CONFIDENCE, effective
from equimd.uq.bounds import two_sided

STEPS, FEW_STEPS = (1.0, 1.5, 2.0, 3.0, 5.0, 7.0), (1.0, 2.0, 5.0)  # bounds of a decade
MOST_BOUNDS = 8  # of them; else FEW_STEPS
TINY = 1e-6  # eV/Angstrom


@dataclass(frozen=True)
class Counted:
    """``events`` in ``trials``, worth ``independent`` ones, and the 95 % interval of the rate."""

    events: int
    trials: int
    independent: float
    interval: tuple[float, float]

    @classmethod
    def of(cls, events: int, trials: int, worth: float = 1.0) -> Counted:
        """Args: worth: of one trial, in independent ones."""
        return cls(events, trials, worth * trials, two_sided(worth * events, worth * trials, CONFIDENCE))

    @property
    def rate(self) -> float:
        return self.events / self.trials


@dataclass(frozen=True)
class ErrorRates:
    """What was counted of a bound on the force error; None of what there is nothing to count in.

    Attributes:
        bound, threshold: on the error and on the score, eV/Angstrom. name: of the threshold, if it has one.
        run_length: steps of the runs. at_least: whether more runs than these may halt.
        missed: None where no frame has so large an error. missed_of: ``test`` or ``threshold`` frames.
    """

    bound: float
    threshold: float
    name: str | None
    frames: Counted | None
    runs: Counted | None
    run_length: int | None
    at_least: bool
    missed: Counted | None
    missed_of: str | None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""

        def plain(found: Counted | None) -> dict[str, Any] | None:
            return None if found is None else {**vars(found), "rate": found.rate, "interval": list(found.interval)}

        counted = {name: plain(getattr(self, name)) for name in ("frames", "runs", "missed")}
        return {**vars(self), **counted}


def error_rates(
    calibration: Calibration, decision: StepDecision, threshold: float, name: str | None = None
) -> ErrorRates:
    """What the calibration counted of a decision and its threshold, as ``error_decision`` or ``decision`` give them."""
    bound = threshold * calibration.error.multiplier
    found, tested = calibration.frames, calibration.test_frames or calibration.frames
    frames = missed = of = None
    if found is not None:
        score = _scores(found, decision.level)
        frames = Counted.of(int((score > threshold).sum()), len(score), _worth(found, score, threshold))
    if tested is not None:
        score, of = _scores(tested, decision.level), "threshold" if tested is found else "test"
        bad = np.array(tested.error) > bound
        if bad.any():
            events = int((score[bad] <= threshold).sum())
            missed = Counted.of(events, int(bad.sum()), _worth(tested, score, threshold))
    runs, halt, at_least = None, calibration.halt, False
    maxima, scored = _highest(calibration, decision)
    if halt is not None and maxima:
        at_least = threshold < scored or decision.level < scored or calibration.state_point.score_every != 1
        events = sum(score > threshold and score >= scored for score in maxima)
        runs = Counted.of(events, len(maxima))
    length = None if halt is None or runs is None else halt.run_length
    return ErrorRates(bound, threshold, name, frames, runs, length, at_least, missed, of)


def _highest(calibration: Calibration, decision: StepDecision) -> tuple[list[float], float]:
    """The highest scores of the model's own runs, by the level nearest to that of a decision; and that level, below
    which a score may be the screen's, and the exact one above it."""
    found, levels = calibration.report.get("dynamics") or {}, calibration.levels
    if levels.runs is not None and found.get("low_maxima") and decision.level < (levels.halt or 0.0):
        return found["low_maxima"], levels.runs
    return found.get("maxima") or [], levels.halt or 0.0


def _scores(frames: ScoredFrames, level: float) -> np.ndarray:
    return Decided(np.array(frames.screen), np.array(frames.exact), level).score


def _worth(frames: ScoredFrames, score: np.ndarray, threshold: float) -> float:
    """Of one frame, in independent ones."""
    return effective(score, threshold, np.array(frames.trajectory)) / len(score)


def rates_ladder(calibration: Calibration) -> list[ErrorRates]:
    """Round bounds from the median of the held-out errors to what the model hardly ever reaches, and the flag and halt
    thresholds among them; of a calibration that kept no frames, none."""
    if calibration.frames is None:
        return []
    q = calibration.error.multiplier
    maxima = (calibration.report.get("dynamics") or {}).get("maxima") or ()
    top = max(*calibration.frames.exact, *maxima, 0.0 if calibration.halt is None else calibration.halt.value)
    usual = max(float(np.median(calibration.frames.error)), TINY)
    bounds = round_numbers(usual, max(q * top, usual))
    rows = [error_rates(calibration, *calibration.error_decision(bound)) for bound in bounds]
    for mode in ("flag", "halt"):
        if getattr(calibration, mode) is not None:
            rows.append(error_rates(calibration, *calibration.decision(mode), mode))  # type: ignore[arg-type]
    return sorted(rows, key=lambda row: row.bound)


def round_numbers(low: float, high: float) -> list[float]:
    """From the last below ``low`` to the first above ``high``, both positive: 0.05, 0.07, 0.1, 0.15 ..."""
    for steps in (STEPS, FEW_STEPS):
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        every = [float(f"{step}e{decade}") for decade in decades for step in steps]
        found = every[sum(x <= low for x in every) - 1 : sum(x < high for x in every) + 1]
        if len(found) <= MOST_BOUNDS:
            break
    return found
