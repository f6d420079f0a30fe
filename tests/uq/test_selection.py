"""Greedy information gain against its definition, computed the slow way."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from equimd.errors import UncertaintyError
from equimd.uq.selection import choose, gain, learned

P = 12


def problem(n: int = 14, seed: int = 0) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randn(2 + k % 4, P, dtype=torch.float64, generator=generator) for k in range(n)]
    root = torch.randn(P, P, dtype=torch.float64, generator=generator)
    return rows, root @ root.T / P + 0.01 * torch.eye(P)


def slow(candidates: list[Tensor], covariance: Tensor, count: int) -> tuple[list[int], list[float]]:
    """Greedy with the determinant of all chosen rows together, computed anew for every candidate."""
    chosen: list[int] = []
    gains, before = [], 0.0
    for _ in range(count):
        values = {}
        for k in range(len(candidates)):
            if k not in chosen:
                rows = torch.cat([candidates[i] for i in [*chosen, k]])
                values[k] = 0.5 * float(torch.logdet(torch.eye(len(rows)) + rows @ covariance @ rows.T))
        best = max(values, key=lambda k: values[k])
        chosen.append(best)
        gains.append(values[best] - before)
        before = values[best]
    return chosen, gains


def test_choice_is_the_greedy_one() -> None:
    for seed in range(4):
        candidates, covariance = problem(seed=seed)
        found = choose(candidates, covariance, 6)
        chosen, gains = slow(candidates, covariance, 6)
        assert list(found.rows) == chosen
        assert found.gains == pytest.approx(gains, abs=1e-9)


def test_rank_update_is_the_posterior() -> None:
    candidates, covariance = problem()
    rows = candidates[3]
    precise = torch.linalg.inv(torch.linalg.inv(covariance) + rows.T @ rows)
    torch.testing.assert_close(learned(rows, covariance), precise, rtol=1e-9, atol=1e-11)
    assert gain(rows, covariance) == pytest.approx(0.5 * float(torch.logdet(covariance) - torch.logdet(precise)))


def test_twins_are_taken_once() -> None:
    """A copy of a frame tells little that the frame did not tell; the largest sigma alone would take both."""
    candidates, covariance = problem(seed=1)
    loud = 30 * candidates[0]
    assert choose([loud, loud.clone(), *candidates], covariance, 4).rows.count(0) == 1
    assert 1 not in choose([loud, loud.clone(), *candidates], covariance, 4).rows


def test_groups_are_shared_out() -> None:
    candidates, covariance = problem()
    group = [k % 3 for k in range(len(candidates))]
    found = choose(candidates, covariance, 9, group=group, per_group=2)
    assert len(found.rows) == 6
    assert sorted(group[k] for k in found.rows) == [0, 0, 1, 1, 2, 2]
    assert len(choose(candidates, covariance, 99).rows) == len(candidates)


def test_what_tells_nothing_is_left() -> None:
    candidates, covariance = problem()
    nothing = torch.zeros(3, P, dtype=torch.float64)
    assert choose([nothing, candidates[0], nothing], covariance, 3).rows == (1,)
    assert choose([], covariance, 3).rows == ()


def test_bad_input_is_refused() -> None:
    candidates, covariance = problem()
    with pytest.raises(UncertaintyError, match="groups"):
        choose(candidates, covariance, 2, group=[0])
    with pytest.raises(UncertaintyError, match="not finite"):
        choose([torch.full((2, P), torch.nan, dtype=torch.float64)], covariance, 1)
