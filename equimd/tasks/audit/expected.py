"""What the calibrated sigmas predict of a model: the share of bad frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from equimd.data.dataset import ArrayDataset
from equimd.data.frames import Frames
from equimd.guard.calibration import Calibration
from equimd.guard.saved import load_calibration
from equimd.guard.score import Rule, exact_scores
from equimd.model.interface import Model
from equimd.run import Run
from equimd.uq.predict import Predictions, predict


@dataclass(frozen=True)
class Calibrated:
    """A model with its calibration."""

    model: Model
    calibration: Calibration
    sha256: str

    @classmethod
    def of(cls, folder: Path, name: str | None = None) -> Calibrated:
        """That of a run, with the calibration of that name, or the first.

        Raises:
            UncertaintyError: it has none of its weights, or of that name.
        """
        run = Run.open(folder)
        model, meta = run.load_model()
        return cls(model, load_calibration(run.path, meta["sha256"], name), meta["sha256"])

    def watch(self, error: float, factor: float = 1.0) -> Rule:
        """Halting above so many times the sigma at which the error bound equals an error."""
        return self.calibration.choose(float(factor * error))

    def shipped(self) -> Rule:
        """Halting where the calibration says.

        Raises:
            UncertaintyError: it has no threshold to halt at.
        """
        return self.calibration.choose("halt")

    def predictions(self, frames: Frames) -> Predictions:
        """Raw uncertainties of frames, and errors where they have labels."""
        return predict(self.model, self.calibration.calibrated.layer, ArrayDataset(frames))

    def bad_share(self, frames: Frames, error: float) -> float:
        """The share of frames with a force error above ``error`` on some atom that the sigmas predict; 1 of none.

        Gaussian errors of equal size in all directions: |r|^2 of an atom is a third of its trace(C) times chi-squared
        of 3 degrees; atoms are taken as independent.
        """
        from scipy.stats import chi2

        if not len(frames):
            return 1.0
        predictions = self.predictions(frames)
        sigma = exact_scores(self.calibration.calibrated, predictions)[1]
        inside = chi2.logcdf(3 * (error / sigma) ** 2, 3)
        return float(np.mean(-np.expm1(np.bincount(predictions.frame, inside, minlength=len(frames)))))
