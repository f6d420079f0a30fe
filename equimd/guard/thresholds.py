"""Thresholds with a stated rate of false alarms, from arrays of scores; and how a person asks for one.

Three meanings, kept apart:

- *flag*: a frame scores above the threshold; per-frame rate alpha, in domain;
- *halt*: any frame of a run of L steps does; rate alpha a run, from the maxima of B independent blocks of L steps;
- *error*: sigma times a multiplier q bounds the error, in domain.

All are split-conformal quantiles (Vovk et al. 2005; Lei et al., JASA 113, 1094 (2018)): with n exchangeable scores the
k-th smallest, k = ceil((n + 1)(1 - alpha)), is exceeded by the next with probability at most alpha. That is an average
over calibrations. The rate of the one calibration at hand is Beta(n + 1 - k, k) (Vovk 2012); its interval is given.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

import numpy as np

from equimd.errors import ConfigError, UncertaintyError
from equimd.uq.resampling import bootstrap, correlation_time

CONFIDENCE = 0.95
UNIT = "eV/A"
#: What may be asked for in place of a force error.
MODES = ("auto", "halt", "flag", "off")
_UNITS = ("", "ev/a", "ev/å", "ev/ang", "ev/angstrom")


def parse_threshold(text: str, name: str = "uq-threshold") -> str | float:
    """``auto``, ``halt``, ``flag``, ``off``, or a force error in eV/Angstrom.

    Args:
        name: of the option, for messages.

    Raises:
        ConfigError: another word, another unit, or a number that is not positive and finite.
    """
    word = text.strip().lower()
    if word in MODES:
        return word
    found = re.fullmatch(r"([-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?)\s*([a-zåµ]\S*)?", word)
    hint = "auto, halt, flag, off, or a force error in eV/A such as 0.15eV/A"
    try:
        if found is None:
            raise ValueError
        value = float(found[1])
    except ValueError:
        raise ConfigError(f"{name} '{text}' is not a threshold", hint=hint) from None
    if (found[2] or "") not in _UNITS:
        raise ConfigError(f"{name} '{text}' is in {found[2]}, forces are in eV/A", hint=hint)
    if not (math.isfinite(value) and value > 0):
        raise ConfigError(f"{name} '{text}' is not a positive number", hint=hint)
    return value


@dataclass(frozen=True)
class FlagThreshold:
    """Frames scoring above ``value`` are flagged.

    Attributes:
        value: in the unit of the scores.
        alpha: nominal rate of false alarms, per frame.
        n_frames, n_effective: calibration frames, and how many independent ones they are worth.
        interval: where the rate of this calibration lies, with 95 % confidence, given n_effective.
    """

    value: float
    alpha: float
    n_frames: int
    n_effective: float
    interval: tuple[float, float]

    @property
    def resolved(self) -> bool:
        """Whether the calibration holds enough independent frames for so small a rate."""
        return self.n_effective >= needed(self.alpha)


@dataclass(frozen=True)
class HaltThreshold:
    """A run halts at the first frame scoring above ``value``.

    Attributes:
        alpha: nominal probability of any false halt in a run of ``run_length`` steps.
        n_blocks: independent starts it was calibrated on.
        interval: where that probability of this calibration lies, with 95 % confidence.
    """

    value: float
    alpha: float
    run_length: int
    n_blocks: int
    interval: tuple[float, float]

    def bound(self, steps: int) -> float:
        """Union bound on the probability of a false halt in a run of ``steps``."""
        return min(1.0, math.ceil(steps / self.run_length) * self.alpha)

    def false_halts(self, runs: int, level: float = CONFIDENCE) -> tuple[int, int]:
        """The number of false halts to expect in fresh runs of ``run_length`` (beta-binomial interval)."""
        from scipy.stats import betabinom

        k = rank(self.n_blocks, self.alpha)
        tail = (1 - level) / 2
        law = betabinom(runs, self.n_blocks + 1 - k, k)
        return int(law.ppf(tail)), int(law.ppf(1 - tail))


@dataclass(frozen=True)
class ErrorBound:
    """``multiplier`` * sigma bounds the error of a fraction ``coverage`` of frames, in domain only.

    Attributes:
        interval: where the coverage of this calibration lies, with 95 % confidence, given n_effective.
    """

    multiplier: float
    coverage: float
    n_frames: int
    n_effective: float
    interval: tuple[float, float]


def needed(alpha: float) -> int:
    """The fewest calibration scores that can state a rate alpha: 1/alpha - 1, rounded up.

    Raises:
        UncertaintyError: alpha outside 0..1.
    """
    if not 0 < alpha < 1:
        raise UncertaintyError(f"a rate of {alpha:g}", hint="a rate lies between 0 and 1, such as 0.01")
    return math.ceil(1 / alpha - 1 - 1e-9)


def rank(n: int, alpha: float) -> int:
    """k = ceil((n + 1)(1 - alpha)): the k-th smallest of n scores is the threshold."""
    return math.ceil((n + 1) * (1 - alpha) - 1e-9)


def flag_threshold(scores: np.ndarray, alpha: float, *, trajectory: np.ndarray | None = None) -> FlagThreshold:
    """The threshold of a per-frame rate, from in-domain frames.

    Args:
        scores: (n,), in order of time within each trajectory.
        trajectory: (n,) which trajectory each frame is from; one for all by default.

    Raises:
        UncertaintyError: fewer than 1/alpha - 1 frames, or scores that are not finite.
    """
    scores = _checked(scores)
    value = _quantile(scores, alpha, "frames")
    worth = effective(scores, value, trajectory)
    return FlagThreshold(value, alpha, len(scores), worth, rate_interval(worth, alpha))


def halt_threshold(maxima: np.ndarray, alpha: float, run_length: int) -> HaltThreshold:
    """The threshold of a per-run rate, from the largest score of each of B independent blocks of ``run_length`` steps.

    Raises:
        UncertaintyError: B < 1/alpha - 1, or scores that are not finite.
    """
    maxima = _checked(maxima)
    value = _quantile(maxima, alpha, f"independent blocks of {run_length} steps")
    return HaltThreshold(value, alpha, run_length, len(maxima), rate_interval(len(maxima), alpha))


def block_maxima(scores: np.ndarray, run_length: int) -> np.ndarray:
    """The largest score of each run: (B, steps) -> (B,).

    Raises:
        UncertaintyError: runs shorter than ``run_length`` frames: their maxima would be too small.
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.shape[1] < run_length:
        raise UncertaintyError(f"scores of shape {scores.shape}, expected (blocks, {run_length} or more)")
    return scores[:, :run_length].max(1)


def error_bound(
    errors: np.ndarray, sigmas: np.ndarray, coverage: float, *, trajectory: np.ndarray | None = None
) -> ErrorBound:
    """The multiplier q with error <= q * sigma on a fraction ``coverage`` of in-domain frames.

    Args:
        errors: (n,) true error of each frame, such as the largest of an atom's force.
        sigmas: (n,) the score that predicts it.

    Raises:
        UncertaintyError: too few frames, or sigmas that are not positive.
    """
    errors, sigmas = _checked(errors), _checked(sigmas)
    if not (sigmas > 0).all():
        raise UncertaintyError("a predicted sigma is zero", hint="calibrate first")
    alpha, ratio = 1 - coverage, errors / sigmas
    q = _quantile(ratio, alpha, "frames")
    worth = effective(ratio, q, trajectory)
    low, high = rate_interval(worth, alpha)
    return ErrorBound(q, coverage, len(ratio), worth, (1 - high, 1 - low))


@dataclass(frozen=True)
class ScoreMatch:
    """Whether scores of a model's own dynamics look like those of reference frames.

    Attributes:
        level: quantile of the reference scores that is looked at.
        exceedance: share of the model's own scores above it, ideally 1 - level.
        interval: block-bootstrap interval of that share.
        median_ratio: own median over reference median.
    """

    level: float
    exceedance: float
    interval: tuple[float, float]
    median_ratio: float

    @property
    def matches(self) -> bool:
        """False if the model's own frames clearly score higher: the share above the reference quantile is, with
        confidence, more than three times what it should be, or the median is more than 1.5 times as large."""
        return self.interval[0] <= 3 * (1 - self.level) and self.median_ratio <= 1.5


def compare_scores(own: np.ndarray, reference: np.ndarray, *, level: float = 0.95, seed: int = 0) -> ScoreMatch:
    """Compare scores of independent runs (B, steps) of a model with scores (n,) of held-out reference frames.

    A model that drifts off its domain in its own dynamics scores high there, and a threshold from those scores would
    absorb the failure.
    """
    own, reference = np.asarray(own, np.float64), _checked(reference)
    own = own[None] if own.ndim == 1 else own
    above = (own > np.quantile(reference, level)).mean(1)
    low, high = bootstrap(lambda rows: float(above[rows].mean()), np.arange(len(above)), resamples=1000, seed=seed)
    ratio = float(np.median(own) / max(float(np.median(reference)), 1e-300))
    return ScoreMatch(level, float(above.mean()), (float(low), float(high)), ratio)


def _checked(scores: np.ndarray) -> np.ndarray:
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 1 or not np.isfinite(scores).all():
        raise UncertaintyError(f"{int((~np.isfinite(scores)).sum())} of {scores.size} scores are not finite")
    return scores


def _quantile(scores: np.ndarray, alpha: float, what: str) -> float:
    n, least = len(scores), needed(alpha)
    if n < least:
        raise UncertaintyError(
            f"{n} {what} cannot state a rate of {alpha:g}: it takes {least}, {least - n} more",
            hint=f"more of them, or a rate of {1 / (n + 1):.2g} or above",
        )
    return float(np.partition(scores, rank(n, alpha) - 1)[rank(n, alpha) - 1])


def effective(scores: np.ndarray, value: float, trajectory: np.ndarray | None) -> float:
    """How many independent frames these are worth, in order of time within each trajectory: their number over the
    larger correlation time of the scores themselves and of their being above the threshold."""
    times = [correlation_time(x, trajectory) for x in (scores, (scores > value).astype(float))]
    return len(scores) / max(times)


def rate_interval(n: float, alpha: float) -> tuple[float, float]:
    """Beta interval of the rate of one calibration with n independent scores (a real number, if effective)."""
    from scipy.stats import beta

    above = max((n + 1) * alpha, 1.0) if n != int(n) else n + 1 - min(rank(int(n), alpha), n)
    law = beta(above, max(n + 1 - above, 1e-9))
    tail = (1 - CONFIDENCE) / 2
    return float(law.ppf(tail)), float(law.ppf(1 - tail))
