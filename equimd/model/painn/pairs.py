"""The message of PaiNN over unordered pairs: native kernels, with the derivatives that training on forces needs.

For molecules, of which many pairs are within the cutoff; the others are passed over. The filter W_ij = W_ji is computed
and stored once for i < j, and the sums of eqs. 7 and 8 (Schuett et al. 2021), their derivatives and the derivatives of
those run as the loops of ``pairs.cpp``, which keep every partial sum in registers; a graph compiler left to itself
writes and reads tensors of all (i, j, feature) instead.

The kernels (:mod:`equimd.model.painn.kernels`) can be differentiated twice, the second time with respect to features
and filters only: what the gradient of a loss on forces takes.

Shapes, with M = (lmax+1)^2 - 1 components of tensors and P = n(n-1)/2 pairs i < j, i outermost:

- x (B, n, F + (lmax[+M]) T) of the sender: its scalars, its weights for each Y_l, and (not in the first layer) its
  tensors;
- w (B, P, F + (lmax[+lmax]) T) the filter of a pair, for each of these;
- y (B, P, M) harmonics of r_j - r_i; all 0: the pair is beyond the cutoff, its filter is 0, and so are the derivatives
  with respect to both;
- message, and g the derivative of a scalar with respect to it: (B, n, F + M T);
- F channels of scalars, T <= F of tensors.

``xd, wd, yd`` are directions: with them a kernel returns its derivative along them.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from equimd.model.painn import kernels


def _degree(m: int) -> int:
    """lmax from M = (lmax+1)^2 - 1."""
    return math.isqrt(m + 1) - 1


def _run(name: str, out: Tensor, lmax: int, atoms: Tensor, f: int, t: int, vv: bool, *inputs: Tensor | None) -> Tensor:
    b, n, _ = atoms.shape
    return kernels.run(name, lmax, out, inputs, b, n, f, t, vv)


_Maybe = Tensor | None


def _gather_out(x: Tensor, xd: _Maybe, w: Tensor, wd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], f + y.shape[2] * t)


def _gather(x: Tensor, xd: _Maybe, w: Tensor, wd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    lmax, out = _degree(y.shape[2]), _gather_out(x, xd, w, wd, y, yd, f, t)
    return _run("gather", out, lmax, x, f, t, x.shape[2] > f + lmax * t, x, xd, w, wd, y, yd)


def _sender_out(g: Tensor, w: Tensor, wd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    lmax, m = _degree(y.shape[2]), y.shape[2]
    return g.new_empty(*g.shape[:2], f + (lmax + (m if w.shape[2] > f + lmax * t else 0)) * t)


def _sender(g: Tensor, w: Tensor, wd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    lmax, out = _degree(y.shape[2]), _sender_out(g, w, wd, y, yd, f, t)
    return _run("sender", out, lmax, g, f, t, w.shape[2] > f + lmax * t, g, w, wd, y, yd)


def _filter_out(g: Tensor, x: Tensor, xd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    lmax = _degree(y.shape[2])
    return g.new_empty(*y.shape[:2], f + (lmax + (lmax if x.shape[2] > f + lmax * t else 0)) * t)


def _filter(g: Tensor, x: Tensor, xd: _Maybe, y: Tensor, yd: _Maybe, f: int, t: int) -> Tensor:
    lmax, out = _degree(y.shape[2]), _filter_out(g, x, xd, y, yd, f, t)
    return _run("filter", out, lmax, g, f, t, x.shape[2] > f + lmax * t, g, x, xd, y, yd)


def _harmonic_out(g: Tensor, x: Tensor, w: Tensor, f: int, t: int) -> Tensor:
    return g.new_empty(*w.shape[:2], (g.shape[2] - f) // t)


def _harmonic(g: Tensor, x: Tensor, w: Tensor, f: int, t: int) -> Tensor:
    out = _harmonic_out(g, x, w, f, t)
    lmax = _degree(out.shape[2])
    return _run("harmonic", out, lmax, g, f, t, x.shape[2] > f + lmax * t, g, x, w)


def _register(name: str, arguments: str, function: Any, shape: Any) -> Any:
    return kernels.operator(f"{name}({arguments}, int f, int t) -> Tensor", function, shape)


gather = _register("gather", "Tensor x, Tensor? xd, Tensor w, Tensor? wd, Tensor y, Tensor? yd", _gather, _gather_out)
sender = _register("sender", "Tensor g, Tensor w, Tensor? wd, Tensor y, Tensor? yd", _sender, _sender_out)
filter_ = _register("filter", "Tensor g, Tensor x, Tensor? xd, Tensor y, Tensor? yd", _filter, _filter_out)
harmonic = _register("harmonic", "Tensor g, Tensor x, Tensor w", _harmonic, _harmonic_out)
#: that a compiled graph may hold
OPERATORS = [gather, sender, filter_, harmonic]


class _Message(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, w: Tensor, y: Tensor, f: int, t: int) -> Tensor:
        # here and not in the operators: those of a compiled force graph take tensors as they come
        x, w, y = x.contiguous(), w.contiguous(), y.contiguous()
        ctx.sizes = f, t
        ctx.save_for_backward(x, w, y)
        return gather(x, None, w, None, y, None, f, t)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return (*_MessageBackward.apply(g, *ctx.saved_tensors, *ctx.sizes), None, None)


class _MessageBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, g: Tensor, x: Tensor, w: Tensor, y: Tensor, f: int, t: int) -> tuple[Tensor, Tensor, Tensor]:
        g = g.contiguous()
        ctx.sizes = f, t
        ctx.save_for_backward(g, x, w, y)
        return sender(g, w, None, y, None, f, t), filter_(g, x, None, y, None, f, t), harmonic(g, x, w, f, t)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, xd: Tensor, wd: Tensor, yd: Tensor) -> Any:
        (g, x, w, y), (f, t) = ctx.saved_tensors, ctx.sizes
        by_g, by_x = gather(x, xd, w, wd, y, yd, f, t), sender(g, w, wd, y, yd, f, t)
        return by_g, by_x, filter_(g, x, xd, y, yd, f, t), None, None, None


def message(x: Tensor, w: Tensor, y: Tensor, f: int, t: int) -> Tensor:
    """sum_j of w_ij, x_j and y_ij: (B, n, F + M T) = [ds | dV_m]; see the module docstring for shapes.

    ds_i = sum_j x0_j w0_ij;  dV_im = sum_j Y_ijm xl_j wl_ij + x(lmax+m)_j w(lmax+l)_ij, l the degree of m.
    """
    return _Message.apply(x, w, y, f, t)  # type: ignore[no-untyped-call]
