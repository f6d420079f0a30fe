"""PaiNN in e3nn irreps: the page to read to know the model.

Schuett, Unke and Gastegger, "Equivariant message passing for the prediction of tensorial properties and molecular
spectra", ICML 2021. Features are ``F x 0e + T x 1o (+ T x 2e ...)``: scalars s and, for each l = 1..lmax, tensors V_l.
lmax = 1 is PaiNN as published; l > 1 repeats the published vector equations for each l, and adds to each update the
tensor products that couple them (:class:`Coupling`), as Batatia et al., "MACE", NeurIPS 2022, multiply the features of
an atom: in one layer an atom then sees angles among three and more neighbours, and not pairs of directions alone.
 e3nn modules hold every weight. What runs works on channels-last tensors (atoms, 2l+1, T), so that each o3.Linear is
one matrix product and everything between two products can be fused by a compiler. :mod:`equimd.model.painn.reference`
spells the same function with e3nn's own forward passes; tests hold the two equal to rounding.

Terms that cannot matter are not computed: V = 0 before the first layer, so its V_j message is left out (eq. 8, first
term); a layer whose V is not read any more has no V update (eq. 9).
"""

from __future__ import annotations

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equimd.config import RADIAL_BASES
from equimd.machine import has_compiler
from equimd.model.painn import edges, pairs
from equimd.model.painn.coupling import Coupling
from equimd.model.painn.graph import EdgeGraph, Graph, PairGraph
from equimd.model.painn.radial import polynomial_cutoff

LARGE = 256  # atoms over edges, from which products of tensors are worth the building of their kernels
NORM_EPS = 1e-8  # under the root of |V|, so that its derivative stays finite at V = 0


def scalars(mul: int) -> o3.Irreps:
    """``mul`` invariant channels."""
    return o3.Irreps([(mul, (0, 1))])


def tensors(mul: int, lmax: int) -> o3.Irreps:
    """``mul`` channels of each l = 1..lmax with the parity of spherical harmonics (1o, 2e, 3o)."""
    return o3.Irreps([(mul, (ell, (-1) ** ell)) for ell in range(1, lmax + 1)])


def scalar_linear(linear: o3.Linear, x: Tensor) -> Tensor:
    """o3.Linear on scalars as one matrix product: (N, in) -> (N, out)."""
    instruction = linear.instructions[0]
    out = x @ linear.weight.view(linear.irreps_in.dim, linear.irreps_out.dim) * instruction.path_weight
    return out + linear.bias if linear.bias.numel() else out


def tensor_linear(linear: o3.Linear, x: list[Tensor]) -> list[Tensor]:
    """o3.Linear on channels-last tensors, one matrix product for each l: (..., 2l+1, in) -> (..., 2l+1, out)."""
    out, offset = [], 0
    for instruction in linear.instructions:
        if instruction.i_in < 0:
            continue
        rows, cols = instruction.path_shape
        weight = linear.weight[offset : offset + rows * cols].view(rows, cols)
        offset += rows * cols
        y = x[instruction.i_in]
        flat = y.flatten(0, -2)  # else torch multiplies atom by atom where y is not contiguous
        out.append((flat @ weight * instruction.path_weight).unflatten(0, y.shape[:-1]))
    return out


def initialize(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases in every o3.Linear below ``module``, as PaiNN was published.

    e3nn's own initialization gives every product unit variance, which a network that multiplies its features three
    times a layer turns into overflow within a few layers. e3nn stores weights w and applies w * path_weight: what is
    drawn here is the applied weight.
    """
    for linear in module.modules():
        if not isinstance(linear, o3.Linear):
            continue
        offset = 0
        with torch.no_grad():
            for instruction in linear.instructions:
                if instruction.i_in < 0:
                    continue
                rows, cols = instruction.path_shape
                block = linear.weight[offset : offset + rows * cols].view(rows, cols)
                nn.init.xavier_uniform_(block, gain=1.0 / instruction.path_weight)
                offset += rows * cols
            linear.bias.zero_()


def learning_rate_factors(module: nn.Module) -> dict[str, float]:
    """For each parameter the factor on the learning rate that undoes e3nn's path normalization.

    Adam's step does not scale with the parameter, so a stored weight w applied as w * path_weight would learn
    ``path_weight`` times slower than a plain one; 1/path_weight restores the step of the applied weight.
    """
    factors = {name: 1.0 for name, _ in module.named_parameters()}
    for prefix, linear in module.named_modules():
        if isinstance(linear, o3.Linear):
            weights = {i.path_weight for i in linear.instructions if i.i_in >= 0}
            factors[f"{prefix}.weight" if prefix else "weight"] = 1.0 / max(weights)
    return factors


class Message(nn.Module):
    """ds_i = sum_j phi_s W_s;  dV_i = sum_j V_j phi_vv W_vv + Y(r_ij) phi_vs W_vs  (eqs. 7 and 8).

    phi = MLP(s_j); W = linear(radial(r_ij)) fcut(r_ij), one product since the basis carries fcut.
    """

    def __init__(self, num_features: int, num_tensors: int, num_rbf: int, lmax: int, *, first: bool) -> None:
        super().__init__()
        f = num_features
        self.first, self.lmax = first, lmax
        self.sizes = [f] + [num_tensors] * (lmax + (0 if first else lmax))  # [s | vs of each l | vv of each l]
        width = sum(self.sizes)
        self.hidden = o3.Linear(scalars(f), scalars(f), biases=True)
        self.phi = o3.Linear(scalars(f), scalars(width), biases=True)
        self.filter = o3.Linear(scalars(num_rbf), scalars(width), biases=True)

    def forward(
        self, s: Tensor, v: list[Tensor], basis: Tensor, harmonics: list[Tensor], graph: Graph
    ) -> tuple[Tensor, list[Tensor]]:
        """s (N, F), v[l-1] (N, 2l+1, T), basis (E, R+1), harmonics[l-1] (E, 2l+1) -> ds, dv."""
        phi = scalar_linear(self.phi, F.silu(scalar_linear(self.hidden, s)))
        linear = self.filter
        weight = linear.weight.view(-1, phi.shape[1]) * linear.instructions[0].path_weight
        matrix = torch.cat([weight, linear.bias[None]])
        if isinstance(graph, EdgeGraph) and graph.blocks:
            return edges.message(phi, matrix, basis, harmonics, v, graph.source, graph.target, *self.sizes[:2])
        if isinstance(graph, PairGraph):
            return self._over_pairs(phi, basis @ matrix, v, harmonics, graph)
        parts = graph.filtered(phi, basis, matrix, self.sizes)
        ds = graph.collect(parts[0])
        dv = []
        for k in range(self.lmax):
            own = None if self.first else (v[k], parts[1 + self.lmax + k])
            dv.append(graph.collect_tensors(harmonics[k], parts[1 + k], own))
        return ds, dv

    def _over_pairs(
        self, phi: Tensor, w: Tensor, v: list[Tensor], harmonics: list[Tensor], graph: PairGraph
    ) -> tuple[Tensor, list[Tensor]]:
        """The same sums, each unordered pair held once."""
        b, n, f, t = graph.num_structures, graph.num_slots, self.sizes[0], self.sizes[1]
        sent = phi
        if not self.first:
            own = phi[:, f + self.lmax * t :].unflatten(1, (self.lmax, t))
            tensors_ = [(v[k] * own[:, k, None]).flatten(1) for k in range(self.lmax)]
            sent = torch.cat([phi[:, : f + self.lmax * t], *tensors_], dim=1)
        y = torch.cat(harmonics, dim=1).view(b, graph.num_pairs, -1)
        out = pairs.message(sent.view(b, n, -1), w.view(b, graph.num_pairs, -1), y, f, t).flatten(0, 1)
        ds, dv = out[:, :f], out[:, f:].unflatten(1, (-1, t))
        return ds, list(dv.split([2 * ell + 1 for ell in range(1, self.lmax + 1)], dim=1))


class Update(nn.Module):
    """ds = a_ss + a_sv <U v, V v>;  dv = a_vv U v,  a = MLP(s, |V v|)  (eqs. 9 and 10).

    With products p = U v x V v (:class:`Coupling`), further ds = a_sp <U v, W_s p> and dv = a_vp W_v p. Where tensors
    have as many channels as scalars, each inner product is added to the scalar of its channel, as published; where they
    have fewer, all of them go through one linear map S.
    """

    def __init__(self, num_features: int, num_tensors: int, lmax: int, *, last: bool, products: bool = False) -> None:
        super().__init__()
        f, t = num_features, num_tensors
        self.lmax, self.last, self.products = lmax, last, products and lmax > 1
        self.uv = o3.Linear(tensors(t, lmax), tensors(2 * t, lmax))
        self.hidden = o3.Linear(scalars(f + t * lmax), scalars(f), biases=True)
        inner = lmax * (2 if self.products else 1)
        self.sizes = [f] + [t] * (inner * (1 if last else 2))  # [ss | sv | sp | vv | vp], each for all l
        self.gates = o3.Linear(scalars(f), scalars(sum(self.sizes)), biases=True)
        self.spread = None if t == f else o3.Linear(scalars(t * inner), scalars(f))
        if self.products:
            self.coupling = Coupling(lmax)
            self.mix = o3.Linear(tensors(t, lmax), tensors((1 if last else 2) * t, lmax))

    def forward(self, s: Tensor, v: list[Tensor], *, native: bool = False) -> tuple[Tensor, list[Tensor]]:
        """s (N, F), v[l-1] (N, 2l+1, T) -> ds, dv (no dv from a layer whose tensors are not read any more).

        ``native``: couple tensors by the native kernels.
        """
        u, b = zip(*(x.chunk(2, dim=-1) for x in tensor_linear(self.uv, v)), strict=True)
        norms = [(x.square().sum(1) + NORM_EPS).sqrt() for x in b]
        gates = scalar_linear(self.gates, F.silu(scalar_linear(self.hidden, torch.cat([s, *norms], dim=-1))))
        inner, outer = list(b), list(u)  # what is multiplied with U v to scalars; what is gated to tensors
        if self.products:
            mixed = tensor_linear(self.mix, self.coupling(torch.cat(u, 1), torch.cat(b, 1), native=native))
            inner += [x[..., : self.sizes[-1]] for x in mixed]
            outer += [x[..., self.sizes[-1] :] for x in mixed]
        a = gates.split(self.sizes, dim=-1)
        dots = [a[1 + k] * (u[k % self.lmax] * x).sum(1) for k, x in enumerate(inner)]
        ds = a[0] + (sum(dots) if self.spread is None else scalar_linear(self.spread, torch.cat(dots, -1)))
        if self.last:
            return ds, []
        gated = [g.unsqueeze(1) * x for g, x in zip(a[1 + len(inner) :], outer, strict=True)]
        return ds, [sum(gated[k + self.lmax :: self.lmax], gated[k]) for k in range(self.lmax)]


class PaiNN(nn.Module):
    """Atoms and pair vectors in, invariant and equivariant features out.

    Args:
        num_features: F, channels of the scalars.
        num_tensors: T <= F, channels of the tensors of each l.
        tensor_products: whether updates couple tensors of different l, for lmax > 1.
        keep_tensors: whether V is read after the last layer (the direct force head does).
    """

    def __init__(
        self,
        num_features: int,
        num_tensors: int,
        num_layers: int,
        num_rbf: int,
        cutoff: float,
        lmax: int,
        radial_basis: str,
        *,
        tensor_products: bool,
        keep_tensors: bool,
    ) -> None:
        super().__init__()
        self.num_features, self.cutoff, self.lmax = num_features, cutoff, lmax
        self.irreps_out = (scalars(num_features) + tensors(num_tensors, lmax)).simplify()
        self.embedding = nn.Embedding(119, num_features, padding_idx=0)
        self.radial = RADIAL_BASES[radial_basis](num_rbf, cutoff)
        last = [k == num_layers - 1 and not keep_tensors for k in range(num_layers)]
        t = num_tensors
        self.messages = nn.ModuleList(Message(num_features, t, num_rbf, lmax, first=k == 0) for k in range(num_layers))
        self.updates = nn.ModuleList(
            Update(num_features, t, lmax, last=flag, products=tensor_products) for flag in last
        )

    def extra_repr(self) -> str:
        return f"{self.irreps_out}, cutoff={self.cutoff}"

    def forward(
        self, atomic_numbers: Tensor, graph: Graph, state: Tensor | None = None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Features of every atom.

        Args:
            atomic_numbers: (N,), 0 in padded slots.
            graph: pairs with vectors r_j - r_i.
            state: (N, F) embedding of charge and spin, or None.
        Returns:
            s (N, F) after each layer, and v after the last, (N, 2l+1, T) for l = 1..lmax.
        """
        lengths = graph.vectors.norm(dim=-1)
        envelope = polynomial_cutoff(lengths, self.cutoff)[:, None]
        basis = torch.cat([self.radial(lengths) * envelope, envelope], dim=1)
        harmonics = [
            o3.spherical_harmonics(ell, graph.vectors, normalize=True, normalization="norm")
            for ell in range(1, self.lmax + 1)
        ]
        if isinstance(graph, PairGraph):  # whose kernels pass over pairs without harmonics
            near = ~(lengths >= self.cutoff)[:, None]  # a length that is no number is not passed over, and shows
            harmonics = [torch.where(near, y, 0.0) for y in harmonics]
        native = isinstance(graph, PairGraph)
        if isinstance(graph, EdgeGraph) and graph.blocks:
            native = graph.num_atoms >= LARGE and graph.vectors.device.type == "cpu" and has_compiler()
        s = self.embedding(atomic_numbers)
        if state is not None:
            s = s + state
        v: list[Tensor] = []
        layers: list[Tensor] = []
        for k, (message, update) in enumerate(zip(self.messages, self.updates, strict=True)):
            ds, dv = message(s, v, basis, harmonics, graph)
            s = s + ds
            v = dv if k == 0 else [a + b for a, b in zip(v, dv, strict=True)]
            ds, dv = update(s, v, native=native)
            s = s + ds
            if dv:
                v = [a + b for a, b in zip(v, dv, strict=True)]
            layers.append(s)
        return layers, v
