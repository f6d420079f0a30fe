"""How good the sigmas and thresholds of a calibration are, as plain values for JSON."""

from __future__ import annotations

from typing import Any

import numpy as np

from equimd.guard.calibration import Calibration, ScoredFrames
from equimd.guard.score import Decided, exact_scores
from equimd.tasks.calibrate.dynamics import OwnRuns, Verdict
from equimd.tasks.calibrate.sigmas import Part, Recalibrated
from equimd.uq import metrics
from equimd.uq.predict import Predictions
from equimd.uq.recalibration import FORMS, Comparison
from equimd.uq.samples import Samples

UNIT = "eV/A"
CURVE = np.linspace(0.0, 1.0, 51)
BAD_QUANTILE = 0.99  # of the largest force error in a frame: above it a frame is bad
RESAMPLES = 200


def calibrated_samples(found: Recalibrated, part: Part, kind: str) -> Samples:
    """Errors of a part of the frames beside calibrated variances."""
    recalibration = getattr(found.calibrated, kind)
    return recalibration.apply(part.samples(kind))


def quality(samples: Samples, *, seed: int = 0) -> dict[str, Any]:
    """All metrics with intervals, and the curves of the plots."""
    predicted, observed, counts = metrics.reliability(samples)
    return {
        **metrics.summary(samples, resamples=RESAMPLES, seed=seed),
        "coverage_curve": {
            "nominal": CURVE.tolist(),
            "observed": metrics.calibration_curve(samples, CURVE).tolist(),
        },
        "error_against_sigma": {
            "sigma": predicted.tolist(),
            "rmse": observed.tolist(),
            "counts": counts.tolist(),
        },
    }


def compared(comparison: Comparison) -> dict[str, Any]:
    """Every form, its held-out likelihood and how far behind the best it is."""
    forms = {
        name: {
            "formula": FORMS[name].description,
            "nll": value,
            "behind": comparison.behind[name][0],
            "interval": list(comparison.behind[name][1:]),
        }
        for name, value in sorted(comparison.held_out.items(), key=lambda item: item[1])
    }
    return {"best": comparison.best.form, "forms": forms, "failed": comparison.failed}


def noise_share(found: Recalibrated, part: Part) -> dict[str, float]:
    """How much of the predicted variance is noise, the same for every direction of the weights."""
    out = {}
    for kind in ("energy", "forces"):
        samples, recalibration = part.samples(kind), getattr(found.calibrated, kind)
        v = samples.variance.mean(1)
        m, noise = recalibration.factors(v, samples.distance, samples.element)
        out[kind] = float(noise.mean() / (noise + m * v).mean())
    return out


def alarms(score: np.ndarray, error: np.ndarray, reference_error: np.ndarray) -> dict[str, Any]:
    """False-alarm and miss rate against the threshold.

    A bad frame has a largest force error above the 99 % quantile of those of the calibration frames; where that leaves
    fewer than 20 bad frames, above the quantile that leaves 20, which is told.
    """
    limit = float(np.quantile(reference_error, BAD_QUANTILE))
    enough = min(metrics.MIN_CLASS, len(error))
    limit = min(limit, float(np.partition(error, len(error) - enough)[len(error) - enough]))
    bad = error >= limit
    thresholds = np.quantile(score, np.linspace(0.02, 1, 50))
    return {
        "bad_above": limit,
        "bad_quantile": float((reference_error < limit).mean()),
        "n_bad": int(bad.sum()),
        "threshold": thresholds.tolist(),
        "false_alarms": [float((score[~bad] > t).mean()) if (~bad).any() else None for t in thresholds],
        "missed": [float((score[bad] <= t).mean()) for t in thresholds],
        "auroc": metrics.auroc(score, bad),
    }


def thresholds(calibration: Calibration) -> dict[str, Any]:
    """Value, unit, rates and intervals of the three thresholds; None where there is none."""
    flag, halt, error = calibration.flag, calibration.halt, calibration.error
    return {
        "flag": {
            "value": flag.value,
            "unit": UNIT,
            "alpha": flag.alpha,
            "n_frames": flag.n_frames,
            "n_effective": flag.n_effective,
            "interval": list(flag.interval),
            "level": calibration.levels.flag,
        },
        "halt": None
        if halt is None
        else {
            "value": halt.value,
            "unit": UNIT,
            "alpha": halt.alpha,
            "run_length": halt.run_length,
            "n_blocks": halt.n_blocks,
            "n_effective": halt.n_blocks,
            "interval": list(halt.interval),
            "level": calibration.levels.halt,
        },
        "error": {
            "multiplier": error.multiplier,
            "coverage": error.coverage,
            "n_frames": error.n_frames,
            "n_effective": error.n_effective,
            "interval": list(error.interval),
        },
    }


def scored(decided: Decided, part: Part) -> ScoredFrames:
    """Scores and errors of a part of the frames, for rates of other thresholds."""
    columns = (decided.screen, decided.exact, part.predictions.max_force_error, part.trajectory)
    return ScoredFrames(*(tuple(np.asarray(x).tolist()) for x in columns))


def screening(decided: Decided, threshold: float) -> dict[str, Any]:
    """What the free screen saves, and what it misses."""
    missed, over = decided.missed(threshold)
    return {"level": decided.level, "exact_share": decided.exact_share, "missed": missed, "above_threshold": over}


def dynamics(own: OwnRuns, result: Verdict) -> dict[str, Any]:
    """What the model's own runs showed."""
    match = result.match
    return {
        "refused": result.refused,
        "runs": len(own.scores),
        "steps_scored": int(np.isfinite(own.scores).all(0).sum()),
        "exact_share": own.exact_share,
        "temperature_K_mean": own.temperature_K if np.isfinite(own.temperature_K) else None,
        "seconds": own.seconds,
        "match": None
        if match is None
        else {
            "level": match.level,
            "exceedance": match.exceedance,
            "interval": list(match.interval),
            "median_ratio": match.median_ratio,
        },
        "low_maxima": np.sort(own.low).tolist() if own.low is not None and not own.broken else None,
        "maxima": np.sort(own.scores.max(1)).tolist() if not own.broken else None,
    }


def frame_report(found: Recalibrated, part: Part, reference: Predictions, *, seed: int = 0) -> dict[str, Any]:
    """Quality on the frames of the report, and rates against the threshold on the exact score."""
    exact = exact_scores(found.calibrated, part.predictions)[0]
    return {
        **{kind: quality(calibrated_samples(found, part, kind), seed=seed) for kind in ("forces", "energy")},
        "noise_share": noise_share(found, part),
        "alarms": alarms(exact, part.predictions.max_force_error, reference.max_force_error),
    }
