"""How atoms of a batch see each other: all pairs of small molecules (dense), or a list of edges.

The model is written once against two verbs, ``send`` (atoms -> pairs) and ``collect`` (pairs -> atoms), and what each
layout makes of them fastest. In the dense layout they are a broadcast and a sum, or a matrix product; with an edge list
they are a gather and a scatter-add.
A third layout holds each pair of the dense one once, for the kernels of :mod:`equimd.model.painn.pairs`. All give the
same result, since a pair beyond the cutoff contributes exactly zero.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class DenseGraph:
    """All ordered pairs (i, j) within each of B structures of n slots; the pair axis runs over (B, i, j).

    Attributes:
        vectors: (B*n*n, 3) r_j - r_i in Angstrom; far beyond the cutoff for i = j and for padded slots.
    """

    vectors: Tensor
    num_structures: int
    num_slots: int

    def send(self, x: Tensor) -> Tensor:
        """(B*n, ...) values of the sender j -> (B, n, n, ...) on pairs."""
        return x.view(self.num_structures, 1, self.num_slots, *x.shape[1:])

    def pairs(self, x: Tensor) -> Tensor:
        """(B*n*n, ...) pair values -> (B, n, n, ...)."""
        return x.view(self.num_structures, self.num_slots, self.num_slots, *x.shape[1:])

    def collect(self, x: Tensor) -> Tensor:
        """(B, n, n, ...) messages -> (B*n, ...), summed over senders."""
        return x.sum(2).flatten(0, 1)

    def filtered(self, phi: Tensor, basis: Tensor, matrix: Tensor, sizes: list[int]) -> list[Tensor]:
        """Values (B*n, C) of the sender times basis (B*n*n, R) @ matrix (R, C): (B, n, n, width) each.

        Split before the products: gradients of slices of all pairs would have to be copied together.
        """
        columns = zip(phi.split(sizes, dim=1), matrix.split(sizes, dim=1), strict=True)
        return [self.send(x) * self.pairs(basis @ column) for x, column in columns]

    def collect_tensors(self, y: Tensor, x: Tensor, own: tuple[Tensor, Tensor] | None) -> Tensor:
        """``collect`` of y (B*n*n, m) x (B, n, n, F), and of the sender's own tensors (B*n, m, F) z (B, n, n, F)."""
        sums = self.pairs(y).flatten(0, 1).transpose(1, 2) @ x.flatten(0, 1)
        return sums if own is None else sums + self.collect(self.send(own[0]) * own[1].unsqueeze(-2))


@dataclass(frozen=True)
class EdgeGraph:
    """A list of E edges from j to i.

    Attributes:
        vectors: (E, 3) r_j - r_i (+ lattice shift), Angstrom.
        source, target: (E,) atom indices of j and i.
        blocks: messages are summed block by block of edges, by :mod:`equimd.model.painn.edges`.
    """

    vectors: Tensor
    source: Tensor
    target: Tensor
    num_atoms: int
    blocks: bool = False

    def send(self, x: Tensor) -> Tensor:
        """(N, ...) values of the sender j -> (E, ...)."""
        return x.index_select(0, self.source)

    def collect(self, x: Tensor) -> Tensor:
        """(E, ...) messages -> (N, ...), summed over senders."""
        return x.new_zeros(self.num_atoms, *x.shape[1:]).index_add(0, self.target, x)

    def filtered(self, phi: Tensor, basis: Tensor, matrix: Tensor, sizes: list[int]) -> list[Tensor]:
        """Values (N, C) of the sender times basis (E, R) @ matrix (R, C): (E, width) each."""
        return list((self.send(phi) * (basis @ matrix)).split(sizes, dim=1))

    def collect_tensors(self, y: Tensor, x: Tensor, own: tuple[Tensor, Tensor] | None) -> Tensor:
        """``collect`` of y (E, m) x (E, F), and of the sender's own tensors (N, m, F) z (E, F)."""
        m = y.unsqueeze(-1) * x.unsqueeze(-2)
        return self.collect(m if own is None else m + self.send(own[0]) * own[1].unsqueeze(-2))


@dataclass(frozen=True)
class PairGraph:
    """The P = n(n-1)/2 unordered pairs i < j within each of B structures of n slots, i outermost.

    Attributes:
        vectors: (B*P, 3) r_j - r_i in Angstrom; far beyond the cutoff for padded slots.
    """

    vectors: Tensor
    num_structures: int
    num_slots: int

    @property
    def num_pairs(self) -> int:
        """P."""
        return self.num_slots * (self.num_slots - 1) // 2


Graph = DenseGraph | EdgeGraph | PairGraph


def dense_graph(positions: Tensor, atomic_numbers: Tensor, num_slots: int, cutoff: float) -> DenseGraph:
    """All pairs of B structures laid out in ``num_slots`` slots each.

    Args:
        positions: (B*n, 3) Angstrom.
        atomic_numbers: (B*n,), 0 in padded slots.
        num_slots: n.
        cutoff: Angstrom.
    """
    n = num_slots
    r = positions.view(-1, n, 3)
    real = (atomic_numbers > 0).view(-1, n)
    pair = real[:, :, None] & real[:, None, :] & ~torch.eye(n, dtype=torch.bool, device=positions.device)
    # a constant vector beyond the cutoff keeps norms and their gradients finite where there is no pair
    far = positions.new_tensor([2.0 * cutoff, 0.0, 0.0])
    vectors = torch.where(pair[..., None], r[:, None, :, :] - r[:, :, None, :], far)
    return DenseGraph(vectors.reshape(-1, 3), r.shape[0], n)


@functools.lru_cache(maxsize=64)
def _incidence(n: int) -> np.ndarray:
    """(P, n): -1 at i and 1 at j of each pair i < j."""
    i, j = np.triu_indices(n, 1)
    rows = np.arange(len(i))
    out = np.zeros((len(i), n))
    out[rows, i], out[rows, j] = -1.0, 1.0
    return out


def pair_graph(positions: Tensor, atomic_numbers: Tensor, num_slots: int, cutoff: float) -> PairGraph:
    """Unordered pairs of B structures. Arguments as in :func:`dense_graph`."""
    n = num_slots
    r = positions.view(-1, n, 3)
    # differences as a product: the gradient is then a product as well, and no scatter
    ends = torch.from_numpy(_incidence(n)).to(positions)
    real = (atomic_numbers > 0).view(-1, n).to(positions.dtype)
    pair = real @ ends.abs().T > 1.5
    far = positions.new_tensor([2.0 * cutoff, 0.0, 0.0])
    vectors = torch.where(pair[..., None], ends @ r, far)
    return PairGraph(vectors.reshape(-1, 3), r.shape[0], n)


def edge_graph(positions: Tensor, edge_index: Tensor, edge_shifts: Tensor | None, *, blocks: bool = False) -> EdgeGraph:
    """The edges of a neighbour list.

    Args:
        positions: (N, 3) Angstrom.
        edge_index: (2, E), row 0 the source j, row 1 the target i.
        edge_shifts: (E, 3) Angstrom, the lattice translation added to r_j, or None for open systems.
        blocks: as in :class:`EdgeGraph`.
    """
    source, target = edge_index[0], edge_index[1]
    vectors = positions.index_select(0, source) - positions.index_select(0, target)
    if edge_shifts is not None:
        vectors = vectors + edge_shifts.to(vectors.dtype)
    return EdgeGraph(vectors, source, target, positions.shape[0], blocks)
