"""A neighbour list with a skin: made for a cutoff somewhat longer, it serves until an atom has moved half of it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from equimd.data.batch import Batch
from equimd.data.neighbors import neighbor_list

SKIN = 1.0  # Angstrom


@dataclass(frozen=True)
class SkinList:
    """All pairs of some replicas that were closer than cutoff and skin.

    Attributes:
        made_for: (A, n, 3) positions, Angstrom, float64.
        cutoff: Angstrom, without the skin.
        edge_index: (2, E), row 0 the source j, row 1 the target i.
        edge_shifts: (E, 3) Angstrom added to r_j, float64; None for open systems.
    """

    made_for: Tensor
    cutoff: float
    edge_index: Tensor
    edge_shifts: Tensor | None

    @classmethod
    def make(cls, positions: Tensor, batch: Batch, cutoff: float) -> SkinList:
        """The list for positions (A, n, 3), on the device of ``batch``, which says what else the replicas are."""
        index, shifts = neighbor_list(
            positions.detach().reshape(-1, 3).cpu(),
            batch.n_atoms.cpu(),
            cutoff + SKIN,
            cell=batch.cell.cpu(),
            pbc=batch.pbc.cpu(),
        )
        device = batch.positions.device
        return cls(
            positions.detach().clone(), cutoff, index.to(device), None if shifts is None else shifts.double().to(device)
        )

    def valid(self, positions: Tensor) -> bool:
        """Whether no pair can have come within the cutoff that is not listed."""
        if self.made_for.shape != positions.shape:
            return False
        moved = (positions - self.made_for).square().sum(-1).max()
        return bool(moved <= (0.5 * SKIN) ** 2)

    def within(self, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """The pairs closer than the cutoff, as (2, E) and (E, 3).

        Those in the skin, two out of five, would contribute exactly zero, at the cost of the others.
        """
        x = positions.detach().reshape(-1, 3).to(self.edge_index.device)
        vectors = x.index_select(0, self.edge_index[0]) - x.index_select(0, self.edge_index[1])
        if self.edge_shifts is not None:
            vectors += self.edge_shifts
        near = (vectors.square().sum(1) < self.cutoff**2).nonzero().squeeze(1)
        shifts = None if self.edge_shifts is None else self.edge_shifts.index_select(0, near)
        return self.edge_index.index_select(1, near), shifts
