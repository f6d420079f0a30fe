"""What a way to an uncertainty must offer to be compared."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset
from equimd.uq.predict import Predictions

#: Frames, and what the model and its last layer say of them -> the same frames with this method's raw variances (and
#: its own errors, where it predicts something else than the model).
Predict = Callable[[Dataset, Predictions], Predictions]


@dataclass(frozen=True)
class Method:
    """A fitted method.

    Attributes:
        name: in the names of rows; label: in tables and plots.
        predict: raw variances beside errors.
        step: energy, forces and uncertainty of one batch: what is timed.
        fit_seconds: what it took beyond the training of the model.
        trainings: models it takes.
    """

    name: str
    label: str
    predict: Predict
    step: Callable[[Batch], object]
    fit_seconds: float = 0.0
    trainings: int = 1
