"""The derivative of the features by all coordinates at once, in forward mode, for small molecules.

A tangent is the change of every quantity of the network when one coordinate of one atom moves. There are 3n of them,
fewer than last-layer weights for the small molecules that need no neighbour list, and all go through the network
together: each linear layer is one matrix product over all tangents, and no autograd graph is kept. What depends on a
pair alone is differentiated by the pair's own vector first, once and not for each tangent: a coordinate of atom a
changes only the pairs that a belongs to.

The equations are those of :mod:`equimd.model.painn.network`, differentiated. Of B structures in n slots each, i and j
run over slots, x over a chunk of T of the 3n coordinates, l over 1..lmax, and F over channels:

    symbol                              variable                         shape
    s_i, V_i                            s, v[l-1] (around which)         (B, n, F), (B, n, 2l+1, F)
    ds_i/dx, dV_i/dx                    s, v of the calls; ts, tv        (T, B, n, F), (T, B, n, 2l+1, F)
    r_ij = r_j - r_i, d = |r_ij|        vectors, lengths                 (B n n, 3), (B n n,)
    dd/dr_ij = r_ij / d                 unit                             (B, i, j, 3)
    [radial(d), 1] f_cut(d), and d/dd   basis, basis_slope               (B n n, R+1)
    Y_l(r_ij), and d/dr_ij              harmonics, harmonics_slope       (B, i, j, 2l+1), (B, i, j, 3, 2l+1)
    W_s, W_vs, W_vv; dW/dd              w [s | vs | vv], w_slope         (B, i, j, F) each
    phi_j = B silu(C s_j + c) + e       phi [s | vs | vv]                (B, n, F) each
    C, B; silu'(C s_j + c)              hidden_weight, phi_weight; slope
    d(W phi)/dr_ij                      by_vector                        (B, i, j, 3, F)
    what a message changes directly     ds_direct, dv_direct             (3n, B, i, ...): by r_ij, not by s and V
    Y_l W_vs                            w_vs[l-1]                        (B, i, j, 2l+1, F)
    u = U V, b = V' V (network: V v)    u, b; du, db                     (B, n, 2l+1, F)
    |b|, a = MLP(s, |b|)                norms, a [ss | sv | sp | vv | vp] (B, n, F) each
    b and Q p; u and P p, p = u x b     inner; outer                     as u
    <u, b>, <u, Q p>                    dots                             (B, n, F)
    h = silu(R s + r), h'               h, slope                         (B, n, p)
    scale sum_i [h_i, s_i of layers]    features                         (B, P)
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Any, Protocol, cast

import torch
from e3nn import o3
from torch import Tensor

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.machine import side_by_side
from equimd.model.painn.graph import dense_graph
from equimd.model.painn.network import NORM_EPS, Message, PaiNN, Update, scalar_linear, tensor_linear
from equimd.model.painn.radial import polynomial_cutoff


class Network(Protocol):
    """What is differentiated: the parts of :class:`equimd.model.painn.potential.Potential` that make its features."""

    config: ModelConfig
    backbone: PaiNN
    readout: Any
    scale: Tensor

    @property
    def dtype(self) -> torch.dtype: ...

    def embedded_state(self, charge: Tensor | None, spin: Tensor | None, structure: Tensor) -> Tensor | None: ...


#: Bytes of one scalar feature of all tangents that are propagated together: its dozen neighbours then fit the cache.
CACHE_BYTES = 1 << 19
_FORWARD_MODE = threading.Lock()
Slopes = tuple[Tensor, Tensor]  # phi and dphi/dx, as feature_slopes returns them


@dataclass(frozen=True)
class _Pairs:
    """Radial basis (E, R+1) with its slope, and for each l harmonics (B, i, j, 2l+1) with (B, i, j, 3, 2l+1) slopes.

    ``unit`` (B, i, j, 3) is the slope of the distance; pairs beyond the cutoff have a basis and a slope of zero.
    """

    basis: Tensor
    basis_slope: Tensor
    unit: Tensor
    harmonics: list[Tensor]
    harmonics_slope: list[Tensor]

    def of(self, structures: slice) -> _Pairs:
        """Those of some of the structures."""
        each = self.unit.shape[1] * self.unit.shape[2]
        edges = slice(structures.start * each, structures.stop * each)
        harmonics, slopes = ([x[structures] for x in y] for y in (self.harmonics, self.harmonics_slope))
        return _Pairs(self.basis[edges], self.basis_slope[edges], self.unit[structures], harmonics, slopes)


def _pairs(model: Network, batch: Batch, positions: Tensor) -> _Pairs:
    """Of all structures at once; forward mode of torch is one for all threads, whose levels must not be mixed."""
    network, n = model.backbone, batch.num_slots
    shape = (batch.num_structures, n, n)
    vectors = dense_graph(positions, batch.atomic_numbers, n, model.config.cutoff).vectors
    lengths = vectors.norm(dim=-1)

    def basis(r: Tensor) -> Tensor:
        envelope = polynomial_cutoff(r, network.cutoff)[:, None]
        return torch.cat([network.radial(r) * envelope, envelope], dim=1)

    def harmonics(x: Tensor) -> Tensor:
        degrees = list(range(1, network.lmax + 1))
        return o3.spherical_harmonics(degrees, x, normalize=True, normalization="norm")

    axes = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    with _FORWARD_MODE:
        value, slope = torch.func.jvp(basis, (lengths,), (torch.ones_like(lengths),))[:2]
        slopes = [torch.func.jvp(harmonics, (vectors,), (axis.expand_as(vectors),))[1] for axis in axes]
    y_slope = torch.stack(slopes, 1)
    sizes = [2 * ell + 1 for ell in range(1, network.lmax + 1)]
    y = harmonics(vectors).view(*shape, -1)
    unit = (vectors / lengths[:, None]).view(*shape, 3)
    return _Pairs(value, slope, unit, [*y.split(sizes, -1)], [*y_slope.view(*shape, 3, -1).split(sizes, -1)])


def _weights(linear: o3.Linear) -> list[Tensor]:
    """The applied matrices, one for each l."""
    out, offset = [], 0
    for instruction in linear.instructions:
        if instruction.i_in >= 0:
            rows, cols = instruction.path_shape
            out.append(linear.weight[offset : offset + rows * cols].view(rows, cols) * instruction.path_weight)
            offset += rows * cols
    return out


def _silu(x: Tensor) -> tuple[Tensor, Tensor]:
    """Value and slope."""
    gate = torch.sigmoid(x)
    return x * gate, gate * (1 + x * (1 - gate))


def _by_coordinate(by_pair: Tensor) -> Tensor:
    """Slopes (B, i, j, 3, ...) of messages by r_j - r_i -> (3n, B, i, ...) of their sums over j by coordinates."""
    own = -by_pair.sum(2)
    out = by_pair.movedim((2, 3), (0, 1)).contiguous()
    out.diagonal(0, 0, 3).copy_(own.movedim(2, 0).movedim(2, -1))
    return out.flatten(0, 1)


class _MessageTangent:
    """One message layer around given features: its values, and the map from tangents of s, v to those of ds, dv."""

    def __init__(self, layer: Message, s: Tensor, v: list[Tensor], pairs: _Pairs) -> None:
        (b, n, _), lmax = s.shape, layer.lmax
        self.v, self.first, self.sizes = v, layer.first, layer.sizes
        hidden, self.slope = _silu(scalar_linear(layer.hidden, s))
        self.hidden_weight, self.phi_weight = _weights(layer.hidden)[0], _weights(layer.phi)[0]
        phi = scalar_linear(layer.phi, hidden)
        filters = torch.cat([_weights(layer.filter)[0], layer.filter.bias[None]])
        w = (pairs.basis @ filters).view(b, n, n, -1).split(self.sizes, -1)
        w_slope = (pairs.basis_slope @ filters).view(b, n, n, -1).split(self.sizes, -1)
        self.phi = phi.view(b, n, -1).split(self.sizes, -1)
        sent = [x[:, None] for x in self.phi]
        # (B, i, j, 3, F): the slope of a filter by the pair's vector
        by_vector = [pairs.unit.unsqueeze(-1) * (x * y).unsqueeze(-2) for x, y in zip(sent, w_slope, strict=True)]
        self.ds = (sent[0] * w[0]).sum(2)
        self.ds_direct = _by_coordinate(by_vector[0])
        self.w_s, self.w_vs, self.w_vv = w[0], [], list(w[1 + lmax :])
        self.dv, self.dv_direct = [], []
        for k in range(lmax):
            y, x = pairs.harmonics[k], sent[1 + k]
            from_s = y.unsqueeze(-1) * w[1 + k].unsqueeze(-2)
            self.w_vs.append(from_s)
            m = from_s * x.unsqueeze(-2)
            slope = by_vector[1 + k].unsqueeze(-2) * y[:, :, :, None, :, None]
            slope += pairs.harmonics_slope[k].unsqueeze(-1) * (x * w[1 + k])[:, :, :, None, None]
            if not layer.first:
                m = m + v[k][:, None] * (sent[1 + lmax + k] * w[1 + lmax + k]).unsqueeze(-2)
                slope += by_vector[1 + lmax + k].unsqueeze(-2) * v[k][:, None, :, None]
            self.dv.append(m.sum(2))
            self.dv_direct.append(_by_coordinate(slope))

    def __call__(self, s: Tensor | None, v: list[Tensor], chunk: slice) -> tuple[Tensor, list[Tensor]]:
        """Tangents s (T, B, n, F), None for zero, and v (T, B, n, 2l+1, F) of the coordinates in ``chunk``."""
        ds, dv = self.ds_direct[chunk].clone(), [x[chunk].clone() for x in self.dv_direct]
        if s is None:
            return ds, dv
        phi = (((s @ self.hidden_weight) * self.slope) @ self.phi_weight).split(self.sizes, -1)
        lmax = len(dv)
        from_v = []
        for k in range(0 if self.first else lmax):
            x = v[k] * self.phi[1 + lmax + k].unsqueeze(-2)
            from_v.append(x.addcmul_(self.v[k], phi[1 + lmax + k].unsqueeze(-2)))
        for j in range(s.shape[2]):
            ds.addcmul_(self.w_s[:, :, j], phi[0][:, :, j, None])
            for k in range(lmax):
                dv[k].addcmul_(self.w_vs[k][:, :, j], phi[1 + k][:, :, j, None, None])
                if from_v:
                    dv[k].addcmul_(self.w_vv[k][:, :, j].unsqueeze(-2), from_v[k][:, :, j, None])
        return ds, dv


class _UpdateTangent:
    """One update layer, likewise."""

    def __init__(self, layer: Update, s: Tensor, v: list[Tensor]) -> None:
        self.lmax, self.last, self.sizes = layer.lmax, layer.last, layer.sizes
        self.u, self.b = zip(*(x.chunk(2, -1) for x in tensor_linear(layer.uv, v)), strict=True)
        self.norms = [(b.square().sum(-2) + NORM_EPS).sqrt() for b in self.b]
        hidden, self.slope = _silu(scalar_linear(layer.hidden, torch.cat([s, *self.norms], -1)))
        self.a = scalar_linear(layer.gates, hidden).split(self.sizes, -1)
        self.weights = _weights(layer.uv), _weights(layer.hidden)[0], _weights(layer.gates)[0]
        self.coupling = layer.coupling if layer.products else None
        self.mix = _weights(layer.mix) if layer.products else []
        self.inner, self.outer = list(self.b), list(self.u)
        if self.coupling is not None:
            self.sides = torch.cat(self.u, -2), torch.cat(self.b, -2)
            self._append(self.coupling(*self.sides), self.inner, self.outer)
        self.dots = [(self.u[k % self.lmax] * x).sum(-2) for k, x in enumerate(self.inner)]
        self.spread = None if layer.spread is None else _weights(layer.spread)[0]
        self.ds = self.a[0] + self._spread([a * dot for a, dot in zip(self.a[1:], self.dots, strict=False)])
        # without the gates of a last layer there are no dv
        gated = [a.unsqueeze(-2) * x for a, x in zip(self.a[1 + len(self.inner) :], self.outer, strict=False)]
        self.dv = [sum(gated[k + self.lmax :: self.lmax], x) for k, x in enumerate(gated[: self.lmax])]

    def _append(self, products: list[Tensor], inner: list[Tensor], outer: list[Tensor]) -> None:
        """The mixed products, those that become scalars and those that become tensors."""
        width = products[0].shape[-1]
        mixed = [x @ w for x, w in zip(products, self.mix, strict=True)]
        inner += [x[..., :width] for x in mixed]
        outer += [x[..., width:] for x in mixed]

    def _spread(self, parts: list[Tensor]) -> Tensor:
        """Of gated inner products, what they add to the scalars."""
        return sum(parts[1:], parts[0]) if self.spread is None else torch.cat(parts, -1) @ self.spread

    def __call__(self, s: Tensor, v: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        uv_weights, hidden_weight, gates_weight = self.weights
        du, db = zip(*((x @ w).chunk(2, -1) for x, w in zip(v, uv_weights, strict=True)), strict=True)
        norms = [(b * x).sum(-2) / norm for b, x, norm in zip(self.b, db, self.norms, strict=True)]
        hidden = (torch.cat([s, *norms], -1) @ hidden_weight).mul_(self.slope)
        a = (hidden @ gates_weight).split(self.sizes, -1)
        inner, outer = list(db), list(du)
        if self.coupling is not None:
            self._append(self.coupling.tangents(*self.sides, torch.cat(du, -2), torch.cat(db, -2)), inner, outer)
        parts, dv = list[Tensor](), list[Tensor]()
        for k, (x, dx) in enumerate(zip(self.inner, inner, strict=True)):
            ell = k % self.lmax
            part = (du[ell] * x).sum(-2).add_((self.u[ell] * dx).sum(-2)).mul_(self.a[1 + k])
            parts.append(part.addcmul_(a[1 + k], self.dots[k]))
        ds = self._spread(parts).add_(a[0])
        for k in range(0 if self.last else len(outer)):
            gate = 1 + len(inner) + k
            dx = (outer[k] * self.a[gate].unsqueeze(-2)).addcmul_(a[gate].unsqueeze(-2), self.outer[k])
            if k < self.lmax:
                dv.append(dx)
            else:
                dv[k - self.lmax].add_(dx)
        return ds, dv


def _embedded(model: Network, batch: Batch) -> Tensor:
    s = model.backbone.embedding(batch.atomic_numbers)
    state = model.embedded_state(batch.charge, batch.spin, batch.batch)
    s = s if state is None else s + state
    return s.view(batch.num_structures, batch.num_slots, -1)


@torch.no_grad()
def _block(model: Network, batch: Batch, pairs: _Pairs) -> Slopes:
    """:func:`feature_slopes` of structures few enough to be done together."""
    b, n, backbone = batch.num_structures, batch.num_slots, model.backbone
    s, v, layers, scalars = _embedded(model, batch), cast("list[Tensor]", []), [], []
    for k, (message, update) in enumerate(zip(backbone.messages, backbone.updates, strict=True)):
        first = _MessageTangent(cast("Message", message), s, v, pairs)
        s, v = s + first.ds, first.dv if k == 0 else [x + y for x, y in zip(v, first.dv, strict=True)]
        second = _UpdateTangent(cast("Update", update), s, v)
        s, v = s + second.ds, [x + y for x, y in zip(v, second.dv, strict=False)]
        layers.append((first, second))
        scalars.append(s)
    h, slope = _silu(scalar_linear(model.readout, s))
    factor = (batch.atomic_numbers > 0).view(b, n, 1) * model.scale.to(s.dtype)
    features, slope = torch.cat([(x * factor).sum(1) for x in (h, *scalars)], -1), slope * factor

    size, parts = max(1, CACHE_BYTES // (b * n * s.shape[-1] * s.element_size())), []
    readout = _weights(model.readout)[0]
    for start in range(0, 3 * n, size):
        chunk, ts, tv = slice(start, start + size), cast("Tensor | None", None), cast("list[Tensor]", [])
        pooled = []
        for first, second in layers:
            ds, dv = first(ts, tv, chunk)
            ts = ds if ts is None else ts.add_(ds)
            tv = [x.add_(y) for x, y in zip(tv, dv, strict=True)] if tv else dv
            ds, dv = second(ts, tv)
            ts, tv = ts.add_(ds), [x.add_(y) for x, y in zip(tv, dv, strict=False)]
            pooled.append(torch.einsum("tbnf,bn->tbf", ts, factor.squeeze(-1)))
        parts.append(torch.cat([(cast("Tensor", ts) @ readout).mul_(slope).sum(2), *pooled], -1))
    by_coordinate = torch.cat(parts).view(n, 3, b, -1)
    return features, by_coordinate.permute(2, 0, 1, 3).reshape(b * n, 3, -1)


def feature_slopes(model: Network, batch: Batch) -> Slopes:
    """Features (B, P) of a dense batch, eV, and their slopes (B n, 3, P), eV/Angstrom, zero in padded slots."""
    n, width = batch.num_slots, model.config.num_features
    with torch.no_grad():
        positions = batch.positions.detach().to(model.dtype)
        pairs, total = _pairs(model, batch, positions), batch.num_structures
        count = max(1, CACHE_BYTES // (3 * n * n * width * positions.element_size()))
        blocks = [slice(start, min(start + count, total)) for start in range(0, total, count)]
        parts = side_by_side(lambda block: _block(model, _some(batch, block), pairs.of(block)), blocks)
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])


def _some(batch: Batch, structures: slice) -> Batch:
    """Some structures of a dense batch."""
    slots = slice(structures.start * batch.num_slots, structures.stop * batch.num_slots)
    return replace(
        batch,
        positions=batch.positions[slots],
        atomic_numbers=batch.atomic_numbers[slots],
        batch=batch.batch[slots] - structures.start,
        n_atoms=batch.n_atoms[structures],
        charge=batch.charge[structures],
        spin=batch.spin[structures],
        cell=batch.cell[structures],
        pbc=batch.pbc[structures],
    )
