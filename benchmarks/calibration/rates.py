"""One piece of the calibration suite: how often flags and halts are false in fresh runs of a model where it is at home.

Thresholds come from the workflow of ``equimd calibrate``: a flag rate a frame from held-out frames, a halt rate a run
from the maxima of independent blocks of the model's own dynamics. They are then applied to fresh runs, which start from
other frames (the test frames), with other velocities and noise.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks import kept, models, own_runs
from equimd.benchmarks.options import Options
from equimd.guard.calibration import Calibration
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.uq.resampling import bootstrap

FRESH_SEED = 1_000_003  # of the fresh runs: no calibration uses it
RESAMPLES = 1000


@dataclass(frozen=True)
class RatesSize:
    """How much is measured.

    Attributes:
        blocks: independent runs that the halt threshold is taken from. run_length: steps of each, and of a fresh run.
        runs: fresh runs in which halts are counted. flag_runs: as many more in which, with those, flags are: frames of
            one run are alike, so that the rate a frame needs many runs to be known. halt: nominal rate a run.
        flags: nominal rates a frame.
    """

    blocks: int = 99
    run_length: int = 2000
    runs: int = 200
    flag_runs: int = 200
    score_every: int = 1
    halt: float = 0.1
    flags: tuple[float, ...] = (0.01, 0.05)


QUICK = RatesSize(blocks=9, run_length=60, runs=20, flag_runs=10)


def measure(case: models.Case, run_folder: Path, options: Options, seed: int, size: RatesSize) -> dict[str, Any]:
    """Realised rates of one model."""
    held = models.held_out(case, options, seed)
    settings = CalibrationSettings(
        false_alarm_rate=size.flags[0],
        false_halt_rate=size.halt,
        run_length=size.run_length,
        temperature=case.temperature,
        score_every=size.score_every,
        blocks=size.blocks,
        seed=seed,
    )
    work = options.work / "calibration"
    main, *others = kept.calibrations(
        run_folder, held.calibration, settings, work / "calibrations", flags=size.flags[1:]
    )
    levels = [c.levels.flag for c in (main, *others)] + [_halt_level(main)]
    frames = held.tests[case.split]
    model = models.load_model(run_folder)
    plan = own_runs.Plan(
        temperature=case.temperature,
        steps=size.run_length,
        seed=FRESH_SEED + seed,
        floor=min(levels),
        score_every=size.score_every,
        keep_every=size.run_length,
    )
    decision, _ = main.decision("halt")
    last = len(frames) - 1
    between = (np.arange(size.flag_runs) + 0.5) / size.flag_runs

    def fresh(places: np.ndarray, first: int) -> own_runs.ScoredRuns:
        starts = frames.frames((last * places).round().astype(np.int64))
        return own_runs.run(model, decision, starts, replace(plan, first=first), work / "own-runs")

    found = fresh(np.linspace(0, 1, size.runs), 0)
    every = own_runs.ScoredRuns.concatenate([found, fresh(between, size.runs)])
    flagged = [flags(c, every, seed) for c in (main, *others)]
    return {"size": asdict(size), "halts": halts(main, found), "flags": flagged}


def _halt_level(calibration: Calibration) -> float:
    return calibration.decision("halt")[0].level


def halts(calibration: Calibration, found: own_runs.ScoredRuns) -> dict[str, Any]:
    """False halts among the fresh runs, beside the interval to expect for this many blocks."""
    decision, threshold = calibration.decision("halt")
    runs = len(found.screen)
    low, high = calibration.halt.false_halts(runs) if calibration.halt is not None else (0, runs)
    count = sum(step is not None for step in found.first_above(decision.level, threshold))
    physical = [f"run {run}, step {step}: {why}" for run, (step, why) in found.stopped.items()]
    known = np.isfinite(found.screen)
    return {
        "count": count,
        "runs": runs,
        "expected": [low, high],
        "threshold": threshold,
        "exact_share": float((found.screen[known] >= decision.level).mean()),
        "physical": physical,
    }


def flags(calibration: Calibration, found: own_runs.ScoredRuns, seed: int) -> dict[str, Any]:
    """Share of flagged frames, with an interval from resampling whole runs."""
    decision, threshold = calibration.decision("flag")
    known = np.isfinite(found.screen)
    over = (found.scores(decision.level) > threshold) & known
    per_run, frames = over.sum(1), known.sum(1)

    def rate(rows: np.ndarray) -> float:
        return float(per_run[rows].sum() / max(frames[rows].sum(), 1))

    every = np.arange(len(over))
    low, high = bootstrap(rate, every, resamples=RESAMPLES, seed=seed)
    return {
        "nominal": calibration.flag.alpha,
        "rate": rate(every),
        "interval": [float(low), float(high)],
        "n_effective": calibration.flag.n_effective,
        "calibration_interval": list(calibration.flag.interval),
        "threshold": threshold,
    }
