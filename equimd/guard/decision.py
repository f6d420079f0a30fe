"""The decision of every step: a free screen of all frames, and the exact force sigma of those it does not clear.

The frame score is f = max_i sqrt(trace C_i), eV/Angstrom, with C_i the calibrated 3x3 covariance of the force on atom
i, model part and noise part. No rotation changes it. For a conservative model it costs as many reverse passes as the
last layer has weights. The screen s estimates f from the pooled features, which a plain energy and force call leaves:

    log s = a + b log v_E + c log u,        b, c >= 0

with v_E the raw variance of the energy and u the feature distance; least squares on frames that were not trained on.

A frame is *quiet* where s < level: its score is s itself, so below the level. Everywhere else its score is f. A
threshold is never below the level (:meth:`StepDecision.check`), so a quiet frame never exceeds one. The rates of a
threshold are those of this whole decision if the scores it was calibrated on were its scores, quiet ones included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.errors import UncertaintyError
from equimd.model.interface import CHUNK, Model
from equimd.uq.calibration import FORMS, Recalibration
from equimd.uq.posterior import LastLayer
from equimd.uq.predict import Calibrated, Predictions

MIN_FRAMES = 20  # frames that a screen is fitted to, at least
_TINY = 1e-30


@dataclass(frozen=True)
class Screen:
    """s = exp(a) v_E^b u^c, eV/Angstrom.

    Attributes:
        intercept, energy_power, distance_power: a, b and c.
        spread: standard deviation of log f - log s over the frames it was fitted to.
        n_frames: how many those were.
    """

    intercept: float
    energy_power: float
    distance_power: float
    spread: float
    n_frames: int

    @classmethod
    def fit(cls, energy_variance: np.ndarray, distance: np.ndarray, score: np.ndarray) -> Screen:
        """Least squares on (N,) frames. b and c are kept from being negative: of two features that rise together one
        would otherwise lower the screen of frames farther away than any it was fitted to.

        Raises:
            UncertaintyError: too few frames, or values that are not positive and finite.
        """
        from scipy.optimize import lsq_linear

        columns = [np.asarray(x, np.float64) for x in (energy_variance, distance, score)]
        if len(columns[0]) < MIN_FRAMES:
            raise UncertaintyError(
                f"{len(columns[0])} frames for the screen, it takes {MIN_FRAMES}", hint="more calibration frames"
            )
        for name, x in zip(("energy variances", "feature distances", "force scores"), columns, strict=True):
            bad = int((~(np.isfinite(x) & (x > 0))).sum())
            if bad:
                raise UncertaintyError(f"{bad} of {len(x)} {name} are not positive and finite")
        v, u, f = (np.log(x) for x in columns)
        design = np.stack([np.ones_like(v), v - v.mean(), u - u.mean()], 1)
        a, b, c = lsq_linear(design, f, bounds=([-np.inf, 0, 0], np.inf)).x
        rest = f - design @ (a, b, c)
        intercept = a - b * v.mean() - c * u.mean()
        return cls(float(intercept), float(b), float(c), float(rest.std(ddof=3)), len(f))

    def of(self, energy_variance: Tensor, distance: Tensor) -> Tensor:
        """s (A,) float64 from v_E and u (A,); NaN where either is NaN."""
        v, u = energy_variance.double().clamp(min=_TINY), distance.double().clamp(min=_TINY)
        return torch.exp(self.intercept + self.energy_power * v.log() + self.distance_power * u.log())

    def __call__(self, layer: LastLayer, features: Tensor, n_atoms: Tensor) -> Tensor:
        """s (A,) of features (A, p) of structures of n_atoms (A,); traceable, no branch depends on values."""
        return self.of(layer.energy.variance(features), layer.distance(features, n_atoms))

    def level_for(self, threshold: float, deviations: float = 2.0) -> float:
        """The level for a threshold on f that is given beforehand: so low that a frame that scores above the threshold
        is quiet only if the screen is wrong by more than that many of its standard deviations."""
        return threshold * math.exp(-deviations * self.spread)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Screen:
        """Undo :meth:`to_json`.

        Raises:
            UncertaintyError: a value is missing.
        """
        try:
            return cls(**{f.name: values[f.name] for f in fields(cls)})
        except KeyError as error:
            raise UncertaintyError(f"the saved screen lacks {error}", hint="calibrate again") from None


def force_sigma(recalibration: Recalibration, variance: Tensor, distance: Tensor, element: Tensor) -> Tensor:
    """sqrt(trace C) of each atom (M,), eV/Angstrom, float64; 0 for atomic number 0.

    The trace needs no 3x3 matrix: whatever the form, trace C = 3 (m v + noise).

    Args:
        variance: (M,) raw v = trace V / 3. distance: (M,) u of the atom's structure. element: (M,) atomic numbers.
    """
    form = FORMS[recalibration.form]
    v, u = variance.double().clamp(min=_TINY), distance.double().clamp(min=_TINY)
    spread = u**recalibration.distance_power
    scale, noise = (_by_element(table, element) for table in (recalibration.scale, recalibration.noise))
    model = scale * v**recalibration.power * spread
    rest = noise.square() * spread if form.total else noise.square()
    return torch.where(element > 0, (3 * (model + rest)).sqrt(), 0.0)


def _by_element(values: Mapping[int, float], element: Tensor) -> Tensor:
    table = torch.full((256,), values[0], dtype=torch.float64)
    for z, value in values.items():
        table[z] = value
    return table.to(element.device)[element]


def exact_scores(calibrated: Calibrated, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """f (N,) of every frame of a data set, and sqrt(trace C_i) (M,) of every atom, eV/Angstrom."""
    variance = np.trace(predictions.force_covariance, axis1=1, axis2=2) / 3
    distance = predictions.distance[predictions.frame]
    element = torch.from_numpy(predictions.numbers.astype(np.int64))
    atoms = force_sigma(calibrated.forces, torch.from_numpy(variance), torch.from_numpy(distance), element).numpy()
    return predictions.per_frame(atoms)[0], atoms


@dataclass(frozen=True)
class Decided:
    """N frames as the decision sees them: the screen, the exact score, and the score it gives, (N,) eV/Angstrom."""

    screen: np.ndarray
    exact: np.ndarray
    score: np.ndarray
    level: float

    @property
    def exact_share(self) -> float:
        """How many of the frames need the exact covariance, 0..1."""
        return float((~(self.screen < self.level)).mean())

    def missed(self, threshold: float) -> tuple[int, int]:
        """Frames whose exact score exceeds the threshold although the screen cleared them, and all that exceed it."""
        over = self.exact > threshold
        return int((over & (self.screen < self.level)).sum()), int(over.sum())


@dataclass(frozen=True)
class StepDecision:
    """The score that molecular dynamics is judged by; see the module's docstring.

    Attributes:
        level: of the screen, eV/Angstrom; frames below it are quiet. 0 makes every score exact.
    """

    calibrated: Calibrated
    screen: Screen
    level: float

    def __post_init__(self) -> None:
        if not self.level >= 0:
            raise UncertaintyError(f"a level of {self.level} eV/Angstrom for the screen", hint="0 or above")

    def screened(self, features: Tensor, n_atoms: Tensor) -> Tensor:
        """s (A,) of pooled features (A, p)."""
        return self.screen(self.calibrated.layer, features, n_atoms)

    def quiet(self, screen: Tensor) -> Tensor:
        """(A,) bool: cleared by the screen. What is not a number is not quiet."""
        return screen < self.level

    def force_sigma(self, model: Model, batch: Batch, *, chunk: int = CHUNK) -> Tensor:
        """Exact sqrt(trace C_i) of each slot (N,) of a batch, eV/Angstrom, 0 in padded ones."""
        layer = self.calibrated.layer
        rows = model.rows(batch, width=layer.forces.width, chunk=chunk)
        variance = layer.forces.variance(rows.forces).mean(-1)
        distance = layer.distance(rows.energy, batch.n_atoms)[batch.batch]
        return force_sigma(self.calibrated.forces, variance, distance, batch.atomic_numbers)

    def check(self, threshold: float) -> float:
        """The threshold, if it may be used with this decision.

        Raises:
            UncertaintyError: it is below the level, so that quiet frames could exceed it.
        """
        if not threshold >= self.level:
            raise UncertaintyError(
                f"a threshold of {threshold:.4g} eV/Angstrom is below the screen's level of {self.level:.4g}",
                hint="a lower level",
            )
        return threshold

    def of_predictions(self, predictions: Predictions) -> Decided:
        """The scores of a data set whose exact uncertainties are known."""
        variance, distance = (torch.from_numpy(x) for x in (predictions.energy_variance, predictions.distance))
        screen = self.screen.of(variance, distance).numpy()
        exact = exact_scores(self.calibrated, predictions)[0]
        return Decided(screen, exact, np.where(screen < self.level, screen, exact), self.level)
