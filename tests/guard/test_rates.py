"""Thresholds in errors: shares by counting, what cannot be known, and sentences that say so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import beta

from equimd.guard.calibration import ScoredFrames
from equimd.guard.rates import Counted, error_rates, rates_ladder, round_numbers
from equimd.guard.wording import error_table, percent, rate_sentences
from equimd.uq.bounds import two_sided
from tests.guard.test_calibration import calibrated


def test_shares_have_two_digits_and_all_is_a_hundred() -> None:
    assert [percent(x) for x in (1.0, 0.9951, 0.994, 0.0751, 0.00042)] == [
        "100 %", "100 %", "99 %", "7.5 %", "0.042 %",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def made():
    """Known scores: exact 1 .. 100, the screen at half of it, an error of twice the score in every tenth frame."""
    exact = np.arange(1.0, 101.0)
    error = np.where(np.arange(100) % 10 == 9, 2 * exact, 0.5 * exact)
    frames = ScoredFrames(*(tuple(x.tolist()) for x in (0.5 * exact, exact, error)), trajectory=tuple(range(100)))
    found = calibrated("conservative")
    halt = replace(found.halt, value=90.0, run_length=50, n_blocks=20, alpha=0.1)
    maxima = [float(x) for x in (*range(30, 48), 80, 95)]
    return replace(
        found,
        frames=frames,
        halt=halt,
        error=replace(found.error, multiplier=2.0),
        levels=replace(found.levels, flag=1e-9, halt=40.0),
        flag=replace(found.flag, value=60.0),
        report={**found.report, "dynamics": {"maxima": maxima}},
    )


def test_two_sided_bounds() -> None:
    assert two_sided(0, 19, 0.95) == (0.0, pytest.approx(1 - 0.025 ** (1 / 19)))
    assert two_sided(19, 19, 0.95) == (pytest.approx(0.025 ** (1 / 19)), 1.0)
    low, high = two_sided(3, 40, 0.95)
    assert beta.cdf(low, 3, 38) == pytest.approx(0.025) and beta.sf(high, 4, 37) == pytest.approx(0.025)
    worth = Counted.of(6, 80, 0.5)
    assert worth.interval == (low, high) and worth.rate == 6 / 80 and worth.independent == 40


def test_rates_by_counting(made) -> None:
    decision, threshold = made.error_decision(140.0)  # 70 on the score, above the level of halts: that decision
    assert (threshold, decision.level) == (70.0, 40.0)
    found = error_rates(made, decision, threshold)
    # of exact scores above 70, all but those that the screen clears: below 80
    assert (found.frames.events, found.frames.trials) == (21, 100)
    assert (found.runs.events, found.runs.trials, found.at_least) == (2, 20, False)
    assert found.runs.interval == two_sided(2, 20, 0.95)
    # errors above 140: of 80, 90 and 100
    assert (found.missed.events, found.missed.trials, found.missed_of) == (0, 3, "threshold")
    values = found.to_json()
    assert values["frames"]["rate"] == 0.21 and values["runs"]["interval"] == list(found.runs.interval)
    assert error_rates(made, *made.decision("flag"), "flag").name == "flag"


def test_below_the_screens_level_runs_are_at_least_so_many(made) -> None:
    found = error_rates(made, *made.error_decision(70.0))
    assert found.threshold == 35.0 and found.at_least
    assert found.runs.events == 10, "those whose highest score was exact"
    assert "in at least 10 of 20 runs of 50 steps" in rate_sentences(found, "halt")[0]
    assert "has flagged frames" in rate_sentences(found, "flag")[0]
    few = replace(made, report={"dynamics": {"maxima": [30.0] * 20}})
    assert len(rate_sentences(error_rates(few, *few.error_decision(70.0)), "halt")) == 1, "nothing is known of runs"
    assert any(row[2] == "not known" for row in error_table(few))
    coarse = replace(made, state_point=replace(made.state_point, score_every=5))
    assert error_rates(coarse, *coarse.error_decision(140.0)).at_least


def test_runs_that_were_scored_at_a_lower_level_tell_of_lower_thresholds(made) -> None:
    low = [float(x) for x in (*range(22, 40), 80, 95)]
    report = {"dynamics": {"maxima": made.report["dynamics"]["maxima"], "low_maxima": low}}
    finer = replace(made, levels=replace(made.levels, runs=20.0), report=report)
    decision, threshold = finer.error_decision(70.0)
    assert decision.level == 20.0
    found = error_rates(finer, decision, threshold)
    assert (found.runs.events, found.runs.trials, found.at_least) == (6, 20, False), "36 to 39, 80 and 95"
    assert error_rates(finer, *finer.error_decision(30.0)).at_least
    assert error_rates(finer, *finer.decision("halt")).runs.events == 1, "by the decision of halts"


def test_what_there_is_nothing_to_count_in(made) -> None:
    found = error_rates(made, *made.error_decision(500.0))
    assert found.missed is None and found.frames.events == 0 and found.frames.interval[1] > 0.03
    (runs, frames) = rate_sentences(found, "halt")
    assert "in 0 of 20 runs" in runs and "there are no threshold frames with a force error above 500" in frames
    old = replace(made, frames=None, halt=None, levels=replace(made.levels, halt=None))
    found = error_rates(old, *old.error_decision(140.0))
    assert (found.frames, found.runs, found.missed) == (None, None, None)
    assert rate_sentences(found, "halt") == [] == error_table(old) == rates_ladder(old)
    tested = replace(made, test_frames=ScoredFrames((1.0, 2.0), (2.0, 4.0), (150.0, 1.0), (0, 0)))
    found = error_rates(tested, *tested.error_decision(140.0))
    assert (found.missed.events, found.missed.trials, found.missed_of) == (1, 1, "test")


def test_the_table_goes_from_usual_errors_to_what_is_hardly_reached(made) -> None:
    rows = rates_ladder(made)
    assert [r.name for r in rows if r.name] == ["flag", "halt"]
    bounds = [r.bound for r in rows]
    assert bounds == sorted(bounds) and bounds[0] <= np.median(made.frames.error) and bounds[-1] >= 200
    shares = [r.frames.rate for r in rows if r.name is None]
    assert shares == sorted(shares, reverse=True) and shares[0] > shares[-1] == 0
    head, *cells = error_table(made)
    assert head[2] == "of runs of 50 steps halted" and len(cells) == len(rows)
    assert any("at least" in row[2] for row in cells) and cells[-1][2] == "0 % (0 to 17)"
    assert error_table(replace(made, halt=None))[0][2] == "of bad frames missed"


def test_round_numbers() -> None:
    assert round_numbers(0.062, 0.25) == [0.05, 0.07, 0.1, 0.15, 0.2, 0.3]
    assert round_numbers(0.05, 0.1) == [0.05, 0.07, 0.1]
    assert round_numbers(0.012, 3.0) == [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]
