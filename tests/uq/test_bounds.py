"""Clopper-Pearson bounds, audits planned beforehand, and what they promise in repeated trials."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from equimd.errors import UncertaintyError
from equimd.uq.bounds import (
    chance_to_pass,
    confidence_of,
    largest_expected,
    likely_probability,
    smallest_plan,
    trials_needed,
    upper_bound,
)


def test_bound_solves_its_equation() -> None:
    """At the bound, so few events are as improbable as the confidence says: P(X <= k) = 1 - confidence."""
    for events, trials, confidence in ((0, 59, 0.95), (2, 72, 0.975), (7, 300, 0.99)):
        bound = upper_bound(events, trials, confidence)
        assert binom.cdf(events, trials, bound) == pytest.approx(1 - confidence, rel=1e-9)
    assert upper_bound(5, 5, 0.95) == 1.0


def test_known_sizes() -> None:
    assert trials_needed(0, 0.05, 0.95) == 59
    assert trials_needed(0, 0.01, 0.95) == 299
    first, second = confidence_of(1), confidence_of(2)
    assert (first, second) == (0.975, 0.9875)
    assert [trials_needed(k, 0.05, first) for k in range(3)] == [72, 110, 142]
    assert [trials_needed(k, 0.05, second) for k in range(3)] == [86, 125, 160]


def test_halts_that_show_a_tenth() -> None:
    assert upper_bound(2, 72, confidence_of(1)) < 0.1 < upper_bound(3, 72, confidence_of(1))
    assert upper_bound(2, 86, confidence_of(2)) < 0.1 < upper_bound(4, 86, confidence_of(2))


@pytest.mark.parametrize(("allowed", "percent"), [(0, 0.31), (1, 0.75), (2, 1.08)])
def test_plans_pass_where_few_are_bad(allowed: int, percent: float) -> None:
    """The largest share at which each plan of a first try is taken."""
    trials = trials_needed(allowed, 0.05, confidence_of(1))
    for share, expected in ((percent / 100 - 5e-5, allowed), (percent / 100 + 5e-5, allowed + 1)):
        plan = smallest_plan(0.05, share, confidence_of(1))
        assert plan is not None and plan.allowed == expected
        if expected == allowed:
            assert plan.trials == trials
            assert 100 * largest_expected(plan) == pytest.approx(percent, abs=0.005)
            assert chance_to_pass(trials, allowed, largest_expected(plan)) == pytest.approx(0.8)


def test_what_some_trials_make_likely() -> None:
    """As likely below as above: where probabilities are drawn by Jeffreys' prior, half of those that gave so many
    events are below it."""
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 0.5, 400_000)
    events = rng.binomial(20, p)
    for seen in (0, 2, 20):
        assert (p[events == seen] < likely_probability(seen, 20)).mean() == pytest.approx(0.5, abs=0.02)
    # of 65 frames without a bad one, an audit of a claim of 5 % leaves room for one
    plan = smallest_plan(0.05, likely_probability(0, 65), confidence_of(1))
    assert plan is not None and (plan.trials, plan.allowed) == (110, 1)
    with pytest.raises(UncertaintyError):
        likely_probability(3, 2)


def test_plans_within_what_can_be_paid() -> None:
    assert smallest_plan(0.05, 0.005, 0.975, most=109) is None
    assert smallest_plan(0.05, 0.2, 0.975) is None, "more are bad than may be"
    halts = smallest_plan(0.1, 0.02, 0.975, at_least=72)
    assert halts is not None and (halts.trials, halts.allowed) == (72, 2)
    assert halts.passes(2) and not halts.passes(3)
    assert halts.shown(2) == upper_bound(2, 72, 0.975)


def test_a_false_statement_passes_as_rarely_as_promised() -> None:
    """20,000 audits of a share at the bound itself: at most 2.5 % pass, for every plan; and over repeated tries 5 %."""
    rng = np.random.default_rng(0)
    for allowed in range(3):
        trials = trials_needed(allowed, 0.05, confidence_of(1))
        passed = (rng.binomial(trials, 0.05, 20_000) <= allowed).mean()
        assert passed < 0.025 + 3 * np.sqrt(0.025 / 20_000)
    ever = np.zeros(20_000, bool)
    for attempt in range(1, 12):
        ever |= rng.binomial(trials_needed(1, 0.05, confidence_of(attempt)), 0.05, 20_000) <= 1
    assert 0.04 < ever.mean() < 0.05 + 3 * np.sqrt(0.05 / 20_000)


def test_coverage_of_the_bound_is_exact() -> None:
    """Summed over all outcomes: the bound is below the truth with at most the probability it states."""
    for truth in (0.003, 0.02, 0.1):
        outcomes = np.arange(73)
        below = np.array([upper_bound(int(k), 72, 0.975) < truth for k in outcomes])
        assert binom.pmf(outcomes, 72, truth)[below].sum() <= 0.025


def test_nonsense_is_refused() -> None:
    for events, trials, confidence in ((3, 2, 0.95), (-1, 2, 0.95), (0, 10, 1.0)):
        with pytest.raises(UncertaintyError):
            upper_bound(events, trials, confidence)
    with pytest.raises(UncertaintyError):
        confidence_of(0)
    with pytest.raises(UncertaintyError):
        trials_needed(0, 0.0, 0.95)
