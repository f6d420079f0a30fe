"""A deliberately small second model: sums of pair functions by elements, linear in all its weights. No e3nn."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from equimd.data.batch import Batch
from equimd.model.differentiable import DifferentiableModel, neighbors_within


class PairwiseModel(DifferentiableModel):
    """phi = sum over pairs of Gaussians of the distance, apart for each pair of elements, under a smooth envelope.

    Args:
        num_radial: Gaussians for each pair of elements.
    """

    def __init__(
        self, elements: Sequence[int], cutoff: float = 4.0, num_radial: int = 12, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(elements, cutoff)
        known = torch.zeros(119, dtype=torch.int64)
        known[list(elements)] = torch.arange(len(elements))
        self.num_kinds, self.width = len(elements) ** 2, cutoff / num_radial
        self.register_buffer("kinds", known.minimum(known[:, None]) * len(elements) + known.maximum(known[:, None]))
        self.register_buffer("centers", torch.linspace(0.6, cutoff, num_radial))
        self.last_layer = nn.Linear(self.num_kinds * num_radial, 1, bias=False)
        self.to(dtype)

    def pooled(self, positions: Tensor, batch: Batch) -> Tensor:
        pairs, numbers = neighbors_within(positions, batch, self.cutoff), batch.atomic_numbers
        envelope = (1 - (pairs.lengths / self.cutoff).square()) ** 3
        radial = torch.exp(-((pairs.lengths[:, None] - self.centers) / self.width).square()) * envelope[:, None]
        kind = self.kinds[numbers[pairs.source], numbers[pairs.target]]
        place = batch.batch[pairs.target] * self.num_kinds + kind
        sums = positions.new_zeros(batch.num_structures * self.num_kinds, len(self.centers)).index_add(0, place, radial)
        return sums.view(batch.num_structures, -1)
