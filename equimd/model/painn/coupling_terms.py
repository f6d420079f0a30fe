"""Which tensors are multiplied with which, and the nonzero terms of these products."""

from __future__ import annotations

import functools

import torch
from e3nn import o3
from torch import Tensor


def couplings(lmax: int) -> list[tuple[int, int, int]]:
    """(l1, l2, l3) of all products l1 x l2 -> l3 that keep the parity of spherical harmonics; none for lmax = 1."""
    degrees = range(1, lmax + 1)
    triples = [(a, b, c) for c in degrees for a in degrees for b in degrees]
    return [(a, b, c) for a, b, c in triples if abs(a - b) <= c <= a + b and (a + b + c) % 2 == 0]


def coupling_tensor(lmax: int) -> Tensor:
    """(M, M, M) float64, M = (lmax+1)^2 - 1: component k of the sum of all products has [k, i, j] times component i of
    one side times component j of the other; e3nn's component normalization."""
    part = [slice(ell**2 - 1, (ell + 1) ** 2 - 1) for ell in range(lmax + 1)]
    cube = torch.zeros(3 * ((lmax + 1) ** 2 - 1,), dtype=torch.float64)
    for a, b, c in couplings(lmax):
        product = o3.wigner_3j(a, b, c, dtype=torch.float64) * (2 * c + 1) ** 0.5
        cube[part[c], part[a], part[b]] = product.permute(2, 0, 1)
    return cube


@functools.cache
def coupling_terms(lmax: int) -> list[tuple[int, int, int, float]]:
    """(k, i, j, c) of all that is not zero in :func:`coupling_tensor`."""
    cube = coupling_tensor(lmax)
    return [(k, i, j, float(cube[k, i, j])) for k, i, j in (cube.abs() > 1e-12).nonzero().tolist()]
