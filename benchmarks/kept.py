"""Calibrations made once, by the workflow of ``equimd calibrate``, and kept beside the suites' work.

The trained runs are shared by suites and stay as they are: what is calibrated here is saved in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from equimd.benchmarks import models, own_runs
from equimd.benchmarks.options import say
from equimd.benchmarks.pieces import fingerprint
from equimd.data.dataset import Dataset
from equimd.data.system import System
from equimd.errors import UncertaintyError
from equimd.forces.forcefield import ForceField
from equimd.guard.calibration import Calibration, Levels
from equimd.guard.judge import Judge
from equimd.guard.saved import is_calibrated, load_calibration
from equimd.guard.score import StepDecision, StepScore
from equimd.model.interface import Model
from equimd.progress import counted_stages
from equimd.run import Run
from equimd.tasks.calibrate.dynamics import SEED_OFFSET, OwnRuns, start_rows, verdict
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.sigmas import Part, set_screen, set_thresholds
from equimd.tasks.calibrate.stages import Calibrating
from equimd.tasks.calibrate.task import calibrate, prepare
from equimd.terminal import ProgressBar
from equimd.uq.predict import predict


def calibrations(
    run_folder: Path, data: Dataset, settings: CalibrationSettings, folder: Path, *, flags: Sequence[float] = ()
) -> list[Calibration]:
    """The calibration that the settings ask for, and one like it for each further rate of flags, without halts.

    Raises:
        UncertaintyError: there is no halt threshold although the settings ask for one; says why.
    """
    run = Run.open(run_folder)
    digest = models.weights_sha256(run_folder)
    hashes = data.frames().content_hashes()
    place = folder / fingerprint({**settings.model_dump(), "model": digest, "data": hashes, "flags": list(flags)})
    places = [place / "main", *(place / f"flag-{alpha:g}" for alpha in flags)]
    if not all(is_calibrated(p) for p in places):
        say(f"calibrating {run_folder.name}")
        with counted_stages(ProgressBar()) as told:
            done = calibrate(prepare(run, data, settings.changed(halt=False)), told)
        more = [_with_flags(done, alpha) for alpha in flags]
        main = _with_halts(done, settings, place) if settings.halt else done.calibration
        for made, where in reversed(list(zip([main, *more], places, strict=True))):
            made.save(where)
    return [load_calibration(p, digest) for p in places]


def _with_halts(done: Calibrating, settings: CalibrationSettings, folder: Path) -> Calibration:
    """The halt threshold as the workflow finds it, from runs that are kept while they are made."""
    prepared, level = done.prepared, done.scored.halt_level
    if settings.temperature is None:
        raise UncertaintyError("a halt threshold needs a temperature")
    decision = StepDecision(done.found.calibrated, done.scored.screen, level)
    starts = prepared.held_out.frames(
        prepared.parts.threshold[start_rows(len(prepared.parts.threshold), settings.blocks)]
    )
    plan = own_runs.Plan(
        temperature=settings.temperature,
        steps=settings.run_length,
        seed=settings.seed + SEED_OFFSET,
        floor=level,
        dt=settings.dt,
        friction=settings.friction,
        score_every=settings.score_every,
        keep_every=settings.run_length,
    )
    found = own_runs.run(prepared.model, decision, starts, plan, folder / "runs")
    share = float((found.screen >= level).mean())
    broken = tuple(f"{why} at step {step}" for step, why in found.stopped.values())
    own = OwnRuns(found.scores(level), broken, share, settings.temperature, 0.0)
    outcome = verdict(own, decision.of_predictions(done.part.predictions).score, level, settings)
    if outcome.threshold is None:
        raise UncertaintyError(f"no halt threshold: {outcome.refused}", where=str(prepared.run.path))
    point = replace(done.calibration.state_point, temperature_K=settings.temperature)
    levels = Levels(done.scored.flag_level, level)
    return replace(done.calibration, halt=outcome.threshold, levels=levels, state_point=point)


def _with_flags(done: Calibrating, alpha: float) -> Calibration:
    """The same calibration with another rate of flags."""
    prepared, found = done.prepared, done.found
    settings = prepared.settings.changed(false_alarm_rate=alpha)
    predictions = predict(prepared.model, found.calibrated.layer, prepared.held_out)
    trajectory = np.asarray(prepared.held_out.trajectory)
    fit, select = (Part.of(predictions, trajectory, getattr(prepared.parts, name)) for name in ("fit", "select"))
    scored = set_screen(found.calibrated, (fit, select), settings)
    limits = set_thresholds(StepDecision(found.calibrated, scored.screen, scored.flag_level), done.part, settings)
    levels = Levels(scored.flag_level, None)
    return replace(done.calibration, screen=scored.screen, levels=levels, flag=limits.flag, halt=None)


def always_exact(decision: StepDecision) -> StepDecision:
    """The same decision without a screen: every score is exact."""
    return replace(decision, level=0.0)


def scored(
    model: Model, system: System, decision: StepDecision, positions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(k,) screen and exact score of frames (k, n, 3) of one structure, whatever the decision's level, eV/Angstrom."""
    score = StepScore(always_exact(decision), model, system)
    field = ForceField(model, system, judge=Judge(score=score), compile="off")
    screen, exact = [], []
    for part in torch.from_numpy(positions).split(64):
        extras = field(part)[2]
        screen.append(extras["screen"].numpy())
        exact.append(score(part, extras)[0].numpy())
    return np.concatenate(screen), np.concatenate(exact)
