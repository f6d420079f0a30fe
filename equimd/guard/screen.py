"""The screen: an estimate of the force sigma of a frame that costs nothing.

The score of a frame (:mod:`equimd.guard.score`) is f = max_i sqrt(trace C_i), eV/Angstrom. The screen s estimates it
from the pooled features, which a plain energy and force call leaves:

    log s = a + b log v_E + c log u,        b, c >= 0

with v_E the raw variance of the energy and u the feature distance; least squares on frames that were not trained on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.errors import UncertaintyError
from equimd.files import typed
from equimd.uq.posterior import LastLayer

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
        """s (A,) of features (A, P) of structures of n_atoms (A,); traceable, no branch depends on values."""
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
            ValueError: one is no number.
        """
        if missing := [f.name for f in fields(cls) if f.name not in values]:
            raise UncertaintyError(f"the saved screen lacks '{missing[0]}'", hint="calibrate again")
        return typed(cls, values)
