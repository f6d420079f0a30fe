"""The message of PaiNN over a list of edges, block by block: memory in proportion to atoms, for energies and forces.

Between the atoms and their sums, eqs. 7 and 8 (Schuett et al. 2021) have a dozen tensors of all edges and features;
kept for the gradient they take two megabytes an atom in a liquid. Here an edge keeps its radial basis and its harmonics
alone. The rest is made for one block of edges at a time, and again when the gradient asks for it. Blocks that fit the
cache of a core cost less time, too, than tensors that do not.

The gradient is written out, and cannot be differentiated again: training on forces takes the plain sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

#: Bytes of one tensor of a block, its edges times the columns of its filter: a few of them fit the second-level cache.
CACHE_BYTES = 1 << 20
DEVICE_BYTES = 1 << 28  # on other devices than the CPU, where a small block leaves most of it idle


def _parts(x: Tensor, f: int, t: int) -> list[Tensor]:
    """Columns (.., F + C T) as those of the scalars and C of T channels."""
    return [x[:, :f], *x[:, f:].split(t, dim=1)]


def _blocks(source: Tensor, matrix: Tensor) -> Iterator[slice]:
    limit = CACHE_BYTES if source.device.type == "cpu" else DEVICE_BYTES
    size = max(1, limit // (matrix.shape[1] * matrix.element_size()))
    for start in range(0, len(source), size):
        yield slice(start, start + size)


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, lmax: int, f: int, t: int, source: Tensor, target: Tensor, *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.sizes = lmax, f, t
        ctx.save_for_backward(source, target, *inputs)
        phi, matrix, basis, *rest = inputs
        harmonics, v = rest[:lmax], rest[lmax:]
        ds = phi.new_zeros(len(phi), f)
        dv = [phi.new_zeros(len(phi), y.shape[1], t) for y in harmonics]
        for block in _blocks(source, matrix):
            j, i = source[block], target[block]
            message = (basis[block] @ matrix).mul_(phi.index_select(0, j))
            parts = _parts(message, f, t)
            ds.index_add_(0, i, parts[0])
            for k, y in enumerate(harmonics):
                m = y[block].unsqueeze(2) * parts[1 + k].unsqueeze(1)
                if v:
                    m.addcmul_(v[k].index_select(0, j), parts[1 + lmax + k].unsqueeze(1))
                dv[k].index_add_(0, i, m)
        return ds, *dv

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g_ds: Tensor, *g_dv: Tensor) -> Any:
        source, target, phi, matrix, basis, *rest = ctx.saved_tensors
        lmax, f, t = ctx.sizes
        harmonics, v = rest[:lmax], rest[lmax:]
        g_phi, g_matrix, g_basis = torch.zeros_like(phi), torch.zeros_like(matrix), torch.empty_like(basis)
        g_y, g_v = [torch.empty_like(y) for y in harmonics], [torch.zeros_like(x) for x in v]
        for block in _blocks(source, matrix):
            j, i = source[block], target[block]
            sent, w = phi.index_select(0, j), basis[block] @ matrix
            parts = _parts(sent * w, f, t)
            g_message = torch.empty_like(w)
            g_parts = _parts(g_message, f, t)
            g_parts[0].copy_(g_ds.index_select(0, i))
            for k, y in enumerate(harmonics):
                g = g_dv[k].index_select(0, i)
                _contract(y[block].unsqueeze(2), g, g_parts[1 + k])
                torch.matmul(g, parts[1 + k].unsqueeze(2), out=g_y[k][block].unsqueeze(2))
                if v:
                    _contract(v[k].index_select(0, j), g, g_parts[1 + lmax + k])
                    g_v[k].index_add_(0, j, g.mul_(parts[1 + lmax + k].unsqueeze(1)))
            g_w = sent.mul_(g_message)
            g_phi.index_add_(0, j, g_message.mul_(w))
            torch.mm(g_w, matrix.T, out=g_basis[block])
            if ctx.needs_input_grad[6]:
                g_matrix.addmm_(basis[block].T, g_w)
        matrix_too = g_matrix if ctx.needs_input_grad[6] else None
        return None, None, None, None, None, g_phi, matrix_too, g_basis, *g_y, *g_v


def _contract(a: Tensor, b: Tensor, out: Tensor) -> None:
    """``out`` (e, F) = sum over the components of a (e, m, F or 1) and b (e, m, F)."""
    torch.mul(a[:, 0], b[:, 0], out=out)
    for m in range(1, b.shape[1]):
        out.addcmul_(a[:, m], b[:, m])


def message(
    phi: Tensor,
    matrix: Tensor,
    basis: Tensor,
    harmonics: list[Tensor],
    v: list[Tensor],
    source: Tensor,
    target: Tensor,
    f: int,
    t: int,
) -> tuple[Tensor, list[Tensor]]:
    """ds_i = sum_j phi_s W_s;  dV_i = sum_j V_j phi_vv W_vv + Y(r_ij) phi_vs W_vs,  W = basis @ matrix.

    Args:
        phi: (N, F + C T) of the sender, columns as [s | vs of each l | vv of each l].
        matrix: (R+1, F + C T) of the filter.
        basis: (E, R+1).
        harmonics: for l = 1..lmax (E, 2l+1).
        v: for l = 1..lmax (N, 2l+1, T); empty in the first layer.
        source, target: (E,) atoms j and i of each edge.
        f, t: F and T.

    Returns:
        ds (N, F), and for l = 1..lmax dV (N, 2l+1, T).
    """
    inputs = (phi, matrix, basis, *harmonics, *v)
    ds, *dv = _Message.apply(len(harmonics), f, t, source, target, *inputs)  # type: ignore[no-untyped-call]
    return ds, dv
