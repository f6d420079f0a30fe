"""One piece of the calibration suite: how well every method's sigmas match errors, for one case and one training seed.

Each method's raw variances go through the recalibration of ``equimd calibrate``: the same frames, the same forms, the
form chosen by likelihood on frames it was not fitted to. Everything is fitted on in-domain labels alone. A bad frame is
one whose largest force error exceeds the 99 % quantile of those of the calibration frames, under the same prediction.

How well a score can rank frames has a ceiling: errors are draws. Beside the area under the ROC curve of bad frames
stands its expectation if errors were drawn from the very Gaussians that the method predicts.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from equimd.benchmarks import models
from equimd.benchmarks.calibration.baselines import LAST_LAYERS, METHODS, Baseline, Known, last_layers
from equimd.benchmarks.options import Options
from equimd.data.batch import Batch
from equimd.data.dataset import Dataset
from equimd.guard.score import exact_scores
from equimd.run import Run
from equimd.tasks.calibrate import quality as report
from equimd.tasks.calibrate.frames import partition, training_frames
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.sigmas import Part, Recalibrated, recalibrate, set_screen
from equimd.uq import metrics
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Calibrated, Predictions
from equimd.uq.recalibration import fit_form
from equimd.uq.resampling import bootstrap
from equimd.uq.samples import Samples

BAD_QUANTILE = report.BAD_QUANTILE
KINDS = ("forces", "energy")
TIMED_FRAMES, TIMED_ROUNDS = 16, 5
DRAWS = 100  # of all errors, for the ceiling of the ranking


@dataclass(frozen=True)
class Held:
    """Held-out frames of a case as a method sees them: predictions of each part, and its trajectories."""

    predictions: dict[str, Predictions]
    trajectory: dict[str, np.ndarray]


def measure(
    case: models.Case, run_folder: Path, members: Sequence[Path], options: Options, seed: int, limit: int | None = None
) -> dict[str, Any]:
    """All methods on one case.

    Args:
        run_folder: the run whose uncertainties are measured.
        members: runs of the ensemble; fewer than two leave it out.
        seed: of the halves and of the partition.
        limit: at most so many frames of each part.
    """
    run = Run.open(run_folder)
    model = models.load_model(run_folder)
    train = training_frames(run)
    held = models.held_out(case, options, seed, limit)
    parts: dict[str, Dataset] = {"calibration": held.calibration, **held.tests}
    methods, (layer, *_) = last_layers(model, train, tuple(LAST_LAYERS))
    first = methods[0]
    base = {name: first.predict(part, None) for name, part in parts.items()}  # type: ignore[arg-type]
    known = Known(model, train, layer, [models.load_model(m) for m in members])
    methods += [made for way in METHODS.values() if way.fit is not None and (made := way.fit(known)) is not None]
    trajectory = {name: np.asarray(part.trajectory) for name, part in parts.items()}
    found: dict[str, Any] = {}
    for method in methods:
        predictions = base
        if method is not first:
            predictions = {name: method.predict(part, base[name]) for name, part in parts.items()}
        found[method.name] = {
            "label": method.label,
            "fit_seconds": method.fit_seconds,
            "trainings": method.trainings,
            **judge(Held(predictions, trajectory), held.calibration, layer, seed),
        }
    for name, ratio in step_ratios(model, methods, held.calibration).items():
        found[name]["step_ratio"] = ratio
    return {
        "methods": found,
        "in_domain": case.split,
        "frames": {name: len(part) for name, part in parts.items()},
        "training_seconds": run.info.get("training_seconds"),
    }


def judge(held: Held, calibration: Dataset, layer: LastLayer, seed: int) -> dict[str, Any]:
    """Recalibrate one method in domain and measure it on every test split."""
    rows = partition(calibration, CalibrationSettings().false_alarm_rate, seed)
    known, trajectory = held.predictions["calibration"], held.trajectory["calibration"]
    fit, select = (Part.of(known, trajectory, getattr(rows, name)) for name in ("fit", "select"))
    chosen = recalibrate(layer, fit, select, seed=seed)
    single = {k: fit_form(Samples.concatenate([fit.samples(k), select.samples(k)]), "scale") for k in KINDS}
    simple = Calibrated(layer, energy=single["energy"], forces=single["forces"])
    limit = float(np.quantile(known.max_force_error, BAD_QUANTILE))
    tests = {name: Part.of(held.predictions[name], held.trajectory[name]) for name in held.predictions}
    del tests["calibration"]
    scores = {name: exact_scores(chosen.calibrated, part.predictions)[0] for name, part in tests.items()}
    screen = set_screen(chosen.calibrated, (fit, select), CalibrationSettings()).screen
    home = next(iter(tests))
    out: dict[str, Any] = {
        "forms": {k: getattr(chosen.calibrated, k).form for k in KINDS},
        "bad_above": limit,
        "splits": {},
    }
    for name, part in tests.items():
        out["splits"][name] = {
            **quality(chosen, simple, part, seed),
            "bad": int((part.predictions.max_force_error > limit).sum()),
            "auroc_bad": ranked(scores[name], part.predictions.max_force_error > limit, part.group, seed),
            "auroc_bad_expected": expected_auroc(
                scores[name], report.calibrated_samples(chosen, part, "forces"), part, limit, seed
            ),
            "auroc_bad_screen": ranked(
                _screened(screen, part.predictions), part.predictions.max_force_error > limit, part.group, seed
            ),
        }
        if name != home:
            both = np.concatenate([scores[home], scores[name]])
            away = np.repeat([False, True], [len(scores[home]), len(scores[name])])
            group = np.concatenate([tests[home].group, part.group + 1 + tests[home].group.max()])
            out["splits"][name]["auroc_domain"] = ranked(both, away, group, seed)
    return out


def _screened(screen: Any, predictions: Predictions) -> np.ndarray:
    variance, u = (torch.from_numpy(x) for x in (predictions.energy_variance, predictions.distance))
    return screen.of(variance, u).numpy()


def quality(chosen: Recalibrated, simple: Calibrated, part: Part, seed: int) -> dict[str, Any]:
    """All metrics with intervals; with one scale factor alone the mean squared z and the coverage."""
    out: dict[str, Any] = {}
    for kind in KINDS:
        out[kind] = report.quality(report.calibrated_samples(chosen, part, kind), seed=seed)
        scaled = getattr(simple, kind).apply(part.samples(kind))
        out[kind]["one_scale"] = {"zms": metrics.zms(scaled), "coverage_95": metrics.coverage(scaled, 0.95)}
    return out


def ranked(scores: np.ndarray, bad: np.ndarray, group: np.ndarray, seed: int) -> dict[str, Any]:
    """AUROC and its bootstrap interval; None where a class has too few frames."""
    value = metrics.auroc(scores, bad)
    if value is None:
        return {"value": None, "interval": None}

    def statistic(rows: np.ndarray) -> float:
        found = metrics.auroc(scores[rows], bad[rows])
        return np.nan if found is None else found

    low, high = bootstrap(statistic, group, resamples=report.RESAMPLES, seed=seed)
    return {"value": value, "interval": [float(low), float(high)]}


def expected_auroc(scores: np.ndarray, forces: Samples, part: Part, limit: float, seed: int) -> dict[str, Any]:
    """Mean and central 95 % of the AUROC of bad frames, where errors are draws from the predicted distribution."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(DRAWS):
        drawn = np.linalg.norm(np.sqrt(forces.variance) * rng.standard_normal(forces.variance.shape), axis=1)
        found.append(metrics.auroc(scores, part.predictions.per_frame(drawn)[0] > limit))
    values = [v for v in found if v is not None]
    if len(values) < DRAWS:
        return {"value": None, "interval": None}
    return {"value": float(np.mean(values)), "interval": np.quantile(values, [0.025, 0.975]).tolist()}


def step_ratios(model: Any, methods: Sequence[Baseline], data: Dataset) -> dict[str, float]:
    """Cost of energy, forces and uncertainty over that of energy and forces: batches of 16, eager, interleaved."""
    frames = data.frames(np.arange(min(TIMED_FRAMES, len(data))))
    batch = Batch.from_frames(frames, model.cutoff, dtype=model.dtype)
    calls = {"plain": lambda: model.evaluate(batch), **{m.name: (lambda m=m: m.step(batch)) for m in methods}}
    return interleaved(calls, TIMED_ROUNDS)


def interleaved(calls: Mapping[str, Any], rounds: int) -> dict[str, float]:
    """Median over rounds of each call's time over that of ``plain`` in the same round, the first round left out."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for k in range(rounds + 1):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if k:
                seconds[name].append(time.perf_counter() - began)
    plain = np.array(seconds.pop("plain"))
    return {name: float(np.median(np.array(s) / plain)) for name, s in seconds.items()}
