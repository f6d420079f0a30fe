"""Sigmas from held-out frames: recalibration of energies and forces, the screen, and the flag and error thresholds."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import torch

from equimd.guard.score import Decided, StepDecision, exact_scores
from equimd.guard.screen import Screen
from equimd.guard.thresholds import ErrorBound, FlagThreshold, error_bound, flag_threshold
from equimd.tasks.calibrate.settings import ERROR_COVERAGE, CalibrationSettings
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Calibrated, Predictions
from equimd.uq.recalibration import Comparison, compare_forms, fit_form
from equimd.uq.resampling import blocks, correlation_time
from equimd.uq.samples import Samples

#: At most this share of in-domain frames pays for the exact covariance in a run that may halt: it costs tens of plain
#: calls. One that flags a share alpha looks closer at twice that share.
EXACT_SHARE = 0.005
RUNS_RATE = 0.01  # of frames, above which the model's own runs tell how often they exceed a threshold


def take(predictions: Predictions, rows: np.ndarray) -> Predictions:
    """Some frames of the predictions, in the order of ``rows``."""
    first = np.searchsorted(predictions.frame, np.arange(len(predictions.distance) + 1))
    counts = first[rows + 1] - first[rows]
    atoms = np.concatenate([np.arange(first[r], first[r + 1]) for r in rows])
    per_atom = ("force_error", "force_covariance", "numbers")
    columns = {
        f.name: getattr(predictions, f.name)[atoms if f.name in per_atom else rows]
        for f in fields(Predictions)
        if f.name != "frame"
    }
    return Predictions(**columns, frame=np.repeat(np.arange(len(rows)), counts))


def groups(predictions: Predictions, trajectory: np.ndarray) -> np.ndarray:
    """(N,) which frames are resampled together: stretches of a trajectory as long as their errors are correlated."""
    error = predictions.max_force_error
    return blocks(trajectory, math.ceil(correlation_time(error, trajectory)))


@dataclass(frozen=True)
class Part:
    """Some calibration frames: raw predictions, the trajectory of each, in order of time, and what is resampled."""

    predictions: Predictions
    trajectory: np.ndarray
    group: np.ndarray

    @classmethod
    def of(cls, predictions: Predictions, trajectory: np.ndarray, rows: np.ndarray | None = None) -> Part:
        if rows is not None:
            predictions, trajectory = take(predictions, rows), trajectory[rows]
        return cls(predictions, trajectory, groups(predictions, trajectory))

    def samples(self, kind: str) -> Samples:
        """``energy`` or ``forces``."""
        p = self.predictions
        return p.energies(self.group) if kind == "energy" else p.forces(self.group)


@dataclass(frozen=True)
class Recalibrated:
    """The calibrated posterior, and how its forms compared on frames they were not fitted to."""

    calibrated: Calibrated
    energy: Comparison
    forces: Comparison


def recalibrate(layer: LastLayer, fit: Part, select: Part, *, seed: int = 0) -> Recalibrated:
    """Fit all forms on one part, choose by likelihood on the other, and fit the chosen ones to both.

    Raises:
        UncertaintyError: too few labels.
    """
    chosen = {kind: compare_forms(fit.samples(kind), select.samples(kind), seed=seed) for kind in ("energy", "forces")}
    final = {
        kind: fit_form(Samples.concatenate([fit.samples(kind), select.samples(kind)]), comparison.best.form)
        for kind, comparison in chosen.items()
    }
    return Recalibrated(Calibrated(layer, final["energy"], final["forces"]), chosen["energy"], chosen["forces"])


@dataclass(frozen=True)
class Scored:
    """The screen and the levels of the two decisions, and the lowest that the model's own runs are scored at, set on
    frames that thresholds are not taken from."""

    screen: Screen
    flag_level: float
    halt_level: float
    runs_level: float


def set_screen(calibrated: Calibrated, parts: tuple[Part, ...], settings: CalibrationSettings) -> Scored:
    """Fit the screen, and choose its levels.

    A level is so low that a frame above the threshold to be expected is missed only where the screen is wrong by two of
    its standard deviations, unless too many frames would then need the exact covariance.
    """
    exact = np.concatenate([exact_scores(calibrated, p.predictions)[0] for p in parts])
    variance = np.concatenate([p.predictions.energy_variance for p in parts])
    distance = np.concatenate([p.predictions.distance for p in parts])
    screen = Screen.fit(variance, distance, exact)
    values = screen.of(torch.from_numpy(variance), torch.from_numpy(distance)).numpy()
    alpha = settings.false_alarm_rate

    def level(threshold: float, share: float) -> float:
        return min(threshold, max(screen.level_for(threshold), float(np.quantile(values, 1 - share))))

    flag = level(float(np.quantile(exact, 1 - alpha)), min(2 * alpha, 1.0))
    halt = level(float(exact.max()), EXACT_SHARE)
    return Scored(screen, flag, halt, min(halt, level(float(np.quantile(exact, 1 - RUNS_RATE)), 2 * RUNS_RATE)))


@dataclass(frozen=True)
class Thresholds:
    """Flag and error thresholds, and the frames as the decision that flags sees them."""

    flag: FlagThreshold
    error: ErrorBound
    decided: Decided


def set_thresholds(decision: StepDecision, part: Part, settings: CalibrationSettings) -> Thresholds:
    """Thresholds of the scores of the whole decision.

    Raises:
        UncertaintyError: too few frames for the rates.
    """
    decided = decision.of_predictions(part.predictions)
    flag = flag_threshold(decided.score, settings.false_alarm_rate, trajectory=part.trajectory)
    # quiet frames score below the level: a threshold as high as that only alarms less
    flag = FlagThreshold(**{**vars(flag), "value": max(flag.value, decision.level)})
    errors = part.predictions.max_force_error
    return Thresholds(flag, error_bound(errors, decided.exact, ERROR_COVERAGE, trajectory=part.trajectory), decided)
