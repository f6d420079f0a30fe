"""Frames of a trajectory are not independent: correlation times, effective sample sizes, and resampling by blocks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from equimd.errors import UncertaintyError

SIGNIFICANT = 2.0  # standard deviations, from which on an autocorrelation is one


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray | float],
    group: np.ndarray,
    *,
    resamples: int = 200,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of a statistic when whole groups are drawn with replacement (Efron 1979; Kuensch 1989).

    Args:
        statistic: of the rows it is given (indices, repeated as drawn).
        group: (M,) which rows belong together: frames, or blocks of frames as of :func:`blocks`.

    Returns:
        The lower and the upper end, of the statistic's shape.
    """
    _, index = np.unique(group, return_inverse=True)
    order = np.argsort(index, kind="stable")
    counts = np.bincount(index)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(resamples):
        drawn = rng.integers(len(counts), size=len(counts))
        n = counts[drawn]
        offsets = np.arange(n.sum()) - np.repeat(np.cumsum(n) - n, n)
        found.append(statistic(order[np.repeat(starts[drawn], n) + offsets]))
    tail = (1 - level) / 2
    values = np.array(found)
    empty = np.isnan(values).all(0)
    low, high = np.nanquantile(np.where(empty, 0.0, values), [tail, 1 - tail], axis=0)
    return np.where(empty, np.nan, low), np.where(empty, np.nan, high)


def blocks(trajectory: np.ndarray, length: int) -> np.ndarray:
    """(M,) a number for each run of ``length`` frames that follow each other in one trajectory; rows in order of time.

    Raises:
        UncertaintyError: a length below 1.
    """
    if length < 1:
        raise UncertaintyError(f"blocks of {length} frames")
    trajectory = np.asarray(trajectory)
    within = np.empty(len(trajectory), np.int64)
    for t in np.unique(trajectory):
        rows = np.flatnonzero(trajectory == t)
        within[rows] = np.arange(len(rows)) // length
    _, index = np.unique(np.stack([trajectory, within], 1), axis=0, return_inverse=True)
    return index.reshape(-1)


def correlation_time(values: np.ndarray, trajectory: np.ndarray | None = None, *, window: float = 5.0) -> float:
    """Integrated autocorrelation time tau = 1 + 2 sum_t rho(t), in frames; n / tau samples are independent.

    The sum ends at the first lag above ``window`` times tau (Sokal 1989). Autocovariances about the common mean are
    averaged over trajectories, so that slow drifts from one to the next count as correlation. Lags of independent
    values are not zero but scatter about it, each by one over the root of its number of pairs (Bartlett 1946): there is
    no correlation where both the first lag and the sum are within two of their standard deviations.

    Returns:
        At least 1; 1 for values that do not vary, or that may as well be independent.
    """
    values = np.asarray(values, np.float64)
    trajectory = np.zeros(len(values), np.int64) if trajectory is None else np.asarray(trajectory)
    deviation = values - values.mean()
    parts = [deviation[trajectory == t] for t in np.unique(trajectory)]
    longest = max(len(p) for p in parts)
    total, count = np.zeros(longest), np.zeros(longest)
    for part in parts:
        n = len(part)
        spectrum = np.abs(np.fft.rfft(part, 2 * n)) ** 2
        total[:n] += np.fft.irfft(spectrum, 2 * n)[:n]
        count[:n] += np.arange(n, 0, -1)
    if total[0] <= 1e-14 * max(float(np.square(values).sum()), 1e-300):
        return 1.0
    rho = (total / count) / (total[0] / count[0])
    tau = 2 * np.cumsum(rho) - 1
    ends = np.flatnonzero(np.arange(longest) >= window * tau)
    end = int(ends[0]) if len(ends) else longest - 1
    if end < 1:
        return 1.0
    first = rho[1] * np.sqrt(count[1])
    whole = (tau[end] - 1) / (2 * np.sqrt((1 / count[1 : end + 1]).sum()))
    return float(max(tau[end], 1.0)) if max(first, whole) > SIGNIFICANT else 1.0
