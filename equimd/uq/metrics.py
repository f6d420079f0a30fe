"""How well predicted variances match errors. All are invariant to rotations; each is tested against a closed form.

Definitions: ZMS, mean squared z (Pernot, J. Chem. Phys. 157, 144103 (2022)); ENCE (Levi et al., Sensors 22, 5540
(2022)); miscalibration area (Kuleshov et al., ICML 2018; Tran et al., Mach. Learn.: Sci. Technol. 1, 025006 (2020));
CRPS of a Gaussian (Gneiting and Raftery, JASA 102, 359 (2007), eq. 21).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from equimd.files import plain
from equimd.uq.resampling import bootstrap
from equimd.uq.samples import Samples

LEVELS = (50, 68, 90, 95)
ENCE_BINS = 20
MIN_CLASS = 20  # fewer samples of a class than this say nothing about a ranking


def zms(samples: Samples) -> float:
    """Mean of r^T C^-1 r / D; 1 if the covariances are right, above it if they are too small."""
    return float(samples.chi2.mean() / samples.dim)


def coverage(samples: Samples, level: float) -> float:
    """The share of errors inside the region that holds ``level`` (0..1) of a Gaussian: r^T C^-1 r <= chi2_D(level)."""
    from scipy.stats import chi2

    return float((samples.chi2 <= chi2.ppf(level, samples.dim)).mean())


def nll_terms(samples: Samples) -> np.ndarray:
    """(M,) negative log likelihood of a Gaussian, nats a component."""
    terms = np.square(samples.error) / samples.variance + np.log(2 * np.pi * samples.variance)
    return 0.5 * terms.mean(1)


def nll(samples: Samples) -> float:
    """Mean negative log likelihood of a Gaussian, nats a component."""
    return float(nll_terms(samples).mean())


def crps(samples: Samples) -> float:
    """Continuous ranked probability score of a Gaussian, mean over principal components, in the unit of the error."""
    from scipy.special import ndtr

    sigma = np.sqrt(samples.variance)
    z = samples.error / sigma
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return float((sigma * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))).mean())


def reliability(samples: Samples, bins: int = ENCE_BINS) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Root mean predicted variance and root mean squared error of a component, in bins of equal count along sigma.

    Returns:
        predicted (bins,), observed (bins,), counts (bins,); fewer bins where there are fewer samples.
    """
    order = np.argsort(samples.sigma, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    predicted = np.array([np.sqrt(samples.variance[p].mean()) for p in parts])
    observed = np.array([np.sqrt(np.square(samples.error[p]).mean()) for p in parts])
    return predicted, observed, np.array([len(p) for p in parts])


def ence(samples: Samples, bins: int = ENCE_BINS) -> float:
    """Expected normalised calibration error: mean of |RMV - RMSE| / RMV over equal-count bins.

    A perfect model of n samples has about sqrt(bins / (pi D n)), not zero.
    """
    predicted, observed, _ = reliability(samples, bins)
    return float((np.abs(predicted - observed) / predicted).mean())


def calibration_curve(samples: Samples, levels: np.ndarray) -> np.ndarray:
    """Observed coverage at each nominal level (0..1)."""
    return np.searchsorted(np.sort(_levels(samples)), levels, side="right") / len(samples)


def miscalibration_area(samples: Samples) -> float:
    """The area between observed and nominal coverage over all levels, exactly; 0 at best, 1/2 at worst."""
    edges = np.concatenate([[0.0], np.sort(_levels(samples)), [1.0]])
    steps = np.arange(len(samples) + 1) / len(samples)

    def integral(p: np.ndarray) -> np.ndarray:
        return (p - steps) * np.abs(p - steps) / 2

    return float((integral(edges[1:]) - integral(edges[:-1])).sum())


def _levels(samples: Samples) -> np.ndarray:
    """(M,) the nominal coverage at which each error would just be inside."""
    from scipy.special import gammainc

    return gammainc(samples.dim / 2, samples.chi2 / 2)


def sharpness(samples: Samples) -> float:
    """Root mean predicted variance of a component, in the unit of the error: smaller is sharper, if calibrated."""
    return float(np.sqrt(samples.variance.mean()))


def spearman(samples: Samples) -> float:
    """Rank correlation of predicted sigma and length of the error; NaN where either is constant."""
    return rank_correlation(samples.sigma, samples.size)


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rho with mid-ranks for ties; NaN where either is constant."""
    from scipy.stats import rankdata

    ranks = [rankdata(x) - (len(x) + 1) / 2 for x in (a, b)]
    norm = np.sqrt(np.square(ranks[0]).sum() * np.square(ranks[1]).sum())
    return float(ranks[0] @ ranks[1] / norm) if norm > 0 else float("nan")


def auroc(scores: np.ndarray, bad: np.ndarray) -> float | None:
    """Probability that a bad sample scores higher than a good one (Mann-Whitney, ties count half).

    Returns:
        None where a class has fewer than 20 samples.
    """
    from scipy.stats import rankdata

    bad = np.asarray(bad, bool)
    n_bad, n_good = int(bad.sum()), int((~bad).sum())
    if min(n_bad, n_good) < MIN_CLASS:
        return None
    return float((rankdata(scores)[bad].sum() - n_bad * (n_bad + 1) / 2) / (n_bad * n_good))


METRICS: dict[str, Callable[[Samples], float]] = {
    "zms": zms,
    **{f"coverage_{level}": partial(coverage, level=level / 100) for level in LEVELS},
    "nll": nll,
    "crps": crps,
    "ence": ence,
    "miscalibration_area": miscalibration_area,
    "sharpness": sharpness,
    "spearman": spearman,
}


def summary(samples: Samples, *, resamples: int = 200, seed: int = 0, level: float = 0.95) -> dict[str, Any]:
    """Every metric, its bootstrap interval over groups, and ZMS and coverage of each element.

    Returns:
        The metrics by name (``crps`` and ``sharpness`` in eV or eV/Angstrom, ``nll`` in nats a component), ``n``
        samples, ``n_groups``, ``intervals`` {metric: [low, high]} and, for forces, ``per_element`` {symbol: {...}}.
    """
    found: dict[str, Any] = {"n": len(samples), "n_groups": len(np.unique(samples.group))}
    found |= {name: plain(metric(samples)) for name, metric in METRICS.items()}
    found["intervals"] = intervals(samples, resamples=resamples, seed=seed, level=level)
    if samples.element.any():
        from ase.data import chemical_symbols

        found["per_element"] = {
            chemical_symbols[z]: _element(samples.take(samples.element == z)) for z in np.unique(samples.element)
        }
    return found


def intervals(
    samples: Samples, *, resamples: int = 200, seed: int = 0, level: float = 0.95
) -> dict[str, list[float | None]]:
    """Bootstrap interval of every metric, resampling groups."""

    def every(rows: np.ndarray) -> np.ndarray:
        drawn = samples.take(rows)
        return np.array([metric(drawn) for metric in METRICS.values()])

    low, high = bootstrap(every, samples.group, resamples=resamples, seed=seed, level=level)
    return {name: [plain(float(low[k])), plain(float(high[k]))] for k, name in enumerate(METRICS)}


def _element(samples: Samples) -> dict[str, Any]:
    names = ["zms", *(f"coverage_{level}" for level in LEVELS)]
    return {"n": len(samples), **{name: plain(METRICS[name](samples)) for name in names}}
