"""Energies and forces of R replicas of one structure from a trained potential, as a force function for the integrators.

The dynamics is in float64; the model computes in its own precision. Positions are taken relative to their centre before
they are rounded to it, so that a molecule that has drifted far away keeps its digits, and energies get their reference
energies in float64.

Small open molecules: all pairs, replicas in blocks small enough for the edge tensors to stay in cache. Larger and
periodic systems: a neighbour list with a skin, made anew when an atom has moved half of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from equimd.data.batch import DENSE_MAX_ATOMS, Batch
from equimd.data.neighbors import neighbor_list
from equimd.errors import ModelError
from equimd.md.state import System
from equimd.model.potential import Potential, batch_arguments

#: Bytes of edge tensors in flight that still fit the second-level cache of one core.
CACHE_BYTES = 1 << 20
SKIN = 1.0  # Angstrom


def block_size(n_atoms: int, num_features: int, itemsize: int) -> int:
    """Replicas evaluated at once in the dense layout: their messages (n^2 pairs, 3 F channels) fit the cache."""
    return max(1, CACHE_BYTES // (n_atoms * n_atoms * 3 * num_features * itemsize))


@dataclass(frozen=True)
class _SkinList:
    """A neighbour list that stays valid while no atom has moved half of the skin."""

    made_for: Tensor  # (A, n, 3) positions, float64
    edge_index: Tensor
    edge_shifts: Tensor | None


class ForceField:
    """``energy, forces, extras = field(positions)`` with positions (A, n, 3) in Angstrom.

    Args:
        model: the potential, in evaluation mode; computes on the device and in the precision it is in.
        system: the structure all replicas share.
        charge, spin: of the structure; used by models that see them.
        features: put the pooled features phi (A, p), eV, into the extras, for scores that need them.
        block: replicas at once in the dense layout; None: as many as the cache takes.

    Raises:
        ModelError: the model was trained on energies alone, never saw an element, or the charge or multiplicity is out
            of its range.
    """

    def __init__(
        self,
        model: Potential,
        system: System,
        *,
        charge: int = 0,
        spin: int = 0,
        features: bool = False,
        block: int | None = None,
    ) -> None:
        if model.config.energy_only:
            raise ModelError(
                "the model was trained on energies alone: its forces are unreliable", hint="train with a forces weight"
            )
        self.model, self.system, self.features = model, system, features
        self.device = model.last_layer.weight.device
        n = system.n_atoms
        self.dense = not system.periodic and n <= DENSE_MAX_ATOMS
        itemsize = torch.finfo(model.dtype).bits // 8
        self.block = block or block_size(n, model.config.num_features, itemsize)
        self._template = self._structures(1, charge, spin)
        model.check(self._template)
        self.reference = float(model.reference_energy(self._template)[0])
        self._charge_spin = charge, spin
        self._batches: dict[int, Batch] = {1: self._template}
        self._list: _SkinList | None = None

    def _structures(self, count: int, charge: int, spin: int) -> Batch:
        """A batch of ``count`` copies of the structure, all but its positions and edges."""
        n, device = self.system.n_atoms, self.device
        numbers = self.system.numbers.to(device)
        cell = torch.zeros(3, 3, dtype=torch.float64) if self.system.cell is None else self.system.cell
        return Batch(
            positions=torch.zeros(count * n, 3, dtype=self.model.dtype, device=device),
            atomic_numbers=numbers.repeat(count),
            batch=torch.arange(count, device=device).repeat_interleave(n),
            n_atoms=torch.full((count,), n, dtype=torch.int64, device=device),
            charge=torch.full((count,), charge, dtype=torch.int64, device=device),
            spin=torch.full((count,), spin, dtype=torch.int64, device=device),
            cell=cell.to(device).expand(count, 3, 3),
            pbc=torch.tensor(self.system.pbc, device=device).expand(count, 3),
            num_slots=n if self.dense else 0,
        )

    def _batch(self, count: int) -> Batch:
        if count not in self._batches:
            self._batches[count] = self._structures(count, *self._charge_spin)
        return self._batches[count]

    def __call__(self, positions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Energies (A,) float64 total eV, forces (A, n, 3) float64 eV/Angstrom, and the extras.

        Replicas whose positions are not finite get NaN, and do not disturb the others.
        """
        if not self.dense:
            return self._with_list(positions)
        parts = [self._compute(x, self._batch(len(x))) for x in positions.split(self.block)]
        if len(parts) == 1:
            return parts[0]
        extras = {k: torch.cat([p[2][k] for p in parts]) for k in parts[0][2]}
        return torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts]), extras

    def _compute(self, positions: Tensor, batch: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """One call of the network."""
        centred = positions.detach() - positions.detach().mean(1, keepdim=True)
        x = centred.to(self.device, self.model.dtype).reshape(-1, 3)
        conservative = self.model.force_head is None
        with torch.set_grad_enabled(conservative):
            x = x.requires_grad_(conservative)
            out = self.model.network(x, **batch_arguments(batch))
            if out.direct_forces is None:
                (gradient,) = torch.autograd.grad(out.energy.sum(), x)
                forces = -gradient
            else:
                forces = out.direct_forces
        energy = out.energy.detach().to(positions.device, torch.float64) + self.reference
        extras = {"features": out.features.detach().to(positions.device)} if self.features else {}
        return energy, forces.to(positions.device, torch.float64).reshape(positions.shape), extras

    def _with_list(self, positions: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        finite = torch.isfinite(positions).all(-1).all(-1)
        if not bool(finite.all()):
            return self._without_broken(positions, finite)
        skin_list = self._list
        if skin_list is None or not self._valid(skin_list, positions):
            skin_list = self._list = self._make_list(positions)
        batch = replace(self._batch(len(positions)), edge_index=skin_list.edge_index, edge_shifts=skin_list.edge_shifts)
        return self._compute(positions, batch)

    def _without_broken(self, positions: Tensor, finite: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """NaN for replicas with positions that are not finite; a neighbour list cannot be made of those."""

        def spread(x: Tensor) -> Tensor:
            out = x.new_full((len(positions), *x.shape[1:]), torch.nan)
            out[finite] = x
            return out

        if not bool(finite.any()):
            empty = positions.new_full(positions.shape[:1], torch.nan)
            features = positions.new_full((len(positions), self.model.config.num_readout), torch.nan)
            return empty, torch.full_like(positions, torch.nan), {"features": features} if self.features else {}
        energy, forces, extras = self._with_list(positions[finite])
        return spread(energy), spread(forces), {k: spread(v) for k, v in extras.items()}

    @staticmethod
    def _valid(skin_list: _SkinList, positions: Tensor) -> bool:
        if skin_list.made_for.shape != positions.shape:
            return False
        moved = (positions - skin_list.made_for).square().sum(-1).max()
        return bool(moved <= (0.5 * SKIN) ** 2)

    def _make_list(self, positions: Tensor) -> _SkinList:
        """All pairs within cutoff and skin."""
        count = len(positions)
        batch = self._batch(count)
        cell = None if self.system.cell is None else self.system.cell.expand(count, 3, 3)
        index, shifts = neighbor_list(
            positions.detach().reshape(-1, 3).cpu(),
            batch.n_atoms.cpu(),
            self.model.config.cutoff + SKIN,
            cell=None if cell is None else cell.cpu(),
            pbc=batch.pbc.cpu(),
        )
        # pairs in the skin contribute exactly zero: the model's cutoff function vanishes there
        shifts = None if shifts is None else shifts.to(self.device, self.model.dtype)
        return _SkinList(positions.detach().clone(), index.to(self.device), shifts)

    def arrays(self) -> dict[str, Tensor]:
        """What a restart needs to compute the same bits again: the positions the neighbour list was made for."""
        return {} if self._list is None else {"list_positions": self._list.made_for.clone()}

    def load(self, arrays: dict[str, Tensor]) -> None:
        """Go on from :meth:`arrays`."""
        if "list_positions" in arrays:
            self._list = self._make_list(arrays["list_positions"].to(self.system.masses.device))
