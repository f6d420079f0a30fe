"""The floating-point work of a step by count: what a model needs, whatever way it is computed.

A matrix product (n, a) x (a, b) counts 2 n a b, products of tensors their terms that are not zero, and each pair of
atoms within the cutoff has one filter. Activations, norms and radial functions are left out: they are of the order of
the number of features, not of its square. The names are those of :mod:`equimd.model.painn.network`.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from scipy.spatial.distance import pdist

from equimd.config import ModelConfig


def pairs_within(positions: np.ndarray, cutoff: float) -> float:
    """Mean number of pairs of structures (B, n, 3) of one molecule that see each other."""
    return float(np.mean([np.count_nonzero(pdist(x) < cutoff) for x in positions]))


@functools.cache
def _terms(lmax: int) -> int:
    """Products of two components in all l1 x l2 -> l3 that keep parity."""
    from e3nn import o3

    degrees = range(1, lmax + 1)
    triples = [t for t in itertools.product(degrees, repeat=3) if sum(t) % 2 == 0 and 2 * max(t) <= sum(t)]
    return sum(int((o3.wigner_3j(*t).abs() > 1e-6).sum()) for t in triples)


def products(config: ModelConfig, atoms: float, pairs: float) -> tuple[float, float]:
    """FLOP of one forward pass: in products with weights, and in products of two features.

    Args:
        atoms, pairs: of a structure, the pairs unordered and within the cutoff.
    """
    f, t, lmax, direct = config.num_features, config.tensor_channels, config.lmax, config.forces == "direct"
    m = (lmax + 1) ** 2 - 1
    coupled = config.tensor_products and lmax > 1
    weights = features = 0.0
    for k in range(config.num_layers):
        last = k == config.num_layers - 1 and not direct
        width = f + t * lmax * (1 if k == 0 else 2)
        weights += atoms * f * (f + width) + pairs * (config.num_rbf + 1) * width  # Message
        features += 2 * pairs * (width + f + t * m * (1 if k == 0 else 2))  # both ways: phi W, and their sums
        inner = lmax * (2 if coupled else 1)
        weights += atoms * (t * t * 2 * m + (f + t * lmax) * f + f * (f + t * inner * (1 if last else 2)))  # Update
        weights += 0.0 if t == f else atoms * t * inner * f
        features += atoms * t * m * (2 + (1 if coupled else 0))  # norms, inner products
        if coupled:
            weights += atoms * t * t * m * (1 if last else 2)
            features += atoms * t * (1.5 * _terms(lmax))  # c x y, and the sum
        features += 0.0 if last else atoms * t * m * (2 if coupled else 1)
    weights += atoms * f * config.num_readout
    if direct:
        weights += atoms * (f * f + (f + 3 * t) * config.num_readout)
    return 2 * weights, 2 * features


def step_flop(config: ModelConfig, atoms: float, pairs: float) -> float:
    """FLOP of energy and forces of a structure. Arguments as of :func:`products`.

    The gradient by positions passes each product with weights once, and each of two features twice, once for either.
    """
    weights, features = products(config, atoms, pairs)
    return weights + features if config.forces == "direct" else 2 * weights + 3 * features
