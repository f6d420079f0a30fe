"""Calibrations of learn: on labelled frames drawn at random from runs at the target temperature, never trained on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from equimd.data.frames import Frames
from equimd.data.given import open_given
from equimd.errors import EquimdError
from equimd.guard.calibration import FOLDER, Calibration
from equimd.guard.screen import MIN_FRAMES
from equimd.guard.thresholds import ErrorBound, needed
from equimd.run import Run
from equimd.tasks.audit.runs import Dynamics, draws, guarded_runs
from equimd.tasks.audit.task import HALTS_EXPECTED, start_rows
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.learn.work import Work

if TYPE_CHECKING:
    pass

FLAG_RATE = 0.05  # of flags: a rate of 1 % would take more than a hundred labelled frames
#: Labelled frames of a calibration, one a run.
FRAMES = needed(FLAG_RATE) + 2 * MIN_FRAMES
DRAW_STEPS = 1000  # of the runs that they are drawn from, at most: starts are equilibrated already
MOST_RUNS = 4  # times as many runs as frames, at most
COMPILE_FROM = 1500.0  # seconds of all the time, from which compiling the potential pays back
STAGE = "calibration"
SEEDS = {"calibration": 1, "explore": 2, "audit": 3}  # keep the random numbers of different runs apart


def dynamics(
    work: Work, purpose: str, *, number: int = 0, steps: int | None = None, kelvin: float | None = None
) -> Dynamics:
    """The runs of a stage, with random numbers of their own."""
    s = work.settings
    seed = ((s.seed * 8 + SEEDS[purpose]) << 20) + number
    return Dynamics(
        s.run_length if steps is None else steps,
        s.temperature if kelvin is None else kelvin,
        s.dt,
        s.friction,
        seed,
        compiled(work),
    )


def compiled(work: Work) -> bool:
    """Whether potentials are compiled for runs: decided once."""
    from equimd.machine import has_compiler

    s = work.settings
    pays = s.compile == "on" or (s.compile == "auto" and s.max_time >= COMPILE_FROM and has_compiler())
    return bool(work.journal.decide("compile", lambda: {"runs": pays})["runs"])


def draw_calibration(work: Work, starts: Frames) -> None:
    """Label enough frames for calibrations: one of each run of the first model, at a step drawn beforehand.

    Raises:
        EquimdError: so many runs fall apart, or labels fail, that there are too few.
    """
    model, _ = Run.open(work.model_path(0)).load_model()
    part, made = 0, 0
    while (have := _labelled(work, part)) < FRAMES:
        lacking = math.ceil(1.1 * (FRAMES - have))
        if made + lacking > MOST_RUNS * FRAMES:
            raise EquimdError(
                f"of {made} runs of the first model, only {have} gave a labelled frame to calibrate with, of {FRAMES}",
                where=str(work.folder),
                hint="more --max-time, or look at the failed labels",
            )
        runs = dynamics(work, "calibration", steps=min(work.settings.run_length, DRAW_STEPS))
        replicas = range(made, made + lacking)
        own = starts.take(start_rows(replicas, len(starts), runs.seed))
        found = guarded_runs(
            model,
            own,
            replicas,
            runs,
            draws(replicas, runs.steps, runs.seed),
            folder=_folder(work, STAGE),
            progress=lambda done, total: work.progress("runs to calibrate with", done, total),
            checked=work.check_time,
        )
        made += lacking
        if not len(found.positions):
            what = "every run of the first model falls apart"
            raise EquimdError(what, where=str(work.folder), hint="more --max-time")
        work.label(
            f"{STAGE}-{part}",
            "calibrate",
            work.at(found.positions),
            found.replica,
            temperature=work.settings.temperature,
            cost=found.seconds / (runs.steps * lacking),
        )
        part += 1


def _folder(work: Work, stage: str) -> Path:
    """Where the runs of a stage are kept."""
    return work.folder / "runs" / stage


def _labelled(work: Work, parts: int) -> int:
    results = [work.journal.result(f"{STAGE}-{k}") for k in range(parts)]
    return sum(r["labelled"] for r in results if r is not None)


def calibration_files(work: Work) -> list[str]:
    """The labelled frames of all parts."""
    names = [name for name in work.journal.results if name.rsplit("-", 1)[0] == STAGE]
    return [str(work.data_path(name)) for name in names]


def calibrate_model(work: Work, number: int, *, halt: bool) -> dict[str, Any]:
    """Calibrate a model, with a threshold to halt at or without; a stage of its own.

    With ``halt``, where the error bound equals the error that makes a frame bad, if few runs of the model show that
    this halts hardly any; else where a fifth of the rate that is to be certified halts, which takes more runs. An audit
    then passes, as a rule.
    """
    stage = f"{'thresholds' if halt else 'calibrate'}-{number}"
    return work.journal.once(stage, lambda: _calibrate(work, number, halt))


def _calibrate(work: Work, number: int, halt: bool) -> dict[str, Any]:
    from equimd.tasks.calibrate.task import calibrate, prepare, save

    s, run = work.settings, Run.open(work.model_path(number))
    rate = HALTS_EXPECTED * s.false_halt_rate
    settings = CalibrationSettings(
        false_alarm_rate=FLAG_RATE,
        false_halt_rate=rate,
        run_length=s.run_length,
        temperature=s.temperature,
        dt=s.dt,
        friction=s.friction,
        blocks=needed(rate),
        halt=halt,
        compile="on" if compiled(work) else "off",
        seed=s.seed,
    )
    data = open_given(calibration_files(work), run.config.dataset.reading)
    prepared = prepare(run, data, settings)

    def told(stage: str, done: int, total: int) -> None:
        work.progress(f"calibration: {stage}", done, total)
        work.check_time()

    def enough(bound: ErrorBound, maxima: np.ndarray) -> bool:
        return share_above(maxima, s.error / bound.multiplier) < rate

    done = calibrate(prepared, told, enough=enough)
    if done.calibration.halt is not None:
        done = replace(done, calibration=_shipped(done.calibration, s.error))
    save(done, calibration_files(work), run.path / FOLDER)  # in the place of one without a threshold to halt at
    report = done.calibration.report
    maxima = None if done.own is None or done.own.broken else np.sort(done.own.scores.max(1)).tolist()
    return {
        "multiplier": done.calibration.error.multiplier,
        "zms": report["forces"]["zms"],
        "refused": done.outcome.refused if halt else None,
        "maxima": maxima,
        "seconds": None if done.own is None else done.own.seconds,
        "halt": None if done.calibration.halt is None else done.calibration.halt.value,
    }


def share_above(maxima: np.ndarray, value: float) -> float:
    """The share of runs whose highest score is above a value, from the highest scores of some: their logarithms follow
    Gumbel's law, the heavier of the two tails that highest values may have."""
    from scipy.stats import gumbel_r

    place, width = gumbel_r.fit(np.log(maxima))
    return float(gumbel_r.sf(np.log(value), place, max(width, 1e-6)))


def _shipped(calibration: Calibration, error: float) -> Calibration:
    """Halt where the error bound equals the error that makes a frame bad, if that is above the threshold of the rate:
    a better model then halts less. The screen's level rises with the threshold, so that few steps take an exact score.
    """
    halt, level = calibration.halt, calibration.levels.halt
    if halt is None or level is None:
        return calibration
    value = error / calibration.error.multiplier
    if value > halt.value:  # the rate is at most what it was: of the interval, the upper end is left
        halt = replace(halt, value=value, interval=(0.0, halt.interval[1]))
    levels = replace(calibration.levels, halt=max(level, calibration.screen.level_for(halt.value)))
    return replace(calibration, halt=halt, levels=levels)
