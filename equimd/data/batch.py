"""Batch: frames as torch tensors, ready for the model.

Names and shapes (N node slots, B structures, E edges), units eV and Angstrom:

- ``positions`` (N, 3); ``atomic_numbers`` (N,), 0 in padded slots; ``batch`` (N,) structure of each slot, sorted;
- ``n_atoms`` (B,); ``charge``, ``spin`` (B,), ``charge_stated`` (B,) or None, that all are; ``cell`` (B, 3, 3);
  ``pbc`` (B, 3);
- ``energy`` (B,) float64, total; ``forces`` (N, 3), zero in padded slots; None where a frame of them has none;
- ``energy_weight`` (B,), ``force_weight`` (N,): how much each label counts in a training loss, 0 where there is none
  (and the label is then 0); None where all count alike;
- ``edge_index`` (2, E): [0] the source j, [1] the target i; ``edge_shifts`` (E, 3) or None.

Two layouts. *Dense* (``num_slots`` = n > 0): each structure takes n slots and all pairs are considered: fastest for
small open molecules. *Edges* (``num_slots`` = 0): N atoms without padding and a neighbour list.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from equimd.data.frames import Frames
from equimd.data.neighbors import neighbor_list
from equimd.errors import ConfigError
from equimd.shown import Shown

DENSE_MAX_ATOMS = 32  # beyond, pairs outside the cutoff cost more than gathering and scattering edges
#: Up to here compiled dynamics, whose kernels pass over such pairs, and forward-mode rows still gain by all pairs.
ALL_PAIRS_MAX_ATOMS = 64


def _copy(array: np.ndarray) -> Tensor:
    """A tensor of its own memory: frames may be read-only, a reversed view, or still needed by their owner."""
    return torch.from_numpy(np.array(array, order="C"))


@dataclass(frozen=True, repr=False)
class Batch(Shown):
    """Structures as tensors; see the module docstring for names, shapes and units."""

    positions: Tensor
    atomic_numbers: Tensor
    batch: Tensor
    n_atoms: Tensor
    charge: Tensor
    spin: Tensor
    cell: Tensor
    pbc: Tensor
    energy: Tensor | None = None
    forces: Tensor | None = None
    energy_weight: Tensor | None = None
    force_weight: Tensor | None = None
    edge_index: Tensor | None = None
    edge_shifts: Tensor | None = None
    charge_stated: Tensor | None = None
    num_slots: int = 0

    @property
    def num_structures(self) -> int:
        return self.n_atoms.shape[0]  # not len(), which a traced graph would keep as a constant

    @property
    def real(self) -> Tensor:
        """(N,) bool: the slots that hold an atom."""
        return self.atomic_numbers > 0

    @classmethod
    def from_frames(
        cls,
        frames: Frames,
        cutoff: float,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        neighbors: str = "auto",
        mean_weight: float | None = None,
    ) -> Batch:
        """Tensors of a block of frames.

        Args:
            cutoff: of the model, Angstrom.
            dtype: of positions, forces and cell; energies stay float64.
            neighbors: ``auto``, ``dense``, or a backend of :func:`equimd.data.neighbors.neighbor_list`.
            mean_weight: labels may be missing, and frames be weighted: make ``energy_weight`` and ``force_weight``,
                frames of this weight (the mean of a training set) counting 1. By default, labels that a frame lacks
                make those of the block None.

        Raises:
            ConfigError: ``dense`` asked for periodic frames.
        """
        periodic = bool(frames.pbc.any())
        width = frames.numbers.shape[1]
        if neighbors == "auto" and not periodic and width <= DENSE_MAX_ATOMS:
            neighbors = "dense"
        if not width:  # no frames: no slots either
            neighbors = "torch"
        if neighbors == "dense" and periodic:
            raise ConfigError("the dense layout cannot do periodic systems", hint="use neighbors auto or vesin")
        dense = neighbors == "dense"
        n_atoms = frames.n_atoms
        real = slice(None) if dense else (frames.numbers > 0)

        def nodes(array: np.ndarray) -> np.ndarray:
            return array.reshape(-1, *array.shape[2:]) if dense else array[real]

        energy, forces, weights = frames.energy, frames.forces, {}
        if mean_weight is not None:
            counted = frames.weight / mean_weight
            per_atom = counted[:, None] * frames.force_mask
            weights = {
                "energy_weight": _copy(counted * frames.has_energy).to(dtype),
                "force_weight": _copy(nodes(per_atom)).to(dtype),
            }
            energy, forces = np.nan_to_num(energy), np.where(frames.force_mask[..., None], forces, 0.0)
        has_energy, has_forces = bool(np.isfinite(energy).all()), bool(np.isfinite(forces).all())
        sizes = np.full(len(frames), width) if dense else n_atoms
        batch = cls(
            positions=_copy(nodes(frames.positions)).to(dtype),
            atomic_numbers=torch.from_numpy(nodes(frames.numbers).astype(np.int64)),
            batch=torch.from_numpy(np.repeat(np.arange(len(frames)), sizes)),
            n_atoms=torch.from_numpy(n_atoms.astype(np.int64)),
            charge=_copy(frames.charge),
            spin=_copy(frames.spin),
            cell=_copy(frames.cell).to(dtype),
            pbc=_copy(frames.pbc),
            energy=_copy(energy) if has_energy else None,
            forces=_copy(nodes(forces)).to(dtype) if has_forces else None,
            charge_stated=_copy(frames.charge_stated),
            num_slots=width if dense else 0,
            **weights,
        )
        if not dense:
            edge_index, edge_shifts = neighbor_list(
                _copy(nodes(frames.positions)),
                batch.n_atoms,
                cutoff,
                cell=_copy(frames.cell),
                pbc=batch.pbc,
                backend=neighbors,
            )
            shifts = None if edge_shifts is None else edge_shifts.to(dtype)
            batch = replace(batch, edge_index=edge_index, edge_shifts=shifts)
        return batch.to(device)

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        if torch.device(device) == self.positions.device:
            return self
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        moved: dict[str, Any] = {k: v.to(device) for k, v in values.items() if isinstance(v, Tensor)}
        return replace(self, **moved)

    def padded(self) -> Batch:
        """Open structures without labels in the dense layout: as it is, or from edges."""
        if self.num_slots:
            return self
        n, count = int(self.n_atoms.max()), self.num_structures
        first = self.n_atoms.cumsum(0) - self.n_atoms
        slot = torch.arange(len(self.batch), device=self.batch.device) + (n * self.batch - first[self.batch])
        return replace(
            self,
            positions=self.positions.new_zeros(count * n, 3).index_copy(0, slot, self.positions),
            atomic_numbers=self.atomic_numbers.new_zeros(count * n).index_copy(0, slot, self.atomic_numbers),
            batch=torch.arange(count, device=self.batch.device).repeat_interleave(n),
            energy=None,
            forces=None,
            energy_weight=None,
            force_weight=None,
            edge_index=None,
            edge_shifts=None,
            num_slots=n,
        )

    def unpad(self, x: Tensor) -> list[Tensor]:
        """Split a per-slot tensor (N, ...) into one (n_i, ...) tensor a structure, padding dropped."""
        sizes = self.n_atoms.tolist()
        if not self.num_slots:
            return list(torch.split(x, sizes))
        return [x[k * self.num_slots : k * self.num_slots + n] for k, n in enumerate(sizes)]
