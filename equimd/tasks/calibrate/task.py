"""From a trained run and frames it never saw to a calibrated run: what can be refused first, then the work."""

from __future__ import annotations

import timeit
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset, Subset
from equimd.data.frames import Frames
from equimd.data.given import GivenData
from equimd.errors import UncertaintyError
from equimd.files import sha256_of, write_json
from equimd.guard.calibration import Calibration, Levels
from equimd.guard.rates import rates_ladder
from equimd.guard.score import StepDecision
from equimd.guard.thresholds import ErrorBound
from equimd.guard.wording import threshold_meaning
from equimd.model.interface import check_data
from equimd.notices import doing
from equimd.run import Run
from equimd.tasks.calibrate import quality
from equimd.tasks.calibrate.dynamics import (
    Early,
    Molecule,
    OwnRuns,
    Verdict,
    run_own_dynamics,
    same_system,
    start_rows,
    verdict,
)
from equimd.tasks.calibrate.frames import (
    PARTS,
    Contents,
    check_apart,
    in_time,
    partition,
    strangers,
    temperature_of,
    training_frames,
    usable_frames,
)
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.calibrate.sigmas import Part, Recalibrated, Scored, recalibrate, set_screen, set_thresholds
from equimd.tasks.calibrate.stages import Calibrating, Prepared
from equimd.uq.predict import Predictions, predict

if TYPE_CHECKING:
    from equimd.uq.posterior import LastLayer

Progress = Callable[[str, int, int], None]
PROBE = 8  # frames that the time estimate is made with
FEW = 19  # runs that show a rate of 5 %
PARTITION_FILE = "partition.json"
NO_TEMPERATURE = (
    "no halt threshold: the data do not say at which temperature they were sampled; give --temperature, in K, "
    "or --no-halt"
)


def prepare(
    run: Run,
    data: Dataset,
    settings: CalibrationSettings,
    *,
    test: Dataset | None = None,
    train_data: GivenData = (),
) -> Prepared:
    """Check everything that can be checked before the work.

    Args:
        data: held-out frames with energies and forces. test: others, for the report.
        train_data: where the training frames are now, if they moved.

    Raises:
        UncertaintyError: an energy-only model, too few frames, or frames that are not new.
        DataError: the training frames are not to be found.
    """
    model, meta = run.load_model()
    if not model.has_forces:
        raise UncertaintyError(
            "the model was trained on energies alone: there are no forces to be sure or unsure of",
            where=str(run.path),
            hint="train with a forces weight",
        )
    known = {name: run.hashes(part) for name, part in (("training", "train"), ("validation", "val"))}
    seen = Contents.of(data)
    check_apart(seen, known, what="calibration", where=data.info.path)
    held_out, warnings = usable_frames(data, seen, what="calibration")
    hashes = {"train": known["training"], "calibration": seen.hashes}
    if test is not None:
        other = Contents.of(test)
        check_apart(other, {**known, "calibration": seen.hashes}, what="test", where=test.info.path)
        test, more = usable_frames(test, other, what="test")
        warnings += more
        hashes["test"] = other.hashes
    for part in (held_out, test):
        if part is not None:
            check_data(model, part)
    parts = partition(held_out, settings.false_alarm_rate, settings.seed)
    train = training_frames(run, train_data)
    if unknown := strangers(seen.compositions, train):
        warnings.append(f"the model was not trained on {', '.join(unknown[:5])}: calibrated for them all the same")
    temperature = settings.temperature if settings.temperature is not None else temperature_of(held_out)
    no_halt = "not asked for" if not settings.halt else NO_TEMPERATURE if temperature is None else None
    digests = {name: sha256_of(h.text()) for name, h in hashes.items()}
    used = drawn(train, settings)
    return Prepared(
        run, model, meta["sha256"], used, len(train), held_out, test, parts, settings, temperature, no_halt,
        seen.compositions, digests, warnings,
    )  # fmt: skip


def drawn(train: Dataset, settings: CalibrationSettings) -> Dataset:
    """The training frames that the posterior is made from: all of them, or as many of them as asked for, at random."""
    if len(train) <= settings.posterior_frames:
        return train
    rows = np.random.default_rng(settings.seed).choice(len(train), settings.posterior_frames, replace=False)
    return Subset(train, np.sort(rows))


def estimate(prepared: Prepared) -> dict[str, float]:
    """Seconds that each stage will take about, from a few calls of each kind."""
    model, settings = prepared.model, prepared.settings
    n_test = 0 if prepared.test is None else len(prepared.test)
    rows = np.arange(min(PROBE, len(prepared.held_out)))
    frames = prepared.held_out.frames(rows)

    def seconds(call: Callable[[], Any], repeat: int) -> float:
        """The fastest of ``repeat`` calls: what else the machine does for a moment is not taken for the rule."""
        call()
        return min(timeit.repeat(call, number=1, repeat=repeat))

    double = model.converted(torch.float64)
    batch = Batch.from_frames(frames, model.cutoff, dtype=torch.float64)
    single = Batch.from_frames(frames, model.cutoff, dtype=model.dtype)
    found = {
        "posterior": seconds(lambda: double.rows(batch), 1) * len(prepared.train) / len(rows),
        "held-out frames": seconds(lambda: model.rows(single), 1) * (len(prepared.held_out) + n_test) / len(rows),
    }
    if prepared.no_halt is None:
        starts = prepared.held_out.frames(prepared.parts.threshold[start_rows_of(prepared)])
        groups = [Molecule.of(model, starts, r) for r in same_system(starts)]
        each = [(m.field(), m.positions) for m in groups]
        eager = sum(seconds(lambda f=f, x=x: f(x), 5) for f, x in each)  # type: ignore[misc]
        found["own dynamics"] = 1.3 * eager * settings.run_length  # the integrator, and exact scores now and then
    return found


def start_rows_of(prepared: Prepared) -> np.ndarray:
    """Rows, among the threshold frames, of the start frames."""
    return start_rows(len(prepared.parts.threshold), prepared.settings.blocks)


def calibrate(
    prepared: Prepared,
    progress: Progress | None = None,
    *,
    enough: Callable[[ErrorBound, np.ndarray], bool] | None = None,
) -> Calibrating:
    """Do it. Nothing is written: see :func:`save`.

    Args:
        enough: of the error bound and the highest scores of the first :data:`FEW` runs, whether a threshold of what
            these can show, a rate of 5 %, is enough; by default all runs are made.
    """
    from equimd.uq.laplace import fit_last_layers

    settings, parts = prepared.settings, prepared.parts

    def told(stage: str) -> Callable[[int, int], None] | None:
        return None if progress is None else lambda done, total: progress(stage, done, total)

    doing("posterior")
    n = prepared.n_train
    layer, fitted = fit_last_layers(prepared.model, prepared.train, stand_for=n, progress=told("posterior"))
    predictions = predict(prepared.model, layer, prepared.held_out, progress=told("held-out frames"))
    trajectory = np.asarray(prepared.held_out.trajectory)
    fit, select, part = (Part.of(predictions, trajectory, getattr(parts, name)) for name in PARTS)
    doing("recalibrating")
    found = recalibrate(layer, fit, select, seed=settings.seed)
    scored = set_screen(found.calibrated, (fit, select), settings)
    decision = StepDecision(found.calibrated, scored.screen, scored.flag_level)
    limits = set_thresholds(decision, part, settings)
    report_part = part if prepared.test is None else _test_part(prepared, layer, told("test frames"))
    tested = None if prepared.test is None else decision.of_predictions(report_part.predictions)
    doing("own dynamics")
    early = None if enough is None else Early(FEW, lambda maxima: enough(limits.error, maxima))
    own, outcome = _halt(prepared, found, scored, part, told("own dynamics"), early)
    calibration = Calibration(
        calibrated=found.calibrated,
        screen=scored.screen,
        levels=_levels(scored, own, outcome),
        flag=limits.flag,
        halt=outcome.threshold,
        error=limits.error,
        state_point=prepared.state_point,
        compositions=prepared.compositions,
        elements=tuple(int(z) for z in np.unique(predictions.numbers)),
        model_sha256=prepared.model_sha256,
        data_sha256=prepared.data_sha256,
        name=prepared.name,
        frames=quality.scored(limits.decided, part),
        test_frames=None if tested is None else quality.scored(tested, report_part),
    )
    done = Calibrating(prepared, found, scored, limits, part, report_part, own, outcome, calibration)
    calibration.report.update(_report(done, predictions, fitted))
    return done


def _test_part(prepared: Prepared, layer: LastLayer, progress: Callable[[int, int], None] | None) -> Part:
    if prepared.test is None:
        raise UncertaintyError("there are no test frames")
    ordered = Subset(prepared.test, in_time(prepared.test, np.arange(len(prepared.test))))
    return Part.of(predict(prepared.model, layer, ordered, progress=progress), np.asarray(ordered.trajectory))


def _halt(
    prepared: Prepared,
    found: Recalibrated,
    scored: Scored,
    part: Part,
    progress: Callable[[int, int], None] | None,
    early: Early | None,
) -> tuple[OwnRuns | None, Verdict]:
    settings = prepared.settings
    if prepared.no_halt is not None or prepared.temperature is None:
        return None, Verdict(None, prepared.no_halt)
    decision = StepDecision(found.calibrated, scored.screen, scored.halt_level)
    starts = prepared.held_out.frames(prepared.parts.threshold[start_rows_of(prepared)])
    # who says what is enough asks for no rates of other thresholds, which would take more exact scores
    low = scored.runs_level if early is None else None
    own = run_own_dynamics(
        prepared.model, decision, starts, settings, prepared.temperature, progress, early=early, low=low
    )
    if len(own.scores) < settings.blocks:  # it is for what these can show
        rate = max(settings.false_halt_rate, 1 / (len(own.scores) + 1))
        settings = settings.changed(false_halt_rate=rate, blocks=len(own.scores))
    outcome = verdict(own, decision.of_predictions(part.predictions).score, scored.halt_level, settings)
    if outcome.threshold is not None and (why := meaningless(outcome.threshold.value, starts)) is not None:
        outcome = replace(outcome, threshold=None, refused=why)
    return own, outcome


def _levels(scored: Scored, own: OwnRuns | None, outcome: Verdict) -> Levels:
    if own is None or outcome.threshold is None:
        return Levels(scored.flag_level)
    return Levels(scored.flag_level, scored.halt_level, None if own.low is None else scored.runs_level)


def meaningless(threshold: float, frames: Frames) -> str | None:
    """Why a threshold (eV/Angstrom) is none: errors as large as any force would pass it; None if it is one."""
    largest = float(np.sqrt(np.square(frames.forces[frames.force_mask]).sum(-1)).max())
    if threshold < largest:
        return None
    return (
        f"it would be {threshold:.3g} eV/A, and no force of the held-out frames is above {largest:.3g} eV/A: the model "
        "knows too little for a threshold to mean anything; train it on more frames, or for longer"
    )


def _report(done: Calibrating, predictions: Predictions, fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The object of ``equimd calibrate --json``, but the run."""
    prepared, found, calibration = done.prepared, done.found, done.calibration
    test = prepared.test is not None
    flag_decision, threshold = calibration.decision("flag")
    values = {
        "form": found.calibrated.forces.form,
        "forms": {kind: getattr(found.calibrated, kind).form for kind in ("forces", "energy")},
        **quality.frame_report(found, done.report_part, predictions, seed=prepared.settings.seed),
        "thresholds": quality.thresholds(calibration),
        "temperature_K": prepared.temperature,
        "meaning": threshold_meaning(calibration),
        "reported_on": {"frames": "test" if test else "threshold", "n": len(done.report_part.trajectory)},
        "partition": {"method": prepared.parts.method, "seed": prepared.parts.seed, "frames": prepared.parts.sizes},
        "comparison": {kind: quality.compared(getattr(found, kind)) for kind in ("forces", "energy")},
        "posterior": {
            name: {
                "sigma_noise": f.sigma_noise.tolist(),
                "prior_precision": f.prior_precision.tolist(),
                "log_evidence": float(f.log_evidence()),
            }
            for name, f in fitted.items()
        },
        "posterior_frames": {"used": len(prepared.train), "of": prepared.n_train},
        "screen": {
            **calibration.screen.to_json(),
            "flag": quality.screening(flag_decision.of_predictions(done.report_part.predictions), threshold),
        },
        "halt_refused": done.outcome.refused,
        "warnings": prepared.warnings,
    }
    if done.own is not None:
        values["dynamics"] = quality.dynamics(done.own, done.outcome)
    if calibration.halt is not None:
        decision, value = calibration.decision("halt")
        values["screen"]["halt"] = quality.screening(decision.of_predictions(done.report_part.predictions), value)
    return values


def save(done: Calibrating, data: Sequence[str] = (), folder: Path | None = None) -> Path:
    """Write posterior, calibration, partition and plots into the run: the calibration itself last, and whole.

    Args:
        data: names of the calibration frames, for whoever calibrates a better model alike.
        folder: of the calibration; by default that of its name.
    """
    from equimd.tasks.calibrate import plots

    doing("drawing the plots")
    folder = folder or done.prepared.folder
    done.calibration.report["data"] = list(data)
    done.calibration.report["error_bounds"] = [row.to_json() for row in rates_ladder(done.calibration)]
    write_json(folder / PARTITION_FILE, done.prepared.parts.to_json(), indent=None)
    plots.draw(done, folder)
    return done.calibration.save(done.prepared.run.path, folder)
