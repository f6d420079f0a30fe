"""The same PaiNN in e3nn's own words: what :mod:`equimd.model.painn.network` is compared with.

Slow and plain. Features are e3nn tensors, (N, irreps.dim) with the channels of an irrep one after the other; every
linear map is the module's own ``o3.Linear`` forward, every product an e3nn tensor product, every neighbourhood a list
of edges with a scatter-add. The weights are those of the :class:`Potential` it is given, so that gradients with
respect to them can be compared as well. Equation numbers: Schuett et al. 2021 (see :mod:`equimd.model.painn.network`).
"""

from __future__ import annotations

from typing import cast

import torch
from e3nn import o3
from torch import Tensor, nn

from equimd.data.batch import Batch
from equimd.data.neighbors import neighbor_list
from equimd.model.painn.coupling_terms import couplings
from equimd.model.painn.network import Message, Update, scalars, tensors
from equimd.model.painn.potential import MAX_CHARGE, DirectForceHead, Potential
from equimd.model.painn.radial import polynomial_cutoff


class ReferencePotential(nn.Module):
    """A :class:`Potential`, spelled with e3nn's forward passes. It shares the potential's weights.

    Args:
        potential: whose weights, settings, scale and reference energies are used.
    """

    def __init__(self, potential: Potential) -> None:
        super().__init__()
        self.potential = potential
        f, t, self.lmax = potential.config.num_features, potential.config.tensor_channels, potential.config.lmax
        self.num_features, self.num_tensors = f, t
        # without weights, so that e3nn takes the exact product; its "uvu" would carry a 3j symbol in float32
        self.scale_tensors = o3.ElementwiseTensorProduct(tensors(t, self.lmax), scalars(t * self.lmax))
        self.inner = o3.Norm(tensors(t, self.lmax), squared=True)
        channels = potential.config.num_readout
        self.scale_channels = o3.ElementwiseTensorProduct(tensors(channels, 1), scalars(channels))
        self.to(potential.dtype)

    def forward(self, batch: Batch, *, create_graph: bool = False) -> dict[str, Tensor]:
        """Energies, features and forces of a batch.

        Args:
            batch: either layout; the dense one is turned into a list of edges first.
            create_graph: keep what is needed to differentiate the forces once more.

        Returns:
            ``energy`` (B,) float64, total, eV; ``forces`` (N, 3) eV/Angstrom in the slots of the batch, zero in padded
            ones, NaN from an energy-only model; ``features`` (B, P) eV.
        """
        model = self.potential
        real = batch.atomic_numbers > 0
        positions = batch.positions[real].detach().to(model.dtype).requires_grad_(True)
        numbers, structure = batch.atomic_numbers[real], batch.batch[real]
        with torch.enable_grad():
            layers, v = self.backbone(batch, positions, numbers, structure)
            s = layers[-1]
            atoms = torch.cat([nn.functional.silu(model.readout(s)), *layers], 1) * model.scale.to(s.dtype)
            features = atoms.new_zeros(batch.num_structures, atoms.shape[1]).index_add(0, structure, atoms)
            interaction = model.last_layer(features[:, : model.config.num_readout]).squeeze(-1)
            if model.force_head is not None:
                forces = self.direct_forces(model.force_head, s, v)
            elif model.config.energy_only:
                forces = torch.full_like(positions, torch.nan)
            else:
                total = interaction.sum()
                forces = -torch.autograd.grad(total, positions, create_graph=create_graph, retain_graph=True)[0]
        in_slots = forces.new_zeros(len(real), 3).index_put((real.nonzero().squeeze(-1),), forces)
        energy = interaction.double() + model.reference_energy(batch)
        return {"energy": energy, "forces": in_slots, "features": features}

    def backbone(
        self, batch: Batch, positions: Tensor, numbers: Tensor, structure: Tensor
    ) -> tuple[list[Tensor], Tensor]:
        """s (n, F) after each layer and v (n, irreps.dim) after the last, of the n real atoms."""
        model, painn = self.potential, self.potential.backbone
        source, target, vectors = self.edges(batch, positions)
        lengths = vectors.norm(dim=-1)
        radial = painn.radial(lengths)
        envelope = polynomial_cutoff(lengths, painn.cutoff).unsqueeze(-1)
        y = self.harmonics(vectors)
        s = painn.embedding(numbers)
        if model.state_embedding is not None:
            state = model.state_embedding(batch.charge + MAX_CHARGE)
            state = state + model.state_embedding(batch.spin + 2 * MAX_CHARGE + 1)
            s = s + state[structure]
        v = s.new_zeros(len(s), tensors(self.num_tensors, self.lmax).dim)
        layers = []
        for message, update in zip(painn.messages, painn.updates, strict=True):
            ds, dv = self.message(cast(Message, message), s, v, radial, envelope, y, source, target)
            s, v = s + ds, v + dv
            ds, dv = self.update(cast(Update, update), s, v)
            s, v = s + ds, v + dv
            layers.append(s)
        return layers, v

    def edges(self, batch: Batch, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Source j, target i and r_j - r_i of every edge among the real atoms."""
        if batch.edge_index is not None:
            (source, target), shifts = batch.edge_index, batch.edge_shifts
        else:
            (source, target), shifts = neighbor_list(
                positions, batch.n_atoms, self.potential.config.cutoff, backend="torch"
            )
        vectors = positions[source] - positions[target]
        return source, target, vectors if shifts is None else vectors + shifts.to(vectors.dtype)

    def harmonics(self, vectors: Tensor) -> Tensor:
        """(E, irreps.dim): Y_1 + Y_2 + ... of each edge, the same in all T channels, |Y_l| = 1."""
        y = o3.spherical_harmonics(tensors(1, self.lmax), vectors, normalize=True, normalization="norm")
        parts = y.split([2 * ell + 1 for ell in range(1, self.lmax + 1)], dim=1)
        return torch.cat([part.repeat(1, self.num_tensors) for part in parts], dim=1)

    def message(
        self, module: Message, s: Tensor, v: Tensor, radial: Tensor, envelope: Tensor, y: Tensor, j: Tensor, i: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Eqs. 7 and 8, the products of each edge summed over the senders j of i."""
        width = self.num_tensors * self.lmax
        phi = module.phi(nn.functional.silu(module.hidden(s)))
        product = phi[j] * module.filter(radial) * envelope
        split = [self.num_features, width] + ([] if module.first else [width])
        parts = product.split(split, dim=-1)
        dv = self.scale_tensors(y, parts[1])
        if not module.first:  # v is zero before the first layer
            dv = dv + self.scale_tensors(v[j], parts[2])
        return torch.zeros_like(s).index_add(0, i, parts[0]), torch.zeros_like(v).index_add(0, i, dv)

    def update(self, module: Update, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Eqs. 9 and 10."""
        width = self.num_tensors * self.lmax
        u, b = self.halves(module.uv(v))
        norm = (self.inner(b) + 1e-8).sqrt()
        gates = module.gates(nn.functional.silu(module.hidden(torch.cat([s, norm], dim=-1))))
        inner, outer = [b], [u]
        if module.products:
            mixed = module.mix(self.products(u, b))
            to_scalars, to_tensors = (mixed, mixed) if module.last else self.halves(mixed)
            inner.append(to_scalars)
            outer.append(to_tensors)
        a, *parts = gates.split([self.num_features] + len(inner) * (1 if module.last else 2) * [width], dim=-1)
        products = [part * self.inner.tp(u, x) for part, x in zip(parts, inner, strict=False)]
        if module.spread is None:
            ds = a + torch.stack(products).sum(0).unflatten(-1, (self.lmax, self.num_features)).sum(1)
        else:
            ds = a + module.spread(torch.cat(products, -1))
        if module.last:
            return ds, torch.zeros_like(v)
        gated = [self.scale_tensors(x, part) for x, part in zip(outer, parts[len(inner) :], strict=True)]
        return ds, torch.stack(gated).sum(0)

    def products(self, x: Tensor, y: Tensor) -> Tensor:
        """Channel by channel, all l1 x l2 -> l3 of one l3 summed: e3nn's ``o3.TensorProduct`` with "uuu" paths.

        That one has 3j symbols in float32, unless the default dtype of torch is another while it is made.
        """
        irreps = tensors(self.num_tensors, self.lmax)
        parts_x, parts_y = (
            [t[:, part].unflatten(1, (self.num_tensors, -1)) for part in irreps.slices()] for t in (x, y)
        )
        out = [torch.zeros_like(part) for part in parts_x]
        for a, b, c in couplings(self.lmax):
            symbol = o3.wigner_3j(a, b, c, dtype=x.dtype, device=x.device) * (2 * c + 1) ** 0.5
            out[c - 1] = out[c - 1] + torch.einsum("nui,nuj,ijk->nuk", parts_x[a - 1], parts_y[b - 1], symbol)
        return torch.cat([part.flatten(1) for part in out], 1)

    def halves(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """2T x 1o + 2T x 2e + ... -> the first and the last T channels of every l."""
        first, last, offset = [], [], 0
        for ell in range(1, self.lmax + 1):
            dim = self.num_tensors * (2 * ell + 1)
            first.append(x[:, offset : offset + dim])
            last.append(x[:, offset + dim : offset + 2 * dim])
            offset += 2 * dim
        return torch.cat(first, dim=-1), torch.cat(last, dim=-1)

    def direct_forces(self, head: DirectForceHead, s: Tensor, v: Tensor) -> Tensor:
        """(n, 3): gated 1o channels under the last layer, x, y and z alike."""
        gate = head.gate(nn.functional.silu(head.hidden(s)))
        mixed = head.mix(v[:, : 3 * self.num_tensors])
        channels = self.scale_channels(mixed, gate).unflatten(-1, (-1, 3))  # (n, C, 3)
        return head.last_layer(channels.transpose(1, 2)).squeeze(-1) * self.potential.scale.to(s.dtype)
