"""A cheaper force score that was measured and not taken: the rank-k part of the force covariance, by one reverse pass.

sum_k (J d_k)^2 with k directions d_k of the weights stands in for the variance J Sigma J^T.
"""

from __future__ import annotations

import torch
from torch import Tensor

from equimd.data.batch import Batch
from equimd.errors import UncertaintyError
from equimd.model.interface import Model
from equimd.uq.posterior import LastLayer, Posterior


def directions_of(posterior: Posterior, rank: int, method: str = "eigen", seed: int = 0) -> Tensor:
    """(p, rank) directions d_k of the weights.

    Args:
        method: ``eigen``, the leading eigenvectors of Sigma scaled by their standard deviations: they see the
            directions that training determined least, where unfamiliar frames differ, but only a part of the
            variance. ``sample``, random draws over sqrt(rank): the whole variance on average, each with a relative
            error of about sqrt(2 / (3 rank)) an atom. Either needs a calibration of its own.

    Raises:
        UncertaintyError: a rank outside 1..p, or no such method.
    """
    p = len(posterior.scale)
    if not 1 <= rank <= p:
        raise UncertaintyError(f"rank {rank}: the last layer has {p} weights")
    if method == "sample":
        noise = torch.randn(p, rank, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        return posterior.scale @ noise.to(posterior.scale.device) / rank**0.5
    if method != "eigen":
        raise UncertaintyError(f"no method '{method}'", hint="eigen or sample")
    left, values, _ = torch.linalg.svd(posterior.scale)
    return left[:, :rank] * values[:rank]


def explained(posterior: Posterior, directions: Tensor) -> float:
    """The share of the in-domain variance that some directions carry, 0..1."""
    root = posterior.scale.T @ posterior.second_moment @ posterior.scale
    return float((directions.T @ posterior.second_moment @ directions).trace() / root.trace())


def low_rank_scores(layer: LastLayer, model: Model, batch: Batch, directions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Before calibration: energy sigma (B,) eV, feature distance (B,), and the force score (N,) eV/Angstrom, the
    square root of the trace of the rank-k force covariance."""
    features, rows = model.rows(batch, directions=directions, chunk=directions.shape[1])
    force_std = rows.double().square().sum((1, 2)).sqrt()
    return layer.energy.variance(features).sqrt(), layer.distance(features, batch.n_atoms), force_std
