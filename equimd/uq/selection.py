"""Which frames to label next: a batch that tells the posterior most, all of it together.

Labels of a frame with rows J (of its energy and its force components, each over its noise) shrink the covariance S of
the weights of the last layer to S' = S - S J^T (1 + J S J^T)^-1 J S, and gain log det(1 + J S J^T) / 2 nats about them
(Lindley 1956; MacKay, Neural Comput. 4, 590 (1992)). Frames are taken one by one, each where the gain is largest given
those before, so that no frame is taken for what another one tells already. The gain of a set is submodular: the greedy
batch has at least 1 - 1/e of the gain of the best batch (Nemhauser, Wolsey, Fisher 1978), and a gain computed earlier
bounds the one now, so that few of the candidates are looked at again after each pick (Minoux 1978).
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from equimd.errors import UncertaintyError

#: A gain below this many nats is rounding: the frame says nothing that is not known.
NOTHING = 1e-9


@dataclass(frozen=True)
class Batch:
    """Chosen candidates in the order they were taken, and what each gained, nats, given those before it."""

    rows: tuple[int, ...]
    gains: tuple[float, ...]


def gain(rows: Tensor, covariance: Tensor) -> float:
    """log det(1 + J S J^T) / 2 of the rows J (r, p), each over its noise, under the covariance S (p, p)."""
    inner = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + rows @ covariance @ rows.T
    return float(torch.linalg.cholesky(inner).diagonal().log().sum())


def learned(rows: Tensor, covariance: Tensor) -> Tensor:
    """The covariance (p, p) after labels of rows J (r, p): S - S J^T (1 + J S J^T)^-1 J S."""
    mixed = covariance @ rows.T
    inner = torch.eye(len(rows), dtype=rows.dtype, device=rows.device) + rows @ mixed
    half = torch.linalg.solve_triangular(torch.linalg.cholesky(inner), mixed.T, upper=False)
    return covariance - half.T @ half


def choose(
    candidates: Sequence[Tensor],
    covariance: Tensor,
    count: int,
    *,
    group: Sequence[int] | np.ndarray | None = None,
    per_group: int | None = None,
) -> Batch:
    """Up to ``count`` candidates by greedy information gain. Ties go to the candidate that stands first.

    Args:
        candidates: rows (r_i, p) of each, over their noise, float64.
        covariance: (p, p) of the weights before.
        group: of each candidate, such as the trajectory it is from; at most ``per_group`` of one are taken.

    Raises:
        UncertaintyError: groups of another number, or rows that are not finite.
    """
    owners = list(range(len(candidates))) if group is None else [int(g) for g in group]
    if len(owners) != len(candidates):
        raise UncertaintyError(f"{len(owners)} groups for {len(candidates)} candidates")
    broken = [k for k, rows in enumerate(candidates) if not bool(torch.isfinite(rows).all())]
    if broken:
        raise UncertaintyError(f"the rows of candidate {broken[0]} are not finite")
    taken, chosen, gains = Counter[int](), list[int](), list[float]()
    waiting = [(-gain(rows, covariance), k, 0) for k, rows in enumerate(candidates)]
    heapq.heapify(waiting)
    while waiting and len(chosen) < count:
        bound, k, seen = heapq.heappop(waiting)
        if per_group is not None and taken[owners[k]] >= per_group:
            continue
        if seen < len(chosen):  # computed before others were taken: an upper bound
            heapq.heappush(waiting, (-gain(candidates[k], covariance), k, len(chosen)))
            continue
        if -bound < NOTHING:
            break
        chosen.append(k)
        gains.append(-bound)
        taken[owners[k]] += 1
        covariance = learned(candidates[k], covariance)
    return Batch(tuple(chosen), tuple(gains))
