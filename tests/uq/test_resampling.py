"""Correlation times of processes whose correlation is known; intervals of statistics whose spread is."""

from __future__ import annotations

import numpy as np
import pytest

from equimd.errors import UncertaintyError
from equimd.uq.resampling import blocks, bootstrap, correlation_time


def autoregressive(rho: float, runs: int, steps: int, seed: int = 0) -> np.ndarray:
    """Stationary x_t = rho x_{t-1} + noise with unit variance, (runs, steps)."""
    rng = np.random.default_rng(seed)
    x = np.empty((runs, steps))
    x[:, 0] = rng.normal(size=runs)
    for t in range(1, steps):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=runs)
    return x


def effective_size(values: np.ndarray, trajectory: np.ndarray | None = None) -> float:
    """How many independent values ``values`` are worth, for their mean: n over the correlation time."""
    return len(values) / correlation_time(values, trajectory)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_correlation_time_of_an_autoregressive_process(rho: float) -> None:
    x = autoregressive(rho, 1, 100_000)[0]
    assert correlation_time(x) == pytest.approx((1 + rho) / (1 - rho), rel=0.2)
    assert effective_size(x) == 100_000 / correlation_time(x)


def test_trajectories_are_not_joined() -> None:
    x = autoregressive(0.8, 200, 500)
    pooled = correlation_time(x.ravel(), np.repeat(np.arange(200), 500))
    assert pooled == pytest.approx(9.0, rel=0.2)


def test_an_offset_between_trajectories_counts_as_correlation() -> None:
    x = np.random.default_rng(0).normal(size=(5, 200)) + 3 * np.arange(5)[:, None]
    assert effective_size(x.ravel(), np.repeat(np.arange(5), 200)) < 50


def test_values_that_do_not_vary_and_a_single_one() -> None:
    assert correlation_time(np.full(50, 0.3)) == 1.0
    assert correlation_time(np.array([2.0])) == 1.0


def test_bootstrap_of_a_mean_is_the_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=400)
    low, high = bootstrap(lambda rows: x[rows].mean(), np.arange(400), resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 20, rel=0.1)
    assert low < x.mean() < high


def test_groups_are_drawn_whole() -> None:
    rng = np.random.default_rng(0)
    group = rng.permutation(np.repeat(np.arange(100), 4))
    x = rng.normal(size=100)[group]
    low, high = bootstrap(lambda rows: x[rows].mean(), group, resamples=2000)
    assert high - low == pytest.approx(2 * 1.96 * x.std() / 10, rel=0.1)

    def whole(rows: np.ndarray) -> float:
        assert (np.bincount(group[rows], minlength=100) % 4 == 0).all()
        return 0.0

    bootstrap(whole, group, resamples=5)


def test_the_seed_decides() -> None:
    x = np.arange(50.0)
    ends = [bootstrap(lambda rows: x[rows].mean(), np.arange(50), resamples=50, seed=s) for s in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_a_statistic_that_is_nowhere_defined_has_no_interval() -> None:
    low, high = bootstrap(lambda rows: np.array([np.nan, float(len(rows))]), np.arange(5), resamples=3)
    assert np.isnan(low[0])
    assert low[1] == high[1] == 5.0


def test_blocks_do_not_cross_trajectories() -> None:
    found = blocks(np.array([0, 0, 0, 0, 0, 7, 7, 7]), 2)
    assert found.tolist() == [0, 0, 1, 1, 2, 3, 3, 4]
    with pytest.raises(UncertaintyError):
        blocks(np.zeros(3), 0)


@pytest.mark.parametrize("n", [50, 99, 300])
def test_independent_values_have_no_correlation(n: int) -> None:
    """Frames drawn at random are as many as they are: the scatter of a sum of lags is not taken for correlation."""
    rng = np.random.default_rng(n)
    found = np.array([correlation_time(x) for x in rng.exponential(size=(200, n))])
    rare = np.array([correlation_time(x) for x in (rng.random((200, n)) > 0.95).astype(float)])
    assert (1 / found).mean() > 0.97 and (1 / rare).mean() > 0.97  # as a share of the frames
    walk = np.zeros((200, n))
    for k in range(1, n):
        walk[:, k] = 0.8 * walk[:, k - 1] + rng.normal(size=200)
    assert np.mean([correlation_time(x) > 1.5 for x in walk]) > 0.8
