"""Sample sizes: how many more runs or frames would halve the interval of a rate, where it is wide.

Of a rate from n independent trials the width of the interval falls about as the root of n: it takes four times as many.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from equimd.guard.rates import Counted
from equimd.guard.thresholds import CONFIDENCE, ErrorBound, FlagThreshold, HaltThreshold, rate_interval
from equimd.uq.bounds import two_sided

WIDE = 2.0  # times the rate: a larger upper end is wide
WIDTH, SMALL = 0.2, 0.01  # of an interval: this is wide at any rate; an upper end below that never is


def wide(rate: float, interval: tuple[float, float]) -> bool:
    """Whether the interval of a rate leaves much open."""
    low, high = interval
    return high > SMALL and (high > WIDE * rate or high - low > WIDTH)


def trials_to_halve(n: float, interval: tuple[float, float], at: Callable[[float], tuple[float, float]]) -> int:
    """The number of independent trials whose interval is half as wide as that of ``n``; ``at`` gives that of any."""

    def narrow(trials: float) -> bool:
        low, high = at(trials)
        return high - low <= (interval[1] - interval[0]) / 2

    low, high = n, 2 * n
    while not narrow(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) / 2
        low, high = (low, middle) if narrow(middle) else (middle, high)
    return math.ceil(high)


def runs_to_halve(halt: HaltThreshold) -> int | None:
    """How many runs in all would halve the interval of a halt threshold's rate; None where it is not wide."""
    if not wide(halt.alpha, halt.interval):
        return None
    n = trials_to_halve(halt.n_blocks, halt.interval, lambda n: rate_interval(math.floor(n) + 0.5, halt.alpha))
    return math.ceil(math.ceil((n + 1) * halt.alpha) / halt.alpha - 1e-9) - 1  # no more than the rank says can be told


def counted_to_halve(found: Counted) -> int | None:
    """How many trials like these in all would halve the interval of what was counted; None where it is not wide."""
    if not wide(found.rate, found.interval):
        return None
    n = trials_to_halve(found.independent, found.interval, lambda n: two_sided(found.rate * n, n, CONFIDENCE))
    return math.ceil(n * found.trials / found.independent)


def frames_to_halve(threshold: FlagThreshold | ErrorBound) -> int | None:
    """How many threshold frames like these in all would halve the interval of a threshold's rate; None where it is not
    wide."""
    if isinstance(threshold, FlagThreshold):
        alpha, interval = threshold.alpha, threshold.interval
    else:
        low, high = threshold.interval
        alpha, interval = 1 - threshold.coverage, (1 - high, 1 - low)
    if not wide(alpha, interval):
        return None
    n = trials_to_halve(threshold.n_effective, interval, lambda n: rate_interval(math.floor(n) + 0.5, alpha))
    return math.ceil(n * threshold.n_frames / threshold.n_effective)
