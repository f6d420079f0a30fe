"""What some independent trials say about a probability, at a stated confidence: bounds, and trials planned beforehand.

The upper bound of Clopper and Pearson (Biometrika 26, 404 (1934)) is exact: whatever the probability p, the bound from
n independent trials is below p with a probability of at most 1 - confidence. It is exact for a number of trials fixed
beforehand; trials repeated until they pass would pass in the end, whatever p. The k-th attempt is therefore made at the
confidence 1 - 0.05 / 2^k: the chances to be misled add up to 5 % over any number of attempts.
"""

from __future__ import annotations

from dataclasses import dataclass

from equimd.errors import UncertaintyError

MISLED = 0.05  # the probability that any of all attempts passes although the statement is false
PASSES = 0.8  # how likely a plan should pass at the probability that is expected
MOST_EVENTS = 20  # plans that allow more are not looked for: so many trials are better spent on a better model


def upper_bound(events: int, trials: int, confidence: float) -> float:
    """The one-sided Clopper-Pearson bound on a probability, from ``events`` in ``trials``; 1 where it says nothing.

    Raises:
        UncertaintyError: more events than trials, or a confidence outside 0..1.
    """
    from scipy.stats import beta

    if not 0 <= events <= trials or not 0 < confidence < 1:
        raise UncertaintyError(f"{events} events in {trials} trials at a confidence of {confidence:g}")
    return 1.0 if events == trials else float(beta.ppf(confidence, events + 1, trials - events))


def two_sided(events: float, trials: float, confidence: float) -> tuple[float, float]:
    """The two-sided Clopper-Pearson interval; of trials that are worth fewer, both numbers are those of independent
    ones, and need not be whole.

    Raises:
        UncertaintyError: more events than trials, or a confidence outside 0..1.
    """
    from scipy.stats import beta

    if not 0 <= events <= trials or not 0 < confidence < 1:
        raise UncertaintyError(f"{events:g} events in {trials:g} trials at a confidence of {confidence:g}")
    tail, others = (1 - confidence) / 2, trials - events
    low = float(beta.ppf(tail, events, others + 1)) if events else 0.0
    return low, float(beta.ppf(1 - tail, events + 1, others)) if others else 1.0


def likely_probability(events: int, trials: int) -> float:
    """A probability that is as likely below as above what so many trials show: the median of Jeffreys' posterior.

    Raises:
        UncertaintyError: more events than trials.
    """
    from scipy.stats import beta

    if not 0 <= events <= trials:
        raise UncertaintyError(f"{events} events in {trials} trials")
    return float(beta.median(events + 0.5, trials - events + 0.5))


def confidence_of(attempt: int) -> float:
    """The confidence of the k-th attempt, k from 1: 0.975, 0.9875, ...

    Raises:
        UncertaintyError: an attempt before the first.
    """
    if attempt < 1:
        raise UncertaintyError(f"attempt {attempt}: they are counted from 1")
    return 1 - MISLED / 2.0**attempt


def trials_needed(events: int, bound: float, confidence: float) -> int:
    """The fewest trials of which ``events`` still show a probability below ``bound``.

    Raises:
        UncertaintyError: a bound or a confidence outside 0..1.
    """
    if not 0 < bound < 1:
        raise UncertaintyError(f"a bound of {bound:g}", hint="a probability between 0 and 1, such as 0.05")
    low = events
    high = events + 1
    while not upper_bound(events, high, confidence) < bound:
        low, high = high, 2 * high
    while high - low > 1:  # the bound falls with every trial
        middle = (low + high) // 2
        low, high = (low, middle) if upper_bound(events, middle, confidence) < bound else (middle, high)
    return high


def chance_to_pass(trials: int, allowed: int, probability: float) -> float:
    """The probability of at most ``allowed`` events in ``trials``."""
    from scipy.stats import binom

    return float(binom.cdf(allowed, trials, probability))


@dataclass(frozen=True)
class Trials:
    """So many independent trials with at most ``allowed`` events show a probability below ``bound``."""

    trials: int
    allowed: int
    bound: float
    confidence: float

    def shown(self, events: int) -> float:
        """The bound that so many events show."""
        return upper_bound(events, self.trials, self.confidence)

    def passes(self, events: int) -> bool:
        """Whether so many events show a probability below the bound that was asked for."""
        return events <= self.allowed


def smallest_plan(
    bound: float, expected: float, confidence: float, *, at_least: int = 1, most: int | None = None
) -> Trials | None:
    """The smallest plan that passes with a probability of 0.8 if the probability is the one expected.

    Args:
        at_least, most: trials: those that are made anyway, and those that can be paid for.

    Returns:
        None where no such plan does, as where the expected probability is not clearly below the bound.
    """
    for allowed in range(MOST_EVENTS + 1):
        trials = max(trials_needed(allowed, bound, confidence), at_least)
        if most is not None and trials > most:
            return None
        if chance_to_pass(trials, allowed, expected) >= PASSES:
            return Trials(trials, allowed, bound, confidence)
    return None


def largest_expected(plan: Trials) -> float:
    """The largest probability at which a plan still passes in 0.8 of cases."""
    from scipy.stats import beta

    # at most c events in n trials with probability 0.8: the binomial sum is a beta tail
    return float(beta.ppf(1 - PASSES, plan.allowed + 1, plan.trials - plan.allowed))
