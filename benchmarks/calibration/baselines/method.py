"""What a way to an uncertainty must offer to be compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset
from equimd.model.interface import Model
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Predictions

#: Frames, and what the model and its last layer say of them -> the same frames with this method's raw variances (and
#: its own errors, where it predicts something else than the model).
Predict = Callable[[Dataset, Predictions], Predictions]


@dataclass(frozen=True)
class Known:
    """What a method may be fitted to.

    Attributes:
        model: whose uncertainties are measured, trained on ``train``. layer: equimd's own posterior over its weights.
        members: models of an ensemble, as many as there are.
    """

    model: Model
    train: Dataset
    layer: LastLayer
    members: Sequence[Model] = ()


@dataclass(frozen=True)
class Baseline:
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
