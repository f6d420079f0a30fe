"""Errors beside the covariances predicted for them, in the form that metrics and calibration work with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from equimd.errors import UncertaintyError
from equimd.shown import Shown


@dataclass(frozen=True, repr=False)
class Samples(Shown):
    """M errors of D components each (D = 3: the force on an atom; D = 1: an energy) along the principal axes of their
    predicted covariance, so that nothing computed from them depends on how a molecule is turned.

    Attributes:
        error: (M, D) predicted minus true.
        variance: (M, D) predicted, of each principal component.
        distance: (M,) feature distance u of the structure; ones where there is none.
        element: (M,) atomic number; zeros for energies.
        group: (M,) what is resampled together: the frame, or a block of frames close in time.
    """

    error: np.ndarray
    variance: np.ndarray
    distance: np.ndarray
    element: np.ndarray
    group: np.ndarray

    @classmethod
    def build(
        cls,
        error: np.ndarray,
        covariance: np.ndarray,
        *,
        distance: np.ndarray | None = None,
        element: np.ndarray | None = None,
        group: np.ndarray | None = None,
    ) -> Samples:
        """From errors (M,) with variances (M,), or errors (M, 3) with covariances (M, 3, 3).

        Raises:
            UncertaintyError: shapes that do not fit, or values that are not finite.
        """
        error, covariance = np.asarray(error, np.float64), np.asarray(covariance, np.float64)
        if error.ndim == 1:
            error, covariance = error[:, None], covariance.reshape(len(covariance), 1, 1)
        m, d = error.shape
        if covariance.shape != (m, d, d):
            raise UncertaintyError(f"{m} errors of {d} components, covariances of shape {covariance.shape}")
        if not m:
            raise UncertaintyError("no errors to compare uncertainties with")
        for name, array in (("errors", error), ("covariances", covariance)):
            bad = int((~np.isfinite(array)).any(tuple(range(1, array.ndim))).sum())
            if bad:
                raise UncertaintyError(f"{bad} of {m} {name} are not finite")
        if d == 1:
            variance = covariance[:, 0]
        else:
            variance, axes = np.linalg.eigh(covariance)
            error = np.einsum("mij,mi->mj", axes, error)
        filled = {"distance": (distance, 1.0), "element": (element, 0), "group": (group, None)}
        columns = {}
        for name, (value, default) in filled.items():
            column = np.arange(m) if value is None and default is None else value
            columns[name] = np.full(m, default) if column is None else np.asarray(column)
            if columns[name].shape != (m,):
                raise UncertaintyError(f"{name} has shape {columns[name].shape}, expected ({m},)")
        return cls(error, np.maximum(variance, 0.0), **columns)

    def __len__(self) -> int:
        return len(self.error)

    @property
    def dim(self) -> int:
        """D."""
        return self.error.shape[1]

    @property
    def sigma(self) -> np.ndarray:
        """(M,) predicted standard deviation of a component: sqrt(trace C / D)."""
        return np.sqrt(self.variance.mean(1))

    @property
    def size(self) -> np.ndarray:
        """(M,) length of each error."""
        return np.sqrt(np.square(self.error).sum(1))

    @property
    def chi2(self) -> np.ndarray:
        """(M,) squared Mahalanobis length r^T C^-1 r: chi-squared(D) if C is right.

        Raises:
            UncertaintyError: a predicted variance is zero.
        """
        if not (self.variance > 0).all():
            raise UncertaintyError("a predicted variance is zero", hint="calibrate first")
        return (np.square(self.error) / self.variance).sum(1)

    def take(self, rows: np.ndarray) -> Samples:
        """The samples ``rows`` (indices or a mask)."""
        return Samples(*(getattr(self, f.name)[rows] for f in fields(self)))

    def with_variance(self, variance: np.ndarray) -> Samples:
        """The same errors under other variances (M, D) along the same axes."""
        return replace(self, variance=variance)

    @staticmethod
    def concatenate(parts: Sequence[Samples]) -> Samples:
        """One after the other; groups stay apart."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(Samples)}
        groups, offset = [], 0
        for group in columns["group"]:
            index = np.unique(group, return_inverse=True)[1]
            groups.append(index + offset)
            offset += int(index.max(initial=-1)) + 1
        columns["group"] = groups
        return Samples(**{name: np.concatenate(arrays) for name, arrays in columns.items()})
