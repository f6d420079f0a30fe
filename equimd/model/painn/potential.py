"""The potential: backbone, last layers, reference energies; E -> -dE/dR, or a direct force head."""

from __future__ import annotations

import hashlib
import inspect
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from e3nn import o3
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from equimd.config import ModelConfig
from equimd.data.batch import ALL_PAIRS_MAX_ATOMS, Batch
from equimd.data.state import refuse_unknown
from equimd.errors import ModelError
from equimd.files import file_digest
from equimd.model.differentiable import DifferentiableModel, derivable
from equimd.model.interface import CHUNK, GraphKernels, NetworkOutput, Rows
from equimd.model.painn import coupling, kernels, pairs
from equimd.model.painn.graph import Graph, dense_graph, edge_graph, pair_graph
from equimd.model.painn.network import PaiNN, initialize, scalar_linear, scalars, tensor_linear, tensors
from equimd.model.painn.tangents import feature_slopes

MAX_CHARGE = 10  # charges -10..10 and multiplicities 0 (not stated)..11 have an embedding
MAX_SPIN = 11
_FILES = sorted(path for path in Path(__file__).parent.iterdir() if path.is_file())
#: Of the code of this package as it was imported, whatever happens to the files later.
SOURCES = hashlib.sha256(b"".join(path.read_bytes() for path in _FILES)).hexdigest()


def _source(cls: type) -> str:
    """Digest of the file that a class stands in, which may be a user's; of one without a file, what no other has."""
    try:
        return file_digest(inspect.getfile(cls))
    except (OSError, TypeError):
        return f"{os.getpid()}-{id(cls)}"


class DirectForceHead(nn.Module):
    """F_i = sum_c w_c V_ic: gated equivariant channels under one linear layer, 3 components alike.

    Gated equivariant block as in PaiNN (Schuett et al. 2021, fig. 3); the last layer is a plain ``nn.Linear``
    without bias on the C channels, so that a last-layer posterior is exact.
    """

    def __init__(self, num_features: int, num_tensors: int, num_channels: int) -> None:
        super().__init__()
        self.mix = o3.Linear(tensors(num_tensors, 1), tensors(num_channels, 1))
        self.hidden = o3.Linear(scalars(num_features), scalars(num_features), biases=True)
        self.gate = o3.Linear(scalars(num_features), scalars(num_channels), biases=True)
        self.last_layer = nn.Linear(num_channels, 1, bias=False)

    def forward(self, s: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """s (N, F), v (N, 3, T) -> channels (N, 3, C), forces (N, 3) in units of the energy scale per Angstrom."""
        gate = scalar_linear(self.gate, F.silu(scalar_linear(self.hidden, s)))
        channels = gate.unsqueeze(1) * tensor_linear(self.mix, [v])[0]
        return channels, self.last_layer(channels).squeeze(-1)


class Potential(DifferentiableModel):
    """A PaiNN potential: ``evaluate`` for use, ``network`` for whoever differentiates or compiles it.

    E = last_layer(phi) + sum_i E0(Z_i), phi = scale * sum_i h_i. ``last_layer`` is a plain ``nn.Linear`` without
    bias: the energy is linear in its weights, so the posterior over them is exact. ``scale`` (eV) is the data's force
    scale, so that training does not depend on units. To phi come the pooled scalars of every layer: ``features``.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config.elements, config.cutoff)
        self.config = config
        direct = config.forces == "direct"
        f, t, p = config.num_features, config.tensor_channels, config.num_readout
        self.backbone = PaiNN(
            f,
            t,
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
        self.force_head = DirectForceHead(f, t, p) if direct else None
        initialize(self)
        self.to(getattr(torch, config.dtype))
        self.register_buffer("scale", torch.ones((), dtype=torch.float64))
        self.scale: Tensor

    @property
    def description(self) -> str:
        """``PaiNN, 128 scalars, 64 tensors of each l up to 3, 3 layers``."""
        return f"PaiNN, {self.config.size_in_words}"

    @property
    def num_pooled(self) -> int:
        """P, the width of ``features``: phi, and the pooled scalars of every layer."""
        return self.config.num_readout + self.config.num_layers * self.config.num_features

    @property
    def has_forces(self) -> bool:
        """Not after a training on energies alone."""
        return not self.config.energy_only

    @property
    def conservative(self) -> bool:
        return self.force_head is None

    @property
    def sees_charge_spin(self) -> bool:
        return self.state_embedding is not None

    @property
    def force_weights(self) -> Tensor:
        return self.energy_weights if self.force_head is None else self.force_head.last_layer.weight.detach()[0]

    @property
    def interaction_range(self) -> float:
        """Angstrom: each layer hears of atoms one cutoff farther away."""
        return self.config.num_layers * self.config.cutoff

    @property
    def pair_channels(self) -> int:
        """The message of a pair: a scalar and two weights of tensors."""
        return self.config.num_features + 2 * self.config.tensor_channels

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
    ) -> NetworkOutput:
        """The pure function of positions that everything else differentiates. Arguments as in :class:`Batch`.

        ``pair_kernels``: messages of a dense layout, and products of tensors, by :mod:`equimd.model.painn.kernels`.
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
        state = self.embedded_state(charge, spin, structure)
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
            return NetworkOutput(energy, features)
        vectors, forces = self.force_head(s, v[0])
        return NetworkOutput(energy, features, vectors * (real * scale).unsqueeze(-1), forces * real * scale)

    def embedded_state(self, charge: Tensor | None, spin: Tensor | None, structure: Tensor) -> Tensor | None:
        """(N, F) embedding of the charge and multiplicity (B,) of each atom's structure; None of a model without."""
        if self.state_embedding is None:
            return None
        if charge is None or spin is None:
            raise ModelError("the model embeds charge and multiplicity: both are needed", where="charge, spin")
        q, m = charge + MAX_CHARGE, spin + 2 * MAX_CHARGE + 1
        return (self.state_embedding(q) + self.state_embedding(m)).index_select(0, structure)

    def outputs(self, positions: Tensor, batch: Batch, *, once: bool = False) -> NetworkOutput:
        """:meth:`network` of a batch; ``once``, messages over an edge list are summed in blocks."""
        return self.network(positions, **batch_arguments(batch), edge_blocks=once)

    @derivable
    def rows(
        self, batch: Batch, *, width: int | None = None, directions: Tensor | None = None, chunk: int = CHUNK
    ) -> Rows:
        """Energy rows and force rows; those of small molecules from :mod:`equimd.model.painn.tangents`, all coordinates
        at once in forward mode, of others and in few directions from reverse passes."""
        small = batch.num_slots or (int(batch.n_atoms.max()) <= ALL_PAIRS_MAX_ATOMS and not bool(batch.pbc.any()))
        if not self.conservative or not small or directions is not None:
            return super().rows(batch, width=width, directions=directions, chunk=chunk)
        self.check(batch)
        dense = batch.padded()
        features, slopes = feature_slopes(self, dense)
        return Rows(features, slopes.neg_() if dense is batch else -slopes[dense.real][..., :width])

    def graph_tensors(self) -> dict[str, Tensor]:
        """Weights and buffers by name."""
        return {k: v.detach() for k, v in [*self.named_parameters(), *self.named_buffers()]}

    def graph_outputs(
        self, tensors: Mapping[str, Tensor], positions: Tensor, batch: Batch, *, native: bool
    ) -> NetworkOutput:
        """:meth:`network` as a pure function; ``native``, with the kernels of :mod:`equimd.model.painn.kernels`."""
        arguments = {**batch_arguments(batch), "pair_kernels": native and batch.num_slots > 1}
        if not tensors:
            return self.network(positions, **arguments)
        weights = {f"model.{name}": tensor for name, tensor in tensors.items()}
        return cast("NetworkOutput", functional_call(Network(self), weights, (positions,), arguments))

    def graph_key(self) -> dict[str, Any]:
        """Settings that the code depends on, and the digest of the sources."""
        config = self.config.model_dump(mode="json", exclude={"elements", "states"})
        return {"config": config, "sources": SOURCES, "radial": _source(type(self.backbone.radial))}

    def graph_kernels(self) -> GraphKernels:
        """Of the messages over pairs, and of the products of tensors."""
        operators = [*pairs.OPERATORS, *coupling.OPERATORS]
        return GraphKernels(operators, kernels.source(self.dtype, self.config.lmax), kernels.shims())

    def check(self, batch: Batch) -> None:
        """Refuse what the model cannot answer for.

        Raises:
            ModelError: elements it was not trained on; charges or multiplicities it was not trained on, or that are
                not stated though it was trained on several; those outside its embedding.
        """
        super().check(batch)
        if self.config.states:
            stated = [True] * len(batch.charge) if batch.charge_stated is None else batch.charge_stated.tolist()
            rows = zip(batch.charge.tolist(), stated, batch.spin.tolist(), strict=True)
            asked = {(q if given or q else None, m) for q, given, m in rows}
            refuse_unknown(asked, self.config.states, seen=self.sees_charge_spin)
        if self.state_embedding is not None:
            charges, spins = batch.charge.tolist(), batch.spin.tolist()
            if max(map(abs, charges), default=0) > MAX_CHARGE or not all(0 <= m <= MAX_SPIN for m in spins):
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
