"""New labels absorbed by the readout, without training: the exact posterior of a linear model, moved on by them.

Over the features of all layers energies and forces are linear in the weights. With rows X and residuals r of new
labels at the trained weights w0, and what the training frames left of either,

    P' = P + X^T X / s^2,        w = w0 + P'^-1 (g + X^T r / s^2)

is what a fit to all frames would give (recursive least squares): laplace-torch's fit, gone on with. The model that
follows has the readout w over all features, where the trained one has its own over those of the last layer.
"""

from __future__ import annotations

import torch
from laplace.baselaplace import FullLaplace
from torch import Tensor, nn

from equimd.data.batch import Batch
from equimd.data.dataset import Dataset
from equimd.model.differentiable import DifferentiableModel
from equimd.model.interface import CHUNK, NetworkOutput, Rows
from equimd.uq.laplace import EnergyForceLaplace
from equimd.uq.rows import RowLoader


def absorb(fitted: EnergyForceLaplace, data: Dataset) -> None:
    """Go on with a fit: further labelled frames join those that it was made from, at the same noise and prior.

    Raises:
        UncertaintyError: no labels among them.
    """
    # FullLLLaplace.fit refuses override=False; where the last layer is known, that of the class beneath it is enough
    FullLaplace.fit(fitted, RowLoader(data, fitted.model.model), override=False)
    fitted._covariance = None


class ReadoutModel(DifferentiableModel):
    """A conservative model with another readout: E = features . w + sum_i E0(Z_i), features of all its layers.

    Args:
        base: copied, not changed.
        weights: w (P,), such as :meth:`~equimd.uq.laplace.EnergyForceLaplace.posterior_mean` of a fit to all layers.
    """

    def __init__(self, base: DifferentiableModel, weights: Tensor) -> None:
        super().__init__(base.elements, base.cutoff)
        self.base = base.converted()
        self.atomic_energies.copy_(base.atomic_energies)
        self.last_layer = nn.Linear(base.num_pooled, 1, bias=False, device=base.device, dtype=base.dtype)
        with torch.no_grad():
            self.last_layer.weight.copy_(weights[None])
        self.eval().requires_grad_(False)

    @property
    def sees_charge_spin(self) -> bool:
        return self.base.sees_charge_spin

    @property
    def pair_channels(self) -> int:
        return self.base.pair_channels

    def check(self, batch: Batch) -> None:
        self.base.check(batch)

    def outputs(self, positions: Tensor, batch: Batch, *, once: bool = False) -> NetworkOutput:
        features = self.base.outputs(positions, batch, once=once).features
        return NetworkOutput(self.last_layer(features).squeeze(-1), features)

    def rows(
        self, batch: Batch, *, width: int | None = None, directions: Tensor | None = None, chunk: int = CHUNK
    ) -> Rows:
        return self.base.rows(batch, width=width, directions=directions, chunk=chunk)
