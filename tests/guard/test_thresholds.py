"""Stated rates against realised ones, on simulated scores whose law is known; fixed seeds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta, binom, kstest

from equimd.errors import UncertaintyError
from equimd.guard import thresholds as threshold

# uniform scores: the rate of a threshold t is exactly 1 - t


def autoregressive(rho: float, runs: int, steps: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = np.empty((runs, steps))
    x[:, 0] = rng.normal(size=runs)
    for t in range(1, steps):
        x[:, t] = rho * x[:, t - 1] + np.sqrt(1 - rho**2) * rng.normal(size=runs)
    return x


def inside(count: int, n: int, p: float) -> bool:
    """Whether a count lies in the binomial interval that holds 99.9 %."""
    return binom.ppf(0.0005, n, p) <= count <= binom.ppf(0.9995, n, p)


@pytest.mark.parametrize(("n", "alpha"), [(199, 0.05), (99, 0.01), (250, 0.1)])
def test_realised_rates_follow_the_beta_law(n: int, alpha: float) -> None:
    rng = np.random.default_rng(n)
    repeats = 400
    found = [threshold.halt_threshold(rng.random(n), alpha, 10) for _ in range(repeats)]
    rates = np.array([1 - f.value for f in found])
    k = threshold.rank(n, alpha)
    assert kstest(rates, beta(n + 1 - k, k).cdf).pvalue > 1e-3
    assert (n + 1 - k) / (n + 1) <= alpha + 1e-12
    low, high = found[0].interval
    assert inside(int(((rates >= low) & (rates <= high)).sum()), repeats, 0.95)


def test_the_next_score_exceeds_the_threshold_at_the_stated_rate() -> None:
    rng, repeats, alpha = np.random.default_rng(0), 4000, 0.1
    alarms = sum(x[-1] > threshold.halt_threshold(x[:-1], alpha, 1).value for x in rng.gamma(2.0, size=(repeats, 20)))
    assert inside(alarms, repeats, 2 / 20)  # k = 18 of 19 scores: 2 of the 20 exchangeable ones are above


def test_flags_of_independent_frames() -> None:
    rng = np.random.default_rng(1)
    for alpha in (0.01, 0.05):
        found = threshold.flag_threshold(rng.random(2000), alpha)
        assert found.n_effective == pytest.approx(2000, rel=0.4)
        assert found.resolved
        assert found.interval[0] < alpha < found.interval[1]
        fresh = rng.random(5000) > found.value
        assert alpha / 2 < fresh.mean() < 2 * alpha


def test_the_interval_of_correlated_frames_holds_the_true_rate() -> None:
    from scipy.stats import norm

    alpha, repeats = 0.05, 200
    held = naive = 0
    for seed in range(repeats):
        x = autoregressive(0.95, 4, 1000, seed)
        found = threshold.flag_threshold(x.ravel(), alpha, trajectory=np.repeat(np.arange(4), 1000))
        true = norm.sf(found.value)
        held += found.interval[0] <= true <= found.interval[1]
        low, high = threshold.rate_interval(4000, alpha)
        naive += low <= true <= high
        assert found.n_effective < 400
    assert held / repeats > 0.9
    assert naive / repeats < 0.75  # what taking frames for independent would have claimed with 95 % confidence


def test_false_halts_of_correlated_runs() -> None:
    """Blocks of correlated scores are exchangeable as blocks: the stated rate holds whatever the correlation time."""
    alpha, blocks, fresh, models = 0.1, 99, 200, 12
    counts = []
    for seed in range(models):
        x = autoregressive(0.98, blocks + fresh, 300, seed)
        found = threshold.halt_threshold(threshold.block_maxima(x[:blocks], 300), alpha, 300)
        counts.append(int((threshold.block_maxima(x[blocks:], 300) > found.value).sum()))
    low, high = found.false_halts(fresh)
    assert (low, high) == (8, 36)
    assert sum(low <= c <= high for c in counts) >= models - 2
    assert np.mean(counts) == pytest.approx(alpha * fresh, rel=0.35)


def test_a_per_frame_rate_says_little_of_a_run() -> None:
    x = autoregressive(0.98, 200, 1000, 0)
    flag = threshold.flag_threshold(x[:100].ravel(), 0.01, trajectory=np.repeat(np.arange(100), 1000))
    assert (x[100:] > flag.value).any(1).mean() > 0.5


def test_longer_runs_get_the_union_bound() -> None:
    found = threshold.halt_threshold(np.arange(99.0), 0.1, 1000)
    assert found.value == 89.0
    assert found.bound(1000) == found.bound(10) == 0.1
    assert found.bound(1001) == pytest.approx(0.2)
    assert found.bound(10**6) == 1.0


def test_too_few_blocks_are_refused_with_what_is_missing() -> None:
    assert threshold.needed(0.1) == 9
    assert threshold.needed(0.01) == 99
    threshold.halt_threshold(np.arange(9.0), 0.1, 5)
    with pytest.raises(UncertaintyError, match=r"8 independent blocks of 5 steps .* 0.1: it takes 9, 1 more"):
        threshold.halt_threshold(np.arange(8.0), 0.1, 5)
    with pytest.raises(UncertaintyError, match=r"50 frames .* 0.01: it takes 99, 49 more"):
        threshold.flag_threshold(np.arange(50.0), 0.01)


def test_thresholds_are_order_statistics() -> None:
    scores = np.random.default_rng(0).permutation(199).astype(float)
    assert threshold.flag_threshold(scores, 0.05).value == 189.0  # the 190th of 199: 200 * 0.95
    assert threshold.halt_threshold(scores, 0.005, 1).value == 198.0


def test_frames_worth_too_little_are_told() -> None:
    x = autoregressive(0.999, 1, 3000, 0)[0]
    found = threshold.flag_threshold(x, 0.01)
    assert not found.resolved
    assert found.interval[1] > 0.03


def test_error_bound_covers_what_it_says() -> None:
    rng = np.random.default_rng(0)
    sigma = np.exp(rng.normal(size=3000))
    error = np.abs(sigma * rng.standard_t(4, 3000)) * 0.7
    found = threshold.error_bound(error[:1000], sigma[:1000], 0.9)
    covered = (error[1000:] <= found.multiplier * sigma[1000:]).mean()
    assert covered == pytest.approx(0.9, abs=0.03)
    assert found.interval[0] < 0.9 < found.interval[1]
    with pytest.raises(UncertaintyError, match="sigma is zero"):
        threshold.error_bound(error, 0 * sigma, 0.9)


def test_own_scores_like_the_reference_match() -> None:
    rng = np.random.default_rng(0)
    reference, own = rng.gamma(3.0, size=500), rng.gamma(3.0, size=(30, 200))
    assert threshold.compare_scores(own, reference).matches
    drifted = own.copy()
    drifted[10:, 50:] *= 3
    found = threshold.compare_scores(drifted, reference)
    assert not found.matches
    assert found.exceedance > 0.2


def test_bad_input_is_refused() -> None:
    with pytest.raises(UncertaintyError, match="1 of 3 scores"):
        threshold.flag_threshold(np.array([1.0, np.nan, 2.0]), 0.5)
    for alpha in (0.0, 1.0, -1.0):
        with pytest.raises(UncertaintyError, match="rate"):
            threshold.halt_threshold(np.arange(100.0), alpha, 5)
    with pytest.raises(UncertaintyError, match="shape"):
        threshold.block_maxima(np.zeros((5, 10)), 11)
