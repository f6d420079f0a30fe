"""Products of an atom's tensors, as one matrix product or by native kernels that compute the nonzero terms alone.

Of the 15 x 225 terms for lmax 3, 307 are not zero. The kernels (``coupling.cpp``) are closed under differentiation:
:data:`couple` is bilinear, its derivative is :data:`uncouple`, and the derivative of that both.

Shapes: x, y and the product (N, M, T), M = (lmax+1)^2 - 1; ``xd, yd`` directions, with which couple returns its
derivative along them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from equimd.model.painn import kernels
from equimd.model.painn.coupling_terms import coupling_tensor, coupling_terms


def _run(name: str, out: Tensor, first: Tensor, *others: Tensor | None) -> Tensor:
    n, m, t = first.shape
    return kernels.run(name, math.isqrt(m + 1) - 1, out, [first, *others], n, t)


def _couple_out(x: Tensor, xd: Tensor | None, y: Tensor, yd: Tensor | None) -> Tensor:
    return x.new_empty(x.shape)


def _couple(x: Tensor, xd: Tensor | None, y: Tensor, yd: Tensor | None) -> Tensor:
    return _run("couple", _couple_out(x, xd, y, yd), x, xd, y, yd)


def _uncouple_out(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return g.new_empty(g.shape[0], 2 * g.shape[1], g.shape[2])


def _uncouple(g: Tensor, x: Tensor, y: Tensor) -> Tensor:
    return _run("uncouple", _uncouple_out(g, x, y), g, x, y)


couple = kernels.operator("couple(Tensor x, Tensor? xd, Tensor y, Tensor? yd) -> Tensor", _couple, _couple_out)
#: (N, 2M, T): derivatives of a scalar with respect to x and to y, from g, that with respect to their product
uncouple = kernels.operator("uncouple(Tensor g, Tensor x, Tensor y) -> Tensor", _uncouple, _uncouple_out)
#: that a compiled graph may hold
OPERATORS = [couple, uncouple]


class _Couple(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        x, y = x.contiguous(), y.contiguous()  # here: operators of a compiled graph take tensors as they come
        ctx.save_for_backward(x, y)
        return couple(x, None, y, None)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return _Uncouple.apply(g, *ctx.saved_tensors).chunk(2, 1)  # type: ignore[no-untyped-call]


class _Uncouple(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, y: Tensor) -> Tensor:
        g = g.contiguous()
        ctx.save_for_backward(g, x, y)
        return uncouple(g, x, y)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, d: Tensor) -> Any:
        g, x, y = ctx.saved_tensors
        xd, yd = (part.contiguous() for part in d.chunk(2, 1))
        return (couple(x, xd, y, yd), *uncouple(g, xd, yd).chunk(2, 1))


class Coupling(nn.Module):
    """The tensor product of two sets of tensors, channel by channel: l1 x l2 -> l3 for all
    :func:`equimd.model.painn.coupling_terms.couplings`, summed.

    e3nn's ``o3.TensorProduct`` ("uuu", component normalization, no path normalization), all components as one matrix.
    """

    def __init__(self, lmax: int) -> None:
        super().__init__()
        self.sizes = [2 * ell + 1 for ell in range(1, lmax + 1)]
        self.terms = coupling_terms(lmax)
        self._exact = coupling_tensor(lmax).flatten(1)
        self.register_buffer("matrix", self._exact.clone(), persistent=False)
        self.matrix: Tensor

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Rounded afresh to each precision: a float32 model that becomes float64 is equivariant to that, too."""
        super()._apply(fn, recurse)
        self.matrix = self._exact.to(self.matrix)
        return self

    def forward(self, x: Tensor, y: Tensor, *, native: bool = False) -> list[Tensor]:
        """All components (..., sum of 2l+1, T) of either -> for each l (..., 2l+1, T).

        ``native``: by the kernels, of the terms alone, (N, sum of 2l+1, T); else as one matrix product.
        """
        if native:
            return list(_Couple.apply(x, y).split(self.sizes, -2))  # type: ignore[no-untyped-call]
        product = (x.unsqueeze(-2) * y.unsqueeze(-3)).flatten(-3, -2)
        return list((self.matrix @ product).split(self.sizes, -2))

    def tangents(self, x: Tensor, y: Tensor, dx: Tensor, dy: Tensor) -> list[Tensor]:
        """Changes of the product for many changes (T, ...) of both sides at once, term by term.

        :meth:`forward` makes every product of two components, most of which no term needs: one call for a few atoms,
        and much to write for all their tangents.
        """
        out = torch.zeros_like(dx)
        of_x, of_y, of_dx, of_dy, to = (z.unbind(-2) for z in (x, y, dx, dy, out))
        for k, i, j, c in self.terms:
            to[k].addcmul_(of_dx[i], of_y[j], value=c).addcmul_(of_x[i], of_dy[j], value=c)
        return list(out.split(self.sizes, -2))
