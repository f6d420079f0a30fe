"""From raw last-layer variances to calibrated ones: a few forms, fitted by maximum likelihood on held-out frames.

For the error r of D components (a force: 3, an energy: 1) with raw covariance V, v = trace V / D, feature distance u:

    C = m ((1 - t) V + t v I) + s0^2 I,        m = a v^(g-1) u^h

The first term is the model part (what the last layer does not know), the second the noise part. ``total`` forms let
the noise part grow with u^h too: what the frozen features miss grows as well when a frame is unfamiliar. Since v and u
do not change under rotation, C turns with the molecule as V does.

r ~ N(0, C) is fitted on one part of the held-out frames and forms are compared by their likelihood on another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch

from equimd.errors import UncertaintyError
from equimd.files import typed
from equimd.registry import Registry
from equimd.uq.metrics import nll_terms
from equimd.uq.resampling import bootstrap
from equimd.uq.samples import Samples

Array = Any  # NumPy arrays, or torch tensors in float64: the formula below is written in what both understand
MIN_SAMPLES = 20  # errors that a form is fitted to, at least, for each of its scales


@dataclass(frozen=True)
class Form:
    """Which parameters of C are free; those that are not stay at g = 1, h = 0, t = 0."""

    name: str
    power: bool = False
    distance: bool = False
    total: bool = False
    isotropic: bool = False
    per_element: bool = False

    @property
    def description(self) -> str:
        """As a formula."""
        z = "_Z" if self.per_element else ""
        base = "((1-t) V + t v I)" if self.isotropic else "V"
        model = f"a{z} {base}" + " v^(g-1)" * self.power
        if self.distance and self.total:
            return f"({model} + s0{z}^2 I) u^h"
        return model + " u^h" * self.distance + f" + s0{z}^2 I"


FORMS: Registry[Form] = Registry(
    "form of calibration",
    "FORMS",
    {
        form.name: form
        for form in (
            Form("scale"),
            Form("power", power=True),
            Form("distance", distance=True),
            Form("distance_total", distance=True, total=True),
            Form("power_distance", power=True, distance=True),
            Form("isotropic_distance_total", distance=True, total=True, isotropic=True),
            Form("per_element", per_element=True),
            Form("per_element_distance_total", distance=True, total=True, per_element=True),
            Form("per_element_power_distance_total", power=True, distance=True, total=True, per_element=True),
        )
    },
)


@dataclass(frozen=True)
class Recalibration:
    """A form with its parameters.

    Attributes:
        form: name in ``FORMS``.
        scale: a, by atomic number; key 0 for elements not listed, and the only one if not per element. Unit: error unit
            squared over v^g.
        noise: s0, in the unit of the error, by atomic number like ``scale``.
        power, distance_power, isotropic: g, h and t.
    """

    form: str
    scale: dict[int, float]
    noise: dict[int, float]
    power: float = 1.0
    distance_power: float = 0.0
    isotropic: float = 0.0

    def factors(self, variance: Array, distance: Array, element: Array | None = None) -> tuple[Array, Array]:
        """m and the noise variance of each, from v (M,), u (M,) and atomic numbers (M,)."""
        v, u = variance.clip(_TINY), distance.clip(_TINY)
        m = _by_element(self.scale, element) * v ** (self.power - 1) * u**self.distance_power
        noise_power = self.distance_power if FORMS[self.form].total else 0.0
        return m, _by_element(self.noise, element) ** 2 * u**noise_power

    def sigma(self, variance: Array, distance: Array, element: Array) -> Array:
        """sqrt(trace C) of forces (M,), whatever the form: trace C = 3 (m v + noise); 0 for atomic number 0."""
        m, noise = self.factors(variance, distance, element)
        return (3 * (m * variance + noise)) ** 0.5 * (element > 0)

    def variance(self, variance: np.ndarray, distance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Model part and noise part of scalar variances (M,), in the unit of the error squared."""
        m, noise = self.factors(variance, distance)
        return m * variance, noise

    def covariance(
        self, covariance: np.ndarray, distance: np.ndarray, element: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Model part (M, 3, 3) and noise part (M,), the variance of each component; C = model + noise I."""
        v = np.trace(covariance, axis1=1, axis2=2) / 3
        m, noise = self.factors(v, distance, element)
        mixed = (1 - self.isotropic) * covariance + (self.isotropic * v)[:, None, None] * np.eye(3)
        return m[:, None, None] * mixed, noise

    def apply(self, samples: Samples) -> Samples:
        """Samples with calibrated variances from raw ones."""
        v = samples.variance.mean(1)
        m, noise = self.factors(v, samples.distance, samples.element)
        mixed = (1 - self.isotropic) * samples.variance + (self.isotropic * v)[:, None]
        return samples.with_variance(m[:, None] * mixed + noise[:, None])

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recalibration:
        """Undo :meth:`to_json`, also after JSON made text of the atomic numbers.

        Raises:
            UncertaintyError: a form this version does not know.
            ValueError: a value is missing, or of another type.
        """
        if values.get("form") not in FORMS:
            raise UncertaintyError(
                f"unknown form of calibration '{values.get('form')}'",
                hint="update equimd, or name the extension that brings it",
            )
        found = typed(cls, values)
        if not all(0 in table and set(table) <= set(range(256)) for table in (found.scale, found.noise)):
            raise UncertaintyError("a calibration without its scale or noise", hint="calibrate again")
        return found


@dataclass(frozen=True)
class Comparison:
    """Forms fitted on one part of the frames, compared on another.

    Attributes:
        best: the one with the largest held-out likelihood.
        fitted: every form by name.
        held_out: name -> held-out negative log likelihood, nats a component.
        behind: name -> how much worse than the best, with its 95 % bootstrap interval over groups.
        failed: name -> why a form could not be fitted.
    """

    best: Recalibration
    fitted: dict[str, Recalibration]
    held_out: dict[str, float]
    behind: dict[str, tuple[float, float, float]]
    failed: dict[str, str] = field(default_factory=dict)


_TINY = 1e-30


def _by_element(values: Mapping[int, float], element: Array | None) -> Array:
    if element is None:
        return values[0]
    table = np.full(256, values[0])
    for z, value in values.items():
        table[z] = value
    return table[element] if isinstance(element, np.ndarray) else torch.from_numpy(table).to(element.device)[element]


class _Likelihood:
    """Mean negative log likelihood of some samples under a form, and its gradient.

    Parameters theta = [log a (each scale), log s0^2 (each scale), g - 1, h, t], in units of the mean squared error and
    the mean raw variance, so that all are of order one.
    """

    def __init__(self, samples: Samples, form: Form) -> None:
        self.form, v = form, samples.variance.mean(1)
        if not (v > 0).any():
            raise UncertaintyError("all raw variances are zero: there is nothing to scale")
        self.unit_v = float(np.exp(np.log(v[v > 0]).mean()))
        self.unit_r = float(np.square(samples.error).mean())
        if not self.unit_r > 0:
            raise UncertaintyError("all errors are zero: there is nothing to calibrate on")
        self.squared = np.square(samples.error) / self.unit_r
        self.raw, self.v = samples.variance / self.unit_v, np.maximum(v / self.unit_v, _TINY)
        self.log_v, self.log_u = np.log(self.v), np.log(np.maximum(samples.distance, _TINY))
        elements = np.unique(samples.element) if form.per_element else np.zeros(1, np.int64)
        self.elements = elements
        self.index = np.searchsorted(elements, samples.element) if form.per_element else np.zeros(len(v), np.int64)
        self.k = len(elements)
        fewest = int(np.bincount(self.index, minlength=self.k).min())
        if fewest < MIN_SAMPLES:
            raise UncertaintyError(
                f"{fewest} errors for one of {self.k} scales of form '{form.name}', it takes {MIN_SAMPLES}",
                hint="more calibration frames",
            )

    def start(self, share: float) -> np.ndarray:
        """Parameters that give the share of the variance to the noise part."""
        theta = np.zeros(2 * self.k + 3)
        theta[: self.k] = np.log((1 - share) / self.v.mean())
        theta[self.k : 2 * self.k] = np.log(share)
        return theta

    def bounds(self) -> list[tuple[float, float]]:
        f = self.form
        free = [(-30.0, 30.0)] * self.k + [(-20.0, 5.0)] * self.k
        return [
            *free,
            (-1.0, 2.0) if f.power else (0.0, 0.0),
            (0.0, 6.0) if f.distance else (0.0, 0.0),
            (0.0, 1.0) if f.isotropic else (0.0, 0.0),
        ]

    def __call__(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        k = self.k
        log_a, log_noise, (g1, h, t) = theta[:k], theta[k : 2 * k], theta[2 * k :]
        spread = h * self.log_u
        m = np.exp(np.clip(log_a[self.index] + g1 * self.log_v + spread, -60, 60))
        noise = np.exp(np.clip(log_noise[self.index] + (spread if self.form.total else 0.0), -60, 60))
        mixed = (1 - t) * self.raw + t * self.v[:, None]
        model = m[:, None] * mixed
        c = model + noise[:, None]
        value = 0.5 * (np.log(c) + self.squared / c)
        slope = 0.5 * (1 - self.squared / c) / c  # d value / d c
        by_model, by_noise = (slope * model).sum(1), slope.sum(1) * noise
        gradient = np.concatenate(
            [
                np.bincount(self.index, by_model, minlength=k),
                np.bincount(self.index, by_noise, minlength=k),
                [
                    by_model @ self.log_v,
                    (by_model + by_noise if self.form.total else by_model) @ self.log_u,
                    (slope * m[:, None] * (self.v[:, None] - self.raw)).sum(),
                ],
            ]
        )
        return float(value.mean()), gradient / value.size

    def result(self, theta: np.ndarray) -> Recalibration:
        """Parameters in the units of the samples."""
        k, g = self.k, float(theta[-3]) + 1
        scale = np.exp(theta[:k]) * self.unit_r / self.unit_v**g
        noise = np.sqrt(np.exp(theta[k : 2 * k]) * self.unit_r)

        def table(values: np.ndarray) -> dict[int, float]:
            typical = float(np.exp(np.log(values) @ np.bincount(self.index, minlength=k) / len(self.index)))
            listed = {int(z): float(x) for z, x in zip(self.elements, values, strict=True)}
            return {0: typical} | listed

        return Recalibration(self.form.name, table(scale), table(noise), g, float(theta[-2]), float(theta[-1]))


def fit_form(samples: Samples, form: str) -> Recalibration:
    """Fit one form by maximum likelihood, from three starts.

    Args:
        samples: raw variances beside the errors of frames the model was not trained on.

    Raises:
        UncertaintyError: no such form, too few samples, or errors or variances that are all zero.
    """
    from scipy.optimize import minimize

    if form not in FORMS:
        raise UncertaintyError(f"no form of calibration '{form}'", hint="one of " + ", ".join(FORMS))
    likelihood = _Likelihood(samples, FORMS[form])
    options = {"ftol": 1e-13, "gtol": 1e-8, "maxiter": 1000}
    tries = [
        minimize(
            likelihood, likelihood.start(s), jac=True, method="L-BFGS-B", bounds=likelihood.bounds(), options=options
        )
        for s in (0.05, 0.5, 0.95)
    ]
    return replace(likelihood.result(min(tries, key=lambda t: t.fun).x), form=form)


def compare_forms(
    fit_on: Samples, compare_on: Samples, forms: Sequence[str] | None = None, *, resamples: int = 200, seed: int = 0
) -> Comparison:
    """Fit forms on ``fit_on`` and keep the one with the largest likelihood on ``compare_on``.

    Args:
        forms: names; None takes all that mean something (per-element ones for forces of several elements only).

    Raises:
        UncertaintyError: no form could be fitted.
    """
    names = list(FORMS) if forms is None else list(forms)
    if forms is None:
        if len(np.unique(fit_on.element)) < 2:
            names = [n for n in names if not FORMS[n].per_element]
        if fit_on.dim == 1:
            names = [n for n in names if not FORMS[n].isotropic]
    fitted, failed = {}, {}
    for name in names:
        try:
            fitted[name] = fit_form(fit_on, name)
        except UncertaintyError as error:
            failed[name] = error.what
    if not fitted:
        raise UncertaintyError(next(iter(failed.values()), "no form of calibration asked for"))
    calibrated = {name: r.apply(compare_on) for name, r in fitted.items()}
    terms = {name: nll_terms(s) for name, s in calibrated.items()}
    held_out = {name: float(t.mean()) for name, t in terms.items()}
    best = min(held_out, key=lambda name: held_out[name])
    gaps = np.stack([found - terms[best] for found in terms.values()], 1)
    low, high = bootstrap(lambda rows: gaps[rows].mean(0), compare_on.group, resamples=resamples, seed=seed)
    behind = {n: (float(gaps[:, k].mean()), float(low[k]), float(high[k])) for k, n in enumerate(terms)}
    return Comparison(fitted[best], fitted, held_out, behind, failed)
