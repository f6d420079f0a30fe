"""How many more runs or frames an interval takes: checked against the intervals themselves."""

from __future__ import annotations

from dataclasses import replace

import pytest

from equimd.guard.rates import Counted, error_rates
from equimd.guard.sizes import counted_to_halve, frames_to_halve, runs_to_halve
from equimd.guard.thresholds import ErrorBound, FlagThreshold, HaltThreshold, rate_interval
from equimd.guard.wording import more_frames, more_runs
from equimd.uq.bounds import two_sided
from tests.guard.test_calibration import calibrated


def width(interval: tuple[float, float]) -> float:
    return interval[1] - interval[0]


def halt(n: int, alpha: float = 0.1) -> HaltThreshold:
    return HaltThreshold(1.0, alpha, 100, n, rate_interval(n, alpha))


@pytest.mark.parametrize(("n", "alpha"), [(9, 0.1), (19, 0.1), (19, 0.05), (99, 0.01)])
def test_so_many_runs_halve_the_interval(n: int, alpha: float) -> None:
    total = runs_to_halve(halt(n, alpha))
    assert total is not None and 3 * n < total < 7 * n
    whole = width(rate_interval(n, alpha))
    assert width(rate_interval(total, alpha)) == pytest.approx(whole / 2, rel=0.1)
    assert ((total + 1) * alpha) == pytest.approx(round((total + 1) * alpha)), "no run that the rank leaves unused"


def test_nothing_is_said_of_intervals_that_are_not_wide() -> None:
    assert runs_to_halve(halt(99)) is None
    assert counted_to_halve(Counted.of(0, 1000)) is None and counted_to_halve(Counted.of(19, 19)) is None


def test_of_what_was_counted() -> None:
    total = counted_to_halve(Counted.of(2, 19))
    assert total is not None
    assert width(two_sided(2 * total / 19, total, 0.95)) == pytest.approx(width(two_sided(2, 19, 0.95)) / 2, rel=0.05)
    worth_half = counted_to_halve(Counted.of(4, 38, 0.5))
    assert worth_half == pytest.approx(2 * total, abs=2)


def test_frames_that_are_worth_less_take_more() -> None:
    def flag(n: int, worth: float) -> FlagThreshold:
        return FlagThreshold(1.0, 0.01, n, worth, rate_interval(worth, 0.01))

    alone, alike = frames_to_halve(flag(99, 99.0)), frames_to_halve(flag(198, 99.0))
    assert alone is not None and alike == pytest.approx(2 * alone, abs=2)
    low, high = rate_interval(30.5, 0.1)
    assert frames_to_halve(ErrorBound(2.0, 0.9, 31, 30.5, (1 - high, 1 - low))) is not None


def test_one_line_names_the_option_and_what_it_costs() -> None:
    made = calibrated("conservative")
    made = replace(
        made,
        halt=replace(halt(19), value=made.halt.value),
        flag=FlagThreshold(made.flag.value, 0.01, 99, 99.0, rate_interval(99.0, 0.01)),
        report={
            "dynamics": {"maxima": [0.1] * 17 + [1e3] * 2},
            "partition": {"frames": {"fit": 80, "select": 40, "threshold": 80}},
        },
    )
    (runs,) = more_runs(made)
    assert "19 runs leave" in runs and "between 1.3 and 26 %" in runs
    assert "`--blocks 89` would halve that" in runs and "no labels" in runs
    (frames,) = more_frames(made)
    total = frames_to_halve(made.flag)
    assert total is not None and f"about {float(f'{2.5 * (total - 99):.1e}'):g} more labelled frames" in frames
    bound = made.error.multiplier * 2 * made.halt.value
    (counted,) = more_runs(made, error_rates(made, *made.error_decision(bound)))
    assert "between 1.3 and 33 %" in counted
    halts = replace(halt(99), value=made.halt.value)
    plenty = replace(made, halt=halts, flag=replace(made.flag, interval=(0.008, 0.012)))
    plenty = replace(plenty, error=replace(made.error, interval=(0.88, 0.92)))
    assert more_runs(plenty) == [] == more_frames(plenty)
