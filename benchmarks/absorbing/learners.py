"""What is done with the labels of refused frames: the readout absorbs them, or the model is trained on."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from equimd.benchmarks import kept, models
from equimd.benchmarks.absorbing.guarded import Plan, Runs
from equimd.benchmarks.absorbing.readout import ReadoutModel, absorb
from equimd.benchmarks.options import say
from equimd.data.dataset import ArrayDataset, Dataset
from equimd.data.frames import Frames
from equimd.data.system import System
from equimd.tasks.audit.expected import Calibrated
from equimd.tasks.calibrate.settings import CalibrationSettings
from equimd.tasks.train import train
from equimd.uq.laplace import fit_posterior
from equimd.uq.posterior import FeatureDistance, LastLayer

FLAG_RATE = 0.05  # of flags, which nothing here looks at: the fewer calibration frames it takes


@dataclass(frozen=True)
class Start:
    """A trained and calibrated run, and the frames that it had and will have.

    Attributes:
        run: its folder. train, val, calibration: 300 K. starts: of the runs. tests: by temperature.
    """

    run: Path
    train: Frames
    val: Frames
    calibration: Dataset
    starts: Frames
    tests: dict[str, Frames]
    folder: Path
    seed: int

    def calibrated(self, run: Path) -> Calibrated:
        """A run with its calibration, made now if it has none."""
        settings = CalibrationSettings(false_alarm_rate=FLAG_RATE, halt=False, seed=self.seed)
        found = kept.calibrations(run, self.calibration, settings, self.folder / "calibrated")[0]
        return Calibrated(models.load_model(run), found, models.weights_sha256(run))


class Absorbing:
    """The readout and its posterior are moved on by the labels; everything else of the calibration stays."""

    at_once = True

    def __init__(self, start: Start, plan: Plan) -> None:
        self.base = self.known = start.calibrated(start.run)
        self.frames = start.train
        self.fitted = fit_posterior(self.base.model, ArrayDataset(start.train), targets="both")

    def learn(self, new: Frames) -> None:
        """No training."""
        absorb(self.fitted, ArrayDataset(new))
        self.frames = Frames.concatenate([self.frames, new])
        posterior = self.fitted.posterior()
        distance = FeatureDistance.fit(self.base.model, ArrayDataset(self.frames))
        calibration = self.base.calibration
        calibrated = replace(calibration.calibrated, layer=LastLayer(posterior, posterior, distance))
        model: Any = self.base.model
        model = ReadoutModel(model, self.fitted.posterior_mean())
        self.known = Calibrated(model, replace(calibration, calibrated=calibrated), model.identity())


class Retraining:
    """A warm start on all labels, and a calibration of it on the same frames as before."""

    at_once = False

    def __init__(self, start: Start, plan: Plan) -> None:
        self.start, self.plan, self.run, self.round = start, plan, start.run, 0
        self.known, self.frames = start.calibrated(start.run), start.train

    def learn(self, new: Frames) -> None:
        """As ``train --init``, for so many seconds."""
        self.frames = Frames.concatenate([self.frames, new])
        self.round += 1
        out = self.start.folder / f"retrained-{self.start.seed}-{self.round}"
        self.run = train(
            ArrayDataset(self.frames),
            val_data=ArrayDataset(self.start.val),
            splits=(1.0, 0.0, 0.0),
            init=str(self.run),
            max_time=self.plan.retrain_s,
            threads=1,
            compile="off",
            out=out,
            overwrite=True,
        ).run
        self.known = self.start.calibrated(self.run)


#: Ways to learn: ``known`` is the model of the moment; ``at_once``: at each halt, else when all runs have halted.
LEARNERS: dict[str, type[Absorbing | Retraining]] = {"absorb": Absorbing, "retrain": Retraining}


def loop(name: str, start: Start, plan: Plan) -> dict[str, Any]:
    """Passes through all runs, each halt answered by labels, until all come to their end with few bad frames.

    A pass begins all runs anew. The loop ends without that where labels, time or passes are spent, or a pass with too
    many bad frames had no halt: then there is nothing more to learn from. Judging counts as neither label nor time.
    """
    learner = LEARNERS[name](start, plan)
    labels = halts = passes = 0
    seconds, share, complete, done, reached = 0.0, None, 0, 0.0, False

    def spent() -> bool:
        return labels >= plan.labels or seconds >= 60 * plan.minutes

    while passes < plan.passes and not reached and not spent():
        runs, before = Runs.begin(start.starts, plan, _seed(start, passes)), halts
        while runs.complete < plan.replicas and not spent():
            began = time.monotonic()
            refused = runs.advance(learner.known, plan, at_once=learner.at_once)
            new = runs.labelled([x for halt in refused for x in halt][: plan.labels - labels], plan)
            if new is not None:
                learner.learn(new)
                labels += len(new)
            halts, seconds = halts + len(refused), seconds + time.monotonic() - began
            say(f"  {name}: {labels} labels, {seconds / 60:.1f} min, {int(runs.left.sum())} steps to go")
        passes, complete, share = passes + 1, runs.complete, runs.bad_share(plan)
        done = 1 - float(runs.left.mean()) / plan.steps
        reached = complete == plan.replicas and share is not None and share <= plan.share
        say(f"  {name}, pass {passes}: {complete} complete, bad frames {share}")
        if halts == before:
            break
    counts = {"labels": labels, "halts": halts, "passes": passes, "minutes": seconds / 60, "reached": reached}
    return {**counts, "complete": complete, "done": done, "bad_share": share, **judged(learner.known, start, plan)}


def judged(known: Calibrated, start: Start, plan: Plan) -> dict[str, Any]:
    """A model on its own: fresh runs without anybody's answer, and force errors on test frames, meV/Angstrom."""
    runs = Runs.begin(start.starts, plan, _seed(start, plan.passes))
    runs.advance(known, plan)
    done = 1 - float(runs.left.mean()) / plan.steps
    out = {"fresh_complete": runs.complete, "fresh_done": done, "fresh_bad_share": runs.bad_share(plan)}
    for split, frames in start.tests.items():
        found = models.predicted(known.model, System.build(frames.numbers[0]), frames.positions)
        out[f"forces_mae_{split}"] = 1e3 * float(np.abs(found - frames.forces).mean())
    return out


def _seed(start: Start, passes: int) -> int:
    return 1_000_000 * (start.seed + 1) + 100_000 * passes
