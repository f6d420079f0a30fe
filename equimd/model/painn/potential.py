"""The potential: backbone, last layers, reference energies; E -> -dE/dR, or a direct force head."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from equimd.config import ModelConfig
from equimd.data.batch import Batch
from equimd.errors import ModelError
from equimd.model.painn.graph import Graph, dense_graph, edge_graph, pair_graph
from equimd.model.painn.network import PaiNN, initialize, scalar_linear, scalars, tensor_linear, tensors

MAX_CHARGE = 10  # charges -10..10 and multiplicities 0 (not stated)..11 have an embedding
MAX_SPIN = 11


class Output(NamedTuple):
    """What the network says of a batch, before reference energies.

    Attributes:
        energy: (B,) interaction energy, eV, model dtype.
        features: (B, p) pooled features phi; energy = last_layer(phi).
        vectors: (N, 3, C) equivariant features under the direct force head; None for conservative models.
        direct_forces: (N, 3) eV/Angstrom from the direct head, zero in padded slots; None for conservative models.
    """

    energy: Tensor
    features: Tensor
    vectors: Tensor | None
    direct_forces: Tensor | None


class DirectForceHead(nn.Module):
    """F_i = sum_c w_c V_ic: gated equivariant channels under one linear layer, 3 components alike.

    Gated equivariant block as in PaiNN (Schuett et al. 2021, fig. 3); the last layer is a plain ``nn.Linear``
    without bias on the C channels, so that a last-layer posterior is exact.
    """

    def __init__(self, num_features: int, num_channels: int) -> None:
        super().__init__()
        self.mix = o3.Linear(tensors(num_features, 1), tensors(num_channels, 1))
        self.hidden = o3.Linear(scalars(num_features), scalars(num_features), biases=True)
        self.gate = o3.Linear(scalars(num_features), scalars(num_channels), biases=True)
        self.last_layer = nn.Linear(num_channels, 1, bias=False)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s (N, F), v (N, 3, F) -> channels (N, 3, C), forces (N, 3) in units of the energy scale per Angstrom."""
        gate = scalar_linear(self.gate, F.silu(scalar_linear(self.hidden, s)))
        channels = gate.unsqueeze(1) * tensor_linear(self.mix, [v])[0]
        return channels, self.last_layer(channels).squeeze(-1)


class Potential(nn.Module):
    """A PaiNN potential: ``forward`` for use, ``network`` for whoever differentiates or compiles it.

    E = last_layer(phi) + sum_i E0(Z_i), phi = scale * sum_i h_i. ``last_layer`` is a plain ``nn.Linear`` without
    bias: the energy is linear in its weights, so the posterior over them is exact. ``scale`` (eV) is the data's force
    scale, so
    that training does not depend on units.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        direct = config.forces == "direct"
        f, p = config.num_features, config.num_readout
        self.backbone = PaiNN(
            f,
            config.num_layers,
            config.num_rbf,
            config.cutoff,
            config.lmax,
            config.radial_basis,
            tensor_products=config.tensor_products,
            keep_tensors=direct,
        )
        self.state_embedding = nn.Embedding((2 * MAX_CHARGE + 1) + (MAX_SPIN + 1), f) if config.charge_spin else None
        self.readout = o3.Linear(scalars(f), scalars(p), biases=True)
        self.last_layer = nn.Linear(p, 1, bias=False)
        self.force_head = DirectForceHead(f, p) if direct else None
        initialize(self)
        self.to(getattr(torch, config.dtype))
        self.register_buffer("atomic_energies", torch.zeros(119, dtype=torch.float64))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.atomic_energies: Tensor
        self.scale: Tensor

    @property
    def num_pooled(self) -> int:
        """P, the width of ``features``: phi, and the pooled scalars of every layer."""
        return self.config.num_readout + self.config.num_layers * self.config.num_features

    @property
    def dtype(self) -> torch.dtype:
        """Of weights and activations; energies come out in float64."""
        return self.last_layer.weight.dtype

    def network(
        self,
        positions: Tensor,
        atomic_numbers: Tensor,
        structure: Tensor,
        num_structures: int,
        *,
        num_slots: int = 0,
        edge_index: Tensor | None = None,
        edge_shifts: Tensor | None = None,
        charge: Tensor | None = None,
        spin: Tensor | None = None,
        pair_kernels: bool = False,
        edge_blocks: bool = False,
    ) -> Output:
        """The pure function of positions that everything else differentiates. Arguments as in :class:`Batch`.

        ``pair_kernels``: sum messages of a dense layout by the native kernels of :mod:`equimd.model.painn.pairs`.
        ``edge_blocks``: sum messages over an edge list in blocks (:mod:`equimd.model.painn.edges`); differentiable
        once.
        """
        if num_slots:
            layout = pair_graph if pair_kernels else dense_graph
            graph: Graph = layout(positions, atomic_numbers, num_slots, self.config.cutoff)
        elif edge_index is None:
            raise ModelError("a batch without padding needs its edges", where="edge_index")
        else:
            graph = edge_graph(positions, edge_index, edge_shifts, blocks=edge_blocks)
        state = None
        if self.state_embedding is not None:
            if charge is None or spin is None:
                raise ModelError("the model embeds charge and multiplicity: both are needed", where="charge, spin")
            q, m = charge + MAX_CHARGE, spin + 2 * MAX_CHARGE + 1
            state = (self.state_embedding(q) + self.state_embedding(m)).index_select(0, structure)
        layers, v = self.backbone(atomic_numbers, graph, state)
        s = layers[-1]
        scale = self.scale.to(s.dtype)
        real = (atomic_numbers > 0).to(s.dtype).unsqueeze(-1)
        h = F.silu(scalar_linear(self.readout, s)) * real

        def pooled(x: Tensor) -> Tensor:
            if num_slots:
                return x.view(num_structures, num_slots, -1).sum(1) * scale
            return x.new_zeros(num_structures, x.shape[-1]).index_add(0, structure, x) * scale

        phi = pooled(h)
        energy = self.last_layer(phi).squeeze(-1)
        # apart from phi, so that a graph that needs the energy alone leaves them out
        features = torch.cat([phi, pooled(torch.cat([x * real for x in layers], -1))], -1)
        if self.force_head is None:
            return Output(energy, features, None, None)
        vectors, forces = self.force_head(s, v[0])
        return Output(energy, features, vectors * (real * scale).unsqueeze(-1), forces * real * scale)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Energies and forces of a batch.

        Returns:
            ``energy`` (B,) float64, total, eV; ``forces`` (N, 3) eV/Angstrom in the model dtype, zero in padded slots;
            ``features`` (B, P), eV: phi, and the pooled scalars of every layer.

        Raises:
            ModelError: elements the model was not trained on, charges or multiplicities outside its embedding.
        """
        self.check(batch)
        conservative = self.force_head is None and not self.config.energy_only
        positions = batch.positions.to(self.dtype)
        with torch.set_grad_enabled(torch.is_grad_enabled() or conservative):
            if conservative:
                positions = positions.detach().requires_grad_(True)
            out = self.network(positions, **batch_arguments(batch), edge_blocks=not self.training)
            if conservative:
                (gradient,) = torch.autograd.grad(out.energy.sum(), positions, create_graph=self.training)
                forces = -gradient
            else:
                forces = out.direct_forces if out.direct_forces is not None else torch.full_like(positions, torch.nan)
        energy = out.energy.double() + self.reference_energy(batch)
        if not self.training:
            energy, forces, features = energy.detach(), forces.detach(), out.features.detach()
        else:
            features = out.features
        return {"energy": energy, "forces": forces, "features": features}

    def reference_energy(self, batch: Batch) -> Tensor:
        """(B,) float64: sum of the atomic reference energies of each structure, eV."""
        e0 = self.atomic_energies[batch.atomic_numbers]
        return e0.new_zeros(batch.num_structures).index_add(0, batch.batch, e0)

    def check(self, batch: Batch) -> None:
        """Refuse what the model cannot answer for.

        Raises:
            ModelError: as in :meth:`forward`.
        """
        if self.config.elements:
            known = torch.zeros(119, dtype=torch.bool, device=batch.atomic_numbers.device)
            known[[0, *self.config.elements]] = True
            if not bool(known[batch.atomic_numbers].all()):
                from ase.data import chemical_symbols

                unseen = sorted({int(z) for z in batch.atomic_numbers[~known[batch.atomic_numbers]]})
                raise ModelError(
                    "elements the model never saw: " + ", ".join(chemical_symbols[z] for z in unseen),
                    hint="it knows " + ", ".join(chemical_symbols[z] for z in self.config.elements),
                )
        if self.state_embedding is not None:
            q, m = batch.charge, batch.spin
            if len(q) and (int(q.abs().max()) > MAX_CHARGE or int(m.max()) > MAX_SPIN or int(m.min()) < 0):
                raise ModelError(
                    f"charge or multiplicity out of range (charges -{MAX_CHARGE}..{MAX_CHARGE}, "
                    f"multiplicities 1..{MAX_SPIN})"
                )


def batch_arguments(batch: Batch) -> dict[str, Any]:
    """The arguments of :meth:`Potential.network` besides the positions."""
    return {
        "atomic_numbers": batch.atomic_numbers,
        "structure": batch.batch,
        "num_structures": batch.num_structures,
        "num_slots": batch.num_slots,
        "edge_index": batch.edge_index,
        "edge_shifts": None if batch.edge_shifts is None else batch.edge_shifts.to(batch.positions.dtype),
        "charge": batch.charge,
        "spin": batch.spin,
    }


class Network(nn.Module):
    """``Potential.network`` as a module's forward, which ``torch.func.functional_call`` needs."""

    def __init__(self, model: Potential) -> None:
        super().__init__()
        self.model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model.network(*args, **kwargs)
